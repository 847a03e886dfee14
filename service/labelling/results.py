"""Prompts to label, and the append-only file of what was answered and scored.

Each line of the file is one paid call, written before anything is made of it: a run that is killed, and comes again,
pays for none of them twice. Only what a kill cut off in the middle of a line is lost.
"""

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from index.errors import InputError
from index.records import Message, Reference
from index.text import canonical

Call = tuple[str, str]
"""(prompt id, model)"""


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """A prompt to label; `expected` is an ideal answer, where one is known."""

    id: str
    messages: tuple[Message, ...]
    expected: str = ""
    category: str = ""

    @property
    def prompt(self) -> str:
        """Its last turn."""
        return self.messages[-1].content

    @property
    def digest(self) -> str:
        """Of what is asked: an answer to anything else is no answer to it."""
        return _digest([[m.role, m.content] for m in self.messages])

    def basis(self, scoring: str) -> str:
        """Return what a score rests on besides the answer: how it was scored, and against what."""
        return _digest([scoring, self.expected])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def read_prompts(paths: Sequence[Path]) -> list[Unlabelled]:
    """Return the prompts of files: one a line in .txt, or JSON lines (also .gz) with prompt or messages.

    Raises:
        InputError: naming file, line and what is wrong.
    """
    found: dict[str, Unlabelled] = {}
    for path in paths:
        try:
            with (
                gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file
            ):
                for number, line in enumerate(file, 1):
                    if line.strip():
                        one = _prompt(line, f"{path}:{number}", text=path.suffix == ".txt")
                        if found.setdefault(one.id, one) != one:
                            raise InputError(f"{path}:{number}: id {one.id!r} stands for another prompt as well")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
    if not found:
        raise InputError("no prompts: give a .txt file with one a line, or JSON lines with `prompt` or `messages`")
    return list(found.values())


def _prompt(line: str, place: str, *, text: bool) -> Unlabelled:
    try:
        row: Any = {"prompt": line.strip()} if text else json.loads(line)
        if not isinstance(row, dict):
            raise TypeError("is no JSON object")
        turns = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
        messages = tuple(Message(str(turn["role"]), turn["content"]) for turn in turns)
        if not all(isinstance(m.content, str) for m in messages) or not canonical(messages[-1].content):
            raise TypeError("the prompt is empty or no text")
    except KeyError as error:
        raise InputError(
            f"{place}: {error.args[0]}: is missing; give prompt, or messages of role and content"
        ) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{place}: {error}") from None
    one = Unlabelled("", messages, str(row.get("expected") or ""), str(row.get("category") or ""))
    return replace(one, id=str(row.get("id") or one.digest))


@dataclass(slots=True)
class Results:
    """What was answered and scored so far, and the file it is appended to.

    `spent` is everything paid, in USD; `asked` and `bases` are what answers answer and what scores rest on.
    """

    path: Path
    answers: dict[Call, str] = field(default_factory=dict)
    scores: dict[Call, float] = field(default_factory=dict)
    costs: dict[Call, float] = field(default_factory=dict)
    failures: dict[Call, str] = field(default_factory=dict)
    asked: dict[Call, str] = field(default_factory=dict)
    bases: dict[Call, str] = field(default_factory=dict)
    spent: float = 0.0
    _file: BinaryIO | None = None

    def keep_to(self, prompts: Sequence[Unlabelled], scoring: str) -> None:
        """Leave aside answers to what is not asked any more, and scores that were given in another way."""
        wanted = {one.id: (one.digest, one.basis(scoring)) for one in prompts}
        for call, asked in self.asked.items():
            digest, basis = wanted.get(call[0], ("", ""))
            if asked != digest:
                self.answers.pop(call, None)
            if asked != digest or self.bases.get(call) != basis:
                self.scores.pop(call, None)

    def answered(self, call: Call, content: str, cost_usd: float, **more: object) -> None:
        """Write down an answer."""
        self._write({"prompt": call[0], "model": call[1], "answer": content, "cost_usd": cost_usd, **more})

    def scored(self, call: Call, score: float, cost_usd: float, **more: object) -> None:
        """Write down a score, and what the judge cost."""
        self._write({"prompt": call[0], "model": call[1], "score": score, "cost_usd": cost_usd, **more})

    def failed(self, call: Call, why: str, cost_usd: float = 0.0) -> None:
        """Write down that no answer, or no score, could be had: another run tries again."""
        self._write({"prompt": call[0], "model": call[1], "failed": why, "cost_usd": cost_usd})

    def _write(self, row: dict[str, object]) -> None:
        if self._file is None:
            raise ValueError("the file is not open")
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self._take(row)

    def _take(self, row: Any) -> None:
        call = (row["prompt"], row["model"])
        self.spent += row["cost_usd"]
        if "answer" in row:
            self.answers[call], self.costs[call] = row["answer"], row["cost_usd"]
            self.asked[call] = row["asked"]
            self.scores.pop(call, None)
            self.failures.pop(call, None)
        elif "score" in row:
            self.scores[call], self.bases[call] = row["score"], row["basis"]
            self.failures.pop(call, None)
        else:
            self.failures[call] = row["failed"]


@contextlib.contextmanager
def results_in(path: Path) -> Iterator[Results]:
    """Yield the results of a file, to be gone on with; nobody else may write it meanwhile.

    Raises:
        InputError: the file cannot be written, is in use, or holds something else.
    """
    found = Results(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{path}: another run is writing it: wait, or give another --results") from None
            _load(found, file)
            found._file = file  # noqa: SLF001 - only here, once it is locked
            yield found
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _load(found: Results, file: BinaryIO) -> None:
    file.seek(0)
    whole = 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            break  # a run was killed while it wrote this
        try:
            found._take(json.loads(line))  # noqa: SLF001 - of one module
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{found.path}:{number}: is no result of this command ({error!r})") from None
        whole += len(line)
    file.truncate(whole)


def to_references(prompts: Sequence[Unlabelled], results: Results, source: str) -> list[Reference]:
    """Return a reference for every prompt for which at least two models were scored, with what each cost."""
    scored: dict[str, dict[str, float]] = {}
    for (prompt, model), score in results.scores.items():
        scored.setdefault(prompt, {})[model] = score
    return [
        Reference(
            one.id,
            one.prompt,
            scores=scored[one.id],
            costs={model: results.costs[one.id, model] for model in scored[one.id] if (one.id, model) in results.costs},
            messages=one.messages if len(one.messages) > 1 else (),
            category=one.category,
            source=source,
        )
        for one in prompts
        if len(scored.get(one.id, {})) > 1
    ]
