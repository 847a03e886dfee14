"""Experiments: which arm a unit is dealt to, and what was learned of the arms.

Dealing is a hash of the experiment's name and the unit: the same for the same unit in every process, independent
between experiments. Results are confidence sequences, which may be looked at after every report.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from service.policy.compiled import BoundExperiment, Compiled
from service.policy.expressions import context_of
from service.policy.facts import facts
from service.policy.sequences import ConfidenceSequence
from service.policy_settings import Arm, Experiment
from service.requests import Estimate, Prompt, Request

_WHOLE: Final = 2.0**64


@dataclass(slots=True)
class ArmResult:
    """What one arm did. Of a shadow arm: how it would have differed, over the decisions it was dealt."""

    decisions: int = 0
    quality: ConfidenceSequence = field(default_factory=ConfidenceSequence)
    changed: int = 0
    cost_change_usd: float = 0.0
    quality_change: float = 0.0


def fraction(salt: str, unit: str) -> float:
    """Return where a unit stands between 0 and 1 (not included): evenly spread, and different for every salt."""
    raw = f"{salt}\0{unit}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big") >> 11) * 2048 / _WHOLE


def unit_of(request: Request, prompt: Prompt) -> str:
    """Return what a request is dealt by: its unit, else its conversation, its id, or the prompt itself."""
    return request.route.unit or request.conversation_id or request.request_id or prompt.key.hex()


def deal(experiment: Experiment, scope: str, unit: str) -> Arm | None:
    """Return the arm of a unit of a scope, None where it takes no part."""
    place = fraction(f"{experiment.name}\0{scope}", unit)
    for arm in experiment.arms:
        place -= arm.share
        if place < 0:
            return arm
    return None


def first_that_fits(compiled: Compiled, request: Request, prompt: Prompt) -> BoundExperiment | None:
    """Return the experiment that a request belongs to."""
    found = facts(request, prompt, compiled.facts)
    context = context_of(found) if found else None
    for bound in compiled.experiments:
        scopes = bound.experiment.scopes
        if scopes and request.scope not in scopes:
            continue
        if bound.condition is None or (context is not None and bound.condition.holds(context)):
            return bound
    return None


class Results:
    """What all arms did since their experiment began: as long as the state is kept and the experiment's name stays.

    Args:
        experiments: those there are.
        keep: called with "experiment/arm" and its numbers after every change, to keep them across restarts.
    """

    def __init__(self, experiments: Sequence[Experiment], keep: Callable[[str, list[float]], None]) -> None:
        self._metric = {one.name: one.metric for one in experiments}
        self._keep = keep
        self.arms = {f"{one.name}/{arm.name}": ArmResult() for one in experiments for arm in one.arms}

    def load(self, kept: Mapping[str, list[float]]) -> None:
        """Take in what was kept before a restart."""
        self.arms |= {arm: from_row(row) for arm, row in kept.items() if arm in self.arms}

    def planned(self, arm: str) -> None:
        """Count a plan made for an arm."""
        self.arms[arm].decisions += 1
        self._keep(arm, to_row(self.arms[arm]))

    def judged(self, arm: str, quality: float | None, *, ok: bool) -> bool:
        """Take in what was reported of an answer; return whether that is what arms are compared by."""
        value = quality if self._metric.get(arm.partition("/")[0]) == "quality" else float(ok)
        if value is None or arm not in self.arms:  # of an experiment that is no more
            return False
        self.arms[arm].quality.add(value)
        self._keep(arm, to_row(self.arms[arm]))
        return True

    def compared(self, arm: str, served: Estimate, shadow: Estimate | None) -> None:
        """Take in what a shadow arm would have done; None: it would have no model."""
        result = self.arms[arm]
        result.decisions += 1
        result.changed += shadow is None or served.model != shadow.model
        if shadow is not None:
            result.cost_change_usd += shadow.cost_usd - served.cost_usd
            result.quality_change += shadow.quality - served.quality
        self._keep(arm, to_row(result))

    def bounds(self, experiment: Experiment) -> Mapping[str, tuple[float, float, float]]:
        """Return (low, mean, high) of the reported quality of every arm that serves.

        All hold together, at all times, with probability 1 - alpha: each has its part of it.
        """
        served = [arm.name for arm in experiment.arms if not arm.shadow]
        alpha = experiment.alpha / max(len(served), 1)
        return {name: self.arms[f"{experiment.name}/{name}"].quality.bounds(alpha) for name in served}

    def best(self, experiment: Experiment) -> str:
        """Return the arm that is better than all others, "" while that is not sure: then go on, or stop for good."""
        bounds = self.bounds(experiment)
        for name, (low, _, _) in bounds.items():
            others = [high for other, (_, _, high) in bounds.items() if other != name]
            if others and low > max(others):
                return name
        return ""


def to_row(result: ArmResult) -> list[float]:
    """Return a result as numbers."""
    own = [result.decisions, result.changed, result.cost_change_usd, result.quality_change]
    return [*own, *result.quality.state]


def from_row(row: list[float]) -> ArmResult:
    """Return a result from its numbers."""
    decisions, changed, cost_change, quality_change, *state = row
    return ArmResult(int(decisions), ConfidenceSequence(tuple(state)), int(changed), cost_change, quality_change)
