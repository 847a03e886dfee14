"""Fit the verifier: `python -m benchmarks.verifier.train DATA [--encoder FOLDER] [--output FILE]`.

DATA is the folder with `banking77`, `checklist_qqp` and `paws_wiki_en` as gzip-compressed JSON lines: sets whose
licences allow what is fitted on them to be shipped. Everything is drawn from a seed, so the same data and encoder give
the same weights. About two minutes on two cores.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.verifier import pairs
from benchmarks.verifier.pairs import Pair
from index.encoder import OnnxEncoder, encode_texts
from index.guard import compare
from index.verifier import FEATURES, LEAST_COSINE, WEIGHTS, features
from index.wording import Prepared, prepare

ROOT: Final = Path(__file__).resolve().parents[2]
_SEED: Final = 4
# How much each source counts, whatever its number of pairs, and the ridge: from a random search on the tuning half of
# real question pairs. There, twice or half of frames_change or real_change moves precision at 40 % recall by .006.
SHARES: Final = {
    "frames_same": 3.0, "frames_miss": 1.0, "frames_asks": 4.0, "frames_change": 1.0, "real_same": 0.5,
    "real_change": 0.25, "banking": 0.1, "checklist": 0.25, "paws": 1.5,
}  # fmt: skip
_RIDGE: Final = 0.01
# Of features without a counter-example, which the common one would hold back.
_RIDGES: Final = {"identical": 0.0005}
# The sign a weight must have, where only one makes sense.
SIGNS: Final = {
    "cosine": 1, "question": -1, "question_yes": -1, "name_one_side": -1, "typos": 1, "same_words": 1, "same_stems": 1,
    "identical": 1, "inversions": -1, "pairs_kept": 1, "substituted": -1, "length_ratio": -1,
    "qualified": -1, "frame_words": 1,
}  # fmt: skip
_NEIGHBOURS: Final = 8

Array = NDArray[np.float64]


class Reader:
    """Texts to what the verifier compares: each is prepared and embedded once."""

    def __init__(self, encoder: OnnxEncoder) -> None:
        self._encoder = encoder
        self._prepared: dict[str, Prepared] = {}
        self._rows: dict[str, int] = {}
        self._vectors = np.empty((0, encoder.dimensions), np.float32)

    def read(self, texts: Sequence[str]) -> None:
        """Prepare and embed those that are new."""
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            self._rows |= {text: len(self._rows) + place for place, text in enumerate(new)}
            self._vectors = np.vstack([self._vectors, encode_texts(self._encoder, new)])

    def prepared(self, text: str) -> Prepared:
        """Return what a text says."""
        if text not in self._prepared:
            self._prepared[text] = prepare(text)
        return self._prepared[text]

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts that were read, (len(texts), dimensions)."""
        return self._vectors[[self._rows[text] for text in texts]]

    def cosine(self, one: str, other: str) -> float:
        """Return the cosine of two texts that were read."""
        return float(self._vectors[self._rows[one]] @ self._vectors[self._rows[other]])

    def features(self, one: str, other: str) -> tuple[list[float], tuple[str, ...]]:
        """Return the verifier's features of a pair, and the checks that refuse it."""
        cosine = self.cosine(one, other)
        comparison = compare(self.prepared(one), self.prepared(other))
        refused = comparison.refused or (() if cosine >= LEAST_COSINE else ("cosine",))
        return features(cosine, comparison), refused


def gather(folder: Path, reader: Reader, rng: random.Random) -> list[Pair]:
    """Return all pairs to fit on, with every text read."""
    banking = pairs.read_rows(folder, "banking77")
    texts = [str(row["text"]) for row in banking]
    found = pairs.generated(24_000, rng)
    found += pairs.variants(texts, 6_000, rng)
    found += pairs.checklist(folder, 250, rng)
    found += pairs.paws(folder)
    reader.read([text for pair in found for text in (pair.one, pair.other)] + texts)
    return found + _neighbours(banking, reader, rng)


def _neighbours(rows: Sequence[Mapping[str, Any]], reader: Reader, rng: random.Random) -> list[Pair]:
    """Return questions with one of their nearest, which a cache would be asked about."""
    label = {str(row["text"]): row["label"] for row in rows}
    texts = sorted(label)
    vectors = reader.vectors(texts)
    found = []
    for place in rng.sample(range(len(texts)), 6_000):
        near = np.argsort(-(vectors @ vectors[place]))[1 : _NEIGHBOURS + 1]
        other = texts[int(rng.choice(near.tolist()))]
        same = label[texts[place]] == label[other]
        found.append(Pair(texts[place], other, same, "banking"))
    return found


def fit(rows: Array, same: Array, counts: Array, ridge: float | Array = _RIDGE) -> tuple[Array, float]:
    """Return weights and bias of a logistic regression.

    Newton's method on standardised columns (iteratively reweighted least squares: McCullagh and Nelder, "Generalized
    Linear Models", 1989).

    Args:
        rows: features, (n, d).
        same: labels 0 or 1, (n,).
        counts: how much each row counts, (n,), summing to 1.
        ridge: of the squared weights of standardised columns, or one for each.
    """
    mean = counts @ rows
    scale = np.sqrt(counts @ (rows - mean) ** 2) + 1e-9
    design = np.column_stack([(rows - mean) / scale, np.ones(len(rows))])
    penalty = np.diag(np.append(np.broadcast_to(ridge, rows.shape[1]), 0.0))
    solution = np.zeros(design.shape[1])
    for _ in range(50):
        probability = 1.0 / (1.0 + np.exp(-(design @ solution)))
        gradient = design.T @ (counts * (probability - same)) + penalty @ solution
        curvature = design.T @ (design * (counts * probability * (1.0 - probability))[:, None]) + penalty
        step = np.linalg.solve(curvature, gradient)
        solution -= step
        if np.abs(step).max() < 1e-8:
            break
    weights = solution[:-1] / scale
    return weights, float(solution[-1] - weights @ mean)


def fit_signed(rows: Array, same: Array, counts: Array) -> tuple[Array, float]:
    """Fit with no weight of the wrong sign: whoever differs more is never likelier the same.

    What a free fit gains from wrong signs it loses on texts unlike those it was fitted on (long ones, other languages).
    Columns whose weight is wrong are left out, the worst first, until none is.
    """
    wanted = np.array([SIGNS.get(name, 0) for name in FEATURES])
    ridges = np.array([_RIDGES.get(name, _RIDGE) for name in FEATURES])
    used = np.arange(len(FEATURES))
    while True:
        weights, bias = fit(rows[:, used], same, counts, ridges[used])
        wrong = weights * wanted[used] < 0
        if not wrong.any():
            full = np.zeros(len(FEATURES))
            full[used] = weights
            return full, bias
        spread = np.abs(weights) * rows[:, used].std(axis=0) * wrong
        used = np.delete(used, int(spread.argmax()))


def fit_pairs(found: Sequence[Pair], reader: Reader, shares: Mapping[str, float]) -> tuple[Array, float]:
    """Fit on the pairs that no check refuses, each source at its share."""
    rows, same, groups = [], [], []
    for pair in found:
        row, refused = reader.features(pair.one, pair.other)
        if not refused:
            rows.append(row)
            same.append(float(pair.same))
            groups.append(pair.group)
    counts = np.array([shares[group] / groups.count(group) for group in dict.fromkeys(groups)])
    by_group = dict(zip(dict.fromkeys(groups), counts, strict=True))
    weight = np.array([by_group[group] for group in groups])
    return fit_signed(np.array(rows), np.array(same), weight / weight.sum())


def main() -> None:
    """Fit and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", type=Path, default=ROOT / "encoders" / "all-MiniLM-L6-v2")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    encoder = OnnxEncoder.load(options.encoder)
    reader, rng = Reader(encoder), random.Random(_SEED)
    found = gather(options.data, reader, rng)
    weights, bias = fit_pairs(found, reader, SHARES)
    written = {
        "encoder": encoder.digest,
        "pairs": len(found),
        "bias": round(bias, 5),
        "weights": {name: round(float(weight), 5) for name, weight in zip(FEATURES, weights, strict=True)},
    }
    options.output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
