"""Exploration: among models that may be as good as the best, draw one as likely as it is to be the best.

Thompson sampling (Thompson 1933) over the estimates' own uncertainty, for a bounded share of the plans. Every choice
has a propensity, so that what is reported can be learned from without bias.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.policy_settings import ExplorationSettings
from service.requests import Estimate
from service.routing.choose import Ranking

_ONE_SIDED_95: Final = 1.645
_DRAWS: Final = 128
_MOST: Final = 8
_SHARES: Final = 1 << 24


def explore(
    ranking: Ranking, worth: Callable[[Estimate], float], settings: ExplorationSettings, chance: int
) -> tuple[str, float]:
    """Return the model to begin with, and the probability with which it was drawn.

    Args:
        ranking: with at least one model.
        worth: utility of a model.
        settings: of exploration.
        chance: a random number of at least 48 bits, such as a decision's id.
    """
    best = ranking.models[0]
    near = [e for e in ranking.models if abs(worth(best) - worth(e)) <= settings.within][:_MOST]
    if len(near) == 1 or not settings.share:
        return best.model, 1.0
    # One of a fixed number of draws is picked, so the propensity is counted, not estimated.
    spread = [(e.quality - e.quality_low) / _ONE_SIDED_95 for e in near]
    drawn = np.asarray([worth(e) for e in near]) + _normals(len(near)) * np.asarray(spread)
    winners = drawn.argmax(axis=1)
    exploring = (chance >> 8) % _SHARES < settings.share * _SHARES
    taken = int(winners[(chance >> 32) % _DRAWS]) if exploring else near.index(best)
    propensity = settings.share * float((winners == taken).mean()) + (1 - settings.share) * (near[taken] is best)
    return near[taken].model, propensity


@cache
def _normals(models: int) -> NDArray[np.float64]:
    return np.random.default_rng(models).standard_normal((_DRAWS, models))
