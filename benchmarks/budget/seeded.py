"""The service, with audits that can be foreseen: `SEED` in the environment says which coins it throws.

So that a stream through it can be compared, call by call, with the same one through `benchmarks.budget.replay`.
Otherwise the same as `waypost serve`.
"""

import os
import random
import sys
from functools import partial
from typing import Final

import typer

from service import cli, runtime, server

SEED: Final = "BENCHMARK_SEED"


def coins(seed: int) -> random.Random:
    """Return what throws the coins of one order's audits."""
    return random.Random(seed + 1_000_000)


def main() -> None:
    """Run `waypost serve` with these coins."""
    parts = runtime.Parts(coin=coins(int(os.environ.pop(SEED))).random)
    setattr(server, "load", partial(runtime.load, parts=parts))  # noqa: B010 - not exported
    sys.argv[0] = "waypost"
    typer.main.get_command(cli.app)()


if __name__ == "__main__":
    main()
