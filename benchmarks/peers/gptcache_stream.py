"""GPTCache fed a stream: it is asked, and told the right answer after every miss. For `benchmarks.budget.rivals`.

As its documentation sets it up: SQLite, FAISS, its evaluation of distances and its default threshold, with room for the
whole stream and without its log of hits, which costs a transaction each and changes no answer. It is given the vectors
of the same encoder.

    {"do": "play", "stream": FILE, "vectors": FILE}    → given: an answer or null for each

of a file with `prompts` and `answers` in JSON, and one with the prompts' vectors as numpy saves them.
"""

import atexit
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from gptcache import Cache, Config  # type: ignore[import-not-found]
from gptcache.adapter.api import get, put  # type: ignore[import-not-found]
from gptcache.manager import CacheBase, VectorBase, get_data_manager  # type: ignore[import-not-found]
from gptcache.processor.pre import get_prompt  # type: ignore[import-not-found]
from gptcache.similarity_evaluation.distance import SearchDistanceEvaluation  # type: ignore[import-not-found]

from benchmarks.process import answer, questions

# It waits for the disk after every answer it stores, for minutes in a stream, unless the disk is none.
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a fresh folder is made in it


def play(prompts: Sequence[str], answers: Sequence[str], vectors: Any) -> list[str | None]:
    """Return what an empty cache answers to each prompt in turn, None where it asks a model.

    Args:
        prompts: in the order they come.
        answers: what the model says to each.
        vectors: of the prompts, one row each.
    """
    folder = Path(tempfile.mkdtemp(prefix="waypost-gptcache-", dir=_MEMORY if _MEMORY.is_dir() else None))
    atexit.register(shutil.rmtree, folder)  # after the cache has closed itself, which it does then
    known = dict(zip(prompts, vectors, strict=True))
    cache = Cache()
    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=lambda text, **_: known[text],
        data_manager=get_data_manager(
            CacheBase("sqlite", sql_url=f"sqlite:///{folder / 'texts.db'}"),
            VectorBase("faiss", dimension=vectors.shape[1], index_path=str(folder / "faiss.index")),
            max_size=2 * len(prompts),
        ),
        similarity_evaluation=SearchDistanceEvaluation(),
        config=Config(disable_report=True),
    )
    given: list[str | None] = []
    for prompt, right in zip(prompts, answers, strict=True):
        given.append(get(prompt, cache_obj=cache))
        if given[-1] is None:
            put(prompt, right, cache_obj=cache)
    return given


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    for question in questions():
        stream = json.loads(Path(question["stream"]).read_text("utf-8"))
        answer(given=play(stream["prompts"], stream["answers"], np.load(question["vectors"])))
