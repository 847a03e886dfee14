"""What the guard knows about words: function words, opposites, names, units, stems, and which words are common.

Owns `data/lexicon.toml` (written for this project) and `data/words.txt` (common English words by frequency), read once
at import. Pure look-ups, never a decision: `index.wording` reads prompts with it and `index.guard` compares them.
"""

# ruff: noqa: PLR2004 - the lengths below which English endings and typos cannot be told from words

import math
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

_DATA: Final = Path(__file__).parent / "data"
_RAW: Final[dict[str, Any]] = tomllib.loads((_DATA / "lexicon.toml").read_text("utf-8"))
LATIN: Final = "\u024f"
"""The last letter of the Latin script, but for rare ones."""
# Of each look-up so many words are remembered, in 25 MB altogether, until it begins anew. Longer ones are addresses
# and the like: they seldom come twice, and a prompt may be one of them from end to end.
_REMEMBERED: Final = 16_384
_LONGEST: Final = 32
_VOWELS: Final = frozenset("aeiouy")
_T = TypeVar("_T")


def remembered(look_up: Callable[[str], _T]) -> Callable[[str], _T]:
    """Remember what was looked up of short words: a prompt is some hundred look-ups, and they take no Python then."""
    return _Remembered(look_up).__getitem__


class _Remembered(dict[str, _T]):
    def __init__(self, look_up: Callable[[str], _T]) -> None:
        self._look_up = look_up

    def __missing__(self, word: str) -> _T:
        found = self._look_up(word)
        if len(word) <= _LONGEST:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[word] = found
        return found


def _set(name: str) -> frozenset[str]:
    return frozenset(str(_RAW[name]).split())


def _lines(name: str) -> list[list[str]]:
    return [line.split() for line in str(_RAW[name]).splitlines() if line.strip()]


def _pairs(name: str) -> dict[str, str]:
    words = str(_RAW[name]).split()
    return dict(zip(words[::2], words[1::2], strict=True))


def _ranks() -> dict[str, int]:
    lines = (_DATA / "words.txt").read_text("ascii").splitlines()
    return {word: rank for rank, word in enumerate(line for line in lines if not line.startswith("#"))}


def _sides(lines: Iterable[list[str]]) -> dict[str, frozenset[tuple[int, int]]]:
    """Return, for every word with an opposite, the (line, side)s it stands on."""
    found: dict[str, set[tuple[int, int]]] = {}
    for number, line in enumerate(lines):
        side = 0
        for word in line:
            if word == "|":
                side += 1
            else:
                for form in {word, _base(word)}:
                    found.setdefault(form, set()).add((number, side))
    return {word: frozenset(places) for word, places in found.items()}


RANK: Final = _ranks()
"""Common words by frequency, 0 the most frequent: whether a word is one, and how little it says."""
STOP: Final = _set("stop")
GENERIC: Final = _set("generic")
NEGATION: Final = _set("negation")
PRONOUNS: Final = _set("pronouns")
DEPRIVING: Final = _set("depriving")
PARTICLES: Final = _set("particles")
FIRM: Final = _set("firm")
PHRASAL: Final = _set("phrasal")
PARTS: Final = _set("parts")
VARIANTS: Final = _set("variants")
EPITHETS: Final = _set("epithets")
MONTHS: Final = _set("months")
DATES: Final = _set("days") | MONTHS
PLACES: Final = _set("places") | _set("nationalities")
FIRST_NAMES: Final = _set("first_names")
_MOST_SIDES: Final = 1 + max(line.count("|") for line in _lines("antonyms"))
UNITS: Final = {word: line[0] for line in _lines("units") for word in line[1:]}
NUMBER_WORDS: Final = _pairs("number_words")
MULTIPLIERS: Final = {word: int(value) for word, value in _pairs("multipliers").items()}
CONTRACTIONS: Final = {
    short: tuple(full.split())
    for short, full in (line.split("|") for line in str(_RAW["contractions"]).splitlines() if line)
}
LANGUAGES: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(words.split()) for name, words in _RAW["languages"].items()
}
_IRREGULAR: Final = _pairs("irregular")


@remembered
def stem(word: str) -> str:
    """Return one form for a word's inflections, its closest synonyms and a unit's names; any string is accepted."""
    if (unit := UNITS.get(word)) is not None:
        return unit
    base = _base(_IRREGULAR.get(word, word))
    return _SYNONYMS.get(base, base)


@remembered
def weight(word: str) -> float:
    """Return how much a word says, 0 (function words) to 1 (rare or unknown ones)."""
    if word in STOP or word in PRONOUNS:
        return 0.0
    if word in GENERIC:
        return 0.25
    rank = RANK.get(word)
    return 1.0 if rank is None else 0.3 + 0.7 * math.log1p(rank) / math.log1p(len(RANK))


@remembered
def bare(word: str) -> str:
    """Return a word without its accents, as names of other languages are often typed."""
    if word.isascii():
        return word
    return unicodedata.normalize(
        "NFC", "".join(c for c in unicodedata.normalize("NFD", word) if c < "\u0300" or c > "\u036f")
    )


def is_participle(word: str) -> bool:
    """Return whether a word can be what was done to something: "seen", "kept", "wanted"."""
    return word.endswith(("ed", "en", "wn")) or word in _IRREGULAR


def opposed(some: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether any of some words is the opposite of any of others: by the lists, or by prefix or suffix."""
    mine, theirs = [_standing(word) for word in some], [_standing(word) for word in others]
    for sides, rest in ((mine, others), (theirs, some)):
        for negated, _, _ in sides:
            if not negated.isdisjoint(rest):
                return True
    facing = [against for _, _, against in mine if against]
    if not facing:
        return False
    return any(not against.isdisjoint(own) for _, own, _ in theirs for against in facing)


_Sides = frozenset[tuple[int, int]]


@remembered
def _standing(word: str) -> tuple[frozenset[str], _Sides, _Sides]:
    """Return a word's partners, its (line, side)s, and all other (line, side)s of the lines that it stands in."""
    own = _places(word)
    against = frozenset((line, other) for line, side in own for other in range(_MOST_SIDES) if other != side) - own
    return partners(word), own, against


def _places(word: str) -> _Sides:
    """Return the (line, side)s of a word and of what it is a form of: "rising" stands where "rise" does."""
    forms = (word, _base(_IRREGULAR.get(word, word)), *_positives(word))
    return frozenset(place for form in forms for place in OPPOSITES.get(form, ()))


def _positives(word: str) -> Iterable[str]:
    """Yield what a word may be the comparative or superlative of, or what it makes of something: "thicken"."""
    for ending in ("er", "est", "en"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            bare = word.removesuffix(ending)
            yield from (bare, bare + "e", bare[:-1] + "y" if bare[-1] == "i" else bare[:-1])


@remembered
def partners(word: str) -> frozenset[str]:
    """Return what would be a word's opposite, were it one: without a negating prefix, with the prefix that excludes it.

    "careless" and "careful", "atypical" and "typical", "macro-" and "micro-".
    """
    found = {
        word.removeprefix(prefix)
        for prefix in _NEGATING
        if word.startswith(prefix) and len(word) > len(prefix) + _LEAST_LEFT.get(prefix, 3)
    }
    found |= {
        theirs + word.removeprefix(mine)
        for pair in _PREFIXES
        for mine, theirs in (pair, pair[::-1])
        if word.startswith(mine) and len(word) > len(mine) + 3
    }
    found |= {
        word.removesuffix(mine) + theirs
        for mine, others in _PARTIES.items()
        if word.endswith(mine) and len(word) > len(mine) + 2
        for theirs in others
    }
    if word.endswith("less") and len(word) > 6:
        found |= {word[:-4], word[:-4] + "ful"}
    return frozenset(found)


_NEGATING: Final = frozenset(("un", "in", "im", "il", "ir", "dis", "non", "anti", "mis", "de", "a", "an"))
# Letters left of what is negated: "atypical" is not "typical", but "around" is not the opposite of "round".
_LEAST_LEFT: Final = {"a": 4, "an": 4, "un": 2}
# Who does something, and whom or for whom it is done.
_PARTIES: Final = {
    "ee": ("er", "or"),
    "ees": ("ers", "ors"),
    "er": ("ee",),
    "or": ("ee",),
    "ers": ("ees",),
    "ors": ("ees",),
}
_PREFIXES: Final = (
    ("macro", "micro"), ("hyper", "hypo"), ("over", "under"), ("pre", "post"), ("intra", "inter"), ("endo", "exo"),
    ("in", "ex"), ("im", "ex"), ("en", "de"), ("in", "de"), ("in", "out"), ("up", "down"), ("homo", "hetero"),
    ("mono", "poly"), ("syn", "ant"), ("intro", "extro"), ("super", "sub"), ("a", "de"), ("pro", "anti"),
)  # fmt: skip


def _base(word: str) -> str:  # noqa: PLR0911 - one ending a line
    """Strip plural, -ing, -ed, -ly and a final e: coarse, but alike for all forms of most words."""
    if len(word) < 4 or not word.isascii():
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "ches", "shes", "xes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if word.endswith("ing") and len(word) > 5 and not _VOWELS.isdisjoint(word[:-3]):
        whole = word[:-3] + "e"
        return _base(whole) if whole in RANK and word[:-3] not in RANK else _undouble(word[:-3])
    if word.endswith("ied") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("ed") and word[:-1] in RANK and not word.endswith("eed"):
        return _base(word[:-1])
    if word.endswith("ed") and len(word) > 4 and not _VOWELS.isdisjoint(word[:-2]):
        return _undouble(word[:-2])
    if word.endswith("ly") and len(word) > 5:
        return _base(word[:-2])
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def _undouble(word: str) -> str:
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        return word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


# After `_base`, which both are made with.
OPPOSITES: Final = _sides(_lines("antonyms"))
# A word on several lines stands with the first.
_SYNONYMS: Final = {_base(word): _base(line[0]) for line in reversed(_lines("synonyms")) for word in line}
