"""What the peers' workers share: the encoder as they want it, and callers that take turns at a list of prompts."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.process import answer, questions
from benchmarks.prompts import read
from index.encoder import OnnxEncoder


def serve(prepare: Callable[[OnnxEncoder, Sequence[str]], Callable[[str], bool]]) -> None:
    """Answer a `Worker`: fill the peer once, then look prompts up.

        {"do": "fill", "prompts": FILE, "encoder": FOLDER}
        {"do": "lookup", "prompts": FILE, "callers": N}    → wall, cpu (seconds), lookups, found

    Args:
        prepare: takes the encoder and the prompts to know; returns the lookup, which says whether it found something.
    """
    lookup: Callable[[str], bool] | None = None
    for question in questions():
        prompts = read(Path(question["prompts"]))
        if question["do"] == "fill":
            lookup = prepare(OnnxEncoder.load(Path(question["encoder"])), prompts)
            answer(known=len(prompts))
        elif lookup is not None:
            answer(**_look_up(lookup, prompts, question["callers"]))


def _look_up(lookup: Callable[[str], bool], prompts: Sequence[str], callers: int) -> dict[str, Any]:
    with ThreadPoolExecutor(callers) as pool:
        before, started = os.times(), time.perf_counter()
        found = sum(pool.map(lookup, prompts))
        wall, after = time.perf_counter() - started, os.times()
    cpu = after.user + after.system - before.user - before.system
    return {"wall": wall, "cpu": cpu, "lookups": len(prompts), "found": found}
