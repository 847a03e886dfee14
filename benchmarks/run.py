"""`python -m benchmarks.run`: measure, print, and write `benchmarks/results/`.

Ratios are what counts: the machine may be noisy, so both sides of a ratio are measured in turn, several times.
"""

import argparse
import datetime as dt
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import load
from benchmarks.bench import FULL, QUICK, Bench
from benchmarks.machine import machine, slug
from benchmarks.measure import Row, Table
from benchmarks.render import markdown
from benchmarks.rows import cache, cold, footprint, hits, million, peers, precision, search, tables

RESULTS: Final = Path(__file__).resolve().parent / "results"

ROWS: Final[Mapping[str, Callable[[Bench], Sequence[Row]]]] = {
    "1": cold.throughput,
    "2": cold.throughput,
    "3": cold.one_caller,
    "4": cold.tail,
    "5": hits.exact,
    "6": precision.precision,
    "7a": peers.gptcache,
    "7b": peers.semantic_router,
    "8": search.search,
    "9": footprint.start,
    "10": footprint.resident,
    "11": footprint.rebuild,
    "12": cache.exact,
    "13": cache.verify,
    "14a": cache.throughput,
    "14b": cache.throughput,
    "15a": million.million,
    "15b": million.million,
    "15c": million.million,
}
LONG: Final = frozenset(("15a", "15b", "15c"))
"""Rows that take minutes: only when asked for, or quickly."""
TABLES: Final[Mapping[str, Callable[[Bench], Table]]] = {
    "lengths": tables.by_length,
    "ratios": tables.by_hit_ratio,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parse(arguments)
    names = options.only or [name for name in (*ROWS, *TABLES) if options.quick or name not in LONG]
    before = machine()
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as work:
        sizes = QUICK if options.quick else FULL
        if options.repeats:
            sizes = replace(sizes, repeats=options.repeats)
        bench = Bench(Path(work), sizes, options.prompts or (), options.fp32, options.peers)
        rows = [row for measure in _distinct(names) for row in _said(measure, bench) if row.number in names]
        found = [_table_said(name, bench) for name in TABLES if name in names]
    result = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "quick": options.quick,
        "machine": before,
        "load_generator": load.kind(),
        "data": bench.data,
        "sizes": asdict(sizes),
        "rows": [row.to_dict() for row in rows],
        "tables": [asdict(table) for table in found],
    }
    check(result)
    text = markdown(result)
    print(f"\n{text}")
    if options.output is not None:
        _write(options.output, result, text)


def check(result: Mapping[str, Any]) -> None:
    """Exit where a figure is none: what was measured is then not worth writing down."""
    for row in result["rows"]:
        if not row["skipped"] and not (row["values"] and all(0 < value < 1e6 for value in row["values"])):
            raise SystemExit(f"row {row['number']} has no sane figures: {row['values']}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see whether everything runs, with tiny counts")
    parser.add_argument(
        "--only", action="append", choices=[*ROWS, *TABLES], metavar="ROW", help=f"{', '.join((*ROWS, *TABLES))}"
    )
    parser.add_argument("--repeats", type=int, help="of each measurement")
    parser.add_argument(
        "--prompts",
        type=Path,
        action="append",
        metavar="FILE",
        help="prompts to use: JSON lines or one a line, may be gzipped; given several times, as many of each file",
    )
    parser.add_argument("--fp32", type=Path, help="the encoder exported with --precision fp32, for row 6")
    parser.add_argument("--peers", type=Path, help="the Python of an environment with the peers, for rows 7a and 7b")
    parser.add_argument("--output", type=Path, help="folder for the results; default: benchmarks/results, if complete")
    options = parser.parse_args(arguments)
    if options.output is None and not options.quick and not options.only:
        options.output = RESULTS
    return options


def _distinct(names: Sequence[str]) -> list[Callable[[Bench], Sequence[Row]]]:
    return list(dict.fromkeys(ROWS[name] for name in ROWS if name in names))


def _said(measure: Callable[[Bench], Sequence[Row]], bench: Bench) -> Sequence[Row]:
    started = time.perf_counter()
    rows = measure(bench)
    for row in rows:
        values = " ".join(f"{value:.3g}" for value in row.values)
        print(f"{row.number:>3} {row.title}: {row.verdict} {values or row.skipped}", flush=True)
    print(f"    ({time.perf_counter() - started:.0f} s)", flush=True)
    return rows


def _table_said(name: str, bench: Bench) -> Table:
    started = time.perf_counter()
    table = TABLES[name](bench)
    print(f"    {table.title} ({time.perf_counter() - started:.0f} s)", flush=True)
    return table


def _write(folder: Path, result: Mapping[str, Any], text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['date']}-{slug()}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "latest.md").write_text(text, encoding="utf-8")
    print(f"written: {path} and latest.md beside it")


if __name__ == "__main__":
    main()
