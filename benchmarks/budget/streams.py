"""Streams of prompts whose right answers are known, in random orders.

DATA is a folder with `banking77`, `qqp` and `arena_hard_v2` as compressed JSON lines: see docs/benchmarks.md.
"""

import gzip
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from index.text import canonical

_QQP_LENGTH: Final = 10_000


@dataclass(frozen=True, slots=True)
class Stream:
    """Prompts in the order they come, and the right answer to each, by a name."""

    prompts: list[str]
    answers: list[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, rows: int | None) -> Self:
        """Return its first rows; None: all."""
        return replace(self, prompts=self.prompts[:rows], answers=self.answers[:rows])


@dataclass(frozen=True, slots=True)
class World:
    """How a stream's callers report: `flipped` of what they say of candidates, and no report of `missing` of the plans.

    `own_words`: no two answers of the models are the same text, so only what callers say of candidates can teach.
    `unsaid`: they say nothing of candidates, so only the texts of the answers can.
    """

    flipped: float = 0.0
    missing: float = 0.0
    own_words: bool = False
    unsaid: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of all requests, in percent: answered, and answered wrongly; and answered in the second half."""

    hits: float
    wrong: float
    late: float


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one order; of the service also audits and bound, in percent. `note` is what else there is to say."""

    outcome: Outcome
    audits: float = 0.0
    bound: float = 0.0
    note: str = ""


def outcome(hits: Sequence[bool], wrong: Sequence[bool]) -> Outcome:
    """Return the shares."""
    late = hits[len(hits) // 2 :]
    return Outcome(100 * sum(hits) / len(hits), 100 * sum(wrong) / len(wrong), 100 * sum(late) / len(late))


def kept_intents(names: Iterable[str]) -> set[str]:
    """Return the intents of banking77 that no setting was chosen on."""
    shuffled = sorted(set(names))
    random.Random(7).shuffle(shuffled)
    return set(shuffled[38:])


def kept_cluster(name: str) -> bool:
    """Return whether no setting was chosen on a cluster of QQP."""
    return int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16) % 2 == 1


def load(name: str, data: Path, order: int) -> Stream:
    """Return a stream in one of its orders.

    Args:
        name: banking77: all rows; banking77-kept: those of the intents no setting was chosen on; banking77-drift: all,
            and from the middle on every other intent has a new answer; banking77-alike: the same, but answers are
            texts and each new one differs from the old in a number; qqp-kept: of QQP's clusters that none was chosen
            on, 10,000 requests by Zipf's law; arena: distinct prompts.
        data: the folder.
        order: any number.
    """
    chance = np.random.default_rng(order)
    if name.startswith("qqp"):
        return _zipf(data, chance)
    rows = _rows(data, "banking77" if name.startswith("banking77") else "arena_hard_v2")
    if name == "banking77-kept":
        kept = kept_intents(row["label"] for row in rows)
        rows = [row for row in rows if row["label"] in kept]
    answers = [str(i) if name == "arena" else row["label"] for i, row in enumerate(rows)]
    places = chance.permutation(len(rows))
    told = [answers[i] for i in places]
    if name in ("banking77-drift", "banking77-alike"):
        turned = set(sorted(set(answers))[::2])
        told = [f"{one}, changed" if n >= len(told) / 2 and one in turned else one for n, one in enumerate(told)]
    if name == "banking77-alike":
        told = [_worded(one) for one in told]
    return Stream([canonical(rows[i]["text"]) for i in places], told)


def _worded(answer: str) -> str:
    """Return an answer as a text; one that is changed differs in a number."""
    intent, changed = answer.removesuffix(", changed"), answer.endswith(", changed")
    days = 2 + int(hashlib.md5(intent.encode(), usedforsecurity=False).hexdigest(), 16) % 8 + 10 * changed
    about = intent.replace("_", " ").strip("?").capitalize()
    return f"{about}: open the app, choose it in the menu and follow the steps there. It takes up to {days} days."


def _zipf(data: Path, chance: np.random.Generator) -> Stream:
    """Draw clusters of duplicates, the n-th with probability ~ 1/n, and one of the cluster's questions each time."""
    clusters = _clusters(_rows(data, "qqp"))
    multiple = [name for name, members in clusters.items() if len(members) > 1 and kept_cluster(name)]
    single = [name for name, members in clusters.items() if len(members) == 1 and kept_cluster(name)][: len(multiple)]
    names = chance.permutation(multiple + single)
    shares = 1 / np.arange(1, len(names) + 1)
    drawn = chance.choice(names, _QQP_LENGTH, p=shares / shares.sum())
    return Stream([str(chance.choice(clusters[name])) for name in drawn], [str(name) for name in drawn])


def _clusters(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return questions joined by "duplicate", without clusters that a "not duplicate" contradicts."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    pairs = [(canonical(row["a"]), canonical(row["b"]), row["duplicate"]) for row in rows]
    for one, other, same in pairs:
        mine, theirs = root(one), root(other)
        if same:
            parent[mine] = theirs
    contradicted = {root(one) for one, other, same in pairs if not same and root(one) == root(other)}
    clusters = defaultdict(list)
    for text in sorted(parent):
        if root(text) not in contradicted:
            clusters[root(text)].append(text)
    return clusters


def _rows(data: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
