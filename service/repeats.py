"""Requests that were exact hits lately, as they were read and answered: who asks the very same again waits for neither.

What the bytes of a request say, and the key of its answer, depend on nothing but these bytes, who calls and the
catalogue, and to find that out takes longer than to find the answer. On the event loop, in memory.
"""

from typing import Final, NamedTuple

from index.catalogue import Catalogue
from index.records import Answer
from index.view import Entry
from service.requests import Prompt, Request

# Of requests and answers; with more, all are forgotten and come again.
_MOST_BYTES: Final = 16 << 20


class Repeat(NamedTuple):
    """What a request says, and what was sent of the answer it got: all that does not tell of the one decision."""

    request: Request
    prompt: Prompt
    answer: Answer
    sent: bytes


class Repeats:
    """What some requests say, by caller and bytes."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Repeat] = {}
        self._keys: set[bytes] = set()
        self._bytes = 0
        self._catalogue: Catalogue | None = None

    def get(self, caller: str, raw: bytes, catalogue: Catalogue) -> Repeat | None:
        """Return what is known of a request: with another catalogue nothing is."""
        if catalogue is not self._catalogue:
            self._clear()
            self._catalogue = catalogue
        return self._known.get((caller, raw))

    def keep(self, caller: str, raw: bytes, repeat: Repeat) -> None:
        """Remember a request; not one that has an id, as it comes only once."""
        size = len(raw) + len(repeat.sent)
        if repeat.request.request_id or size > _MOST_BYTES:
            return
        self._bytes += size
        if self._bytes > _MOST_BYTES:
            self._clear()
            self._bytes = size
        self._known[caller, raw] = repeat
        self._keys.add(repeat.prompt.key)

    def forget(self, entry: Entry) -> None:
        """Forget what is known of requests for an entry's answer."""
        if entry.key in self._keys:
            self._clear()

    def _clear(self) -> None:
        self._known.clear()
        self._keys.clear()
        self._bytes = 0
