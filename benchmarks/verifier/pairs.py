"""Pairs of prompts with a label to fit the verifier on, from nothing whose licence forbids shipping what was fitted.

Generated questions (`questions.toml`), near misses and harmless variants of real ones (banking77, CC BY 4.0), pairs of
neighbours among those, CheckList's templates (MIT) and PAWS (free for any purpose). Every pair has a group: its
source, by which training balances and evaluation reports.
"""

import gzip
import hashlib
import itertools
import json
import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_QUESTIONS: Final[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "questions.toml").read_text("utf-8"))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two prompts, whether one's answer is right for the other, and where the pair is from."""

    one: str
    other: str
    same: bool
    group: str


def read_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a gzip-compressed JSON lines file, `name` without its endings."""
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def held_out(question: str) -> bool:
    """Return whether a pair is kept for measuring: the half of the questions whose hash has its lowest bit set."""
    return bool(hashlib.blake2b(question.encode(), digest_size=4).digest()[0] & 1)


def _lines(name: str) -> list[list[str]]:
    return [line.split("|") for line in str(_QUESTIONS["fill"][name]).strip().splitlines()]


def _flat(name: str) -> list[str]:
    return list(itertools.chain.from_iterable(_lines(name)))


def generated(count: int, rng: random.Random) -> list[Pair]:
    """Return pairs of questions from the grammar, about as many same as different."""
    things, acts = _lines("n"), _lines("v")
    frames = {kind: [line.split("|") for line in lines] for kind, lines in _QUESTIONS["frames"].items()}
    found = []
    for _ in range(count):
        kind = "do" if rng.random() < 0.5 else "thing"
        asks = rng.choice(frames[kind])
        fill = _act(acts, rng) if kind == "do" else _thing(things, rng)
        one = _say(rng.choice(asks), fill, rng)
        draw = rng.random()
        if draw < 0.5:
            found.append(Pair(one, _vary(_say(rng.choice(asks), fill, rng), rng), same=True, group="frames_same"))
        elif draw < 0.62:
            found.append(
                Pair(one, _say(rng.choice(asks), _miss(kind, fill, rng), rng), same=False, group="frames_miss")
            )
        elif draw < 0.82:
            other = rng.choice([line for line in frames[kind] if line is not asks])
            found.append(Pair(one, _say(rng.choice(other), fill, rng), same=False, group="frames_asks"))
        else:
            form = rng.choice(asks)
            found.append(Pair(one, _change(_say(form, fill, rng), rng), same=False, group="frames_change"))
    return [pair for pair in found if pair.one != pair.other]


def _act(acts: list[list[str]], rng: random.Random) -> dict[str, list[str]]:
    return {"v": rng.choice(acts)}


def _thing(things: list[list[str]], rng: random.Random) -> dict[str, list[str]]:
    one, other = rng.sample(rng.choice(things), 2)
    return {"n": [one], "m": [other]}


def _miss(kind: str, fill: dict[str, list[str]], rng: random.Random) -> dict[str, list[str]]:
    """Return another thing of the same family."""
    if kind == "thing":
        family = next(line for line in _lines("n") if fill["n"][0] in line and fill["m"][0] in line)
        return {"n": [rng.choice([name for name in family if name != fill["n"][0]])], "m": fill["m"]}
    acts = [line for line in _lines("v") if line != fill["v"]]
    first = fill["v"][0].split()[0]
    alike = [line for line in acts if line[0].split()[0] == first]
    return {"v": rng.choice(alike or acts)}


def _say(form: str, fill: dict[str, list[str]], rng: random.Random) -> str:
    for slot, words in fill.items():
        form = form.replace("{" + slot + "}", rng.choice(words))
    return form


def _change(text: str, rng: random.Random) -> str:
    """Return a question about less: qualified at its end or in its last noun."""
    body, end = text.rstrip("?."), text[-1]
    if rng.random() < 0.7:
        return f"{body} {rng.choice(_flat('changing'))}{end}"
    head, _, last = body.rpartition(" ")
    return f"{head} {rng.choice(str(_QUESTIONS['fill']['qualifying']).split())} {last}{end}"


def _vary(text: str, rng: random.Random) -> str:
    """Return a text as someone else would have typed it."""
    draw = rng.random()
    if draw < 0.15:
        return f"{text.rstrip('?.')} {rng.choice(_flat('empty'))}?"
    if draw < 0.25:
        openings = str(_QUESTIONS["fill"]["opening"]).split("|")
        return f"{rng.choice(openings)} {text[0].lower()}{text[1:]}"
    if draw < 0.45:
        return typo(text, rng)
    if draw < 0.55:
        return text.lower().rstrip("?.")
    return contract(text) if draw < 0.7 else text


def typo(text: str, rng: random.Random) -> str:
    """Return a text with two neighbouring letters exchanged, or one letter dropped or doubled."""
    places = [i for i in range(len(text) - 1) if text[i].isalpha() and (text[i + 1].isalpha() or text[i + 1] == " ")]
    if not places:
        return text
    i = rng.choice(places)
    forms = (text[i + 1] + text[i], text[i + 1], text[i] * 2 + text[i + 1])
    return text[:i] + rng.choices(forms, (3, 1, 1))[0] + text[i + 2 :]


_CONTRACTED: Final = {"What is": "What's", "How is": "How's", "do not": "don't", "is not": "isn't", "I am": "I'm",
                      "I have": "I've", "Who is": "Who's", "cannot": "can't", "it is": "it's"}  # fmt: skip


def contract(text: str) -> str:
    """Return a text with its first contraction made."""
    for full, short in _CONTRACTED.items():
        if full in text:
            return text.replace(full, short, 1)
    return text


def variants(texts: list[str], count: int, rng: random.Random) -> Iterator[Pair]:
    """Yield real prompts against themselves, typed otherwise, opened otherwise, or qualified."""
    for text in rng.sample(texts, min(count, len(texts))):
        draw = rng.random()
        if draw < 0.35:
            yield Pair(text, typo(text, rng), same=True, group="real_same")
        elif draw < 0.6:
            yield Pair(text, _vary(text, rng), same=True, group="real_same")
        elif draw < 0.85:
            yield Pair(text, _change(text if text[-1:] in "?." else text + "?", rng), same=False, group="real_change")
        else:
            yield Pair(text, _drop(text, rng), same=False, group="real_change")


def _drop(text: str, rng: random.Random) -> str:
    """Return a text without one of its long words: what is left asks for something else."""
    words = re.findall(r"\b\w{6,}\b", text)
    return re.sub(r"\s+", " ", text.replace(rng.choice(words), "", 1)) if words else text + " and why?"


def paws(folder: Path) -> Iterator[Pair]:
    """Yield the pairs of PAWS that are not kept for measuring."""
    for row in read_rows(folder, "paws_wiki_en"):
        if not held_out(row["a"]):
            yield Pair(row["a"], row["b"], same=bool(row["duplicate"]), group="paws")


def checklist(folder: Path, each: int, rng: random.Random) -> Iterator[Pair]:
    """Yield some pairs of each of CheckList's tests."""
    tests: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(folder, "checklist_qqp"):
        if not held_out(row["a"]):
            tests.setdefault(row["test"], []).append(row)
    for rows in tests.values():
        for row in rng.sample(rows, min(each, len(rows))):
            yield Pair(row["a"], row["b"], same=bool(row["duplicate"]), group="checklist")
