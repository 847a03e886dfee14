"""aurelio's semantic-router with its local index, in this process: no server in front, which is in its favour."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from semantic_router import Route  # type: ignore[import-not-found]
from semantic_router.encoders import DenseEncoder  # type: ignore[import-not-found]
from semantic_router.routers import IndexedRouter  # type: ignore[import-not-found]

from benchmarks.peers.common import serve
from index.encoder import OnnxEncoder, encode_texts

_ROUTES = ("small", "medium", "large")


class _Encoder(DenseEncoder):  # type: ignore[misc]
    """The same encoder, as semantic-router wants it."""

    name: str = "waypost"
    encoder: Any = None

    def __call__(self, docs: list[Any]) -> list[list[float]]:
        if len(docs) > 1:
            return encode_texts(self.encoder, docs).tolist()  # type: ignore[no-any-return]
        return self.encoder.encode(self.encoder.tokenise(docs)).tolist()  # type: ignore[no-any-return]


def prepare(encoder: OnnxEncoder, prompts: Sequence[str]) -> Callable[[str], bool]:
    """Fill a router and return its lookup."""
    rng = random.Random(0)
    utterances: dict[str, list[str]] = {name: [] for name in _ROUTES}
    for prompt in prompts:
        utterances[rng.choice(_ROUTES)].append(prompt)
    routes = [Route(name=name, utterances=known) for name, known in utterances.items()]
    router = IndexedRouter(encoder=_Encoder(encoder=encoder), routes=routes)
    return lambda prompt: router(prompt).name is not None


if __name__ == "__main__":
    serve(prepare)
