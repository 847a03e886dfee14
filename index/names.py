"""Whether what two prompts name is the same: other names, further names, longer names, variants.

The part of the guard's checks that is about names; `index.guard` makes it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from index.lexicon import EPITHETS, PARTS, PLACES, STOP, VARIANTS, bare
from index.tokens import NAME, NUMBER
from index.wording import TELLING, Prepared

RARE: Final = 0.93
"""Of a weight: rare enough to be a name that was not capitalised."""
# Letters of a name that only tells one of a name from another: "Zyrtec-D", "Ambien CR".
_SUFFIX: Final = 2
_SHORTENED: Final = ("st", "rd", "mt", "tv", "dr", "mr", "ms")  # and these do not
_MARKS: Final = VARIANTS | EPITHETS


def named_otherwise(one: Prepared, other: Prepared, left: Sequence[int], right: Sequence[int]) -> bool:
    """Return whether what is named is another."""
    if _varies(one, left) or _varies(other, right):
        return True
    mine, theirs = has_kind(one, left, NAME), has_kind(other, right, NAME)
    if not (mine or theirs):
        return False
    both = (mine or _surplus(one, other)) and (theirs or _surplus(other, one))
    other_one = _designates(one, other, left) or _designates(other, one, right)
    if both or other_one or _amid(one, other, left) or _amid(other, one, right):
        return True
    return substituted(one, other, left, right, TELLING)


def inflected(one: Prepared, other: Prepared) -> bool:
    """Return whether a name of both has another form in each: "Alien" is not "Aliens", but "Indian" is "Indians"."""
    mine, theirs = _names(one), _names(other)
    return any(theirs.get(stem, word) != word for stem, word in mine.items())


def substituted(one: Prepared, other: Prepared, left: Sequence[int], right: Sequence[int], least: float) -> bool:
    """Return whether one run of words, all of at least some weight, stands in the very place of another."""
    mine = [p for p in left if one.weights[p] > TELLING]
    theirs = [p for p in right if other.weights[p] > TELLING]
    if any(one.weights[p] < least for p in mine) or any(other.weights[p] < least for p in theirs):
        return False
    if not mine or not theirs or mine[-1] - mine[0] >= len(mine) or theirs[-1] - theirs[0] >= len(theirs):
        return False
    return _at(one, mine[0] - 1) == _at(other, theirs[0] - 1) and _at(one, mine[-1] + 1) == _at(other, theirs[-1] + 1)


def has_kind(text: Prepared, places: Sequence[int], kind: int) -> bool:
    """Return whether any of some words is of a kind."""
    return any(text.kinds[place] == kind for place in places)


def _names(text: Prepared) -> dict[str, str]:
    found, place = {}, text.kinds.find(NAME)
    while place >= 0:
        if (word := text.words[place]) not in PLACES:
            found[text.stems[place]] = bare(word)
        place = text.kinds.find(NAME, place + 1)
    return found


def _designates(text: Prepared, other: Prepared, places: Sequence[int]) -> bool:
    """Return whether a name that only this text has belongs to one that both have: "13 Pro" after "13", "New York"."""
    for place in places:
        if text.kinds[place] == NAME and place and text.kinds[place - 1] == NUMBER:
            return True
        if text.words[place] in PARTS and place + 1 < len(text.words) and text.kinds[place + 1] == NAME:
            return text.stems[place + 1] in other.stems
    return False


def _varies(text: Prepared, places: Sequence[int]) -> bool:
    """Return whether one of a name is named more closely: "13 Pro" after "13", "Pro Max" after "Pro", "the Elder"."""
    for place in places:
        if (text.kinds[place] == NAME or text.words[place] in _MARKS) and place and _is_variant(text, place):
            return True
    return False


def _is_variant(text: Prepared, place: int) -> bool:
    word, before = text.words[place], text.words[place - 1]
    named = text.kinds[place - 1] == NAME or text.weights[place - 1] >= RARE
    if word in VARIANTS:
        return named or text.kinds[place - 1] == NUMBER or before in VARIANTS
    if text.kinds[place] == text.kinds[place - 1] == NAME:
        ends = place + 1 == len(text.words) or text.kinds[place + 1] != NAME
        return ends and (len(word) <= _SUFFIX or word in STOP) and word not in _SHORTENED
    return word in EPITHETS and before == "the" and place > 1 and text.kinds[place - 2] == NAME


def _amid(text: Prepared, other: Prepared, places: Sequence[int]) -> bool:
    """Return whether a name of both has a further one in its midst here: "John Quincy Adams" after "John Adams"."""
    extra = {place for place in places if text.kinds[place] == NAME}
    for first in extra:
        if first - 1 in extra or not first:
            continue
        last = first + 1
        while last in extra:
            last += 1
        if last < len(text.words) and text.kinds[first - 1] == text.kinds[last] == NAME:
            return (text.stems[first - 1], text.stems[last]) in pairwise(other.stems)
    return False


def _surplus(one: Prepared, other: Prepared) -> bool:
    """Return whether a name that both have stands more often in the one."""
    names = [stem for stem, kind in zip(one.stems, one.kinds, strict=True) if kind == NAME]
    return any(names.count(stem) > other.stems.count(stem) > 0 for stem in names)


def _at(text: Prepared, place: int) -> str:
    return text.stems[place] if 0 <= place < len(text.stems) else ""
