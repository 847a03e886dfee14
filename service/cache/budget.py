"""The error budget of one scope: serve, explore or audit, and an audited bound on the error of what was served.

Owns the account and the arithmetic of the bound; knows neither prompts nor answers. A `Ledger` is told the model's
error for each likely hit and answers what to do with it:

- serve: the account bears it. Nobody will say whether it was right.
- audit: it would be served, but a coin sends it to a model, whose answer tells. The riskier, the more often.
- explore: the account does not bear it. It goes to a model anyway, and what that says teaches the model for nothing.
  Where it is no riskier than what the budget would bear if nothing were owed, as while the bound is broken, it tells as
  much as an audit.

The bound. Let the audited hits have errors e_i by the model and verdicts Y_i, and let k be the factor by which the
model is off. Where k is the true one, exp(-b sum(Y) + k (1 - exp(-b)) sum(e)) is a supermartingale for any b > 0,
whatever decided which hits were audited. So is the mean over several b; it ever reaches 1/alpha with at most the
probability alpha (Ville), and the largest k for which it has not is an upper confidence bound at every time at once.
This is a confidence sequence by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 2023; here the bets are on a ratio, each scaled by the chance that its verdict was asked for).
The error of what was served, as the sum of the probabilities that an answer was wrong, is then at most k times the sum
of the model's errors over it. What that assumes: that verdicts do not lie, and that the model is off by no more where
it was not audited than where it was; audits reach all that is served, the riskier the oftener, and the model learns
from them weighted by how rare they are.

The bound, not the estimate, moves the threshold: as much is served as keeps the bound on the errors of all requests
within the budget, past and next ones. When it is broken only what is near-certain is served until it holds again.

Where answers change, so does the factor. What was served until then keeps the bound it has at that time, which is made
of verdicts on the same answers; what is served from then on is bounded by the verdicts that come from then on. Each of
the two holds with its own confidence.
"""

import math
from bisect import bisect_right
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Final

# With .95, 4 of 60 orders that nothing is reported of came out above a budget of 1 %; with .97 a bank's questions did
# so in 2 of 40, with .98 in 1.
CONFIDENCE: Final = 0.98
# Bets on an error, b, and 1 - e^-b. With n errors the best is the logarithm of the bound's own ratio, so these fit 3 to
# 100 of them; each bet more would be paid for by all.
_BETS: Final = tuple((bet, -math.expm1(-bet)) for bet in (0.2, 0.4, 0.8, 1.6))
_PRECISE: Final = 1e-6
_MOST: Final = 1e6
# The verifier was calibrated on held-out pairs; that is believed as if it were audits in which this many errors
# were expected and came.
_PRIOR_ERRORS: Final = 3.0
# No answer is surer than this share of the budget.
_SUREST: Final = 0.1
# The account looks back on one to two blocks of so many requests; errors in older ones are neither held against it
# nor saved up.
_BLOCK: Final = 20_000
# What was not used of the budget is used up over so many requests, at the most at this multiple of the budget.
_HORIZON: Final = 1_000
_MOST_AT_ONCE: Final = 3.0
# Beyond it an answer is more likely wrong than anyone would want to be served, whatever the budget bears.
_RISKIEST: Final = 0.9
# Before so many verdicts only what is near-certain is served.
_COLD: Final = 50
# Audits: at the threshold this many for each error the budget allows, but at least and at most such shares.
_AUDITS: Final = 15.0
_FEWEST_AT_THRESHOLD: Final = 0.05
_FEWEST: Final = 0.02
_MOST_AUDITS: Final = 0.5
_FORGET: Final = 0.9995  # of the histogram with each request: it tells of the last 2,000
_FEW: Final = 200.0
# Upper edges of the bins of errors, twelve a decade from .0001 to 1.
_EDGES: Final = tuple(10 ** (i / 12 - 4) for i in range(1, 49))
_RETUNE_EVERY: Final = 16


class Action(Enum):
    """What to do with a likely hit."""

    SERVE = "serve"
    AUDIT = "audit"
    EXPLORE = "explore"


def upper_factor(wrong: float, expected: float, confidence: float = CONFIDENCE) -> float:
    """Return by what factor errors exceed what the model expected, at the most, with a confidence at all times.

    Args:
        wrong: verdicts that said so.
        expected: the sum of the model's errors over all verdicts.
        confidence: 0 to 1.
    """
    if expected <= 0:
        return _MOST
    goal = math.log(len(_BETS) / (1.0 - confidence))
    factor = max(1.0, wrong / expected)
    while factor < _MOST and _capital(wrong, expected, factor)[0] < goal:
        factor *= 2.0
    # The capital is convex in the factor: from above, Newton's steps come down to it and never pass it.
    step = math.inf
    while step > _PRECISE * factor:
        capital, slope = _capital(wrong, expected, factor)
        step = (capital - goal) / slope
        factor -= step
    return factor


def _capital(wrong: float, expected: float, factor: float) -> tuple[float, float]:
    """Return the logarithm of what the bets against a factor have won together, and its slope in the factor."""
    won = [factor * expected * loss - bet * wrong for bet, loss in _BETS]
    best = max(won)
    weights = [math.exp(value - best) for value in won]
    total = sum(weights)
    slope = expected * sum([weight * loss for weight, (_, loss) in zip(weights, _BETS, strict=True)]) / total
    return best + math.log(total), slope


@dataclass(slots=True)
class Block:
    """What happened in a stretch of requests.

    `allowed` errors by the budget; `risk` is the sum of the model's errors over what was served since answers last
    changed, `settled` the bound on wrong ones among what was served before; `wrong` are of the `verdicts` that came of
    `audits`; `against` and `expected` are wrong answers, and the model's errors, over all verdicts that the bound rests
    on: of audits, and of what was explored and tells as much; `complaints` counts served answers that were reported
    wrong.
    """

    requests: int = 0
    allowed: float = 0.0
    served: int = 0
    risk: float = 0.0
    settled: float = 0.0
    audits: int = 0
    verdicts: int = 0
    wrong: int = 0
    against: float = 0.0
    expected: float = 0.0
    complaints: int = 0


class Ledger:
    """The account of one scope and one budget.

    Args:
        budget: the largest share of all requests that may get a wrong answer, above 0 and below 1.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.threshold = 0.0
        self.factor = upper_factor(_PRIOR_ERRORS, _PRIOR_ERRORS)
        self._now, self._before = Block(), Block()
        self._risks, self._seen, self._growth = [0.0] * len(_EDGES), 0.0, 1.0
        self._share = _MOST_AUDITS
        self._warm = False
        self._retune()

    @property
    def window(self) -> Block:
        """What the account looks back on."""
        now, before = asdict(self._now), asdict(self._before)
        return Block(**{name: value + before[name] for name, value in now.items()})

    @property
    def bound(self) -> float:
        """The most wrong answers to be expected among those served in the window, with `CONFIDENCE` at all times."""
        settled = self._now.settled + self._before.settled
        complaints = self._now.complaints + self._before.complaints
        return max(settled + self.factor * (self._now.risk + self._before.risk), float(complaints))

    @property
    def broken(self) -> bool:
        """Whether the bound is above what the budget allows."""
        return self.bound > self._allowed

    @property
    def bearable(self) -> float:
        """The largest risk that is served now: what is left of the budget may be less than the threshold."""
        left = (self._allowed - self.bound) / self.factor
        return min(self.threshold, max(self._certain, left))

    @property
    def _allowed(self) -> float:
        return self._now.allowed + self._before.allowed

    @property
    def _certain(self) -> float:
        """At this risk an answer is within the budget by itself."""
        return self.budget / self.factor

    def request(self) -> None:
        """Count a request, whatever comes of it."""
        if self._now.requests >= _BLOCK:
            self._now, self._before = Block(), self._now
            self._refactor()
        self._now.requests += 1
        self._now.allowed += self.budget
        self._age()
        if self._now.requests % _RETUNE_EVERY == 0:
            self._retune()

    def decide(self, error: float, coin: float, taught: int) -> tuple[Action, float]:
        """Say what to do with a likely hit, and with what probability a model is asked about it.

        Args:
            error: the model's probability that the answer is wrong.
            coin: a random number, uniform in [0, 1).
            taught: verdicts the model has learned from.
        """
        risk = self._risk(error)
        place = min(bisect_right(_EDGES, risk), len(_EDGES) - 1)
        self._risks[place] += self._growth * risk
        if self._warm != (taught >= _COLD):
            self._warm = taught >= _COLD
            self._retune()
        if risk > self.bearable:
            return Action.EXPLORE, 1.0
        chance = min(max(self._share * risk / self.threshold, _FEWEST), _MOST_AUDITS)
        if coin < chance:
            self._now.audits += 1
            return Action.AUDIT, chance
        self._now.served += 1
        self._now.risk += risk
        return Action.SERVE, chance

    def audited(self, error: float, *, wrong: bool) -> None:
        """Take in the verdict of an audit."""
        self._now.verdicts += 1
        self._now.wrong += wrong
        self._rest_on(self._risk(error), wrong=wrong)

    def explored(self, error: float, *, wrong: bool) -> None:
        """Take in the verdict of what was explored: it tells of what is served if the budget bears such, owing nothing.

        That is decided before the verdict is known, and once the model has learned enough for more than what is
        near-certain to be served: before, it says more of its own doubt than of the answers.
        """
        risk = self._risk(error)
        if self._warm and risk <= self._reach(1.0):
            self._rest_on(risk, wrong=wrong)

    def changed(self) -> None:
        """Take in that the answers have changed: what came before speaks for the model no longer, only against it.

        What was served before keeps its bound: that the model is a guess again says nothing of it.
        """
        for block in (self._now, self._before):
            block.settled, block.risk = block.settled + self.factor * block.risk, 0.0
            if block.against < block.expected:
                block.against = block.expected = 0.0
        self._refactor()

    def complained(self) -> None:
        """Take in that a served answer was wrong."""
        self._now.complaints += 1
        self._retune()

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        return {
            "now": asdict(self._now),
            "before": asdict(self._before),
            "risks": [risk / self._growth for risk in self._risks],
            "seen": self._seen / self._growth,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._now, self._before = (Block(**{"against": one["wrong"]} | one) for one in (state["now"], state["before"]))
        self._risks, self._seen, self._growth = list(state["risks"]), float(state["seen"]), 1.0
        self._refactor()

    def _age(self) -> None:
        """Let what the histogram holds count less, by letting what comes count more."""
        self._growth /= _FORGET
        self._seen += self._growth
        if self._growth > _MOST:
            self._risks = [risk / self._growth for risk in self._risks]
            self._seen, self._growth = self._seen / self._growth, 1.0

    def _risk(self, error: float) -> float:
        return max(error, _SUREST * self.budget)

    def _rest_on(self, risk: float, *, wrong: bool) -> None:
        self._now.against += wrong
        self._now.expected += risk
        self._refactor()

    def _refactor(self) -> None:
        against, expected = self._now.against + self._before.against, self._now.expected + self._before.expected
        self.factor = upper_factor(against + _PRIOR_ERRORS, expected + _PRIOR_ERRORS)
        self._retune()

    def _retune(self) -> None:
        """Set the threshold, and how much is audited, from the bound."""
        requests = self._now.requests + self._before.requests
        pace = 1.0 + (self._allowed - self.bound) / (self.budget * _HORIZON)
        self._share = min(max(_AUDITS / (self.budget * max(requests, _BLOCK / 20)), _FEWEST_AT_THRESHOLD), _MOST_AUDITS)
        if pace <= 0 or self.broken:
            self.threshold = self._certain / 2
            return
        self.threshold = min(self._reach(pace) if self._warm else self._certain, _RISKIEST)

    def _reach(self, pace: float) -> float:
        """Return the largest risk that can be served where so many times the budget is spent."""
        bearable = self.budget * min(pace, _MOST_AT_ONCE) * max(self._seen, _FEW * self._growth) / self.factor
        reach, risk = self._certain, 0.0
        for edge, more in zip(_EDGES, self._risks, strict=True):
            risk += more
            if risk > bearable:
                break
            reach = max(reach, edge)
        return reach
