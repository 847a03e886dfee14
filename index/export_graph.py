"""The ONNX graph of an encoder: token ids to unit vectors, in fp32 or in row-wise int8.

Owns the graph and the quantising of its weights. Never sees torch, files or texts. Called by `index.export`; what it
builds is run by `index.encoder`.

Two measurements gave the graph its shape. Padding is what batches cost, so everything but attention works on the real
tokens only, as one (tokens, hidden) matrix: batches of unlike prompts ran 1.6 times faster, with long ones among them
1.9 times. And a scale per batch makes a vector depend on its neighbours, so each token has its own.

An int8 product is: scale = max|x| of the token / 127, x to unsigned int8 around 128 (u8 x s8 is onnxruntime's fast
path), an exact integer product, both scales applied in fp32. Smoothing first moves the range of outlier channels from
activations into weights (SmoothQuant, arXiv 2211.10438); over 400 real prompts it took the cosine from .990 at worst
and .9975 on average to .996 and .9989. After the activation function values are barely negative, so the zero point is
28 there and 227 steps are left for the positive side. Smoothing those as well made it worse (.995), as did shifting
channels to their middle; error-compensating rounding (GPTQ) gained .0001 and would not be repeatable between CPUs.

Weights use all 8 bits. Where that could saturate (CPUs without VNNI), `index.encoder` has the products done wider.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from index.errors import EncoderError
from index.export_weights import Array, Layer, Linear, Norm, Weights

Precision = Literal["int8", "fp32"]
Pooling = Literal["mean", "cls"]

_CENTRE: Final = 128
_GELU_ZERO: Final = 28
_GELU_MINIMUM: Final = 0.17  # the lowest value of GELU is -0.16997; ReLU's is 0
_ALPHA: Final = 0.6  # of .3 to .8; .7 is as good on average, the paper's .5 is .0001 lower
_CONTRIB: Final = "com.microsoft"
_SHARED_SIZE: Final = 64  # constants up to this many elements are stored once, however often they are used
_ACTIVATIONS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}


@dataclass(frozen=True, slots=True)
class Head:
    """What turns token vectors into the text's: pooling, then any dense layers."""

    pooling: Pooling
    dense: tuple[tuple[Linear, str], ...] = ()
    """Each with its activation: "Identity" or "Tanh"."""


@dataclass(frozen=True, slots=True)
class _Quantised:
    """Activations as the integer product wants them: (tokens, n) u8, and (tokens, 1) scales."""

    values: str
    scales: str
    zero: int


def build_graph(
    weights: Weights,
    head: Head,
    *,
    precision: Precision,
    ranges: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """Build the model: (input_ids, attention_mask), int64 (texts, tokens), to `embedding`.

    `ranges` is max|x| per input channel of each linear layer, by `Linear.module`, over calibration
    texts: without it int8 is not smoothed. The result is fp32 (texts, dimensions), unit rows. Texts
    are padded on the right, by any amount; no row may be all padding.

    Raises `EncoderError` if the activation function is not known.
    """
    if weights.activation not in _ACTIVATIONS:
        message = f"cannot export the activation {weights.activation!r}; known: {[*_ACTIVATIONS]}"
        raise EncoderError(message)
    return _Graph(weights, head, precision, ranges or {}).build()


class _Graph:
    """The nodes and constants of one model while it is being built."""

    def __init__(self, weights: Weights, head: Head, precision: Precision, ranges: Mapping[str, Array]) -> None:
        self._weights = weights
        self._head = head
        self._int8 = precision == "int8"
        self._ranges = ranges
        self._hidden = weights.words.shape[1]
        self._width = self._hidden // weights.heads
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._tensors: list[onnx.TensorProto] = []
        self._zeros: dict[int, str] = {}

    def build(self) -> onnx.ModelProto:
        """Put the parts together, in the order data flows."""
        self._index_tokens()
        hidden = self._embed()
        for layer in self._weights.layers:
            hidden = self._feed_forward(layer, self._attend(layer, hidden))
        vectors = self._pool(hidden)
        dimensions = self._hidden
        for linear, activation in self._head.dense:
            vectors = self._dense(vectors, linear)
            vectors = vectors if activation == "Identity" else self._op(activation, vectors)
            dimensions = len(linear.bias)
        self._nodes.append(helper.make_node("LpNormalization", [vectors], ["embedding"], p=2, axis=1))
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"])
                for name in ("input_ids", "attention_mask")
            ],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["texts", dimensions])],
            self._tensors,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    # Where each real token stands, in the padded layout and in the flat one.

    def _index_tokens(self) -> None:
        heads = self._weights.heads
        shape = self._op("Shape", "input_ids")
        length = self._op("Gather", shape, self._int([1]))
        flat_mask = self._op("Reshape", "attention_mask", self._int([-1]))
        real = self._op("Reshape", self._op("NonZero", flat_mask), self._int([-1]))
        self._ids = self._op("Gather", self._op("Reshape", "input_ids", self._int([-1])), real)
        self._position = self._op("Mod", real, length)
        # Padding slots point at some real token: attention masks them out, but they must be finite.
        count = self._op("Sub", self._op("CumSum", flat_mask, self._int(0)), self._int(1))
        self._slots = self._op("Reshape", self._op("Max", count, self._int(0)), shape)
        # A token's query, key and value are 3 * heads rows of `width`: one Gather lays a batch out
        # as (texts, heads, tokens, width), which Split and Transpose take three passes for.
        rows = self._op("Mul", self._slots, self._int(3 * heads))
        rows = self._op("Unsqueeze", rows, self._int([1]))
        numbers = np.arange(3 * heads).reshape(3, 1, heads, 1)
        self._rows = [self._op("Add", rows, self._int(part)) for part in numbers]
        # And back: token (text, position) has head h at row (text * heads + h) * length + position.
        text = self._op("Div", real, length)
        start = self._op("Mul", text, self._op("Mul", length, self._int([heads])))
        start = self._op("Unsqueeze", self._op("Add", start, self._position), self._int([1]))
        steps = self._op("Mul", self._int([np.arange(heads)]), length)
        self._back = self._op("Add", start, steps)
        self._mask = self._op("Cast", "attention_mask", to=TensorProto.FLOAT)
        penalty = self._op("Mul", self._op("Sub", self._mask, self._float(1)), self._float(1e4))
        self._penalty = self._op("Unsqueeze", penalty, self._int([1, 2]))
        if self._weights.relative is not None:
            relative = self._relative(self._weights.relative, length)
            self._penalty = self._op("Add", self._penalty, relative)

    def _relative(self, table: Array, length: str) -> str:
        scalar = self._op("Squeeze", length)
        steps = self._op("Range", self._int(0), scalar, self._int(1))
        query = self._op("Unsqueeze", steps, self._int([1]))
        distance = self._op("Sub", self._op("Unsqueeze", steps, self._int([0])), query)
        centre = len(table) // 2
        row = self._op("Add", distance, self._int(centre))
        # Padding may reach past the window; what stands there is masked.
        row = self._op("Min", row, self._int(2 * centre))
        row = self._op("Max", row, self._int(0))
        bias = self._op("Gather", self._float(table.T), row, axis=1)
        return self._op("Unsqueeze", bias, self._int([0]))

    def _embed(self) -> str:
        words = self._weights.words
        if self._int8:
            scales = np.maximum(np.abs(words).max(axis=1, keepdims=True), 1e-8) / 127
            table = self._constant(np.round(words / scales).astype(np.int8))
            rows = self._op("Cast", self._op("Gather", table, self._ids), to=TensorProto.FLOAT)
            word = self._op("Mul", rows, self._op("Gather", self._float(scales), self._ids))
        else:
            word = self._op("Gather", self._float(words), self._ids)
        position = self._op("Gather", self._float(self._weights.positions), self._position)
        return self._norm(self._op("Add", word, position), self._weights.embedding_norm)

    def _attend(self, layer: Layer, hidden: str) -> str:
        root = np.float32(np.sqrt(self._width))
        # The score's 1/sqrt(width) is in the query's weights. The key's bias adds the same to every
        # score of a query, which softmax ignores. The value's bias comes out of attention as it
        # is, because shares sum to one: it is in the output's bias.
        value, output = layer.value, layer.output
        bias = output.bias + value.bias @ output.weight
        smooth = self._smoothing(output.module, output.weight)
        query_weight = layer.query.weight / root
        joint = np.concatenate([query_weight, layer.key.weight, value.weight / smooth], axis=1)
        rows = self._smooth_product(hidden, layer.query.module, joint)
        rows = self._op("Reshape", rows, self._int([-1, self._width]))
        queries, keys, values = (self._op("Gather", rows, index) for index in self._rows)
        by_head = self._float((layer.query.bias / root).reshape(1, -1, 1, self._width))
        queries = self._op("Add", queries, by_head)
        scores = self._op("FusedMatMul", queries, keys, domain=_CONTRIB, transB=1)
        shares = self._op("Softmax", self._op("Add", scores, self._penalty), axis=-1)
        mixed = self._op("MatMul", shares, values)
        mixed = self._op("Reshape", mixed, self._int([-1, self._width]))
        context = self._op("Gather", mixed, self._back)
        context = self._op("Reshape", context, self._int([-1, self._hidden]))
        product = self._product(self._quantise(context), output.weight * smooth[:, None])
        return self._residual(product, bias, hidden, layer.attention_norm)

    def _feed_forward(self, layer: Layer, hidden: str) -> str:
        up, down = layer.up, layer.down
        product = self._smooth_product(hidden, up.module, up.weight)
        kind, attributes = _ACTIVATIONS[self._weights.activation]
        # Not the fused BiasGelu: it was 20 % slower than these two nodes, with the same bits.
        inner = self._op("Add", product, self._float(up.bias))
        inner = self._op(kind, inner, **attributes)
        product = self._product(self._quantise(inner, zero=_GELU_ZERO), down.weight)
        return self._residual(product, down.bias, hidden, layer.norm)

    def _residual(self, product: str, bias: Array, hidden: str, norm: Norm) -> str:
        # Three plain nodes: the fused SkipLayerNormalization made the whole model 1.4 times slower.
        summed = self._op("Add", product, self._float(bias))
        return self._norm(self._op("Add", summed, hidden), norm)

    def _pool(self, hidden: str) -> str:
        if self._head.pooling == "cls":
            first = self._op("Gather", self._slots, self._int(0), axis=1)
            return self._op("Gather", hidden, first)
        # The sum, not the mean: the vector is scaled to unit length anyway, unless a dense layer
        # comes in between.
        padded = self._op("Gather", hidden, self._slots)
        mask = self._op("Unsqueeze", self._mask, self._int([1]))
        total = self._op("Squeeze", self._op("MatMul", mask, padded), self._int([1]))
        if not self._head.dense:
            return total
        count = self._op("ReduceSum", self._mask, self._int([1]), keepdims=1)
        return self._op("Div", total, count)

    def _dense(self, vectors: str, linear: Linear) -> str:
        # One product a text: the kernel for one row adds in another order than the one for many.
        count = self._op("Gather", self._op("Shape", vectors), self._int([0]))
        shape = self._op("Concat", count, self._int(linear.weight.shape), axis=0)
        weight = self._op("Expand", self._float(linear.weight), shape)
        product = self._op("MatMul", self._op("Unsqueeze", vectors, self._int([1])), weight)
        return self._op("Add", self._op("Squeeze", product, self._int([1])), self._float(linear.bias))

    # The int8 product, and what it needs.

    def _smoothing(self, module: str, weight: Array) -> Array:
        """Give the factor by which to divide each input channel: ones if not calibrated."""
        if not self._int8 or module not in self._ranges:
            return np.ones(len(weight), np.float32)
        reach = np.maximum(self._ranges[module], 1e-5).astype(np.float64)
        weights = np.maximum(np.abs(weight).max(axis=1), 1e-5).astype(np.float64)
        exponent = _ALPHA * np.log2(reach) - (1 - _ALPHA) * np.log2(weights)
        # Rounded to a sixteenth of a power of two, so that the last bits of an activation, which
        # differ between CPUs, do not reach the artefact.
        rounded = np.round(16 * (exponent - exponent.mean())) / 16
        factor: Array = np.exp2(rounded).astype(np.float32)
        return factor

    def _smooth_product(self, values: str, module: str, weight: Array) -> str:
        if not self._int8:
            return self._product(values, weight)
        smooth = self._smoothing(module, weight)
        values = self._op("Mul", values, self._float(1 / smooth))
        return self._product(self._quantise(values), weight * smooth[:, None])

    def _quantise(self, values: str, zero: int = _CENTRE) -> str | _Quantised:
        if not self._int8:
            return values
        axis = self._int([1])
        if zero == _CENTRE:
            reach = self._op("ReduceMax", self._op("Abs", values), axis, keepdims=1)
            scales = self._op("Mul", reach, self._float(1 / 127))
            floor = 1e-8
        else:
            reach = self._op("ReduceMax", values, axis, keepdims=1)
            scales = self._op("Mul", reach, self._float(1 / (255 - zero)))
            floor = _GELU_MINIMUM / zero
        scales = self._op("Max", scales, self._float(floor))
        if zero not in self._zeros:
            shape = self._op("Shape", self._ids)
            constant = self._constant(np.array(zero, np.uint8))
            self._zeros[zero] = self._op("Expand", constant, shape)
        flat = self._op("Reshape", scales, self._int([-1]))
        rounded = self._op("QuantizeLinear", values, flat, self._zeros[zero], axis=0)
        return _Quantised(rounded, scales, zero)

    def _product(self, values: str | _Quantised, weight: Array) -> str:
        if isinstance(values, str):
            return self._op("MatMul", values, self._float(weight))
        scales = np.maximum(np.abs(weight).max(axis=0), 1e-8) / 127
        product = self._op(
            "MatMulIntegerToFloat",
            values.values,
            self._constant(np.round(weight / scales).astype(np.int8)),
            self._float(1),
            self._float(scales),
            self._constant(np.array(values.zero, np.uint8)),
            domain=_CONTRIB,
        )
        return self._op("Mul", product, values.scales)

    def _norm(self, values: str, norm: Norm) -> str:
        gain, bias = self._float(norm.gain), self._float(norm.bias)
        epsilon = self._weights.epsilon
        return self._op("LayerNormalization", values, gain, bias, axis=-1, epsilon=epsilon)

    # Nodes and constants.

    def _op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, [*inputs], [name], domain=domain, **attributes))
        return name

    def _float(self, value: object) -> str:
        return self._constant(np.asarray(value, np.float32))

    def _int(self, value: object) -> str:
        return self._constant(np.asarray(value, np.int64))

    def _constant(self, value: NDArray[Any]) -> str:
        small = value.size <= _SHARED_SIZE
        key = (value.dtype.str, value.shape, value.tobytes() if small else b"")
        if small and key in self._constants:
            return self._constants[key]
        name = f"c{len(self._tensors)}"
        self._tensors.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        if small:
            self._constants[key] = name
        return name
