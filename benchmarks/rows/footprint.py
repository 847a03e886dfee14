"""Rows 9 to 11: how soon it is ready, how much memory it takes, what a rebuild costs."""

from benchmarks.bench import Bench, write_references
from benchmarks.load import Load
from benchmarks.measure import Goal, Row, medians
from benchmarks.prompts import generate

_CHANGED = 0.01


def start(bench: Bench) -> list[Row]:
    """Row 9: from the start of the process until it says that it is ready."""
    samples = []
    for _ in range(bench.sizes.repeats):
        with bench.service("start", bench.big_index) as service:
            samples.append({"ready_s": service.ready_after, "cpu_s": service.cpu()})
    return [
        Row(
            "9",
            f"start until ready, {bench.sizes.references:,} references",
            Goal(3.0, 1.5, "s"),
            [s["ready_s"] for s in samples],
            medians(samples),
            "a new process; files are in the page cache",
        )
    ]


def resident(bench: Bench) -> list[Row]:
    """Row 10: resident memory of a service that nobody has called yet, and after it was used."""
    samples = []
    decisions = 5 * bench.sizes.cold
    for _ in range(max(bench.sizes.repeats // 2, 2)):
        with bench.service("memory") as service:
            idle = service.memory()
            Load(64, decisions, bench.cold, loop=True).on(service)
            used = service.memory()
            samples.append(
                {
                    "rss_mb": idle.rss,
                    "pss_mb": idle.pss,
                    f"rss_mb_after_{decisions}_decisions": used.rss,
                    f"pss_mb_after_{decisions}_decisions": used.pss,
                }
            )
    return [
        Row(
            "10",
            "resident memory when idle, starter index",
            Goal(250.0, 180.0, "MB"),
            [s["rss_mb"] for s in samples],
            medians(samples),
            "MB of 10⁶ bytes; RSS counts the pages of shared libraries in full, PSS their share",
        )
    ]


def rebuild(bench: Bench) -> list[Row]:
    """Row 11: building again after 1 % of the references changed."""
    count = bench.sizes.references
    changed = max(int(count * _CHANGED), 1)
    repeats = max(bench.sizes.repeats // 2, 2)
    fresh = generate(count + repeats * changed, seed=3)
    samples = []
    for repeat in range(repeats):
        output = bench.work / f"rebuild-{repeat}"
        texts = fresh[:count]
        _, first = bench.build(write_references(bench.work / "rebuild.jsonl", texts), output)
        # Spread over the whole file, as edits are.
        new = fresh[count + repeat * changed :][:changed]
        for i, text in enumerate(new):
            texts[i * (count // changed)] = text
        _, second = bench.build(write_references(bench.work / "rebuild.jsonl", texts), output)
        samples.append(
            {
                "first_s": first.wall,
                "second_s": second.wall,
                "first_cpu_s": first.cpu,
                "second_cpu_s": second.cpu,
            }
        )
    return [
        Row(
            "11",
            f"build-index after {changed} of {count:,} references changed ÷ the first build",
            Goal(0.1, 0.05),
            [s["second_s"] / s["first_s"] for s in samples],
            medians(samples),
            "wall time of the whole command",
        )
    ]
