"""Rows 1 to 4: decisions that need the encoder, against the encoder alone."""

from typing import Final

from benchmarks.bench import Bench
from benchmarks.load import Load
from benchmarks.measure import Goal, Row, medians

CALLERS: Final = 64
MANY_CALLERS: Final = 256
_NOTE: Final = (
    "{data}, {tokens:.1f} tokens on average; {callers} callers on the same cores. The encoder alone: "
    "sorted by length, batched, on two workers, in a process of its own, in turn with the service."
)


def throughput(bench: Bench) -> list[Row]:
    """Rows 1 and 2: CPU per cold decision, and decisions a second, against the encoder run offline."""
    samples = []
    with bench.service("cold") as service, bench.encoder(bench.cold) as encoder:
        load = Load(CALLERS, bench.sizes.cold, bench.cold)
        load.on(service)
        encoder.ask(do="offline")
        for _ in range(bench.sizes.repeats):
            seen, alone = load.on(service), encoder.ask(do="offline")
            samples.append(
                {
                    "service_cpu_ms": seen.cpu_per_request,
                    "encoder_cpu_ms": 1e3 * alone["cpu"] / alone["prompts"],
                    "decisions_per_s": seen.per_second,
                    "offline_per_s": alone["prompts"] / alone["wall"],
                    "p50_ms": seen.p50,
                    "p99_ms": seen.p99,
                    "client_cpu_ms": 1e3 * seen.client_cpu / seen.requests,
                }
            )
    note = _NOTE.format(data=bench.data, tokens=bench.mean_tokens, callers=CALLERS)
    return [
        Row(
            "1",
            "server CPU per cold decision ÷ CPU per prompt of the encoder offline",
            Goal(1.4, 1.2),
            [s["service_cpu_ms"] / s["encoder_cpu_ms"] for s in samples],
            medians(samples),
            note,
        ),
        Row(
            "2",
            "cold decisions/s ÷ prompts/s of the encoder offline",
            Goal(0.5, 0.7),
            [s["decisions_per_s"] / s["offline_per_s"] for s in samples],
            medians(samples),
            note,
        ),
    ]


def one_caller(bench: Bench) -> list[Row]:
    """Row 3: one caller's median latency against one run of the encoder."""
    samples = []
    with bench.service("one") as service, bench.encoder(bench.cold) as encoder:
        # Short and often: a latency of milliseconds feels every change of the machine's mood.
        load = Load(1, max(bench.sizes.cold // 10, 50), bench.cold)
        load.on(service)
        for _ in range(3 * bench.sizes.repeats):
            seen, alone = load.on(service), encoder.ask(do="single", count=load.requests)
            samples.append({"decision_p50_ms": seen.p50, "encoder_p50_ms": 1e3 * alone["p50"], "p99_ms": seen.p99})
    return [
        Row(
            "3",
            "one caller, median of a cold decision ÷ tokenise and encode one prompt",
            Goal(1.6, 1.25),
            [s["decision_p50_ms"] / s["encoder_p50_ms"] for s in samples],
            medians(samples),
            "the same prompts one by one, over TCP on the loopback interface",
        )
    ]


def tail(bench: Bench) -> list[Row]:
    """Row 4: how much worse the worst latencies are with many callers."""
    samples = []
    with bench.service("tail") as service:
        load = Load(MANY_CALLERS, 2 * bench.sizes.cold, bench.cold, loop=True)
        Load(MANY_CALLERS, bench.sizes.cold, bench.cold).on(service)
        for _ in range(bench.sizes.repeats):
            seen = load.on(service)
            samples.append({"p50_ms": seen.p50, "p99_ms": seen.p99, "decisions_per_s": seen.per_second})
    return [
        Row(
            "4",
            f"99th percentile ÷ median with {MANY_CALLERS} callers, cold",
            Goal(2.0, 1.5),
            [s["p99_ms"] / s["p50_ms"] for s in samples],
            medians(samples),
        )
    ]
