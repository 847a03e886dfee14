"""A confidence sequence for a mean of values between 0 and 1: bounds that hold at all times at once.

Looking after every value and stopping when one likes is sound with these; with ordinary confidence intervals it is not.
The predictable plug-in empirical-Bernstein sequence of Waudby-Smith & Ramdas (2024, "Estimating means of bounded random
variables by betting", theorem 2), in constant memory.
"""

import math
from typing import Final

# The bets: for the alpha they are made for; bounds hold for any alpha, and are narrowest near this one.
_MADE_FOR: Final = 0.05
_LARGEST_BET: Final = 0.5
_STATE: Final = 6


class ConfidenceSequence:
    """The running state.

    Args:
        state: of an earlier sequence that is to go on.
    """

    __slots__ = ("_bets", "_count", "_spread", "_sum", "_variance", "_weighed")

    def __init__(self, state: tuple[float, ...] = (0.0,) * _STATE) -> None:
        self._count, self._sum, self._variance, self._bets, self._weighed, self._spread = state

    @property
    def state(self) -> tuple[float, ...]:
        """What it takes to go on later."""
        return (self._count, self._sum, self._variance, self._bets, self._weighed, self._spread)

    @property
    def count(self) -> int:
        """How many values were taken in."""
        return int(self._count)

    @property
    def mean(self) -> float:
        """Their plain mean; 0 without any."""
        return self._sum / self._count if self._count else 0.0

    def add(self, value: float) -> None:
        """Take in a value, 0 to 1."""
        t = self._count + 1
        before = (0.5 + self._sum) / t  # the mean as it was guessed before this value
        variance = (0.25 + self._variance) / t
        bet = min(math.sqrt(2 * math.log(2 / _MADE_FOR) / (variance * t * math.log1p(t))), _LARGEST_BET)
        self._bets += bet
        self._weighed += bet * value
        self._spread += (value - before) ** 2 * (-math.log1p(-bet) - bet)
        self._count, self._sum = t, self._sum + value
        self._variance += (value - (0.5 + self._sum) / (t + 1)) ** 2

    def bounds(self, alpha: float) -> tuple[float, float, float]:
        """Return (low, mean, high): low and high hold for the true mean, at all times, with probability 1 - alpha."""
        if not self._count:
            return 0.0, 0.0, 1.0
        middle = self._weighed / self._bets
        width = (math.log(2 / alpha) + self._spread) / self._bets
        return max(middle - width, 0.0), self.mean, min(middle + width, 1.0)
