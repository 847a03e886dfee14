"""How quality, cost and time are weighed for a request: its own weights, else its scope's, else everyone's.

A scope that names a price, a share or a budget has a goal of its own, and counts for itself; the others share one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from index.generation import Generation
from service.policy.asks import first
from service.policy.calibrate import gain, reference_gains
from service.policy.pacing import Budget, Spent, StrongShare
from service.policy_settings import PolicySettings, Weights
from service.requests import RouteOptions
from service.routing.choose import Ranking
from service.settings import RoutingSettings

_USUAL_INPUT: Final = 300  # tokens, for the first price of a budget


@dataclass(frozen=True, slots=True)
class Goal:
    """What holds in a scope where the request does not say; `key` is whose count a share or a budget is."""

    key: str
    weights: Weights

    @property
    def followed(self) -> bool:
        """Whether a share or a budget takes the place of a price."""
        return self.weights.target_strong_share is not None or self.weights.monthly_budget_usd is not None


class Goals:
    """The goals of all scopes, and what was spent of the budgets."""

    def __init__(self, settings: PolicySettings) -> None:
        self._shared = Goal("", _own(settings))
        self._scopes = {name: self._goal(name, weights) for name, weights in settings.scopes.items()}
        self.budgets: dict[str, Budget] = {}

    def of(self, scope: str) -> Goal:
        """Return the goal of a scope."""
        return self._scopes.get(scope, self._shared)

    def prepare(
        self, generation: Generation, strong: frozenset[str], routing: RoutingSettings
    ) -> dict[str, StrongShare]:
        """Return the shares to follow, by key, calibrated on a generation; see that all budgets are there."""
        every = [self._shared, *self._scopes.values()]
        targets = {g.key: g.weights.target_strong_share for g in every if g.weights.target_strong_share is not None}
        gains = reference_gains(generation, strong) if any(0 < t < 1 for t in targets.values()) else []
        for goal in every:
            usd = goal.weights.monthly_budget_usd
            if usd is not None and goal.key not in self.budgets:
                cost = _usual_cost(generation, routing)
                self.budgets[goal.key] = Budget(usd, goal.weights.willingness_to_pay, cost)
        return {key: StrongShare(target, gains) for key, target in targets.items()}

    def load(self, kept: Mapping[str, list[float]]) -> None:
        """Take in what was spent before a restart."""
        for key, (month, *rest) in kept.items():
            if key in self.budgets:
                self.budgets[key].state = Spent(int(month), *rest)

    def like(self, other: "Goals") -> None:
        """Take over what was spent, for as long as the budgets are the same."""
        for key, budget in self.budgets.items():
            if key in other.budgets:
                budget.state = other.budgets[key].state

    def _goal(self, scope: str, own: Weights) -> Goal:
        says = own.model_dump(exclude_none=True).keys() - {"latency_weight"}
        weight = first(own.latency_weight, self._shared.weights.latency_weight)
        key, weights = (scope, own) if says else ("", self._shared.weights)
        return Goal(key, weights.model_copy(update={"latency_weight": weight}))


def weigh(route: RouteOptions, goal: Goal, budget: Budget | None) -> RouteOptions:
    """Return the options with the weights of the goal where they have none of their own."""
    price, weight = route.willingness_to_pay, first(route.latency_weight, goal.weights.latency_weight)
    if price is None:
        price = goal.weights.willingness_to_pay if budget is None else budget.willingness_to_pay
    if price == route.willingness_to_pay and weight == route.latency_weight:
        return route
    return replace(route, willingness_to_pay=price, latency_weight=weight)


def by_share(ranking: Ranking, share: StrongShare, strong: frozenset[str]) -> tuple[Ranking, float | None, str]:
    """Return the ranking led by the best strong model or by the best other one, the gain of that, and why.

    Where there is no choice between them, there is no gain, and the decision does not count.
    """
    if len({e.model in strong for e in ranking.models}) == 1:
        return ranking, None, "share: the limits leave no choice between strong models and others"
    gained = gain(ranking.models, strong)
    wanted = share.strong(gained)
    best = next(e.model for e in ranking.models if (e.model in strong) is wanted)
    word = "reaches" if wanted else "is below"
    why = f"share: the gain {gained:.4f} of a strong model {word} the threshold {share.threshold:.4f}"
    return ranking.led_by(best), gained, why


def _own(settings: PolicySettings) -> Weights:
    return Weights(**{name: getattr(settings, name) for name in Weights.model_fields})


def _usual_cost(generation: Generation, routing: RoutingSettings) -> float:
    """Return what a decision costs on average over the models, in USD."""
    known = generation.mean_costs
    listed = [m.cost_usd(_USUAL_INPUT, routing.output_tokens) for m in generation.catalogue.models]
    return float(np.where(np.isnan(known), listed, known).mean())
