"""Streams through the error budget, and through its rivals' rules, in the same run.

    python -m benchmarks.budget.run ../shared/data/cache --orders 20 --output benchmarks/results/budget.md

By itself a stream goes through what decides under an error budget, with embeddings that were made once
(`benchmarks.budget.replay`); with `--service` through a running server, over its socket (`benchmarks.budget.service`).
After every plan the right answer is reported. An exact repetition is answered by all, and counts.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.budget import replay, service
from benchmarks.budget.rivals import best_fixed, gptcache, vcache
from benchmarks.budget.streams import Outcome, Run, Stream, World, load
from benchmarks.machine import machine
from index import DEFAULT_ENCODER
from index.encoder import OnnxEncoder, encode_texts
from index.vectors import Vectors
from service.evaluation.caching.fixed import Nearest

_FLIPPED: Final = 0.05
_MISSING: Final = 1 / 3
WORLDS: Final = {
    "": World(),
    "own words": World(own_words=True),
    "5 % flipped": World(flipped=_FLIPPED),
    "a third missing": World(missing=_MISSING),
    "both": World(_FLIPPED, _MISSING),
}


class Embedder:
    """The real encoder, which remembers every vector."""

    def __init__(self) -> None:
        self.encoder = OnnxEncoder.load(DEFAULT_ENCODER)
        self._known: dict[str, Vectors] = {}

    def __call__(self, stream: Stream) -> Vectors:
        """Return the vectors of a stream's prompts, in order."""
        if new := sorted(set(stream.prompts) - self._known.keys()):
            self._known.update(zip(new, encode_texts(self.encoder, new), strict=True))
        return np.stack([self._known[prompt] for prompt in stream.prompts])


def main() -> None:
    """Run what is asked for and print, or write, one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first order's number")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.01, 0.02, 0.05])
    parser.add_argument("--streams", nargs="+", default=["banking77", "banking77-kept", "qqp-kept", "arena"])
    parser.add_argument("--rows", type=int, help="the first so many of each order: the rest is left out")
    parser.add_argument("--service", action="store_true", help="through a running server, over its socket")
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=[""])
    parser.add_argument(
        "--rivals", type=int, default=3, help="orders that the rivals play: their rules are slow to try"
    )
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    embed = Embedder()
    lines = [f"Measured on {machine()}.", "", _HEAD, "|" + "---|" * 10]
    for name in given.streams:
        for line in _table(name, given, embed):
            lines.append(line)
            print(line, flush=True)
    if given.output:
        given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


_HEAD: Final = (
    "| stream | budget % | who | orders | hits % | hits, second half % | wrong % | most wrong % "
    "| orders over budget | besides |"
)


def _table(name: str, given: argparse.Namespace, embed: Embedder) -> Iterator[str]:
    orders = range(given.first, given.first + given.orders)
    streams = [load(name, given.data, order).first(given.rows) for order in orders]
    for budget in given.budgets:
        for world in given.worlds:
            who = f"Waypost{', over its socket' if given.service else ''}{', ' + world if world else ''}"
            runs = _runs(streams, orders, budget, WORLDS[world], embed, over=given.service)
            yield _row(name, budget, who, [run.outcome for run in runs], _more(runs))
        pairs = [(stream, Nearest(embed(stream))) for stream in streams[: given.rivals]]
        if not pairs:
            continue
        fixed = [one for stream, table in pairs if (one := best_fixed(stream, table, budget)) is not None]
        if fixed:
            chosen = ", ".join(f"{threshold:.2f}" for _, threshold in fixed)
            yield _row(name, budget, f"best fixed cosine in hindsight ({chosen})", [one for one, _ in fixed])
        for keep_all in (False, True):
            who = f"vCache's rule, stores {'all' if keep_all else 'what differs'}"
            yield _row(
                name, budget, who, [vcache(s, t, budget, seed=i, keep_all=keep_all) for i, (s, t) in enumerate(pairs)]
            )
        yield _row(name, budget, "GPTCache's rule at its default", [gptcache(s, t) for s, t in pairs])


def _runs(
    streams: Sequence[Stream], orders: Sequence[int], budget: float, world: World, embed: Embedder, *, over: bool
) -> list[Run]:
    if over:
        return service.play(streams, budget, world, orders, embed.encoder)
    judge = replay.judge(embed.encoder.digest)
    return [
        replay.play(stream, embed(stream), budget, world, order, judge)
        for stream, order in zip(streams, orders, strict=True)
    ]


def _row(name: str, budget: float, who: str, found: Sequence[Outcome], more: str = "") -> str:
    def mean(of: Callable[[Outcome], float]) -> str:
        return f"{statistics.mean(map(of, found)):.2f}"

    worst = max(one.wrong for one in found)
    over = sum(one.wrong > 100 * budget for one in found)
    cells = [name, f"{100 * budget:g}", who, str(len(found)), mean(lambda o: o.hits), mean(lambda o: o.late)]
    return "| " + " | ".join([*cells, mean(lambda o: o.wrong), f"{worst:.2f}", str(over), more]) + " |"


def _more(runs: Sequence[Run]) -> str:
    """Return what is known of the service only: audits, bound, and the time of the verify stage."""
    audits, bound = (statistics.mean(getattr(run, name) for run in runs) for name in ("audits", "bound"))
    covered = sum(run.outcome.wrong <= run.bound for run in runs)
    verify = statistics.median(run.verify_us for run in runs)
    return f"audits {audits:.1f} %, bound {bound:.2f} %, held {covered} of {len(runs)}, verify {verify:.0f} us"


if __name__ == "__main__":
    main()
