"""Deployments: catalogue entries of one group are the same model at different places. Load is shared by weight.

What references know of one holds for all of its group; each keeps its own price and latency.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from index.catalogue import Catalogue
from index.records import Model
from service.requests import Estimate
from service.routing.choose import Ranking

Groups = Mapping[str, tuple[Model, ...]]
"""Model id → all models of its group, where there are several."""


def groups_of(catalogue: Catalogue) -> Groups:
    """Return the groups of a catalogue."""
    members: dict[str, list[Model]] = {}
    for model in catalogue.models:
        if model.group:
            members.setdefault(model.group, []).append(model)
    return {model.id: tuple(group) for group in members.values() if len(group) > 1 for model in group}


def alike(estimates: Sequence[Estimate], groups: Groups) -> tuple[Estimate, ...]:
    """Return the estimates where all of a group are as good as the one that is known best."""
    best: dict[str, Estimate] = {}
    for one in estimates:
        if one.model in groups:
            group = groups[one.model][0].group
            if group not in best or one.quality > best[group].quality:
                best[group] = one
    return tuple(
        one._replace(quality=known.quality, quality_low=known.quality_low, doubt=known.doubt)
        if one.model in groups and (known := best[groups[one.model][0].group])
        else one
        for one in estimates
    )


def one_each(ranking: Ranking, groups: Groups) -> Ranking:
    """Return the ranking with only the first of each group: the others are no other choice."""
    return replace(ranking, models=_firsts(ranking.models, groups))


def spread(ranking: Ranking, groups: Groups, place: float) -> Ranking:
    """Return the ranking with one of each group, drawn by weight, where the group's first stood.

    The other places of the first model are its siblings, for when a call of it fails: those that only stand in last.

    Args:
        ranking: with at least one model.
        groups: of the catalogue.
        place: where the request stands between 0 and 1.
    """
    feasible = {e.model: e for e in ranking.models}
    drawn = tuple(feasible[_drawn(e.model, groups, feasible, place)] for e in _firsts(ranking.models, groups))
    lead = drawn[0].model
    others = (model for model in groups.get(lead, ()) if model.id in feasible and model.id != lead)
    siblings = tuple(feasible[model.id] for model in sorted(others, key=lambda model: model.weight == 0))
    return replace(ranking, models=drawn, siblings=siblings)


def _firsts(models: Sequence[Estimate], groups: Groups) -> tuple[Estimate, ...]:
    """Return the models with only the first of each group."""
    first: dict[str, str] = {}
    for one in models:
        if one.model in groups:
            first.setdefault(groups[one.model][0].group, one.model)
    kept = set(first.values())
    return tuple(e for e in models if e.model not in groups or e.model in kept)


def _drawn(name: str, groups: Groups, feasible: Collection[str], place: float) -> str:
    """Return which of a model's feasible places is called, by weight."""
    here = [model for model in groups.get(name, ()) if model.id in feasible]
    place *= sum(model.weight for model in here)
    for model in here:
        place -= model.weight
        if place < 0:
            return model.id
    return name
