"""The encoder alone, in a process of its own: what the service is compared with. Run as a `Worker`.

    {"do": "load", "prompts": FILE, "encoder": FOLDER | null}
    {"do": "offline"}     all prompts: sorted, batched, two workers       → wall, cpu (seconds), prompts
    {"do": "single"}      one prompt at a time, tokenise and encode       → p50 (seconds), prompts

`count` limits either to the first so many prompts.
"""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.process import answer, questions
from benchmarks.prompts import read
from index.encoder import OnnxEncoder, encode_texts
from index.text import canonical
from service.settings import EncoderSettings


def main() -> None:
    """Answer until there are no more questions."""
    encoder, prompts = None, [""]
    for question in questions():
        if question["do"] == "load":
            encoder = OnnxEncoder.load(Path(question.get("encoder") or EncoderSettings().path))
            prompts = [canonical(prompt) for prompt in read(Path(question["prompts"]))]
            lengths = [len(tokens) for tokens in encoder.tokenise(prompts)]
            encode_texts(encoder, prompts[:256])
            answer(prompts=len(prompts), mean_tokens=statistics.fmean(lengths))
        elif encoder is not None:
            run = _offline if question["do"] == "offline" else _single
            answer(**run(encoder, prompts[: question.get("count")]))


def _offline(encoder: OnnxEncoder, prompts: Sequence[str]) -> dict[str, Any]:
    before, started = os.times(), time.perf_counter()
    encode_texts(encoder, prompts)
    wall, after = time.perf_counter() - started, os.times()
    return {
        "wall": wall,
        "cpu": after.user + after.system - before.user - before.system,
        "prompts": len(prompts),
    }


def _single(encoder: OnnxEncoder, prompts: Sequence[str]) -> dict[str, Any]:
    seconds = []
    for prompt in prompts:
        started = time.perf_counter()
        encoder.encode(encoder.tokenise([prompt]))
        seconds.append(time.perf_counter() - started)
    return {"p50": statistics.median(seconds), "prompts": len(prompts)}


if __name__ == "__main__":
    main()
