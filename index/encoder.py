"""Text to unit vectors: the encoders, and the rule by which texts share a batch.

Owns tokenising, the only onnxruntime session of the process, and `HashEncoder`, the in-memory
encoder for tests. Never exports or changes a model (`index.export` does), reads no settings, keeps
no vector. Called by `service` for every prompt that is not an exact hit, by the index builder and
by benchmarks.

A vector is the same bytes alone and in any batch: the products in the artefact are int8 with one
scale per token, everything else works on one token or one text at a time, and batches are padded
to a multiple of `_PAD_MULTIPLE` so that the same kernels add in the same order.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from index.errors import EncoderError

# Since 1.29 onnxruntime reports its use to its maker unless it is told not to, and it looks when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

DESCRIPTION: Final = "encoder.json"
MODEL: Final = "model.onnx"
TOKENIZER: Final = "tokenizer.json"
FORMAT: Final = 1
"""The layout of an encoder folder; `index.export` writes this number, `OnnxEncoder.load` wants it."""

# Padding to 4 was enough for equal bytes with AVX-512; without, 20 % of 136 texts differed. 8 is one AVX2 register of
# fp32, and cost nothing that could be measured, because only attention sees padding.
_PAD_MULTIPLE: Final = 8

# Tokenising is linear, so a 10 MB prompt must be cut before it, not after. Of 25,000 real prompts in English (chat,
# support, exams) that fitted a window of 256 tokens, the longest had 1,453 characters, and none 9 a token.
_CHARACTERS_PER_TOKEN: Final = 16

# Near the middle of a plateau: 64 to 512 tokens a batch differ by less than 10 % for prompts of 16 and of 92 tokens.
_BATCH_TOKENS: Final = 256
_OFFLINE_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of one text: special tokens included, not padded."""

    ids: list[int]
    truncated: bool
    """True if the text did not fit the encoder's window: its vector speaks for its beginning."""

    def __len__(self) -> int:
        """Count the tokens: what a batch costs."""
        return len(self.ids)


class Encoder(Protocol):
    """What turns texts into vectors. Implementations may be shared between threads."""

    @property
    def digest(self) -> str:
        """The sha256 of the artefact, in hex: vectors of different digests never meet."""
        ...

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """The window: the longest `Tokens` that `tokenise` gives."""
        ...

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Turn texts into token ids, in order. Any string is accepted, an empty one too."""
        ...

    def encode(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """Encode one batch on the calling thread.

        Returns (len(batch), dimensions), rows of unit length, each the same bytes in any batch.
        """
        ...


class OnnxEncoder:
    """An encoder exported by `index.export`: one onnxruntime session, run on the calling thread."""

    def __init__(self, session: ort.InferenceSession, tokenizer: Tokenizer, description: dict[str, Any]) -> None:
        """Wrap what `load` has opened and verified."""
        self._session = session
        self._tokenizer = tokenizer
        self._digest = str(description["digest"])
        self._dimensions = int(description["dimensions"])
        self._max_tokens = int(description["max_tokens"])
        self._prefix = str(description["prefix"])

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open the encoder in `folder`, after checking its files against `encoder.json`.

        Raises `EncoderError` if a file is missing, changed, or of another format.
        """
        description = read_description(folder)
        tokenizer = _open_tokenizer(folder / TOKENIZER, int(description["max_tokens"]))
        return cls(_open_session(folder / MODEL), tokenizer, description)

    @property
    def digest(self) -> str:
        """The sha256 of the artefact, in hex."""
        return self._digest

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return self._dimensions

    @property
    def max_tokens(self) -> int:
        """The window, in tokens."""
        return self._max_tokens

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Turn texts into token ids, in order. Any string is accepted, an empty one too."""
        return [self._tokenise(text) for text in texts]

    def _tokenise(self, text: str) -> Tokens:
        limit = self._max_tokens * _CHARACTERS_PER_TOKEN
        # A lone surrogate is legal in a Python string but has no UTF-8, which tokenizers need.
        head = text[:limit].encode("utf-8", "replace").decode("utf-8")
        # One by one, not encode_batch: that starts a thread pool of its own, and warns after a fork.
        encoding = self._tokenizer.encode(self._prefix + head)
        return Tokens(encoding.ids, truncated=len(text) > limit or bool(encoding.overflowing))

    def encode(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """Encode one batch on the calling thread: (len(batch), dimensions), rows of unit length."""
        if not batch:
            return np.empty((0, self._dimensions), np.float32)
        longest = max(map(len, batch))
        shape = (len(batch), -(-longest // _PAD_MULTIPLE) * _PAD_MULTIPLE)
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens.ids
            mask[row, : len(tokens)] = 1
        (vectors,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        return np.asarray(vectors, np.float32)


class HashEncoder:
    """A deterministic bag-of-words encoder without a model: for tests, and for trying things out.

    A word hashes to a token id, an id seeds a Gaussian direction, a text is the normalised sum:
    texts that share words are near each other, all others nearly orthogonal.
    """

    def __init__(self, dimensions: int = 64, max_tokens: int = 256) -> None:
        """Make an encoder of `dimensions` > 0 with a window of `max_tokens` > 1."""
        self._dimensions = dimensions
        self._max_tokens = max_tokens
        self._digest = hashlib.sha256(f"hash:{dimensions}:{max_tokens}".encode()).hexdigest()
        self._directions: dict[int, NDArray[np.float64]] = {}

    @property
    def digest(self) -> str:
        """The sha256 of the parameters, in hex."""
        return self._digest

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return self._dimensions

    @property
    def max_tokens(self) -> int:
        """The window, in tokens."""
        return self._max_tokens

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Turn texts into one id a word, after a start token that is in every text."""
        return [self._tokenise(text) for text in texts]

    def _tokenise(self, text: str) -> Tokens:
        limit = self._max_tokens * _CHARACTERS_PER_TOKEN
        words = text[:limit].lower().split()
        ids = [0, *map(_word_id, words[: self._max_tokens - 1])]
        return Tokens(ids, truncated=len(text) > limit or len(words) >= self._max_tokens)

    def encode(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """Sum and normalise: (len(batch), dimensions), rows of unit length."""
        rows = [self._encode(tokens.ids) for tokens in batch]
        return np.array(rows, np.float32).reshape(len(rows), self._dimensions)

    def _encode(self, ids: Sequence[int]) -> NDArray[np.float64]:
        # The start token speaks only for a text without words, or it would be common to all.
        total = np.sum([self._direction(word) for word in ids[1:] or ids[:1]], axis=0)
        unit: NDArray[np.float64] = total / np.linalg.norm(total)
        return unit

    def _direction(self, word: int) -> NDArray[np.float64]:
        if word not in self._directions:
            self._directions[word] = np.random.default_rng(word).normal(size=self._dimensions)
        return self._directions[word]


def pack(lengths: Sequence[int], *, batch_tokens: int = _BATCH_TOKENS) -> list[list[int]]:
    """Group texts of similar length into batches, because padding is what a batch costs.

    Takes the token counts of the texts, and how many tokens (padding included) a batch may hold.
    Returns indices into `lengths`, shortest first; every index once; a text longer than the budget
    stands alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Sorted by length, so the text being added is the longest: it sets the padded width.
        if batches and (len(batches[-1]) + 1) * lengths[index] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def encode_texts(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    batch_tokens: int = _BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Tokenise and encode many texts offline: see `encode_tokens`."""
    return encode_tokens(encoder, encoder.tokenise(texts), batch_tokens=batch_tokens, progress=progress)


def encode_tokens(
    encoder: Encoder,
    tokens: Sequence[Tokens],
    *,
    batch_tokens: int = _BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Encode many tokenised texts offline: packed by length, on two threads that share the encoder.

    `progress` is called with the number of texts just finished, from one thread at a time.
    Returns (len(tokens), dimensions) in the order of `tokens`.
    """
    batches = pack([len(text) for text in tokens], batch_tokens=batch_tokens)
    vectors = np.empty((len(tokens), encoder.dimensions), np.float32)
    lock = threading.Lock()

    def run(batch: Sequence[int]) -> None:
        vectors[batch] = encoder.encode([tokens[index] for index in batch])
        if progress is not None:
            with lock:
                progress(len(batch))

    with ThreadPoolExecutor(_OFFLINE_THREADS, thread_name_prefix="encode") as pool:
        # Longest first: the last batches to finish are then the shortest.
        for future in [pool.submit(run, batch) for batch in reversed(batches)]:
            future.result()
    return vectors


def artefact_digest(parts: Iterable[str]) -> str:
    """Hash what decides a vector: the sha256 of each file, the window and the prefix, in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_description(folder: Path) -> dict[str, Any]:
    """Read and verify `encoder.json`: the folder's files must have the digests it states.

    Raises `EncoderError`, which names the file and the remedy.
    """
    remedy = "export it again with `waypost export-encoder`, or restore the folder"
    path = folder / DESCRIPTION
    try:
        description: dict[str, Any] = json.loads(path.read_bytes())
        if description["format"] != FORMAT:
            message = f"{path}: format {description['format']}, expected {FORMAT}: {remedy}"
            raise EncoderError(message)
        stated = [description["files"][name] for name in (MODEL, TOKENIZER)]
        parts = [*stated, str(description["max_tokens"]), description["prefix"]]
        consistent = artefact_digest(parts) == description["digest"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path} cannot be read as an encoder's description ({error!r}): {remedy}"
        raise EncoderError(message) from error
    if not consistent:
        message = f"{path}: its digest is not that of what it states: {remedy}"
        raise EncoderError(message)
    for name, expected in zip((MODEL, TOKENIZER), stated, strict=True):
        if file_digest(folder / name) != expected:
            message = f"{folder / name} is not the file that {DESCRIPTION} describes: {remedy}"
            raise EncoderError(message)
    return description


def file_digest(path: Path) -> str:
    """Hash a file: its sha256 in hex. Raises `EncoderError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        message = f"{path} cannot be read ({error}): restore the folder, or export the encoder again"
        raise EncoderError(message) from error


def _word_id(word: str) -> int:
    encoded = word.encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=4).digest(), "big") or 1


def _open_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises the bare class
        message = f"{path} is not a tokenizer ({error}): export the encoder again"
        raise EncoderError(message) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _open_session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The graph comes fused: optimising it further changed neither speed nor memory.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if not _has_vnni():
        # Without VNNI the u8 x s8 kernel adds in 16 bits and saturates, and vectors are wrong. This has the products
        # done as u8 x u8, which is exact, to the same bytes, and takes 1.4 to 1.7 times as long.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base
        message = f"{path} cannot be opened by onnxruntime {ort.__version__} ({error}): export the encoder again"
        raise EncoderError(message) from error


def _has_vnni() -> bool:
    """Say whether this CPU adds int8 products in 32 bits; False where that cannot be seen."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False
    return bool(words & {"avx512_vnni", "avx_vnni"})
