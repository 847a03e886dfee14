"""What rules and arms ask, bound to a catalogue: names are resolved, limits become sets of models."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from index.catalogue import Catalogue, did_you_mean
from service.policy_settings import Wishes
from service.requests import CacheMode, Request, Shape

Given = TypeVar("Given")

# How far the cache takes part, from wholly to not at all.
_CACHE: Final = (CacheMode.DEFAULT, CacheMode.EXACT_ONLY, CacheMode.REFRESH, CacheMode.BYPASS)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one rule or arm asks. `limits` names the models that are left, where it limits them."""

    name: str
    pin: str
    limits: tuple[tuple[str, frozenset[str]], ...]
    cache: CacheMode
    wishes: Wishes


def bind(
    name: str, place: str, wishes: Wishes, catalogue: Catalogue, tiers: Sequence[str], problems: list[str]
) -> Asked:
    """Return what is asked, in ids of the catalogue.

    Args:
        name: how explanations call who asks.
        place: how problems call it.
        wishes: as configured.
        catalogue: the models.
        tiers: of the catalogue, lowest first.
        problems: where each thing that is wrong is added.
    """
    found: list[str] = []
    left, said = _left(wishes, catalogue, tiers, found)
    pin = next(iter(_ids("pin", [wishes.pin] if wishes.pin else [], catalogue, found)), "")
    if said and not left and not found:
        found.append(f"{', '.join(said)}: leaves no model of the catalogue; relax one of them")
    elif pin and pin not in left and not found:
        found.append(f"pin: {wishes.pin!r} is excluded by {', '.join(said)} beside it; remove one of the two")
    problems += [f"{place}: {one}" for one in found]
    limits = ((f"{name} ({', '.join(said)})", left),) if said else ()
    return Asked(name, pin, limits, CacheMode[wishes.cache.upper()], wishes)


def _left(
    wishes: Wishes, catalogue: Catalogue, tiers: Sequence[str], found: list[str]
) -> tuple[frozenset[str], list[str]]:
    """Return the models that are left, and what limits them."""
    left = frozenset(catalogue.ids)
    said: list[str] = []
    if wishes.allow:
        left, said = left & _ids("allow", wishes.allow, catalogue, found), [*said, "allow"]
    if wishes.deny:
        left, said = left - _ids("deny", wishes.deny, catalogue, found), [*said, "deny"]
    if wishes.require:
        able = {m.id for m in catalogue.models if m.capabilities >= set(wishes.require)}
        left, said = left & able, [*said, f"require {', '.join(wishes.require)}"]
    for field, tier in (("tier", wishes.tier), ("min_tier", wishes.min_tier)):
        if tier in tiers:
            wanted = tiers[tiers.index(tier) :] if field == "min_tier" else (tier,)
            left, said = left & {m.id for m in catalogue.models if m.tier in wanted}, [*said, f"{field} {tier}"]
        elif tier:
            known = f"; it has {', '.join(tiers)}" if tiers else ": give its models a `tier`"
            found.append(f"{field}: the catalogue has no tier {tier!r}{did_you_mean(tier, tiers) or known}")
    return left, said


def _ids(field: str, names: Iterable[str], catalogue: Catalogue, found: list[str]) -> frozenset[str]:
    """Return the ids of models given by id or alias."""
    ids = {one: catalogue.resolve(one) for one in names}
    found += [f"{field}: {catalogue.unknown(one)}" for one, model in ids.items() if model is None]
    return frozenset(model for model in ids.values() if model is not None)


def ask(request: Request, asked: Sequence[Asked], *, overrides: bool) -> Request:
    """Return the request with what was asked of it besides.

    Limits add up. Of weights the first that is given holds, the request's own before all.

    Args:
        request: as it came, or as it was asked before.
        asked: in the order in which they have a say.
        overrides: whether a pin holds against the request's own.
    """
    route, cache = request.route, request.cache
    wishes = [one.wishes for one in asked]
    pin = next((one.pin for one in asked if one.pin), "")
    mode = max((cache.mode, *(one.cache for one in asked)), key=_CACHE.index)
    return request._replace(
        route=replace(
            route,
            pin=pin if pin and (overrides or not route.pin) else route.pin,
            limits=(*route.limits, *(limit for one in asked for limit in one.limits)),
            max_cost_usd=_tightest(min, route.max_cost_usd, (w.max_cost_usd for w in wishes)),
            max_latency_s=_tightest(min, route.max_latency_s, (w.max_latency_s for w in wishes)),
            min_quality=_tightest(max, route.min_quality, (w.min_quality for w in wishes)),
            willingness_to_pay=first(route.willingness_to_pay, *(w.willingness_to_pay for w in wishes)),
            shape=first(route.shape, *(Shape[w.shape.upper()] for w in wishes if w.shape)),
            latency_weight=first(route.latency_weight, *(w.latency_weight for w in wishes)),
        ),
        cache=cache if mode is cache.mode else replace(cache, mode=mode),
    )


def first(*values: Given | None) -> Given | None:
    """Return the first that is given."""
    return next((value for value in values if value is not None), None)


def _tightest(
    of: Callable[[Iterable[float]], float], own: float | None, others: Iterable[float | None]
) -> float | None:
    given = [value for value in (own, *others) if value is not None]
    return of(given) if given else None
