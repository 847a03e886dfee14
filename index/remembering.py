"""An encoder that computes each text's vector once. For playing the same prompts again and again; it never forgets."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.encoder import Encoder, Tokens


class RememberingEncoder:
    """Another encoder, with a memory of every vector it gave.

    Args:
        encoder: computes what is not known yet.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._vectors: dict[tuple[int, ...], NDArray[np.float32]] = {}

    @property
    def digest(self) -> str:
        """As the other's."""
        return self._encoder.digest

    @property
    def dimensions(self) -> int:
        """As the other's."""
        return self._encoder.dimensions

    @property
    def max_tokens(self) -> int:
        """As the other's."""
        return self._encoder.max_tokens

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Turn texts into token ids, as the other encoder does."""
        return self._encoder.tokenise(texts)

    def encode(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """Return the vectors of a batch; only those never asked for before are computed."""
        keys = [tuple(tokens.ids) for tokens in batch]
        if new := {key: tokens for key, tokens in zip(keys, batch, strict=True) if key not in self._vectors}:
            self._vectors.update(zip(new, self._encoder.encode(list(new.values())), strict=True))
        return np.stack([self._vectors[key] for key in keys])
