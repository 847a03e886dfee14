"""Whether the answer to one call of the log would have been right for another.

Labels say, where there are any. Else the answers are compared as the service compares them when it learns
(`service.cache.verdicts`): equal texts are right, and between near and far there is a band in which nobody can tell.
"""

from collections.abc import Callable, Sequence

from index.encoder import Encoder, encode_texts
from index.text import content_digest
from service.cache.verdicts import COMPARED, near_verdict
from service.evaluation.caching.log import Log


class Truth:
    """What is right in one log.

    Args:
        log: with labels or answers.
        encoder: embeds the answers, where there are no labels.
        progress: called with the number of answers just embedded.
    """

    def __init__(self, log: Log, encoder: Encoder, progress: Callable[[int], None] = lambda _: None) -> None:
        names: Sequence[str | bytes] = [row.label or content_digest(row.answer) for row in log.rows]
        numbers: dict[str | bytes, int] = {}
        self._of = [numbers.setdefault(name, len(numbers)) for name in names]
        firsts: dict[int, str] = {}
        for number, row in zip(self._of, log.rows, strict=True):
            firsts.setdefault(number, row.answer)
        self._texts = [] if log.labelled else list(firsts.values())
        shown = [text[:COMPARED] for text in self._texts]
        self._vectors = encode_texts(encoder, shown, progress=progress) if shown else None
        self._known: dict[tuple[int, int], bool | None] = {}

    def kind(self, place: int) -> int:
        """Return a number that is the same for calls with the same label, or the same answer."""
        return self._of[place]

    def same(self, one: int, other: int) -> bool | None:
        """Return whether a call's answer is right for another call, None where nobody can tell; by their places."""
        mine, theirs = self._of[one], self._of[other]
        if mine == theirs or self._vectors is None:
            return mine == theirs
        pair = (mine, theirs) if mine < theirs else (theirs, mine)
        if pair not in self._known:
            cosine = float(self._vectors[mine] @ self._vectors[theirs])
            self._known[pair] = near_verdict(cosine, self._texts[mine], self._texts[theirs])
        return self._known[pair]
