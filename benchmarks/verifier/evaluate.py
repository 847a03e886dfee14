"""Measure guard and verifier: `python -m benchmarks.verifier.evaluate DATA [--encoder FOLDER]`.

DATA holds the pairs of `train.py` and, only measured on, `qqp`, `checklist_qqp_perturb` and `checklist_qqp_invariance`.
All figures are of the half of each file that no rule was tuned on (`pairs.held_out`). One threshold is set for all:
the probability at which the wanted share of QQP's duplicates is found.
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.verifier.pairs import held_out, read_rows
from benchmarks.verifier.train import ROOT, Reader
from index.encoder import OnnxEncoder
from index.verifier import Verifier

_FOUND: Final = 0.43
# Least cosine and probability: guard and cosine alone, both, and the default (`cache.threshold`, `.min_probability`).
_SERVED: Final = ((0.95, 0.0), (0.9, 0.8), (0.6, 0.9), (0.85, 0.9), (0.9, 0.9), (0.93, 0.9))
_STREAM: Final = 6_000
_AUDITED: Final = (("checklist_qqp_perturb", "kind"), ("checklist_qqp_invariance", "kind"), ("checklist_qqp", "test"))

Array = NDArray[np.float64]


def judge(rows: Sequence[dict[str, Any]], reader: Reader, verifier: Verifier) -> tuple[Array, Array, Array]:
    """Return probability, cosine and label of each pair."""
    reader.read([row[side] for row in rows for side in ("a", "b")])
    cosines = [reader.cosine(row["a"], row["b"]) for row in rows]
    found = [
        verifier.judge(reader.prepared(row["a"]), reader.prepared(row["b"]), cosine).probability
        for row, cosine in zip(rows, cosines, strict=True)
    ]
    return np.array(found), np.array(cosines), np.array([float(row["duplicate"]) for row in rows])


def curve(scores: Array, same: Array) -> tuple[Array, Array, Array]:
    """Return precision, recall and score down the ranking."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(same[order])
    return right / np.arange(1, len(same) + 1), right / same.sum(), scores[order]


def at_recall(scores: Array, same: Array, recall: float) -> tuple[float, float]:
    """Return precision and score where a recall is reached."""
    precisions, recalls, ordered = curve(scores, same)
    place = int(np.searchsorted(recalls, recall))
    return float(precisions[place]), float(ordered[place])


def recall_at(scores: Array, same: Array, precision: float, least: int = 50) -> float:
    """Return the largest recall at which precision still holds, over at least some pairs."""
    precisions, recalls, _ = curve(scores, same)
    places = [place for place in np.flatnonzero(precisions >= precision).tolist() if place >= least]
    return float(recalls[places[-1]]) if places else 0.0


def calibration(scores: Array, same: Array, edges: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.01)) -> str:
    """Return, band by band, the share that is right."""
    parts = []
    for low, high in pairwise(edges):
        band = (scores >= low) & (scores < high)
        parts.append(f"{low:.2f}+: {same[band].mean():.3f} of {band.sum()}" if band.any() else f"{low:.2f}+: none")
    return ", ".join(parts)


def speed(reader: Reader, verifier: Verifier, texts: Sequence[str], rounds: int = 400) -> float:
    """Return the median time of judging eight near candidates, cached sides prepared, in milliseconds."""
    reader.read(texts)
    vectors = reader.vectors(texts)
    spent = []
    for place in range(rounds):
        near = np.argsort(-(vectors @ vectors[place]))[1:9]
        candidates = [(reader.prepared(texts[k]), float(vectors[place] @ vectors[k])) for k in near.tolist()]
        prompt = reader.prepared(texts[place])
        started = time.perf_counter()
        for other, cosine in candidates:
            verifier.judge(prompt, other, cosine)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1000


def stream(rows: Sequence[dict[str, Any]], reader: Reader, verifier: Verifier) -> list[list[tuple[float, float, bool]]]:
    """Return, for questions that come one after the other, (cosine, probability, right) of the eight nearest before."""
    label = {str(row["text"]): row["label"] for row in rows}
    texts = random.Random(1).sample(sorted(label), _STREAM)
    reader.read(texts)
    vectors = reader.vectors(texts)
    found = []
    for place in range(1, len(texts)):
        cosines = vectors[:place] @ vectors[place]
        near = np.argsort(-cosines)[:8].tolist()
        asked = reader.prepared(texts[place])
        judged = [verifier.judge(asked, reader.prepared(texts[k]), float(cosines[k])) for k in near]
        found.append(
            [
                (float(cosines[k]), j.probability, label[texts[place]] == label[texts[k]])
                for k, j in zip(near, judged, strict=True)
            ]
        )
    return found


def served(found: Sequence[Sequence[tuple[float, float, bool]]], floor: float, least: float) -> tuple[float, float]:
    """Return the shares of questions that are answered, and answered wrongly, by the likeliest that may be served."""
    best = [max(((p, s, r) for s, p, r in near if s >= floor and p >= least and p), default=None) for near in found]
    answered = [right for _, _, right in filter(None, best)]
    return len(answered) / len(found), answered.count(False) / len(found)


def kept(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a file that are kept for measuring."""
    return [row for row in read_rows(folder, name) if held_out(row["a"])]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", type=Path, default=ROOT / "encoders" / "all-MiniLM-L6-v2")
    options = parser.parse_args()
    reader, verifier = Reader(OnnxEncoder.load(options.encoder)), Verifier.load()
    rows = kept(options.data, "qqp")
    scores, cosines, same = judge(rows, reader, verifier)
    threshold, plain = at_recall(scores, same, _FOUND)[1], at_recall(cosines, same, _FOUND)[1]
    print(f"QQP, {len(same)} pairs; {_FOUND:.0%} found at p >= {threshold:.3f}, at cosine >= {plain:.3f}")
    for name, values in (("verifier", scores), ("cosine", cosines)):
        shares = ", ".join(f"{at_recall(values, same, r)[0]:.3f} at {r}" for r in (0.25, 0.4, 0.43, 0.5))
        print(f"  {name}: precision {shares}; recall {recall_at(values, same, 0.9):.3f} at precision .90")
    print(f"  right by probability: {calibration(scores, same)}")
    banking = read_rows(options.data, "banking77")
    asked = stream(banking, reader, verifier)
    for floor, least in _SERVED:
        kept_ = (cosines >= floor) & (scores >= max(least, 1e-9))
        hits, wrong = served(asked, floor, least)
        print(
            f"  cosine >= {floor}, p >= {least}: QQP precision {same[kept_].mean():.3f}, recall "
            f"{same[kept_].sum() / same.sum():.3f}; banking77 as a stream: {hits:.1%} served, {wrong:.2%} wrong"
        )
    for file, key in _AUDITED:
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in kept(options.data, file):
            groups.setdefault(f"{row[key]} ({'same' if row['duplicate'] else 'not the same'})", []).append(row)
        for group, members in sorted(groups.items()):
            found, near, _ = judge(members, reader, verifier)
            print(f"  {np.mean(found >= threshold):7.2%} hit (cosine {np.mean(near >= plain):7.2%}) {file}: {group}")
    found, near, same = judge(kept(options.data, "paws_wiki_en"), reader, verifier)
    for name, values in (("verifier", found), ("cosine", near)):
        at = at_recall(values, same, 0.6)[1]
        print(f"  PAWS, {name}: {np.mean(values[same == 0] >= at):.1%} false at 60 % recall")
    arena = [str(row["text"]) for row in read_rows(options.data, "arena_hard_v2")]
    print(f"  arena_hard: {_hits(arena, reader, verifier, threshold)} of {len(arena)} distinct prompts hit another")
    texts = list(dict.fromkeys(str(row["text"]) for row in banking))
    print(f"  eight candidates, all near: {speed(reader, verifier, texts[:4000]):.3f} ms p50")


def _hits(texts: Sequence[str], reader: Reader, verifier: Verifier, threshold: float) -> int:
    """Return how many of some distinct prompts would be answered with another's answer."""
    reader.read(texts)
    vectors = reader.vectors(texts)
    hits = 0
    for place, text in enumerate(texts):
        near = [k for k in np.argsort(-(vectors @ vectors[place]))[:9].tolist() if k != place]
        others = [(reader.prepared(texts[k]), float(vectors[place] @ vectors[k])) for k in near]
        asked = reader.prepared(text)
        hits += any(verifier.judge(asked, other, cosine).probability >= threshold for other, cosine in others)
    return hits


if __name__ == "__main__":
    main()
