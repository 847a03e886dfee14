"""What is counted: Prometheus metrics for operators, and counts per scope for GetStats.

Prometheus never gets a scope as a label: one tenant's name or activity must not show to another, and the number of
series stays bounded.
"""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from service.requests import STAGES, Decision, stage_times

_MAX_SCOPES: Final = 10_000
_SECONDS: Final = (
    5e-5,
    1e-4,
    2e-4,
    5e-4,
    1e-3,
    2e-3,
    5e-3,
    1e-2,
    2e-2,
    5e-2,
    0.1,
    0.2,
    0.5,
    1.0,
    5.0,
)


@dataclass(slots=True)
class ScopeCounts:
    """What one scope, or all of them, did since the start."""

    decisions: int = 0
    exact_hits: int = 0
    semantic_hits: int = 0
    degraded: int = 0
    answers_reported_wrong: int = 0
    reviews: int = 0
    reviews_escalated: int = 0
    accepts_judged: int = 0
    false_accepts: int = 0
    plans: Counts[str] = field(default_factory=Counts)
    reports: Counts[str] = field(default_factory=Counts)


def _outcomes(counts: ScopeCounts) -> dict[str, int]:
    exact, semantic = counts.exact_hits, counts.semantic_hits
    return {"exact": exact, "semantic": semantic, "plan": counts.decisions - exact - semantic}


class _Durations(Collector):
    """A histogram of seconds for each value of a label, written by the event loop alone.

    The library's own takes a lock and four times as long, and a decision observes up to ten of them.
    """

    def __init__(self, name: str, text: str, label: str = "", values: Sequence[str] = ("",)) -> None:
        self._name, self._text, self._label = name, text, label
        self._counts = {value: [0] * (len(_SECONDS) + 1) for value in values}
        self._sums = dict.fromkeys(values, 0.0)

    def observe(self, seconds: float, value: str = "") -> None:
        """Count one duration."""
        self._counts[value][bisect_left(_SECONDS, seconds)] += 1
        self._sums[value] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram as it stands."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label] if self._label else [])
        bounds = [*map(str, _SECONDS), "+Inf"]
        for value, counts in self._counts.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric([value] if self._label else [], buckets, self._sums[value])
        yield family


class Metrics:
    """All counters of one running service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.total = ScopeCounts()
        # Of very many scopes the least recently used start anew.
        self.scope: Callable[[str], ScopeCounts] = lru_cache(_MAX_SCOPES)(lambda _: ScopeCounts())
        self._stages = _Durations("waypost_stage_seconds", "Time in each stage of a decision.", "stage", STAGES)
        self._seconds = _Durations("waypost_decision_seconds", "Time of a whole decision.")
        self.registry.register(self._stages)
        self.registry.register(self._seconds)
        total = self.total
        self.labelled("waypost_decisions", "Decisions by outcome.", "outcome", lambda: _outcomes(total))
        self.labelled("waypost_plans", "Plans by the model of their first step.", "model", lambda: dict(total.plans))
        self.counter("waypost_degraded", "Decisions without an embedding.", lambda: total.degraded)
        self._coverage = Gauge(
            "waypost_decision_coverage",
            "Share of decisions that were not degraded.",
            registry=self.registry,
        )
        self._coverage.set_function(self._covered)
        self._reports = Counter("waypost_reports", "Reports by outcome.", ["outcome"], registry=self.registry)
        self._reviews = Counter(
            "waypost_reviews",
            "Reviewed answers by verdict and plain failure.",
            ["verdict", "failure"],
            registry=self.registry,
        )
        self._accepts = Counter(
            "waypost_accepts_judged",
            "Accepted answers whose quality was reported, by whether they were right.",
            ["right"],
            registry=self.registry,
        )
        self._calls = Counter(
            "waypost_calls",
            "Calls by method and status.",
            ["method", "code"],
            registry=self.registry,
        )

    def _covered(self) -> float:
        total = self.total
        return 1.0 - total.degraded / total.decisions if total.decisions else 1.0

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Publish a value that is read when the metrics are."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def counter(self, name: str, text: str, read: Callable[[], int]) -> None:
        """Publish a count that is kept elsewhere, and read when the metrics are."""

        class Reading(Collector):
            def collect(self) -> Iterator[CounterMetricFamily]:
                yield CounterMetricFamily(name, text, value=read())

        self.registry.register(Reading())

    def labelled(self, name: str, text: str, label: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Publish counts that are kept elsewhere, one for each value of a label."""

        class Reading(Collector):
            def collect(self) -> Iterator[CounterMetricFamily]:
                family = CounterMetricFamily(name, text, labels=[label])
                for value, count in read().items():
                    family.add_metric([value], count)
                yield family

        self.registry.register(Reading())

    def decided(self, decision: Decision) -> None:
        """Count a decision."""
        for counts in (self.total, self.scope(decision.request.scope)):
            counts.decisions += 1
            counts.degraded += decision.degraded
            if decision.hit is None:
                if decision.plan is not None and decision.plan.steps:
                    counts.plans[decision.plan.steps[0].model] += 1
            elif decision.hit.exact:
                counts.exact_hits += 1
            else:
                counts.semantic_hits += 1
        self._seconds.observe(decision.timings.total)
        for stage, seconds in zip(STAGES, stage_times(decision.timings), strict=True):
            if seconds is not None:
                self._stages.observe(seconds, stage)

    def reported(self, scope: str, outcome: str, *, wrong: bool) -> None:
        """Count a report."""
        for counts in (self.total, self.scope(scope)):
            counts.reports[outcome] += 1
            counts.answers_reported_wrong += wrong
        self._reports.labels(outcome).inc()

    def reviewed(self, scope: str, *, accepted: bool, failure: str) -> None:
        """Count a review; escalations by reviews is the escalation rate."""
        for counts in (self.total, self.scope(scope)):
            counts.reviews += 1
            counts.reviews_escalated += not accepted
        self._reviews.labels("accept" if accepted else "escalate", failure).inc()

    def accept_judged(self, scope: str, *, right: bool) -> None:
        """Count an accepted answer of which a report said how good it was."""
        for counts in (self.total, self.scope(scope)):
            counts.accepts_judged += 1
            counts.false_accepts += not right
        self._accepts.labels("yes" if right else "no").inc()

    def called(self, method: str, code: str) -> None:
        """Count a call that failed."""
        self._calls.labels(method, code).inc()
