"""The choose stage's arithmetic: which models are feasible, and in which order they are worth calling.

Pure: what it is given, it ranks. Who sets limits and weights, and what happens to the ranking afterwards, is
`service.policy`; what becomes of it is a plan (`single` here).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from index.catalogue import Catalogue
from index.generation import Generation
from index.records import Model
from service.requests import Estimate, Plan, Reason, RouteOptions

# The model to call, and two more to go on to.
_STEPS: Final = 3

Limit = tuple[str, Callable[[Model, Estimate], bool]]
_Worth = Callable[[Estimate], tuple[float, float, str]]


@dataclass(frozen=True, slots=True)
class Known:
    """Estimates, one for each model of the catalogue in its order, and how sure they are (0 to 1).

    `reason`: NEIGHBOURS, or FALLBACK or DEGRADED where nothing is known of the prompt.
    """

    estimates: Sequence[Estimate]
    confidence: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Ranking:
    """The feasible models, best first; without any, `infeasible` says which limits left none.

    `siblings` are the same model as the first at other places: no other choice, but where to go when its call fails.
    """

    models: tuple[Estimate, ...]
    confidence: float
    reason: Reason
    infeasible: tuple[str, ...] = ()
    siblings: tuple[Estimate, ...] = ()

    def led_by(self, model: str) -> "Ranking":
        """Return the same with this feasible model in front."""
        if self.models[0].model == model:
            return self
        first = next(e for e in self.models if e.model == model)
        return replace(self, models=(first, *(e for e in self.models if e is not first)))


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
    """Return the plan without a policy: `rank`, then `single`; the arguments are theirs."""
    tokens, known = input_tokens + output_tokens, Known(estimates, confidence, reason)
    return single(rank(known, route, catalogue, tokens=tokens, fallback=fallback))


def rank(
    known: Known,
    route: RouteOptions,
    catalogue: Catalogue,
    *,
    tokens: float,
    fallback: str,
    avoid: Collection[str] = (),
    bound: bool = True,
) -> Ranking:
    """Return the models that keep all limits, in the order in which they are worth calling.

    Args:
        known: of the models.
        route: limits and weights.
        catalogue: the models.
        tokens: about how many the model would read and write together.
        fallback: the model that others must be better than beyond doubt.
        avoid: models in bad health; they are feasible only where no other is.
        bound: whether the fallback is taken where nothing is known of the prompt, whatever it is worth.
    """
    estimates, confidence, reason = known.estimates, known.confidence, known.reason
    feasible = _feasible(estimates, route, catalogue, tokens)
    if not feasible:
        return Ranking((), 0.0, Reason.CONSTRAINED, _what_to_relax(estimates, route, catalogue, tokens))
    if avoid and (healthy := [e for e in feasible if e.model not in avoid]):
        feasible = healthy
    if not any(e.model == fallback for e in feasible):  # nothing to stay with, so no doubt about leaving it
        feasible = [e._replace(doubt=0.0) for e in feasible]
    worth = order(estimates, route)
    ranked = tuple(sorted(feasible, key=worth))
    if route.pin:
        return Ranking(ranked, 1.0, Reason.PINNED)
    if reason is Reason.NEIGHBOURS:
        return Ranking(ranked, confidence, _why(ranked, estimates, route, worth))
    if not bound:
        return Ranking(ranked, confidence, reason)
    if any(e.model == fallback for e in feasible):
        return Ranking(ranked, confidence, reason).led_by(fallback)
    return Ranking(ranked, confidence, Reason.CONSTRAINED)


def _why(models: Sequence[Estimate], estimates: Sequence[Estimate], route: RouteOptions, worth: _Worth) -> Reason:
    """Return why the first of the ranked models is the first: estimates, limits, or no evidence for another."""
    value, first = utility(estimates, route), models[0]
    if len(models) < len(estimates) and first.model != min(estimates, key=worth).model:
        return Reason.CONSTRAINED
    if any(value(e) > value(first) for e in models if e.doubt and not first.doubt):
        return Reason.FALLBACK
    return Reason.NEIGHBOURS


def order(estimates: Sequence[Estimate], route: RouteOptions) -> _Worth:
    """Return a sort key, best first: utility without what is in doubt, then cost, then name."""
    value = utility(estimates, route)
    if route.willingness_to_pay is None:  # near equals are equal, so that the cheaper one is taken
        return lambda e: (-round(value(e) - e.doubt, 6), e.cost_usd, e.model)
    return lambda e: (e.doubt - value(e), e.cost_usd, e.model)


def utility(estimates: Sequence[Estimate], route: RouteOptions) -> Callable[[Estimate], float]:
    """Return what a model is worth, in points of quality: quality - cost / willingness_to_pay - latency weight.

    A model of unknown latency is taken to be as slow as the others on average.
    """
    price, weight = route.willingness_to_pay, route.latency_weight
    if not weight:
        return (lambda e: e.quality) if price is None else (lambda e: e.quality - e.cost_usd / price)
    known = [e.latency_s for e in estimates if e.latency_s is not None]
    usual = sum(known) / len(known) if known else 0.0

    def value(e: Estimate) -> float:
        cost = 0.0 if price is None else e.cost_usd / price
        return e.quality - cost - weight * (usual if e.latency_s is None else e.latency_s)

    return value


def single(ranking: Ranking) -> Plan:
    """Return the plan of the form SINGLE: the first of the ranking, its sibling, then others to go on to.

    These are the best of the dearer ones, the cheapest first. Where there are not enough of them, the best of the rest
    stand behind, for when calls fail.
    """
    if not ranking.models:
        return Plan((), 0.0, ranking.reason, ranking.infeasible)
    first, same = ranking.models[0], ranking.siblings
    others = [e for e in ranking.models[1:] if e.quality > 0 and e not in same]
    dearer = [e for e in others if e.cost_usd > first.cost_usd][: _STEPS - 1]
    rest = (e for e in others if e.cost_usd <= first.cost_usd)
    steps = (first, *same[:1], *sorted(dearer, key=lambda e: e.cost_usd), *rest, *same[1:])
    return Plan(steps[:_STEPS], ranking.confidence, ranking.reason)


def fallback_model(generation: Generation, configured: str) -> str:
    """Return the id of the model to use when nothing is known.

    Args:
        generation: whose fallback it is where the settings are silent.
        configured: id or alias from the settings, "" where they are silent.

    Raises:
        CatalogueError: the catalogue does not have the configured model.
    """
    return generation.catalogue.get(configured, "routing.fallback").id if configured else generation.fallback


def able(route: RouteOptions, catalogue: Catalogue, estimates: Sequence[Estimate] | None = None) -> RouteOptions:
    """Return what is asked, with the models that are able to: others' cached answers are not wanted either.

    Args:
        route: what is asked.
        catalogue: the models; one that it does not have is not known to be able to anything.
        estimates: of their quality; None: not known yet, only what they are capable of counts.
    """
    models = {m.id for m in catalogue.models if route.require <= m.capabilities}
    if estimates is not None:
        models &= {e.model for e in estimates if e.quality >= route.least_quality}
    return replace(route, able=frozenset(models))


def _feasible(
    estimates: Sequence[Estimate], route: RouteOptions, catalogue: Catalogue, tokens: float
) -> list[Estimate]:
    """Return the estimates of the models that keep every limit."""
    left = list(zip(catalogue.models, estimates, strict=True))
    for _, allows in _limits(route, tokens):
        left = [pair for pair in left if allows(*pair)]
    return [estimate for _, estimate in left]


def _limits(route: RouteOptions, tokens: float) -> list[Limit]:
    """Return the limits that apply, each with its name for a person."""
    limits: list[Limit] = [
        (
            f"context window of {tokens:,.0f} tokens",
            lambda m, _: not m.context_window or tokens <= m.context_window,
        )
    ]
    limits += [(name, _among(admitted)) for name, admitted in route.limits]
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
    if quality := route.least_quality:  # of other shapes service.routing.plan sees to that
        limits.append((f"min_quality {quality:g}", lambda _, e: e.quality >= quality))
    return limits


def _among(admitted: frozenset[str]) -> Callable[[Model, Estimate], bool]:
    return lambda m, _: m.id in admitted


def _what_to_relax(
    estimates: Sequence[Estimate], route: RouteOptions, catalogue: Catalogue, tokens: float
) -> tuple[str, ...]:
    """Return a line for each limit: those that alone would leave a model if dropped come first."""
    limits = _limits(route, tokens)
    pairs = list(zip(catalogue.models, estimates, strict=True))
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
