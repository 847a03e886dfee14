"""The time by which answers age: that of the day, but it never goes back.

A clock that is set back must not make lapsed answers valid again, nor old ones young. So time goes on at the pace of
the monotonic clock until the day's has caught up; a jump forward is followed. Called wherever ages are told.
"""

import time
from collections.abc import Callable


class Clock:
    """Seconds since the epoch, never fewer than before.

    Args:
        floor: what was already seen, by an earlier process: the time of the youngest answer.
        wall: the time of day.
        steady: a clock that only goes on.
    """

    def __init__(
        self,
        floor: float = 0.0,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._steady = wall, steady
        self._last, self._mark = floor, steady()

    def now(self) -> float:
        """Return the time."""
        mark = self._steady()
        self._last, self._mark = max(self._wall(), self._last + mark - self._mark), mark
        return self._last
