"""What the strong models gain on the references, estimated for each without its own label.

Where the threshold of a strong share begins. Runs when a policy gets ready for a generation, on a thread.
"""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from index.estimator import NEIGHBOURS, Neighbours
from index.generation import Generation
from index.text import canonical
from service.requests import Estimate

_SAMPLE: Final = 400


def gain(estimates: Sequence[Estimate], strong: Collection[str]) -> float:
    """Return the quality of the best strong model less that of the best other one; 0 where one side is empty."""
    best = max((e.quality for e in estimates if e.model in strong), default=None)
    other = max((e.quality for e in estimates if e.model not in strong), default=None)
    return best - other if best is not None and other is not None else 0.0


def reference_gains(generation: Generation, strong: Collection[str]) -> list[float]:
    """Return the gain for a sample of the references."""
    if len(generation.references) <= 1:
        return []
    own, vectors = generation.partition.some(_SAMPLE)
    k = min(NEIGHBOURS + 1, len(generation.references))
    similarities, rows = generation.partition.search(vectors, k)
    others = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, : k - 1]
    rows, similarities = np.take_along_axis(rows, others, axis=1), np.take_along_axis(similarities, others, axis=1)
    texts = [canonical(generation.references[row].prompt) for row in own.tolist()]
    near = Neighbours.gather(rows, similarities, generation.experience)
    quality = generation.estimator.predict(vectors, texts, near).quality
    is_strong = np.array([model in strong for model in generation.catalogue.ids])
    gains: list[float] = (quality[:, is_strong].max(axis=1) - quality[:, ~is_strong].max(axis=1)).tolist()
    return gains
