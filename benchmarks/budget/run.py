"""Streams through the service, and through its rivals' rules, in the same run.

    python -m benchmarks.budget.run ../shared/data/cache --orders 20 --output benchmarks/results/budget.md

The service runs in this process, whole but for its sockets: every request is a Decide, every plan is followed by a
Report with the right answer, in a scope and a store of its own. Embeddings are the real encoder's, computed once and
remembered. An exact repetition is answered by all, and counts.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from waypost.v1 import admin_pb2, router_pb2, types_pb2

from benchmarks.budget.rivals import Outcome, best_fixed, gptcache, outcome, vcache
from benchmarks.budget.streams import Stream, load
from benchmarks.machine import machine
from index import DEFAULT_ENCODER
from index.build import build_index
from index.catalogue import load_catalogue
from index.encoder import OnnxEncoder, encode_texts
from index.records import Reference
from index.remembering import RememberingEncoder
from service import operations, runtime
from service.auth import ANYONE
from service.evaluation.caching.fixed import Nearest
from service.settings import load_settings

ROOT: Final = Path(__file__).resolve().parents[2]
_REFERENCES: Final = [Reference("a", "add two numbers", "small"), Reference("b", "prove a theorem", "large")]
_FLIPPED: Final = 0.05
_MISSING: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class World:
    """How a stream's callers report: `flipped` of what they say of candidates, and no report of `missing` of the plans.

    `own_words`: no two answers of the models are the same text, so only what callers say of candidates can teach.
    """

    flipped: float = 0.0
    missing: float = 0.0
    own_words: bool = False


WORLDS: Final = {
    "": World(),
    "own words": World(own_words=True),
    "5 % flipped": World(flipped=_FLIPPED),
    "a third missing": World(missing=_MISSING),
    "both": World(_FLIPPED, _MISSING),
}


@dataclass(frozen=True, slots=True)
class Run:
    """What the service did with one order: an outcome, audits in percent, and its bound in percent at the end."""

    outcome: Outcome
    audits: float
    bound: float
    decide_us: float


class Service:
    """One service, called as its edge calls it."""

    def __init__(self, loaded: runtime.Runtime) -> None:
        self._runtime = loaded
        self._operations = {
            name: operations.of(*name.split(".")) for name in ("Router.Decide", "Router.Report", "Admin.GetStats")
        }

    async def call(self, name: str, message: Any) -> Any:
        """Call an operation with a message."""
        return await self._operations[name](message, operations.Call(self._runtime, ANYONE, time.perf_counter(), None))


async def serve(stream: Stream, budget: float, world: World, seed: int) -> Run:
    """Send a stream through a fresh service."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        index, data = Path(folder) / "index", Path(folder) / "data"
        build_index(_REFERENCES, load_catalogue(ROOT / "reference_prompts" / "models.toml"), _encoder(), index)
        tables = {"index": {"path": index}, "store": {"data_dir": data}, "journal": {"enabled": False}}
        loaded = await runtime.load(load_settings(None, tables), runtime.Parts(encoder=_encoder()))
        try:
            return await _serve(Service(loaded), stream, budget, world, chance)
        finally:
            await loaded.close()


async def _serve(service: Service, stream: Stream, budget: float, world: World, chance: random.Random) -> Run:
    hits, wrong, seconds = [False] * len(stream), [False] * len(stream), []
    said: dict[str, str] = {}  # what each stored answer is about, by its entry
    for place, (prompt, about) in enumerate(zip(stream.prompts, stream.answers, strict=True)):
        cache = types_pb2.CacheControl(error_budget=budget)
        decision = await service.call("Router.Decide", router_pb2.DecideRequest(prompt=prompt, cache=cache))
        seconds.append(decision.timings.verify.nanos / 1e3)
        if decision.WhichOneof("outcome") == "answer":
            hits[place], wrong[place] = True, decision.answer.content.split(" | ")[0] != about
            continue
        candidate = decision.plan.candidate.entry_id
        if candidate and chance.random() < world.missing:
            continue
        equivalent = None
        if candidate:
            equivalent = (said[candidate] == about) != (chance.random() < world.flipped)
        report = router_pb2.ReportRequest(
            decision_id=decision.decision_id,
            fill_token=decision.plan.fill_token,
            model=decision.plan.steps[0].model,
            outcome=types_pb2.OUTCOME_OK,
            answer=f"{about} | {place}" if world.own_words else about,
            finish_reason="stop",
            candidate_equivalent=equivalent,
        )
        done = await service.call("Router.Report", report)
        said.setdefault(done.entry_id, about)
    stats: Any = await service.call("Admin.GetStats", admin_pb2.GetStatsRequest(scope="default"))
    account = stats.budgets[0]
    used = [one for one in seconds if one]
    return Run(
        outcome(hits, wrong),
        100 * account.audits / len(stream),
        100 * account.error_bound,
        statistics.median(used) if used else 0.0,
    )


@cache
def _encoder() -> RememberingEncoder:
    """Return the real encoder, which remembers every vector."""
    return RememberingEncoder(OnnxEncoder.load(DEFAULT_ENCODER))


def main() -> None:
    """Run what is asked for and print, or write, one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first order's number")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.01, 0.02, 0.05])
    parser.add_argument("--streams", nargs="+", default=["banking77", "banking77-kept", "qqp-kept", "arena"])
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=[""])
    parser.add_argument(
        "--rivals", type=int, default=3, help="orders that the rivals play: their rules are slow to try"
    )
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    lines = [f"Measured on {machine()}.", "", _HEAD, "|" + "---|" * 10]
    for name in given.streams:
        for line in _table(name, given):
            lines.append(line)
            print(line, flush=True)
    if given.output:
        given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


_HEAD: Final = (
    "| stream | budget % | who | orders | hits % | hits, second half % | wrong % | most wrong % "
    "| orders over budget | besides |"
)


def _table(name: str, given: argparse.Namespace) -> Iterator[str]:
    orders = range(given.first, given.first + given.orders)
    for budget in given.budgets:
        for world in given.worlds:
            runs = [asyncio.run(serve(load(name, given.data, i), budget, WORLDS[world], i)) for i in orders]
            who = f"Waypost{', ' + world if world else ''}"
            yield _row(name, budget, who, [run.outcome for run in runs], _more(runs))
        played = [load(name, given.data, order) for order in orders[: given.rivals]]
        tables = [Nearest(_vectors(stream)) for stream in played]
        pairs = list(zip(played, tables, strict=True))
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
    verify = statistics.median(run.decide_us for run in runs)
    return f"audits {audits:.1f} %, bound {bound:.2f} %, held {covered} of {len(runs)}, verify {verify:.0f} us"


def _vectors(stream: Stream) -> Any:
    return encode_texts(_encoder(), stream.prompts)


if __name__ == "__main__":
    main()
