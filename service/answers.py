"""Everything that is written while serving: cached answers and live references, durably, then visibly.

One write at a time goes to the store, on a thread of its own, and takes along all that was asked for while the last one
ran; a caller hears back after its part is on disk and in the view. Removals are in the view before their caller
hears back, so no later lookup finds what was removed. Called by the edge; lookups only read its view.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import structlog
from cachetools import LRUCache

from index.errors import StoreDamagedError, StoreError, StoreFullError
from index.records import Answer, LiveReference
from index.store import Change, Kind, Record, RecordKey, Store, key_of
from index.view import Entry, View
from service.cache.capacity import Capacity
from service.cache.storable import agreeing, entry_id
from service.clock import Clock
from service.settings import CacheSettings

# Answers served lately, so that popular ones are not read from the disk's file again and again.
_RECENT_BYTES: Final = 16 << 20
_TEND_EVERY_S: Final = 5.0
# A popular answer on a damaged disk is found a thousand times a second.
_COMPLAIN_EVERY_S: Final = 10.0
_SWEEP_AT_ONCE: Final = 10_000
# Answers to one prompt, each of another principal, that a new one is compared with.
_COMPARED: Final = 16
_READ_AT_ONCE: Final = 8
_log = structlog.get_logger("waypost")


@dataclass(slots=True)
class _Job:
    puts: Sequence[Record]
    deletes: Sequence[RecordKey]
    done: "asyncio.Future[None]"
    still: Callable[[RecordKey], bool] | None = None  # which of the deletes still hold when it comes to them


class Answers:
    """The store and the view of it, kept in step.

    Args:
        store: the record; closed by `close`.
        view: loaded from it.
        settings: how much is kept of each scope; above it those answers go that are worth least.
    """

    def __init__(self, store: Store, view: View, settings: CacheSettings) -> None:
        self.view = view
        self.clock = Clock(view.youngest)
        self._store = store
        self._settings = settings
        self.capacity = Capacity(view, settings)
        self.memory_per_answer = view.memory_per_answer()
        self.let_go: Callable[[Entry], None] = lambda _: None
        """Told of each entry that goes, for who remembers something of it."""
        self._thread = ThreadPoolExecutor(1, "store-writer")
        self._recent: LRUCache[int, Answer] = LRUCache(_RECENT_BYTES, getsizeof=_size)
        self.unreadable = 0
        self._said = (-math.inf, 0)  # when a line about one was logged, and how many there had been by then
        self._hidden: set[RecordKey] = set()  # served no more, but not yet removed
        self._jobs: list[_Job] = []
        self._writer: asyncio.Task[None] | None = None
        self._tender = asyncio.get_running_loop().create_task(self._tend())

    def fetch(self, entry: Entry) -> Answer | None:
        """Return an entry's answer with its text, or None where it was removed meanwhile or cannot be read."""
        # A row is never given out twice, so what is remembered for it cannot be of another answer or an older one.
        try:
            return self._recent[entry.row]
        except KeyError:
            return self._read(entry)

    def _read(self, entry: Entry) -> Answer | None:
        try:
            record = self._store.get(Kind.ANSWER, entry.scope, (entry.answer_id,)).get(entry.answer_id)
        except StoreError as error:  # a model can answer in its place
            self._complain(entry, error)
            return None
        # What is just becoming another wording of some answer has no text of its own any more.
        answer = record if isinstance(record, Answer) and not record.wording_of else None
        if answer is not None and _size(answer) <= _RECENT_BYTES:
            self._recent[entry.row] = answer
        return answer

    def _complain(self, entry: Entry, error: StoreError) -> None:
        """Count an answer that cannot be read, and log it; of many in a short time only the first, and their number."""
        self.unreadable += 1
        now, (when, before) = time.monotonic(), self._said
        if now - when >= _COMPLAIN_EVERY_S:
            self._said = now, self.unreadable
            others = self.unreadable - before - 1
            _log.error("answer_unreadable", scope=entry.scope, entry=entry.id, why=str(error), unsaid=others)

    def prompts(self, scope: str, ids: Sequence[str]) -> dict[str, str]:
        """Return the prompts of those entries that are there, by id.

        Raises:
            StoreError: the record cannot be read.
        """
        records = self._store.get(Kind.ANSWER, scope, ids)
        return {id_: record.prompt for id_, record in records.items() if isinstance(record, Answer)}

    def page(self, kind: Kind, scope: str, after: int) -> Iterator[Change]:
        """Yield live records of a scope in the order they were written, `after` a sequence number.

        Further wordings of an answer are left out. They are read a few at a time, as they are asked for: a thousand of
        the largest answers are gigabytes.
        """
        while changes := self._store.scan(kind, scope, after=after, limit=_READ_AT_ONCE):
            yield from (change for change in changes if not _is_wording(change.record))
            after = changes[-1].seq

    def these(self, scope: str, ids: Sequence[str], after: int) -> Iterator[Change]:
        """Yield the answers of these ids that are there, numbered from 1 as the ids are, past `after`."""
        for number, entry_id_ in enumerate(ids[after:], after + 1):
            entry = self.view.by_id(scope, entry_id_)
            if entry is not None:
                yield Change(number, RecordKey(Kind.ANSWER, scope, entry.id), self.fetch(entry))

    def wordings(self, answer: Answer) -> list[str]:
        """Return the further prompts that have an answer, oldest first; on any thread."""
        ids = tuple(self.view.wordings(answer.scope, answer.id))
        found = self._store.get(Kind.ANSWER, answer.scope, ids).values() if ids else ()
        said = [one for one in found if isinstance(one, Answer) and one.wording_of == answer.id]
        return [one.prompt for one in sorted(said, key=lambda one: one.stored_at)]

    async def put(self, answer: Answer) -> tuple[Answer, bool]:
        """Store an answer durably and serve it from now on.

        One that is private to a principal becomes everyone's in the scope where another principal's says the same.

        Returns:
            The answer as it was stored, and whether it took another's place.

        Raises:
            StoreFullError: the disk is full; nothing changed.
        """
        instead: list[RecordKey] = []
        if answer.private_to and not answer.wording_of:
            there = [entry for entry in self.view.all_of(answer.scope, answer.key) if not entry.wording_of]
            known = map(self.fetch, there[:_COMPARED])
            others = [one for one in known if one is not None and one.private_to != answer.private_to]
            if same := agreeing(answer, others):
                instead = [key_of(one) for one in same if one.private_to]
                instead.append(key_of(answer))
                # Whoever told it first may have said what it was made from.
                tags = dict.fromkeys(tag for one in (answer, *same) for tag in one.source_tags)
                answer = replace(answer, id=entry_id(answer.key, ""), private_to="", source_tags=tuple(tags))
        replaced = self.view.by_id(answer.scope, answer.id) is not None
        await self._write([answer], instead)
        return answer, replaced

    async def put_references(self, references: Sequence[LiveReference]) -> None:
        """Store live references durably, all or none; they vote from now on."""
        await self._write(references, [])

    async def remove(self, keys: Sequence[RecordKey]) -> None:
        """Remove records durably. After it returns no lookup finds them."""
        if keys:
            await self._write([], keys)

    async def quarantine(self, key: RecordKey) -> None:
        """Remove an answer that is wrong. Where it cannot be written now it is served no more all the same.

        Raises:
            StoreError: it is still stored, and is removed as soon as that can be written.
        """
        try:
            await self.remove([key])
        except StoreError:
            keys = [key, *self._wordings({key: None})]
            before = self.capacity.known(keys)
            self._let_go(keys)
            self.view.apply(Change(0, one, None) for one in keys)
            self.capacity.changed(before, 0)
            self._hidden.update(keys)
            raise

    async def remove_entries(self, entries: Sequence[Entry]) -> None:
        """Remove just these answers durably: what has taken the place of one meanwhile stays."""
        rows = {RecordKey(Kind.ANSWER, entry.scope, entry.id): entry.row for entry in entries}

        def still(key: RecordKey) -> bool:
            there = self.view.by_id(key.scope, key.id)
            return there is not None and there.row == rows[key]

        if rows:
            await self._write([], list(rows), still)

    async def sweep(self) -> None:
        """Remove what has expired, unless it is renewed meanwhile, and what could not be removed when it was wrong."""
        if hidden := list(self._hidden):
            await self._write([], hidden, still=lambda key: self.view.by_id(key.scope, key.id) is None)
            self._hidden.difference_update(hidden)
        if expired := self.view.expired(self.clock.now(), lambda s: self._settings.of(s).stale_s)[:_SWEEP_AT_ONCE]:
            await self._write([], expired, still=self._lapsed)

    async def close(self) -> None:
        """Finish what was begun, then close the store."""
        self._tender.cancel()
        while self._writer is not None:
            await asyncio.shield(self._writer)
        self._thread.shutdown()
        self._store.close()

    async def _write(
        self,
        puts: Sequence[Record],
        deletes: Sequence[RecordKey],
        still: Callable[[RecordKey], bool] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        job = _Job(puts, deletes, loop.create_future(), still)
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
                if job.still is not None and (key in merged or not job.still(key)):
                    continue  # renewed since it was found
                merged.pop(key, None)
                merged[key] = None
            for record in job.puts:
                key = key_of(record)
                merged.pop(key, None)
                merged[key] = record
        loop = asyncio.get_running_loop()
        for scope in self.capacity.unranked(merged):
            await asyncio.to_thread(self.capacity.rank, scope, list(self.view.entries(scope)))
        surplus = self.capacity.surplus(merged)
        merged.update(dict.fromkeys(surplus))
        merged.update(dict.fromkeys(self._wordings(merged)))
        puts = [record for record in merged.values() if record is not None]
        deletes = [key for key, record in merged.items() if record is None]
        try:
            await loop.run_in_executor(self._thread, self._store.write, puts, deletes)
        except BaseException:
            self.capacity.stay(surplus)
            raise
        before = self.capacity.known(merged)
        self._let_go(merged)
        self.view.apply(Change(0, key, record) for key, record in merged.items())
        self.capacity.changed(before, len(surplus))
        for job in jobs:
            if not job.done.done():
                job.done.set_result(None)

    def _let_go(self, keys: Iterable[RecordKey]) -> None:
        """Forget the texts of answers that are removed or replaced: they may not even linger in memory."""
        for key in keys:
            if key.kind is Kind.ANSWER and (entry := self.view.by_id(key.scope, key.id)) is not None:
                self._recent.pop(entry.row, None)
                self.let_go(entry)

    def _wordings(self, merged: Mapping[RecordKey, Record | None]) -> list[RecordKey]:
        """Return the wordings that go with answers that are removed or replaced, and those whose answer is gone."""
        gone = []
        for key, record in merged.items():
            if isinstance(record, Answer) and record.wording_of:
                said = RecordKey(Kind.ANSWER, key.scope, record.wording_of)
                entry = self.view.by_id(key.scope, said.id)
                # It was confirmed for the answer as it was, not for what comes in its place at the same time.
                if said in merged or entry is None or entry.wording_of:
                    gone.append(key)
            if key.kind is Kind.ANSWER:
                there = (RecordKey(Kind.ANSWER, key.scope, one) for one in self.view.wordings(key.scope, key.id))
                gone += [one for one in there if merged.get(one) is None]
        return gone

    def _lapsed(self, key: RecordKey) -> bool:
        entry = self.view.by_id(key.scope, key.id)
        return entry is not None and not entry.alive(self.clock.now() - self._settings.of(key.scope).stale_s)

    async def _tend(self) -> None:
        """Remove what has expired, again and again."""
        while True:
            await asyncio.sleep(_TEND_EVERY_S)
            self.memory_per_answer = self.view.memory_per_answer()
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
