"""Answers with outcomes: what an acceptor is fitted on, as rows of JSON lines.

    {"prompt": "What is 2 + 3?", "answer": "5", "model": "small", "correct": 1}

Owns the format of a row. Read by `waypost build-index --answers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.catalogue import Catalogue
from index.references import MAX_PROMPT_BYTES, Problem, RowError, RowsError, parse_line, source_files, source_lines

MAX_ANSWER_BYTES = 4 << 20
_KEYS = ("prompt", "answer", "model", "correct")


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One answer of one model, and whether it was right. It may be empty: that is a failure to learn from."""

    prompt: str
    answer: str
    model: str
    correct: bool


def read_judged(paths: Sequence[Path], catalogue: Catalogue) -> list[JudgedAnswer]:
    """Read answers from `.jsonl` or `.jsonl.gz` files or folders of them; aliases of models become ids.

    Raises:
        RowsError: rows are wrong; names file, line and field of each.
        ReferenceError_: a file cannot be read.
    """
    found: list[JudgedAnswer] = []
    problems: list[Problem] = []
    for path in source_files(paths):
        for line, raw in source_lines(path):
            if not raw or raw.isspace():
                continue
            try:
                found.append(_judged(parse_line(raw), catalogue))
            except RowError as error:
                problems.append(Problem(str(path), line, error.field, error.message))
    if problems:
        raise RowsError(problems)
    return found


def _judged(row: Any, catalogue: Catalogue) -> JudgedAnswer:
    if not isinstance(row, dict):
        raise RowError("", 'must be an object such as {"prompt": …, "answer": …, "model": …, "correct": 1}')
    if missing := [key for key in _KEYS if key not in row]:
        raise RowError(missing[0], "is missing; a row has prompt, answer, model and correct")
    prompt, answer, name, correct = (row[key] for key in _KEYS)
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt.encode(errors="replace")) > MAX_PROMPT_BYTES:
        raise RowError("prompt", f"must be text of 1 to {MAX_PROMPT_BYTES:,} bytes")
    if not isinstance(answer, str) or len(answer.encode(errors="replace")) > MAX_ANSWER_BYTES:
        raise RowError("answer", f"must be text of at most {MAX_ANSWER_BYTES:,} bytes")
    model = catalogue.resolve(name) if isinstance(name, str) else None
    if model is None:
        raise RowError("model", catalogue.unknown(str(name)))
    if not isinstance(correct, int) or correct not in {0, 1}:
        raise RowError("correct", f"must be 1 (right) or 0 (wrong), not {correct!r}")
    return JudgedAnswer(prompt, answer, model, bool(correct))
