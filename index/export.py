"""From a sentence-transformers model to the artefact that `index.encoder` runs.

Owns reading the model, calibrating, verifying the result against the original, and writing the
folder. Never runs beside a server: it is called by `waypost export-encoder` and by CI, and is the
only module that imports torch and sentence-transformers (the `[export]` extra), when first needed.
"""

import importlib
import importlib.metadata
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers

from index import encoder
from index.errors import EncoderError
from index.export_weights import Array, Linear, Weights, read_weights

if TYPE_CHECKING:
    from index.export_graph import Head, Precision

SENTENCES: Final = Path(__file__).parent.parent / "encoders" / "sentences"
"""Our own texts of many kinds: `calibration.jsonl` and, none of them in both, `verification.jsonl`."""

_FRAGMENT: Final = "short"
"""The kind of texts that are no sentences."""

# Quantising cost .007 at worst (a text of three tokens). Below these something is wrong with the graph, not coarse.
_LEAST_MINIMUM: Final = 0.97
_LEAST_MEAN: Final = 0.99
# Two exports by the same versions differ only where a CPU rounds a calibration figure differently.
_SAME: Final = 0.9999
_VERSIONS_OF: Final = (
    "onnx", "onnxruntime", "sentence-transformers", "tokenizers", "torch", "transformers",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Cosine between an artefact's vectors and the original's over some texts; `worst` is the one of the lowest."""

    texts: int
    minimum: float
    mean: float
    worst: str


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What `export` wrote, and how faithful it is."""

    folder: Path
    digest: str
    dimensions: int
    max_tokens: int
    precision: str
    megabytes: float
    fidelity: Fidelity
    """Over the verification sentences."""
    fragments: Fidelity
    """Over verification texts that are no sentences, a word, a number or a sign: few tokens, so no errors cancel."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far two artefacts' vectors are apart, as cosines over the verification sentences."""

    identical: bool
    minimum: float
    mean: float

    @property
    def same(self) -> bool:
        """True if the two may stand for one another: the same export, up to a CPU's rounding."""
        return self.identical or self.minimum >= _SAME


@dataclass(frozen=True, slots=True)
class _Source:
    """A sentence-transformers model, taken apart."""

    model: Any
    network: Any
    weights: Weights
    head: "Head"
    tokenizer: Tokenizer
    max_tokens: int
    prefix: str
    licence: str


def export(
    model: str,
    output: Path,
    *,
    progress: Callable[[str], None] | None = None,
    precision: "Precision" = "int8",
    source: str | None = None,
) -> ExportReport:
    """Export a sentence-transformers model to the folder `output`, verified against the original.

    `model` is a hub id or a folder; `source` is what to record as its origin if that is a folder.
    `progress` is called with a phrase as each stage begins. "fp32" is for measuring int8 against.
    Known are post-norm encoders (BERT, RoBERTa, XLM-R, CamemBERT, MPNet, DistilBERT) with mean or
    cls pooling and any dense layers after it.

    Raises `EncoderError` if the `[export]` extra is not installed, the model cannot be read or is
    of another kind, or the result is not faithful to it. Nothing is written then.
    """
    say = progress or (lambda _: None)
    _require_extra()
    from index.export_graph import build_graph

    say("loading the model")
    origin = _open_source(model)
    ranges = None
    if precision == "int8":
        say("calibrating")
        ranges = _calibrate(origin, read_sentences("calibration"))
    say("building the graph")
    graph = build_graph(origin.weights, origin.head, precision=precision, ranges=ranges)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as name:
        draft = Path(name)
        (draft / encoder.MODEL).write_bytes(graph.SerializeToString(deterministic=True))
        origin.tokenizer.save(str(draft / encoder.TOKENIZER), pretty=False)
        description = _describe(draft, origin, precision, source or model)
        _write_description(draft, description)
        say("verifying against the original")
        fidelity, fragments = _verify(encoder.OnnxEncoder.load(draft), origin)
        description["fidelity"] = {"sentences": _stated(fidelity), "fragments": _stated(fragments)}
        _write_description(draft, description)
        for part in (encoder.MODEL, encoder.TOKENIZER, encoder.DESCRIPTION):
            (draft / part).replace(output / part)
    size = sum((output / part).stat().st_size for part in (encoder.MODEL, encoder.TOKENIZER))
    return ExportReport(
        folder=output,
        digest=description["digest"],
        dimensions=description["dimensions"],
        max_tokens=origin.max_tokens,
        precision=precision,
        megabytes=size / 1e6,
        fidelity=fidelity,
        fragments=fragments,
    )


def compare(left: Path, right: Path) -> Comparison:
    """Compare two exported encoders on the verification sentences: a fresh export with an old one.

    Needs no extra. Raises `EncoderError` if either cannot be loaded or their dimensions differ.
    """
    one, other = encoder.OnnxEncoder.load(left), encoder.OnnxEncoder.load(right)
    if one.dimensions != other.dimensions:
        message = f"{left} gives {one.dimensions} dimensions, {right} {other.dimensions}"
        raise EncoderError(message)
    texts = read_sentences("verification")
    vectors = [encoder.encode_texts(each, texts) for each in (one, other)]
    cosines = _cosines(*vectors)
    return Comparison(one.digest == other.digest, float(cosines.min()), float(cosines.mean()))


def read_sentences(name: str) -> list[str]:
    """Read the texts called `name` (calibration, verification). Raises `EncoderError`."""
    return [text for text, _ in _read_texts(name)]


def _read_texts(name: str) -> list[tuple[str, bool]]:
    """Read texts, and whether each is no sentence but a fragment."""
    path = SENTENCES / f"{name}.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [(row["text"], row["kind"] == _FRAGMENT) for row in rows]
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(f"{path} cannot be read ({error!r}): restore it") from error


def _require_extra() -> None:
    for name in ("torch", "sentence_transformers", "onnx"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            message = (
                f"exporting an encoder needs {name}: use `make export-encoder`, which sets it up beside the rest, or "
                f"{sys.executable} -m pip install 'waypost[export]'"
            )
            raise EncoderError(message) from error


def _open_source(name: str) -> _Source:
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(name, device="cpu").eval()
    except Exception as error:  # every layer below raises its own
        raise EncoderError(f"cannot load {name} as a sentence-transformers model: {error}") from error
    modules = list(model)
    if type(modules[0]).__name__ != "Transformer":
        raise EncoderError(f"{name} does not begin with a transformer, but {modules[0]}")
    network = modules[0].auto_model
    state = {key: value.float().numpy() for key, value in network.state_dict().items()}
    max_tokens = int(model.max_seq_length)
    prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    return _Source(
        model=model,
        network=network,
        weights=read_weights(state, network.config.to_dict(), max_tokens),
        head=_read_head(name, modules[1:]),
        tokenizer=_read_tokenizer(name, modules[0], max_tokens),
        max_tokens=max_tokens,
        prefix=prompt or "",
        licence=_read_licence(name, model),
    )


def _read_head(name: str, modules: Sequence[Any]) -> "Head":
    from index.export_graph import Head

    kinds = [type(module).__name__ for module in modules]
    if not re.fullmatch(r"Pooling( Dense)*( Normalize)?", " ".join(kinds)):
        raise EncoderError(f"{name}: cannot export what follows its transformer: {kinds}")
    pooling = modules[0].pooling_mode
    if pooling not in ("mean", "cls") or not modules[0].include_prompt:
        raise EncoderError(f"{name}: cannot export pooling {pooling!r}, only mean and cls")
    dense: list[tuple[Linear, str]] = []
    for module in modules[1 : 1 + kinds.count("Dense")]:
        activation = type(module.activation_function).__name__
        if activation not in ("Identity", "Tanh"):
            raise EncoderError(f"{name}: cannot export a dense layer with {activation}")
        weight = module.linear.weight.detach().float().numpy().T
        bias = module.linear.bias
        offset = np.zeros(weight.shape[1], np.float32) if bias is None else bias.detach().numpy()
        dense.append((Linear(weight, offset, "dense"), activation))
    return Head(pooling, tuple(dense))


def _read_tokenizer(name: str, transformer: Any, max_tokens: int) -> Tokenizer:
    backend = getattr(transformer.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(f"{name} has no fast tokenizer, so no {encoder.TOKENIZER}")
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    if getattr(transformer, "do_lower_case", False):
        steps = [normalizers.Lowercase(), *filter(None, [tokenizer.normalizer])]
        tokenizer.normalizer = normalizers.Sequence(steps)
    if not tokenizer.encode("").ids:
        raise EncoderError(f"{name}: an empty text has no tokens, so it could have no vector")
    return tokenizer


def _read_licence(name: str, model: Any) -> str:
    card = Path(name) / "README.md"
    if card.is_file():
        found = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8"), re.MULTILINE)
        return found[1] if found else "unknown"
    return str(getattr(model.model_card_data, "license", None) or "unknown")


def _calibrate(source: _Source, texts: Sequence[str]) -> dict[str, Array]:
    """Record max|x| of each channel of what goes into each linear layer over `texts`."""
    import torch

    modules = dict(source.network.named_modules())
    ranges: dict[str, Array] = {}

    def watch(name: str) -> Callable[[Any, Any], None]:
        def record(_module: Any, inputs: Any) -> None:
            reach = inputs[0].detach().abs().flatten(0, -2).amax(0).numpy()
            ranges[name] = np.maximum(ranges.get(name, np.float32(0)), reach)

        return record

    hooks = [
        modules[linear.module].register_forward_pre_hook(watch(linear.module))
        for layer in source.weights.layers
        for linear in (layer.query, layer.output, layer.up)
    ]
    with torch.no_grad():
        for text in texts:  # one by one: what stands in padding must not count
            ids = source.tokenizer.encode(source.prefix + text).ids
            source.network(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return ranges


def _verify(exported: encoder.OnnxEncoder, source: _Source) -> tuple[Fidelity, Fidelity]:
    """Return how faithful the vectors of sentences are, and those of fragments."""
    read = _read_texts("verification")
    texts = [text for text, _ in read]
    original = source.model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    cosines = _cosines(encoder.encode_texts(exported, texts), np.asarray(original, np.float32))
    found = []
    for fragments in (False, True):
        places = [place for place, (_, fragment) in enumerate(read) if fragment is fragments]
        least = min(places, key=cosines.__getitem__)
        found.append(Fidelity(len(places), float(cosines[least]), float(cosines[places].mean()), texts[least]))
    if cosines.min() < _LEAST_MINIMUM or cosines.mean() < _LEAST_MEAN:
        message = (
            f"the export is not faithful to the original: cosine {cosines.min():.4f} at worst "
            f"({texts[int(cosines.argmin())]!r}), {cosines.mean():.4f} on average"
        )
        raise EncoderError(message)
    return found[0], found[1]


def _stated(fidelity: Fidelity) -> dict[str, float]:
    return {"texts": fidelity.texts, "minimum": round(fidelity.minimum, 5), "mean": round(fidelity.mean, 5)}


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    one, other = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines: NDArray[np.float64] = (one * other).sum(axis=1) / norms
    return cosines


def _describe(folder: Path, source: _Source, precision: str, origin: str) -> dict[str, Any]:
    """State all of `encoder.json` but the fidelity. No times: equal exports are equal files."""
    files = {part: encoder.file_digest(folder / part) for part in (encoder.MODEL, encoder.TOKENIZER)}
    dense = source.head.dense
    return {
        "format": encoder.FORMAT,
        "source": origin,
        "licence": source.licence,
        "precision": precision,
        "dimensions": len(dense[-1][0].bias) if dense else source.weights.words.shape[1],
        "max_tokens": source.max_tokens,
        "prefix": source.prefix,
        "pooling": source.head.pooling,
        "normalised": True,
        "digest": encoder.artefact_digest([*files.values(), str(source.max_tokens), source.prefix]),
        "files": files,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS_OF},
    }


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (folder / encoder.DESCRIPTION).write_text(text, encoding="utf-8")
