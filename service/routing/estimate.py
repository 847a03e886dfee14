"""The estimate stage: what is expected of every model for this prompt.

The generation's estimator predicts, on the encoder's thread, right after the search; here live references of the scope
join in, and its words become the catalogue's: models, USD, seconds. Where the prompt is like no reference the means
over all references stand, and the plan will be the fallback.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import Final

import numpy as np

from index.estimator import Expected, Neighbours, experience
from index.generation import Generation, score_matrix
from index.records import Reference
from index.ridge import Floats
from service.lookup import Found
from service.requests import Estimate, Reason, Voters

FAMILIAR: Final = 0.0
"""A prompt no more familiar is of another kind: it is less like the references than each of them is like the others."""

Live = Sequence[tuple[float, Reference]]


@dataclass(frozen=True, slots=True)
class Estimated:
    """Estimates in the catalogue's order, the references they rest on, and how sure the best is (0 to 1).

    Without `voters` the prompt is like no reference: the estimates are the means over all, and confidence is 0.
    """

    estimates: tuple[Estimate, ...]
    voters: Voters | None
    confidence: float

    @property
    def reason(self) -> Reason:
        """What a choice by these estimates rests on."""
        return Reason.FALLBACK if self.voters is None else Reason.NEIGHBOURS


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
    expected, voters = found.expected, Voters(generation.references, found.rows, found.similarities)
    nearest = float(found.similarities[0]) if len(found.similarities) else -1.0
    if live and expected is not None:
        voters = replace(voters, live=tuple(live))
        expected = _with_live(generation, voters, asked)
        nearest = max(nearest, *(similarity for similarity, _ in live))
    if expected is None or nearest < min_similarity or expected.familiarity <= FAMILIAR:
        means = np.nan_to_num(generation.mean_scores).tolist()
        unsure = Expected(means, means, [0.0] * len(means), generation.mean_costs.tolist(), 0.0)
        return Estimated(_estimates(generation, unsure, asked, evidence), None, 0.0)
    estimates = _estimates(generation, expected, asked, evidence)
    return Estimated(estimates, voters, _confidence(expected, asked.base))


def _with_live(generation: Generation, voters: Voters, asked: Asked) -> Expected:
    """Return the prediction once more, with live references among the neighbours."""
    heard = score_matrix([reference for _, reference in voters.live], generation.catalogue)
    known = np.concatenate((generation.scores[voters.rows], heard))
    estimator, order = generation.estimator, voters.order()
    near = Neighbours.gather(order[None], voters.every_similarity()[order][None], experience(known, estimator.mean))
    return next(estimator.predict(asked.vector[None], [asked.text], near, asked.base).each())


def _estimates(generation: Generation, expected: Expected, asked: Asked, evidence: float) -> tuple[Estimate, ...]:
    """Return what is expected in the catalogue's words. In plain numbers: arrays of a few models cost by the call."""
    tokens, writes = asked.input_tokens, asked.output_tokens
    models = generation.catalogue.models
    quality, low, gain_error, cost, _ = expected
    return tuple(
        Estimate(
            m.id, q, q_low, m.cost_usd(tokens, writes) if math.isnan(usd) else usd, m.latency_s(writes), evidence * e
        )
        for m, q, q_low, e, usd in zip(models, quality, low, gain_error, cost, strict=True)
    )


def _confidence(expected: Expected, base: int) -> float:
    """Return the probability that the best model is really better than the fallback, or it than the second best."""
    quality = expected.quality
    if len(quality) == 1:
        return 1.0
    first, second = nlargest(2, range(len(quality)), key=quality.__getitem__)
    other, leads = (second, second) if first == base else (base, first)
    noise = max(expected.gain_error[leads], 1e-9)
    return 0.5 * (1 + math.erf((quality[first] - quality[other]) / (noise * math.sqrt(2))))
