"""References: labelled prompts, as rows of JSON lines.

Owns the format of a row, what is valid in it, and how a file of rows is read and written. Never
guesses: a row is right, or the error names file, line and field. Called by the builder at each
build, by the importer, and by the service for references that are added while it runs.
"""

import gzip
import json
import os
import secrets
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from index.catalogue import Catalogue, did_you_mean
from index.errors import ReferenceError_
from index.records import MAX_COST_USD, Message, Reference
from index.text import canonical

MAX_ID_BYTES = 256
MAX_PROMPT_BYTES = 1 << 20
SHOWN_PROBLEMS = 20
_TEXTS = ("category", "source", "note")
KEYS = ("id", "prompt", "best_model", "scores", "costs", "messages", *_TEXTS)
_KNOWN = frozenset(KEYS)
# Shared by all rows without scores or costs: two empty dicts a row are 64 MB in 500,000 rows.
_NONE: Mapping[str, float] = {}
_NUMBERS = (float, int)  # and no bool, which is an int to isinstance
_UNSOUND = f"a model's name has 1 to {MAX_ID_BYTES} bytes that can be printed"
_BOM = b"\xef\xbb\xbf"
_ASKING = ("user", "tool")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one row; `line` counts from 1, `field` may be empty."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        parts = (f"{self.file}:{self.line}", self.field, self.message)
        text = ": ".join(part for part in parts if part).replace("\n", "\\n")
        return text.encode(errors="backslashreplace").decode()


class RowError(ReferenceError_):
    """A row is not a reference; `field` names where in the row, and is empty for all of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class RowsError(ReferenceError_):
    """Some rows are not references; `problems` holds all, the text shows the first."""

    def __init__(self, problems: list[Problem]) -> None:
        count = len(problems)
        lines = [f"{count} {'row is' if count == 1 else 'rows are'} wrong:"]
        lines += map(str, problems[:SHOWN_PROBLEMS])
        if count > SHOWN_PROBLEMS:
            lines.append(f"and {count - SHOWN_PROBLEMS} more")
        super().__init__("\n".join(lines))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class ReferenceFile:
    """What was read: the references in the order of the files, and the rows left out."""

    references: list[Reference]
    skipped: list[Problem] = field(default_factory=list)
    files: tuple[Path, ...] = ()


def read_references(
    paths: Sequence[Path],
    catalogue: Catalogue,
    *,
    on_error: Literal["fail", "skip"] = "fail",
) -> ReferenceFile:
    """Read references from files and folders.

    Args:
        paths: `.jsonl` or `.jsonl.gz` files, or folders: all such files below, sorted by path.
        catalogue: says which models there are; aliases are resolved to ids.
        on_error: whether a wrong row ends in an error or is left out and listed.

    Raises:
        RowsError: if rows are wrong and `on_error` is "fail".
        ReferenceError_: if a file cannot be read to its end, or nothing is in any of them.
    """
    files = source_files(paths)
    references: list[Reference] = []
    problems: list[Problem] = []
    places: dict[str, tuple[Path, int]] = {}
    for path in files:
        for line, raw in source_lines(path):
            if not raw or raw.isspace():
                continue
            try:
                reference = reference_from_row(parse_line(raw), catalogue)
                claim_id(reference.id, places, (path, line))
            except RowError as error:
                problems.append(Problem(str(path), line, error.field, error.message))
            else:
                references.append(reference)
    if problems and on_error == "fail":
        raise RowsError(problems)
    if not references and not problems:
        raise ReferenceError_(f"no references in {', '.join(map(str, paths))}: no rows there")
    return ReferenceFile(references, problems, tuple(files))


def claim_id(name: str, places: dict[str, tuple[Path, int]], place: tuple[Path, int]) -> None:
    """Note the file and line an id stands at; raises RowError if it stands elsewhere already."""
    earlier = places.setdefault(name, place)
    if earlier is not place:
        raise RowError("id", f"{name!r} is already the id of the row at {earlier[0]}:{earlier[1]}")


def source_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that paths stand for, each once."""
    files: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            found = sorted(child for child in path.rglob("*.jsonl*") if _is_rows(child))
            if not found:
                raise ReferenceError_(f"{path}: no .jsonl or .jsonl.gz file in this folder")
        elif not path.exists():
            raise ReferenceError_(f"{path}: does not exist")
        elif not _is_rows(path):
            raise ReferenceError_(f"{path}: references end in .jsonl or .jsonl.gz; waypost import converts others")
        else:
            found = [path]
        for file in found:
            files.setdefault(file.resolve(), file)
    if not files:
        raise ReferenceError_("no file of references was given")
    return list(files.values())


def _is_rows(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz")) and not path.is_dir()


def source_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the bytes of each line; `.gz` is unpacked, a BOM removed.

    Raises:
        ReferenceError_: if the file is UTF-16, gzipped under another name, or cannot be read to its end; skipping rows
            cannot help there.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                if number == 1 and raw.startswith(_UTF_16):
                    raise ReferenceError_(f"{path}: is UTF-16; save it as UTF-8, for example with iconv -f UTF-16")
                if number == 1 and raw.startswith(_GZIP):
                    raise ReferenceError_(f"{path}: is gzipped; unpack it, or name it {path.name}.gz")
                yield number, raw.removeprefix(_BOM) if number == 1 else raw
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        place = f" after line {number}" if number else ""
        raise ReferenceError_(f"{path}: cannot be read{place}: {reason}") from error


def parse_line(raw: bytes) -> object:
    """Return the value of one line of JSON; raises RowError with what is wrong and where."""
    try:
        return _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise RowError("", f"is not UTF-8: {error.reason} at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        column = min(error.pos, len(error.doc.rstrip())) + 1
        raise RowError("", f"is not valid JSON: {error.msg} at column {column}") from None
    except (ValueError, RecursionError) as error:
        raise RowError("", f"is not valid JSON: {error}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON has; leave the value out")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return row


_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False)
_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique_keys)


def reference_from_row(row: object, catalogue: Catalogue | None) -> Reference:
    """Return the reference that a row, a parsed JSON object, describes; null means absent.

    Args:
        row: the object, with keys of `KEYS`.
        catalogue: resolves models to ids; without one, any name stands as it is.

    Raises:
        RowError: with the first thing that is wrong and the field it is in.
    """
    if not isinstance(row, dict):
        raise RowError("", f"must be a JSON object, not {_kind(row)}")
    if not row.keys() <= _KNOWN:
        unknown = next(key for key in row if key not in _KNOWN)
        remedy = did_you_mean(unknown, KEYS) or "; `waypost import` makes references of rows that have others"
        raise RowError(unknown, f"is not a key of a reference{remedy}")
    messages = _messages(row["messages"]) if row.get("messages") is not None else ()
    if messages and row.get("prompt") is not None:
        raise RowError("prompt", "stands beside messages; give one of them")
    best, scores = row.get("best_model"), row.get("scores")
    if (best is None) == (scores is None):
        fault = "is missing; give best_model or scores" if best is None else "stands beside scores"
        raise RowError("best_model", fault)
    return Reference(
        id=_text(row, "id", MAX_ID_BYTES),
        prompt=messages[-1].content if messages else _text(row, "prompt", MAX_PROMPT_BYTES),
        best_model="" if best is None else _model(best, catalogue),
        scores=_NONE if scores is None else _scores(scores, catalogue),
        costs=_costs(row["costs"], catalogue) if row.get("costs") is not None else _NONE,
        messages=messages,
        **{key: sys.intern(_text(row, key)) for key in _TEXTS if row.get(key) not in (None, "")},
    )


def _text(row: Mapping[str, Any], key: str, limit: int = MAX_PROMPT_BYTES, prefix: str = "") -> str:
    """Return a text of a row that must be there, not blank, sound Unicode and within the limit."""
    value = row.get(key)
    if type(value) is str and value and not value.isspace():
        if value.isascii() and len(value) <= limit:
            return value
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            fault = (
                f"is not sound Unicode: a byte that is not UTF-8, or half a surrogate, at character {error.start + 1}"
            )
        else:
            if size <= limit:
                return value
            fault = f"has {size} bytes, more than {limit}"
    elif value is None:
        fault = "is missing"
    else:
        fault = "is blank" if isinstance(value, str) else f"must be text, not {_kind(value)}"
    raise RowError(prefix + key, fault)


def _messages(value: object) -> tuple[Message, ...]:
    """Return the turns of a conversation; only the last must say something."""
    if not isinstance(value, list) or not value:
        raise RowError("messages", "must be a list of at least one {role, content} object")
    turns = []
    for number, turn in enumerate(value):
        place = f"messages[{number}]"
        if not isinstance(turn, dict):
            raise RowError(place, f"must be a {{role, content}} object, not {_kind(turn)}")
        if unknown := sorted(turn.keys() - {"role", "content"}):
            raise RowError(f"{place}.{unknown[0]}", "is not a key of a message")
        role = sys.intern(_text(turn, "role", MAX_ID_BYTES, f"{place}."))
        silent = turn.get("content") == "" and number < len(value) - 1
        content = "" if silent else _text(turn, "content", MAX_PROMPT_BYTES, f"{place}.")
        turns.append(Message(role, content))
    if turns[-1].role not in _ASKING:
        fault = f"is {turns[-1].role!r}, but the last turn is what is asked: of the role user or tool"
        raise RowError(f"messages[{len(turns) - 1}].role", fault)
    return tuple(turns)


def _model(name: object, catalogue: Catalogue | None) -> str:
    """Return the id of the model that is called so."""
    if not isinstance(name, str) or not name:
        fault = "is blank" if name == "" else f"must be the name of a model, not {_kind(name)}"
        raise RowError("best_model", fault)
    model = _named(name) if catalogue is None else catalogue.resolve(name)
    if model is None:
        raise RowError("best_model", catalogue.unknown(name) if catalogue else _UNSOUND)
    return model


def _named(name: str) -> str | None:
    """Return a model's name that no catalogue can vouch for, or None if none could have it."""
    sound = 0 < len(name.encode(errors="ignore")) <= MAX_ID_BYTES and name.isprintable()
    return sys.intern(name) if sound else None


def _scores(value: object, catalogue: Catalogue | None) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise RowError("scores", "must be an object of at least one model and its score")
    scores: dict[str, float] = {}
    for name, score in value.items():
        model = _named(name) if catalogue is None else catalogue.resolve(name)
        if model is None or model in scores:
            raise _model_fault("scores", name, catalogue)
        if type(score) not in _NUMBERS or not 0 <= score <= 1:
            raise RowError(f"scores.{name}", f"must be a number from 0 to 1, not {_shown(score)}")
        scores[model] = float(score)
    return scores


def _costs(value: object, catalogue: Catalogue | None) -> Mapping[str, float]:
    if not isinstance(value, dict):
        raise RowError("costs", f"must be an object of models and USD, not {_kind(value)}")
    costs: dict[str, float] = {}
    for name, cost in value.items():
        model = _named(name) if catalogue is None else catalogue.resolve(name)
        if model is None or model in costs:
            raise _model_fault("costs", name, catalogue)
        if cost is None:
            continue
        if type(cost) not in _NUMBERS or not 0 <= cost <= MAX_COST_USD:
            raise RowError(f"costs.{name}", f"must be USD from 0 to {MAX_COST_USD:,}, not {_shown(cost)}")
        costs[model] = float(cost)
    return costs or _NONE


def _model_fault(place: str, name: str, catalogue: Catalogue | None) -> RowError:
    """Return what is wrong with the name of a model in scores or costs."""
    known = _named(name) if catalogue is None else catalogue.resolve(name)
    if known is not None:
        return RowError(f"{place}.{name}", f"stands for {known!r}, which is there already")
    return RowError(f"{place}.{name}", catalogue.unknown(name) if catalogue else _UNSOUND)


def _kind(value: object) -> str:
    """Return what JSON calls the kind of a value."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _shown(value: object) -> str:
    """Return a number or boolean as it was written, and of anything else the kind."""
    return json.dumps(value)[:40] if isinstance(value, int | float) else _kind(value)


def reference_to_row(reference: Reference) -> dict[str, object]:
    """Return the row of a reference: its keys in the order of `KEYS`, without those absent."""
    return {
        key: value
        for key, value in (
            ("id", reference.id),
            ("prompt", "" if reference.messages else reference.prompt),
            ("best_model", reference.best_model),
            ("scores", dict(sorted(reference.scores.items()))),
            ("costs", dict(sorted(reference.costs.items()))),
            ("category", reference.category),
            ("messages", [{"role": m.role, "content": m.content} for m in reference.messages]),
            ("source", reference.source),
            ("note", reference.note),
        )
        if value
    }


def check_output(path: Path) -> None:
    """Raise ReferenceError_ where references that are written to a path could not be read from there later."""
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ReferenceError_(f"{path}: must end in .jsonl or .jsonl.gz to be read later")


def write_references(path: Path, references: Iterable[Reference]) -> int:
    """Write references as JSON lines, gzip-packed if the path ends so, and return how many.

    The same references give the same bytes. The file appears whole or not at all: it is written
    beside, flushed to the disk and renamed; an error of the iterable leaves nothing behind.

    Raises:
        ReferenceError_: if the file cannot be written.
    """
    count = 0
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            with _packed(file) if path.suffix == ".gz" else nullcontext(file) as lines:
                for count, reference in enumerate(references, 1):  # noqa: B007 - it is returned
                    lines.write(_ENCODER.encode(reference_to_row(reference)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ReferenceError_(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # gone after the rename, or never there
            temporary.unlink()
    return count


def _packed(file: BinaryIO) -> gzip.GzipFile:
    """Return a gzip stream whose bytes depend on the content alone: no name, no time."""
    return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)


def warnings(references: Sequence[Reference]) -> list[str]:
    """Return what makes a whole set of references poor ground for routing, a sentence each."""
    found = []
    scores = {score for reference in references for score in reference.scores.values()}
    if len(scores) == 1 and all(reference.scores for reference in references):
        found.append(f"all scores are {scores.pop():g}: they do not tell the models apart")
    elif references:
        winners = set.union(*map(_winners, references))
        if len(winners) == 1:  # where another is as good, it may be the cheaper one
            found.append(f"no reference knows a model as good as {winners.pop()}: nothing to route")
    same: dict[object, list[Reference]] = {}
    for reference in references:
        text = canonical(reference.prompt)
        key = (text, reference.messages[:-1]) if reference.messages else text
        same.setdefault(key, []).append(reference)
    torn = [group for group in same.values() if len(group) > 1 and not set.intersection(*map(_winners, group))]
    if torn:
        examples = "; ".join(
            f"{_start(group[0].prompt)!r} ({', '.join(r.id for r in group[:4])})" for group in torn[:3]
        )
        noun = "prompt stands" if len(torn) == 1 else "prompts stand"
        found.append(f"{len(torn)} {noun} with labels that contradict each other: {examples}")
    return found


def _winners(reference: Reference) -> set[str]:
    """Return the models no other does better than, by this reference."""
    if reference.best_model:
        return {reference.best_model}
    top = max(reference.scores.values(), default=0.0)
    return {model for model, score in reference.scores.items() if score == top}


def _start(text: str, size: int = 60) -> str:
    return text if len(text) <= size else f"{text[: size - 3]}..."
