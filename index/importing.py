"""Importing: labelled data in other layouts becomes references.

Owns the layouts (`LAYOUTS`) and how a row of each is understood. Never unpickles, never guesses a
number, and never leaves a partial file: the output appears whole or not at all. Called by the
command `waypost import`.
"""

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from index.catalogue import Catalogue, did_you_mean
from index.errors import ReferenceError_
from index.records import Reference
from index.references import (
    KEYS,
    Problem,
    RowError,
    RowsError,
    check_output,
    claim_id,
    reference_from_row,
    write_references,
)
from index.tables import Row, Rows, open_table, to_amount, to_number
from index.text import canonical, digest

LAYOUTS = ("labels", "scores", "routerbench", "routellm", "log")
ROLES = (*KEYS, "model", "quality", "cost")
PROGRESS_ROWS = 1000
_PEEKED_ROWS = 100  # JSON lines have no header: what their columns are is told from so many
_BOOLEANS = {"true": 1.0, "false": 0.0}
_COMMON = ("id", "prompt", "messages", "category", "source", "note")
# What known sets call a role. `query` is the prompt where `prompt` is a few-shot prefix before it.
_OTHER_NAMES = {"id": "sample_id", "prompt": "query", "category": "eval_name", "source": "dataset"}
_USED = {
    "labels": ("best_model",),
    "scores": ("scores", "costs"),
    "routerbench": ("oracle_model_to_route_to",),
    "routellm": ("mixtral_score", "mixtral_response", "gpt4_response"),
    "log": ("model", "quality", "cost"),
}
_SUFFIXES = ("|total_cost", "|model_response", "_response")  # of columns beside a model's score
# RouteLLM's judged set: a judge rates the weak model's answer from 1 to 5 against the strong
# model's, which so stands at the top of the scale. The rows do not name the models; its paper does.
_JUDGED = "mixtral_score"
_JUDGED_STRONG = "gpt-4-1106-preview"
_JUDGED_WEAK = "mistralai/Mixtral-8x7B-Instruct-v0.1"
_JUDGED_SCALE = (1.0, 5.0)

_Cells = list[tuple[str, str, object]]  # model, column, value


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    `read` counts rows, `written` references. `unused` are columns that were not understood.
    `averaged` counts the pairs of prompt and model for which a log holds several calls.
    """

    layout: str
    output: Path
    read: int
    written: int
    skipped: list[Problem]
    unused: tuple[str, ...] = ()
    averaged: int = 0


@dataclass(slots=True)
class _Call:
    """All calls of a log for one prompt: qualities and costs by model."""

    place: tuple[Path, int]
    row: dict[str, Any]
    qualities: dict[str, list[float]] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)


@dataclass(slots=True)
class _Run:
    """What one import is told, and what it has seen so far."""

    catalogue: Catalogue | None
    columns: Mapping[str, str]
    scale: tuple[float, float] | None
    progress: Callable[[int], None]
    layout: str = ""
    read: int = 0
    averaged: int = 0
    problems: list[Problem] = field(default_factory=list)
    unused: dict[str, None] = field(default_factory=dict)
    places: dict[str, tuple[Path, int]] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    calls: dict[str, _Call] = field(default_factory=dict)


def import_rows(  # noqa: PLR0913 - each is an option of the command
    sources: Sequence[Path],
    layout: str,
    output: Path,
    catalogue: Catalogue | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    *,
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Convert files of labelled data into one file of references.

    Args:
        sources: `.jsonl`, `.csv` or `.tsv` files, each perhaps with `.gz` behind.
        layout: one of `LAYOUTS`, or "auto": told from the columns of the first file.
        output: the `.jsonl` or `.jsonl.gz` file to write.
        catalogue: resolves the names of models; without one they stay as they are.
        on_error: whether a wrong row ends in an error or is left out and listed.
        columns: for a role (of `ROLES`, or `score:` or `cost:` and a model) the column it is in.
        scale: lowest and highest score there can be, mapped to 0 and 1; otherwise 0 and 1.
        overwrite: whether an output that exists is replaced.
        progress: called with the rows read so far, about every `PROGRESS_ROWS` and at the end.

    Raises:
        RowsError: if rows are wrong and `on_error` is "fail", or no row is right.
        ReferenceError_: if a file or an option cannot be used.
    """
    _check_options(sources, layout, output, columns or {}, scale)
    if output.exists() and not overwrite:
        raise ReferenceError_(f"{output}: exists already; give another name, or say to overwrite")
    run = _Run(catalogue, columns or {}, scale, progress or (lambda _: None))
    run.layout = "" if layout == "auto" else layout
    written = write_references(output, _references(run, sources, on_error))
    return ImportReport(run.layout, output, run.read, written, run.problems, tuple(run.unused), run.averaged)


def _check_options(
    sources: Sequence[Path],
    layout: str,
    output: Path,
    columns: Mapping[str, str],
    scale: tuple[float, float] | None,
) -> None:
    """Raise ReferenceError_ for an option that can be seen to be wrong before reading."""
    if not sources:
        raise ReferenceError_("no file to import was given")
    if layout not in ("auto", *LAYOUTS):
        known = ", ".join(("auto", *LAYOUTS))
        raise ReferenceError_(f"layout {layout!r} is not known; it is one of {known}")
    check_output(output)
    for role in columns:
        if role not in ROLES and not role.startswith(("score:", "cost:")):
            known = f"{', '.join(ROLES)}, score:MODEL, cost:MODEL"
            raise ReferenceError_(f"column {role!r} is not known{did_you_mean(role, ROLES)}; it is one of {known}")
    if scale is not None and not (math.isfinite(scale[1] - scale[0]) and scale[0] < scale[1]):
        raise ReferenceError_(f"scale {scale[0]:g} to {scale[1]:g} must rise and be finite")


def _references(run: _Run, sources: Sequence[Path], on_error: str) -> Iterator[Reference]:
    """Yield the reference of each sound row; what is wrong is collected, and raised at the end."""
    written = 0
    for path in sources:
        models, rows = _opened(run, path)
        for line, row in rows:
            run.read += 1
            if run.read % PROGRESS_ROWS == 0:
                run.progress(run.read)
            with _noted(run, path, line):
                reference = _converted(run, row, models, (path, line))
                if reference is not None:
                    written += 1
                    yield reference
    for call in run.calls.values():
        with _noted(run, *call.place):
            yield _averaged(run, call)
            written += 1
    run.progress(run.read)
    if run.problems and (on_error == "fail" or not written):
        raise RowsError(run.problems)
    if not written:
        raise ReferenceError_(f"no rows in {', '.join(map(str, sources))}")


@contextmanager
def _noted(run: _Run, path: Path, line: int) -> Iterator[None]:
    """Turn the error of a row into a problem with its place, the column called as in the file."""
    try:
        yield
    except RowError as error:
        column = run.columns.get(error.field, error.field)
        run.problems.append(Problem(str(path), line, column, error.message))


def _opened(run: _Run, path: Path) -> tuple[tuple[str, ...], Rows]:
    """Return the models that are columns of a file, and its rows; settles the layout if open."""
    named, rows = open_table(path)
    peeked = list(islice(rows, _PEEKED_ROWS))
    sound = [row for _, row in peeked if not isinstance(row, RowError)]
    if peeked and not sound:  # not a file of this kind at all
        raise RowsError([Problem(str(path), line, "", str(fault)) for line, fault in peeked])
    header = named or list(dict.fromkeys(name for row in sound for name in row))
    for role, column in run.columns.items():
        if column not in header and sound:
            raise ReferenceError_(
                f"{path}: has no column {column!r} for {role}{did_you_mean(column, header)}; it has {', '.join(header)}"
            )
    roles = tuple(_by_role(run, dict.fromkeys(header, "-")))
    fitting = _fitting(roles, _by_role(run, sound[0] if sound else {}))
    if not run.layout and fitting:
        run.layout = fitting[0]
    if run.layout not in fitting and sound:
        fault = f"layout {run.layout!r} does not fit" if run.layout else "no layout fits"
        if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
            raise ReferenceError_(
                f"{path}: {fault}: its one column is {header[0]!r}; save it with commas, or tabs as .tsv"
            )
        raise ReferenceError_(
            f"{path}: {fault} its columns: {', '.join(header)}; the layouts are "
            f"{', '.join(LAYOUTS)}, and columns may be named by role, such as --column prompt=question"
        )
    models = _model_columns(run.layout, roles)
    used = {*_COMMON, *_USED.get(run.layout, ()), *models}
    used.update(f"{model}{suffix}" for model in models for suffix in _SUFFIXES)
    scored = ("score:", "cost:") if run.layout == "scores" else ()
    left = [name for name in roles if name not in used and not name.startswith(scored)]
    run.unused.update(dict.fromkeys(left))
    return models, chain(peeked, rows)


def _by_role(run: _Run, row: Row) -> dict[str, object]:
    """Return a row with its columns called by role; what a role was given hides its namesake."""
    names = {**_OTHER_NAMES, **run.columns}
    sources = {column: role for role, column in names.items()}
    found = {name: value for name, value in row.items() if name not in sources and name not in run.columns}
    for role, column in names.items():
        if row.get(column) not in (None, ""):
            found[role] = row[column]
    return found


def _fitting(roles: Sequence[str], sample: Row) -> list[str]:
    """Return the layouts that columns allow, the likeliest first."""
    if "prompt" not in roles and "messages" not in roles:
        return []
    flags = [str(sample.get(name)).lower() for name in _model_columns("routellm", roles)]
    fits = {
        "routerbench": bool(_model_columns("routerbench", roles)),
        "scores": "scores" in roles or any(name.startswith("score:") for name in roles),
        "labels": "best_model" in roles,
        "log": "model" in roles and "quality" in roles,
        "routellm": _JUDGED in roles or (bool(flags) and all(flag in _BOOLEANS for flag in flags)),
    }
    return [layout for layout, fit in fits.items() if fit]


def _model_columns(layout: str, roles: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that are named after a model and hold its score."""
    if layout == "routerbench":
        return tuple(name for name in roles if f"{name}|total_cost" in roles)
    if layout == "routellm" and _JUDGED not in roles:
        extra = {*_COMMON, *(f"{name}_response" for name in roles)}
        return tuple(name for name in roles if name not in extra)
    return ()


def _converted(run: _Run, row: Row | RowError, models: Sequence[str], place: tuple[Path, int]) -> Reference | None:
    """Return the reference of one row, or None if it is one of many calls to be averaged."""
    if isinstance(row, RowError):
        raise row
    cells = _by_role(run, row)
    found = _common(run, cells, place[0])
    if run.layout == "log":
        _add_call(run, cells, found, place)
        return None
    if run.layout == "labels":
        found["best_model"] = _stripped(cells.get("best_model"))
    else:
        scores, costs = _score_cells(run.layout, cells, models)
        scale = run.scale or (_JUDGED_SCALE if _JUDGED in cells else (0.0, 1.0))
        found["scores"] = _by_model(scores, lambda value, column: _score(value, column, scale))
        found["costs"] = _by_model(costs, to_amount)
        if not found["scores"]:
            raise RowError("scores", "are all absent from this row")
        if _JUDGED in cells:
            found["scores"] = {_JUDGED_STRONG: 1.0, **found["scores"]}
    return _identified(run, found, place)


def _common(run: _Run, cells: Row, path: Path) -> dict[str, Any]:
    """Return what all layouts have, as it stands in a reference."""
    found = {role: cells[role] for role in _COMMON if cells.get(role) not in (None, "")}
    if isinstance(found.get("id"), int) and not isinstance(found["id"], bool):
        found["id"] = str(found["id"])
    if run.layout == "routerbench":
        found["prompt"] = _unwrapped(found.get("prompt"))
    if run.layout in ("routerbench", "routellm"):
        source = found.get("source", run.layout)
        found["source"] = ", ".join(map(str, source)) if isinstance(source, list) else source
        subject = path.name.partition(".")[0]
        if subject.startswith("mmlu_"):
            found.setdefault("category", subject.removeprefix("mmlu_"))
    return found


def _unwrapped(prompt: object) -> object:
    """Return the text of a prompt that RouterBench holds as a list of turns, or as one's repr."""
    turns = prompt
    if isinstance(prompt, str) and prompt.startswith(("['", '["')):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            turns = ast.literal_eval(prompt)
    if isinstance(turns, list) and all(isinstance(turn, str) for turn in turns):
        return "\n".join(turns)
    return prompt


def _score_cells(layout: str, cells: Row, models: Sequence[str]) -> tuple[_Cells, _Cells]:
    """Return where a row holds scores and costs."""
    if layout != "scores":
        judged = [(_JUDGED_WEAK, _JUDGED, cells[_JUDGED])] if _JUDGED in cells else []
        scores = [(model, model, cells.get(model)) for model in models]
        costs = [(model, f"{model}|total_cost", cells.get(f"{model}|total_cost")) for model in models]
        return scores + judged, costs
    found: dict[str, _Cells] = {}
    for key, prefix in (("scores", "score:"), ("costs", "cost:")):
        given = cells.get(key)
        if given is not None and not isinstance(given, dict):
            raise RowError(key, "must be an object of models and numbers")
        found[key] = [(model, f"{key}.{model}", value) for model, value in (given or {}).items()]
        found[key] += [
            (name.removeprefix(prefix), name, value) for name, value in cells.items() if name.startswith(prefix)
        ]
    return found["scores"], found["costs"]


def _by_model(cells: _Cells, read: Callable[[object, str], float | None]) -> dict[str, float]:
    """Return the numbers of cells by model, without the holes."""
    numbers: dict[str, float] = {}
    for model, column, value in cells:
        number = read(value, column)
        if number is not None and model in numbers:
            raise RowError(column, f"holds {model!r} a second time")
        if number is not None:
            numbers[model] = number
    return numbers


def _score(value: object, column: str, scale: tuple[float, float]) -> float | None:
    """Return the score in a cell from 0 to 1; true is 1 and false 0 on any scale."""
    flag = _BOOLEANS.get(str(value).strip().lower()) if isinstance(value, str | bool) else None
    number = None if flag is not None else to_number(value, column)
    if flag is not None or number is None:
        return flag
    low, high = scale
    if not low <= number <= high:
        raise RowError(column, f"must be from {low:g} to {high:g}, not {number:g}; give the scale it is on")
    return (number - low) / (high - low)


def _identified(run: _Run, found: dict[str, Any], place: tuple[Path, int]) -> Reference:
    """Return the checked reference, with an id from its prompt if the row has none."""
    reference = reference_from_row({"id": "-", **found}, run.catalogue)
    if "id" not in found:
        turns = [part for turn in reference.messages[:-1] for part in (turn.role, turn.content)]
        name = digest((*turns, canonical(reference.prompt)), 12).hex()
        run.repeats[name] = run.repeats.get(name, 0) + 1
        suffix = f"-{run.repeats[name]}" if run.repeats[name] > 1 else ""
        reference = replace(reference, id=name + suffix)
    claim_id(reference.id, run.places, place)
    return reference


def _stripped(name: object) -> object:
    """Return a model's name without white space around it: after a comma many write one."""
    return name.strip() if isinstance(name, str) else name


def _add_call(run: _Run, cells: Row, found: dict[str, Any], place: tuple[Path, int]) -> None:
    """Add one call of a log to the others of the same prompt."""
    prompt, name = found.get("prompt"), _stripped(cells.get("model"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise RowError("prompt", "is missing")
    if not isinstance(name, str) or not name:
        raise RowError("model", "is missing")
    if run.catalogue is not None and name not in run.catalogue:
        raise RowError("model", run.catalogue.unknown(name))
    model = name if run.catalogue is None else run.catalogue.get(name).id
    quality = _score(cells.get("quality"), "quality", run.scale or (0.0, 1.0))
    if quality is None:
        raise RowError("quality", "is missing")
    cost = to_amount(cells.get("cost"), "cost")
    found.pop("id", None)  # names the call, not the prompt
    call = run.calls.setdefault(canonical(prompt), _Call(place, found))
    call.qualities.setdefault(model, []).append(quality)
    if cost is not None:
        call.costs.setdefault(model, []).append(cost)


def _averaged(run: _Run, call: _Call) -> Reference:
    """Return the reference of all calls for one prompt."""
    several = sum(len(qualities) > 1 for qualities in call.qualities.values())
    if several:
        run.averaged += several
        count = sum(map(len, call.qualities.values()))
        call.row.setdefault("note", f"averaged over {count} calls")
    call.row["scores"] = {model: fmean(values) for model, values in call.qualities.items()}
    call.row["costs"] = {model: fmean(values) for model, values in call.costs.items()}
    return _identified(run, call.row, call.place)
