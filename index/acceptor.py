"""The acceptor: how likely an answer is right, learned from answers with outcomes.

A logistic model over the signs of `index.signs`, with what each model does differently beside what all do, and a linear
head on the embeddings of prompt and answer for what the signs leave unexplained. How strongly either is held back, and
whether the embeddings take part at all, is chosen by cross-validation; the same held-out predictions calibrate it
(Platt 1999) and state its accuracy. Fitted by `index.build`, stored in the generation, asked by
`service.routing.review`. Pure numpy: it is small, and loading must stay quick.
"""

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from index.errors import GenerationError, InputError
from index.judged import JudgedAnswer
from index.signs import SIGNS, signs
from index.text import canonical, content_hash

Floats = NDArray[np.float64]

LEAST_ANSWERS: Final = 60
_LEAST_OF_EACH: Final = 15
_FOLDS: Final = 5
_PENALTIES: Final = (3.0, 10.0, 30.0, 100.0)
_HEAD_PENALTIES: Final = (30.0, 100.0, 300.0, 1000.0)
# What one model does differently is held back so much more than what all do.
_OWN: Final = 4.0
# The head must explain so much of what the signs leave: less is noise, and an embedding for each review is not free.
_WORTHWHILE: Final = 0.01
_CLIP: Final = 4.0
_MOST: Final = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class Acceptor:
    """A fitted acceptor. Arrays are as `Acceptor.fit` made them; `models` are ids."""

    models: tuple[str, ...]
    centre: Floats
    scale: Floats
    weights: Floats  # (1 + models, 1 + signs): shared in row 0, then what each model does differently
    head: Floats  # (2 * dimensions,), empty where embeddings do not help
    head_centre: Floats
    calibration: Floats  # slope of the signs, slope of the head, intercept
    rates: Floats  # (1 + models,): share of right answers, of all and of each model
    accuracy: Floats  # held out: area under the ROC curve, expected calibration error, separation, answers

    @property
    def embeds(self) -> bool:
        """Whether it asks for the embeddings of prompt and answer."""
        return bool(len(self.head))

    @property
    def auc(self) -> float:
        """How well it tells right from wrong on answers it was not fitted on: area under the ROC curve."""
        return float(self.accuracy[0])

    @property
    def separation(self) -> float:
        """The same within one model's answers, as the distance of two normal distributions in deviations (d')."""
        return float(self.accuracy[2])

    def logit(self, model: str, prior: float, found: Floats, vectors: Floats | None = None) -> float:
        """Return the log-odds that an answer is right.

        Args:
            model: who gave it; of one the acceptor has not seen, only the evidence in the answer counts.
            prior: what was expected of that model for this prompt, above 0 and below 1; used only for a model not seen.
            found: from `index.signs.signs`.
            vectors: the unit vectors of prompt and answer, one behind the other; None: not to be had.
        """
        scaled = np.append(1.0, np.clip((found - self.centre) / self.scale, -_CLIP, _CLIP))
        row = self.models.index(model) + 1 if model in self.models else 0
        linear = scaled @ (self.weights[0] + (self.weights[row] if row else 0.0))
        head = float((vectors - self.head_centre) @ self.head) if self.embeds and vectors is not None else 0.0
        logit = float(self.calibration @ (linear, head, 1.0))
        return logit if row else logit - log_odds(float(self.rates[0])) + log_odds(prior)

    def save(self, path: Path) -> None:
        """Write it to a file ending in .npz."""
        parts: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        np.savez(path, **parts, signs=np.array(SIGNS))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raises GenerationError where it is something else or of other signs."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                parts = {f.name: file[f.name] for f in fields(cls)}
                same = tuple(file["signs"].tolist()) == SIGNS
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise GenerationError(f"{path}: cannot be loaded ({error}); build it anew") from error
        if not same:
            raise GenerationError(f"{path}: fitted by another version; build it anew with --answers")
        return cls(models=tuple(parts.pop("models").tolist()), **parts)


def fit_acceptor(answers: Sequence[JudgedAnswer], prompts: Floats, said: Floats) -> Acceptor:
    """Fit an acceptor.

    Args:
        answers: with outcomes; several models and several answers to one prompt may be mixed.
        prompts: unit vectors of their prompts, shape (answers, dimensions).
        said: unit vectors of the answers, the same shape.

    Raises:
        InputError: too few answers, or too few right or wrong ones.
    """
    right = np.array([answer.correct for answer in answers], np.float64)
    if len(answers) < LEAST_ANSWERS or min(right.sum(), (1 - right).sum()) < _LEAST_OF_EACH:
        raise InputError(
            f"answers: {len(answers)} of which {int(right.sum())} are right; at least {LEAST_ANSWERS}, "
            f"{_LEAST_OF_EACH} right and {_LEAST_OF_EACH} wrong, are needed to learn what a right one is"
        )
    if len(answers) > _MOST:
        kept = np.random.default_rng(0).permutation(len(answers))[:_MOST]
        return fit_acceptor([answers[i] for i in kept], prompts[kept], said[kept])
    models = tuple(sorted({answer.model for answer in answers}))
    model = np.array([models.index(answer.model) for answer in answers])
    found = np.array([signs(answer.prompt, answer.answer) for answer in answers])
    centre, scale = found.mean(axis=0), found.std(axis=0)
    scale[scale < 1e-9] = 1.0  # noqa: PLR2004 - a sign that never differs
    x = _design(np.clip((found - centre) / scale, -_CLIP, _CLIP), model, len(models))
    folds = _folds(answers)
    penalty, linear = _best_penalty(x, right, folds, len(SIGNS) + 1)
    vectors = np.hstack([prompts, said]).astype(np.float64)
    head, head_centre, heard = _head(vectors, right - _sigmoid(linear), folds)
    stacked = np.column_stack([linear, heard, np.ones(len(right))])
    calibration = _logistic(stacked, right, np.array([0.0, 0.0 if len(head) else 1.0, 0.0]) + 1e-6)
    weights = _logistic(x, right, _penalties(penalty, x.shape[1], len(SIGNS) + 1)).reshape(len(models) + 1, -1)
    rates = np.array([right.mean(), *((right[model == m].sum() + 1) / ((model == m).sum() + 2) for m in set(model))])
    return Acceptor(
        models, centre, scale, weights, head, head_centre, calibration, rates,
        _accuracy(stacked @ calibration, right, model),
    )  # fmt: skip


def log_odds(p: float) -> float:
    """Return ln(p / (1 - p)) with p kept within 0.001 of 0 and 1."""
    p = min(max(p, 1e-3), 1 - 1e-3)
    return math.log(p / (1 - p))


def area(scores: Floats, right: Floats) -> float:
    """Return the area under the ROC curve: the chance that a right answer scores above a wrong one; ties count half."""
    order = np.argsort(scores, kind="stable")
    _, at, counts = np.unique(scores[order], return_inverse=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = (np.cumsum(counts) - (counts - 1) / 2)[at]
    many = right.sum()
    return float((ranks[right > 0].sum() - many * (many + 1) / 2) / (many * (len(right) - many)))


def _design(scaled: Floats, model: NDArray[np.int64], models: int) -> Floats:
    """Return shape (answers, (1 + models) * (1 + signs)): the signs for all, and again for each model's own part."""
    shared = np.hstack([np.ones((len(scaled), 1)), scaled])
    return np.hstack([shared, *(shared * (model == m)[:, None] for m in range(models))])


def _penalties(penalty: float, columns: int, shared: int) -> Floats:
    strength = np.full(columns, penalty * _OWN)
    strength[:shared] = penalty
    strength[0], strength[shared::shared] = 1e-3, 1.0  # intercepts
    return strength


def _folds(answers: Sequence[JudgedAnswer]) -> NDArray[np.int64]:
    """Return the fold of each answer; a prompt is in one fold only, so that nothing is learned about itself."""
    return np.array([content_hash("fold", canonical(answer.prompt))[0] % _FOLDS for answer in answers])


def _best_penalty(x: Floats, right: Floats, folds: NDArray[np.int64], shared: int) -> tuple[float, Floats]:
    """Return the penalty with the least held-out log-loss, and its held-out log-odds."""
    best: tuple[float, float, Floats] | None = None
    for penalty in _PENALTIES:
        held = np.zeros(len(right))
        for fold in range(_FOLDS):
            out = folds == fold
            held[out] = x[out] @ _logistic(x[~out], right[~out], _penalties(penalty, x.shape[1], shared))
        loss = float(np.logaddexp(0.0, np.where(right > 0, -held, held)).mean())
        if best is None or loss < best[0]:
            best = (loss, penalty, held)
    assert best is not None  # noqa: S101 - there are penalties
    return best[1], best[2]


def _head(vectors: Floats, residual: Floats, folds: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Return ridge weights on the embeddings for what the signs leave, their centre, and held-out predictions."""
    centre = vectors.mean(axis=0)
    centred = vectors - centre
    best = (1.0 - _WORTHWHILE, 0.0, np.zeros(len(residual)))
    eye, power = np.eye(vectors.shape[1]), float(residual @ residual)
    heard = {penalty: np.zeros(len(residual)) for penalty in _HEAD_PENALTIES}
    gram, target = centred.T @ centred, centred.T @ residual
    unit = np.trace(gram) / len(eye)
    for fold in range(_FOLDS):
        out = folds == fold
        part, rest = gram - centred[out].T @ centred[out], target - centred[out].T @ residual[out]
        values, turned = np.linalg.eigh(part)
        for penalty, predictions in heard.items():
            weights = turned @ ((turned.T @ rest) / (values + penalty * unit / 10))
            predictions[out] = centred[out] @ weights
    for penalty, predictions in heard.items():
        left = float(((residual - predictions) ** 2).sum()) / max(power, 1e-12)
        if left < best[0]:
            best = (left, penalty, predictions)
    if not best[1]:
        return np.empty(0), np.empty(0), best[2]
    return np.linalg.solve(gram + best[1] * unit / 10 * eye, target), centre, best[2]


def _logistic(x: Floats, right: Floats, penalties: Floats) -> Floats:
    """Return the weights of a logistic regression with a ridge penalty for each column, by Newton's method."""
    weights = np.zeros(x.shape[1])
    for _ in range(25):
        p = _sigmoid(x @ weights)
        gradient = x.T @ (p - right) + penalties * weights
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + np.diag(penalties + 1e-9), gradient)
        # The steps of the first rounds can be far too long where right and wrong are far apart.
        weights = weights - step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-6:  # noqa: PLR2004 - weights are about 1
            break
    return weights


def _accuracy(logits: Floats, right: Floats, model: NDArray[np.int64]) -> Floats:
    """Return AUC, calibration error over ten bins, separation within models, and the number of answers."""
    p = _sigmoid(logits)
    at = np.minimum((p * 10).astype(np.int64), 9)
    error = np.abs(np.bincount(at, p - right, minlength=10)).sum() / len(right)
    areas, sizes = [0.5], [1e-9]
    for m in set(model.tolist()):
        mine = model == m
        if 0 < right[mine].sum() < mine.sum():
            areas.append(area(logits[mine], right[mine]))
            sizes.append(min(right[mine].sum(), (1 - right[mine]).sum()))
    within = float(np.average(areas, weights=sizes))
    separation = math.sqrt(2) * NormalDist().inv_cdf(min(max(within, 0.5), 0.999))
    return np.array([area(logits, right), error, separation, len(right)])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))))
