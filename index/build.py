"""From labelled prompts to a generation: embeds what is new, keeps what is known.

Called by `waypost build-index`. What changed is told by content hash, so a rebuild costs what changed and not what is
there. It never serves and never reads settings.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from index.acceptor import Acceptor, fit_acceptor
from index.catalogue import Catalogue
from index.encoder import Encoder, encode_texts, encode_tokens
from index.errors import GenerationError, ReferenceError_
from index.estimator import Estimator
from index.fitting import fit
from index.generation import (
    cost_matrix,
    current_generation,
    make_folder,
    score_matrix,
    set_current,
    staging,
    verify_generation,
    write_generation,
)
from index.judged import JudgedAnswer
from index.records import Reference
from index.references import write_references
from index.text import canonical, content_hash, digest
from index.vectors import Vectors

# Fewer references are fitted in well under a second.
_LEAST_KEPT: Final = 2_000
# Of references, counting a changed one twice: as it was and as it is.
_MOST_CHANGED: Final = 0.03


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did."""

    generation: str
    references: int
    embedded: int
    truncated: int
    estimator: Estimator
    acceptor: Acceptor | None = None

    @property
    def reused(self) -> int:
        """How many references had been embedded before."""
        return self.references - self.embedded


def build_index(
    references: Sequence[Reference],
    catalogue: Catalogue,
    encoder: Encoder,
    output: Path,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    fitting: Callable[[int, int], None] = lambda _done, _total: None,
    answers: Sequence[JudgedAnswer] = (),
    acceptor: Acceptor | None = None,
) -> BuildReport:
    """Build a generation below `output` and make it current.

    Args:
        references: at least one; their models are in the catalogue.
        catalogue: stored with the generation.
        encoder: embeds the prompts; its digest becomes part of the generation.
        output: the index folder.
        progress: called with (done, to do) prompts while embedding.
        fitting: called with (done, to do) prompts while the estimator is fitted.
        answers: with outcomes; an acceptor is fitted on them, and reviews answers with it.
        acceptor: of another generation of this encoder, kept where there are no answers.

    Raises:
        ReferenceError_: there are no references.
        InputError: there are too few answers to learn from.
        GenerationError: the folder cannot be made or written.
    """
    if not references:
        raise ReferenceError_("no references: at least one labelled prompt is needed to build an index")
    make_folder(output)  # found out before anything is embedded
    texts = [canonical(reference.prompt) for reference in references]
    hashes = np.frombuffer(b"".join(content_hash(encoder.digest, t) for t in texts), np.uint8).reshape(-1, 16)
    previous = _previous(output, encoder.digest)
    vectors, embedded, truncated = _embed(texts, hashes, encoder, previous, progress)
    labels = score_matrix(references, catalogue), cost_matrix(references, catalogue)
    rows = _fingerprints(hashes, *labels, catalogue)
    kept = _kept(rows, previous)
    estimator, fitted = kept or (fit(vectors, texts, *labels, progress=fitting), rows)
    if answers:
        acceptor = _acceptor(answers, encoder, progress)
    with _told(output):
        with staging(output) as folder:
            names = ["references.jsonl", "models.toml", "estimator.npz", "fitted.npy", "hashes.npy", "vectors.npy"]
            write_references(folder / "references.jsonl", references)
            (folder / "models.toml").write_text(catalogue.text, encoding="utf-8")
            estimator.save(folder / "estimator.npz")
            np.save(folder / "fitted.npy", fitted)
            np.save(folder / "hashes.npy", hashes)
            np.save(folder / "vectors.npy", vectors)
            if acceptor is not None:
                names.append("acceptor.npz")
                acceptor.save(folder / "acceptor.npz")
            generation = write_generation(
                output,
                {name: folder / name for name in names},
                encoder.digest,
                (len(vectors), encoder.dimensions),
                _calibration(estimator),
            )
        set_current(output, generation)
    return BuildReport(generation, len(references), embedded, truncated, estimator, acceptor)


@contextlib.contextmanager
def _told(output: Path) -> Iterator[None]:
    """Say where and what to do when a write fails: NumPy only says how many bytes of how many it wrote."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise GenerationError(
            f"{output}: the generation cannot be written ({why}): make room on the disk, or make it writable. "
            "What was in use stays so"
        ) from error


def _fingerprints(
    hashes: NDArray[np.uint8], scores: NDArray[np.float32], costs: NDArray[np.float32], catalogue: Catalogue
) -> NDArray[np.uint64]:
    """Return a number for each reference that another text, label or catalogue would change."""
    models = digest(catalogue.ids, 16)
    rows = zip(map(bytes, hashes), map(bytes, scores), map(bytes, costs), strict=True)
    return np.frombuffer(b"".join(digest((models, *row), 8) for row in rows), np.uint64)


def _kept(rows: NDArray[np.uint64], previous: Path | None) -> tuple[Estimator, NDArray[np.uint64]] | None:
    """Return the previous estimator and what it was fitted on, if it can be read and little has changed; else None.

    New references are neighbours at once; a fit that knew them as well would differ by less than its own uncertainty.
    """
    if previous is None or len(rows) < _LEAST_KEPT:
        return None
    fitted = np.load(previous / "fitted.npy", allow_pickle=False)
    if len(np.setxor1d(fitted, rows)) > _MOST_CHANGED * len(fitted):
        return None
    try:
        return Estimator.load(previous / "estimator.npz"), fitted
    except GenerationError:  # as another version stored it
        return None


def _calibration(estimator: Estimator) -> dict[str, Any]:
    """Return how right the estimates are, as the manifest holds it."""
    bins = [
        {"expected": round(e, 4), "actual": round(a, 4), "rows": int(n)} for e, a, n in estimator.reliability.tolist()
    ]
    return {"error": round(estimator.calibration_error, 4), "bins": bins}


def _acceptor(answers: Sequence[JudgedAnswer], encoder: Encoder, progress: Callable[[int, int], None]) -> Acceptor:
    """Embed prompts and answers, equal texts once, and fit."""
    texts = [canonical(text) for answer in answers for text in (answer.prompt, answer.answer)]
    row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    done = 0

    def finished(texts: int) -> None:
        nonlocal done
        done += texts
        progress(done, len(row))

    embedded = encode_texts(encoder, list(row), progress=finished).astype(np.float64)
    vectors = embedded[[row[text] for text in texts]]
    return fit_acceptor(answers, vectors[::2], vectors[1::2])


def _embed(
    texts: Sequence[str],
    hashes: NDArray[np.uint8],
    encoder: Encoder,
    previous: Path | None,
    progress: Callable[[int, int], None],
) -> tuple[Vectors, int, int]:
    """Return (n, d) vectors, and how many prompts were embedded and how many of these were too long."""
    known, old = _known(previous)
    vectors = np.empty((len(texts), encoder.dimensions), np.float32)
    missing: dict[bytes, list[int]] = {}
    for row, content in enumerate(map(bytes, hashes)):
        found = known.get(content)
        if found is None:
            missing.setdefault(content, []).append(row)
        else:
            vectors[row] = old[found]
    if not missing:
        return vectors, 0, 0
    firsts = [rows[0] for rows in missing.values()]
    new = encoder.tokenise([texts[row] for row in firsts])
    done = 0

    def finished(texts: int) -> None:
        nonlocal done
        done += texts
        progress(done, len(new))

    fresh = encode_tokens(encoder, new, progress=finished)
    for rows, vector in zip(missing.values(), fresh, strict=True):
        vectors[rows] = vector
    return vectors, len(new), sum(tokens.truncated for tokens in new)


def _previous(output: Path, encoder_digest: str) -> Path | None:
    """Return the current generation's folder if it is sound and of this encoder: what it holds can be kept."""
    try:
        folder = current_generation(output)
        return folder if verify_generation(folder).encoder_digest == encoder_digest else None
    except GenerationError:
        return None


def _known(previous: Path | None) -> tuple[dict[bytes, int], Vectors]:
    """Return content hash → row, and the vectors of these rows."""
    if previous is None:
        return {}, np.empty((0, 0), np.float32)
    hashes = np.load(previous / "hashes.npy", allow_pickle=False)
    vectors: Vectors = np.load(previous / "vectors.npy", allow_pickle=False, mmap_mode="r")
    return {bytes(content): row for row, content in enumerate(hashes)}, vectors
