"""Whether something is by, before, after, until or since a time: what little words make of the same day.

Owns which words say so, and when two prompts disagree in it. Pure; `index.wording` reads prompts with it, once, and
`index.guard` compares what was read.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from index.tokens import DATE, NUMBER

Timed = tuple[tuple[str, str], ...]
"""How, and the stem of when, in the order of the text: ("by", "friday")."""
# Each with what it says; "from" and "to" may as well stand where no time is meant, or with none of these words.
_HOW: Final = {
    "by": "by", "before": "before", "after": "after", "past": "after", "until": "until", "till": "until",
    "through": "until", "since": "since", "starting": "since", "from": "from", "to": "to",
}  # fmt: skip
_BEHIND: Final = {("prior", "to"): "before", ("up", "to"): "until"}
_LOOSE: Final = {"from": "since", "to": "until"}
# Between the little word and the time: "by the END OF NEXT week". With one of the latter, periods are times, too.
_BETWEEN: Final = frozenset(("the", "a", "my", "our", "about", "around", "early", "late", "mid", "of"))
_WHICH: Final = frozenset(("this", "next", "last", "coming", "following", "end", "start", "beginning"))
_PERIODS: Final = frozenset(("day", "night", "week", "month", "quarter", "year"))
_YEAR: Final = re.compile(r"1[5-9]\d\d|2[01]\d\d")
_CLOCK: Final = re.compile(r"\d{1,2}:\d\d")
_HOURS: Final = frozenset(("am", "pm", "oclock"))


def timed(words: Sequence[str], stems: Sequence[str], kinds: Sequence[int]) -> Timed:
    """Return how a prompt puts things in time; its words, stems and kinds are those of `Prepared`."""
    if _HOW.keys().isdisjoint(words):
        return ()
    return tuple(_timed(words, stems, kinds))


def _timed(words: Sequence[str], stems: Sequence[str], kinds: Sequence[int]) -> Iterator[tuple[str, str]]:
    for place, word in enumerate(words):
        if word in _HOW and (when := _when(words, kinds, place + 1)) >= 0:
            yield _BEHIND.get((words[place - 1], word), _HOW[word]), stems[when]


def _when(words: Sequence[str], kinds: Sequence[int], place: int) -> int:
    """Return where the time stands that begins at a place, -1 where none does."""
    which = False
    while place < len(words):
        word = words[place]
        if kinds[place] == DATE or (which and word in _PERIODS):
            return place
        if kinds[place] == NUMBER:
            hour = place + 1 < len(words) and words[place + 1] in _HOURS
            return place if hour or _YEAR.fullmatch(word) or _CLOCK.fullmatch(word) else -1
        if word not in _BETWEEN and word not in _WHICH:
            return -1
        which |= word in _WHICH
        place += 1
    return -1


def timed_otherwise(mine: Timed, theirs: Timed, my_stems: Collection[str], their_stems: Collection[str]) -> bool:
    """Return whether one prompt says "by" a time where the other says "before" it, or names it plainly.

    Args:
        mine: of one prompt.
        theirs: of another.
        my_stems: of the words of the one.
        their_stems: of the words of the other.
    """
    return mine != theirs and (_unmet(mine, theirs, their_stems) or _unmet(theirs, mine, my_stems))


def _unmet(some: Timed, others: Timed, stems: Collection[str]) -> bool:
    """Return whether a time of one prompt stands otherwise in another, which has these stems."""
    for how, when in some:
        rivals = {_LOOSE.get(other, other) for other, at in others if at == when}
        if rivals and _LOOSE.get(how, how) not in rivals:
            return True
        if not rivals and how not in _LOOSE and when in stems:
            return True
    return False
