"""Everything that is written while serving: cached answers and live references, durably, then visibly.

One write at a time goes to the store, on a thread of its own, and takes along all that was asked for while the last one
ran; a caller hears back after its part is on disk and in the view. Removals are in the view before their caller
hears back, so no later lookup finds what was removed. Called by the edge; lookups only read its view.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

import structlog
from cachetools import LRUCache

from index.errors import StoreDamagedError, StoreError, StoreFullError
from index.records import Answer, LiveReference
from index.store import Change, Kind, Record, RecordKey, Store, key_of
from index.view import Entry, View

# Answers served lately, so that popular ones are not read from the disk's file again and again.
_RECENT_BYTES: Final = 16 << 20
_TEND_EVERY_S: Final = 5.0
_SWEEP_AT_ONCE: Final = 10_000
_READ_AT_ONCE: Final = 8
_log = structlog.get_logger("waypost")


@dataclass(slots=True)
class _Job:
    puts: Sequence[Record]
    deletes: Sequence[RecordKey]
    done: "asyncio.Future[None]"
    only_lapsed: bool = False


class Answers:
    """The store and the view of it, kept in step.

    Args:
        store: the record; closed by `close`.
        view: loaded from it.
        max_answers: kept for one scope; above it the oldest go.
    """

    def __init__(self, store: Store, view: View, max_answers: int) -> None:
        self.view = view
        self._store = store
        self._max_answers = max_answers
        self._thread = ThreadPoolExecutor(1, "store-writer")
        self._recent: LRUCache[int, Answer] = LRUCache(_RECENT_BYTES, getsizeof=_size)
        self.unreadable = 0
        self._jobs: list[_Job] = []
        self._writer: asyncio.Task[None] | None = None
        self._tender = asyncio.get_running_loop().create_task(self._tend())

    def fetch(self, entry: Entry) -> Answer | None:
        """Return an entry's answer with its text, or None where it was removed meanwhile or cannot be read."""
        # A row is never given out twice, so what is remembered for it cannot be of another answer or an older one.
        answer = self._recent.get(entry.row)
        if answer is None:
            try:
                record = self._store.get(Kind.ANSWER, entry.scope, (entry.answer_id,)).get(entry.answer_id)
            except StoreError as error:  # a model can answer in its place
                self.unreadable += 1
                _log.error("answer_unreadable", scope=entry.scope, entry=entry.id, why=str(error))
                return None
            answer = record if isinstance(record, Answer) else None
            if answer is not None and _size(answer) <= _RECENT_BYTES:
                self._recent[entry.row] = answer
        return answer

    def page(self, kind: Kind, scope: str, after: int) -> Iterator[Change]:
        """Yield live records of a scope in the order they were written, `after` a sequence number.

        Further wordings of an answer are left out. They are read a few at a time, as they are asked for: a thousand of
        the largest answers are gigabytes.
        """
        while changes := self._store.scan(kind, scope, after=after, limit=_READ_AT_ONCE):
            yield from (change for change in changes if not _is_wording(change.record))
            after = changes[-1].seq

    async def put(self, answer: Answer) -> bool:
        """Store an answer durably and serve it from now on; return whether it took another's place.

        Raises:
            StoreFullError: the disk is full; nothing changed.
        """
        replaced = self.view.by_id(answer.scope, answer.id) is not None
        await self._write([answer], [])
        return replaced

    async def put_references(self, references: Sequence[LiveReference]) -> None:
        """Store live references durably, all or none; they vote from now on."""
        await self._write(references, [])

    async def remove(self, keys: Sequence[RecordKey]) -> None:
        """Remove records durably. After it returns no lookup finds them."""
        if keys:
            await self._write([], keys)

    async def sweep(self) -> None:
        """Remove what has expired, unless it is renewed meanwhile."""
        if expired := self.view.expired(time.time())[:_SWEEP_AT_ONCE]:
            await self._write([], expired, only_lapsed=True)

    async def close(self) -> None:
        """Finish what was begun, then close the store."""
        self._tender.cancel()
        while self._writer is not None:
            await asyncio.shield(self._writer)
        self._thread.shutdown()
        self._store.close()

    async def _write(self, puts: Sequence[Record], deletes: Sequence[RecordKey], *, only_lapsed: bool = False) -> None:
        loop = asyncio.get_running_loop()
        job = _Job(puts, deletes, loop.create_future(), only_lapsed)
        self._jobs.append(job)
        if self._writer is None:
            self._writer = loop.create_task(self._run_jobs())
        # A caller that goes away does not take back what is already on its way to the disk.
        await asyncio.shield(job.done)

    async def _run_jobs(self) -> None:
        try:
            while self._jobs:
                jobs, self._jobs = self._jobs, []
                try:
                    await self._commit(jobs)
                except (StoreFullError, StoreDamagedError) as error:
                    _fail(jobs, error)
                except Exception as error:  # noqa: BLE001 - nobody may wait for ever
                    if len(jobs) == 1 or not isinstance(error, StoreError):
                        _fail(jobs, error)
                    else:
                        await self._one_by_one(jobs)
        finally:
            self._writer = None

    async def _one_by_one(self, jobs: list[_Job]) -> None:
        """Commit alone what could not be committed together: one caller's bad record must not fail another's."""
        for job in jobs:
            try:
                await self._commit([job])
            except Exception as error:  # noqa: BLE001 - nobody may wait for ever
                _fail([job], error)

    async def _commit(self, jobs: list[_Job]) -> None:
        merged: dict[RecordKey, Record | None] = {}
        for job in jobs:
            for key in job.deletes:
                if job.only_lapsed and (key in merged or not self._lapsed(key)):
                    continue  # renewed since it was found
                merged.pop(key, None)
                merged[key] = None
            for record in job.puts:
                key = key_of(record)
                merged.pop(key, None)
                merged[key] = record
        for key in self._surplus(merged):
            merged[key] = None
        for key in self._wordings(merged):
            merged[key] = None
        puts = [record for record in merged.values() if record is not None]
        deletes = [key for key, record in merged.items() if record is None]
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.write, puts, deletes)
        self._let_go(merged)
        self.view.apply(Change(0, key, record) for key, record in merged.items())
        for job in jobs:
            if not job.done.done():
                job.done.set_result(None)

    def _let_go(self, keys: Iterable[RecordKey]) -> None:
        """Forget the texts of answers that are removed or replaced: they may not even linger in memory."""
        for key in keys:
            if key.kind is Kind.ANSWER and (entry := self.view.by_id(key.scope, key.id)) is not None:
                self._recent.pop(entry.row, None)

    def _wordings(self, merged: Mapping[RecordKey, Record | None]) -> list[RecordKey]:
        """Return the wordings that go with answers that are removed or replaced, and those whose answer is gone."""
        gone = []
        for key, record in merged.items():
            if isinstance(record, Answer) and record.wording_of:
                said = RecordKey(Kind.ANSWER, key.scope, record.wording_of)
                if merged.get(said) is None and (said in merged or self.view.by_id(key.scope, said.id) is None):
                    gone.append(key)
            elif key.kind is Kind.ANSWER:
                there = (RecordKey(Kind.ANSWER, key.scope, one) for one in self.view.wordings(key.scope, key.id))
                gone += [one for one in there if merged.get(one) is None]
        return gone

    def _lapsed(self, key: RecordKey) -> bool:
        entry = self.view.by_id(key.scope, key.id)
        return entry is not None and not entry.alive(time.time())

    def _surplus(self, merged: dict[RecordKey, Record | None]) -> list[RecordKey]:
        """Return the oldest answers of each scope that these changes would leave beyond its capacity."""
        grown: dict[str, int] = {}
        for key, record in merged.items():
            if key.kind is Kind.ANSWER:
                there = self.view.by_id(key.scope, key.id) is not None
                grown[key.scope] = grown.get(key.scope, 0) + (record is not None) - there
        surplus: list[RecordKey] = []
        for scope, by in grown.items():
            excess = len(self.view.entries(scope)) + by - self._max_answers
            if excess > 0:
                old = (RecordKey(Kind.ANSWER, scope, e.id) for e in self.view.entries(scope))
                new = (key_of(r) for r in merged.values() if isinstance(r, Answer) and r.scope == scope)
                surplus += islice(chain((key for key in old if key not in merged), new), excess)
        return surplus

    async def _tend(self) -> None:
        """Remove what has expired, again and again."""
        while True:
            await asyncio.sleep(_TEND_EVERY_S)
            # What could not be removed is not served meanwhile, and the next round tries again.
            with contextlib.suppress(StoreError):
                await self.sweep()


def _is_wording(record: Record | None) -> bool:
    return isinstance(record, Answer) and bool(record.wording_of)


def _size(answer: Answer) -> int:
    """Return about how many bytes an answer takes in memory."""
    return 1_000 + 2 * (len(answer.content) + len(answer.prompt)) + len(answer.vector)


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)
