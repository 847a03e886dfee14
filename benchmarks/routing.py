"""How well the estimator routes on real outcomes, beside prompt length, the zero router, the category prior and oracle.

    python -m benchmarks.routing DATA --seeds 3

DATA is a folder with `routing/routellm_mmlu`, `routellm_gsm8k`, `routerbench_arc_challenge`, `routerbench_winogrande`
and `cache/checklist_qqp_invariance` (.jsonl.gz): rows with `prompt` (or `query`), `category`, `scores`, `costs`, and
pairs `a`, `b`. What is held out is never a reference. The MMLU split of the first seed and the pairs are asked of a
running service as well, which is to answer the same.
"""

import argparse
import gzip
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import process
from benchmarks.machine import machine
from index.build import build_index
from index.catalogue import Catalogue, parse_catalogue
from index.encoder import OnnxEncoder, encode_texts
from index.generation import Generation, load_generation, set_current
from index.records import Reference
from index.references import read_references
from service.evaluation import local, remote
from service.evaluation.answers import Answered, join
from service.evaluation.data import Rows, as_rows, folds, sample
from service.evaluation.figures import Part, Trial, measure
from service.settings import Settings

Held = NDArray[np.bool_]
# USD per million tokens in and out, as they were when the answers were made.
PRICES: Final = {"gpt-4-1106-preview": (10.0, 30.0), "mistralai/Mixtral-8x7B-Instruct-v0.1": (0.6, 0.6)}
STARTER: Final = process.ROOT / "reference_prompts"
SUBJECTS: Final = 10
DRAWS: Final = 10
SHOWN: Final = ("router", "random", "prompt length", "best single model", "zero router", "category prior", "oracle")


@dataclass(frozen=True)
class Set:
    """The rows of one or more files, with a folder where they are embedded once."""

    references: list[Reference]
    catalogue: Catalogue
    rows: Rows
    root: Path
    whole: str
    encoder: OnnxEncoder
    settings: Settings

    @classmethod
    def of(cls, files: Sequence[Path], root: Path, encoder: OnnxEncoder, settings: Settings) -> "Set":
        """Read and embed."""
        references = [_reference(f"{file.stem}-{i}", row) for file in files for i, row in enumerate(read_rows(file))]
        names = list(references[0].scores)
        catalogue = parse_catalogue("".join(map(_table, names)), "models.toml")
        whole = build_index(references, catalogue, encoder, root).generation
        (rows,) = as_rows(references, catalogue, settings.routing.output_tokens)
        return cls(references, catalogue, rows, root, whole, encoder, settings)

    def generation(self, held: Held) -> Generation:
        """Return what is built of the rows that are not held out; it is the current one of `root`."""
        set_current(self.root, self.whole)
        known = [r for r, out in zip(self.references, held.tolist(), strict=True) if not out]
        built = build_index(known, self.catalogue, self.encoder, self.root).generation
        return load_generation(self.root / built, self.encoder.digest)

    def asked(self, held: Held) -> tuple[Rows, Answered]:
        """Return the held-out rows, and what is answered to them."""
        generation, rows = self.generation(held), self.rows.take(held)
        vectors = np.load(self.root / self.whole / "vectors.npy")[rows.at]
        return rows, local.answer(rows, vectors, generation, self.settings)

    def trial(self, divided: Sequence[Held]) -> Trial:
        """Return all answers of one division as one."""
        found = [self.asked(held) for held in divided]
        wanted = np.any(divided, axis=0)
        answered = join([answered for _, answered in found], [rows.at for rows, _ in found])
        return Trial(self.rows.take(wanted), answered, np.flatnonzero(wanted))


def main() -> None:
    """Measure and print a report in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    settings, about = Settings(), machine()
    encoder = OnnxEncoder.load(settings.encoder.path)
    print(f"{about['cpu']}, {about['cores']} cores, revision {about['revision']}\n")
    with tempfile.TemporaryDirectory(prefix="waypost-routing-") as folder:
        root, routing = Path(folder), given.data / "routing"

        def read(*names: str) -> Set:
            return Set.of([routing / f"{n}.jsonl.gz" for n in names], root / names[0], encoder, settings)

        gsm8k, mmlu = read("routellm_gsm8k"), read("routellm_mmlu")
        bench = read("routerbench_arc_challenge", "routerbench_winogrande")
        seeds = range(given.seeds)
        _show("GSM8K, 5 folds", [gsm8k.trial(list(folds(gsm8k.references, 5, seed))) for seed in seeds])
        _show("MMLU, 1,500 labels", [mmlu.trial([sample(mmlu.references, 1500, seed)]) for seed in seeds])
        _by_service("MMLU, seed 0", mmlu, sample(mmlu.references, 1500, 0), root / "service")
        _show("ARC and Winogrande, 5 folds", [bench.trial(list(folds(bench.references, 5, seed))) for seed in seeds])
        for name in ("arc", "winogrande"):
            held = np.array([name in r.id for r in bench.references])
            _show(f"{name} asked, the other task known", [bench.trial([held])])
        _left_out(mmlu)
        _invariance(given.data / "cache" / "checklist_qqp_invariance.jsonl.gz", root / "starter", encoder, settings)


def _show(title: str, trials: Sequence[Trial]) -> Part:
    part = measure(trials, 0, 1_000)
    names = [n for n in ("apgr", "cpt50", "cpt80", "aiq", "quality", "cost_usd") if n in part.policies["router"]]
    print(f"### {title}\n\n|  | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for policy in SHOWN:
        if policy in part.policies:
            print(f"| {policy} | {' | '.join(_figure(part.policies[policy], name) for name in names)} |")
    bounds = [part.intervals.get(name) for name in names]
    print(f"| router, 95 % | {' | '.join(f'{b[0]:.4g} to {b[1]:.4g}' if b else '' for b in bounds)} |")
    print(f"\nExpected calibration error {part.policies['router']['calibration_error']:.3f}, fallbacks ", end="")
    print(f"{part.policies['router']['fallback_share']:.1%}, {part.rows} rows, {len(trials)} seeds.\n", flush=True)
    return part


def _figure(figures: dict[str, float], name: str) -> str:
    return f"{figures[name]:.4g}" if name in figures else ""


def _by_service(title: str, data: Set, held: Held, work: Path) -> None:
    """Ask a running service what was asked in this process."""
    rows, ours = data.asked(held)
    with _served(data.root, work) as service:
        theirs = remote.answer(rows, service, data.settings.routing.output_tokens)
    places = np.arange(len(rows))
    part = measure([Trial(rows, theirs, places)], 0, 0)
    off, same = np.abs(theirs.quality - ours.quality).max(), (theirs.chosen == ours.chosen).mean()
    print(f"{title}, by the running service: APGR {part.policies['router']['apgr']:.4f}, CPT80 ", end="")
    print(
        f"{part.policies['router']['cpt80']:.3f}; {same:.2%} of the choices are those in this process, and no ", end=""
    )
    print(f"estimate is off by more than {off:.1g}.\n", flush=True)


@contextmanager
def _served(index: Path, work: Path) -> Iterator[remote.Service]:
    with process.Service(index, work) as running:
        yield remote.Service(running.address)


def _left_out(data: Set) -> None:
    """Leave ten subjects at a time out of the references, and ask them."""
    subjects = sorted({r.category for r in data.references})
    below, lines = 0, []
    for draw in range(DRAWS):
        away = set(np.random.default_rng(draw).choice(subjects, SUBJECTS, replace=False).tolist())
        held = np.array([r.category in away for r in data.references])
        part = measure([data.trial([held])], 0, 0)
        own, length = part.policies["router"]["apgr"], part.policies["prompt length"]["apgr"]
        below += own < length
        lines.append((own, length, part.policies["router"]["aiq"], part.policies["zero router"]["aiq"]))
    means = np.mean(lines, axis=0)
    print(f"### MMLU, ten subjects left out, {DRAWS} draws\n\n| | APGR | prompt length | AIQ | zero router |")
    print("|---|---|---|---|---|")
    for draw, line in enumerate(lines):
        print(f"| {draw} | {' | '.join(f'{value:.4f}' for value in line)} |")
    print(f"| mean | {' | '.join(f'{value:.4f}' for value in means)} |\n\nBelow prompt length in {below} draws.\n")


def _invariance(pairs: Path, root: Path, encoder: OnnxEncoder, settings: Settings) -> None:
    """Ask both sides of pairs that mean the same of the starter index, in this process and of a service."""
    references, catalogue = starter()
    built = build_index(references, catalogue, encoder, root).generation
    generation = load_generation(root / built, encoder.digest)
    rows = list(read_rows(pairs))
    sides = [unlabelled([row[side] for row in rows], catalogue) for side in ("a", "b")]
    vectors = [encode_texts(encoder, local.texts(side.references)) for side in sides]
    chosen = [local.answer(s, v, generation, settings).chosen for s, v in zip(sides, vectors, strict=True)]
    with _served(root, root / "service") as service:
        theirs = [remote.answer(side, service, settings.routing.output_tokens).chosen for side in sides]
    kind, same = np.array([row["kind"] for row in rows]), chosen[0] == chosen[1]
    kinds = ", ".join(f"{name} {same[kind == name].mean():.1%}" for name in sorted(set(kind.tolist())))
    served = (theirs[0] == theirs[1]).mean()
    print(
        f"### Pairs that mean the same, starter index\n\n{same.mean():.1%} of decisions unchanged ({kinds}); ", end=""
    )
    print(f"by the running service {served:.1%}. {len(rows)} pairs.", flush=True)


def starter() -> tuple[list[Reference], Catalogue]:
    """Return the starter prompts and their catalogue."""
    catalogue = parse_catalogue((STARTER / "models.toml").read_text(encoding="utf-8"), "models.toml")
    return list(read_references([STARTER / "starter"], catalogue).references), catalogue


def unlabelled(texts: Sequence[str], catalogue: Catalogue) -> Rows:
    """Return texts of which nothing is known as rows."""
    references = [Reference(str(i), text) for i, text in enumerate(texts)]
    empty = np.zeros((len(texts), len(catalogue.ids)))
    return Rows("labels", references, np.arange(len(texts)), catalogue.ids, empty, empty, restricted=False)


def _reference(name: str, row: dict[str, Any]) -> Reference:
    costs = {model: usd for model, usd in (row.get("costs") or {}).items() if usd is not None}
    read = Reference(name, row.get("query") or row["prompt"], scores=row["scores"], category=row["category"])
    return replace(read, costs=costs)


def _table(model: str) -> str:
    into, out = PRICES.get(model, (1.0, 2.0))
    prices = f"input_usd_per_mtok = {into}\noutput_usd_per_mtok = {out}"
    return f'[[models]]\nid = "{model}"\n{prices}\ncontext_window = 128000\n'


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a .jsonl.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    main()
