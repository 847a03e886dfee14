"""Figures without a bar: decisions by length of the prompt, and by share of hits."""

import random
from typing import Final

from benchmarks.bench import Bench
from benchmarks.load import Load, Seen
from benchmarks.measure import Table
from benchmarks.prompts import generate, write
from benchmarks.rows.hits import store
from index import DEFAULT_ENCODER
from index.encoder import OnnxEncoder

_CALLERS: Final = 64
_LENGTHS: Final = (16, 64, 256)
_RATIOS: Final = (0.0, 0.5, 0.9, 1.0)
_COLUMNS: Final = ("decisions/s", "p50 ms", "p99 ms", "server CPU ms", "one caller p50 ms")


def by_length(bench: Bench) -> Table:
    """Return figures of cold decisions for prompts of some lengths: of short ones the encoder takes a smaller share."""
    lines: list[list[str | float]] = []
    with bench.service("lengths") as service:
        for tokens in _LENGTHS:
            count = max(bench.sizes.cold * 32 // (32 + tokens), 100)
            file = write(bench.work / f"tokens-{tokens}.jsonl", of_length(tokens, count))
            Load(_CALLERS, count // 2, file).on(service)
            seen = Load(_CALLERS, count, file).on(service)
            lines.append([f"{tokens}", *_cells(seen), round(Load(1, count // 4, file).on(service).p50, 2)])
            with bench.encoder(file) as encoder:
                alone = encoder.ask(do="offline")
            encoding = 1e3 * alone["cpu"] / alone["prompts"]
            lines[-1] += [round(encoding, 2), round(seen.cpu_per_request / encoding, 2)]
    columns = ("tokens", *_COLUMNS, "encoder's CPU ms", "server's ÷ encoder's")
    return Table("Cold decisions by length of the prompt", columns, lines, f"{_CALLERS} callers")


def by_hit_ratio(bench: Bench) -> Table:
    """Return figures for some shares of exact hits."""
    stored = bench.sizes.stored
    hot = write(bench.work / "ratio-hot.jsonl", bench.prompts[:stored])
    lines: list[list[str | float]] = []
    with bench.service("ratios") as service:
        store(service, "ratio", bench.prompts[:stored])
        for ratio in _RATIOS:
            count = round(bench.sizes.cold / max(1.0 - ratio, 0.1))
            # New ones for each ratio: a scope with answers has near ones too.
            cold = write(bench.work / f"ratio-{ratio}.jsonl", generate(bench.sizes.cold, seed=round(10 + 10 * ratio)))

            def load(callers: int, requests: int, ratio: float = ratio, cold: object = cold) -> Load:
                prompts = {} if ratio == 1.0 else {"prompts": cold}
                hits = {} if ratio == 0.0 else {"hot": hot, "hit_ratio": ratio}
                return Load(callers, requests, scope="ratio", loop=True, **prompts, **hits)  # type: ignore[arg-type]

            seen = load(_CALLERS, count).on(service)
            lines.append([f"{ratio:.0%}", *_cells(seen), round(load(1, count // 4).on(service).p50, 2)])
            lines[-1] += [seen.outcomes["exact_hit"], seen.outcomes["semantic_hit"], seen.outcomes["plan"]]
    columns = ("exact hits asked for", *_COLUMNS, "exact", "semantic", "plans")
    return Table("Decisions by share of hits", columns, lines, f"{_CALLERS} callers, {stored} answers stored")


def of_length(tokens: int, count: int) -> list[str]:
    """Return `count` different texts of exactly so many tokens."""
    encoder, rng = OnnxEncoder.load(DEFAULT_ENCODER), random.Random(tokens)
    words = [word for text in generate(2_000, seed=5) for word in text.split() if word.isalpha()]
    texts: dict[str, None] = {}
    while len(texts) < count:
        chosen = rng.choices(words, k=tokens)
        while len(encoder.tokenise([" ".join(chosen)])[0]) > tokens:
            chosen.pop()
        text = " ".join(chosen)
        if len(encoder.tokenise([text])[0]) == tokens:
            texts.setdefault(text)
    return list(texts)


def _cells(seen: Seen) -> list[float]:
    return [round(seen.per_second), round(seen.p50, 1), round(seen.p99, 1), round(seen.cpu_per_request, 2)]
