"""`waypost refit`: a period's reports of quality, folded into a new generation, which must prove itself first.

Reads the journal and the current generation. Labelled references always win over reports; of reports, no source and no
region of prompts has more than its share. Part of the labels and part of the reports are kept out, and two generations
are built of the rest, without and with reports: only where the second is not worse on what was kept out is a generation
of everything built and promoted. Called by the command; works in a temporary folder until then.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from index.build import build_index
from index.encoder import OnnxEncoder, encode_texts
from index.errors import InputError
from index.generation import Generation, current_generation, load_generation, set_current
from index.records import Message, Reference
from index.sqlite_journal import DecisionRow, ReportRow, SqliteJournal
from index.text import canonical
from service.evaluation import local
from service.evaluation.data import LEAST_ROWS, Rows, as_rows, sample
from service.evaluation.metrics import Floats, utility_choices
from service.learning.heads import bounded, region_of
from service.learning.journal import restored
from service.settings import Settings

SOURCE: Final = "report"
_MOST: Final = 200_000
# Fewer rows kept out than this prove nothing.
_LEAST: Final = 20
# Worse is: on average by more than this, or clearly (95 %) and by any amount.
_SLACK: Final = 0.002
_RESAMPLES: Final = 1_000
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Rated:
    """One answer that was rated: the last word of one source on one model's answer."""

    reference: Reference
    model: str
    quality: float
    cost_usd: float | None
    source: str
    vector: bytes


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows kept out, and what reports change on them: positive is better, with its 95 % interval.

    Of labels it is mean utility over a range of willingness to pay; of reports the squared error of the quality that
    was expected, before less after. `moved` is the share whose first model is another one.
    """

    name: str
    rows: int
    change: float
    low: float
    high: float
    moved: float

    @property
    def worse(self) -> bool:
        """Whether reports make it worse."""
        return self.change < -_SLACK or (self.high < 0 and self.rows >= _LEAST)


@dataclass(slots=True)
class Refitted:
    """What a refit found and did; `promoted` is the new generation's id, or "" for the reason `why`."""

    before: str
    labelled: int = 0
    rated: int = 0
    without_prompt: int = 0
    unknown_models: int = 0
    left_out: int = 0
    prompts: int = 0
    merged: int = 0
    by_model: dict[str, int] = field(default_factory=dict)
    panels: list[Panel] = field(default_factory=list)
    promoted: str = ""
    why: str = ""

    @property
    def acceptable(self) -> bool:
        """Whether what was kept out speaks for the reports, or at least not against them."""
        return any(panel.rows >= _LEAST for panel in self.panels) and not any(panel.worse for panel in self.panels)


def refit(
    settings: Settings,
    since: float,
    *,
    scope: str | None = None,
    held_out: float = 0.25,
    seed: int = 0,
    dry_run: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> Refitted:
    """Fold reports into a new generation and promote it, unless it is worse.

    Args:
        settings: where index, journal and encoder are.
        since: only reports this recent, in seconds since the epoch.
        scope: only of this scope; "": of all; None: of the only one there is. A generation serves all scopes, and
            explanations show its prompts to all of them.
        held_out: share of labels and reports that is kept out to judge by.
        seed: of what is kept out.
        dry_run: say what would change, and change nothing.
        progress: called with (done, to do) prompts while embedding.

    Raises:
        InputError: there is nothing to fold in.
        GenerationError: no index is there, or it is damaged.
        StoreError: no journal is there.
    """
    root = settings.index.path
    folder = current_generation(root)
    encoder = OnnxEncoder.load(settings.encoder.path)
    generation = load_generation(folder, encoder.digest)
    found = Refitted(generation.id, len(generation.references))
    rated = _read(settings.store.journal, since, scope, generation, encoder.digest, found)
    labels = [r for r in generation.references if r.source != SOURCE]
    with tempfile.TemporaryDirectory(prefix="waypost-refit-") as temporary:
        trial = Path(temporary)
        (trial / generation.id).symlink_to(folder.absolute(), target_is_directory=True)
        set_current(trial, generation.id)  # what it has embedded need not be embedded again

        def built(references: Sequence[Reference]) -> Generation:
            built_id = build_index(references, generation.catalogue, encoder, trial, progress).generation
            return load_generation(trial / built_id, encoder.digest)

        everything = folded(list(generation.references), rated, found)
        found.prompts = sum(r.source == SOURCE for r in everything)
        built(everything)
        _judge(found, labels, rated, built, encoder, settings, held_out, seed)
    if not found.acceptable:
        few = all(panel.rows < _LEAST for panel in found.panels)
        found.why = f"fewer than {_LEAST} rows could be kept out to judge by" if few else "it is worse on rows kept out"
    elif dry_run:
        found.why = "dry run"
    else:
        found.promoted = build_index(
            everything, generation.catalogue, encoder, root, progress, acceptor=generation.acceptor
        ).generation
    return found


def folded(references: Sequence[Reference], rated: Sequence[Rated], found: Refitted | None = None) -> list[Reference]:
    """Return references with reports folded in: for prompts nobody labelled, and for models that a label leaves out."""
    merged = {canonical(reference.prompt): reference for reference in references}
    by_prompt: dict[str, list[Rated]] = {}
    for one in rated:
        by_prompt.setdefault(canonical(one.reference.prompt), []).append(one)
    known: dict[str, Reference] = {}
    for text, its in by_prompt.items():
        models = {one.model for one in its}
        scores = {m: float(np.mean([one.quality for one in its if one.model == m])) for m in sorted(models)}
        paid = {m: [one.cost_usd for one in its if one.model == m and one.cost_usd is not None] for m in scores}
        costs = {m: float(np.mean(values)) for m, values in paid.items() if values}
        old = merged.get(text)
        if old is None:
            known[text] = replace(its[0].reference, scores=scores, costs=costs)
        elif old.source == SOURCE:
            known[text] = replace(old, scores={**old.scores, **scores}, costs={**old.costs, **costs})
        elif old.scores and models - old.scores.keys():
            known[text] = replace(old, scores={**scores, **old.scores}, costs={**costs, **old.costs})
            if found is not None:
                found.merged += 1
    kept = [known.pop(canonical(reference.prompt), reference) for reference in references]
    return [*kept, *known.values()]


def _read(
    path: Path, since: float, scope: str | None, generation: Generation, digest: str, found: Refitted
) -> list[Rated]:
    """Return the reports that may be folded in, and count why others may not."""
    journal = SqliteJournal(path, reads_only=True)
    try:
        rows = journal.rated(since, _MOST, scope or "")
    finally:
        journal.close()
    found.rated = len(rows)
    scopes = sorted({decision.scope for decision, _ in rows})
    if scope is None and len(scopes) > 1:
        raise InputError(
            f"{path}: there are reports of {len(scopes)} scopes ({', '.join(scopes[:5])}), and explanations show the "
            "prompts of references to all of them: give --scope NAME, or --every-scope"
        )
    rated = []
    for decision, report in rows:
        if decision.prompt is None or decision.encoder != digest or not decision.vector:
            found.without_prompt += 1
        elif report.model not in generation.catalogue:
            found.unknown_models += 1
        else:
            rated.append(_rated(decision, report, generation))
    kept = _bounded(rated)
    found.left_out = len(rated) - len(kept)
    if not kept:
        raise InputError(
            f"{path}: of {found.rated} reports of quality, {found.without_prompt} were recorded without their prompt "
            f"and {found.unknown_models} are on models the catalogue does not have: nothing can be folded in. "
            "Report `quality`, with journal.prompts set"
        )
    for one in kept:
        found.by_model[one.model] = found.by_model.get(one.model, 0) + 1
    return kept


def _rated(decision: DecisionRow, report: ReportRow, generation: Generation) -> Rated:
    request, model = restored(decision).request, generation.catalogue.get(report.model).id
    turns = (*request.history, Message(request.role, request.text)) if request.history else ()
    name = f"report-{decision.key[:12].hex()}"
    reference = Reference(name, request.text, scores={model: 0.0}, messages=turns, source=SOURCE)
    return Rated(reference, model, report.quality or 0.0, report.cost_usd, report.source, decision.vector)


def _bounded(rated: Sequence[Rated]) -> list[Rated]:
    """Return the latest reports, so many that no source and no region of prompts has more than its share."""
    if not rated:
        return []
    vectors = np.frombuffer(b"".join(one.vector for one in rated), "<f4").reshape(len(rated), -1)
    sources, regions = [one.source for one in rated], region_of(vectors).tolist()
    weights = bounded(np.ones(len(rated)), sources, regions)
    left: dict[tuple[str, int], float] = {}
    for key, weight in zip(zip(sources, regions, strict=True), weights.tolist(), strict=True):
        left[key] = left.get(key, 0.0) + weight
    kept = []
    for one, key in zip(reversed(rated), zip(reversed(sources), reversed(regions), strict=True), strict=True):
        if left[key] > 0.5:  # noqa: PLR2004 - to the nearest whole report
            left[key] -= 1
            kept.append(one)
    return kept[::-1]


def _judge(
    found: Refitted,
    labels: Sequence[Reference],
    rated: Sequence[Rated],
    built: Callable[[Sequence[Reference]], Generation],
    encoder: OnnxEncoder,
    settings: Settings,
    held_out: float,
    seed: int,
) -> None:
    """Build without and with reports, of what is not kept out, and compare them on what is."""
    out = np.zeros(len(labels), np.bool_)
    if len({canonical(r.prompt) for r in labels}) >= _LEAST:
        out = sample(labels, max(1, round(len(labels) * (1 - held_out))), seed)
    texts = sorted({canonical(one.reference.prompt) for one in rated})
    picked = np.random.default_rng(seed).random(len(texts)) < held_out
    unseen = {canonical(r.prompt) for r, o in zip(labels, out.tolist(), strict=True) if o}
    unseen |= {text for text, one in zip(texts, picked.tolist(), strict=True) if one}
    known = [r for r in labels if canonical(r.prompt) not in unseen]
    asked = [r for r in labels if canonical(r.prompt) in unseen]
    seen = [one for one in rated if canonical(one.reference.prompt) not in unseen]
    without, with_ = built(known), built(folded(known, seen))
    tokens = settings.routing.output_tokens
    for rows in _comparable(asked, without, tokens):
        vectors = encode_texts(encoder, local.texts(rows.references))
        before, after = (local.answer(rows, vectors, one, settings) for one in (without, with_))
        gain = _utility(rows, after.quality, after.cost) - _utility(rows, before.quality, before.cost)
        found.panels.append(_panel(f"labels ({rows.kind})", gain, before.chosen != after.chosen, seed))
    judged = [one for one in rated if canonical(one.reference.prompt) in unseen]
    if judged:
        found.panels.append(_on_reports(judged, without, with_, settings, seed))


def _comparable(asked: Sequence[Reference], generation: Generation, tokens: int) -> list[Rows]:
    """Return the labelled rows that say something about at least two models."""
    whole = [r for r in asked if r.best_model or len(r.scores) >= LEAST_ROWS]
    if not whole:
        return []
    try:
        return as_rows(whole, generation.catalogue, tokens)
    except InputError:  # scores with holes: no two models are scored in every row
        return []


def _utility(rows: Rows, quality: Floats, cost: Floats) -> Floats:
    """Return the true utility of what estimates choose for every row, mean over a range of willingness to pay."""
    # From where the dearest model must be right once more in every call to be worth it, to once in a hundred calls.
    mean = rows.cost.mean(axis=0)
    prices = np.geomspace(1.0, 100.0, 21) * max(float(mean.max() - mean.min()), 1e-9)
    chosen = utility_choices(quality, cost, prices)
    reached, paid = (np.take_along_axis(values, chosen, axis=1) for values in (rows.quality, rows.cost))
    return np.asarray((reached - paid / prices).mean(axis=1))


def _on_reports(
    judged: Sequence[Rated], without: Generation, with_: Generation, settings: Settings, seed: int
) -> Panel:
    """Compare how far off the expected quality of the reported models is."""
    models = without.catalogue.ids
    references = [one.reference for one in judged]
    empty = np.zeros((len(judged), len(models)))
    rows = Rows("reports", references, np.arange(len(judged)), models, empty, empty, restricted=False)
    vectors = np.frombuffer(b"".join(one.vector for one in judged), "<f4").reshape(len(judged), -1)
    at = np.array([[models.index(one.model)] for one in judged])
    quality = np.array([one.quality for one in judged])
    answers = [local.answer(rows, vectors, one, settings) for one in (without, with_)]
    off = [(np.take_along_axis(one.quality, at, axis=1)[:, 0] - quality) ** 2 for one in answers]
    return _panel("reports", off[0] - off[1], answers[0].chosen != answers[1].chosen, seed)


def _panel(name: str, gains: Floats, moved: Floats, seed: int) -> Panel:
    random = np.random.default_rng(seed)
    drawn = [gains[random.integers(0, len(gains), len(gains))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Panel(name, len(gains), float(gains.mean()), float(low), float(high), float(np.mean(moved)))


def to_text(found: Refitted) -> str:
    """Return what a refit found for a person to read."""
    models = ", ".join(f"{name} {count:,}" for name, count in sorted(found.by_model.items(), key=lambda one: -one[1]))
    refused = (
        f"{found.without_prompt:,} without their prompt, {found.unknown_models:,} on unknown models, "
        f"{found.left_out:,} beyond a source's or region's share"
    )
    lines = [
        f"generation  {found.before}, {found.labelled:,} references",
        f"reports     {found.rated:,} of quality; {refused}",
        f"folded in   {models}",
        f"references  {found.prompts:,} from reports, {found.merged:,} labelled ones told more models",
    ]
    for panel in found.panels:
        what = "utility" if panel.name.startswith("labels") else "squared error, less"
        change = f"{what} {panel.change:+.4f} [{panel.low:+.4f}, {panel.high:+.4f}]"
        moved = f"{panel.moved:.1%} choose another model" + (" - worse" if panel.worse else "")
        lines.append(f"kept out    {panel.rows:,} {panel.name}: {change}, {moved}")
    lines.append(f"promoted    {found.promoted}" if found.promoted else f"not promoted: {found.why}")
    return "\n".join(lines)
