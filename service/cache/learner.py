"""How likely a candidate's answer is wrong, learned online: one small logistic model for each scope.

Owns the features and the weights. Starts from what the verifier says, learns from every verdict, and forgets slowly so
that it follows a drift. A model that is unsure says something nearer to one half, so little is near-certain before much
was seen. A second one, over what the first says, learns how far that is off: a straight line through the features says
.05 where .02 are wrong. Where verdicts come that neither lets one expect, the answers have changed, and all that was
learned becomes a guess again, which new verdicts move at once. Pure: no clock, no chance, no I/O.
`service.cache.keeper` asks and teaches it.
"""

import math
from typing import Any, Final

import numpy as np

FEATURES: Final = ("bias", "verifier", "cosine", "votes", "rival_votes", "lead", "record", "refused")
# A vote counts a third of another that is .055 nearer in cosine.
SHARPNESS: Final = 20.0
# What is further away than this cosine is as good as not there.
_FAINT: Final = math.exp(SHARPNESS * (0.55 - 1.0))
# Before any verdict, and how far from it the truth may be: what the verifier says, with votes for the answer and
# against it counting a little, and a check that refuses weighing most.
_PRIOR: Final = (0.5, -2.0, 0.0, -0.4, 0.4, 0.0, 0.5, 3.0)
_DEVIATIONS: Final = (0.7, 0.4, 0.7, 0.7, 0.7, 0.3, 0.7, 1.0)
# Of the correction: none. It may bend below this logit, where what is served lies.
_NO_CORRECTION: Final = (0.0, 1.0, 0.0)
_CORRECTION_DEVIATIONS: Final = (0.5, 0.15, 0.25)
_BEND: Final = -2.0
# Added to the covariance with each verdict, as a share of the prior's: a hundred thousand verdicts are remembered.
_FORGET: Final = 1e-5
# Answers that no feature speaks against are wrong all the same in so many cases, until verdicts say otherwise: on the
# development half of a bank's questions .3 % were. It weighs as much as so many verdicts: few audits reach these.
_PRIOR_UNSEEN: Final = 0.003
_PRIOR_SURE: Final = 1_000.0
_SURE: Final = 0.01
# That answers have changed is suspected by a test of "this share is wrong, whatever was known of them" (Page,
# "Continuous inspection schemes", Biometrika 1954). Without a change it takes at least e to the power of `_ALARM`
# verdicts, in the mean, to a false alarm (Lorden, "Procedures for reacting to a change in distribution", 1971): 8,000,
# more than a stream of a bank's 13,000 questions has. In 9 of its 60 orders there was one with 7, in 1 with 9, and
# changes are noticed after 54 requests in place of 47.
_CHANGED: Final = 0.2
_ALARM: Final = 9.0
_SUREST: Final = 0.01
# What an alarm leaves of the weight of what was learned of errors no feature tells.
_PRIOR_AGAIN: Final = 50.0
_MAX_LOGIT: Final = 30.0
_LEAST_CURVATURE: Final = 1e-4
# An audited verdict stands for all those that were served in its place, but for no more than this many.
_MAX_WEIGHT: Final = 10.0

Evidence = tuple[float, ...]
"""One number for each of `FEATURES`."""


def vote(cosine: float) -> float:
    """Return the weight with which a stored prompt at this cosine speaks for its answer."""
    return math.exp(SHARPNESS * (cosine - 1.0))


def evidence(
    probability: float | None, cosine: float, votes: float, rival_votes: float, record: float, *, refused: bool = False
) -> Evidence:
    """Return what the model looks at.

    Args:
        probability: by the verifier that the answer is right, 0 to 1; None: it can't tell.
        cosine: of the nearest prompt that has this answer.
        votes: sum of `vote` over the near prompts that have it.
        rival_votes: the same for the best other answer; 0 without one.
        record: log-odds of its earlier verdicts, 0 without any, greater where it was often wrong.
        refused: whether a check of the guard speaks against each prompt that has it.
    """
    p = 0.5 if probability is None or refused else min(max(probability, 1e-6), 1.0 - 1e-6)
    return (
        1.0,
        max(-3.0, min(4.0, math.log(p / (1.0 - p)) / 2)),
        10.0 * (cosine - 0.9),
        math.log(votes + _FAINT) / 2 + 0.5,
        math.log(rival_votes + _FAINT) / 2 + 3.5,
        max(0.0, math.log((votes + _FAINT) / (rival_votes + _FAINT)) - 1.5) / 2,
        max(-3.0, min(3.0, record)),
        float(refused),
    )


def surprise(expected: float, *, seen: bool) -> float:
    """Return the log-odds that something changed, by one verdict: 0.2 of them now come whatever was expected.

    A sum of these, begun anew wherever it falls below 0, tells of a change once it is large enough.

    Args:
        expected: the probability of it, 0 to 1.
        seen: whether it came.
    """
    return math.log(1.0 - _CHANGED + _CHANGED * seen / max(expected, _SUREST))


class _Logistic:
    """Logistic regression by recursive Newton steps (a Laplace approximation that is carried along).

    Args:
        mean: the weights before anything was seen.
        deviations: how far from them the true ones may be.
    """

    def __init__(self, mean: Evidence, deviations: Evidence) -> None:
        self.mean = np.array(mean)
        self.covariance = np.diag(np.square(deviations))
        self._drift = _FORGET * self.covariance

    def logit(self, seen: Evidence) -> tuple[float, float]:
        """Return the log-odds, drawn to 0 by what is not known yet, and those by the likeliest weights."""
        row = np.array(seen)
        likeliest = float(row @ self.mean)
        return likeliest / math.sqrt(1.0 + math.pi * float(row @ self.covariance @ row) / 8.0), likeliest

    def learn(self, seen: Evidence, p: float, truth: float, weight: float) -> None:
        """Take in how it was, 0 to 1, where the likeliest weights had said p."""
        row = np.array(seen)
        covariance = self.covariance + self._drift
        lean = covariance @ row
        curvature = weight * max(p * (1.0 - p), _LEAST_CURVATURE)
        self.covariance = covariance - np.outer(lean, lean) * (curvature / (1.0 + curvature * float(row @ lean)))
        self.mean = self.mean + weight * (truth - p) * (self.covariance @ row)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        return {"mean": self.mean.tolist(), "covariance": self.covariance.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.mean, self.covariance = np.array(state["mean"]), np.array(state["covariance"])

    def doubt(self) -> None:
        """Keep the weights, and take them for a guess again."""
        self.covariance = self._drift / _FORGET


class Learner:
    """The model of one scope, and the correction of what it says. `taught` counts verdicts."""

    def __init__(self) -> None:
        self.taught = 0
        self.suspicion = 0.0
        self._unseen = [_PRIOR_UNSEEN * _PRIOR_SURE, _PRIOR_SURE]
        self._model = _Logistic(_PRIOR, _DEVIATIONS)
        self._correction = _Logistic(_NO_CORRECTION, _CORRECTION_DEVIATIONS)

    def error(self, seen: Evidence) -> float:
        """Return the probability that the answer is wrong, 0 to 1, drawn to one half by what is not known yet."""
        unseen = self.unseen
        return unseen + (1.0 - unseen) * _sigmoid(self._correction.logit(_bent(self._model.logit(seen)[0]))[0])

    @property
    def unseen(self) -> float:
        """The share of answers that are wrong though nothing speaks against them."""
        return self._unseen[0] / self._unseen[1]

    def learn(self, seen: Evidence, *, wrong: bool, chance: float = 1.0) -> None:
        """Take in a verdict.

        Args:
            seen: what was known of the candidate when it was decided on.
            wrong: whether its answer was wrong.
            chance: the probability with which this verdict was asked for; the rarer, the more it stands for.
        """
        weight, (drawn, likeliest) = min(1.0 / chance, _MAX_WEIGHT), self._model.logit(seen)
        said = _bent(drawn)
        p, corrected = _sigmoid(likeliest), _sigmoid(self._correction.logit(said)[1])
        truth, left = self._told(p, wrong=wrong), self._told(corrected, wrong=wrong)
        if corrected < _SURE:
            self._unseen = [self._unseen[0] + wrong - left, self._unseen[1] + 1.0]
        self._correction.learn(said, corrected, left, weight)
        self._model.learn(seen, p, truth, weight)
        self.taught += 1

    def surprised(self, error: float, *, wrong: bool) -> bool:
        """Return whether verdicts tell that the answers have changed.

        Args:
            error: what was expected of the answer when it was decided on, 0 to 1.
            wrong: whether it was wrong.
        """
        self.suspicion = max(0.0, self.suspicion + surprise(error, seen=wrong))
        return self.suspicion >= _ALARM

    def doubt(self) -> None:
        """Take what was learned for a guess again: the answers have changed."""
        self.taught, self.suspicion = 0, 0.0
        self._unseen = [self.unseen * _PRIOR_AGAIN, _PRIOR_AGAIN]
        self._model.doubt()
        self._correction.doubt()

    def _told(self, p: float, *, wrong: bool) -> float:
        """Return how much of a verdict is about features: what went wrong for no reason they tell speaks for none."""
        return wrong * (1.0 - self.unseen / (self.unseen + (1.0 - self.unseen) * p))

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        return {
            "features": list(FEATURES),
            "taught": self.taught,
            "suspicion": self.suspicion,
            "unseen": self._unseen,
            "model": self._model.state(),
            "correction": self._correction.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; one of other features is left aside."""
        if state["features"] == list(FEATURES):
            self.taught, self._unseen = int(state["taught"]), list(state["unseen"])
            self.suspicion = float(state.get("suspicion", 0.0))
            self._model.restore(state["model"])
            self._correction.restore(state["correction"])


def _bent(logit: float) -> Evidence:
    return 1.0, logit, min(0.0, logit - _BEND)


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-_MAX_LOGIT, min(_MAX_LOGIT, logit))))
