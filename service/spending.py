"""What was spent and how good it was, against always calling one model: in all, by scope and by experiment arm.

A plan counts with the cost that was expected of what it starts with, until reports say what it was. What the baseline
would have cost is estimated alike: for a plan as it was expected for the prompt, corrected by the tokens or the cost
that a report names; for a cached answer by the catalogue's prices and the answer's length. Kept in memory since the
start. Called by the edge and the decider; decides nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cachetools import LRUCache
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from index.catalogue import Catalogue
from index.generation import Generation
from index.records import Model
from service.learning.journal import Rating
from service.requests import Decision, Estimate, Outcome, tokens_of

_MAX_SCOPES: Final = 10_000
_MAX_ARMS: Final = 1_000
_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0)


@dataclass(slots=True)
class ModelCounts:
    """One model: plans that begin with it, reports on it, and what these say. Sums, and how many are in them."""

    plans: int = 0
    reports: int = 0
    failures: int = 0
    quality: float = 0.0
    rated: int = 0
    cost_usd: float = 0.0
    latency_s: float = 0.0
    timed: int = 0


@dataclass(slots=True)
class Account:
    """What was decided and spent in one place."""

    decisions: int = 0
    hits: int = 0
    escalations: int = 0
    cost_usd: float = 0.0
    baseline_usd: float = 0.0
    models: dict[str, ModelCounts] = field(default_factory=dict)

    def of(self, model: str) -> ModelCounts:
        """Return the counts of a model."""
        counts = self.models.get(model)
        if counts is None:
            counts = self.models[model] = ModelCounts()
        return counts


def baseline_of(generation: Generation, configured: str) -> str:
    """Return the id of the model that savings are against: the configured one, else the strongest.

    Raises:
        CatalogueError: the configured one is not in the catalogue.
    """
    return generation.catalogue.get(configured, "stats.baseline").id if configured else generation.strongest


class Accounts:
    """All accounts of a running service.

    Args:
        baseline: the id of the model that savings are against.
        registry: where the sums over all scopes are published, without a scope's name.
    """

    def __init__(self, baseline: str, registry: CollectorRegistry) -> None:
        self.baseline = baseline
        self.total = Account()
        # Of very many scopes the least recently used start anew.
        self.scope: Callable[[str], Account] = lru_cache(_MAX_SCOPES)(lambda _: Account())
        self._arms: LRUCache[tuple[str, str], Account] = LRUCache(_MAX_ARMS)
        self._spent = Counter("waypost_reported_cost_usd", "USD reported as spent.", ["model"], registry=registry)
        self._quality = Summary("waypost_reported_quality", "Reported quality, 0 to 1.", ["model"], registry=registry)
        self._seconds = Histogram(
            "waypost_model_seconds", "Reported time of a model call.", ["model"], buckets=_SECONDS, registry=registry
        )
        self._escalations = Counter(
            "waypost_escalations", "Reports on a step of a plan after those that it starts with.", registry=registry
        )
        spent = Gauge(
            "waypost_cost_usd", "USD spent since the start: as reported, else as expected.", registry=registry
        )
        spent.set_function(lambda: self.total.cost_usd)
        baseline_cost = Gauge(
            "waypost_baseline_cost_usd", "USD that always calling the baseline would have cost.", registry=registry
        )
        baseline_cost.set_function(lambda: self.total.baseline_usd)

    def arms(self, scope: str) -> Iterator[tuple[str, Account]]:
        """Yield the experiment arms of a scope, or ("") of all scopes together."""
        return ((arm, account) for (where, arm), account in list(self._arms.items()) if where == scope)

    def decided(self, decision: Decision, catalogue: Catalogue) -> None:
        """Count a decision, as expected."""
        hit, plan = decision.hit, decision.plan
        first = plan.steps[0] if plan is not None and plan.steps else None
        if hit is not None:
            baseline = self._model(catalogue)
            cost = baseline.cost_usd(decision.prompt.input_tokens, tokens_of(len(hit.answer.content)))
        else:
            expected = self._expected(decision.estimates)
            cost = expected.cost_usd if expected is not None and first is not None else 0.0
        for account in self._accounts(decision):
            account.decisions += 1
            account.hits += hit is not None
            account.baseline_usd += cost
            if plan is not None and first is not None:
                account.cost_usd += sum(step.cost_usd for step in plan.steps[: plan.together])
                account.of(first.model).plans += 1

    def reported(self, decision: Decision, rating: Rating, catalogue: Catalogue) -> None:
        """Put what was reported in the place of what was expected; what was said before of this call counts once."""
        plan = decision.plan
        if not rating.model or plan is None:
            return
        started = next((step for step in plan.steps[: plan.together] if step.model == rating.model), None)
        planned = started if started is not None and started is plan.steps[0] else None
        call, escalated = int(not rating.again), not rating.again and started is None
        paid = rating.cost_usd if rating.cost_usd is not None and rating.new("cost_usd") else 0.0
        correction = _more_than_counted(decision, rating, started)
        baseline = self._correction(decision, rating, planned, catalogue)
        for account in self._accounts(decision):
            account.cost_usd += correction
            account.baseline_usd += baseline
            account.escalations += escalated
            counts = account.of(rating.model)
            counts.reports += call
            counts.failures += call * (rating.outcome in (Outcome.ERROR, Outcome.TIMEOUT))
            counts.cost_usd += paid
            if rating.quality is not None and rating.new("quality"):
                counts.quality, counts.rated = counts.quality + rating.quality, counts.rated + 1
            if rating.latency_s is not None and rating.new("latency_s"):
                counts.latency_s, counts.timed = counts.latency_s + rating.latency_s, counts.timed + 1
        self._publish(rating, escalated=escalated)

    def _publish(self, rating: Rating, *, escalated: bool) -> None:
        if escalated:
            self._escalations.inc()
        if rating.cost_usd is not None and rating.new("cost_usd"):
            self._spent.labels(rating.model).inc(rating.cost_usd)
        if rating.quality is not None and rating.new("quality"):
            self._quality.labels(rating.model).observe(rating.quality)
        if rating.latency_s is not None and rating.new("latency_s"):
            self._seconds.labels(rating.model).observe(rating.latency_s)

    def _correction(self, decision: Decision, rating: Rating, planned: Estimate | None, catalogue: Catalogue) -> float:
        """Return by how much the baseline would have cost more than expected, going by this report."""
        expected = self._expected(decision.estimates)
        if planned is None or expected is None or (rating.again and not rating.new("cost_usd")):
            return 0.0
        if expected.model == planned.model:  # the baseline itself was called
            return rating.cost_usd - expected.cost_usd if rating.cost_usd is not None else 0.0
        if rating.input_tokens is not None and rating.output_tokens is not None:
            cost = self._model(catalogue).cost_usd(rating.input_tokens, rating.output_tokens)
            return cost - expected.cost_usd
        if rating.cost_usd is not None and planned.cost_usd > 0:
            return expected.cost_usd * (rating.cost_usd / planned.cost_usd - 1)
        return 0.0

    def _accounts(self, decision: Decision) -> list[Account]:
        scope = decision.request.scope
        accounts = [self.total, self.scope(scope)]
        if (arm := decision.trace.arm) and not decision.trace.shadow:
            for key in (("", arm), (scope, arm)):
                account = self._arms.get(key)
                if account is None:
                    account = self._arms[key] = Account()
                accounts.append(account)
        return accounts

    def _model(self, catalogue: Catalogue) -> Model:
        return catalogue.get(self.baseline)

    def _expected(self, estimates: tuple[Estimate, ...]) -> Estimate | None:
        return next((e for e in estimates if e.model == self.baseline), None)


def _more_than_counted(decision: Decision, rating: Rating, started: Estimate | None) -> float:
    """Return by how much more a call cost than is counted of it: from the start, what its plan starts with."""
    first_told = rating.new("cost_usd")
    if rating.again and not first_told:
        return 0.0
    expected = started or next((e for e in decision.estimates if e.model == rating.model), None)
    assumed = expected.cost_usd if expected is not None else 0.0
    counted = assumed if started is not None or rating.again else 0.0
    return (rating.cost_usd if first_told and rating.cost_usd is not None else assumed) - counted
