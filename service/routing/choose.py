"""The choose and plan stages: limits first, then the best of what is left, then where to go if it fails."""

from collections.abc import Callable, Sequence
from typing import Final

from index.catalogue import Catalogue
from index.generation import Generation
from index.records import Model
from service.requests import Estimate, Plan, Reason, RouteOptions

# The model to call, and two more to go on to.
_STEPS: Final = 3

Limit = tuple[str, Callable[[Model, Estimate], bool]]


def choose(
    estimates: Sequence[Estimate],
    route: RouteOptions,
    catalogue: Catalogue,
    *,
    input_tokens: float,
    output_tokens: int,
    fallback: str,
    confidence: float,
    reason: Reason,
) -> Plan:
    """Return the plan: the best feasible model, then dearer ones to go on to.

    Args:
        estimates: one for each model of the catalogue, in its order.
        route: what the caller asks.
        catalogue: the models.
        input_tokens: about how many tokens the model would read.
        output_tokens: how many it is expected to write.
        fallback: the model to take unless `reason` is NEIGHBOURS.
        confidence: of the vote, 0 to 1.
        reason: NEIGHBOURS, FALLBACK or DEGRADED.
    """
    limits = _limits(route, input_tokens + output_tokens)
    pairs = list(zip(catalogue.models, estimates, strict=True))
    feasible = [e for m, e in pairs if all(allows(m, e) for _, allows in limits)]
    if not feasible:
        return Plan((), 0.0, Reason.CONSTRAINED, _what_to_relax(pairs, limits))
    ranked = sorted(feasible, key=lambda e: rank(e, route.willingness_to_pay))
    first = ranked[0]
    if route.pin:
        reason, confidence = Reason.PINNED, 1.0
    elif reason is not Reason.NEIGHBOURS:
        first = next((e for e in feasible if e.model == fallback), first)
        if first.model != fallback:
            reason = Reason.CONSTRAINED
    elif len(feasible) < len(pairs) and first is not min(estimates, key=lambda e: rank(e, route.willingness_to_pay)):
        reason = Reason.CONSTRAINED
    further = sorted(
        (e for e in feasible if e.cost_usd > first.cost_usd and e.quality > 0),
        key=lambda e: e.cost_usd,
    )
    return Plan((first, *further[: _STEPS - 1]), confidence, reason)


def rank(estimate: Estimate, willingness_to_pay: float | None) -> tuple[float, float, str]:
    """Return a sort key, best first: utility where a price is put on quality, else quality, then cost."""
    if willingness_to_pay is not None:
        return (
            estimate.cost_usd / willingness_to_pay - estimate.quality,
            estimate.cost_usd,
            estimate.model,
        )
    return (-round(estimate.quality, 6), estimate.cost_usd, estimate.model)


def fallback_model(generation: Generation, configured: str) -> str:
    """Return the id of the model to use when nothing is known.

    Args:
        generation: whose fallback it is where the settings are silent.
        configured: id or alias from the settings, "" where they are silent.

    Raises:
        CatalogueError: the catalogue does not have the configured model.
    """
    return generation.catalogue.get(configured).id if configured else generation.fallback


def _limits(route: RouteOptions, tokens: float) -> list[Limit]:
    """Return the limits that apply, each with its name for a person."""
    limits: list[Limit] = [
        (
            f"context window of {tokens:,.0f} tokens",
            lambda m, _: not m.context_window or tokens <= m.context_window,
        )
    ]
    if route.pin:
        limits.append((f"pin_model {route.pin}", lambda m, _: m.id == route.pin))
    if route.allow:
        limits.append(("allow_models", lambda m, _: m.id in route.allow))
    if route.deny:
        limits.append(("deny_models", lambda m, _: m.id not in route.deny))
    if route.require:
        wanted = ", ".join(sorted(route.require))
        limits.append((f"require {wanted}", lambda m, _: route.require <= m.capabilities))
    if (cost := route.max_cost_usd) is not None:
        limits.append((f"max_cost_usd {cost:g}", lambda _, e: e.cost_usd <= cost))
    if (latency := route.max_latency_s) is not None:
        limits.append(
            (
                f"max_latency {latency:g} s",
                lambda _, e: e.latency_s is None or e.latency_s <= latency,
            )
        )
    if (quality := route.min_quality) is not None:
        limits.append((f"min_quality {quality:g}", lambda _, e: e.quality >= quality))
    return limits


def _what_to_relax(pairs: Sequence[tuple[Model, Estimate]], limits: Sequence[Limit]) -> tuple[str, ...]:
    """Return a line for each limit: those that alone would leave a model if dropped come first."""
    decisive, others = [], []
    for name, allows in limits:
        rest = [other for other in limits if other[1] is not allows]
        freed = [m.id for m, e in pairs if all(keeps(m, e) for _, keeps in rest)]
        excluded = sum(not allows(m, e) for m, e in pairs)
        if freed:
            decisive.append(f"{name} excludes {excluded} of {len(pairs)} models; without it: {', '.join(freed[:5])}")
        elif excluded:
            others.append(f"{name} excludes {excluded} of {len(pairs)} models")
    return (*decisive, *others)
