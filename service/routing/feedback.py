"""What reviews are worth, learned from reports: how each source's word is to be read, scope by scope.

A caller's score need not be a probability, and a mean log-probability is none. Each source is read through a logistic
curve that starts from an assumption and follows the outcomes that are reported for reviewed answers. Bounded, in
memory, and one scope never teaches another. Called by `service.routing.review` and by reports.
"""

from typing import Final

import numpy as np
from cachetools import LRUCache

# The caller's score is taken as a probability until reports say otherwise. For the mean log-probability: half of the
# answers at -0.65 are taken to be right and three quarters at -0.3, an assumption that a few dozen reports outweigh.
_START: Final = {"score": (1.0, 0.0), "logprob_mean": (3.0, 2.0), "acceptor": (1.0, 0.0)}
# The start counts as so many outcomes would; a poisoned report can do no more than any one of them.
_TRUST: Final = 10.0
_MAX_SCOPES: Final = 10_000


class Curve:
    """sigmoid(slope * x + shift), followed online: a Newton step for each outcome (Bayesian logistic regression)."""

    __slots__ = ("precision", "weights")

    def __init__(self, slope: float, shift: float) -> None:
        self.weights = np.array([slope, shift])
        self.precision = np.eye(2) * _TRUST

    def logit(self, x: float) -> float:
        """Return the log-odds that an answer of which a source says x is right."""
        return float(self.weights[0] * x + self.weights[1])

    def learn(self, x: float, *, right: bool) -> None:
        """Follow one outcome."""
        place = np.array([x, 1.0])
        p = 1 / (1 + np.exp(-np.clip(self.logit(x), -30, 30)))
        self.precision += max(p * (1 - p), 1e-3) * np.outer(place, place)
        self.weights = self.weights + np.linalg.solve(self.precision, (right - p) * place)
        self.weights[0] = max(self.weights[0], 0.0)  # more of a source never makes an answer worse


class Feedback:
    """The curves of every scope; of very many scopes the least recently used start anew."""

    def __init__(self) -> None:
        self._curves: LRUCache[tuple[str, str], Curve] = LRUCache(_MAX_SCOPES * len(_START))

    def logit(self, scope: str, source: str, x: float) -> float:
        """Return the log-odds that an answer is right of which this source says x."""
        curve = self._curves.get((scope, source))
        if curve is not None:
            return curve.logit(x)
        slope, shift = _START[source]
        return slope * x + shift

    def learn(self, scope: str, source: str, x: float, *, right: bool) -> None:
        """Follow one outcome."""
        curve = self._curves.get((scope, source))
        if curve is None:
            curve = self._curves[scope, source] = Curve(*_START[source])
        curve.learn(x, right=right)
