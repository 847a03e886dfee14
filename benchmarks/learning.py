"""Does learning from reports catch up with labels, and is a model that turns bad left? On real rows.

    python -m benchmarks.learning ROWS

An index is built from 200 labels, and then prompts come that nobody has labelled: each is decided, the chosen model's
real score is reported, and nothing else is known of it. Beside it, two indexes that learn nothing: one of the same 200
labels, and one of the labels of all prompts that came; and one that `waypost refit` would make of the reports. All then
decide on rows kept out of everything. Utility is
quality - cost / willingness to pay. A second run lets a model turn bad half-way. Rows of prompts that occur twice are
kept on one side. What it prints is in benchmarks/results/learning.md.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine
from index.build import build_index
from index.catalogue import Catalogue, parse_catalogue
from index.encoder import OnnxEncoder
from index.generation import Generation, load_generation, set_current
from index.importing import import_rows
from index.records import Reference
from index.references import read_references
from index.text import canonical
from index.view import View
from service.decide import Decider, normalise
from service.evaluation.data import as_rows
from service.learning.journal import Rating
from service.learning.online import Learner
from service.learning.replay import replan
from service.requests import Decision, Outcome, Request, RouteOptions, Timings
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
ENCODER = ROOT / "encoders" / "all-MiniLM-L6-v2"
EXPLORED = 0.05
EVERY = 50
"""Reports between two fits: a service that gets one report a second fits every second."""

HEADING = """\
| seed | USD / point | labels/came/kept out | few labels | + reports | + refit | all labels | best single | oracle \
| few, reports, refit below all | bad model left after |
|---|---|---|---|---|---|---|---|---|---|---|"""
Floats = NDArray[np.float64]


class Empty:
    """The view of a service without answers and live references."""

    def __init__(self, encoder: OnnxEncoder) -> None:
        self.view = View(encoder.digest, encoder.dimensions)


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled prompts with vectors (rows, dimensions), scores and costs (rows, models)."""

    references: Sequence[Reference]
    vectors: NDArray[np.float32]
    scores: Floats
    costs: Floats
    models: tuple[str, ...]

    def take(self, rows: NDArray[np.int64]) -> "Rows":
        """Return some rows."""
        found = [self.references[i] for i in rows.tolist()]
        return Rows(found, self.vectors[rows], self.scores[rows], self.costs[rows], self.models)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", type=Path, nargs="+")
    parser.add_argument("--models", type=Path, help="the catalogue; without it one is made from the rows")
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--stream", type=int, default=5_000)
    parser.add_argument("--rated", type=float, default=1.0, help="share of decisions that are reported")
    parser.add_argument("--prices", type=float, nargs="+", default=[0.05, 0.07, 0.1], help="willingness to pay, USD")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not given.json:
        print(f"{EXPLORED:.0%} explored, {given.rated:.0%} reported. {machine()['cpu']}, {time.strftime('%Y-%m-%d')}\n")
        print(HEADING, flush=True)
    for seed in range(given.seeds):
        for price in given.prices:
            found = run(given.references, given.models, seed, price, given.labels, given.stream, given.rated)
            print(json.dumps(found) if given.json else row(found), flush=True)


def run(
    paths: Sequence[Path],
    models: Path | None,
    seed: int,
    price: float,
    labels: int = 200,
    stream: int = 5_000,
    rated: float = 1.0,
) -> dict[str, Any]:
    """Return what one simulation found."""
    encoder = OnnxEncoder.load(ENCODER)
    with tempfile.TemporaryDirectory(prefix="waypost-learning-") as folder:
        root = Path(folder)
        catalogue, rows, whole = load(paths, models, encoder, root)
        start, came, kept = split(rows, seed, labels, stream)
        set_current(root, whole)
        few = generation_of(start.references, catalogue, encoder, root)
        set_current(root, whole)
        all_ = generation_of([*start.references, *came.references], catalogue, encoder, root)
        simulation = Simulation(encoder, price, seed, rated)
        learner = simulation.learn(few, came)
        set_current(root, whole)
        refitted = generation_of([*start.references, *simulation.reported], catalogue, encoder, root)
    best = (kept.scores - kept.costs / price).mean(axis=0).max()
    utility = {
        "few": simulation.utility(few, kept),
        "learned": simulation.utility(few, kept, learner),
        "refitted": simulation.utility(refitted, kept),
        "all": simulation.utility(all_, kept),
        "best_single": float(best),
        "oracle": float((kept.scores - kept.costs / price).max(axis=1).mean()),
    }
    return {
        "seed": seed,
        "price": price,
        "rows": {"labels": len(start.references), "stream": len(came.references), "kept": len(kept.references)},
        "utility": utility,
        "below_all": {name: 1 - utility[name] / utility["all"] for name in ("few", "learned", "refitted")},
        "left_after": simulation.turn_bad(few, came),
    }


def load(paths: Sequence[Path], models: Path | None, encoder: OnnxEncoder, root: Path) -> tuple[Catalogue, Rows, str]:
    """Return catalogue, rows, and the generation of all of them, so that each prompt is embedded once."""
    names = sorted({name for path in paths for name in _names(path)})
    text = models.read_text(encoding="utf-8") if models else "\n".join(map(_entry, names))
    catalogue = parse_catalogue(text, "models")
    import_rows(paths, "auto", root / "imported.jsonl", catalogue, "fail")
    references = read_references([root / "imported.jsonl"], catalogue).references
    whole = build_index(references, catalogue, encoder, root).generation
    [known] = as_rows(references, catalogue, Settings().routing.output_tokens)
    vectors = np.load(root / whole / "vectors.npy")
    return catalogue, Rows(references, vectors, known.quality, known.cost, known.models), whole


def split(rows: Rows, seed: int, labels: int, stream: int) -> tuple[Rows, Rows, Rows]:
    """Return labelled rows, rows that come, and rows kept out, in random order; one prompt is in one of them only."""
    groups: dict[str, list[int]] = {}
    for row, reference in enumerate(rows.references):
        groups.setdefault(canonical(reference.prompt), []).append(row)
    order = np.random.default_rng(seed).permutation(len(groups))
    every = list(groups.values())
    flat = [row for i in order.tolist() for row in every[i]]
    cut = min(labels + stream, int(len(flat) * 0.8))
    parts = np.split(np.array(flat), [labels, cut])
    return rows.take(parts[0]), rows.take(parts[1]), rows.take(parts[2])


def generation_of(
    references: Sequence[Reference], catalogue: Catalogue, encoder: OnnxEncoder, root: Path
) -> Generation:
    """Build and load a generation."""
    return load_generation(root / build_index(references, catalogue, encoder, root).generation, encoder.digest)


class Simulation:
    """Decides as the service does, with a clock of its own: a decision a second."""

    def __init__(self, encoder: OnnxEncoder, price: float, seed: int, rated: float) -> None:
        self.now = 0.0
        self.reported: list[Reference] = []
        self._answers: Any = Empty(encoder)
        self._price, self._rated = price, rated
        self._random = np.random.default_rng(seed)

    def learn(self, generation: Generation, rows: Rows) -> Learner:
        """Let the rows come one after the other and report the chosen model's score."""
        learner = self._learner()
        for row, decision in self._decide(generation, rows, learner):
            self._report(learner, decision, rows, row, self._explored(decision, rows))
        return learner

    def turn_bad(self, generation: Generation, rows: Rows) -> dict[str, int | None]:
        """Let the model that is chosen most turn bad half-way; return after how many decisions it is left.

        Left is where of the next 50 decisions at most 2 go to it.
        """
        learner, half, bad = self._learner(), len(rows.references) // 2, ""
        chosen: list[str] = []
        for row, decision in self._decide(generation, rows, learner):
            name = self._first(decision)
            if row == half:
                bad = Counter(chosen[-500:]).most_common(1)[0][0]
            called = self._explored(decision, rows)
            chosen.append(name)
            self._report(learner, decision, rows, row, called, spoiled=called == bad)
        after = np.array([name == bad for name in chosen[half:]])
        near = [int(after[i : i + 50].sum()) <= 2 for i in range(len(after) - 50)]
        return {bad: near.index(True) if True in near else None}

    def utility(self, generation: Generation, rows: Rows, learner: Learner | None = None) -> float:
        """Return the mean utility of what is chosen for rows, without exploring and without learning."""
        total = 0.0
        for row, decision in self._decide(generation, rows, learner):
            column = rows.models.index(self._first(decision))
            total += rows.scores[row, column] - rows.costs[row, column] / self._price
        return total / len(rows.references)

    def _decide(self, generation: Generation, rows: Rows, learner: Learner | None) -> Iterator[tuple[int, Decision]]:
        settings = Settings()
        nobody: Any = None
        decider = Decider(
            settings, generation, self._answers, nobody, nobody, nobody, nobody, nobody, nobody, learner=learner
        )
        route = RouteOptions(allow=frozenset(rows.models), willingness_to_pay=self._price)
        for row, reference in enumerate(rows.references):
            request = Request("simulation", reference.prompt, route=route)
            decision = Decision(str(row), request, normalise(request), generation.id, self.now, Timings())
            decision.vector = rows.vectors[row].tobytes()
            [decision.plan] = replan([decision], generation, decider.plan, self._answers.view, decider.base(generation))
            yield row, decision

    def _report(
        self, learner: Learner, decision: Decision, rows: Rows, row: int, model: str, *, spoiled: bool = False
    ) -> None:
        self.now += 1.0
        if self._random.random() >= self._rated:
            return
        column = rows.models.index(model)
        quality = 0.0 if spoiled else float(rows.scores[row, column])
        label = rows.references[row]
        self.reported.append(Reference(f"r{row}", label.prompt, scores={model: quality}, source="report"))
        learner.reported(decision, Rating(model, Outcome.OK, quality, "simulation", float(rows.costs[row, column])))
        if row % EVERY == 0:
            for scope in learner.due():
                learner.fit(scope)()()

    def _explored(self, decision: Decision, rows: Rows) -> str:
        if self._random.random() < EXPLORED:
            return str(self._random.choice(rows.models))
        return self._first(decision)

    def _learner(self) -> Learner:
        return Learner(Settings().learning, clock=lambda: self.now)

    @staticmethod
    def _first(decision: Decision) -> str:
        assert decision.plan is not None  # noqa: S101 - it was just planned
        return decision.plan.steps[0].model


def row(one: dict[str, Any]) -> str:
    """Return a result as a row of Markdown."""
    names = ("few", "learned", "refitted", "all", "best_single", "oracle")
    values = " | ".join(f"{one['utility'][name]:.4f}" for name in names)
    left = ", ".join(f"{count} ({name.rsplit('/', 1)[-1]})" for name, count in one["left_after"].items())
    below = ", ".join(f"{share:.1%}" for share in one["below_all"].values())
    sizes = "/".join(map(str, one["rows"].values()))
    return f"| {one['seed']} | {one['price']} | {sizes} | {values} | {below} | {left} |"


def _names(path: Path) -> set[str]:
    import gzip

    opens = gzip.open if path.suffix == ".gz" else open
    with opens(path, "rt", encoding="utf-8") as file:
        return set(json.loads(file.readline())["scores"])


def _entry(name: str) -> str:
    """Return a model of the catalogue, at about what these cost when the rows were made."""
    prices = (10.0, 30.0) if "gpt-4" in name else (0.6, 0.6)
    return (
        f"[[models]]\nid = {json.dumps(name)}\ninput_usd_per_mtok = {prices[0]}\n"
        f"output_usd_per_mtok = {prices[1]}\ncontext_window = 128000\n"
    )


if __name__ == "__main__":
    main()
