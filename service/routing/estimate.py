"""The estimate stage: what is expected of every model for this prompt.

The generation's estimator predicts, on the encoder's thread, right after the search; here live references of the scope
join in, and its words become the catalogue's: models, USD, seconds. Where the prompt is like no reference the means
over all references stand, and the plan will be the fallback.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.estimator import Neighbours, Prediction
from index.generation import Generation, score_matrix
from index.records import Reference
from index.ridge import Floats
from service.lookup import Found
from service.requests import Estimate, Voters

_ONE_SIDED_95: Final = 1.645
# A prompt less like the references than 99 % of them are like each other is of another kind.
_FAMILIAR: Final = 0.01

# What rounding leaves of no quality at all.
_NOTHING: Final = 1e-6

Live = Sequence[tuple[float, Reference]]


@dataclass(frozen=True, slots=True)
class Estimated:
    """Estimates in the catalogue's order, the references they rest on, and how sure the best is (0 to 1).

    Without `voters` the prompt is like no reference: the estimates are the means over all, and confidence is 0.
    """

    estimates: tuple[Estimate, ...]
    voters: Voters | None
    confidence: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What the estimate is for.

    `text` is canonical, `vector` (d,) its embedding; `input_tokens` the model would read, `output_tokens` it is
    expected to write; `base` is the column of the fallback.
    """

    text: str
    vector: Floats
    input_tokens: float
    output_tokens: int
    base: int


def estimate(
    generation: Generation, found: Found, live: Live, asked: Asked, *, evidence: float, min_similarity: float
) -> Estimated:
    """Return what is expected of every model of the catalogue.

    Args:
        generation: whose references were searched.
        found: what was near, with the estimator's prediction.
        live: (cosine, reference) of the nearest live references of the scope.
        asked: the prompt.
        evidence: how many standard errors a gain over the fallback has to exceed.
        min_similarity: of the nearest reference; further away the prompt is like none.
    """
    prediction, voters = found.prediction, Voters(generation.references, found.rows, found.similarities)
    if live and prediction is not None:
        voters = replace(voters, live=tuple(live))
        prediction = _with_live(generation, voters, asked)
    tokens = asked.input_tokens, asked.output_tokens
    if prediction is None or _is_strange(prediction, voters, min_similarity):
        return Estimated(_means(generation, *tokens), None, 0.0)
    quality, gain_error = prediction.quality[0], prediction.gain_error[0]
    low = np.maximum(quality - _ONE_SIDED_95 * prediction.error[0], 0)
    cost = prediction.cost[0]
    if (unknown := np.isnan(cost)).any():
        cost = np.where(unknown, generation.listed_costs(*tokens), cost)
    low, quality = _vouched(generation, low), _vouched(generation, quality)
    estimates = _estimates(generation, quality, low, cost, asked.output_tokens, evidence * gain_error)
    return Estimated(estimates, voters, _confidence(quality, gain_error, asked.base))


def _vouched(generation: Generation, quality: Floats) -> Floats:
    """Return qualities, more than 0 for models that some reference speaks for, and 0 for others without any.

    The estimator leaves both anywhere within its rounding, but a plan goes on to the former only.
    """
    spoken_for = np.nan_to_num(generation.mean_scores) > 0
    return np.where(spoken_for, np.maximum(quality, _NOTHING), np.where(quality > _NOTHING, quality, 0))


def _with_live(generation: Generation, voters: Voters, asked: Asked) -> Prediction:
    """Return the prediction once more, with live references among the neighbours."""
    heard = score_matrix([reference for _, reference in voters.live], generation.catalogue)
    scores = np.concatenate((generation.scores[voters.rows], heard))
    order = voters.order()
    near = Neighbours(voters.every_similarity()[order][None], scores[order][None])
    return generation.estimator.predict(asked.vector[None], [asked.text], near, asked.base)


def _is_strange(prediction: Prediction, voters: Voters, min_similarity: float) -> bool:
    nearest = float(voters.every_similarity().max(initial=-1.0))
    return nearest < min_similarity or bool(prediction.familiarity[0] < _FAMILIAR)


def _means(generation: Generation, input_tokens: float, output_tokens: int) -> tuple[Estimate, ...]:
    quality = np.nan_to_num(generation.mean_scores)
    listed = generation.listed_costs(input_tokens, output_tokens)
    cost = np.where(np.isnan(generation.mean_costs), listed, generation.mean_costs)
    return _estimates(generation, quality, quality, cost, output_tokens, np.zeros_like(quality))


def _estimates(
    generation: Generation, quality: Floats, low: Floats, cost: NDArray[np.float64], output_tokens: int, doubt: Floats
) -> tuple[Estimate, ...]:
    models = generation.catalogue
    latencies = [model.latency_s(output_tokens) for model in models.models]
    columns = (models.ids, quality.tolist(), low.tolist(), cost.tolist(), latencies, doubt.tolist())
    return tuple(map(Estimate._make, zip(*columns, strict=True)))


def _confidence(quality: Floats, gain_error: Floats, base: int) -> float:
    """Return the probability that the best model is really better than the fallback, or it than the second best."""
    if len(quality) == 1:
        return 1.0
    first, second = np.argsort(-quality, kind="stable")[:2]
    other = base if first != base else second
    noise = gain_error[first] if first != base else gain_error[second]
    return 0.5 * (1 + math.erf(float(quality[first] - quality[other]) / (max(float(noise), 1e-9) * math.sqrt(2))))
