"""What fitting an estimator takes: time and memory by references, models and holes, on made-up outcomes of 200 topics.

python -m benchmarks.fitting
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.fitting import fit

# References, models, share of the scores that are not known.
SIZES: Final = ((50, 2, 0.0), (700, 2, 0.0), (20_000, 11, 0.0), (100_000, 11, 0.0), (100_000, 60, 0.9))
TOPICS: Final = 200
DIMENSIONS: Final = 384

Floats = NDArray[np.float32]


def main() -> None:
    """Measure each size in a process of its own, so that its memory is its own."""
    if sys.argv[1:]:
        _one(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
        return
    for size in SIZES:
        subprocess.run([sys.executable, "-m", "benchmarks.fitting", *map(str, size)], check=True)


def _one(n: int, models: int, holes: float) -> None:
    vectors, texts, scores, costs = _world(n, models, holes)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, started = _peak_mb(), time.process_time()
    estimator = fit(vectors, texts, scores, costs)
    took = time.process_time() - started
    grown = _peak_mb() - before
    print(f"{n:,} references, {models} models, {holes:.0%} holes: {took:.1f} s of CPU, {grown:.0f} MB beside ", end="")
    print(f"the references; calibration error {estimator.calibration_error:.3f}", flush=True)


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1_024


def _world(n: int, models: int, holes: float) -> tuple[Floats, list[str], Floats, Floats]:
    """Return vectors, texts, scores and costs; each topic has its own chance of success for each model."""
    chance = np.random.default_rng(0)
    topic = chance.integers(0, TOPICS, n)
    vectors = chance.normal(size=(TOPICS, DIMENSIONS)).astype(np.float32)[topic]
    vectors += 0.8 * chance.normal(size=vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    likely = chance.random((TOPICS, models), np.float32)[topic]
    scores = (chance.random((n, models), np.float32) < likely).astype(np.float32)
    costs = chance.random((n, models), np.float32) * np.float32(0.01)
    unknown = chance.random((n, models), np.float32) < holes
    scores[unknown], costs[unknown] = np.nan, np.nan
    return (
        vectors,
        [f"question {i} about topic {t} in a few words" for i, t in enumerate(topic.tolist())],
        scores,
        costs,
    )


if __name__ == "__main__":
    main()
