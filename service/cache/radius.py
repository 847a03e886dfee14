"""Which answers lie within a cosine of a text: what an operator removes by radius.

What is searched for hits has its vector in the view. Answers that are only hit exactly have none there, and may be as
wrong as the others: their prompts are embedded when somebody asks. Called by `Cache.Invalidate`.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import numpy as np

from index.text import canonical
from index.vectors import ROUNDING, Vectors
from index.view import Entry
from service.answers import Answers
from service.batcher import Batcher
from service.lookup import NO_SEARCH, Ask, Found

# Prompts that are read and embedded at once: one radius may not take all of the encoder's queue from everyone else.
_AT_ONCE: Final = 64


async def within(
    scope: str,
    radius: tuple[str, float],
    meant: Callable[[Entry], bool],
    answers: Answers,
    batcher: Batcher[Ask, Found],
) -> frozenset[str]:
    """Return the ids of a scope's entries whose prompt is within a radius.

    Args:
        scope: no other is looked at.
        radius: a text, and the least cosine to it, -1 to 1.
        meant: whether an entry meets all other conditions; only such are embedded.
        answers: what there is.
        batcher: embeds.
    """
    text, least = radius
    view = answers.view

    async def embedded(prompt: str) -> Vectors:
        return (await batcher.submit(canonical(prompt), NO_SEARCH)).vector

    middle = await embedded(text)
    found: set[str] = set()
    apart = [entry for entry in view.entries(scope) if view.entry_at(scope, entry.row) is None and meant(entry)]
    for first in range(0, len(apart), _AT_ONCE):
        prompts = answers.prompts(scope, [entry.id for entry in apart[first : first + _AT_ONCE]])
        vectors = await asyncio.gather(*map(embedded, prompts.values()))
        near = [float(np.dot(vector, middle)) >= least - ROUNDING for vector in vectors]
        found |= {entry_id for entry_id, is_near in zip(prompts, near, strict=True) if is_near}
    return view.near(scope, middle, least) | found
