"""Keeps what is learned up to date: reads the journal at the start, fits heads, follows generations.

Owns one task on the event loop; all that takes time happens on a thread of its own. Put together by `service.runtime`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import numpy as np
import structlog

from index.sqlite_journal import DecisionRow, ReportRow
from service.learning.heads import Sample, mean_quality, region_of
from service.learning.journal import Journal, restored
from service.learning.online import Learner
from service.settings import LearningSettings

_log = structlog.get_logger("waypost")
_EVERY_S: Final = 1.0
# Of one core, fitting may take a tenth.
_REST: Final = 9.0
# Reports older than so many half-lives no longer count.
_HALF_LIVES: Final = 4.0

T = TypeVar("T")
Expect = Callable[[str, Sequence[Sample]], Sequence[tuple[float, float]]]
"""(scope, samples) → the quality that the generation in use expects of each sample's model, and of all on average."""


class Tutor:
    """Lets a learner learn.

    Args:
        learner: belongs to the event loop.
        journal: where past reports are read from; None: nothing was recorded.
        expect: estimates again what was estimated with another generation; called on a thread.
        generation: returns the id of the one in use.
        settings: how far back reports count.
    """

    def __init__(
        self,
        learner: Learner,
        journal: Journal | None,
        expect: Expect,
        generation: Callable[[], str],
        settings: LearningSettings,
    ) -> None:
        self._learner, self._journal, self._expect, self._generation = learner, journal, expect, generation
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "tutor")
        self._based_on = generation()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def forget(self, scope: str, source: str) -> int:
        """Forget what a source said of quality, in memory and in the journal; return how many reports that were."""
        gone = self._learner.forget(scope, source)
        if self._journal is not None:
            journal = self._journal
            gone = max(gone, await self._on_thread(lambda: journal.forget(scope, source)))
        return gone

    async def close(self) -> None:
        """Stop."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            try:
                if self._journal is not None and self._settings.enabled:
                    await self._remember()
                while True:
                    await self._once()
                    await asyncio.sleep(_EVERY_S)
            except Exception:  # noqa: BLE001 - decisions go on with what was learned so far
                _log.exception("learning_failed")
                await asyncio.sleep(60 * _EVERY_S)

    async def _remember(self) -> None:
        """Take in what was reported before the start."""
        journal, settings = self._journal, self._settings
        if journal is None or len(self._learner):
            return
        since = time.time() - _HALF_LIVES * settings.half_life_days * 86_400
        rows = await self._on_thread(lambda: journal.file.rated(since, 4 * settings.keep))
        known: dict[str, list[Sample]] = {}
        for decision, report in rows:
            if (sample := _sample(decision, report)) is not None:
                known.setdefault(decision.scope, []).append(sample)
        for scope, samples in known.items():
            self._learner.take(scope, await self._based(scope, samples))
        if known:
            _log.info("reports_remembered", scopes=len(known), reports=len(self._learner))

    async def _once(self) -> None:
        if self._based_on != self._generation():
            self._based_on = self._generation()
            for scope, samples in self._learner.samples():
                self._learner.rebase(scope, await self._based(scope, samples))
        for scope in self._learner.due():
            started = time.perf_counter()
            done = await self._on_thread(self._learner.fit(scope))
            done()
            await asyncio.sleep(_REST * (time.perf_counter() - started))

    async def _based(self, scope: str, samples: Sequence[Sample]) -> list[Sample]:
        """Return samples with what the generation in use expects, where another one's expectations are in them."""
        now = self._generation()
        # Without its text a prompt cannot be estimated again: what another generation expected has to do.
        stale = [i for i, sample in enumerate(samples) if sample.generation != now and sample.text]
        fresh = list(samples)
        for first in range(0, len(stale), 64):
            some = stale[first : first + 64]
            values = await self._on_thread(partial(self._expect, scope, [fresh[i] for i in some]))
            for i, value in zip(some, values, strict=True):
                fresh[i] = fresh[i]._replace(expected=value[0], others=value[1], generation=now)
        return fresh

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _sample(decision: DecisionRow, report: ReportRow) -> Sample | None:
    """Return the sample of a recorded report; None where nothing was estimated."""
    if report.quality is None or report.expected is None or not decision.vector:
        return None
    vector = np.frombuffer(decision.vector, "<f4")
    return Sample(
        report.at,
        report.model,
        report.source,
        vector,
        report.expected,
        mean_quality(restored(decision).expected),
        report.quality,
        decision.id,
        decision.generation,
        decision.size,
        decision.prompt or "",
        int(region_of(vector[None])[0]),
    )
