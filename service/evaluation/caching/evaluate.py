"""One evaluation of the cache, from a log to the report: plays it for every budget, and simpler caches play it too."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Literal

from index.catalogue import Catalogue, load_catalogue
from index.encoder import OnnxEncoder, encode_texts
from index.errors import InputError
from index.generation import current_generation, load_generation
from index.records import Model
from index.remembering import RememberingEncoder
from service.decide import normalise
from service.evaluation.caching.figures import Prices, figures
from service.evaluation.caching.fixed import THRESHOLDS, Calls, Nearest, every_threshold, exact_only
from service.evaluation.caching.log import Log, read_log
from service.evaluation.caching.player import Play, Stage, play
from service.evaluation.caching.report import Report
from service.evaluation.caching.truth import Truth
from service.requests import tokens_of
from service.settings import Settings
from service.spending import baseline_of

BUDGETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05)
_ANY: Final = Model("any", 0.0, 0.0, 1 << 20)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to evaluate, as the command says it.

    Args:
        log: files of calls.
        index: whether the index folder of the settings is the service's: its models, policy and categories.
        models: a catalogue for prices, in its place.
        budgets: of the curve, each above 0 and below 1.
        columns: for a role the column it is in.
        shuffle: play the calls in a random order: for labelled sets that are no log.
        seed: of that order, and of what is audited.
        limit: read no more than so many rows.
        on_error: whether a wrong row ends in an error or is left out.
    """

    log: Sequence[Path]
    index: bool = False
    models: Path | None = None
    budgets: Sequence[float] = BUDGETS
    columns: Mapping[str, str] = field(default_factory=dict)
    shuffle: bool = False
    seed: int = 0
    limit: int | None = None
    on_error: Literal["fail", "skip"] = "fail"


Progress = Callable[[int, int, str], None]


def run(evaluation: Evaluation, settings: Settings, progress: Progress = lambda *_: None) -> Report:
    """Return the report of one evaluation.

    Args:
        evaluation: what to evaluate.
        settings: how the service caches.
        progress: called with (done, total, what), total 0 where it is not known.

    Raises:
        InputError: the log or an option is wrong.
        GenerationError: the index is not there, or damaged.
        SettingsError: the settings do not fit.
    """
    _check(evaluation, settings)
    log = _read(evaluation, progress)
    catalogue, fallback = _catalogue(evaluation, settings)
    encoder = RememberingEncoder(OnnxEncoder.load(settings.encoder.path))
    n, texts = len(log.rows), [normalise(row.request).text for row in log.rows]
    vectors = encode_texts(encoder, texts, progress=_counted(progress, n, "embedding prompts"))
    truth = Truth(log, encoder, _counted(progress, 0 if log.labelled else n, "embedding answers"))
    index = settings.index.path if evaluation.index else None
    stage = Stage(log, truth, settings, encoder, catalogue, fallback, index, evaluation.seed)
    played, by_budget = asyncio.run(_plays(stage, evaluation.budgets, progress))
    calls = _calls(stage)
    nearest = Nearest(vectors, calls.places, _counted(progress, n, "looking for neighbours"))
    tried = every_threshold(calls, nearest, _counted(progress, len(THRESHOLDS), "trying fixed thresholds"))
    prices = _prices(stage, settings)
    found = figures(stage, played, by_budget, calls, exact_only(calls), tried, prices)
    return Report(
        files=tuple(map(str, evaluation.log)),
        rows=n,
        truth="labels" if log.labelled else "answers",
        learned_from="labels" if not log.answered else "answers",
        timed=log.timed,
        shuffled=evaluation.shuffle,
        seed=evaluation.seed,
        scopes=len({row.request.scope for row in log.rows}),
        budget=settings.cache.error_budget,
        prices=prices.source,
        unused=log.unused,
        skipped=tuple(map(str, log.skipped)),
        figures=found,
    )


def _check(evaluation: Evaluation, settings: Settings) -> None:
    if not settings.cache.enabled:
        raise InputError("cache.enabled: the cache is switched off in these settings: there is nothing to evaluate")
    if evaluation.index and evaluation.models is not None:
        raise InputError("--index has a catalogue of its own: leave out --models")
    for budget in evaluation.budgets:
        if not 0 < budget < 1:
            raise InputError(f"--budget: {budget:g} must be above 0 and below 1, for example 0.01 for 1 in 100")


def _read(evaluation: Evaluation, progress: Progress) -> Log:
    log = read_log(
        evaluation.log,
        columns=evaluation.columns,
        limit=evaluation.limit,
        on_error=evaluation.on_error,
        progress=lambda rows: progress(rows, 0, "reading"),
    )
    if evaluation.shuffle:
        if log.timed:
            raise InputError("--shuffle: the rows have times, which say in what order they came; leave it out")
        Random(evaluation.seed).shuffle(log.rows)  # noqa: S311 - an order, no secret
    return log


def _catalogue(evaluation: Evaluation, settings: Settings) -> tuple[Catalogue, str]:
    """Return models and prices, and the model whose prices count where the log names none; of no prices, one of 0."""
    if evaluation.index:
        generation = load_generation(current_generation(settings.index.path))
        return generation.catalogue, baseline_of(generation, settings.stats.baseline)
    if evaluation.models is None:
        return Catalogue(
            (_ANY,),
            text='[[models]]\nid = "any"\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = 0\n'
            f"context_window = {_ANY.context_window}\n",
        ), _ANY.id
    catalogue = load_catalogue(evaluation.models)
    if settings.stats.baseline:
        return catalogue, catalogue.get(settings.stats.baseline).id
    cheapest = min(catalogue.models, key=lambda model: model.cost_usd(1.0, 1.0))
    return catalogue, catalogue.fallback or cheapest.id


async def _plays(stage: Stage, budgets: Sequence[float], progress: Progress) -> tuple[Play, dict[float, Play]]:
    """Return the play with the settings' own budget, and one with each other."""
    own, n = stage.settings.cache.error_budget, len(stage.log.rows)
    plays = 1 + len(set(budgets))
    played = await play(stage, None, _counted(progress, n, f"playing 1 of {plays}"))
    found = {}
    for number, budget in enumerate(sorted(set(budgets)), 2):
        what = f"playing {number} of {plays}, budget {budget:g}"
        if budget == own and not stage.settings.cache.scopes:
            found[budget] = played
            progress(n, n, what)
        else:
            found[budget] = await play(stage, budget, _counted(progress, n, what))
    return played, found


def _calls(stage: Stage) -> Calls:
    """Return the calls as simpler caches see them, with the lifetimes of the settings."""
    places: dict[tuple[str, bytes], int] = {}
    of, keys, lapses = [], [], []
    for row in stage.log.rows:
        prompt, scope = normalise(row.request), row.request.scope
        of.append(places.setdefault((scope, prompt.context), len(places)))
        keys.append(prompt.key)
        ttl = stage.settings.cache.of(scope).ttl_s
        lapses.append((row.at or 0.0) + ttl if ttl else 0.0)
    if not stage.log.timed:
        return Calls(keys, of, stage.truth.same)
    return Calls(keys, of, stage.truth.same, [row.at or 0.0 for row in stage.log.rows], lapses)


def _prices(stage: Stage, settings: Settings) -> Prices:
    """Return what each call costs and takes: as the log says, else by the catalogue."""
    usd: list[float | None] = []
    seconds: list[float | None] = []
    known = stage.catalogue.models != (_ANY,)
    for row in stage.log.rows:
        model = stage.catalogue.get(stage.catalogue.resolve(row.model) or stage.fallback)
        tokens = tokens_of(len(row.answer)) if row.answer else settings.routing.output_tokens
        listed = model.cost_usd(normalise(row.request).input_tokens, tokens) if known else None
        usd.append(listed if row.cost is None else row.cost)
        seconds.append(row.seconds if row.seconds is not None else model.latency_s(tokens) if known else None)
    logged = sum(row.cost is not None for row in stage.log.rows)
    answer = "the logged answer" if stage.log.answered else f"{settings.routing.output_tokens} tokens of answer"
    listed_from = f"the catalogue's price of the row's model or else {stage.fallback}, for {answer}"
    if logged == len(usd) or not known:
        return Prices(usd, seconds, "the log's own costs" if logged else "not known: give a column cost, or --models")
    return Prices(usd, seconds, f"the log's own costs ({logged:,} rows), else {listed_from}" if logged else listed_from)


def _counted(progress: Progress, total: int, what: str) -> Callable[[int], None]:
    done = 0

    def finished(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total, what)

    return finished
