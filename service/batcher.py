"""The bounded queue in front of the encoder: concurrent prompts share its runs without waiting for each other.

A run takes what has queued while the last one ran, never waits for more, and is packed by length within a token
budget: padding is what costs. Identical texts in flight are embedded once, callers that went away are dropped. Workers
are plain threads, as tokeniser, encoder and search release the GIL; what they find is handed back to the event loop
in one call per run. It knows nothing of requests: what to search is the caller's `ask`.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import numpy as np

from index.encoder import Encoder, Tokens
from index.vectors import Vectors
from service.errors import NotReady, Overloaded

Ask = TypeVar("Ask")
Found = TypeVar("Found")

# A run is packed from the oldest this many prompts: enough to find similar lengths, few enough that nobody waits
# long for a run of their own length (with 256 callers the 99th percentile stays below twice the median).
_WINDOW: Final = 64
_MAX_ROWS: Final = 16
# Without a measurement yet: what a prompt costs, in seconds.
_FIRST_GUESS: Final = 2e-3


@dataclass(frozen=True, slots=True)
class Embedded(Generic[Found]):
    """What came of one submission: the vector, what the search found, and how long it took (seconds)."""

    vector: Vectors
    truncated: bool
    found: Found
    queue: float
    encode: float
    search: float


@dataclass(eq=False, slots=True)
class _Text:
    """A text in flight and everyone who waits for it."""

    text: str
    waiters: list[tuple[asyncio.Future[Any], Any, float]] = field(default_factory=list)
    tokens: Tokens | None = None


class Batcher(Generic[Ask, Found]):
    """Embeds texts and searches with their vectors, off the event loop.

    Args:
        encoder: embeds; called from `workers` threads at once.
        search: called on a worker with one ask for each row of the vectors; returns what it found for each.
        workers: threads.
        batch_tokens: the most padded tokens in one run.
        max_queue: submissions that may wait before new ones are refused.
    """

    def __init__(
        self,
        encoder: Encoder,
        search: Callable[[Sequence[Ask], Vectors], Sequence[Found]],
        *,
        workers: int = 2,
        batch_tokens: int = 320,
        max_queue: int = 1_024,
    ) -> None:
        self._encoder, self._search = encoder, search
        self._batch_tokens, self._max_queue = batch_tokens, max_queue
        self._loop = asyncio.get_running_loop()
        self._ready = threading.Condition()
        self._fresh: deque[_Text] = deque()  # not yet tokenised
        self._queue: deque[_Text] = deque()  # tokenised, oldest first
        self._queued: dict[str, _Text] = {}  # both, and those being tokenised now
        self._waiting = 0
        self._idle = 0
        self._closed = False
        self._seconds_per_prompt = _FIRST_GUESS
        self.refused = 0
        self._threads = [threading.Thread(target=self._work, name=f"encoder-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return self._waiting

    def submit(self, text: str, ask: Ask) -> "asyncio.Future[Embedded[Found]]":
        """Return a future of the text's embedding and of what the search found with it; cancel it to leave.

        Raises:
            Overloaded: the queue is full.
            NotReady: the batcher is closed.
        """
        future: asyncio.Future[Embedded[Found]] = self._loop.create_future()
        with self._ready:
            if self._closed:
                raise NotReady("the service is shutting down")
            if self._waiting >= self._max_queue:
                self._drop_gone()
            if self._waiting >= self._max_queue:
                self.refused += 1
                raise Overloaded(self._waiting * self._seconds_per_prompt / len(self._threads))
            self._waiting += 1
            entry = self._queued.get(text)
            if entry is None:
                entry = self._queued[text] = _Text(text)
                self._fresh.append(entry)
                if self._idle:
                    self._ready.notify()
            entry.waiters.append((future, ask, time.perf_counter()))
        return future

    def close(self) -> None:
        """Stop after the runs under way; who still waits gets NotReady. Waits for the threads."""
        with self._ready:
            self._closed = True
            left = [future for entry in self._queued.values() for future, _, _ in entry.waiters]
            self._fresh.clear()
            self._queue.clear()
            self._queued.clear()
            self._waiting = 0
            self._ready.notify_all()
        self._hand_back(_reject, [(future, NotReady("the service is shutting down")) for future in left])
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not (self._fresh or self._queue or self._closed):
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                if self._closed:
                    return
                mine = [self._fresh.popleft() for _ in range(self._share(min(len(self._fresh), _WINDOW)))]
            try:
                tokens = self._encoder.tokenise([entry.text for entry in mine]) if mine else []
            except Exception as error:  # noqa: BLE001 - a worker must outlive whatever one text does
                self._fail(mine, error)
                continue
            with self._ready:
                if self._is_closed():
                    return
                for entry, found in zip(mine, tokens, strict=True):
                    entry.tokens = found
                self._queue.extend(mine)
                batch = self._take()
                if self._queue and self._idle:
                    self._ready.notify()
            if batch:
                self._run(batch)

    def _is_closed(self) -> bool:
        return self._closed

    def _share(self, texts: int) -> int:
        """Return how many of some waiting texts to take, leaving idle workers theirs."""
        return -(-texts // (self._idle + 1))

    def _take(self) -> list[_Text]:
        """Take the oldest text and those of the oldest that are most alike in length, within the budget."""
        self._drop_gone()
        window = [entry for entry, _ in zip(self._queue, range(_WINDOW), strict=False)]
        if not window:
            return []
        lengths = [len(entry.tokens) for entry in window if entry.tokens is not None]
        batch = choose(lengths, self._batch_tokens, min(self._share(len(window)), _MAX_ROWS))
        taken = [window[i] for i in batch]
        for entry in taken:
            self._queue.remove(entry)
            del self._queued[entry.text]
            self._waiting -= len(entry.waiters)
        return taken

    def _drop_gone(self) -> None:
        """Forget callers that went away, and texts nobody waits for any more."""
        for queue in (self._fresh, self._queue):
            gone = []
            for entry in queue:
                if any(waiter[0].done() for waiter in entry.waiters):
                    alive = [waiter for waiter in entry.waiters if not waiter[0].done()]
                    self._waiting -= len(entry.waiters) - len(alive)
                    entry.waiters = alive
                    if not alive:
                        gone.append(entry)
            for entry in gone:
                queue.remove(entry)
                del self._queued[entry.text]

    def _run(self, batch: list[_Text]) -> None:
        if not batch:
            return
        try:
            started = time.perf_counter()
            vectors = self._encoder.encode([e.tokens for e in batch if e.tokens is not None])
            encoded = time.perf_counter()
            rows = [i for i, entry in enumerate(batch) for _ in entry.waiters]
            asks = [ask for entry in batch for _, ask, _ in entry.waiters]
            found = self._search(asks, vectors if len(rows) == len(batch) else vectors[rows])
            searched = time.perf_counter()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._fail(batch, error)
            return
        seconds = (searched - started) / len(batch)
        self._seconds_per_prompt += 0.05 * (seconds - self._seconds_per_prompt)
        results = []
        finds = iter(found)
        for entry, vector in zip(batch, np.asarray(vectors), strict=True):
            truncated = entry.tokens is not None and entry.tokens.truncated
            for future, _, submitted in entry.waiters:
                result = Embedded(
                    vector,
                    truncated,
                    next(finds),
                    started - submitted,
                    encoded - started,
                    searched - encoded,
                )
                results.append((future, result))
        self._hand_back(_resolve, results)

    def _fail(self, batch: list[_Text], error: Exception) -> None:
        """Tell everyone who waits for these texts what went wrong; the texts are not queued any more."""
        with self._ready:
            for entry in batch:
                if self._queued.get(entry.text) is entry:
                    del self._queued[entry.text]
                    self._waiting -= len(entry.waiters)
        self._hand_back(_reject, [(future, error) for entry in batch for future, _, _ in entry.waiters])

    def _hand_back(self, how: Callable[[list[Any]], None], results: list[Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(how, results)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


def choose(lengths: Sequence[int], budget: int, rows: int) -> list[int]:
    """Return which of some waiting texts to run: the first, and those nearest to it in length.

    Args:
        lengths: tokens of each text, oldest first; at least one.
        budget: the most padded tokens (rows times the longest); the first is taken even above it.
        rows: the most texts, at least 1.

    Returns:
        Indices into `lengths`, the first of which is 0.
    """
    first = lengths[0]
    batch, longest = [0], first
    for i in sorted(range(1, len(lengths)), key=lambda i: abs(lengths[i] - first)):
        if len(batch) >= rows:
            break
        widened = max(longest, lengths[i])
        if widened * (len(batch) + 1) <= budget:
            batch.append(i)
            longest = widened
    return batch


def _resolve(results: list[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, result in results:
        if not future.done():
            future.set_result(result)


def _reject(results: list[tuple["asyncio.Future[Any]", Exception]]) -> None:
    for future, error in results:
        if not future.done():
            future.set_exception(error)
