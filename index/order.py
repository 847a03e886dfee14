"""What the same words say in another order: who does it to whom, whence and whither, "and" for "or".

The last of the guard's checks, made where nothing else refused.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from index.tokens import BE, NAME, NUMBER
from index.wording import PERSONS, SELF, SELVES, TELLING, Prepared

SYMMETRIC: Final = frozenset(("and", "or", "vs", "versus", "between", "nor"))
"""Between two things joined by these their order says nothing."""
# Nothing of weight left over on either side but this share of it: the same words in another order.
_SAME_WORDS: Final = 0.12


def check_order(one: Prepared, other: Prepared, left: Sequence[int], right: Sequence[int], refused: list[str]) -> None:
    """Refuse what the same words say in another order.

    Args:
        one: a prompt.
        other: another.
        left: the places of the words that only the one has.
        right: the places of the words that only the other has.
        refused: takes the names of the checks that refuse.
    """
    if one.stems == other.stems:
        return
    if one.markers != other.markers and (_exchanged(one, other) or _reversed(one, other)):
        refused.append("order_differs")
    extra = sum([one.weights[p] for p in left]) + sum([other.weights[p] for p in right])
    if extra > _SAME_WORDS * (one.total + other.total):
        return
    if one.alternatives * other.alternatives < 0:
        refused.append("conjunction")
    if _pronouns_turned(one, other) or _persons_turned(one, other) or _turned(one, other):
        refused.append("roles_differ")


def _exchanged(one: Prepared, other: Prepared) -> bool:
    """Return whether "from", "to", "than", ... stands before two other words that have changed places."""
    for marker in set(one.markers).difference(other.markers):
        word, _, mine = marker.partition(" ")
        if mine not in other.stems:
            continue
        for rival in other.markers:
            kind, _, theirs = rival.partition(" ")
            if kind == word and rival not in one.markers and theirs in one.stems:
                here = one.stems.index(mine) < one.stems.index(theirs)
                if here != (other.stems.index(mine) < other.stems.index(theirs)):
                    return True
    return False


def _reversed(one: Prepared, other: Prepared) -> bool:
    """Return whether what one goes "to" the other goes "from", or the like."""
    mine, theirs = set(one.markers), set(other.markers)
    for marker in mine ^ theirs:
        word, _, place = marker.partition(" ")
        for facing in _FACING.get(word, ()) if place else ():
            back = f"{facing} {place}"
            if (marker in mine and back in theirs - mine) or (marker in theirs and back in mine - theirs):
                if facing in _LATER and not _of_time(one, other, word):
                    continue
                return True
    return False


# "By 10 %" is neither "to 10 %" nor from there, "by Monday" not "after Monday": pairs are found from either side.
_FACING: Final = {
    "before": ("past", "upon"),
    "to": ("from", "after"), "over": ("under",), "until": ("since", "after"), "by": ("to", "after", "until"),
}  # fmt: skip


_LATER: Final = ("after", "until")


def _of_time(one: Prepared, other: Prepared, word: str) -> bool:
    """Return whether "to" is "up to" a time, and "by" is not by whom something is done."""
    if word == "to":
        return ("up", "to") in pairwise(one.words) or ("up", "to") in pairwise(other.words)
    return word != "by" or (one.agent < 0 and other.agent < 0)


def _pronouns_turned(one: Prepared, other: Prepared) -> bool:
    """Return whether "he ... her" became "she ... him", or a pronoun one of the names."""
    mine, theirs = one.pronouns, other.pronouns
    if mine == theirs:
        return False
    return len(mine) == len(theirs) or one.kinds.count(NAME) != other.kinds.count(NAME)


def _persons_turned(one: Prepared, other: Prepared) -> bool:
    """Return whether "can I ... you" became "can you ... me"."""
    some, others = one.persons, other.persons
    if some == others or len(some) < 2 or len(others) < 2:  # noqa: PLR2004 - two take part
        return False
    if some[0] == others[0] == "i" and sorted((*some[1:], *others[1:])) == ["i", "me"]:
        # "find out who I called", "find out who called me"; but "who blocked me" is "by whom I was blocked"
        return BE.isdisjoint(set(one.words) ^ set(other.words))
    mine, theirs = (list(dict.fromkeys([PERSONS[word] for word in words])) for words in (some, others))
    return len(mine) > 1 and len(theirs) > 1 and mine != theirs


def _turned(one: Prepared, other: Prepared) -> bool:
    """Return whether two things have changed places around what stayed, passives read as what they mean."""
    verbs = {text.stems[text.agent - 2] for text in (one, other) if text.agent >= 0}
    mine, theirs = _active(one, verbs), _active(other, verbs)
    if mine == theirs:
        return False
    rank = dict(zip(theirs, range(len(theirs)), strict=True))
    places = [rank[stem] for stem in mine if stem in rank]
    moved = [place for place, (here, there) in enumerate(zip(places, sorted(places), strict=True)) if here != there]
    if len(moved) != 2:  # noqa: PLR2004 - a pair
        return False
    first, second = theirs[places[moved[0]]], theirs[places[moved[1]]]
    marked = {marker.partition(" ")[2] for marker in one.markers if marker in other.markers}
    if first in marked and second in marked:  # "from here to there" and "to there from here"
        return False
    if _symmetric(one, first, second) or _symmetric(other, first, second):
        return False
    far = moved[1] - moved[0] > 1
    return far or bool(verbs) or (_is_name(one, first) and _is_name(one, second)) or _beside(one, other, first, second)


def _beside(one: Prepared, other: Prepared, first: str, second: str) -> bool:
    """Return whether two neighbours that have changed places were not just put otherwise, as in "pizza recipe"."""
    if one.words[0] in BE and NUMBER not in one.kinds and sorted(one.stems) == sorted(other.stems):
        return True  # "are all squares rectangles?"
    if _is_object(one) != _is_object(other):  # "who taught Plato?", "who did Plato teach?"
        return True
    related = _related(one, first, second)
    return bool(related) and related == _related(other, second, first)


def _is_object(text: Prepared) -> bool:
    """Return whether what is asked for is what something is done to."""
    return text.question in ("who", "what") and len(text.words) > 1 and text.words[1] in ("do", "does", "did")


def _related(text: Prepared, first: str, second: str) -> tuple[str, ...]:
    """Return the words between two, where one of them says how the first stands to the second: "effect OF ..."."""
    if SELF in (first, second):
        return ()
    between = text.words[text.stems.index(first) + 1 : text.stems.index(second)]
    return between if not _RELATING.isdisjoint(between) else ()


_RELATING: Final = frozenset(("of", "with", "for", "on", "in", "as", "is", "are", "via", "through", "per"))


def _active(text: Prepared, verbs: set[str]) -> tuple[str, ...]:
    """Return the telling words in order, once each, the agent of a passive first, without the verbs of passives."""
    if not verbs:
        return text.spine
    weights, words = text.weights, text.words
    places = [
        p for p, stem in enumerate(text.stems) if stem not in verbs and (weights[p] > TELLING or words[p] in SELVES)
    ]
    if text.agent >= 0:
        after = next((p for p in places if p >= text.agent), -1)
        places = [p for p in places if p == after] + [p for p in places if p != after]
    # Who asks may have been left out of one: "I was seen by Ann", "Ann saw".
    return tuple(dict.fromkeys([text.stems[p] for p in places if words[p] not in SELVES and text.stems[p] != SELF]))


def _symmetric(text: Prepared, first: str, second: str) -> bool:
    """Return whether "and", "or", "vs", ... stands between two."""
    here, there = sorted((_place(text, first), _place(text, second)))
    return not SYMMETRIC.isdisjoint(text.words[here + 1 : there])


def _place(text: Prepared, stem: str) -> int:
    return text.stems.index("me" if stem == SELF and SELF not in text.stems else stem)


def _is_name(text: Prepared, stem: str) -> bool:
    return text.kinds[_place(text, stem)] == NAME
