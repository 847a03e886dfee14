"""What reports teach the cache: verdicts on candidates, and complaints about what was served.

Owns the way from a report to the keeper. What is plain is learned at once; where two answers have to be compared, that
happens after the caller has heard back, and is given up when the encoder has no room. Called by `service.reports`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from index.errors import WaypostError
from index.vectors import Vectors
from index.view import Entry
from service.answers import Answers
from service.cache.keeper import Keeper
from service.cache.semantic import budget_of
from service.cache.verdicts import COMPARED, doubt, near_verdict, plain_verdict
from service.requests import Decision, Trial
from service.settings import CacheSettings

# Pairs of answers that may wait to be compared; what is beyond is as unknown as what nobody can tell.
_MOST_WAITING: Final = 64
# What a kill may cost of what was learned.
_KEEP_EVERY_S: Final = 5.0
KIND: Final = "cache"
"""What was learned of caching, among what is kept."""

Put = Callable[[str, str, Any], None]


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A candidate whose answer was right; where it is `sure` within the budget, it may be served for this prompt."""

    entry: Entry
    sure: bool


class Lessons:
    """Teaches the keeper.

    Args:
        keeper: who learns.
        answers: where the candidates' texts are.
        embed: returns the vector of a text, of unit length.
        settings: of the cache.
    """

    def __init__(
        self, keeper: Keeper, answers: Answers, embed: Callable[[str], Awaitable[Vectors]], settings: CacheSettings
    ) -> None:
        self.keeper = keeper
        self._answers, self._embed, self._settings = answers, embed, settings
        self._comparing: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._put: Put = lambda *_: None

    def keep(self, kept: Mapping[str, Any], put: Put) -> None:
        """Go on from what was kept, and from now on have it kept.

        Args:
            kept: by account.
            put: keeps a value by kind and key; called every few seconds with what has changed, on the event loop.
        """
        self.keeper.restore(kept)
        self._put = put
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    def hear(self, decision: Decision, answer: str, equivalent: bool | None) -> Confirmed | None:  # noqa: FBT001
        """Learn from what a model answered in a candidate's place; return the candidate if it plainly was right.

        Args:
            decision: with its trial, which is used up.
            answer: the whole answer; "" where only `equivalent` counts.
            equivalent: what the caller says of the candidate.
        """
        trial, account = decision.trial, decision.request.account
        if trial is None or decision.taught or decision.hit is not None:
            return None
        decision.taught = True
        verdict = plain_verdict(equivalent, answer, trial.entry.meaning)
        if verdict is not None:
            self.keeper.learn(account, trial, wrong=not verdict)
        elif len(self._comparing) < _MOST_WAITING:
            task = asyncio.get_running_loop().create_task(self._compare(account, trial, answer))
            self._comparing.add(task)
            task.add_done_callback(self._comparing.discard)
        else:
            self.keeper.learn_unknown(account, trial)
        if not verdict:
            return None
        left = doubt(trial.error, said=equivalent is not None)
        return Confirmed(trial.entry, sure=left <= trial.budget)

    def complain(self, decision: Decision) -> None:
        """Learn that what was served was wrong; of one decision only once, however often it is said."""
        if decision.hit is None or decision.complained:
            return
        decision.complained = True
        trial = None if decision.taught else decision.trial
        decision.taught = True
        request = decision.request
        budget = budget_of(request.cache, self._settings.of(request.scope))
        self.keeper.complain(request.account, budget, trial, decision.hit.answer.meaning)

    async def settle(self) -> None:
        """Wait until what was heard is learned."""
        await asyncio.gather(*self._comparing, return_exceptions=True)

    async def close(self) -> None:
        """Give up what is still being compared, and hand over what has changed."""
        for task in self._comparing:
            task.cancel()
        await asyncio.gather(*self._comparing, return_exceptions=True)
        if self._keeping is not None:
            self._keeping.cancel()
        self._hand_over()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_EVERY_S)
            self._hand_over()

    def _hand_over(self) -> None:
        for account, state in self.keeper.changed():
            self._put(KIND, account, state)

    async def _compare(self, account: str, trial: Trial, answer: str) -> None:
        found = self._answers.fetch(trial.entry)
        if found is None:  # removed meanwhile
            return
        candidate = found.content
        try:
            one, other = await asyncio.gather(self._embed(answer[:COMPARED]), self._embed(candidate[:COMPARED]))
        except WaypostError:  # no room, or shutting down
            self.keeper.learn_unknown(account, trial)
            return
        verdict = near_verdict(float(one @ other), answer, candidate)
        if verdict is None:
            self.keeper.learn_unknown(account, trial)
        else:
            self.keeper.learn(account, trial, wrong=not verdict)
