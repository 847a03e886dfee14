"""Does a decision stay the same when a prompt is only written differently? Asked of a real service, over its socket.

    python -m benchmarks.invariance PAIRS INDEX [--prices 0.005 0.02] [--rows 1000]

PAIRS are JSON lines (.gz) of `a`, `b` and `kind`: the same question with a typo, a contraction, or in other words.
INDEX is an index folder. Both texts of a pair are decided on, without the cache; what is compared is the first model of
the plan. A router that always takes the same model never changes its mind, so the share of the model taken most stands
beside it: what says something are the prices at which it is far from 1. The bar is .90. Results:
benchmarks/results/invariance.md.
"""

import argparse
import gzip
import json
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import grpc
from waypost.v1 import router_pb2, router_pb2_grpc, types_pb2

from benchmarks.process import Service

_BATCH = 256
_BYPASS = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS)


def main() -> None:
    """Ask, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument(
        "--prices", type=float, nargs="*", default=[0.005, 0.02], help="willingness to pay, USD a point"
    )
    parser.add_argument("--rows", type=int, default=1_000, help="pairs, drawn at random; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with gzip.open(options.pairs, "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    random.Random(options.seed).shuffle(pairs)
    pairs = pairs[: options.rows or None]
    kinds = sorted({pair["kind"] for pair in pairs})
    print(
        f"{len(pairs)} pairs\n\n| USD / point | all | {' | '.join(kinds)} | most taken |\n|{'---|' * (len(kinds) + 3)}"
    )
    with tempfile.TemporaryDirectory() as work, Service(options.index, Path(work)) as service:
        for price in [None, *options.prices]:
            one, other = (models(service.address, [pair[side] for pair in pairs], price) for side in "ab")
            same = [x == y for x, y in zip(one, other, strict=True)]
            shares = [share([s for s, pair in zip(same, pairs, strict=True) if pair["kind"] == kind]) for kind in kinds]
            name, count = Counter(one).most_common(1)[0]
            cells = [f"{price or 'quality first'}", share(same), *shares, f"{name} {count / len(one):.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def models(address: str, prompts: Sequence[str], price: float | None) -> list[str]:
    """Return the model that each prompt's plan begins with."""
    route = types_pb2.RouteControl(willingness_to_pay=price)
    found: list[str] = []
    with grpc.insecure_channel(address) as channel:
        router = router_pb2_grpc.RouterStub(channel)
        for start in range(0, len(prompts), _BATCH):
            requests = [
                router_pb2.DecideRequest(prompt=prompt, route=route, cache=_BYPASS)
                for prompt in prompts[start : start + _BATCH]
            ]
            results = router.DecideBatch(router_pb2.DecideBatchRequest(requests=requests), timeout=300).results
            found += [result.response.plan.steps[0].model for result in results]
    return found


def share(same: Sequence[bool]) -> str:
    """Return the share of pairs with the same model, with its standard error."""
    mean = sum(same) / len(same)
    return f"{mean:.3f} ± {(mean * (1 - mean) / len(same)) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
