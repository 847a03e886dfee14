"""What a router answered on held-out rows, and what the references alone would have said.

Plain arrays, filled by `service.evaluation.local` and `service.evaluation.remote`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.generation import Generation
from index.records import Reference
from service.evaluation.data import Rows
from service.evaluation.metrics import Floats, Ints

# As many rows of the overall mean are added to a category: few references should not speak for all of it.
_PRIOR_ROWS = 1.0
_SHOWN = 200
NEAR = 3


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of the models without looking at the prompt: by its category, learned on the references.

    `quality` and `cost` have shape (rows, models); `majority` is the model that is best over all references.
    """

    quality: Floats
    cost: Floats
    majority: Ints
    categories: int


class Near(NamedTuple):
    """A reference near a prompt: its cosine, the model that is best there, the beginning of its prompt."""

    similarity: float
    best_model: str
    prompt: str

    @classmethod
    def of(cls, similarity: float, reference: Reference) -> "Near":
        """Return what is shown of a reference."""
        best = reference.best_model or max(reference.scores, key=lambda name: reference.scores[name], default="")
        return cls(similarity, best, reference.prompt[:_SHOWN])


@dataclass(frozen=True, eq=False)
class Answered:
    """The router's estimates of shape (rows, models), the model it named (-1: none), and where it fell back.

    `fold` numbers the generation that answered: estimates of different ones are not on one scale. `near` are the
    nearest references of every row, where they were asked for.
    """

    quality: Floats
    cost: Floats
    chosen: Ints
    fallback: NDArray[np.bool_]
    generations: tuple[str, ...]
    fold: Ints
    prior: Prior | None = None
    near: Sequence[tuple[Near, ...]] = ()


def learn_prior(rows: Rows, generation: Generation) -> Prior:
    """Return what a generation's references say about the categories of rows."""
    column = [generation.catalogue.ids.index(model) for model in rows.models]
    quality = generation.scores[:, column].astype(np.float64)
    costs = generation.costs[:, column].astype(np.float64)
    overall = np.nan_to_num(generation.mean_scores[column].astype(np.float64))
    paid = generation.mean_costs[column].astype(np.float64)
    # Where the references name no costs, the catalogue's prices stand for all categories alike.
    paid = np.where(np.isnan(paid), rows.cost.mean(axis=0), paid)
    members: dict[str, list[int]] = {}
    for i, reference in enumerate(generation.references):
        members.setdefault(reference.category, []).append(i)
    members.pop("", None)
    known = {name: (_means(quality[m], overall), _means(costs[m], paid)) for name, m in members.items()}
    wanted = [known.get(reference.category, (overall, paid)) for reference in rows.references]
    best = int(np.lexsort((paid, -overall))[0])
    return Prior(
        np.array([q for q, _ in wanted]).reshape(-1, len(column)),
        np.array([c for _, c in wanted]).reshape(-1, len(column)),
        np.full(len(rows), best),
        len(known),
    )


def _means(values: Floats, overall: Floats) -> Floats:
    """Return the mean of every column over the rows that know it, drawn a little towards the overall one."""
    seen = (~np.isnan(values)).sum(axis=0)
    total = np.nansum(values, axis=0)
    return np.asarray((total + _PRIOR_ROWS * overall) / (seen + _PRIOR_ROWS))


def join(parts: Sequence[Answered], places: Sequence[Ints]) -> Answered:
    """Return the answers of several folds as one.

    Args:
        parts: one for each fold.
        places: where the rows of each stand in the whole; together every place once.
    """
    order = np.concatenate(places).argsort(kind="stable")

    def whole(arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
        return np.asarray(np.concatenate(arrays)[order])

    priors = [part.prior for part in parts if part.prior is not None]
    prior = None
    if len(priors) == len(parts):
        prior = Prior(
            whole([p.quality for p in priors]).astype(np.float64),
            whole([p.cost for p in priors]).astype(np.float64),
            whole([p.majority for p in priors]).astype(np.int64),
            max(p.categories for p in priors),
        )
    return Answered(
        whole([part.quality for part in parts]).astype(np.float64),
        whole([part.cost for part in parts]).astype(np.float64),
        whole([part.chosen for part in parts]).astype(np.int64),
        whole([part.fallback for part in parts]).astype(np.bool_),
        tuple(dict.fromkeys(name for part in parts for name in part.generations)),
        np.repeat(np.arange(len(parts)), [len(part.chosen) for part in parts])[order],
        prior,
        [every[i] for i in order.tolist()] if (every := [near for part in parts for near in part.near]) else (),
    )
