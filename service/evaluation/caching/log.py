"""A log of prompts, with the answers they got or labels of the right ones: what a cache is evaluated on.

Owns the columns of a log and what is valid in a row; a row that is wrong is named by file, line and field. Files are
those `waypost import` reads: JSON lines, CSV, TSV, also gzipped.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from index.catalogue import did_you_mean
from index.errors import InputError
from index.references import Problem, RowError, RowsError
from index.tables import Row, open_table, to_amount, to_number
from service.convert.logged import check_answer, to_logged
from service.errors import InvalidRequest
from service.requests import Request

MAX_ROWS: Final = 50_000
"""The baselines look at every pair of rows."""
_MAX_BYTES: Final = 1 << 30
ROLES: Final = (
    "prompt",
    "messages",
    "answer",
    "label",
    "scope",
    "category",
    "context",
    "model",
    "cost",
    "seconds",
    "time",
)
# What logs also call these.
_OTHER_NAMES: Final = {
    "text": "prompt",
    "query": "prompt",
    "response": "answer",
    "cost_usd": "cost",
    "latency": "seconds",
    "timestamp": "time",
}
_CONTEXT: Final = ("system_prompt", "tools", "response_format", "sampling")
_LATEST: Final = 253_402_300_799  # the end of the year 9999
_SHORT: Final = 256
_EVERY: Final = 1_000


@dataclass(frozen=True, slots=True)
class Logged:
    """One call of the log. `answer` or `label` is not empty; `cost` in USD, `at` in seconds since the epoch."""

    place: str
    request: Request
    answer: str
    label: str
    category: str
    model: str
    cost: float | None
    seconds: float | None
    at: float | None

    @property
    def said(self) -> str:
        """What is stored for it: a label stands for an answer that nobody logged."""
        return self.answer or self.label


@dataclass(frozen=True, slots=True)
class Log:
    """What was read, in the order it happened, the rows that were left out, and the columns nobody asked for."""

    rows: list[Logged]
    skipped: list[Problem]
    unused: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        """Whether labels say what is right; else the answers do."""
        return bool(self.rows[0].label)

    @property
    def answered(self) -> bool:
        """Whether the answers are known."""
        return bool(self.rows[0].answer)

    @property
    def timed(self) -> bool:
        """Whether it is known when each call came."""
        return self.rows[0].at is not None


def read_log(
    paths: Sequence[Path],
    *,
    columns: Mapping[str, str],
    limit: int | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    progress: Callable[[int], None] = lambda _: None,
) -> Log:
    """Read a log; where its rows have times it comes in their order.

    Args:
        paths: `.jsonl`, `.csv` or `.tsv` files, each perhaps with `.gz` behind.
        columns: for a role (of `ROLES`) the column it is in.
        limit: read no more than so many rows.
        on_error: whether a wrong row ends in an error or is left out and listed.
        progress: called with the rows read so far.

    Raises:
        RowsError: rows are wrong and `on_error` is "fail".
        InputError: a file or an option cannot be used, no row is right, or there are too many.
    """
    for role in columns:
        if role not in ROLES:
            raise InputError(f"--column: {role!r} is none of {', '.join(ROLES)}{did_you_mean(role, ROLES)}")
    rows: list[Logged] = []
    problems: list[Problem] = []
    unused: dict[str, None] = {}
    size = 0
    for path, line, row in _lines(paths, columns):
        if limit is not None and len(rows) >= limit:
            break
        try:
            found = _logged(_by_role(row, columns, unused), f"{path}:{line}", rows[0] if rows else None)
        except RowError as error:
            problems.append(Problem(str(path), line, columns.get(error.field, error.field), error.message))
            continue
        rows.append(found)
        size += len(found.request.text) + len(found.answer)
        _check_size(path, len(rows), size)
        if not len(rows) % _EVERY:
            progress(len(rows))
    if problems and (on_error == "fail" or not rows):
        raise RowsError(problems)
    if not rows:
        raise InputError(f"no rows in {', '.join(map(str, paths))}")
    return Log(sorted(rows, key=lambda row: row.at or 0.0), problems, tuple(unused))


def _lines(paths: Sequence[Path], columns: Mapping[str, str]) -> Iterator[tuple[Path, int, Row | RowError]]:
    for path in paths:
        named, table = open_table(path)
        _check_columns(path, named, columns)
        yield from ((path, line, row) for line, row in table)


def _check_columns(path: Path, named: Sequence[str], columns: Mapping[str, str]) -> None:
    for role, column in columns.items():
        if named and column not in named:
            raise InputError(
                f"{path}: has no column {column!r} for {role}{did_you_mean(column, named)}; it has {', '.join(named)}"
            )


def _check_size(path: Path, rows: int, size: int) -> None:
    if rows > MAX_ROWS:
        raise InputError(f"{path}: more than {MAX_ROWS:,} rows; --limit plays only the first so many")
    if size > _MAX_BYTES:
        raise InputError(f"{path}: more than {_MAX_BYTES >> 30} GiB of prompts and answers; --limit plays fewer rows")


def _by_role(row: Row | RowError, columns: Mapping[str, str], unused: dict[str, None]) -> dict[str, Any]:
    """Return a row's cells by role; what a role was given hides its namesakes."""
    if isinstance(row, RowError):
        raise row
    asked = {column: role for role, column in columns.items()}
    found: dict[str, Any] = {}
    for column, value in row.items():
        role = asked.get(column) or (column if column in ROLES else _OTHER_NAMES.get(column, ""))
        taken = role in found and column != role
        if not role or taken or (role in columns and column not in asked):
            unused[column] = None
        elif value not in (None, ""):
            found[role] = value
    return found


def _logged(cells: Mapping[str, Any], place: str, first: Logged | None) -> Logged:
    """Return a call, which has all that the first has of what a log has throughout."""
    texts = {role: _text(cells, role) for role in ("prompt", "answer", "label", "scope", "category", "model")}
    if not texts["answer"] and not texts["label"]:
        raise RowError("answer", "is missing; give the answer, or a label of the right one")
    context, extra = _context(cells.get("context"))
    try:
        request = to_logged(texts["scope"], texts["prompt"], _messages(cells.get("messages")), context, extra)
        answer = check_answer(texts["answer"])
    except InvalidRequest as error:
        raise RowError(*error.violations[0]) from None
    found = Logged(
        place,
        request,
        answer,
        texts["label"],
        texts["category"],
        texts["model"],
        to_amount(cells.get("cost"), "cost"),
        to_amount(cells.get("seconds"), "seconds", "seconds"),
        _time(cells.get("time")),
    )
    for role in ("answer", "label", "at"):
        there, wanted = (getattr(one, role) not in (None, "") for one in (found, first or found))
        if there != wanted:
            fault = "is missing, and other rows have one" if wanted else "is there, and other rows have none"
            raise RowError("time" if role == "at" else role, fault)
    return found


def _text(cells: Mapping[str, Any], role: str) -> str:
    value = cells.get(role, "")
    if role != "prompt" and isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value}"  # a label may be a number
    if not isinstance(value, str):
        raise RowError(role, "must be text")
    size = _bytes(role, value)
    if role in ("label", "category", "model") and size > _SHORT:
        raise RowError(role, f"has {size:,} bytes, more than {_SHORT}")
    return value


def _bytes(role: str, text: str) -> int:
    """Return how many bytes a text has, which must be sound."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise RowError(role, f"is not sound Unicode: half a surrogate pair at character {error.start + 1}") from None


def _messages(value: object) -> list[tuple[str, str]]:
    if value is None:
        return []
    if not isinstance(value, list) or not value:
        raise RowError("messages", "must be a list of {role, content} objects")
    turns = []
    for i, turn in enumerate(value):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise RowError(f"messages[{i}]", "must be an object with the texts role and content")
        _bytes(f"messages[{i}]", turn["role"] + turn["content"])
        turns.append((turn["role"], turn["content"]))
    return turns


def _context(value: object) -> tuple[dict[str, str], dict[str, str]]:
    """Return the context's fields and its extra; a mere text is a system prompt."""
    if value is None:
        return {}, {}
    if isinstance(value, str):
        _bytes("context", value)
        return {"system_prompt": value}, {}
    if not isinstance(value, dict):
        raise RowError("context", f"must be a text, or an object of {', '.join(_CONTEXT)} and extra")
    extra = value.get("extra") or {}
    given = {name: text for name, text in value.items() if name != "extra" and text is not None}
    if wrong := [name for name in given if name not in _CONTEXT]:
        raise RowError(f"context.{wrong[0]}", f"is none of {', '.join(_CONTEXT)}, extra")
    if not isinstance(extra, dict):
        raise RowError("context.extra", "must be an object of texts")
    for name, text in (*given.items(), *extra.items()):
        if not isinstance(text, str):
            raise RowError(f"context.{name}", "must be text")
        _bytes(f"context.{name}", name + text)
    return given, extra


def _time(value: object) -> float | None:
    """Return a time in seconds since the epoch: a number, or a date and time by ISO 8601, UTC where it does not say."""
    if isinstance(value, str) and value.strip():
        with suppress(ValueError):
            when = datetime.fromisoformat(value.strip())
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    try:
        seconds = to_number(value, "time")
    except RowError:
        seconds = math.nan
    if seconds is not None and not 0 <= seconds <= _LATEST:
        fault = "must be seconds since 1970, or a date and time such as 2026-05-01T12:00:00Z"
        raise RowError("time", f"{fault}, not {str(value)[:40]!r}")
    return seconds
