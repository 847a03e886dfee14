"""GPTCache as its documentation sets it up: SQLite for the texts, FAISS for the vectors, in this process.

Without a server in front, and with the nearest answer taken as it comes: both in its favour.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gptcache import Cache  # type: ignore[import-not-found]
from gptcache.adapter.api import get  # type: ignore[import-not-found]
from gptcache.manager import CacheBase, VectorBase, get_data_manager  # type: ignore[import-not-found]
from gptcache.processor.post import first  # type: ignore[import-not-found]
from gptcache.processor.pre import get_prompt  # type: ignore[import-not-found]
from gptcache.similarity_evaluation.distance import SearchDistanceEvaluation  # type: ignore[import-not-found]

from benchmarks.peers.common import serve
from benchmarks.rows.text import ANSWER
from index.encoder import OnnxEncoder, encode_texts


def prepare(encoder: OnnxEncoder, prompts: Sequence[str]) -> Callable[[str], bool]:
    """Fill a cache and return its lookup."""
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="waypost-gptcache-"))

    def embed(text: str, **_: object) -> object:
        return encoder.encode(encoder.tokenise([text]))[0]

    manager = get_data_manager(
        CacheBase("sqlite", sql_url=f"sqlite:///{folder / 'texts.db'}"),
        VectorBase("faiss", dimension=encoder.dimensions, index_path=str(folder / "faiss.index")),
        max_size=2 * len(prompts),
    )
    cache = Cache()
    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=embed,
        data_manager=manager,
        similarity_evaluation=SearchDistanceEvaluation(),
        post_process_messages_func=first,
    )
    manager.import_data(
        questions=list(prompts),
        answers=[ANSWER] * len(prompts),
        embedding_datas=list(encode_texts(encoder, prompts)),
        session_ids=[None] * len(prompts),
    )
    return lambda prompt: get(prompt, cache_obj=cache) is not None


if __name__ == "__main__":
    serve(prepare)
