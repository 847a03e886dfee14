"""Row 6: what int8 gains over fp32."""

from benchmarks.bench import Bench
from benchmarks.measure import Goal, Row, medians

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
    return [Row("6", _TITLE, goal, ratios, medians(samples), "offline: sorted, batched, two workers")]
