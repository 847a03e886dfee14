"""The labelled prompts as arrays, and how they are divided into references and held-out rows.

A prompt that occurs twice is always on one side: what is known must not be asked. Called by `evaluate`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.catalogue import Catalogue
from index.errors import InputError
from index.generation import score_matrix
from index.records import Model, Reference
from index.text import canonical
from service.decide import normalise
from service.evaluation.metrics import Floats, Ints
from service.requests import NO_ROUTE_OPTIONS, CacheMode, CacheOptions, Request

LEAST_ROWS: Final = 2
_BYPASS = CacheOptions(mode=CacheMode.BYPASS)


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled prompts of one kind, with what every model would have been worth.

    `quality` and `cost` (USD) have shape (rows, models); for best-model labels quality is 1 for the label and 0 for
    the others. `at` says where the rows stand among all that were read, `holes` what was left out for want of
    scores, "" where nothing was.
    """

    kind: str  # "scores" or "labels"
    references: Sequence[Reference]
    at: Ints
    models: tuple[str, ...]
    quality: Floats
    cost: Floats
    restricted: bool  # the catalogue has more models than these
    holes: str = ""

    def __len__(self) -> int:
        return len(self.references)

    def take(self, wanted: NDArray[np.bool_]) -> "Rows":
        """Return the rows whose place is wanted; `wanted` has an entry for every row that was read."""
        here = np.flatnonzero(wanted[self.at])
        return replace(
            self,
            references=[self.references[i] for i in here.tolist()],
            at=self.at[here],
            quality=self.quality[here],
            cost=self.cost[here],
        )


def as_rows(references: Sequence[Reference], catalogue: Catalogue, output_tokens: int) -> list[Rows]:
    """Return the references as arrays: one `Rows` for those with scores, one for those with a best model.

    Args:
        references: their models are in the catalogue.
        catalogue: the models, whose prices stand in for costs that are not known.
        output_tokens: expected length of an answer, for the price.

    Raises:
        InputError: there are no rows, or scores that cannot be compared.
    """
    if not references:
        raise InputError("no rows: at least one labelled prompt is needed to evaluate on")
    scored = [i for i, reference in enumerate(references) if reference.scores]
    labelled = [i for i, reference in enumerate(references) if not reference.scores]
    found = []
    for kind, at in (("scores", scored), ("labels", labelled)):
        if at:
            chosen = [references[i] for i in at]
            quality = score_matrix(chosen, catalogue).astype(np.float64)
            known = ~np.isnan(quality)
            row, column = _without_holes(known)
            chosen, models = [chosen[i] for i in row.tolist()], [catalogue.models[i] for i in column.tolist()]
            cost = _costs(chosen, models, output_tokens)
            ids = tuple(model.id for model in models)
            restricted = len(models) < len(catalogue.models)
            holes = _left_out(known, len(row), column, catalogue.ids)
            quality = quality[np.ix_(row, column)]
            found.append(Rows(kind, chosen, np.array(at)[row], ids, quality, cost, restricted, holes))
    return found


def _without_holes(known: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return rows and models between which every score is known.

    Of the models that most rows score, so many are taken that most scores can be compared.

    Args:
        known: which scores are, of shape (rows, models).

    Raises:
        InputError: no row scores the two models that most rows score.
    """
    order = np.argsort(-known.sum(axis=0), kind="stable")
    count = np.arange(len(order)) + 1
    whole = np.logical_and.accumulate(known[:, order], axis=1).sum(axis=0)  # rows that score the first so many
    scores = np.where(count < LEAST_ROWS, 0, whole * count)
    if known.any(axis=0).sum() < LEAST_ROWS:
        raise InputError("only one model is scored or labelled: at least 2 are needed to compare")
    if not scores.max(initial=0):
        raise InputError(
            f"of the {len(known)} rows with scores none has those of two models that most rows score: to be compared, "
            "models must have answered the same prompts"
        )
    best = len(order) - int(np.argmax(scores[::-1]))
    column = np.sort(order[:best])
    return np.flatnonzero(known[:, column].all(axis=1)), column


def _left_out(known: NDArray[np.bool_], rows: int, column: Ints, models: Sequence[str]) -> str:
    """Return in words what is left out for want of scores."""
    said = []
    if lacking := len(known) - rows:
        said.append(f"{lacking:,} of {len(known):,} rows with scores, which lack one of a compared model")
    if others := [models[i] for i in np.flatnonzero(known.any(axis=0)).tolist() if i not in column]:
        said.append(f"{', '.join(others)}, scored in too few of the rows")
    return "; ".join(said)


def to_request(reference: Reference, rows: Rows, output_tokens: int, scope: str) -> Request:
    """Return the request that asks what a reference knows, in the domain's words."""
    allow = frozenset(rows.models) if rows.restricted else frozenset[str]()
    return Request(
        scope=scope,
        text=reference.prompt,
        history=reference.messages[:-1],
        cache=_BYPASS,
        route=replace(NO_ROUTE_OPTIONS, allow=allow, output_tokens=output_tokens),
        explain=True,
    )


def _costs(references: Sequence[Reference], models: Sequence[Model], output_tokens: int) -> Floats:
    """Return USD of shape (rows, models): as the rows say, else by the catalogue's prices."""
    costs = np.empty((len(references), len(models)))
    for row, reference in enumerate(references):
        prompt = normalise(Request("", reference.prompt, reference.messages[:-1]))
        for column, model in enumerate(models):
            known = reference.costs.get(model.id)
            listed = model.cost_usd(prompt.input_tokens, output_tokens)
            costs[row, column] = listed if known is None else known
    return costs


def folds(references: Sequence[Reference], count: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yield, for every fold, which rows are held out: every row in exactly one.

    Categories, or else labels, are dealt out evenly; rows of one canonical prompt go together.

    Args:
        references: all rows.
        count: how many folds, at least 2.
        seed: of the shuffling.

    Raises:
        InputError: there are fewer distinct prompts than folds.
    """
    groups = _groups(references, seed)
    if not LEAST_ROWS <= count <= len(groups):
        raise InputError(f"{count} folds: from 2 to {len(groups)}, the number of distinct prompts, are possible")
    for fold in range(count):
        held_out = np.zeros(len(references), np.bool_)
        for group in groups[fold::count]:
            held_out[group] = True
        yield held_out


def sample(references: Sequence[Reference], count: int, seed: int) -> NDArray[np.bool_]:
    """Return which rows are held out when about `count` rows, evenly over categories, or else labels, are references.

    Args:
        references: all rows.
        count: about how many are known: a prompt that occurs twice is known as a whole.
        seed: of the choice.

    Raises:
        InputError: nothing would be known, or nothing held out.
    """
    groups = _groups(references, seed)
    if not 0 < count < len(references) or len(groups) < LEAST_ROWS:
        raise InputError(f"{count} labels: from 1 to {len(references) - 1}, one less than there are rows, are possible")
    # Systematic sampling: every n-th of the sorted groups, from a random start.
    wanted = max(1, round(count * len(groups) / len(references)))
    picks = (np.random.default_rng(seed).random() + np.arange(wanted)) * len(groups) / wanted
    held_out = np.ones(len(references), np.bool_)
    for i in picks.astype(np.int64).tolist():
        held_out[groups[i]] = False
    if not held_out.any():
        raise InputError(f"{count} labels: nothing would be left to ask")
    return held_out


def _groups(references: Sequence[Reference], seed: int) -> list[list[int]]:
    """Return rows by canonical prompt, those of one stratum next to each other, else shuffled."""
    by_text: dict[str, list[int]] = defaultdict(list)
    for row, reference in enumerate(references):
        by_text[canonical(reference.prompt)].append(row)
    groups = list(by_text.values())
    np.random.default_rng(seed).shuffle(groups)
    return sorted(groups, key=lambda rows: _stratum(references[rows[0]]))


def _stratum(reference: Reference) -> str:
    """Return what rows are dealt out evenly by: the category, or without one the models that are best.

    Never both: if every category's share of labels were the same on both sides, the references would know what is
    asked better than a sample can (on MMLU it lifts the category prior's APGR from .64 to .70).
    """
    if reference.category or reference.best_model:
        return reference.category or reference.best_model
    top = max(reference.scores.values())
    return " ".join(sorted(model for model, score in reference.scores.items() if score == top))
