"""One evaluation from files to report: against an index, a running service, or by cross-validation."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.build import build_index
from index.catalogue import Catalogue, load_catalogue
from index.encoder import OnnxEncoder, encode_texts
from index.errors import InputError
from index.generation import Generation, current_generation, load_generation, set_current
from index.records import Reference
from index.references import read_references
from index.text import canonical
from service.evaluation import local, remote
from service.evaluation.answers import Answered, join, learn_prior
from service.evaluation.data import Rows, as_rows, folds, sample
from service.evaluation.figures import Part, Trial, measure
from service.evaluation.report import Report
from service.settings import Settings

RESAMPLES: Final = 1_000
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to evaluate, as the command says it.

    Args:
        references: files or folders of labelled prompts.
        index: whether the index folder of the settings is the router, or beside a service the one it serves.
        service: the running service to ask; None: in this process.
        models: the catalogue; with neither index nor service it means cross-validation.
        folds: of the cross-validation.
        labels: so many rows are references, the rest is asked, in place of folds; None: folds.
        seeds: of the division into folds, and of the bootstrap (the first).
        resamples: of the bootstrap.
    """

    references: Sequence[Path]
    index: bool = False
    service: remote.Service | None = None
    models: Path | None = None
    folds: int = 5
    labels: int | None = None
    seeds: Sequence[int] = (0,)
    resamples: int = RESAMPLES


def run(evaluation: Evaluation, settings: Settings, progress: Progress = lambda _done, _total: None) -> Report:
    """Return the report of one evaluation.

    Args:
        evaluation: what to evaluate.
        settings: how the service routes: encoder, index, neighbours, fallback.
        progress: called with (done, total) prompts.

    Raises:
        InputError: no rows, or rows that do not fit the catalogue.
        GenerationError: no index is there, or it is damaged.
        CallError: the service cannot be reached, or refuses.
    """
    if evaluation.labels is not None and (evaluation.service is not None or evaluation.models is None):
        raise InputError("--labels is for cross-validation: give --models, without --index and --address")
    if evaluation.service is not None:
        return _of_service(evaluation, evaluation.service, settings, progress)
    if evaluation.models is None:
        return _of_index(evaluation, settings, progress)
    if evaluation.index:
        raise InputError(
            "--index has a catalogue of its own, and --models alone means cross-validation: give one of them"
        )
    return _crossed(evaluation, evaluation.models, settings, progress)


def _of_index(evaluation: Evaluation, settings: Settings, progress: Progress) -> Report:
    folder = current_generation(settings.index.path)
    encoder = OnnxEncoder.load(settings.encoder.path)
    generation = load_generation(folder, encoder.digest)
    references = read_references(evaluation.references, generation.catalogue).references
    parts = as_rows(references, generation.catalogue, settings.routing.output_tokens)
    vectors = encode_texts(encoder, local.texts(references), progress=_counted(progress, len(references)))
    answered = [local.answer(rows, vectors[rows.at], generation, settings) for rows in parts]
    return _report(evaluation, "index", references, _single(parts, answered), _known(references, generation))


def _of_service(evaluation: Evaluation, service: remote.Service, settings: Settings, progress: Progress) -> Report:
    generation = load_generation(current_generation(settings.index.path)) if evaluation.index else None
    if evaluation.models is not None:
        catalogue = load_catalogue(evaluation.models)
    else:
        catalogue = generation.catalogue if generation is not None else remote.catalogue(service)
    references = read_references(evaluation.references, catalogue).references
    tokens = settings.routing.output_tokens
    parts, update = as_rows(references, catalogue, tokens), _counted(progress, len(references))
    answered = []
    for rows in parts:
        one = remote.answer(rows, service, tokens, update)
        answered.append(one if generation is None else replace(one, prior=learn_prior(rows, generation)))
    known = _known(references, generation) if generation is not None else None
    return _report(evaluation, "service", references, _single(parts, answered), known)


def _crossed(evaluation: Evaluation, models: Path, settings: Settings, progress: Progress) -> Report:
    catalogue = load_catalogue(models)
    references = read_references(evaluation.references, catalogue).references
    parts = as_rows(references, catalogue, settings.routing.output_tokens)
    encoder = OnnxEncoder.load(settings.encoder.path)
    trials: list[list[Trial]] = [[] for _ in parts]
    with tempfile.TemporaryDirectory(prefix="waypost-evaluate-") as folder:
        root = Path(folder)
        # Every prompt is embedded here, once: each fold's build keeps what this one knows.
        whole = build_index(references, catalogue, encoder, root, progress).generation
        vectors = np.load(root / whole / "vectors.npy")
        for seed in evaluation.seeds:
            answered: list[list[tuple[Rows, Answered]]] = [[] for _ in parts]
            for held_out in _divided(evaluation, references, seed):
                set_current(root, whole)
                generation = _built(references, held_out, catalogue, encoder, root)
                for i, rows in enumerate(part.take(held_out) for part in parts):
                    if len(rows):
                        answer = local.answer(rows, vectors[rows.at], generation, settings)
                        answered[i].append((rows, answer))
            for part, found, kept in zip(parts, answered, trials, strict=True):
                kept.extend(_joined(part, found))
    kinds = [kept for kept in trials if kept]
    return _report(evaluation, "cross-validation", references, kinds, None)


def _divided(evaluation: Evaluation, references: Sequence[Reference], seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yield which rows are held out, one division after the other."""
    if evaluation.labels is not None:
        yield sample(references, evaluation.labels, seed)
    else:
        yield from folds(references, evaluation.folds, seed)


def _built(
    references: Sequence[Reference],
    held_out: NDArray[np.bool_],
    catalogue: Catalogue,
    encoder: OnnxEncoder,
    root: Path,
) -> Generation:
    """Return the generation of the rows that are not held out."""
    known = [reference for reference, out in zip(references, held_out, strict=True) if not out]
    return load_generation(root / build_index(known, catalogue, encoder, root).generation, encoder.digest)


def _joined(part: Rows, found: Sequence[tuple[Rows, Answered]]) -> Iterator[Trial]:
    """Yield one seed's answers of all folds as one trial, if there are any."""
    if found:
        wanted = np.zeros(int(part.at.max()) + 1, np.bool_)
        for rows, _ in found:
            wanted[rows.at] = True
        answered = join([answered for _, answered in found], [rows.at for rows, _ in found])
        yield Trial(part.take(wanted), answered, np.flatnonzero(wanted[part.at]))


def _single(parts: Sequence[Rows], answered: Sequence[Answered]) -> list[list[Trial]]:
    return [[Trial(rows, one, np.arange(len(rows)))] for rows, one in zip(parts, answered, strict=True)]


def _known(references: Sequence[Reference], generation: Generation) -> int:
    """Return how many held-out prompts are references as well."""
    texts = {canonical(reference.prompt) for reference in generation.references}
    return sum(canonical(reference.prompt) in texts for reference in references)


def _counted(progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def finished(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return finished


def _report(
    evaluation: Evaluation,
    asked: str,
    references: Sequence[Reference],
    kinds: Sequence[Sequence[Trial]],
    known: int | None,
) -> Report:
    parts: list[Part] = [measure(trials, evaluation.seeds[0], evaluation.resamples) for trials in kinds]
    generations = dict.fromkeys(name for trials in kinds for t in trials for name in t.answered.generations)
    crossed = asked == "cross-validation"
    return Report(
        asked=asked,
        address=evaluation.service.address if evaluation.service is not None else "",
        rows=len(references),
        seeds=tuple(evaluation.seeds) if crossed else tuple(evaluation.seeds[:1]),
        folds=evaluation.folds if crossed and evaluation.labels is None else None,
        labels=evaluation.labels if crossed else None,
        generations=tuple(generations),
        known=known,
        resamples=evaluation.resamples,
        parts=tuple(parts),
        holes=tuple(dict.fromkeys(t.rows.holes for trials in kinds for t in trials if t.rows.holes)),
    )
