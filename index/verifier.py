"""How likely the candidate's answer is right for this prompt: a small logistic model over cosine and alignment.

Owns the features and the fitted weights in `data/verifier.json`, which `benchmarks/verifier/train.py` writes from data
that may be shipped. What the guard refuses has probability 0. Never serves, never keeps state: `service` compares the
probability with what its error budget allows, and learns on top of a `Judgement` from what it is told.
"""

import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from index.guard import Comparison, compare, substituted
from index.tokens import NAME
from index.wording import TELLING, Prepared

WEIGHTS: Final = Path(__file__).parent / "data" / "verifier.json"
FEATURES: Final = (
    "cosine", "cosine_above_80", "cosine_above_90", "cosine_above_95", "left_over", "left_over_much", "question",
    "question_yes", "name_one_side", "typos", "same_words", "same_stems", "identical", "function_words", "inversions",
    "pairs_kept", "substituted", "length", "length_ratio", "cosine_left_over", "other_words",
)  # fmt: skip
# Of real question pairs 1 % of the duplicates are below, where 1 pair in 77 is one: not worth comparing.
LEAST_COSINE: Final = 0.6
_EXTREME: Final = 500.0  # of a logit: beyond it exp overflows
_UNLIKE: Final = 0.6  # of left-over weight: with less in common, how much less says nothing more
_LEAD: Final = 0.1
_ALONE: Final = (1.0, 0.0, 0.0, 0.0)
_SHARPNESS: Final = 20.0  # of agreement: a candidate .05 of cosine further away counts a third
_DOUBT: Final = math.exp(_SHARPNESS * (0.9 - 1.0))  # a candidate at .9, alone, agrees by half


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that might be served: its prompt, that prompt's cosine, and what tells its answer from others."""

    similarity: float
    prepared: Prepared
    answer: Hashable


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is thought of one candidate.

    `probability` (0 to 1) is 0 where `refused` names a check, and `features` is () there, else as long as `FEATURES`.
    `margin` is the lead in cosine over the best candidate
    with another answer, cut to .1 either way and 0 without one; `agreement` is the share of the candidates that have
    the same answer, weighted by how near they are, a lone one being little evidence.
    """

    probability: float
    refused: tuple[str, ...]
    margin: float
    agreement: float
    features: tuple[float, ...] = ()


class Verifier:
    """The fitted model. Immutable: may be shared between threads.

    Args:
        weights: one for each of `FEATURES`.
        bias: what is added to their sum.
        context: slope, margin, agreement and bias that refine the logit where answers are known to be shared.
        encoder: digest of the encoder whose cosines it was fitted on; of any other's, probabilities are mere scores.
    """

    def __init__(
        self, weights: Sequence[float], bias: float, context: tuple[float, float, float, float], encoder: str = ""
    ) -> None:
        if len(weights) != len(FEATURES):
            raise ValueError(f"{len(weights)} weights for {len(FEATURES)} features")
        self._weights = np.asarray(weights, np.float64)
        self._bias = bias
        self._context = context
        self.encoder = encoder

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Self:
        """Read the fitted weights.

        Raises:
            ValueError: the file was fitted for other features: train again.
            OSError: it cannot be read.
        """
        raw: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if list(raw["weights"]) != list(FEATURES):
            raise ValueError(f"{path} was fitted for other features: run `python -m benchmarks.verifier.train` again")
        slope, margin, agreement, bias = (raw["context"][name] for name in ("slope", "margin", "agreement", "bias"))
        return cls(list(raw["weights"].values()), raw["bias"], (slope, margin, agreement, bias), raw["encoder"])

    def judge(
        self,
        prompt: Prepared,
        candidates: Sequence[Candidate],
        *,
        floor: float = LEAST_COSINE,
        shared: bool = False,
    ) -> list[Judgement]:
        """Judge each candidate's answer for a prompt, in the order given.

        Args:
            prompt: what is asked.
            candidates: nearest first, all of the prompt's scope and context.
            floor: the least cosine; what is further away is not compared.
            shared: whether equal answers have equal `Candidate.answer`, so that a rival is one. Where every entry
                has an answer of its own, margins say nothing and are not counted.
        """
        rows: list[list[float]] = []
        checks: list[tuple[str, ...]] = []
        for candidate in candidates:
            if candidate.similarity < floor:
                checks.append(("below_threshold",))
                rows.append(_NOTHING)
                continue
            comparison = compare(prompt, candidate.prepared)
            checks.append(comparison.refused)
            rows.append(_NOTHING if comparison.refused else features(candidate.similarity, comparison))
        if not rows:
            return []
        logits = (np.asarray(rows, np.float64) @ self._weights + self._bias).tolist()
        slope, lead, share, bias = self._context if shared else _ALONE
        found = []
        for row, logit, refused, standing in zip(rows, logits, checks, _standings(candidates), strict=True):
            if refused:
                found.append(Judgement(0.0, refused, *standing))
            else:
                informed = slope * logit + lead * standing[0] + share * standing[1] + bias
                found.append(Judgement(_sigmoid(informed), (), *standing, tuple(row)))
        return found

    def probabilities(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability for each row of `features`, of shape (n, len(FEATURES))."""
        return np.asarray(1.0 / (1.0 + np.exp(-(rows @ self._weights + self._bias))), np.float64)


_NOTHING: Final = [0.0] * len(FEATURES)


def features(cosine: float, comparison: Comparison) -> list[float]:
    """Return one number for each of `FEATURES`: all about 0 to 4, symmetric in the two prompts.

    Args:
        cosine: of the two prompts' vectors, -1 to 1.
        comparison: from `index.guard.compare`.
    """
    one, other, left, right = comparison.one, comparison.other, comparison.left, comparison.right
    mine = sum([one.weights[place] for place in left])
    theirs = sum([other.weights[place] for place in right])
    length = (one.total + other.total) / 2 + 0.25
    left_over = min((mine + theirs) / (2 * length), _UNLIKE)
    named = NAME in [one.kinds[place] for place in left] or NAME in [other.kinds[place] for place in right]
    words = len(one.words) + len(other.words) + 1
    empty = sum([not one.weights[place] for place in left]) + sum([not other.weights[place] for place in right])
    inversions, kept = _order(one, other)
    cosine = min(cosine, 1.0)
    return [
        cosine,
        max(0.0, cosine - 0.8),
        max(0.0, cosine - 0.9),
        max(0.0, cosine - 0.95),
        left_over,
        max(0.0, left_over - 0.2),
        float(one.question != other.question),
        float((one.question == "yes") != (other.question == "yes")),
        float(named),
        min(comparison.typos, 2) * max(0.0, 1.0 - 3.0 * left_over),
        float(mine + theirs < TELLING),
        float(one.stems == other.stems),
        float(one.words == other.words),
        empty / words,
        float(min(inversions, 3)),
        kept,
        float(min(mine, theirs) > TELLING and substituted(one, other, left, right, 0.0)),
        min(length, 10.0) / 10,
        abs(len(one.words) - len(other.words)) / words,
        min(0.0, cosine - 0.9) * left_over,
        max(0.0, cosine - 0.85) * left_over,  # so near in spite of other words: a paraphrase
    ]


def _order(one: Prepared, other: Prepared) -> tuple[int, float]:
    """Return how many shared telling words follow each other the other way round, and the share of pairs kept."""
    mine, theirs = one.telling, other.telling
    longest = max(len(mine), len(theirs))
    if longest <= 1 or mine == theirs:
        return 0, float(mine == theirs)
    rank = {stem: place for place, stem in enumerate(theirs)}
    places = [rank[stem] for stem in mine if stem in rank]
    inversions = sum([a > b for a, b in pairwise(places)])
    kept = len(set(pairwise(mine)) & set(pairwise(theirs)))
    return inversions, kept / (longest - 1)


def _standings(candidates: Sequence[Candidate]) -> list[tuple[float, float]]:
    """Return each candidate's lead over the best other answer, and the weight of its own answer among all."""
    best: dict[Hashable, float] = {}
    near: dict[Hashable, float] = {}
    for candidate in candidates:
        answer, similarity = candidate.answer, candidate.similarity
        best[answer] = max(best.get(answer, -1.0), similarity)
        near[answer] = near.get(answer, 0.0) + math.exp(_SHARPNESS * (similarity - 1.0))
    total = sum(near.values())
    ranked = sorted(best.items(), key=lambda item: -item[1])[:2]
    found = []
    for candidate in candidates:
        rival = next((similarity for answer, similarity in ranked if answer != candidate.answer), None)
        margin = 0.0 if rival is None else max(-_LEAD, min(_LEAD, candidate.similarity - rival))
        found.append((margin, near[candidate.answer] / (total + _DOUBT)))
    return found


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(logit, -_EXTREME)))
