r"""Streams through the error budget, and through its rivals, in the same run.

    python -m benchmarks.budget.run DATA --published --resume var/budget.jsonl \
        --peers .venv-peers/bin/python --output benchmarks/results/budget.md

By itself a stream goes through what decides under an error budget, each text embedded and each pair of them judged once
for all orders (`benchmarks.budget.replay`); with `--service` through a running server, over its socket
(`benchmarks.budget.service`). After every plan the right answer is reported. An exact repetition is answered by all,
and counts.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from benchmarks.budget import replay, rivals, service
from benchmarks.budget.kept import Kept
from benchmarks.budget.published import INTRODUCTION, SECTIONS, Part
from benchmarks.budget.streams import Run, Stream, World, load
from benchmarks.budget.texts import Embedder, RememberingJudge, Texts
from benchmarks.machine import machine
from benchmarks.rows.peers import missing
from index import DEFAULT_ENCODER
from index.encoder import OnnxEncoder
from service.evaluation.caching.fixed import Nearest

_FLIPPED: Final = 0.05
_MISSING: Final = 1 / 3
WORLDS: Final = {
    "": World(),
    "own words": World(own_words=True),
    "5 % flipped": World(flipped=_FLIPPED),
    "a third missing": World(missing=_MISSING),
    "both": World(_FLIPPED, _MISSING),
    "nothing said": World(unsaid=True),
}
_NO_GPTCACHE: Final = "skipped: no --peers PYTHON was given, see benchmarks/peers/requirements.txt"
_HEAD: Final = (
    "| stream | budget % | who | orders | hits % | hits, second half % | wrong % | most wrong % "
    "| orders over budget | besides |"
)


def main() -> None:
    """Play what is asked for and print, or write, tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--published", action="store_true", help="all that is published; no other choice is looked at")
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first order's number")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.01, 0.02, 0.05])
    parser.add_argument("--streams", nargs="+", default=["banking77", "banking77-kept", "qqp-kept", "arena"])
    parser.add_argument("--rows", type=int, help="the first so many of each order: the rest is left out")
    parser.add_argument("--service", action="store_true", help="through a running server, over its socket")
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=[""])
    parser.add_argument("--rivals", type=int, default=1, help="orders that the rivals play")
    parser.add_argument("--peers", type=Path, help="the Python of an environment that has GPTCache")
    parser.add_argument("--resume", type=Path, help="keeps each order's result there, and goes on from what is there")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.resume:
        given.resume.parent.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        if given.output:
            given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")

    player = Player(given.data, Kept(given.resume), given.peers)
    about = machine()
    lines = [f"Measured with revision {about['revision']} on {about['cores']} cores of an {about['cpu']}."]
    for title, text, part in _sections(given):
        lines += [*title, *text, "", _HEAD, "|" + "---|" * 10]
        for line in player.table(part):
            lines.append(line)
            print(line, flush=True)
            write()


def _sections(given: argparse.Namespace) -> Iterator[tuple[Sequence[str], Sequence[str], Part]]:
    if not given.published:
        part = Part(
            tuple(given.streams),
            given.orders,
            tuple(given.budgets),
            tuple(given.worlds),
            given.first,
            given.rows,
            over=given.service,
            rivals=given.rivals,
        )
        yield (), (), part
        return
    before: tuple[str, ...] = (*INTRODUCTION, "")
    for title, text, part in SECTIONS:
        yield (*before, f"## {title}", ""), text, part
        before = ("",)


@dataclass
class _Orders:
    """A stream in several orders, with what is made once for all of them where it is needed."""

    name: str
    numbers: Sequence[int]
    streams: Sequence[Stream]
    embed: Embedder
    _nearest: dict[int, Nearest] = field(default_factory=dict)
    _thresholds: dict[int, rivals.Tried] = field(default_factory=dict)

    @cached_property
    def prompts(self) -> frozenset[str]:
        return frozenset(prompt for stream in self.streams for prompt in stream.prompts)

    def nearest(self, place: int) -> Nearest:
        """Return each call's nearest earlier ones, of one order."""
        if place not in self._nearest:
            self._nearest[place] = Nearest(self.embed(self.streams[place].prompts))
        return self._nearest[place]

    def thresholds(self, place: int) -> rivals.Tried:
        """Return what each fixed threshold does with one order."""
        if place not in self._thresholds:
            self._thresholds[place] = rivals.every_threshold(self.streams[place], self.nearest(place))
        return self._thresholds[place]


class Player:
    """Plays parts.

    Args:
        data: folder of the data.
        kept: what was played already.
        peers: the Python of an environment that has GPTCache, None without.
    """

    def __init__(self, data: Path, kept: Kept, peers: Path | None) -> None:
        self._data, self._kept, self._peers = data, kept, peers
        self._embed = Embedder(OnnxEncoder.load(DEFAULT_ENCODER))
        self._compared = replay.Compared(self._embed)
        self._texts: dict[frozenset[str], tuple[Texts, RememberingJudge]] = {}
        self._no_gptcache = missing(peers, "gptcache") if peers is not None else _NO_GPTCACHE

    def table(self, part: Part) -> Iterator[str]:
        """Yield the rows of a part's table."""
        numbers = range(part.first, part.first + part.orders)
        for name in part.streams:
            orders = _Orders(name, numbers, [load(name, self._data, n).first(part.rows) for n in numbers], self._embed)
            for budget in part.budgets:
                for world in part.worlds:
                    yield self._waypost(orders, part, budget, world, over=False)
                    if part.over:
                        yield self._waypost(orders, part, budget, world, over=True)
                if part.rivals:
                    yield from self._rivals(orders, part, budget)

    def _waypost(self, orders: _Orders, part: Part, budget: float, world: str, *, over: bool) -> str:
        where = "socket" if over else "process"
        names = {n: (where, orders.name, part.rows, budget, world, n) for n in orders.numbers}
        played: dict[int, Run] = {}
        if over and (left := [n for n, name in names.items() if not self._kept.known(*name)]):
            streams = [orders.streams[n - part.first] for n in left]
            runs = service.play(streams, budget, WORLDS[world], left, self._embed.encoder)
            played = dict(zip(left, runs, strict=True))

        def play(n: int) -> Run:
            if over:
                return played[n]
            stream = orders.streams[n - part.first]
            if orders.prompts not in self._texts:
                texts = Texts(orders.prompts, self._embed)
                self._texts[orders.prompts] = texts, RememberingJudge(self._embed.encoder.digest)
            texts, judge = self._texts[orders.prompts]
            return replay.play(stream, texts, budget, WORLDS[world], n, judge, self._compared)

        runs = [self._kept.get(partial(play, n), *name) for n, name in names.items()]
        who = f"Waypost{', over its socket' if over else ''}{', ' + world if world else ''}"
        return _row(orders.name, budget, who, runs, _more(runs))

    def _rivals(self, orders: _Orders, part: Part, budget: float) -> Iterator[str]:
        """Yield what the others do with the first orders; of some it does not depend on the budget."""
        places = range(min(part.rivals, len(orders.streams)))

        def runs(who: str, play: Callable[[int], Run], bound_to: float | None) -> list[Run]:
            of = [(who, orders.name, part.rows, bound_to, orders.numbers[place]) for place in places]
            return [self._kept.get(partial(play, place), *one) for place, one in zip(places, of, strict=True)]

        def fixed(place: int) -> Run:
            return rivals.best_fixed(orders.thresholds(place), budget)

        def vcache(place: int, *, keep_all: bool) -> Run:
            stream = orders.streams[place]
            return Run(rivals.vcache(stream, orders.nearest(place), budget, seed=place, keep_all=keep_all))

        def gptcache(place: int) -> Run:
            assert self._peers is not None  # noqa: S101 - there is a reason not to come here else
            stream = orders.streams[place]
            return Run(rivals.gptcache(stream, self._embed(stream.prompts), self._peers))

        found = runs("best fixed cosine in hindsight", fixed, budget)
        yield _row(orders.name, budget, "best fixed cosine in hindsight", found, ", ".join(run.note for run in found))
        for keep_all in (False, True):
            who = f"vCache's rule, stores {'all' if keep_all else 'what differs'}"
            yield _row(orders.name, budget, who, runs(who, partial(vcache, keep_all=keep_all), budget))
        if self._no_gptcache:  # a line all the same, so that nobody thinks it was played
            yield f"| {orders.name} | {100 * budget:g} | GPTCache 0.1.44 | 0 | | | | | | {self._no_gptcache} |"
        else:
            yield _row(orders.name, budget, "GPTCache 0.1.44", runs("GPTCache 0.1.44", gptcache, None))


def _row(name: str, budget: float, who: str, runs: Sequence[Run], more: str = "") -> str:
    found = [run.outcome for run in runs]
    means = [f"{statistics.mean(of):.2f}" for of in zip(*((o.hits, o.late, o.wrong) for o in found), strict=True)]
    worst, over = max(one.wrong for one in found), sum(one.wrong > 100 * budget for one in found)
    cells = [name, f"{100 * budget:g}", who, str(len(found)), *means, f"{worst:.2f}", str(over), more]
    return "| " + " | ".join(cells) + " |"


def _more(runs: Sequence[Run]) -> str:
    """Return what is known of the service only: audits and bound."""
    audits, bound = (statistics.mean(getattr(run, name) for run in runs) for name in ("audits", "bound"))
    covered = sum(run.outcome.wrong <= run.bound for run in runs)
    return f"audits {audits:.1f} %, bound {bound:.2f} %, held {covered} of {len(runs)}"


if __name__ == "__main__":
    main()
