"""What others do with the same stream and embeddings: GPTCache itself, and by rule, without their code, the others.

Each serves the nearest stored prompt's answer or asks a model, whose answer it stores. All serve the same text again.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.budget.streams import Outcome, Run, Stream, outcome
from benchmarks.process import Worker
from index.vectors import Vectors
from service.evaluation.caching import fixed
from service.evaluation.caching.fixed import Nearest, Rule, Told

Tried = Sequence[tuple[float, fixed.Played]]


def play(stream: Stream, nearest: Nearest, serve: Rule, told: Told = lambda *_: True) -> Outcome:
    """Return what a rule does with a stream."""
    return _outcome(fixed.play(_calls(stream), nearest, serve, told))


def _calls(stream: Stream) -> fixed.Calls:
    def same(one: int, other: int) -> bool:
        return stream.answers[one] == stream.answers[other]

    return fixed.Calls(stream.prompts, [0] * len(stream), same)


def _outcome(played: fixed.Played) -> Outcome:
    return outcome(played.hits.tolist(), played.wrong.tolist())


def every_threshold(stream: Stream, nearest: Nearest) -> Tried:
    """Return what each fixed cosine does with a stream."""
    return fixed.every_threshold(_calls(stream), nearest)


def best_fixed(tried: Tried, budget: float) -> Run:
    """Return what the threshold does, chosen in hindsight, that answers most of those that keep the budget."""
    best = fixed.best_within(tried, budget)
    return Run(Outcome(0.0, 0.0, 0.0), note="none") if best is None else Run(_outcome(best[1]), note=f"{best[0]:.2f}")


def gptcache(stream: Stream, vectors: Vectors, python: Path) -> Outcome:
    """Return what GPTCache itself does at its defaults, given a stream's vectors (`benchmarks.peers.gptcache_stream`).

    Args:
        stream: prompts and answers.
        vectors: of its prompts.
        python: of the environment that has GPTCache.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows, saved = Path(folder) / "vectors.npy", Path(folder) / "stream.json"
        np.save(rows, vectors)
        saved.write_text(json.dumps({"prompts": stream.prompts, "answers": stream.answers}), "utf-8")
        with Worker([python, "-m", "benchmarks.peers.gptcache_stream"], {"OMP_NUM_THREADS": "1"}) as worker:
            given = worker.ask(do="play", stream=str(saved), vectors=str(rows))["given"]
    pairs = list(zip(given, stream.answers, strict=True))
    return outcome([said is not None for said, _ in pairs], [said not in (None, right) for said, right in pairs])


@dataclass(slots=True)
class _Curve:
    """What vCache keeps of one stored prompt: observations, and the logistic curve fitted to them."""

    seen: list[tuple[float, bool]] = field(default_factory=list)
    threshold: float = 0.5
    slope: float = 1.0
    spread: float = math.inf


def vcache(stream: Stream, nearest: Nearest, budget: float, *, seed: int, keep_all: bool) -> Outcome:
    """Return what vCache's rule does, from its paper (arXiv 2502.03771): a curve of its own for each stored prompt.

    The probability that an answer is right at a cosine s is a logistic curve with threshold t and slope g, fitted to
    what was observed of that prompt. With probability tau a model is asked, tau being the least over e of
    1 - budget / (1 - (1 - e) p), where p is the curve with t at its upper confidence bound of level 1 - e.

    Args:
        stream: prompts and answers.
        nearest: of its prompts.
        budget: the error rate it is to keep.
        seed: of its coins.
        keep_all: whether a prompt is stored too when the nearest one's answer was right for it.
    """
    chance, curves = np.random.default_rng(seed), dict[int, _Curve]()

    def serve(cosine: float, place: int) -> bool:
        curve = curves.get(place)
        return curve is not None and chance.random() >= _explores(curve, cosine, budget)

    def told(cosine: float, place: int, right: bool | None) -> bool:  # noqa: FBT001 - see Told
        curve = curves.setdefault(place, _Curve())
        curve.seen.append((cosine, bool(right)))
        _fit(curve)
        return keep_all or not right

    return play(stream, nearest, serve, told)


# (e, quantile of the normal distribution at 1 - e)
_LEVELS: Final = ((0.001, 3.09), (0.002, 2.88), (0.005, 2.58), (0.01, 2.33), (0.02, 2.05), (0.05, 1.64), (0.1, 1.28))


def _explores(curve: _Curve, cosine: float, budget: float) -> float:
    if not math.isfinite(curve.spread):
        return 1.0
    return min(_taus(curve, cosine, budget))


def _taus(curve: _Curve, cosine: float, budget: float) -> Iterator[float]:
    for level, quantile in _LEVELS:
        upper = min(curve.threshold + quantile * curve.spread, 1.0)
        right = (1 - level) / (1 + math.exp(-max(-50.0, min(50.0, curve.slope * (cosine - upper)))))
        yield 1 - budget / max(1 - right, 1e-9)


def _fit(curve: _Curve) -> None:
    """Fit the curve by Newton's method, with a weak prior: separable observations have no best one."""
    if len({right for _, right in curve.seen}) < 2 and len(curve.seen) < 6:
        return
    rows = np.array([[cosine - 0.8, 1.0] for cosine, _ in curve.seen])
    labels = np.array([right for _, right in curve.seen], np.float64)
    prior = np.diag([1e-3, 1e-2])
    at = np.array([20.0, 0.0])
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(rows @ at, -50, 50)))
        information = (rows * (p * (1 - p))[:, None]).T @ rows + prior
        step = np.linalg.solve(information, rows.T @ (p - labels) + prior @ (at - np.array([20.0, 0.0])))
        at = at - step
        if float(np.abs(step).max()) < 1e-6:
            break
    at[0] = max(at[0], 1.0)
    curve.slope, curve.threshold = float(at[0]), float(0.8 - at[1] / at[0])
    gradient = np.array([at[1] / at[0] ** 2, -1 / at[0]])
    curve.spread = math.sqrt(float(gradient @ np.linalg.inv(information) @ gradient))
