"""What embeddings do not see: numbers, names, negation, opposites, order, roles, language.

`differences` names the checks by which one prompt's answer cannot stand for another's. It refuses on evidence only:
what aligns (inflections, typos, words run together, contractions, spelling) is no difference, and what is merely
worded otherwise is left to `index.verifier`, which reads the same `Comparison`. Pure; symmetric; never raises.
"""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Final, NamedTuple

from index.lexicon import DEPRIVING, FIRM, PARTICLES, PHRASAL, RANK, UNITS, opposed
from index.names import RARE, has_kind, inflected, named_otherwise, substituted
from index.order import SYMMETRIC, check_order
from index.times import timed_otherwise
from index.tokens import DATE, LITERAL, NAME, NEGATED, NUMBER, PICTURE
from index.typos import is_typo
from index.wording import CURRENCIES, TELLING, Prepared, prepare

__all__ = ["CHECKS", "Comparison", "Prepared", "compare", "differences", "prepare"]

CHECKS: Final = (
    "too_long", "language_differs", "verbatim_differs", "question_differs", "symbols_differ", "numbers_differ",
    "units_differ", "terms_differ", "dates_differ", "names_differ", "opposite", "negation", "order_differs",
    "conjunction", "roles_differ",
)  # fmt: skip
"""The checks that refuse, in the order they are made."""

# Of pairs that ask so for the same, a third or fewer mean the same; "why" and "how", or "what" and "where", often do.
_OTHER_QUESTIONS: Final = frozenset(
    map(frozenset, product(("when",), ("how", "howto", "why", "where", "who", "yes")))
) | frozenset(map(frozenset, (
    ("who", "where"), ("who", "why"), ("who", "howto"), ("why", "howto"), ("where", "yes"),
)))  # fmt: skip
# Behind "why" and "how" of what happens; "how is it helpful" is "why is it helpful".
_HAPPENS: Final = frozenset(("do", "does", "did", "was", "were", "can", "could", "will", "would", "has", "have", "had"))
_NEVER_TYPOS: Final = (NUMBER, LITERAL, PICTURE)
# Letters of the shortest word that may be two run together.
_JOINED: Final = 4
# "An asymmetric key" is not "a symmetric key".
_ADJECTIVES: Final = ("ic", "al", "ous", "ed")
# Residual words are aligned with each other one by one up to here: beyond it, two texts are not one with typos.
_ALIGNED: Final = 24
# Letters of names up to which they are as likely a code.
_CODE: Final = 4


class Comparison(NamedTuple):
    """Two prompts held side by side.

    `left` and `right` are the places of the words that only the one, only the other has; `typos` counts words that
    were aligned as misspellings; `refused` names the checks that refuse, in the order they were made.
    """

    one: Prepared
    other: Prepared
    left: tuple[int, ...]
    right: tuple[int, ...]
    typos: int
    refused: tuple[str, ...]


def differences(one: Prepared, other: Prepared) -> tuple[str, ...]:
    """Return which of `CHECKS` refuse to let one prompt's answer stand for the other's; () where none does."""
    return compare(one, other).refused


def compare(one: Prepared, other: Prepared) -> Comparison:
    """Align two prompts and check them; `one` of the result is whichever comes first by its words.

    The words are only aligned where nothing cheaper refuses.
    """
    if other.words < one.words:  # so that greedy alignment gives the same both ways
        one, other = other, one
    refused: list[str] = []
    _check_wholes(one, other, refused)
    if refused:
        return Comparison(one, other, (), (), 0, tuple(refused))
    left, right, typos = _residuals(one, other)
    if left or right:
        _check_residuals(one, other, left, right, refused)
    if one.words != other.words and NAME in one.kinds and NAME in other.kinds and inflected(one, other):
        refused.append("names_differ")
    if "dates_differ" not in refused and timed_otherwise(one.times, other.times, one.stems, other.stems):
        refused.append("dates_differ")
    if one.negations != other.negations and (
        not typos or has_kind(one, left, NEGATED) or has_kind(other, right, NEGATED)
    ):
        refused.append("negation")
    check_order(one, other, left, right, refused)
    return Comparison(one, other, tuple(left), tuple(right), typos, tuple(refused))


def _check_wholes(one: Prepared, other: Prepared, refused: list[str]) -> None:
    """Make the checks that need no alignment."""
    if one.cut or other.cut:
        refused.append("too_long")
    if one.language != other.language and one.language and other.language:
        refused.append("language_differs")
    if one.verbatim != other.verbatim:
        refused.append("verbatim_differs")
    if one.question != other.question and (
        {one.question, other.question} in _OTHER_QUESTIONS or (_of_what_happens(one) and _of_what_happens(other))
    ):
        refused.append("question_differs")
    if one.question == other.question == "yes" and _obliges_otherwise(one, other):
        refused.append("opposite")
    if one.symbols != other.symbols:
        refused.append("symbols_differ")
    if one.numbers != other.numbers:
        _check_numbers(one, other, refused)
    if (LITERAL in one.kinds or LITERAL in other.kinds) and _literals(one) != _literals(other):
        refused.append("terms_differ")


def _of_what_happens(text: Prepared) -> bool:
    """Return whether it is asked why or how something happens, and not how or why it is as it is."""
    if text.question not in ("why", "how"):
        return False
    return text.words[:2] == ("how", "come") or (
        text.words[0] == text.question and not _HAPPENS.isdisjoint(text.words[1:2])
    )


def _obliges_otherwise(one: Prepared, other: Prepared) -> bool:
    """Return whether the one asks whether somebody must, the other whether somebody may or had better."""
    mine = _asks_of(one)
    return bool(mine) and _asks_of(other) not in ("", mine)


def _asks_of(text: Prepared) -> str:
    """Return whether a yes or no is about what somebody must, may or had better do, "" for anything else."""
    words = text.words
    if words[0] in ("do", "does") and words[2:4] in (("have", "to"), ("need", "to")):
        return "must"
    return _MODALS.get(words[0], "")


_MODALS: Final = {"must": "must", "can": "may", "may": "may", "should": "should", "shall": "should"}


def _residuals(one: Prepared, other: Prepared) -> tuple[list[int], list[int], int]:
    """Return the places of the words without a counterpart on the other side, and how many had one but for a typo."""
    mine, theirs = set(one.stems), set(other.stems)
    only, others = mine - theirs, theirs - mine
    left = [place for place, stem in enumerate(one.stems) if stem in only] if only else []
    right = [place for place, stem in enumerate(other.stems) if stem in others] if others else []
    typos = 0
    if left and right and len(left) <= _ALIGNED and len(right) <= _ALIGNED:
        if _run(one, left) == _run(other, right) and not (_known(one, left) and _known(other, right)):
            return [], [], 1  # "thin gthat" is "thing that", but "the rapist" is no "therapist"
        typos = _align(one, other, left, right)
    if len(left) <= _ALIGNED and len(right) <= _ALIGNED:
        typos += _join(one, other, left) + _join(other, one, right)
    return left, right, typos


def _run(text: Prepared, places: Sequence[int]) -> str:
    return "".join([text.words[place] for place in places])


def _known(text: Prepared, places: Sequence[int]) -> bool:
    return all(text.words[place] in RANK for place in places)


def _align(one: Prepared, other: Prepared, left: list[int], right: list[int]) -> int:
    """Take out of both lists the words that are each other's typos; return how many."""
    typos = 0
    for place in left[:]:
        if one.kinds[place] in _NEVER_TYPOS:
            continue
        word = one.words[place]
        first, last = word[0], word[-1]
        for candidate in right:
            rival = other.words[candidate]
            # No one mistypes both ends; this spares the closer look for nearly all pairs.
            if (
                (rival[0] == first or rival[-1] == last)
                and other.kinds[candidate] not in _NEVER_TYPOS
                and is_typo(word, rival)
                and (one.kinds[place] != NAME or _may_name(word, rival))
            ):
                left.remove(place)
                right.remove(candidate)
                typos += 1
                break
    return typos


def _may_name(word: str, rival: str) -> bool:
    """Return whether two names may be one: a letter may be missing, but not a code's last ("GOOG", "GOOGL")."""
    if len(word) == len(rival):
        return sorted(word) == sorted(rival)
    at_end = word.startswith(rival) or rival.startswith(word)
    return not at_end or min(len(word), len(rival)) > _CODE or word[-1] == rival[-1]


def _join(one: Prepared, other: Prepared, left: list[int]) -> int:
    """Take out the words that the other side writes as two ("alot", "a lot"); return how many."""
    words, joined = other.words, 0
    for place in left[:]:
        word = one.words[place]
        if len(word) >= _JOINED and word not in RANK and one.kinds[place] not in _NEVER_TYPOS:
            for index in range(len(words) - 1):
                if (
                    word.startswith(words[index])
                    and word == words[index] + words[index + 1]
                    and not (words[index] == "a" and word.endswith(_ADJECTIVES))
                ):
                    left.remove(place)
                    joined += 1
                    break
    return joined


def _check_residuals(
    one: Prepared, other: Prepared, left: Sequence[int], right: Sequence[int], refused: list[str]
) -> None:
    """Compare what only the one says with what only the other says, kind by kind."""
    mine, theirs = {one.kinds[p] for p in left}, {other.kinds[p] for p in right}
    if (DATE in mine or DATE in theirs) and not (_today(one, left) and _today(other, right)):
        refused.append("dates_differ")
    if PICTURE in mine and PICTURE in theirs:
        refused.append("symbols_differ")
    if named_otherwise(one, other, left, right):
        refused.append("names_differ")
    elif NAME not in mine | theirs and "numbers_differ" not in refused and substituted(one, other, left, right, RARE):
        refused.append("terms_differ")
    _check_opposites(one, other, left, right, refused)


def _check_opposites(
    one: Prepared, other: Prepared, left: Sequence[int], right: Sequence[int], refused: list[str]
) -> None:
    """Refuse what is the opposite, is measured in another unit or is taken back."""
    some, others = [one.words[p] for p in left], [other.words[p] for p in right]
    if some and others:
        if opposed(some, others) or (
            not PARTICLES.isdisjoint(some)
            and not PARTICLES.isdisjoint(others)
            and _done_otherwise(one, other, left, right)
        ):
            refused.append("opposite")
        if "units_differ" not in refused and _counted(some) and _counted(others):
            refused.append("units_differ")
    elif len(one.words) == len(other.words) and _opposes_form(one, other, some, others):
        refused.append("opposite")
    if not (DEPRIVING.isdisjoint(some) or _says(other, right)) or not (
        DEPRIVING.isdisjoint(others) or _says(one, left)
    ):
        refused.append("negation")


def _opposes_form(one: Prepared, other: Prepared, some: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether what faces a word is there in other forms: "show hidden files", "hide hidden files"."""
    mine = some or [word for word in one.words if word not in other.words]
    return opposed(mine, others or [word for word in other.words if word not in one.words])


def _done_otherwise(one: Prepared, other: Prepared, left: Sequence[int], right: Sequence[int]) -> bool:
    """Return whether one verb goes with another particle: "turn in", "turn down"."""
    mine, theirs = _particles(one, left), _particles(other, right)
    return any(not FIRM.isdisjoint((mine[verb], theirs[verb])) for verb in mine.keys() & theirs.keys())


def _particles(text: Prepared, places: Sequence[int]) -> dict[str, str]:
    words, stems = text.words, text.stems
    return {stems[p - 1]: words[p] for p in places if words[p] in PARTICLES and p and stems[p - 1] in PHRASAL}


def _literals(text: Prepared) -> list[str]:
    return [word for word, kind in zip(text.words, text.kinds, strict=True) if kind == LITERAL]


def _today(text: Prepared, places: Sequence[int]) -> bool:
    """Return whether no day is left over but today, which goes without saying."""
    return all(text.words[place] == "today" for place in places if text.kinds[place] == DATE)


def _counted(words: Sequence[str]) -> bool:
    """Return whether a unit is among words; single letters are one only behind a number, where they are compared."""
    return not UNITS.keys().isdisjoint([word for word in words if len(word) > 1])


def _says(text: Prepared, places: Sequence[int]) -> bool:
    """Return whether any of some words says something of its own."""
    return any(text.weights[place] > TELLING for place in places)


def _check_numbers(one: Prepared, other: Prepared, refused: list[str]) -> None:
    """Refuse other numbers, another order of them, other units."""
    mine = [number.partition(" ")[0] for number in one.numbers]
    theirs = [number.partition(" ")[0] for number in other.numbers]
    if mine == theirs:
        if any(_units_differ(a, b) for a, b in zip(one.numbers, other.numbers, strict=True)):
            refused.append("units_differ")
        return
    if sorted(mine) == sorted(theirs):
        if not (_listed(one) and _listed(other)):
            refused.append("numbers_differ")
    # "one" is most often no number, but may stand for the 1 of the other.
    elif not (_has_one_more(mine, theirs) and "one" in other.words) and not (
        _has_one_more(theirs, mine) and "one" in one.words
    ):
        refused.append("numbers_differ")


def _has_one_more(some: list[str], others: list[str]) -> bool:
    """Return whether the one list of numbers has a 1 in addition to those of the other."""
    return len(some) == len(others) + 1 and sorted(some) == sorted([*others, "1"])


def _units_differ(one: str, other: str) -> bool:
    """Return whether two amounts of the same number are of other things; a currency may go without saying."""
    mine, theirs = one.partition(" ")[2], other.partition(" ")[2]
    return mine != theirs and mine + theirs not in CURRENCIES


def _listed(text: Prepared) -> bool:
    """Return whether between the numbers is only "and", "or", ... and their units: their order says nothing."""
    places = [place for place, kind in enumerate(text.kinds) if kind == NUMBER]
    between = [set(text.words[here + 1 : there]) for here, there in pairwise(places)]
    return all(words & SYMMETRIC and words <= SYMMETRIC | UNITS.keys() for words in between)
