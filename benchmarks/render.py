"""From results to Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import TIMES

_MARKS = {"stretch": "✓✓", "pass": "✓", "fail": "✗", "skipped": "-"}


def markdown(result: Mapping[str, Any]) -> str:
    """Return a report of the results as they stand in their file."""
    machine = result["machine"]
    lines = [
        "# Measurements",
        "",
        f"Taken on {result['date']} by `python -m benchmarks.run{' --quick' if result['quick'] else ''}`.",
        "",
        *([_QUICK, ""] if result["quick"] else []),
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['cpu_flags']}",
        (
            f"- Python {machine['python']}, onnxruntime {machine['onnxruntime']}, faiss {machine['faiss-cpu']}, "
            f"grpcio {machine['grpcio']}; revision {machine['revision'] or 'unknown'}"
        ),
        f"- Load average before: {machine['load_before']}; {result['load_generator']} load generator on the same cores",
        f"- Prompts: {result['data']}",
        "",
        "The median of the repeats counts; for a ratio both sides are measured in turn and divided pair by pair.",
        "✓✓ reaches the stretch goal, ✓ the bar, ✗ neither.",
        "",
        *_table(
            ("", "measured", "median", "min to max", "repeats", "bar", "stretch", ""),
            [_row(row) for row in result["rows"]],
        ),
        "",
        "## Behind the rows",
        "",
    ]
    for row in result["rows"]:
        lines += [f"**{row['number']}. {row['title']}**: {row['skipped'] or _seen(row['seen'])}."]
        lines += [f"{row['note']}."] if row["note"] else []
        lines.append("")
    for table in result["tables"]:
        lines += [f"## {table['title']}", "", *_table(table["columns"], table["lines"]), "", table["note"], ""]
    return "\n".join(lines).rstrip() + "\n"


_QUICK = "**A quick run: it shows that everything runs, and its figures mean nothing.**"


def _row(row: Mapping[str, Any]) -> list[str]:
    sign = "≤" if row["stretch"] < row["bar"] else "≥"
    unit = row["unit"]
    spread = (
        [figure(row["value"], unit), f"{figure(row['min'])} to {figure(row['max'])}"] if row["values"] else ["", ""]
    )
    return [
        row["number"],
        row["title"],
        *spread,
        str(len(row["values"]) or ""),
        f"{sign} {figure(row['bar'], unit)}",
        f"{sign} {figure(row['stretch'], unit)}",
        _MARKS[row["verdict"]],
    ]


def _seen(seen: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {figure(value)}" for name, value in seen.items())


def _table(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> list[str]:
    rows = [columns, ["---"] * len(columns), *lines]
    return [f"| {' | '.join(figure(cell) for cell in row)} |" for row in rows]


def figure(value: object, unit: str = "") -> str:
    """Return a number with three digits that mean something, or a text as it is."""
    if not isinstance(value, float | int):
        return str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}{unit if unit == TIMES else f' {unit}' if unit else ''}"
