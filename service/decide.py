"""One decision, from request to response: the whole product in one pass. Each stage is a module of its own.

    admit ─ normalise ─ rules ─ exact hit? ─ encode ─ search ─ verify hit? ─ wait? ─ estimate ─ choose ─ record

Admitting (who, limits of the contract) happens at the edge, in service.server. Everything here runs on the event loop
but for encoding and searching, which the batcher does on its threads.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import numpy as np
from cachetools import LRUCache

from index.generation import Generation
from index.records import Answer, Message, Reference
from index.text import EMPTY_CONTEXT, Context, answer_key, canonical, context_fingerprint
from index.view import Entry
from index.wording import Prepared
from service import log
from service.answers import Answers
from service.batcher import Batcher, Embedded
from service.cache.flights import Flights
from service.cache.followups import refers_back
from service.cache.keeper import Keeper
from service.cache.semantic import Judge, budget_of, likelihood, reading, refusal, verify
from service.cache.storable import too_hot
from service.chance import new_id
from service.decisions import DecisionLog
from service.learning.journal import Journal
from service.learning.online import Learner
from service.lookup import NOTHING_FOUND, Ask, Found
from service.metrics import Metrics
from service.policy.facts import category
from service.policy.policy import Policy
from service.repeats import Repeats
from service.requests import NO_VOTERS, CacheMode, Decision, Hit, Plan, Prompt, Reason, Request, Timings, Voters
from service.routing.choose import Known, fallback_model
from service.routing.estimate import Asked, Estimated, estimate
from service.routing.feedback import Feedback
from service.routing.plan import describe, shaped
from service.settings import Settings
from service.spending import Accounts

# Left of a deadline for everything after the embedding, response included: a tenth, but never less than this.
_LEAST_MARGIN_S = 0.005
# Answers of which all but the text is remembered once for all decisions that served them, about 300 bytes each.
_MOST_BARE = 2_048


class OutOfTime(Exception):  # noqa: N818 - not an error: the decision is made without an embedding
    """The caller's deadline is near."""


@dataclass(slots=True)
class Decider:
    """All that a decision needs. `generation` may be swapped at any time: each decision reads it once."""

    settings: Settings
    generation: Generation
    answers: Answers
    batcher: Batcher[Ask, Found]
    judge: Judge
    keeper: Keeper
    log: DecisionLog
    metrics: Metrics
    flights: Flights
    feedback: Feedback = field(default_factory=Feedback)
    learner: Learner | None = None
    journal: Journal | None = None
    accounts: Accounts | None = None
    policy: Policy = field(init=False)
    repeats: Repeats = field(init=False, default_factory=Repeats)
    _base: tuple[Generation, int] | None = field(init=False, default=None)
    _bare: LRUCache[tuple[str, float, bytes], Answer] = field(init=False, default_factory=lambda: LRUCache(_MOST_BARE))

    def __post_init__(self) -> None:
        self.policy = Policy(self.settings.policy, self.settings.routing, self.settings.review)
        self.policy.prepare(self.generation)

    async def decide(
        self,
        request: Request,
        started: float,
        deadline: float | None = None,
        prompt: Prompt | None = None,
        peer: Callable[[], str] = str,
    ) -> Decision:
        """Return a cached answer that is safe to serve, or the plan; the edge has it recorded when it sends it.

        Args:
            request: checked against the contract's limits.
            started: when it arrived (perf_counter).
            deadline: when the caller gives up (perf_counter); None: never.
            prompt: what `keyed` makes of the request, where that is known.
            peer: returns the connection it came by, as gRPC names it.

        Raises:
            Overloaded: the encoder's queue is full.
        """
        generation, now = self.generation, self.answers.clock.now()
        timings = Timings(admit=perf_counter() - started)
        mark = perf_counter()
        prompt = prompt or keyed(request)
        request, trace = self.policy.admit(request, prompt, generation)
        timings.normalise = perf_counter() - mark
        decision = Decision(new_id(), request, prompt, generation.id, now, timings, trace=trace)
        caching = self.settings.cache.enabled
        reads = caching and request.cache.reads
        # How good a model is for a prompt is only known once that is embedded.
        demands = reads and request.route.least_quality > 0

        if reads and not demands and self._served_exactly(decision, now):
            self._count(decision)
            return _timed(decision, started)

        prompt = decision.prompt = understood(prompt, request)
        found = NOTHING_FOUND
        try:
            embedded = await self._embed(request, prompt, generation, deadline, semantic=caching)
            timings.queue, timings.encode, timings.search = (
                embedded.queue,
                embedded.encode,
                embedded.search,
            )
            found, decision.truncated = embedded.found, embedded.truncated
            decision.vector = embedded.vector.tobytes()
        except OutOfTime:
            decision.degraded = True

        if caching:
            self._budget(decision, found, generation)
            self._count(decision)
        estimated = self._demanded(decision, found, generation) if demands else None
        if demands and self._served_exactly(decision, now):
            return _timed(decision, started)
        if self._served_alike(decision, found, now):
            return _timed(decision, started)

        if reads and request.cache.wait:
            mark = perf_counter()
            await self._wait(decision, deadline)
            timings.wait = perf_counter() - mark
            if decision.hit is not None:
                return _timed(decision, started)

        if estimated is None:
            mark = perf_counter()
            estimated = self._estimate(decision, found, generation)
            timings.estimate = perf_counter() - mark
        mark = perf_counter()
        decision.plan = self._choose(decision, estimated, generation)
        timings.choose = perf_counter() - mark
        if caching and request.cache.fills and decision.plan.steps:
            self._hand_out_token(decision, peer)
        return _timed(decision, started)

    def _served_exactly(self, decision: Decision, now: float) -> bool:
        """Return whether the answer to the same text is the hit."""
        mark = perf_counter()
        decision.hit = hit = self._exact(decision.request, decision.prompt, now)
        decision.timings.exact = perf_counter() - mark
        return hit is not None

    def _served_alike(self, decision: Decision, found: Found, now: float) -> bool:
        """Return whether the answer to a text that is near is the hit."""
        if not found.answers:
            self._note_refusal(decision)
            return False
        mark = perf_counter()
        self._verify(decision, found, now)
        decision.timings.verify = perf_counter() - mark
        return decision.hit is not None

    def _demanded(self, decision: Decision, found: Found, generation: Generation) -> Estimated:
        """Estimate before an answer is served: of models that are not good enough none is wanted."""
        mark = perf_counter()
        estimated = self._estimate(decision, found, generation)
        decision.request = self.policy.able(decision.request, estimated.estimates, generation)
        decision.timings.estimate = perf_counter() - mark
        return estimated

    def _exact(self, request: Request, prompt: Prompt, now: float) -> Hit | None:
        """Return the answer to the same text in the same context, if it may be served."""
        entry = self.answers.view.exact(request.scope, prompt.key, request.private_to)
        if entry is None or not _young(entry, request.cache.max_age, now) or not request.route.admits(entry.model):
            return None
        stale = not entry.alive(now)
        if stale and (not self._keeps(entry, now) or self.flights.begin(prompt.key)):
            return None
        answer = self.answers.fetch(entry)
        return Hit(answer, exact=True, similarity=1.0, matched=prompt.text, stale=stale) if answer is not None else None

    def _keeps(self, entry: Entry, now: float) -> bool:
        """Return whether a lapsed answer may still be served while another caller fetches it anew."""
        return entry.alive(now - self.settings.cache.of(entry.scope).stale_s)

    async def _embed(
        self,
        request: Request,
        prompt: Prompt,
        generation: Generation,
        deadline: float | None,
        *,
        semantic: bool,
    ) -> Embedded[Found]:
        """Return the embedding and what is near it, or raise OutOfTime when the deadline comes too close."""
        view = self.answers.view
        looks = semantic and not self._refusal(prompt, request, truncated=False)
        own = request.private_to if looks else ""
        ask = Ask(
            view.answer_partition(request.scope, prompt.context) if looks else None,
            generation,
            view.reference_partition(request.scope),
            prompt.text,
            self.base(generation),
            view.answer_partition(request.scope, prompt.context, own) if own else None,
        )
        if deadline is None:
            return await self.batcher.submit(prompt.text, ask)
        left = deadline - perf_counter()
        left -= _margin(left)
        if left <= 0:
            raise OutOfTime
        future = self.batcher.submit(prompt.text, ask)
        timer = asyncio.get_running_loop().call_later(left, _give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

    def _budget(self, decision: Decision, found: Found, generation: Generation) -> None:
        """Where the prompt's category has an error budget of its own, make it that of the request."""
        request, settings = decision.request, self.settings.cache.of(decision.request.scope)
        if request.cache.error_budget is not None or not settings.budgets_categories or not len(found.rows):
            return
        if found.similarities[0] < self.settings.routing.min_similarity:
            return
        voters = Voters(generation.references, found.rows, found.similarities, tuple(self._live(request, found)))
        its = category(voters)
        budget = budget_of(request.cache, settings, its)
        if budget < settings.error_budget:
            decision.notes += (("verify", f"the error budget is {budget:g}, that of the category {its!r}"),)
        decision.request = request._replace(cache=replace(request.cache, error_budget=budget))

    def _count(self, decision: Decision) -> None:
        """Count a request in the account of its budget, if it may be served."""
        request = decision.request
        if request.cache.mode is CacheMode.DEFAULT:
            self.keeper.count(request.account, budget_of(request.cache, self.settings.cache.of(request.scope)))

    def _verify(self, decision: Decision, found: Found, now: float) -> None:
        """Set the hit, or the candidate that was refused."""
        request, settings = decision.request, self.settings.cache.of(decision.request.scope)
        if self._note_refusal(decision):
            return
        near = [
            (min(similarity, 1.0), entry if entry.alive(now) else self._revived(entry, decision.prompt, now))
            for similarity, row in found.answers
            if (entry := self.answers.view.entry_at(request.scope, row)) is not None
        ]
        if budget_of(request.cache, settings) < 1:
            tried = self.keeper.verify(decision.prompt, near, request, settings, now)
            served, decision.judged, decision.trial = tried
        else:
            served, decision.judged = verify(self.judge, decision.prompt, near, request, settings, now)
        answer = self.answers.fetch(served.entry) if served is not None else None
        if served is not None and answer is not None:
            stale = bool(answer.expires_at) and now >= answer.expires_at
            decision.hit = Hit(answer, False, served.similarity, served.entry.prompt, served.probability, stale)
            if decision.trial is not None and (check := decision.trial.check):
                decision.notes += (("verify", f"{check} is outweighed by this scope's verdicts"),)
        else:
            tried_ = [one for one in decision.judged if decision.trial and one.entry is decision.trial.entry]
            decision.candidate = max(tried_ or decision.judged, key=likelihood, default=None)

    def _note_refusal(self, decision: Decision) -> bool:
        """Return whether no semantic hit may be looked for, and note why where anything is read from the cache."""
        why = self._refusal(decision.prompt, decision.request, truncated=decision.truncated)
        if why and self.settings.cache.enabled and decision.request.cache.reads:
            decision.notes += (("verify", f"no semantic hit is looked for: {why}"),)
        return bool(why)

    def _revived(self, entry: Entry, prompt: Prompt, now: float) -> Entry:
        """Return a lapsed entry, as if it had not where it may be served stale because another fetches it anew."""
        if not self._keeps(entry, now) or entry.key == prompt.key:
            return entry
        return replace(entry, expires_at=0.0) if self.flights.holds(entry.key) else entry

    def _refusal(self, prompt: Prompt, request: Request, *, truncated: bool) -> str:
        """Return why this prompt is hit exactly or not at all, "" where it may be otherwise."""
        settings = self.settings.cache.of(request.scope)
        return prompt.exact_only or refusal(prompt, request.cache, settings, truncated=truncated)

    def base(self, generation: Generation) -> int:
        """Return the fallback's column: what gains are compared with."""
        if self._base is None or self._base[0] is not generation:
            fallback = fallback_model(generation, self.settings.routing.fallback)
            self._base = generation, generation.catalogue.ids.index(fallback)
        return self._base[1]

    def _estimate(self, decision: Decision, found: Found, generation: Generation) -> Estimated:
        """Let live references join in; keep what was expected for the explanation."""
        request, routing = decision.request, self.settings.routing
        live = self._live(request, found)
        asked = Asked(
            decision.prompt.text,
            np.frombuffer(decision.vector, np.float32),
            decision.prompt.input_tokens,
            request.route.output_tokens or routing.output_tokens,
            self.base(generation),
        )
        result = estimate(
            generation, found, live, asked, evidence=routing.evidence, min_similarity=routing.min_similarity
        )
        decision.expected, decision.voters = result.estimates, result.voters
        result = self._learned(decision, result, asked.base)
        decision.estimates = result.estimates
        return result

    def _live(self, request: Request, found: Found) -> list[tuple[float, Reference]]:
        """Return the scope's live references that are near and still there."""
        view = self.answers.view
        return [(s, r) for s, row in found.live if (r := view.reference_at(request.scope, row)) is not None]

    def _learned(self, decision: Decision, result: Estimated, base: int) -> Estimated:
        """Let the scope's reports correct what is expected; where they know enough, a prompt is no longer strange."""
        if self.learner is None:
            return result
        evidence = self.settings.routing.evidence
        found = self.learner.adjust(decision.request.scope, decision.vector, result.estimates, base, evidence)
        if found.estimates is result.estimates:
            return result
        decision.notes += (("estimate", "corrected by what was reported in this scope"),)
        voters = result.voters if result.voters is not None or not found.supported else NO_VOTERS
        return replace(result, estimates=found.estimates, voters=voters)

    def _choose(self, decision: Decision, result: Estimated, generation: Generation) -> Plan:
        """Take the best of what the limits leave, by the policy."""
        ranking, route = self.policy.choose(decision, *self._known(decision, result, generation))
        plan = shaped(ranking, route, self.policy.team(generation))
        if ranking.models and not plan.steps:  # no plan of this shape is good enough
            plan = self.policy.whose(plan, decision.trace)
        if why := describe(plan, route.shape):
            decision.notes += (("choose", why),)
        self.policy.planned(decision, plan, generation)
        return plan

    def _known(self, decision: Decision, result: Estimated, generation: Generation) -> tuple[Known, Generation, float]:
        """Return what the policy chooses by."""
        writes = decision.request.route.output_tokens or self.settings.routing.output_tokens
        known = Known(result.estimates, result.confidence, Reason.DEGRADED if decision.degraded else result.reason)
        return known, generation, decision.prompt.input_tokens + writes

    async def _wait(self, decision: Decision, deadline: float | None) -> None:
        """Where another caller is fetching the answer, wait for it, and set the hit if it came and may be served."""
        prompt, request, mark = decision.prompt, decision.request, perf_counter()
        until = mark + request.cache.wait
        if deadline is not None:
            until = min(until, deadline - _margin(deadline - mark))
        near = not self._refusal(prompt, request, truncated=decision.truncated)
        alike = partial(self._alike, decision, reading(prompt)) if near else None
        while decision.hit is None:
            came = await self.flights.join(decision, until, alike)
            now = self.answers.clock.now()
            if came is None:  # nobody fetches it, or not any more: it may have come while this prompt was embedded
                decision.hit = self._exact(request, prompt, now)
                break
            key, similarity = came
            if key == prompt.key:
                decision.hit = self._exact(request, prompt, now)
                break
            # What came may have to be audited: for all who ask the same, one fetches it, and the others wait again.
            if (entry := self.answers.view.exact(request.scope, key, request.private_to)) is not None:
                self._verify(decision, replace(NOTHING_FOUND, answers=[(similarity, entry.row)]), now)
        if decision.hit is not None:
            decision.candidate = None

    def _alike(self, decision: Decision, read: Callable[[], Prepared], similarity: float, text: str) -> bool:
        """Return whether an answer to another text would do, if it were there."""
        settings = self.settings.cache.of(decision.request.scope)
        if similarity < settings.threshold:
            return False
        entry = Entry("", 0, "", b"", b"", 0.0, 0.0, "", (), truncated=False, prompt=text)
        (found,) = self.judge.judge(read, [(similarity, entry)], settings.threshold)
        return not found.refused_by and (found.probability or 0.0) >= settings.min_probability

    def _hand_out_token(self, decision: Decision, peer: Callable[[], str]) -> None:
        """Let the caller store the answer, and be waited for by others who want it."""
        request, settings = decision.request, self.settings.cache.of(decision.request.scope)
        decision.fill_token = new_id()
        decision.lease_until = perf_counter() + settings.lease_s
        if request.context is None or not too_hot(request.context.sampling, settings):
            near = not self._refusal(decision.prompt, request, truncated=decision.truncated)
            self.flights.lead(decision, near=near, peer=peer())

    def plan(self, decision: Decision, found: Found, generation: Generation) -> Plan:
        """Return what a decision's prompt would be planned with another generation; for Replay, on any thread."""
        result = self._estimate(decision, found, generation)
        ranking, route = self.policy.preview(decision, *self._known(decision, result, generation))
        return shaped(ranking, route, self.policy.team(generation))

    def record(self, decision: Decision) -> None:
        """Take note of a decision that its caller is told; one that never reached anyone is not to be counted.

        From here on it is without the answer's text: what is removed later does not linger among the decisions.
        """
        if decision.hit is not None:
            self.answers.capacity.use(decision.request.scope, decision.hit.answer.id)
        if self.journal is not None:
            self.journal.decided(decision)
        self.metrics.decided(decision)
        if self.accounts is not None:
            self.accounts.decided(decision, self.generation.catalogue)
        if self.settings.log.level == "debug":
            log.decision(decision, prompts=self.settings.log.prompts)
        if decision.hit is not None:
            decision.hit.answer = self._without_text(decision.hit.answer)
        self.log.add(decision)

    def let_go(self, entry: Entry) -> None:
        """Forget the texts of an entry that is removed or replaced: they may not linger here either."""
        self.judge.forget(entry)
        self.repeats.forget(entry)

    def _without_text(self, answer: Answer) -> Answer:
        """Return what is known of an answer but its text; made once, as to copy an answer takes 10 us."""
        key = (answer.id, answer.stored_at, answer.meaning)
        try:
            return self._bare[key]
        except KeyError:
            bare = self._bare[key] = replace(answer, prompt="", content="", chunks=(), vector=b"")
            return bare


def _timed(decision: Decision, started: float) -> Decision:
    decision.timings.total = perf_counter() - started
    return decision


def normalise(request: Request) -> Prompt:
    """Return the canonical text of a request, its key, and what else the stages ask of it."""
    return understood(keyed(request), request)


def understood(prompt: Prompt, request: Request) -> Prompt:
    """Return a prompt with why it is hit exactly or not at all, if so: what an exact hit need not know."""
    if request.role == "tool":
        return replace(prompt, exact_only="tool_turn")
    return replace(prompt, exact_only="refers_back") if refers_back(prompt.text) else prompt


def keyed(request: Request) -> Prompt:
    """Return the canonical text of a request and its key."""
    text = canonical(request.text)
    if request.context is None and not request.history and request.role == "user":
        return Prompt(text, answer_key(request.scope, EMPTY_CONTEXT, text), size=len(request.text))
    context = request.context or Context()
    # What a tool said is not what a user says, be it the same text; no turn of the history can have such a role.
    asked_by = () if request.role == "user" else (Message(f"last:{request.role}", ""),)
    fingerprint = context_fingerprint(context, (*request.history, *asked_by))
    return Prompt(
        text,
        answer_key(request.scope, fingerprint, text),
        fingerprint,
        turns=1 + sum(turn.role == "user" for turn in request.history),
        size=len(request.text)
        + len(context.system_prompt)
        + len(context.tools)
        + sum(len(turn.content) for turn in request.history),
    )


def _young(entry: Entry, max_age: float | None, now: float) -> bool:
    return max_age is None or now - entry.stored_at <= max_age


def _margin(left: float) -> float:
    return max(left / 10, _LEAST_MARGIN_S)


def _give_up(future: "asyncio.Future[Embedded[Found]]") -> None:
    if not future.done():
        future.set_exception(OutOfTime())
