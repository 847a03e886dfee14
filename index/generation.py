"""Generations: immutable, checksummed builds of the reference index, and the folder that holds them.

A generation is a folder with `manifest.json`; its id is the digest of all it holds, so the same build gives the
same id. It is written beside, checksummed, synced and renamed: it is there whole or not at all. Everything is
checked against the manifest before it is used. Written by `index.build`, read by the service and by `waypost check`.

    index folder/
    ├── CURRENT                     the id of the generation in use
    └── 3f2a…/                      one generation
        ├── manifest.json           what it holds, with size and SHA-256 of every other file
        ├── models.toml             the catalogue it was built with
        ├── references.jsonl        the references, in the order of the vectors' rows
        ├── estimator.npz           quality and cost of every model, as learned from all of these
        ├── fitted.npy              (n,) uint64: a fingerprint of every reference the estimator was fitted on
        ├── hashes.npy  vectors.npy content hash (n, 16) uint8 and embedding (n, d) float32 of every prompt
        └── acceptor.npz            where answers with outcomes were given: what reviews them
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from index.acceptor import Acceptor
from index.catalogue import Catalogue, parse_catalogue
from index.errors import GenerationError
from index.estimator import Estimator, experience
from index.records import Reference
from index.references import read_references
from index.vectors import Partition, Vectors

FORMAT: Final = 2
_CURRENT = "CURRENT"
_MANIFEST = "manifest.json"
_CONTENT: Final = ("format", "references", "encoder_digest", "dimensions", "calibration", "files")
_LATEST: Final = 253_402_300_800  # the year 10000, where timestamps end
_ABANDONED_S: Final = 86_400
_USUAL_TOKENS: Final = 1_000  # of a call, in and out, where prices are compared
# Correlations from so many references know nothing that more would not; from so few they are worth half.
_SAMPLE: Final = 20_000
_FEW: Final = 20.0
_REMEDY = "build it anew with `waypost build-index`"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation says of itself.

    `calibration`: how right its estimates were of references they were learned without, for people to read.
    """

    id: str
    created_at: float
    references: int
    encoder_digest: str
    dimensions: int
    calibration: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Generation:
    """One loaded build: references, their vectors and the catalogue they are labelled from."""

    manifest: Manifest
    catalogue: Catalogue
    references: Sequence[Reference]
    partition: Partition
    estimator: Estimator
    acceptor: Acceptor | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return self.manifest.id

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """Score of every model for every reference: shape (references, models), NaN where not known."""
        return score_matrix(self.references, self.catalogue)

    @cached_property
    def experience(self) -> NDArray[np.float32]:
        """What every reference says of every model, as the estimator reads it: see `index.estimator.experience`."""
        return experience(self.scores, self.estimator.mean)

    @cached_property
    def costs(self) -> NDArray[np.float32]:
        """Cost in USD of every model for every reference: shape (references, models), NaN where not known."""
        return cost_matrix(self.references, self.catalogue)

    @cached_property
    def mean_scores(self) -> NDArray[np.float32]:
        """Mean score of every model over the references that know it: shape (models,), NaN where none does."""
        return _column_means(self.scores)

    @cached_property
    def mean_costs(self) -> NDArray[np.float32]:
        """Mean cost in USD of every model over the references that know it: shape (models,), NaN where none does."""
        return _column_means(self.costs)

    @cached_property
    def agreement(self) -> NDArray[np.float64]:
        """How far models are right on the same prompts: correlation of their scores, shape (models, models).

        0 where two models are not known together; with few common references it is drawn towards that.
        """
        return score_agreement(self.scores)

    @cached_property
    def fallback(self) -> str:
        """The id of the model to use when nothing is known: the catalogue's, else the best over all references."""
        return self.catalogue.fallback or self.best

    @cached_property
    def best(self) -> str:
        """The id of the model with the best mean score over all references."""
        return self.catalogue.models[int(np.argmax(np.nan_to_num(self.mean_scores, nan=-1.0)))].id

    @cached_property
    def strongest(self) -> str:
        """The id of the model that is taken to be the strongest: the best one over all references.

        A label of a best model names the cheapest that will do, so most of them are no praise of how good a model is:
        where most references are such, it is the dearest model that one of them names.
        """
        labelled = {reference.best_model for reference in self.references if not reference.scores}
        named = [model for model in self.catalogue.models if model.id in labelled]
        if not named or 2 * sum(bool(reference.scores) for reference in self.references) >= len(self.references):
            return self.best
        return max(named, key=lambda model: model.cost_usd(_USUAL_TOKENS, _USUAL_TOKENS)).id


def score_matrix(references: Sequence[Reference], catalogue: Catalogue) -> NDArray[np.float32]:
    """Return scores of shape (references, models of the catalogue), NaN where not known.

    A best model means score 1 for it and 0 for the others. Models the catalogue does not have are left out.
    """
    column = {name: i for i, name in enumerate(catalogue.ids)}
    scores = np.full((len(references), len(column)), np.nan, np.float32)
    for row, reference in enumerate(references):
        if reference.best_model in column:
            scores[row] = 0.0
            scores[row, column[reference.best_model]] = 1.0
        for name, score in reference.scores.items():
            if name in column:
                scores[row, column[name]] = score
    return scores


def cost_matrix(references: Sequence[Reference], catalogue: Catalogue) -> NDArray[np.float32]:
    """Return costs in USD of shape (references, models of the catalogue), NaN where not known."""
    column = {name: i for i, name in enumerate(catalogue.ids)}
    costs = np.full((len(references), len(column)), np.nan, np.float32)
    for row, reference in enumerate(references):
        for name, cost in reference.costs.items():
            if name in column:
                costs[row, column[name]] = cost
    return costs


def score_agreement(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the correlation of scores between models, from the references that know both.

    Args:
        scores: shape (references, models), NaN where not known. Of very many references an even sample is taken.
    """
    scores = scores[:: max(1, len(scores) // _SAMPLE)]
    known = (~np.isnan(scores)).astype(np.float64)
    centred = np.nan_to_num(scores - _column_means(scores)).astype(np.float64)
    common = known.T @ known
    spread = np.sqrt(((centred**2).T @ known) * (known.T @ centred**2))
    correlation = np.divide(centred.T @ centred, spread, out=np.zeros_like(spread), where=spread > 0)
    return np.asarray(np.clip(correlation, -1.0, 1.0) * common / (common + _FEW))


def write_generation(
    root: Path,
    files: Mapping[str, Path],
    encoder_digest: str,
    vectors_shape: tuple[int, int],
    calibration: Mapping[str, Any],
) -> str:
    """Take finished files into a new generation below `root` and return its id; the same content is written once.

    Args:
        root: the index folder; made if it is not there.
        files: name inside the generation → a file to move there, on the same file system.
        encoder_digest: of the encoder that made the vectors.
        vectors_shape: (references, dimensions).
        calibration: as in `Manifest`; plain JSON.
    """
    listed = {name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for name, path in files.items()}
    content = {
        "format": FORMAT,
        "references": vectors_shape[0],
        "encoder_digest": encoder_digest,
        "dimensions": vectors_shape[1],
        "calibration": dict(calibration),
        "files": {name: listed[name] for name in sorted(listed)},
    }
    generation_id = _id_of(content)
    target = root / generation_id
    if target.exists():
        with contextlib.suppress(GenerationError):
            verify_generation(target)
            return generation_id
        shutil.rmtree(target)
    with staging(root) as folder:
        for name, path in files.items():
            path.replace(folder / name)
            _sync(folder / name)
        manifest = {"id": generation_id, "created_at": round(time.time(), 3), **content}
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _sync(folder / _MANIFEST)
        _sync(folder)
        try:
            folder.replace(target)
        except OSError:  # another build of the same was quicker
            verify_generation(target)
    _sync(root)
    return generation_id


def make_folder(root: Path) -> None:
    """Make the index folder, if it is not there; raises GenerationError where it cannot be made or written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GenerationError(f"{root}: no folder can be made here ({error.strerror}); name another") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise GenerationError(f"{root}: this folder cannot be written; make it writable, or name another")


@contextlib.contextmanager
def staging(root: Path) -> Any:
    """Yield a folder below `root` that is removed at the end, unless it was renamed."""
    make_folder(root)
    for left in root.glob(".building-*"):  # of builds that were killed
        with contextlib.suppress(FileNotFoundError):  # or that are done by now
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=root))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_manifest(folder: Path) -> Manifest:
    """Return a generation's manifest, or raise GenerationError where it is missing, unsound or too new."""
    path = folder / _MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise GenerationError(
                f"{path}: format {raw['format']!r} is not the one this version reads ({FORMAT}); {_REMEDY}"
            )
        content = {key: raw[key] for key in _CONTENT}
        if raw["id"] != _id_of(content) or not 0 <= raw["created_at"] < _LATEST:
            raise GenerationError(f"{path}: damaged: its id is not that of what it lists; {_REMEDY}")
        return Manifest(
            id=str(raw["id"]),
            created_at=float(raw["created_at"]),
            references=int(raw["references"]),
            encoder_digest=str(raw["encoder_digest"]),
            dimensions=int(raw["dimensions"]),
            calibration=dict(raw["calibration"]),
            files={str(k): dict(v) for k, v in raw["files"].items()},
        )
    except FileNotFoundError:
        raise GenerationError(f"{folder}: no generation is here ({_MANIFEST} is missing); {_REMEDY}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GenerationError(f"{path}: cannot be read ({error!r}); {_REMEDY}") from error


def verify_generation(folder: Path) -> Manifest:
    """Return the manifest after checking every file against it; raise GenerationError where one differs."""
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).name != name:
            raise GenerationError(f"{folder / _MANIFEST}: file name {name!r} leads elsewhere; {_REMEDY}")
        try:
            if not path.is_file():
                raise GenerationError(f"{path}: missing from the generation; {_REMEDY}")
            as_listed = path.stat().st_size == expected.get("bytes") and _sha256(path) == expected.get("sha256")
        except OSError as error:
            raise GenerationError(
                f"{path}: cannot be read ({error.strerror}); make it readable, or {_REMEDY}"
            ) from error
        if not as_listed:
            raise GenerationError(f"{path}: damaged: size or checksum differs from the manifest; {_REMEDY}")
    return manifest


def load_generation(folder: Path, encoder_digest: str | None = None) -> Generation:
    """Load a generation into memory, ready to be searched.

    Args:
        folder: of the generation itself.
        encoder_digest: of the encoder that will embed prompts; None: any.

    Raises:
        GenerationError: damaged, foreign, or made with another encoder.
    """
    manifest = verify_generation(folder)
    if encoder_digest is not None and manifest.encoder_digest != encoder_digest:
        raise GenerationError(
            f"{folder}: built with encoder {manifest.encoder_digest[:12]}, but {encoder_digest[:12]} is in use: "
            f"vectors of different encoders cannot be compared; {_REMEDY}, or set encoder.path to the other one"
        )
    try:
        catalogue = parse_catalogue((folder / "models.toml").read_text(encoding="utf-8"), str(folder / "models.toml"))
        references = read_references([folder / "references.jsonl"], catalogue).references
        vectors: Vectors = np.load(folder / "vectors.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise GenerationError(f"{folder}: cannot be loaded ({error}); {_REMEDY}") from error
    estimator = Estimator.load(folder / "estimator.npz")
    fits = estimator.fits(manifest.dimensions, len(catalogue.models)) and len(references) == manifest.references
    if vectors.shape != (manifest.references, manifest.dimensions) or not fits:
        raise GenerationError(f"{folder}: its parts do not fit together; {_REMEDY}")
    acceptor = Acceptor.load(folder / "acceptor.npz") if "acceptor.npz" in manifest.files else None
    if acceptor is not None and acceptor.embeds and len(acceptor.head) != 2 * manifest.dimensions:
        raise GenerationError(f"{folder}: its acceptor is of another encoder; {_REMEDY}")
    partition = Partition(manifest.dimensions)
    partition.add(np.arange(len(vectors)), vectors)
    return Generation(manifest, catalogue, references, partition, estimator, acceptor)


def list_generations(root: Path) -> list[tuple[Path, Manifest | GenerationError]]:
    """Return every generation below an index folder, newest first; unreadable ones with their error, last.

    Raises:
        GenerationError: the folder itself cannot be read.
    """
    found: list[tuple[Path, Manifest | GenerationError]] = []
    try:
        folders = sorted(root.iterdir()) if root.is_dir() else []
    except OSError as error:
        raise GenerationError(f"{root}: this folder cannot be read ({error.strerror}); make it readable") from error
    for folder in folders:
        if folder.is_dir() and not folder.name.startswith("."):
            try:
                manifest = read_manifest(folder)
                if manifest.id != folder.name:
                    raise GenerationError(f"{folder}: its id is {manifest.id}: name the folder so, or remove it")
                found.append((folder, manifest))
            except GenerationError as error:
                found.append((folder, error))
    return sorted(found, key=lambda f: -f[1].created_at if isinstance(f[1], Manifest) else 0.0)


def current_generation(root: Path) -> Path:
    """Return the folder of the generation in use; `root` may also be a generation itself."""
    if (root / _MANIFEST).is_file():
        return root
    try:
        name = (root / _CURRENT).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        raise GenerationError(
            f"{root}: no index is here; build one with "
            f"`waypost build-index --references PATH --models models.toml --output {root}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise GenerationError(f"{root / _CURRENT}: cannot be read ({why}); make it readable, or {_REMEDY}") from error
    if not name or Path(name).name != name or name.startswith("."):
        raise GenerationError(f"{root / _CURRENT}: does not name a generation; {_REMEDY}")
    return root / name


def set_current(root: Path, generation_id: str) -> None:
    """Make a generation the one in use from the next start on: the file is replaced at once."""
    temporary = root / f".{_CURRENT}-{secrets.token_hex(8)}"
    try:
        temporary.write_text(generation_id + "\n", encoding="utf-8")
        _sync(temporary)
        temporary.replace(root / _CURRENT)
    finally:
        with contextlib.suppress(OSError):  # gone after the rename, or never there
            temporary.unlink()
    _sync(root)


def _id_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _column_means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    seen = (~np.isnan(values)).sum(axis=0)
    means = np.nansum(values, axis=0, dtype=np.float64) / np.maximum(seen, 1)
    return np.where(seen > 0, means, np.nan).astype(np.float32)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
