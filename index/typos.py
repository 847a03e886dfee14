"""Whether one word is another mistyped: what is, is no difference; two real words that look alike are one.

Pure look-ups over `index.lexicon`; `index.guard` aligns words by it.
"""

# ruff: noqa: PLR2004 - the lengths below which typos cannot be told from words

import re
from typing import Final

from index.lexicon import FIRST_NAMES, LATIN, RANK, partners, stem

_ENDINGS: Final = frozenset(("ane", "ene", "yne", "ate", "ite", "ide", "nol", "nal", "ine", "ase", "ose"))
# Behind one prefix ("nano-") they measure different things.
_MEASURES: Final = frozenset(("meter", "metre", "liter", "litre", "joule", "hertz"))
# Nobody can say such a word: it is the name of a function or the like.
_UNSPEAKABLE: Final = re.compile("^[bcdfghjklmnpqrstvwxz]{4}|[bcdfghjklmnpqrstvwxyz]{4}$")
# Before these, letters that are not stressed are mistaken for each other: "-ance" and "-ence", "-ise" and "-ize".
_TAILS: Final = frozenset((
    "nt", "nts", "ntly", "nce", "nces", "ncy", "ble", "bly", "r", "rs", "ry", "e", "es", "ed", "er", "ing", "ation",
    "s", "sis",
))  # fmt: skip
_ALIKE: Final = ("aeio", "iy", "sz")
_FORMS: Final = ("ing", "ion", "ings", "ions", "ed", "es")


def is_typo(one: str, other: str) -> bool:
    """Return whether one of two different words is most likely the other, mistyped or spelt otherwise.

    Neighbouring letters exchanged; a letter doubled; or, unless both are common words, one letter missing, too many or
    wrong (two in a row in long words). Of two rare words, which may both be real, only a letter that sounds alike may
    be wrong. Never the first letter: "house" is no "mouse", nor "mRNA" "tRNA". Two known first names are never one.
    Damerau, "A technique for computer detection and correction of spelling errors", 1964: four in five errors.
    """
    short, gap = min(len(one), len(other)), abs(len(one) - len(other))
    known = one in RANK and other in RANK
    if short < 2 or gap > (1 if known else 2) or not (_is_latin(one) and _is_latin(other)):
        return False
    start = 0
    while start < short and one[start] == other[start]:
        start += 1
    end = 0
    while end < short - start and one[-1 - end] == other[-1 - end]:
        end += 1
    mine, theirs = one[start : len(one) - end], other[start : len(other) - end]
    if len(mine) == len(theirs) == 2 and mine == theirs[::-1]:
        return not (one in FIRST_NAMES and other in FIRST_NAMES)
    if short < 4 or start == 0 or (one in FIRST_NAMES and other in FIRST_NAMES):
        return False
    if len(mine) + len(theirs) == 1:
        return ((mine or theirs) == one[start - 1] or not known) and not _are_both_code(one, other, end)
    likely = short >= 5 and not known and len(mine) == len(theirs) <= (2 if short >= 8 else 1)
    return likely and not _are_both_real(one, other, start, end)


def _are_both_real(one: str, other: str, start: int, end: int) -> bool:
    """Return whether two words that differ between two places are both known, or are likely to be."""
    for endings, letters in ((_ENDINGS, 3), (_MEASURES, 5)):
        if one[-letters:] in endings and other[-letters:] in endings:  # sulfate, sulfite
            return True
    if other in partners(one) or one in partners(other):
        return True
    if _is_heard(one) or _is_heard(other) or _is_form(one, other):
        return False
    mine, theirs, tail = one[start : len(one) - end], other[start : len(other) - end], one[len(one) - end :]
    return not (tail in _TAILS and any(mine in alike and theirs in alike for alike in _ALIKE))


def _is_heard(word: str) -> bool:
    return word in RANK or stem(word) in RANK


def _is_form(one: str, other: str) -> bool:
    """Return whether two words are of one root, "procrastinating" and "procrastination"."""
    mine, theirs = ({word.removesuffix(form) for form in _FORMS} for word in (one, other))
    return any(len(root) > 5 for root in mine & theirs)


def _are_both_code(one: str, other: str, end: int) -> bool:
    """Return whether two words, one with a letter more, are names of programs: strcat and strncat, mkdir and mkdirp."""
    if _is_code(one) and _is_code(other):
        return True
    longest = max(one, other, key=len)
    further = not end and longest[-1] != longest[-2] and longest[-1] not in "aeiouy"
    return further and not _is_heard(one) and not _is_heard(other)


def _is_code(word: str) -> bool:
    return word not in RANK and _UNSPEAKABLE.search(word) is not None


def _is_latin(word: str) -> bool:
    return word.isascii() or max(word) <= LATIN
