"""Cascades: which models to call, cheap to strong, and how sure a review must be to stop.

FrugalGPT (Chen et al., arXiv 2305.05176) measures cascades on labelled prompts; here their cost and quality are worked
out for each prompt, from three things:

- the estimates: how likely each model is right, and what it costs;
- the review's accuracy: the evidence in an answer is taken to be normally distributed, with the same spread for right
  and wrong answers and their means `separation` deviations apart (signal detection, Green & Swets 1966);
- agreement: models fail on the same prompts, so a model is less likely right where another was wrong. It is the
  correlation of their scores over the references, kept within what the two probabilities allow.

Pure arithmetic, for all chains and thresholds at once. Called by `service.routing.plan` and `service.routing.review`.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.requests import Estimate

Floats = NDArray[np.float64]

CLOSE: Final = 1e-9
# More candidates than these are thinned out: of 6 there are 15 pairs and 20 triples, which cost 0.2 ms.
CANDIDATES: Final = 6
_DEEPEST: Final = 3
_THRESHOLDS: Final = 24
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Team:
    """What is known of the models together, and of the reviews of their answers.

    `separation`: how far apart right and wrong answers are to the review (d' of signal detection, 0: it cannot tell).
    `agreement`: correlation of the models' scores, shape (models, models), in the order of `models`.
    `ensemble`: how many models an ensemble has. `groups`: of those that are one model at several places, its name.
    """

    separation: float
    agreement: Floats
    models: tuple[str, ...]
    ensemble: int = 3
    groups: Mapping[str, str] = field(default_factory=dict)

    def same(self, one: str, other: str) -> bool:
        """Return whether two are the same model at different places."""
        return one in self.groups and self.groups[one] == self.groups.get(other)

    def agree(self, one: str, other: str) -> float:
        """Return the correlation of two models' scores; 0 for one that a newer generation does not know."""
        if one not in self.models or other not in self.models:
            return 0.0
        return float(self.agreement[self.models.index(one), self.models.index(other)])


class Cascade(NamedTuple):
    """A chain of models, and what is expected of it: quality, and cost in USD.

    `accept_at` has the probability at which each review accepts, `priors` how likely each step is right once it is
    reached. A chain of one model has neither.
    """

    chain: tuple[Estimate, ...]
    accept_at: tuple[float, ...]
    quality: float
    cost_usd: float
    priors: tuple[float, ...] = ()


def cheapest(
    feasible: Sequence[Estimate], team: Team, wanted: float, willingness_to_pay: float | None = None
) -> Cascade:
    """Return the best cascade of at most three models.

    Args:
        feasible: at least one estimate.
        team: what is known of reviews and of the models together.
        wanted: least expected quality; where nothing reaches it, the best quality is taken.
        willingness_to_pay: USD per point of quality: then not the least cost decides, but the best utility.
    """
    candidates = _frontier(feasible)
    found = [Cascade((e,), (), e.quality, e.cost_usd) for e in candidates]
    for length in range(2, min(_DEEPEST, len(candidates)) + 1):
        best = best_of(list(combinations(candidates, length)), team, wanted, willingness_to_pay)
        found += [best] if best is not None else []
    return min(found, key=lambda c: _worth(c.quality, c.cost_usd, wanted, willingness_to_pay))


def best_of(
    chains: Sequence[tuple[Estimate, ...]], team: Team, wanted: float, willingness_to_pay: float | None = None
) -> Cascade | None:
    """Return the best of some chains with its best thresholds, None where reviews cannot tell right from wrong.

    All chains, of the same length of 2 or 3, and all thresholds are worked out at once: axis 0 are the chains, then
    comes one axis for each review.

    Args:
        chains: at least one.
        team: as in `cheapest`.
        wanted: as in `cheapest`.
        willingness_to_pay: as in `cheapest`.
    """
    reviews = _reviews(round(team.separation, 2))
    if reviews is None:
        return None
    quality = np.array([[e.quality for e in chain] for chain in chains])
    cost = np.array([[e.cost_usd for e in chain] for chain in chains])
    # How much of all answers is right, and wrong, at the step that is being reviewed.
    right, wrong = quality[:, 0], 1.0 - quality[:, 0]
    reached, spent = np.zeros(len(chains)), cost[:, 0]
    for i in range(len(chains[0]) - 1):
        right, wrong, reached, spent = (a[..., None] for a in (right, wrong, reached, spent))
        passed, failed = right * reviews.right_refused, wrong * reviews.wrong_refused
        refused = passed + failed
        reached, spent = reached + (right - passed), spent + refused * _wide(cost[:, i + 1], i + 1)
        then = np.array([_then(chain, i, team) for chain in chains])
        right = passed * _wide(then[:, 0], i + 1) + failed * _wide(then[:, 1], i + 1)
        wrong = refused - right
    reached = reached + right
    enough = reached >= wanted - CLOSE
    worth = spent if willingness_to_pay is None else spent / willingness_to_pay - reached
    worth = np.where(enough, worth, np.inf) if enough.any() else -reached
    at = np.unravel_index(int(worth.argmin()), worth.shape)
    chain = chains[int(at[0])]
    accept_at, priors = _thresholds(chain, [int(i) for i in at[1:]], team, reviews)
    return Cascade(chain, accept_at, float(reached[at]), float(spent[at]), priors)


def break_even(quality: float, following: float, agreement: float, price: float = 0.0) -> float:
    """Return the probability at which an answer is as good as what the next model is expected to make of it.

    Args:
        quality: what was expected of the model that answered.
        following: what is expected of the next.
        agreement: correlation of the two.
        price: what calling the next costs, in points of quality.
    """
    right, wrong = given(quality, following, agreement)
    return max(wrong - price, 0.0) / max(1.0 - right + wrong, CLOSE)


def given(first: float, second: float, agreement: float) -> tuple[float, float]:
    """Return how likely the second is right where the first is, and where it is not.

    Args:
        first: probability that the first is right.
        second: the same for the second.
        agreement: correlation of the two (phi); it is kept within the Fréchet bounds of the two probabilities.
    """
    both = first * second + agreement * math.sqrt(first * (1 - first) * second * (1 - second))
    both = min(max(both, first + second - 1, 0.0), first, second)
    return (both / first if first > 0 else second), ((second - both) / (1 - first) if first < 1 else second)


def _worth(quality: float, cost: float, wanted: float, willingness_to_pay: float | None) -> tuple[float, float, float]:
    """Return a sort key, best first: enough quality, then utility or cost; without enough, the most."""
    if quality < wanted - CLOSE:
        return (1.0, -quality, cost)
    return (0.0, cost if willingness_to_pay is None else cost / willingness_to_pay - quality, -quality)


@dataclass(frozen=True, slots=True)
class _Reviews:
    """What a review does at every threshold: the evidence asked for, and who is turned away; shape (thresholds,)."""

    evidence: Floats
    right_refused: Floats
    wrong_refused: Floats


@functools.lru_cache(maxsize=512)
def _reviews(separation: float) -> _Reviews | None:
    """Return the thresholds that are tried for a review of this accuracy; None: it cannot tell right from wrong."""
    if separation <= 0:
        return None
    middle = separation / 2
    at = np.linspace(-middle - 2.0, middle + 2.0, _THRESHOLDS)
    refused = [[_NORMAL.cdf(z + shift) for z in at.tolist()] for shift in (-middle, middle)]
    return _Reviews(separation * at, np.array(refused[0]), np.array(refused[1]))


def _then(chain: tuple[Estimate, ...], at: int, team: Team) -> tuple[float, float]:
    """Return how likely the step after this one is right where this one is, and where it is not."""
    one, other = chain[at], chain[at + 1]
    return given(one.quality, other.quality, team.agree(one.model, other.model))


def _wide(values: Floats, axes: int) -> Floats:
    """Return values, one for each chain, with so many axes behind them."""
    return values.reshape(-1, *([1] * axes))


def _thresholds(
    chain: tuple[Estimate, ...], at: Sequence[int], team: Team, reviews: _Reviews
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the probability at which each review accepts, and how likely each step is right when it is reached."""
    accept_at: list[float] = []
    right, wrong = chain[0].quality, 1.0 - chain[0].quality
    priors = [right]
    for i, threshold in enumerate(at):
        odds = math.log(max(right, CLOSE) / max(wrong, CLOSE)) + reviews.evidence[threshold]
        accept_at.append(1.0 / (1.0 + math.exp(-min(max(odds, -30.0), 30.0))))
        passed, failed = right * reviews.right_refused[threshold], wrong * reviews.wrong_refused[threshold]
        if_right, if_wrong = _then(chain, i, team)
        right = passed * if_right + failed * if_wrong
        wrong = passed + failed - right
        priors.append(float(right / max(passed + failed, CLOSE)))
    return tuple(accept_at), tuple(priors)


def _frontier(feasible: Sequence[Estimate]) -> list[Estimate]:
    """Return who is better than all that are cheaper, cheapest first; of many, those nearest above even steps."""
    front: list[Estimate] = []
    for estimate in sorted(feasible, key=lambda e: (e.cost_usd, -e.quality)):
        if not front or estimate.quality > front[-1].quality:
            front.append(estimate)
    if len(front) <= CANDIDATES:
        return front
    levels = np.linspace(front[0].quality, front[-1].quality, CANDIDATES)
    reached = np.searchsorted([e.quality for e in front], levels - CLOSE)
    return [front[i] for i in sorted(set(reached.tolist()))]
