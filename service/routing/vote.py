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

from index.generation import Generation, Known
from index.records import Reference
from service.requests import Estimate, Neighbour

# As many virtual neighbours with the overall mean: a model nobody near has tried is not judged from nothing.
_PRIOR_WEIGHT: Final = 1.0
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
    input_tokens: float,
    output_tokens: int,
) -> Vote:
    """Return what is expected of every model of the catalogue.

    Args:
        generation: whose references the rows are of.
        rows: (cosine, row) of the nearest references of the generation.
        live: (cosine, reference) of the nearest live references of the scope.
        neighbours: how many vote at the most, of both together.
        min_similarity: who is less similar does not vote.
        input_tokens: about how many tokens the model would read.
        output_tokens: expected length of the answer.

    Returns:
        A vote; where nobody near enough is known it has no neighbours, the overall means and confidence 0.
    """
    nearest = [(s, row) for s, row in rows if s >= min_similarity]
    similarities = np.array([s for s, _ in nearest])
    chosen = np.array([row for _, row in nearest], np.intp)
    voters = [generation.references[row] for row in chosen]
    known = Known(*(table[chosen] for table in generation.known))
    heard = [(s, reference) for s, reference in live if s >= min_similarity]
    if heard:
        similarities = np.append(similarities, [s for s, _ in heard])
        voters += [reference for _, reference in heard]
        known = known.stacked([_labels(reference, generation.catalogue.ids) for _, reference in heard])
    if heard or len(voters) > neighbours:
        order = np.argsort(-similarities, kind="stable")[:neighbours]
        similarities, voters, known = similarities[order], [voters[i] for i in order], known.taken(order)
    # The nearest counts as one whole vote, the others as their similarity compares to it.
    weights = np.maximum(similarities, 1e-6) / max(similarities[0], 1e-6) if voters else similarities
    total = weights @ known.scored
    quality = (weights @ known.scores + _PRIOR_WEIGHT * generation.prior) / (total + _PRIOR_WEIGHT)
    spread = _ONE_SIDED_95 * np.sqrt(np.maximum(quality * (1 - quality), 0.0) / (total + _PRIOR_WEIGHT))
    costs = _costs(generation, known, weights, input_tokens, output_tokens)
    low = np.maximum(quality - spread, 0.0)
    latencies = [model.latency_s(output_tokens) for model in generation.catalogue.models]
    fields = zip(generation.catalogue.ids, quality.tolist(), low.tolist(), costs.tolist(), latencies, strict=True)
    shares = (weights / weights.sum()).tolist() if voters else []
    return Vote(
        tuple(map(Estimate._make, fields)),
        tuple(map(Neighbour._make, zip(voters, similarities.tolist(), shares, strict=True))),
        _confidence(quality, spread) if voters else 0.0,
    )


def _confidence(quality: NDArray[np.float64], spread: NDArray[np.float64]) -> float:
    """Return the probability that the first model is really better than the second, by the normal approximation."""
    if len(quality) == 1:
        return 1.0
    first, second = np.argsort(-quality, kind="stable")[:2]
    noise = math.hypot(spread[first], spread[second]) / _ONE_SIDED_95
    return 0.5 * (1 + math.erf((quality[first] - quality[second]) / (max(noise, 1e-9) * math.sqrt(2))))


def _costs(
    generation: Generation, known: Known, weights: NDArray[np.float64], input_tokens: float, output_tokens: int
) -> NDArray[np.float64]:
    """Return USD for every model: as the neighbours cost where they say so, else by the catalogue's prices."""
    listed = np.array([model.cost_usd(input_tokens, output_tokens) for model in generation.catalogue.models])
    mean = generation.mean_costs
    fallback = np.where(np.isnan(mean), listed, mean)
    if not len(weights) or not known.priced.any():
        return fallback
    seen = weights @ known.priced
    return np.asarray(np.where(seen > 0, weights @ known.costs / np.maximum(seen, 1e-12), fallback))


def _labels(reference: Reference, models: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scores and costs of a live reference in the order of the models, NaN where unknown."""
    # A best model that this catalogue does not have says nothing of those it has.
    labelled = models if reference.best_model in models else ()
    known = reference.scores or {m: float(m == reference.best_model) for m in labelled}
    scores = np.array([known.get(m, np.nan) for m in models], np.float32)
    return scores, np.array([reference.costs.get(m, np.nan) for m in models], np.float32)
