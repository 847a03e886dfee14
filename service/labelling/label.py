"""Who is asked what, within a budget: every prompt, every model, then a score; as many at a time as endpoints allow."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from index.errors import InputError
from index.records import Message
from service.labelling.endpoints import Answered, Caller, CallFailed, EndpointRefused, Priced
from service.labelling.results import Call, Results, Unlabelled
from service.labelling.scores import COMPARISONS, has_number, judge_messages, judged

JUDGE: Final = "judge"
_IN_A_ROW: Final = 10
Progress = Callable[[int, int, float], None]


@dataclass(slots=True)
class Labelled:
    """What a run did: `stopped` says why before everything was done, `refused` which endpoints will not answer."""

    asked: int = 0
    scored: int = 0
    failed: int = 0
    left: int = 0
    stopped: str = ""
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Budget:
    """What may be spent: calls under way are reserved for at the most they may cost."""

    limit: float
    spent: float
    reserved: float = 0.0
    under_way: int = 0

    def takes(self, most: float) -> bool:
        return self.spent + self.reserved + most <= self.limit

    def reserve(self, most: float) -> None:
        self.reserved, self.under_way = self.reserved + most, self.under_way + 1

    def release(self, most: float) -> None:
        self.under_way -= 1
        self.reserved = self.reserved - most if self.under_way else 0.0


class _Work:
    """One run."""

    def __init__(
        self, endpoints: Sequence[Priced], judge: Priced | None, scoring: str, results: Results, budget_usd: float
    ) -> None:
        self.endpoints, self.judge, self.scoring, self.results = endpoints, judge, scoring, results
        self.caller = Caller([*endpoints, *([judge] if judge else [])])
        self.budget = _Budget(budget_usd, results.spent)
        self.done = Labelled()
        self._in_a_row: dict[str, int] = {}
        self._room = asyncio.Condition()

    async def one(self, prompt: Unlabelled, priced: Priced) -> None:
        """Have one prompt answered by one model, unless it was, and the answer scored."""
        call, who = (prompt.id, priced.model), priced.model
        try:
            content = self.results.answers.get(call)
            if content is None:
                content = await self._answer(call, prompt, priced)
                self._in_a_row[who] = 0
            who = JUDGE if self.scoring == JUDGE else who
            if await self._score(call, prompt, content):
                self._in_a_row[who] = 0
        except _OverBudget:
            self.done.stopped = "the budget is spent"
        except CallFailed as error:
            self._failed(call, who, str(error))
        except EndpointRefused as error:
            self.done.refused[who] = str(error)

    def _failed(self, call: Call, who: str, why: str, cost_usd: float = 0.0) -> None:
        """Write down that a call led to nothing; whoever fails again and again is not asked any more."""
        self.results.failed(call, why, cost_usd)
        self.done.failed += 1
        self._in_a_row[who] = self._in_a_row.get(who, 0) + 1
        if self._in_a_row[who] >= _IN_A_ROW:
            self.done.refused[who] = f"{_IN_A_ROW} failures in a row, the last: {why}"

    async def _answer(self, call: Call, prompt: Unlabelled, priced: Priced) -> str:
        answered = await self._paid(priced, prompt.messages)
        self.done.asked += 1
        self.results.answered(
            call,
            answered.content,
            answered.cost_usd,
            asked=prompt.digest,
            latency_s=round(answered.latency_s, 3),
            input_tokens=answered.input_tokens,
            output_tokens=answered.output_tokens,
            finish_reason=answered.finish_reason,
        )
        return answered.content

    async def _score(self, call: Call, prompt: Unlabelled, content: str) -> bool:
        """Return whether there is a score now."""
        basis = prompt.basis(self.scoring)
        if self.scoring != JUDGE:
            self.results.scored(call, COMPARISONS[self.scoring](content, prompt.expected), 0.0, basis=basis)
        elif not content.strip():
            self.results.scored(call, 0.0, 0.0, basis=basis)
        elif self.judge is not None:
            question = "\n\n".join(f"{m.role}: {m.content}" for m in prompt.messages)
            question = question if len(prompt.messages) > 1 else prompt.prompt
            said = await self._paid(self.judge, judge_messages(question, content, prompt.expected))
            score = judged(said.content)
            if score is None:
                self._failed(call, JUDGE, f"the judge gave no score: {said.content[:200]}", said.cost_usd)
                return False
            self.results.scored(call, score, said.cost_usd, basis=basis, judge=self.judge.model)
        self.done.scored += 1
        return True

    async def _paid(self, priced: Priced, messages: Sequence[Message]) -> Answered:
        most = priced.most(messages)
        async with self._room:  # calls under way cost less than is reserved for them
            await self._room.wait_for(lambda: self.budget.takes(most) or not self.budget.under_way)
            if not self.budget.takes(most):
                raise _OverBudget
            self.budget.reserve(most)
        try:
            answered = await self.caller.call(priced, messages)
            self.budget.spent += answered.cost_usd
            return answered
        finally:
            self.budget.release(most)
            async with self._room:
                self._room.notify_all()

    def goes_on(self, priced: Priced) -> bool:
        """Return whether asking this model makes sense."""
        return not self.done.stopped and priced.model not in self.done.refused and JUDGE not in self.done.refused


class _OverBudget(Exception):  # noqa: N818 - not an error
    """The next call might overrun the budget."""


def check_scoring(scoring: str, judge: Priced | None, prompts: Sequence[Unlabelled]) -> None:
    """Raise InputError where answers cannot be scored in this way."""
    if scoring == JUDGE:
        if judge is None:
            raise InputError("--score judge needs a [judge] in the file of endpoints")
    elif scoring not in COMPARISONS:
        raise InputError(f"--score {scoring}: expected {JUDGE}, {', '.join(COMPARISONS)}")
    elif without := [one.id for one in prompts if not one.expected]:
        raise InputError(
            f"--score {scoring}: {len(without)} prompts have no `expected` answer ({', '.join(without[:3])}): "
            "add one to each, or use --score judge"
        )
    elif scoring == "number" and (without := [one.id for one in prompts if not has_number(one.expected)]):
        raise InputError(
            f"--score number: `expected` of {len(without)} prompts has no number ({', '.join(without[:3])}): "
            "mend them, or use --score contains"
        )


async def label(
    prompts: Sequence[Unlabelled],
    endpoints: Sequence[Priced],
    judge: Priced | None,
    scoring: str,
    results: Results,
    budget_usd: float,
    progress: Progress = lambda _done, _total, _spent: None,
) -> Labelled:
    """Have all prompts answered by all models and scored, but for what results already hold.

    Args:
        prompts: what to ask.
        endpoints: whom.
        judge: who scores, where `scoring` is "judge".
        scoring: "judge", or a comparison with the expected answers.
        results: what was done before; every call is added to it at once.
        budget_usd: the most that all runs together may spend: nothing is begun that might overrun it.
        progress: called with what is scored, what there is in all, and USD spent.

    Raises:
        InputError: answers cannot be scored so.
    """
    check_scoring(scoring, judge, prompts)
    results.keep_to(prompts, scoring)
    every = [(one, priced) for one in prompts for priced in endpoints]
    todo = [(one, priced) for one, priced in every if (one.id, priced.model) not in results.scores]
    work = _Work(endpoints, judge, scoring, results, budget_usd)
    finished = len(every) - len(todo)
    waiting: Iterator[tuple[Unlabelled, Priced]] = iter(todo)

    async def worker() -> None:
        nonlocal finished
        for prompt, priced in waiting:
            if work.goes_on(priced):
                await work.one(prompt, priced)
                finished += (prompt.id, priced.model) in results.scores
                progress(finished, len(every), results.spent)

    progress(finished, len(every), results.spent)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(sum(one.endpoint.concurrency for one in endpoints), len(todo))):
                group.create_task(worker())
    finally:
        await work.caller.close()
    work.done.left = len(every) - finished
    return work.done
