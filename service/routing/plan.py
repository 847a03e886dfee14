"""The plan stage: from the feasible estimates to steps, in the shape that was asked for.

Cascades are worked out by `service.routing.cascade`. Called by `service.decide` in place of `choose.single`. It never
looks at answers: that is `service.routing.review`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Final

import numpy as np

from service.requests import Combine, Estimate, Plan, Reason, RouteOptions, Shape
from service.routing.cascade import CANDIDATES, CLOSE, Cascade, Team, best_of, cheapest
from service.routing.choose import Ranking, single

_STEPS: Final = 3
_HALF: Final = 0.5


def shaped(ranking: Ranking, route: RouteOptions, team: Team) -> Plan:
    """Return the plan in the shape that the request asks for.

    Args:
        ranking: the feasible models; the first is the one a SINGLE plan would call.
        route: what the caller asks.
        team: what is known of reviews and of the models together.

    Returns:
        The plan with its steps in order. Where the shape cannot do better than one model, the single plan; where no
        plan reaches `min_quality`, one without steps that says so.
    """
    if not ranking.models or route.shape in {None, Shape.SINGLE}:
        return single(ranking)
    plan = single(ranking if route.shape is Shape.CASCADE else _good_enough(ranking, route.min_quality))
    if route.shape is Shape.ENSEMBLE:
        return _ensemble(plan, ranking.models, route, team)
    wanted = route.min_quality
    if wanted is None:  # where quality has a price, nothing is wanted but the best of both
        wanted = plan.steps[0].quality if route.willingness_to_pay is None or route.shape is not Shape.CASCADE else 0.0
    return (_cascade if route.shape is Shape.CASCADE else _speculative)(plan, ranking.models, route, team, wanted)


def _good_enough(ranking: Ranking, wanted: float | None) -> Ranking:
    """Return the ranking led by the first model of the wanted quality, or the nearest to it where there is none."""
    if wanted is None or ranking.models[0].quality >= wanted - CLOSE:
        return ranking
    enough = (e for e in ranking.models if e.quality >= wanted - CLOSE)
    first = next(enough, max(ranking.models, key=lambda e: e.quality))
    return replace(ranking.led_by(first.model), reason=Reason.CONSTRAINED, siblings=())


def describe(plan: Plan, asked: Shape | None) -> str:
    """Return a line on a plan of another shape than SINGLE, for the explanation; "" where none was asked for."""
    if asked in {None, Shape.SINGLE} or not plan.steps:
        return ""
    if plan.shape is Shape.SINGLE:
        return f"one model: no {asked.name.lower()} is expected to do better"
    if plan.shape is Shape.ENSEMBLE:
        return f"an ensemble of {plan.together}"
    return (
        f"{plan.shape.name.lower()} of {len(plan.accept_at) + 1}: expected quality {plan.quality:.3f} "
        f"for {plan.cost_usd:.3g} USD"
    )


def _cascade(plan: Plan, feasible: Sequence[Estimate], route: RouteOptions, team: Team, wanted: float) -> Plan:
    best = cheapest(feasible, team, wanted, route.willingness_to_pay)
    if route.min_quality is not None and best.quality < wanted - CLOSE:
        return _unreachable(wanted, best.quality, "cascade")
    return _with_spares(plan, best, together=1, shape=Shape.CASCADE if best.accept_at else Shape.SINGLE)


def _speculative(plan: Plan, feasible: Sequence[Estimate], route: RouteOptions, team: Team, wanted: float) -> Plan:
    """Start two at once: the one that keeps the wait short if its review passes, and the best single model."""
    second = plan.steps[0]
    limit = math.inf if route.max_cost_usd is None else route.max_cost_usd
    sooner = [e for e in feasible if e.model != second.model and _sooner(e, second)]
    pairs = [(e, second) for e in sooner if e.cost_usd + second.cost_usd <= limit][:CANDIDATES]
    found = [c for pair in pairs if (c := best_of([pair], team, wanted)) and c.quality >= wanted - CLOSE]
    best = min(found, key=lambda c: (_wait(c), c.chain[0].cost_usd), default=None)
    if best is None:
        if route.min_quality is not None and second.quality < wanted - CLOSE:
            return _unreachable(wanted, second.quality, "pair")
        return plan
    paid = sum(e.cost_usd for e in best.chain)
    return _with_spares(plan, best._replace(cost_usd=paid), together=2, shape=Shape.SPECULATIVE)


def _wait(pair: Cascade) -> float:
    """Return the expected wait for an answer of a pair that is started at once."""
    first, second = pair.chain
    refused = (pair.cost_usd - first.cost_usd) / max(second.cost_usd, CLOSE**2)
    return (1 - refused) * (first.latency_s or 0.0) + refused * (second.latency_s or 0.0)


def _sooner(estimate: Estimate, other: Estimate) -> bool:
    """Return whether an answer is sooner to be had, by latency where both are known, else by price."""
    if estimate.latency_s is None or other.latency_s is None:
        return estimate.cost_usd < other.cost_usd
    return estimate.latency_s < other.latency_s


def _ensemble(plan: Plan, feasible: Sequence[Estimate], route: RouteOptions, team: Team) -> Plan:
    """Call several models whose answers together are most likely right: good, and wrong on different prompts.

    Added one by one is who most raises the signal of the vote weighted by log-odds over its noise, which
    grows with their agreement: w'm / sqrt(w'Cw), as in the best linear combination of correlated voters.
    """
    limit = math.inf if route.max_cost_usd is None else route.max_cost_usd
    members, left = [plan.steps[0]], [e for e in feasible if e.model != plan.steps[0].model][: 2 * CANDIDATES]
    while left and len(members) < team.ensemble:
        room = limit - sum(e.cost_usd for e in members)
        # That a model is most likely wrong says nothing about which other answer is right: it would have no vote.
        affordable = [e for e in left if e.cost_usd <= room and e.quality > _HALF]
        if not affordable:
            break
        chosen = max(affordable, key=lambda e: (_signal([*members, e], team), -e.cost_usd))
        members.append(chosen)
        left.remove(chosen)
    wanted = route.min_quality
    if wanted is not None and members[0].quality < wanted - CLOSE:
        return _unreachable(wanted, members[0].quality, "member of an ensemble")
    if route.willingness_to_pay is not None:
        members = _worth_their_price(members, route.willingness_to_pay, team)
    if len(members) == 1:
        return plan
    members.sort(key=lambda e: (-e.quality, e.cost_usd))
    # Two cannot outvote each other.
    combine = Combine.BEST_REVIEWED if len(members) == 2 else Combine.WEIGHTED_VOTE  # noqa: PLR2004
    return replace(plan, steps=tuple(members), together=len(members), shape=Shape.ENSEMBLE, combine=combine)


def _worth_their_price(members: Sequence[Estimate], price: float, team: Team) -> list[Estimate]:
    """Return the first one, two or more of the members: as many as quality - cost / willingness to pay is best with.

    How likely the vote is right is taken from its signal, as if it were normally distributed.
    """
    quality = [members[0].quality]
    quality += [NormalDist().cdf(_signal(members[:n], team)) for n in range(2, len(members) + 1)]
    paid = itertools.accumulate(e.cost_usd for e in members)
    worth = [q - usd / price for q, usd in zip(quality, paid, strict=True)]
    return list(members[: worth.index(max(worth)) + 1])


def _signal(members: Sequence[Estimate], team: Team) -> float:
    quality = np.clip([e.quality for e in members], 0.02, 0.98)
    weights, spread = np.log(quality / (1 - quality)).clip(min=0.0), np.sqrt(quality * (1 - quality))
    at = [team.models.index(e.model) for e in members]
    noise = weights * spread
    agreement = team.agreement[np.ix_(at, at)].copy()
    np.fill_diagonal(agreement, 1.0)
    return float(weights @ (2 * quality - 1) / math.sqrt(max(4 * noise @ agreement @ noise, CLOSE)))


def _with_spares(plan: Plan, found: Cascade, *, together: int, shape: Shape) -> Plan:
    """Return the plan with these steps, and behind them the single plan's others, for when calls fail."""
    names = {e.model for e in found.chain}
    spares = [e for e in plan.steps if e.model not in names and e.cost_usd >= found.chain[-1].cost_usd]
    steps = (*found.chain, *spares)[: max(_STEPS, len(found.chain))]
    return replace(
        plan, steps=steps, accept_at=found.accept_at, priors=found.priors, together=together, shape=shape,
        quality=found.quality, cost_usd=found.cost_usd,
    )  # fmt: skip


def _unreachable(wanted: float, best: float, what: str) -> Plan:
    text = (
        f"min_quality {wanted:g}: the best {what} is expected to reach {best:.3g}; ask for less, or allow more models"
    )
    return Plan((), 0.0, Reason.CONSTRAINED, (text,))
