"""Goals in place of a price: a share of strong models, or a budget for the month.

Each is followed decision by decision. Pure arithmetic over a clock that is given; what is known is kept across restarts
by whoever calls.
"""

import calendar
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

# How far one decision too many moves the threshold, in units of the gains' spread: where that is steady, the share is
# never off by more decisions than 1 / STEP for each spread between where the threshold began and where it has to be.
_STEP: Final = 0.05
_LEAST_SPREAD: Final = 0.01
_NEWEST: Final = 0.02  # weight of the newest gain in mean and spread

_PULL: Final = 0.02  # how far one decision moves the price: a factor of e in 50
_MOST_PULL: Final = 1.0
_DAY: Final = 86_400.0
_MINUTE: Final = 60.0
_CHEAPEST: Final = 1e12  # points per USD: above it only cost counts
_DEAREST: Final = 1e-6


class StrongShare:
    """Sends a share of the prompts to the strong models: those that gain most by it.

    The threshold on the gain begins where the references' estimates put it (Ong et al. 2024, RouteLLM, calibrate theirs
    so). From there each strong decision moves it up, and each other one down, by as much as keeps it where it is while
    the share is met. As gains are bounded, so is the sum of these steps, and therefore the share is met in the long run
    whatever the traffic (integral control; the argument of Gibbs & Candès 2021 for coverage).

    Args:
        target: the share, 0 to 1.
        gains: of the strong over the other models, for a sample of references; may be empty.
    """

    def __init__(self, target: float, gains: Sequence[float]) -> None:
        self.target = target
        self._threshold = float(np.quantile(gains, 1 - target)) if len(gains) else 0.0
        self._mean = float(np.mean(gains)) if len(gains) else 0.0
        self._spread = max(float(np.std(gains)) if len(gains) else 0.0, _LEAST_SPREAD)

    @property
    def threshold(self) -> float:
        """What a gain must reach now: infinite where the share leaves nothing to weigh."""
        if not 0 < self.target < 1:
            return -math.inf if self.target else math.inf
        return self._threshold

    def strong(self, gain: float) -> bool:
        """Return whether a gain is worth a strong model."""
        return gain >= self.threshold

    def follow(self, gain: float, *, strong: bool) -> None:
        """Take in a gain, and what was decided in the end."""
        # By the spread as it was: a step that depends on the gain itself would not be the same up and down. What was
        # decided too often moved the threshold then; a spread that changes later does not move it back.
        unit = _STEP * self._spread
        # Beyond the gains' own limits nothing changes any more: what conversations keep must not pile up there.
        self._threshold = min(max(self._threshold + unit * (strong - self.target), -1 - unit), 1 + unit)
        self._mean += _NEWEST * (gain - self._mean)
        self._spread = max(self._spread + _NEWEST * (abs(gain - self._mean) - self._spread), _LEAST_SPREAD)


@dataclass(frozen=True, slots=True)
class Spent:
    """What is kept of a budget: `month` counted from year 0, its cost, the price of a dollar in points of quality.

    `busy`: decisions a second, where those of a day ago weigh 1/e. `since` the first decision, `at` the last (epoch).
    """

    month: int
    usd: float
    price: float
    busy: float
    since: float
    at: float


class Budget:
    """Spends a budget evenly over what is left of the month, on the prompts that gain most by it.

    The price of a dollar, in points of quality, is the multiplier of the budget's constraint: a decision that costs
    more than its part of what is left raises it, one that costs less lowers it (adaptive pacing, Balseiro & Gur 2019).
    With nothing left only cost counts.

    Args:
        usd: the budget of a calendar month (UTC).
        most: the willingness to pay that is never exceeded, USD per point; None: none.
        cost: a usual cost of a decision in USD, for the first price.
    """

    def __init__(self, usd: float, most: float | None, cost: float) -> None:
        self._usd, self._floor = usd, 1 / most if most else _DEAREST
        self._state = Spent(0, 0.0, max(self._floor, 0.01 / cost if cost > 0 else self._floor), 0.0, 0.0, 0.0)
        self._ends = 0.0

    @property
    def state(self) -> Spent:
        """What is to be kept."""
        return self._state

    @state.setter
    def state(self, kept: Spent) -> None:
        self._state = kept

    @property
    def spent(self) -> bool:
        """Whether nothing is left of it this month."""
        return self._state.usd >= self._usd

    @property
    def willingness_to_pay(self) -> float:
        """USD per point of quality, as things stand."""
        return 1 / (_CHEAPEST if self.spent else max(self._state.price, self._floor))

    def turn(self, now: float) -> None:
        """Begin anew where the month is over; `now` since the epoch."""
        if now < self._ends:
            return
        year, month = time.gmtime(now)[:2]
        self._ends = float(calendar.timegm((year + month // 12, month % 12 + 1, 1, 0, 0, 0)))
        number = year * 12 + month - 1
        if self._state.month != number:
            self._state = replace(self._state, month=number, usd=0.0)

    def spend(self, cost: float, now: float) -> None:
        """Take in what a decision is expected to cost."""
        self.turn(now)
        kept = self._state
        since = kept.since or now
        busy = kept.busy * math.exp(-max(now - (kept.at or now), 0.0) / _DAY) + 1 / _DAY
        rate = busy / -math.expm1(-max(now - since, _MINUTE) / _DAY)  # at the beginning, less than a day was seen
        part = max((self._usd - kept.usd) / max(rate * (self._ends - now), 1.0), 1e-12)
        pull = min(_PULL * (cost / part - 1), _MOST_PULL)
        price = min(max(kept.price * math.exp(pull), self._floor), _CHEAPEST)
        self._state = Spent(kept.month, kept.usd + cost, price, busy, since, now)

    def correct(self, difference: float) -> None:
        """Take in by how much a cost turned out to be other than it was expected."""
        self._state = replace(self._state, usd=max(self._state.usd + difference, 0.0))
