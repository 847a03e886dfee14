"""Row 6: what int8 gains over fp32, and how far its vectors are from those."""

from pathlib import Path

import numpy as np

from benchmarks.bench import Bench
from benchmarks.measure import Goal, Row, medians
from index import DEFAULT_ENCODER
from index.encoder import OnnxEncoder, encode_texts
from index.text import canonical

_TITLE = "prompts/s of the int8 encoder ÷ of the same model in fp32"
_HOW = (
    "no fp32 encoder was given: export one with "
    "`waypost export-encoder MODEL --precision fp32 --output FOLDER` and pass --fp32 FOLDER"
)


def precision(bench: Bench) -> list[Row]:
    """Measure both offline, in turn."""
    goal, samples = Goal(2.4, 3.0), []
    if bench.fp32 is None:
        return [Row("6", _TITLE, goal, skipped=_HOW)]
    with bench.encoder(bench.cold, bench.fp32) as full, bench.encoder(bench.cold) as small:
        for _ in range(bench.sizes.repeats):
            one, other = small.ask(do="offline"), full.ask(do="offline")
            samples.append(
                {
                    "int8_per_s": one["prompts"] / one["wall"],
                    "fp32_per_s": other["prompts"] / other["wall"],
                    "cpu_ratio": other["cpu"] / one["cpu"],
                }
            )
    ratios = [s["int8_per_s"] / s["fp32_per_s"] for s in samples]
    seen = medians(samples) | fidelity(bench, bench.fp32)
    return [Row("6", _TITLE, goal, ratios, seen, "offline: sorted, batched, two workers")]


def fidelity(bench: Bench, fp32: Path) -> dict[str, float]:
    """Return how far below 1 the cosines of both encoders' vectors are, for the prompts in use."""
    texts = [canonical(prompt) for prompt in bench.prompts]
    small, full = (encode_texts(OnnxEncoder.load(folder), texts) for folder in (DEFAULT_ENCODER, fp32))
    lost = 1 - np.vecdot(small, full)
    return {"cosine_lost_at_worst": float(lost.max()), "cosine_lost_on_average": float(lost.mean())}
