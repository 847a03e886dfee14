"""The weights of a BERT-like encoder under neutral names, whatever the library calls them.

Owns the table of known architectures, and the reading of one into a `Weights`. Never imports torch,
never builds a graph: it takes arrays and gives arrays. Called by `index.export`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from index.errors import EncoderError

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x @ weight + bias, with weight (inputs, outputs)."""

    weight: Array
    bias: Array
    module: str
    """Where the library keeps it: calibration watches what goes in there."""


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation with gain and bias, each (hidden,)."""

    gain: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class Layer:
    """One post-norm transformer layer."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    norm: Norm


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole encoder, up to its token vectors."""

    words: Array
    """(vocabulary, hidden)"""
    positions: Array
    """(positions, hidden): row 0 is the first token's; the one token type is added in."""
    embedding_norm: Norm
    layers: tuple[Layer, ...]
    relative: Array | None
    """(2 * positions - 1, heads): what attention adds at distance key - query, from the farthest
    left on. Only MPNet has it."""
    heads: int
    epsilon: float
    activation: str


@dataclass(frozen=True, slots=True)
class _Names:
    """Where one architecture keeps its parts; `{}` is the layer's number."""

    layer: str
    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    up: str
    down: str
    norm: str
    heads: str = "num_attention_heads"
    layers: str = "num_hidden_layers"
    activation: str = "hidden_act"
    first_position: int | None = 0
    """The first token's row in the table of positions; None: the one after the padding token's id."""


_BERT_NAMES: Final[dict[str, Any]] = {
    "layer": "encoder.layer.{}.",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
_ROBERTA: Final = _Names(**_BERT_NAMES, first_position=None)
_MPNET: Final = _Names(
    layer="encoder.layer.{}.",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    norm="output.LayerNorm",
    first_position=2,
)
_DISTILBERT: Final = _Names(
    layer="transformer.layer.{}.",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    norm="output_layer_norm",
    heads="n_heads",
    layers="n_layers",
    activation="activation",
)
ARCHITECTURES: Final[Mapping[str, _Names]] = {
    "bert": _Names(**_BERT_NAMES),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _MPNET,
    "distilbert": _DISTILBERT,
}
"""By `model_type` of a transformers configuration."""


def read_weights(state: Mapping[str, Array], config: Mapping[str, Any], max_tokens: int) -> Weights:
    """Read an encoder from its state dictionary and configuration.

    `max_tokens` is the window: positions beyond it are dropped. Raises `EncoderError` if the
    architecture is not one of `ARCHITECTURES`, or is used in a way this reader does not know.
    """
    kind = str(config.get("model_type"))
    names = ARCHITECTURES.get(kind)
    if names is None:
        known = ", ".join(sorted(ARCHITECTURES))
        message = f"cannot export an encoder of architecture {kind!r}; known are {known}"
        raise EncoderError(message)
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        message = f"cannot export this {kind}: it is a decoder, or its positions are not absolute"
        raise EncoderError(message)
    heads = int(config[names.heads])
    try:
        return Weights(
            words=state["embeddings.word_embeddings.weight"],
            positions=_positions(state, config, names, max_tokens),
            embedding_norm=_norm(state, "embeddings.LayerNorm"),
            layers=tuple(_layer(state, names, n) for n in range(int(config[names.layers]))),
            relative=_relative(state, max_tokens, heads),
            heads=heads,
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            activation=str(config[names.activation]),
        )
    except KeyError as error:
        message = f"cannot export this {kind}: it has no weight {error}"
        raise EncoderError(message) from error


def _layer(state: Mapping[str, Array], names: _Names, number: int) -> Layer:
    at = names.layer.format(number)
    return Layer(
        query=_linear(state, at + names.query),
        key=_linear(state, at + names.key),
        value=_linear(state, at + names.value),
        output=_linear(state, at + names.output),
        attention_norm=_norm(state, at + names.attention_norm),
        up=_linear(state, at + names.up),
        down=_linear(state, at + names.down),
        norm=_norm(state, at + names.norm),
    )


def _linear(state: Mapping[str, Array], name: str) -> Linear:
    return Linear(state[f"{name}.weight"].T, state[f"{name}.bias"], name)


def _norm(state: Mapping[str, Array], name: str) -> Norm:
    return Norm(state[f"{name}.weight"], state[f"{name}.bias"])


def _positions(state: Mapping[str, Array], config: Mapping[str, Any], names: _Names, max_tokens: int) -> Array:
    first = names.first_position
    if first is None:
        first = int(config["pad_token_id"]) + 1
    table = state["embeddings.position_embeddings.weight"][first : first + max_tokens]
    if len(table) < max_tokens:
        message = f"the model has {len(table)} positions, too few for {max_tokens} tokens"
        raise EncoderError(message)
    types = state.get("embeddings.token_type_embeddings.weight")
    return table if types is None else table + types[0]


def _relative(state: Mapping[str, Array], max_tokens: int, heads: int) -> Array | None:
    """Spread MPNet's bucketed distances (the scheme of T5, arXiv 1910.10683) over a plain table."""
    buckets = state.get("encoder.relative_attention_bias.weight")
    if buckets is None:
        return None
    half = len(buckets) // 2
    distance = np.arange(1 - max_tokens, max_tokens)
    magnitude = np.abs(distance)
    exact = half // 2
    # In fp32, as the library does: the logarithm decides on which side of a bucket's edge we fall.
    ratio = np.log(np.maximum(magnitude, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(np.log(128 / exact)) * (half - exact)).astype(np.int64)
    bucket = np.where(magnitude < exact, magnitude, np.minimum(far, half - 1))
    table: Array = buckets[bucket + half * (distance > 0)]
    if table.shape[1] != heads:
        message = f"the relative attention bias is for {table.shape[1]} heads, not {heads}"
        raise EncoderError(message)
    return table
