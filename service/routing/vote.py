"""The estimate stage: what the nearest references say about every model.

First cut: a similarity-weighted vote of the nearest neighbours (Cover & Hart 1967), shrunk a little towards the mean
over all references. A fitted estimator belongs here, behind the same function.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.generation import Generation
from index.records import Reference
from service.requests import Estimate, Neighbour

# As many virtual neighbours with the overall mean: a model nobody near has tried is not judged from nothing.
_PRIOR_WEIGHT: Final = 1.0
_CHARACTERS_PER_TOKEN: Final = 4.0
_ONE_SIDED_95: Final = 1.645


@dataclass(frozen=True, slots=True)
class Vote:
    """What the neighbours say: estimates in the catalogue's order, the voters, and how sure they are (0 to 1)."""

    estimates: tuple[Estimate, ...]
    neighbours: tuple[Neighbour, ...]
    confidence: float


def vote(
    generation: Generation,
    rows: Sequence[tuple[float, int]],
    live: Sequence[tuple[float, Reference]],
    *,
    neighbours: int,
    min_similarity: float,
    input_characters: int,
    output_tokens: int,
) -> Vote:
    """Return what is expected of every model of the catalogue.

    Args:
        generation: whose references the rows are of.
        rows: (cosine, row) of the nearest references of the generation.
        live: (cosine, reference) of the nearest live references of the scope.
        neighbours: how many vote at the most, of both together.
        min_similarity: who is less similar does not vote.
        input_characters: length of all that the model reads.
        output_tokens: expected length of the answer.

    Returns:
        A vote; where nobody near enough is known it has no neighbours, the overall means and confidence 0.
    """
    catalogue = generation.catalogue
    near = [(s, generation.references[row], generation.scores[row], generation.costs[row]) for s, row in rows]
    near += [(s, reference, *_labels(reference, catalogue.ids)) for s, reference in live]
    near = sorted((n for n in near if n[0] >= min_similarity), key=lambda n: -n[0])[:neighbours]
    prior = np.nan_to_num(generation.mean_scores.astype(np.float64))
    # The nearest counts as one whole vote, the others as their similarity compares to it.
    weights = np.array([max(n[0], 1e-6) / max(near[0][0], 1e-6) for n in near])
    scores = np.array([n[2] for n in near]).reshape(len(near), len(prior))
    seen = ~np.isnan(scores) * weights[:, None]
    total = seen.sum(axis=0)
    quality = (np.nansum(scores * weights[:, None], axis=0) + _PRIOR_WEIGHT * prior) / (total + _PRIOR_WEIGHT)
    spread = _ONE_SIDED_95 * np.sqrt(quality * (1 - quality) / (total + _PRIOR_WEIGHT))
    costs = _costs(generation, near, weights, input_characters, output_tokens)
    estimates = tuple(
        Estimate(
            model.id,
            float(quality[i]),
            float(max(quality[i] - spread[i], 0.0)),
            float(costs[i]),
            model.latency_s(output_tokens),
        )
        for i, model in enumerate(catalogue.models)
    )
    share = weights / weights.sum() if len(near) else weights
    voters = tuple(Neighbour(n[1], n[0], float(w)) for n, w in zip(near, share, strict=True))
    return Vote(estimates, voters, _confidence(quality, spread) if len(near) else 0.0)


def _confidence(quality: NDArray[np.float64], spread: NDArray[np.float64]) -> float:
    """Return the probability that the first model is really better than the second, by the normal approximation."""
    if len(quality) == 1:
        return 1.0
    first, second = np.argsort(-quality, kind="stable")[:2]
    noise = math.hypot(spread[first], spread[second]) / _ONE_SIDED_95
    return 0.5 * (1 + math.erf((quality[first] - quality[second]) / (max(noise, 1e-9) * math.sqrt(2))))


def _costs(
    generation: Generation,
    near: Sequence[tuple[float, Reference, NDArray[np.float32], NDArray[np.float32]]],
    weights: NDArray[np.float64],
    input_characters: int,
    output_tokens: int,
) -> NDArray[np.float64]:
    """Return USD for every model: as the neighbours cost where they say so, else by the catalogue's prices."""
    tokens = input_characters / _CHARACTERS_PER_TOKEN
    listed = np.array([model.cost_usd(tokens, output_tokens) for model in generation.catalogue.models])
    unknown = np.isnan(generation.mean_costs)
    fallback = np.where(unknown, listed, generation.mean_costs)
    if not near or unknown.all():
        return fallback
    costs = np.array([n[3] for n in near])
    seen = (~np.isnan(costs) * weights[:, None]).sum(axis=0)
    return np.asarray(
        np.where(
            seen > 0,
            np.nansum(costs * weights[:, None], axis=0) / np.maximum(seen, 1e-12),
            fallback,
        )
    )


def _labels(reference: Reference, models: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scores and costs of a live reference in the order of the models, NaN where unknown."""
    # A best model that this catalogue does not have says nothing of those it has.
    labelled = models if reference.best_model in models else ()
    known = reference.scores or {m: float(m == reference.best_model) for m in labelled}
    scores = np.array([known.get(m, np.nan) for m in models], np.float32)
    return scores, np.array([reference.costs.get(m, np.nan) for m in models], np.float32)
