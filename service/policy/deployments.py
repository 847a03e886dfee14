"""Deployments: catalogue entries of one group are the same model at different places. Load is shared by weight.

What references know of one holds for all of its group; each keeps its own price and latency.
"""

from collections.abc import Mapping, Sequence
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
    first: dict[str, str] = {}
    for one in ranking.models:
        if one.model in groups:
            first.setdefault(groups[one.model][0].group, one.model)
    kept = set(first.values())
    return replace(ranking, models=tuple(e for e in ranking.models if e.model not in groups or e.model in kept))


def spread(ranking: Ranking, groups: Groups, place: float) -> Ranking:
    """Return the ranking led by one of the first one's group, drawn by weight; another one follows for when it fails.

    Args:
        ranking: with at least one model.
        groups: of the catalogue.
        place: where the request stands between 0 and 1.
    """
    members = groups.get(ranking.models[0].model, ())
    feasible = {e.model: e for e in ranking.models}
    here = [model for model in members if model.id in feasible]
    if len(here) <= 1:
        return ranking
    total = sum(model.weight for model in here)
    place *= total
    chosen = ranking.models[0].model
    for model in here:
        place -= model.weight
        if place < 0:
            chosen = model.id
            break
    siblings = tuple(feasible[model.id] for model in here if model.id != chosen and (model.weight or not total))
    return replace(ranking.led_by(chosen), siblings=siblings)
