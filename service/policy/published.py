"""What the policy tells operators: Prometheus series of conversations, circuits, budgets and arms.

Names of scopes are never labels; names of experiments and arms are the operator's own.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.metrics import Metrics
from service.policy.policy import Policy
from service.policy_settings import PolicySettings

_LABELS = ("experiment", "arm")


def publish_policy(metrics: Metrics, policy: Policy, settings: PolicySettings) -> None:
    """Publish sizes, and the results of experiments where there are any."""
    metrics.gauge("waypost_conversations", "Conversations remembered.", lambda: len(policy.sessions))
    metrics.gauge("waypost_open_circuits", "Models left alone in a scope, over all scopes.", policy.open_circuits)
    metrics.gauge("waypost_month_spent_usd", "Counted against monthly budgets, over all of them.", policy.spent_usd)
    if settings.experiments:
        metrics.registry.register(_Arms(policy, settings))


class _Arms(Collector):
    """The series of all arms, read when the metrics are."""

    def __init__(self, policy: Policy, settings: PolicySettings) -> None:
        self._policy, self._experiments = policy, settings.experiments

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        decisions = CounterMetricFamily("waypost_arm_plans", "Plans made for an arm.", labels=_LABELS)
        judged = CounterMetricFamily("waypost_arm_judged", "Plans that count in its quality.", labels=_LABELS)
        quality = GaugeMetricFamily(
            "waypost_arm_quality", "Mean quality, with bounds that hold at all times.", labels=(*_LABELS, "bound")
        )
        best = GaugeMetricFamily("waypost_arm_best", "1 once an arm is surely better than all others.", labels=_LABELS)
        changed = CounterMetricFamily(
            "waypost_shadow_changed", "Plans of a shadow arm that would begin with another model.", labels=_LABELS
        )
        would_cost = GaugeMetricFamily(
            "waypost_shadow_cost_change_usd",
            "Expected cost of a shadow arm less the served one, summed.",
            labels=_LABELS,
        )
        would_gain = GaugeMetricFamily(
            "waypost_shadow_quality_change", "Expected quality of it less the served one, summed.", labels=_LABELS
        )
        results = self._policy.results
        for experiment in self._experiments:
            winner = results.best(experiment)
            for arm in experiment.arms:
                at, result = [experiment.name, arm.name], results.arms[f"{experiment.name}/{arm.name}"]
                decisions.add_metric(at, result.decisions)
                if arm.shadow:
                    changed.add_metric(at, result.changed)
                    would_cost.add_metric(at, result.cost_change_usd)
                    would_gain.add_metric(at, result.quality_change)
                    continue
                judged.add_metric(at, result.quality.count)
                best.add_metric(at, float(arm.name == winner))
                for name, bound in zip(("low", "mean", "high"), results.bounds(experiment)[arm.name], strict=True):
                    quality.add_metric([*at, name], bound)
        yield from (decisions, judged, quality, best, changed, would_cost, would_gain)
