"""How likely the candidate's answer is right for this prompt: a small logistic model over cosine and alignment.

Owns the features and the fitted weights in `data/verifier.json`, which `benchmarks/verifier/train.py` writes from data
that may be shipped. What the guard refuses has probability 0. Never serves, never keeps state: `service` compares the
probability with what its error budget allows, and learns on top of a `Judgement` from what it is told.
"""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from operator import gt, mul
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from index.guard import Comparison, compare
from index.names import substituted
from index.tokens import NAME
from index.wording import TELLING, Prepared

WEIGHTS: Final = Path(__file__).parent / "data" / "verifier.json"
FEATURES: Final = (
    "cosine", "cosine_above_80", "cosine_above_90", "cosine_above_95", "left_over", "left_over_much", "question",
    "question_yes", "name_one_side", "typos", "same_words", "same_stems", "identical", "function_words", "inversions",
    "pairs_kept", "substituted", "length", "length_ratio", "cosine_left_over", "other_words",
    "qualified", "frame_words",
)  # fmt: skip
# Of real question pairs 1 % of the duplicates are below, where 1 pair in 77 is one: not worth comparing.
LEAST_COSINE: Final = 0.6
_EXTREME: Final = 500.0  # of a logit: beyond it exp overflows
_MUCH_SAID: Final = 6  # telling words: of so many a last one more changes little
_FRAME: Final = 8  # left-over function words: of longer texts any number may be
_UNLIKE: Final = 0.6  # of left-over weight: with less in common, how much less says nothing more


class Judgement(NamedTuple):
    """What is thought of one pair of prompts.

    `probability` (0 to 1) that one's answer is right for the other is 0 where `refused` names checks, and `features` is
    () there, else as long as `FEATURES`.
    """

    probability: float
    refused: tuple[str, ...]
    features: tuple[float, ...] = ()


_TOO_FAR: Final = Judgement(0.0, ("below_threshold",))


class Verifier:
    """The fitted model. Immutable: may be shared between threads.

    Args:
        weights: one for each of `FEATURES`.
        bias: what is added to their sum.
        encoder: digest of the encoder whose cosines it was fitted on; of any other's, probabilities are mere scores.
    """

    def __init__(self, weights: Sequence[float], bias: float, encoder: str = "") -> None:
        if len(weights) != len(FEATURES):
            raise ValueError(f"{len(weights)} weights for {len(FEATURES)} features")
        self._weights = tuple(weights)
        self._bias = bias
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
        return cls(list(raw["weights"].values()), raw["bias"], raw["encoder"])

    def judge(self, prompt: Prepared, other: Prepared, cosine: float) -> Judgement:
        """Judge whether the answer to another prompt is right for this one; the same both ways.

        Args:
            prompt: what is asked.
            other: what the answer was given to, in the same scope and context.
            cosine: of their vectors; below `LEAST_COSINE` they are not compared.
        """
        if cosine < LEAST_COSINE:
            return _TOO_FAR
        comparison = compare(prompt, other)
        if comparison.refused:
            return Judgement(0.0, comparison.refused)
        row = features(cosine, comparison)
        return Judgement(_sigmoid(sum(map(mul, row, self._weights)) + self._bias), (), tuple(row))


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
        _qualified(one, other, left, right),
        float(min(empty, _FRAME)),  # so near in spite of another frame: each such word has cost cosine
    ]


def _qualified(one: Prepared, other: Prepared, left: Sequence[int], right: Sequence[int]) -> float:
    """Return how much one narrows down at its end what both ask ("... for beginners"), less where more was said."""
    mine = [place for place in left if one.weights[place] > TELLING]
    theirs = [place for place in right if other.weights[place] > TELLING]
    if bool(mine) == bool(theirs):
        return 0.0
    text, last = (one, mine[-1]) if mine else (other, theirs[-1])
    if text.stems[last] != text.telling[-1]:
        return 0.0
    return max(0.0, 1.0 - (len(one.telling) + len(other.telling)) / (2 * _MUCH_SAID))


def _order(one: Prepared, other: Prepared) -> tuple[int, float]:
    """Return how many shared telling words follow each other the other way round, and the share of pairs kept."""
    mine, theirs = one.telling, other.telling
    longest = max(len(mine), len(theirs))
    if longest <= 1 or mine == theirs:
        return 0, float(mine == theirs)
    rank = dict(zip(theirs, range(longest), strict=False))
    places = [rank[stem] for stem in mine if stem in rank]
    inversions = sum(map(gt, places, places[1:]))
    kept = len(set(pairwise(mine)).intersection(pairwise(theirs)))
    return inversions, kept / (longest - 1)


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(logit, -_EXTREME)))
