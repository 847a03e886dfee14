"""What in the estimate moves a choice when a prompt is only worded differently, and would other settings keep it?

    python -m benchmarks.wording PAIRS --seeds 3

PAIRS are JSON lines (.gz) of `a`, `b` and `kind`: the same question with a typo, a contraction, or in other words. They
are asked of the starter index, in this process. First each part of the estimate sees the other wording while all others
see the first. Then both wordings are asked under other settings, beside what these do to the accuracy among the starter
prompts themselves (5 folds). Results: benchmarks/results/wording.md.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine
from benchmarks.routing import read_rows, starter, unlabelled
from index.build import build_index
from index.encoder import OnnxEncoder, encode_texts
from index.estimator import NEIGHBOURS, Neighbours, Prediction
from index.generation import Generation, load_generation, set_current
from index.vectors import Vectors
from service.evaluation import local
from service.evaluation.data import Rows, as_rows, folds
from service.routing.choose import fallback_model
from service.routing.estimate import FAMILIAR
from service.settings import Settings

FOLDS: Final = 5
OTHER_SETTINGS: Final[tuple[dict[str, float], ...]] = (
    {},
    {"evidence": 0.0},
    {"evidence": 1.0},
    {"evidence": 2.0},
    {"evidence": 4.0},
    {"min_similarity": 0.0},
    {"min_similarity": 0.2},
    {"min_similarity": 0.25},
    {"min_similarity": 0.3},
    {"min_similarity": 0.4},
)
Choices = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One wording of every pair: what the parts of the estimate see."""

    rows: Rows
    vectors: Vectors
    texts: list[str]
    near: Neighbours


def main() -> None:
    """Measure and print a report in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    settings, about = Settings(), machine()
    encoder = OnnxEncoder.load(settings.encoder.path)
    references, catalogue = starter()
    pairs = list(read_rows(given.pairs))
    kind = np.array([pair["kind"] for pair in pairs])
    print(f"{about['cpu']}, {about['cores']} cores, revision {about['revision']}\n")
    with tempfile.TemporaryDirectory(prefix="waypost-wording-") as folder:
        root = Path(folder)
        whole = build_index(references, catalogue, encoder, root).generation
        generation = load_generation(root / whole, encoder.digest)
        one, other = (_side([pair[name] for pair in pairs], generation, encoder) for name in ("a", "b"))
        _parts(one, other, kind, generation, settings)
        (rows,) = as_rows(references, catalogue, settings.routing.output_tokens)
        trials = []
        for held in (held for seed in range(given.seeds) for held in folds(references, FOLDS, seed)):
            set_current(root, whole)
            known = [r for r, out in zip(references, held.tolist(), strict=True) if not out]
            built = build_index(known, catalogue, encoder, root).generation
            trials.append((rows.take(held), load_generation(root / built, encoder.digest)))
        vectors = np.load(root / whole / "vectors.npy")
        _settings((one, other), kind, generation, [(r, vectors[r.at], g) for r, g in trials], settings)


def _side(prompts: Sequence[str], generation: Generation, encoder: OnnxEncoder) -> Side:
    rows = unlabelled(prompts, generation.catalogue)
    texts = local.texts(rows.references)
    vectors = encode_texts(encoder, texts)
    similarities, at = generation.partition.search(vectors, min(NEIGHBOURS, len(generation.references)))
    return Side(rows, vectors, texts, Neighbours.gather(at, similarities, generation.experience))


def _parts(one: Side, other: Side, kind: NDArray[np.str_], generation: Generation, settings: Settings) -> None:
    """Print, for every part of the estimate, what comes of showing it the other wording."""
    routing = settings.routing
    base = generation.catalogue.ids.index(fallback_model(generation, routing.fallback))
    rival = int(np.argmax(np.where(np.arange(len(generation.catalogue.ids)) == base, -1, generation.mean_scores)))

    def predict(head: Side, surface: Side, near: Side) -> Prediction:
        return generation.estimator.predict(head.vectors, surface.texts, near.near, base)

    def known(side: Side) -> NDArray[np.bool_]:
        enough = predict(side, side, side).familiarity > FAMILIAR
        return np.asarray(enough & (side.near.similarities[:, 0] >= routing.min_similarity))

    def choose(found: Prediction, guard: NDArray[np.bool_]) -> Choices:
        best = np.round(found.quality - routing.evidence * found.gain_error, 6).argmax(axis=1)
        return np.where(guard, best, base)

    first, inside = predict(one, one, one), known(one)
    before = first.quality[:, rival] - first.quality[:, base]
    error = float(first.gain_error[:, rival].mean())
    cases = (
        ("surface features", predict(one, other, one), inside),
        ("linear head on the embedding", predict(other, one, one), inside),
        ("neighbours", predict(one, one, other), inside),
        ("guard", first, known(other)),
        ("all", predict(other, other, other), known(other)),
    )
    ids = generation.catalogue.ids
    print(f"### What moves a choice\n\nThe gain of {ids[rival]} over {ids[base]}: ", end="")
    print(f"from prompt to prompt it varies by {before.std():.3f}, its standard error is ", end="")
    print(f"{error:.3f} on average. {1 - inside.mean():.1%} of the prompts are like no reference.\n")
    kinds = sorted(set(kind.tolist()))
    print(f"| sees the other wording | gain moves by | in standard errors | choices unchanged | {' | '.join(kinds)} |")
    print(f"|{'---|' * (4 + len(kinds))}")
    for name, found, guard in cases:
        moved = float(np.sqrt(np.mean((found.quality[:, rival] - found.quality[:, base] - before) ** 2)))
        same = choose(found, guard) == choose(first, inside)
        cells = " | ".join(f"{same[kind == one_kind].mean():.1%}" for one_kind in kinds)
        print(f"| {name} | {moved:.3f} | {moved / error:.1f} | {same.mean():.1%} | {cells} |", flush=True)


def _settings(
    sides: Sequence[Side],
    kind: NDArray[np.str_],
    generation: Generation,
    trials: Sequence[tuple[Rows, Vectors, Generation]],
    settings: Settings,
) -> None:
    """Print what other settings do to the pairs, and to the starter prompts."""
    kinds = sorted(set(kind.tolist()))
    print(f"\n### Other settings\n\n| setting | choices unchanged | {' | '.join(kinds)} | most taken | accuracy |")
    print(f"|{'---|' * (4 + len(kinds))}")
    for different in OTHER_SETTINGS:
        tried = settings.model_copy(update={"routing": settings.routing.model_copy(update=different)})
        one, other = (local.answer(side.rows, side.vectors, generation, tried).chosen for side in sides)
        same = one == other
        right = []
        for rows, vectors, router in trials:
            chosen = local.answer(rows, vectors, router, tried).chosen
            right += rows.quality[np.arange(len(rows)), chosen].tolist()
        cells = " | ".join(f"{same[kind == name].mean():.1%}" for name in kinds)
        most = np.bincount(one).max() / len(one)
        name = ", ".join(f"`{key} = {value}`" for key, value in different.items()) or "as shipped"
        print(f"| {name} | {same.mean():.1%} | {cells} | {most:.2f} | {np.mean(right):.1%} |", flush=True)


if __name__ == "__main__":
    main()
