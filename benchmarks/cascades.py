"""Cascades and reviews on real answers, and on real outcomes with a simulated review.

    python -m benchmarks.cascades --answers gsm8k_answers.jsonl.gz --outcomes arc.jsonl.gz winogrande.jsonl.gz

Rows of --answers have `prompt`, `scores` and `answers` of two models; one half is learned on (references and acceptor),
the other half is shown: each plan is followed with the real answers and the real reviews. Rows of --outcomes have
`prompt` (or `query`), `scores` and `costs`; reviews are simulated with a stated accuracy. Costs that a row does not
have are its characters / 4 at the prices below. Everything is decided by the code that serves.
"""

import argparse
import gzip
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine
from index.acceptor import log_odds
from index.build import build_index
from index.catalogue import Catalogue, parse_catalogue
from index.encoder import Encoder, OnnxEncoder, Tokens, encode_texts
from index.generation import Generation, load_generation
from index.judged import JudgedAnswer
from index.records import Reference
from index.text import canonical
from service.evaluation.metrics import aiq, calibration_error, hull
from service.lookup import Ask, search
from service.requests import Decision, Estimate, Plan, Prompt, Reason, Request, RouteOptions, Shape, Timings
from service.routing.cascade import Team
from service.routing.choose import Ranking, fallback_model, order
from service.routing.estimate import Asked, estimate
from service.routing.feedback import Feedback
from service.routing.plan import shaped
from service.routing.review import Given, inspect, judge
from service.settings import Settings

Floats = NDArray[np.float64]

ENCODER: Final = Path(__file__).parents[1] / "encoders" / "all-MiniLM-L6-v2"
# USD per million tokens in and out, as they were when the answers were made.
PRICES: Final = {"gpt-4-1106-preview": (10.0, 30.0), "mistralai/Mixtral-8x7B-Instruct-v0.1": (0.6, 0.6)}
# USD per point of quality: from never worth it to worth anything.
WILLING: Final = np.logspace(-4, 0, 33)
ASKED: Final = RouteOptions(shape=Shape.CASCADE)
GAIN: Final = 0.95
THRESHOLDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
ACCURACIES: Final = (0.7, 0.8, 0.9)
RESAMPLES: Final = 500


@dataclass(frozen=True)
class Shown:
    """One division: the rows that were shown, and cost and quality reached on each at every willingness to pay.

    `single` and `cascade` have shape (2, points, rows): cost, then quality. `p` and `right` are of the reviewed answers
    of each row's cheapest model; `models` has cost and quality of every model, shape (2, models, rows). `least` is of
    the cascade asked for without a price on quality, which is to reach the best single model's: what it cost and
    reached, and what was expected of it, shape (4, rows).
    """

    at: NDArray[np.int64]
    single: Floats
    cascade: Floats
    models: Floats
    least: Floats
    p: Floats
    right: Floats


def main() -> None:
    """Measure and print; with --output also write the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answers", type=Path, nargs="*", default=[])
    parser.add_argument("--outcomes", type=Path, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "seeds": options.seeds}
    encoder = _Remembering(OnnxEncoder.load(ENCODER))
    if options.answers:
        rows, real = read(options.answers), Real()
        shown = [divided(rows, encoder, seed, reviewed=real) for seed in range(options.seeds)]
        report["real answers"] = {
            "rows": len(rows),
            **_table(shown, len(rows)),
            "calibration": _promises(shown, len(rows)),
        }
    if options.outcomes:
        rows = read(options.outcomes)
        for accuracy in ACCURACIES:
            simulate = Simulated(accuracy)
            shown = [divided(rows, encoder, seed, reviewed=simulate) for seed in range(options.seeds)]
            report[f"simulated review, AUC {accuracy}"] = {"rows": len(rows), **_table(shown, len(rows))}
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


class _Remembering:
    """An encoder that embeds each text once, however many divisions it is part of."""

    def __init__(self, encoder: Encoder) -> None:
        self.digest, self.dimensions, self.max_tokens = encoder.digest, encoder.dimensions, encoder.max_tokens
        self.tokenise, self._encode = encoder.tokenise, encoder.encode
        self._known: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def encode(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """Encode what is new."""
        keys = [tuple(tokens.ids) for tokens in batch]
        new = {key: tokens for key, tokens in zip(keys, batch, strict=True) if key not in self._known}
        if new:
            self._known.update(zip(new, self._encode(list(new.values())), strict=True))
        return np.stack([self._known[key] for key in keys])


Row = dict[str, Any]


class Reviewer(Protocol):
    """Says how likely a step's answer is right. `separation` is what plans assume, where there is no acceptor."""

    separation: float

    def __call__(self, plan: Plan, step: int, row: Row, generation: Generation, random: np.random.Generator) -> float:
        """Return a probability."""
        ...


def read(paths: Iterable[Path]) -> list[Row]:
    """Return the rows, with a cost for every model, and the text to embed as `text`."""
    rows = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    for row in rows:
        costs, sizes = row.get("costs") or {}, row.get("response_chars") or {}
        row["costs"] = {m: costs[m] if costs.get(m) is not None else _price(m, row, sizes[m]) for m in row["scores"]}
        row["text"] = row.get("query") or row["prompt"]
    return rows


def _price(model: str, row: Row, written: int) -> float:
    into, out = PRICES[model]
    return float((len(row["prompt"]) * into + written * out) / 4e6)


def _catalogue(rows: Sequence[Row]) -> Catalogue:
    tables = []
    for model in rows[0]["scores"]:
        into, out = PRICES.get(model, (1.0, 2.0))
        tables.append(
            f'[[models]]\nid = "{model}"\ninput_usd_per_mtok = {into}\noutput_usd_per_mtok = {out}\n'
            "context_window = 128000\n"
        )
    return parse_catalogue("".join(tables), "models")


def divided(rows: Sequence[Row], encoder: Encoder, seed: int, reviewed: Reviewer) -> Shown:
    """Learn on one half of the distinct prompts, follow the plans on the other."""
    random = np.random.default_rng(seed)
    texts = sorted({row["text"] for row in rows})
    known = {texts[i] for i in random.permutation(len(texts))[: len(texts) // 2]}
    generation = _built([row for row in rows if row["text"] in known], encoder)
    at = np.array([i for i, row in enumerate(rows) if row["text"] not in known])
    shown = [rows[i] for i in at]
    acceptor = generation.acceptor
    separation = acceptor.separation if acceptor is not None else reviewed.separation
    team = Team(separation, generation.agreement, generation.catalogue.ids)
    follower = _Follower(generation, team, reviewed, random)
    followed = [
        follower.follow(row, found) for row, found in zip(shown, _estimates(shown, generation, encoder), strict=True)
    ]
    models = [[[row[what][m] for row in shown] for m in generation.catalogue.ids] for what in ("costs", "scores")]
    single, cascade, least, p, right = (np.array(part) for part in zip(*followed, strict=True))
    return Shown(at, single.transpose(2, 1, 0), cascade.transpose(2, 1, 0), np.array(models), least.T, p, right)


def _built(learned: Sequence[Row], encoder: Encoder) -> Generation:
    """Return the generation of these rows, with an acceptor where they have answers."""
    references = [Reference(str(i), r["text"], scores=r["scores"], costs=r["costs"]) for i, r in enumerate(learned)]
    answers = [
        JudgedAnswer(row["text"], answer, model, row["scores"][model] > 0)
        for row in learned
        for model, answer in row.get("answers", {}).items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        build = build_index(references, _catalogue(learned), encoder, Path(folder), answers=answers)
        return load_generation(Path(folder) / build.generation, encoder.digest)


def _estimates(shown: Sequence[Row], generation: Generation, encoder: Encoder) -> list[tuple[Estimate, ...]]:
    """Return what the service would expect of every model for each row."""
    routing = Settings().routing
    base = generation.catalogue.ids.index(fallback_model(generation, routing.fallback))
    texts = [canonical(row["text"]) for row in shown]
    vectors = encode_texts(encoder, texts)
    found = search([Ask(None, generation, None, text, base) for text in texts], vectors)
    return [
        estimate(
            generation,
            near,
            (),
            Asked(text, vector, len(text) / 4, routing.output_tokens, base),
            evidence=routing.evidence,
            min_similarity=routing.min_similarity,
        ).estimates
        for near, text, vector in zip(found, texts, vectors, strict=True)
    ]


@dataclass(frozen=True)
class _Follower:
    """Follows the plans of one row after the other."""

    generation: Generation
    team: Team
    reviewed: Reviewer
    random: np.random.Generator

    def follow(self, row: Row, found: tuple[Estimate, ...]) -> tuple[Any, ...]:
        """Return what `Shown` has of a row: single, cascade, least, p and right."""
        single, cascade = [], []
        # Single plans with and without the guard: the better of the two is what cascades are compared with.
        bold = tuple(e._replace(doubt=0.0) for e in found)
        for price in WILLING.tolist():
            route = RouteOptions(shape=Shape.CASCADE, willingness_to_pay=price)
            for estimates in (found, bold):
                best = _ranking(estimates, route).models[0].model
                single.append((row["costs"][best], row["scores"][best]))
            cascade.append(self.outcome(shaped(_ranking(found, route), route, self.team), row))
        plan = shaped(_ranking(found, ASKED), ASKED, self.team)
        expected = (plan.cost_usd, plan.quality) if plan.accept_at else (plan.steps[0].cost_usd, plan.steps[0].quality)
        cheap = min(found, key=lambda e: e.cost_usd)
        p = self.review(Plan((cheap,), 1.0, Reason.NEIGHBOURS), 0, row)
        return single, cascade, (*self.outcome(plan, row), *expected), p, row["scores"][cheap.model]

    def outcome(self, plan: Plan, row: Row) -> tuple[float, float]:
        """Return what following a plan cost, and the score of the answer that was kept."""
        paid = 0.0
        for step, called in enumerate(plan.steps):
            paid += row["costs"][called.model]
            if step >= len(plan.accept_at) or self.review(plan, step, row) >= plan.accept_at[step]:
                return paid, row["scores"][called.model]
        raise AssertionError("the last step of a plan is taken as it is")

    def review(self, plan: Plan, step: int, row: Row) -> float:
        """Return how likely a step's answer is right, as the review says."""
        return self.reviewed(plan, step, row, self.generation, self.random)


def _ranking(found: tuple[Estimate, ...], route: RouteOptions) -> Ranking:
    return Ranking(tuple(sorted(found, key=order(found, route))), 1.0, Reason.NEIGHBOURS)


class Real:
    """Reviews the real answer with the generation's acceptor, as the service does."""

    separation = 0.0

    def __call__(self, plan: Plan, step: int, row: Row, generation: Generation, random: np.random.Generator) -> float:
        """Return a probability."""
        del random
        decision = Decision("", Request("", row["text"]), Prompt("", b""), generation.id, 0.0, Timings(), plan=plan)
        model = plan.steps[step].model
        team = Team(1.0, generation.agreement, generation.catalogue.ids)
        given = Given(model, row["answers"][model])
        seen = inspect(decision, given, generation.acceptor)
        return judge(decision, given, seen, generation.acceptor, team, Feedback(), None).p_acceptable


class Simulated:
    """Tells right from wrong with this area under the ROC curve, and knows what to expect of the model."""

    def __init__(self, accuracy: float) -> None:
        self.separation = 2**0.5 * NormalDist().inv_cdf(accuracy)

    def __call__(self, plan: Plan, step: int, row: Row, generation: Generation, random: np.random.Generator) -> float:
        """Return a probability."""
        del generation
        estimate = plan.steps[step]
        prior = plan.priors[step] if step < len(plan.priors) else estimate.quality
        side = 1.0 if row["scores"][estimate.model] >= 0.5 else -1.0
        evidence = random.normal(side * self.separation / 2)
        return float(1 / (1 + np.exp(-(log_odds(prior) + self.separation * evidence))))


def _table(shown: Sequence[Shown], rows: int) -> dict[str, Any]:
    """Return cost at 95 % of the gain, and AIQ, of single plans and of cascades, with 95 % intervals."""
    pooled = _intervals(lambda weights: _means([figures(s, weights[s.at]) for s in shown]), rows)
    each = [round(figures(s, np.ones(len(s.at)))["cost of cascade / of single at 95 % of the gain"], 3) for s in shown]
    return {"figures": pooled, "ratio by seed": each}


def figures(shown: Shown, weights: Floats) -> dict[str, float]:
    """Return what one division shows, rows weighing as given."""

    def mean(values: Floats) -> Floats:
        return np.asarray(values @ weights / weights.sum())

    models = np.array([mean(shown.models[0]), mean(shown.models[1])])
    weak, strong = int(models[0].argmin()), int(models[1].argmax())
    wanted = models[1, weak] + GAIN * (models[1, strong] - models[1, weak])
    low, high = models[0].min(), models[0].max()
    found: dict[str, float] = {"weak": models[1, weak], "strong": models[1, strong]}
    for name, reached in (("single", shown.single), ("cascade", shown.cascade)):
        costs, qualities = mean(reached[0]), mean(reached[1])
        # Always the cheapest and always the best are plans as well.
        costs, qualities = np.append(costs, models[0, [weak, strong]]), np.append(qualities, models[1, [weak, strong]])
        x, y = hull(costs, qualities)
        found[f"{name}: cost at 95 % of the gain / of the best model"] = (
            float(np.interp(wanted, y, x)) / models[0, strong]
        )
        found[f"{name}: AIQ"] = aiq(costs, qualities, low, high)
        found[f"{name}: best quality"] = float(qualities.max())
    reached = mean(shown.least)
    found["cascade at the best model's expected quality: cost / of the best model"] = reached[0] / models[0, strong]
    found["cascade at the best model's expected quality: quality"] = reached[1]
    found["cascade at the best model's expected quality: expected cost / cost"] = reached[2] / reached[0]
    found["cascade at the best model's expected quality: expected quality"] = reached[3]
    names = [f"{name}: cost at 95 % of the gain / of the best model" for name in ("cascade", "single")]
    found["cost of cascade / of single at 95 % of the gain"] = found[names[0]] / found[names[1]]
    return found


def _promises(shown: Sequence[Shown], rows: int) -> dict[str, Any]:
    """Return, for answers accepted from a threshold on, how many were promised to be right and how many were."""
    p, right = np.concatenate([s.p for s in shown]), np.concatenate([s.right for s in shown])
    at = np.concatenate([s.at for s in shown])

    def measured(weights: Floats) -> dict[str, float]:
        each = weights[at]
        found = {"calibration error": calibration_error(np.minimum(p, 0.9999), right, each)}
        for threshold in THRESHOLDS:
            accepted = each * (p >= threshold)
            total = accepted.sum()
            found[f"accepted from {threshold}: share"] = float(total / each.sum())
            found[f"accepted from {threshold}: promised"] = float(p @ accepted / total)
            found[f"accepted from {threshold}: right"] = float(right @ accepted / total)
        return found

    return _intervals(measured, rows)


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _intervals(measured: Callable[[Floats], dict[str, float]], rows: int) -> dict[str, Any]:
    """Return each figure with its 95 % interval from resampled rows."""
    random = np.random.default_rng(0)
    drawn = [
        measured(np.bincount(random.integers(0, rows, rows), minlength=rows).astype(np.float64))
        for _ in range(RESAMPLES)
    ]
    point = measured(np.ones(rows))
    return {
        name: [round(value, 4), *np.percentile([one[name] for one in drawn], (2.5, 97.5)).round(4).tolist()]
        for name, value in point.items()
    }


if __name__ == "__main__":
    main()
