"""Small ONNX classifiers made by hand, each with its own definition in float64 NumPy.

    case = HEADS["gap-flatten-gemm"]
    part = case.make(np.random.default_rng(0), 6, 5, 4, 3)   # nodes from "A" (N, 6, 5, 4) to "logits" (N, 3)
    part.logits64(activations)                               # the same, from the definition
    whole = classifier(part, np.random.default_rng(1))       # an image model with a small trunk in front
    save(whole.model, tmp_path / "model.onnx")

The weights are float32 numbers; the NumPy functions compute with them in float64. No head reads its
definition off the graph: each is written down twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Numbers = Callable[[Array], Array]

OPSET = 17
EPSILON = 1e-5


# ---------------------------------------------------------------- definitions in float64


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def hard_swish(x: Array) -> Array:
    return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0


def softmax(x: Array, axis: int = -1) -> Array:
    raised = np.exp(x - x.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


def mean(maps: Array) -> Array:
    return maps.mean(axis=(2, 3))


def pointwise(maps: Array, weight: Array, bias: Array | None = None, border: int = 0) -> Array:
    """A 1×1 convolution (N, K, h, w) -> (N, F, h + 2·border, w + 2·border); weight (F, K)."""
    padded = np.pad(maps, ((0, 0), (0, 0), (border, border), (border, border)))
    mixed = np.einsum("fk,nkij->nfij", weight, padded)
    return mixed if bias is None else mixed + bias[:, None, None]


def convolution(maps: Array, weight: Array, bias: Array, *, stride: int = 1, border: int = 0) -> Array:
    """A convolution (N, K, H, W) -> (N, F, h, w); weight (F, K, m, n)."""
    padded = np.pad(maps, ((0, 0), (0, 0), (border, border), (border, border)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    return np.einsum("nkijab,fkab->nfij", windows[:, :, ::stride, ::stride], weight) + bias[:, None, None]


@dataclass(frozen=True)
class Normalisation:
    """Batch normalisation over axis 1."""

    scale: Array
    shift: Array
    average: Array
    variance: Array

    def __call__(self, x: Array) -> Array:
        axes = (-1, *[1] * (x.ndim - 2))
        scale, shift, average, variance = (
            value.reshape(axes) for value in (self.scale, self.shift, self.average, self.variance)
        )
        return scale * (x - average) / np.sqrt(variance + EPSILON) + shift


def layer_norm(x: Array, scale: Array, shift: Array) -> Array:
    """Over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return scale * centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON) + shift


# ---------------------------------------------------------------- building graphs


@dataclass(frozen=True)
class HeadGraph:
    """A piece of a graph from tensor "A" to tensor "logits", and what it computes."""

    nodes: list[NodeProto]
    initializers: list[TensorProto]
    logits64: Numbers
    opset: int
    shape: tuple[int, int, int]
    classes: int


@dataclass
class Net:
    """Collects nodes and weights.

    Attributes:
        rng: Where the weights come from.
    """

    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int, fan: int = 1) -> tuple[str, Array]:
        """A random float32 weight: its name, and its values as float64."""
        values = (self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
        return self.constant(values), values.astype(np.float64)

    def linear(self, inputs: int, outputs: int) -> tuple[str, str, Array, Array]:
        """Weight (outputs, inputs) and bias: both names, then both values."""
        weight_name, weight = self.weight(outputs, inputs, fan=inputs)
        bias_name, bias = self.weight(outputs)
        return weight_name, bias_name, weight, bias

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        made = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [made], name=f"node_{made}", **attributes))
        return made

    def gemm(self, source: str, inputs: int, outputs: int) -> tuple[str, Numbers]:
        weight_name, bias_name, weight, bias = self.linear(inputs, outputs)
        made = self.add("Gemm", source, weight_name, bias_name, transB=1)
        return made, lambda x: x @ weight.T + bias

    def conv1x1(
        self, source: str, inputs: int, outputs: int, *, border: int = 0, bias: bool = True
    ) -> tuple[str, Numbers]:
        name, weight = self.weight(outputs, inputs, 1, 1, fan=inputs)
        extra, shift = self.weight(outputs)
        names = [name, extra] if bias else [name]
        made = self.add("Conv", source, *names, kernel_shape=[1, 1], pads=[border] * 4)
        return made, lambda x: pointwise(x, weight[:, :, 0, 0], shift if bias else None, border)

    def batch_norm(self, source: str, channels: int) -> tuple[str, Normalisation]:
        pairs = [self.weight(channels) for _ in range(3)]
        spread = (0.5 + self.rng.random(channels)).astype(np.float32)
        names = [name for name, _ in pairs]
        made = self.add(
            "BatchNormalization", source, *names, self.constant(spread), epsilon=float(np.float32(EPSILON))
        )
        return made, Normalisation(*(values for _, values in pairs), spread.astype(np.float64))

    def decomposed_hard_swish(self, source: str) -> str:
        """x · clip(x + 3, 0, 6) / 6, as exporters to older operator sets write it."""
        shifted = self.add("Add", source, self.constant(3.0))
        bounded = self.add("Clip", shifted, self.constant(0.0), self.constant(6.0))
        return self.add("Div", self.add("Mul", source, bounded), self.constant(6.0))

    def pooled(self, source: str) -> str:
        return self.add("Flatten", self.add("GlobalAveragePool", source))

    def part(
        self, last: str, logits64: Numbers, shape: tuple[int, int, int], classes: int, opset: int = OPSET
    ) -> HeadGraph:
        """Renames the last tensor to "logits"."""
        for node in self.nodes:
            for position, name in enumerate(node.output):
                if name == last:
                    node.output[position] = "logits"
        return HeadGraph(self.nodes, self.initializers, logits64, opset, shape, classes)


Maker = Callable[[np.random.Generator, int, int, int, int], HeadGraph]


@dataclass(frozen=True)
class HeadCase:
    """One head of the zoo.

    Attributes:
        name: Its name.
        make: (rng, K, h, w, C) -> the head.
        kind: What camrt should find it to be.
        phi: What φ should be found to be; None for a generic head.
        border: Width of the border of cells that φ adds.
        sums: Whether cells are summed rather than averaged.
        any_size: Whether the graph takes maps of any height and width.
        one_class: Whether it has one logit whatever is asked.
    """

    name: str
    make: Maker
    kind: str
    phi: str | None = "identity"
    border: int = 0
    sums: bool = False
    any_size: bool = True
    one_class: bool = False


HEADS: dict[str, HeadCase] = {}


def head(name: str, kind: str, phi: str | None = "identity", **more: Any) -> Callable[[Maker], Maker]:
    def register(make: Maker) -> Maker:
        HEADS[name] = HeadCase(name, make, kind, phi, **more)
        return make

    return register


def variants(
    options: dict[str, dict[str, Any]], kind: str, phi: str | None = "identity", **more: Any
) -> Callable[[Any], Any]:
    """Registers one maker under several names, each with its own keyword arguments."""

    def register(make: Any) -> Any:
        for name, arguments in options.items():
            HEADS[name] = HeadCase(name, partial(make, **arguments), kind, phi, **more)
        return make

    return register


# ---------------------------------------------------------------- pooled, then linear


@head("gap-flatten-gemm", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    last, linear = net.gemm(net.pooled("A"), K, C)
    return net.part(last, lambda A: linear(mean(A)), (K, h, w), C)


@head("reduce-mean-axes-as-attribute", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    last, linear = net.gemm(net.add("ReduceMean", "A", axes=[2, 3], keepdims=0), K, C)
    return net.part(last, lambda A: linear(mean(A)), (K, h, w), C, opset=13)


@head("reduce-mean-axes-as-input", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    weight_name, weight = net.weight(K, C, fan=K)
    bias_name, bias = net.weight(C)
    averaged = net.add("ReduceMean", "A", net.constant([-1, -2], np.int64), keepdims=1)
    last = net.add("Add", bias_name, net.add("MatMul", net.add("Flatten", averaged), weight_name))
    return net.part(last, lambda A: mean(A) @ weight + bias, (K, h, w), C, opset=18)


@head("reduce-mean-one-axis-at-a-time", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    rows = net.add("ReduceMean", "A", axes=[3], keepdims=0)
    last, linear = net.gemm(net.add("ReduceMean", rows, axes=[2], keepdims=0), K, C)
    return net.part(last, lambda A: linear(A.mean(axis=3).mean(axis=2)), (K, h, w), C)


@head("average-pool-of-the-whole-map", "pooled-linear", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    averaged = net.add("AveragePool", "A", kernel_shape=[h, w])
    flat = net.add("Reshape", averaged, net.constant([-1, K], np.int64))
    last, linear = net.gemm(flat, K, C)
    return net.part(last, lambda A: linear(mean(A)), (K, h, w), C)


@head("channels-last-mean-matmul", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    weight_name, weight = net.weight(K, C, fan=K)
    bias_name, bias = net.weight(C)
    averaged = net.add("ReduceMean", net.add("Transpose", "A", perm=[0, 2, 3, 1]), axes=[1, 2], keepdims=0)
    last = net.add("Add", net.add("MatMul", averaged, weight_name), bias_name)
    return net.part(last, lambda A: mean(A) @ weight + bias, (K, h, w), C)


@head("convolution-after-the-pool", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    mixed, linear = net.conv1x1(net.add("GlobalAveragePool", "A"), K, C)
    last = net.add("Flatten", mixed)
    return net.part(last, lambda A: linear(mean(A)[:, :, None, None])[:, :, 0, 0], (K, h, w), C)


@head("depthwise-after-the-pool", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    name, weight = net.weight(K, 1, 1, 1)
    scaled = net.add("Conv", net.add("GlobalAveragePool", "A"), name, group=K)
    last, linear = net.gemm(net.add("Flatten", scaled), K, C)
    return net.part(last, lambda A: linear(mean(A) * weight.reshape(-1)), (K, h, w), C)


@head("reduce-sum", "pooled-linear", sums=True)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    summed = net.add("ReduceSum", "A", net.constant([2, 3], np.int64), keepdims=0)
    last, linear = net.gemm(summed, K, C)
    return net.part(last, lambda A: linear(A.sum(axis=(2, 3))), (K, h, w), C)


@head("sum-over-rows-of-means", "generic", None)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    rows = net.add("ReduceMean", "A", axes=[3], keepdims=0)
    last, linear = net.gemm(net.add("ReduceSum", rows, net.constant([2], np.int64), keepdims=0), K, C)
    return net.part(last, lambda A: linear(A.mean(axis=3).sum(axis=2)), (K, h, w), C)


@head("batch-norm-between-pool-and-gemm", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    normalised, norm = net.batch_norm(net.pooled("A"), K)
    last, linear = net.gemm(normalised, K, C)
    return net.part(last, lambda A: linear(norm(mean(A))), (K, h, w), C)


@head("two-gemms", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    hidden, first = net.gemm(net.pooled("A"), K, 4)
    last, second = net.gemm(net.add("Dropout", hidden), 4, C)
    return net.part(last, lambda A: second(first(mean(A))), (K, h, w), C)


@head("affine-chain", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """Scaled, subtracted from, negated, divided, added to itself, and a Gemm with alpha and beta."""
    net = Net(rng)
    factor_name, factor = net.weight(1, K)
    shift_name, shift = net.weight(K)
    scaled = net.add("Mul", net.pooled("A"), factor_name)
    turned = net.add("Neg", net.add("Sub", shift_name, scaled))
    halved = net.add("Div", turned, net.constant(2.0))
    doubled = net.add("Add", halved, scaled)
    weight_name, weight = net.weight(K, C, fan=K)
    bias_name, bias = net.weight(1, C)
    last = net.add("Gemm", doubled, weight_name, bias_name, alpha=0.5, beta=2.0)

    def logits64(A: Array) -> Array:
        x = mean(A) * factor
        return 0.5 * ((x - shift) / 2.0 + x) @ weight + 2.0 * bias

    return net.part(last, logits64, (K, h, w), C)


@head("difference-of-two-gemms", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    pooled = net.pooled("A")
    left, first = net.gemm(pooled, K, C)
    right, second = net.gemm(pooled, K, C)
    last = net.add("Sub", left, right)
    return net.part(last, lambda A: first(mean(A)) - second(mean(A)), (K, h, w), C)


@head("nothing-but-the-pool", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    return net.part(net.pooled("A"), mean, (K, h, w), K)


@head("dropout-identity-cast-chain", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    wide = net.add("Cast", net.add("Identity", net.add("Dropout", "A")), to=TensorProto.DOUBLE)
    narrow = net.add("Cast", wide, to=TensorProto.FLOAT)
    flat = net.add("Squeeze", net.add("GlobalAveragePool", narrow), net.constant([2, 3], np.int64))
    last, linear = net.gemm(net.add("Identity", flat), K, C)
    return net.part(net.add("Dropout", last), lambda A: linear(mean(A)), (K, h, w), C)


@head("shape-gather-concat-reshape", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """x.view(x.size(0), -1) as the TorchScript exporter writes it."""
    net = Net(rng)
    pooled = net.add("GlobalAveragePool", "A")
    count = net.add("Gather", net.add("Shape", pooled), net.constant(0, np.int64), axis=0)
    shape = net.add(
        "Concat",
        net.add("Unsqueeze", count, net.constant([0], np.int64)),
        net.constant([-1], np.int64),
        axis=0,
    )
    last, linear = net.gemm(net.add("Reshape", pooled, shape), K, C)
    return net.part(last, lambda A: linear(mean(A)), (K, h, w), C)


# ---------------------------------------------------------------- φ not linear, channel by channel


@head("batch-norm-relu-before-the-pool", "pooled-linear", "separable")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    normalised, norm = net.batch_norm("A", K)
    last, linear = net.gemm(net.pooled(net.add("Relu", normalised)), K, C)
    return net.part(last, lambda A: linear(mean(relu(norm(A)))), (K, h, w), C)


@head("clip-before-the-pool", "pooled-linear", "separable")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    clipped = net.add("Clip", "A", net.constant(0.25), net.constant(1.0))
    last, linear = net.gemm(net.pooled(clipped), K, C)
    return net.part(last, lambda A: linear(mean(np.clip(A, 0.25, 1.0))), (K, h, w), C)


@head("clip-bounds-as-attributes", "pooled-linear", "separable")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    last, linear = net.gemm(net.pooled(net.add("Clip", "A", min=-0.5, max=0.5)), K, C)
    return net.part(last, lambda A: linear(mean(np.clip(A, -0.5, 0.5))), (K, h, w), C, opset=9)


@head("hard-swish-before-the-pool", "pooled-linear", "separable")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    last, linear = net.gemm(net.pooled(net.decomposed_hard_swish("A")), K, C)
    return net.part(last, lambda A: linear(mean(hard_swish(A))), (K, h, w), C)


@head("slopes-and-floors-a-channel", "pooled-linear", "separable", sums=True)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """PRelu and Max with one constant a channel, then a sum."""
    net = Net(rng)
    slope_name, slope = net.weight(K, 1, 1)
    floor_name, floor = net.weight(1, K, 1, 1)
    bent = net.add("Max", net.add("PRelu", "A", slope_name), floor_name)
    summed = net.add("ReduceSum", bent, net.constant([2, 3], np.int64), keepdims=0)
    last, linear = net.gemm(summed, K, C)

    def logits64(A: Array) -> Array:
        return linear(np.maximum(np.where(A < 0, slope * A, A), floor).sum(axis=(2, 3)))

    return net.part(last, logits64, (K, h, w), C)


@head("relu-before-flatten", "flattened-linear", "separable", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    shift_name, shift = net.weight(K, 1, 1)
    bent = net.add("Relu", net.add("Add", "A", shift_name))
    last, linear = net.gemm(net.add("Flatten", bent), K * h * w, C)
    return net.part(last, lambda A: linear(relu(A + shift).reshape(len(A), -1)), (K, h, w), C)


@head("constants-that-differ-between-cells", "generic", None, any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    weight_name, weight = net.weight(1, 1, h, w)
    last, linear = net.gemm(net.pooled(net.add("Mul", "A", weight_name)), K, C)
    return net.part(last, lambda A: linear(mean(A * weight)), (K, h, w), C)


@head("one-channel-spread-over-three", "pooled-linear", "dense")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """A mean over channels times one constant a class: dense even where K is 1."""
    net = Net(rng)
    weight_name, weight = net.weight(3, 1, 1)
    one, mixed = net.conv1x1("A", K, 1)
    spread = net.add("Abs", net.add("Mul", one, weight_name))
    last, linear = net.gemm(net.pooled(spread), 3, C)
    return net.part(last, lambda A: linear(mean(np.abs(mixed(A) * weight))), (K, h, w), C)


# ---------------------------------------------------------------- φ mixes channels


@variants(
    {"squeezenet": {"border": 0}, "squeezenet-without-bias": {"border": 0, "bias": False}},
    "pooled-linear",
    "dense",
)
@variants({"squeezenet-padded": {"border": 1}}, "pooled-linear", "dense", border=1)
def squeezenet(
    rng: np.random.Generator, K: int, h: int, w: int, C: int, border: int = 0, bias: bool = True
) -> HeadGraph:
    net = Net(rng)
    mixed, conv = net.conv1x1("A", K, C, border=border, bias=bias)
    last = net.pooled(net.add("Relu", mixed))
    return net.part(last, lambda A: mean(relu(conv(A))), (K, h, w), C)


@head("network-in-network", "pooled-linear", "dense")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """Begins with a ReLU, so that φ does not begin with a linear layer."""
    net = Net(rng)
    first_name, first = net.conv1x1(net.add("Relu", "A"), K, 5)
    second_name, second = net.conv1x1(net.add("Relu", first_name), 5, C)
    last = net.pooled(net.add("Relu", second_name))
    return net.part(last, lambda A: mean(relu(second(relu(first(relu(A)))))), (K, h, w), C)


@head("convolution-relu-pool-gemm", "pooled-linear", "dense", border=1)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    mixed, conv = net.conv1x1("A", K, 4, border=1)
    last, linear = net.gemm(net.pooled(net.add("Relu", mixed)), 4, C)
    return net.part(last, lambda A: linear(mean(relu(conv(A)))), (K, h, w), C)


@head("convolution-relu-flatten-gemm", "flattened-linear", "dense", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    mixed, conv = net.conv1x1("A", K, 3)
    last, linear = net.gemm(net.add("Flatten", net.add("Relu", mixed)), 3 * h * w, C)
    return net.part(last, lambda A: linear(relu(conv(A)).reshape(len(A), -1)), (K, h, w), C)


@head("batch-norm-convolution-relu", "pooled-linear", "dense")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    normalised, norm = net.batch_norm("A", K)
    mixed, conv = net.conv1x1(normalised, K, C)
    last = net.pooled(net.add("Relu", mixed))
    return net.part(last, lambda A: mean(relu(conv(norm(A)))), (K, h, w), C)


@variants({"class-maps": {"border": 0}}, "pooled-linear")
@variants({"class-maps-padded": {"border": 2}}, "pooled-linear", border=2)
@variants({"class-maps-summed": {"border": 0, "summed": True}}, "pooled-linear", sums=True)
@variants({"class-maps-padded-summed": {"border": 1, "summed": True}}, "pooled-linear", border=1, sums=True)
def class_maps(
    rng: np.random.Generator, K: int, h: int, w: int, C: int, border: int = 0, summed: bool = False
) -> HeadGraph:
    """A 1×1 convolution with a bias and no activation, then the pool: linear, and folded into ψ."""
    net = Net(rng)
    mixed, conv = net.conv1x1("A", K, C, border=border)
    if not summed:
        return net.part(net.pooled(mixed), lambda A: mean(conv(A)), (K, h, w), C)
    last = net.add("ReduceSum", mixed, net.constant([2, 3], np.int64), keepdims=0)
    return net.part(last, lambda A: conv(A).sum(axis=(2, 3)), (K, h, w), C)


@head("a-choice-before-the-pool", "pooled-linear", "separable")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """Numbers compared, and chosen between, cell by cell."""
    net = Net(rng)
    low = net.add("Less", "A", net.constant(0.3))
    halved = net.add("Mul", "A", net.constant(0.5))
    last, linear = net.gemm(net.pooled(net.add("Where", low, halved, "A")), K, C)
    return net.part(last, lambda A: linear(mean(np.where(A < 0.3, 0.5 * A, A))), (K, h, w), C)


@head("batch-norm-before-the-pool", "pooled-linear")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    normalised, norm = net.batch_norm("A", K)
    last, linear = net.gemm(net.pooled(normalised), K, C)
    return net.part(last, lambda A: linear(mean(norm(A))), (K, h, w), C)


@head("gates", "pooled-linear", "dense")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """Two branches, one the gate of the other."""
    net = Net(rng)
    left, values = net.conv1x1("A", K, C)
    right, gate = net.conv1x1("A", K, C)
    last = net.pooled(net.add("Mul", left, net.add("Sigmoid", right)))
    return net.part(last, lambda A: mean(values(A) * sigmoid(gate(A))), (K, h, w), C)


@head("gate-of-one-channel", "pooled-linear", "dense", sums=True)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """Every channel times a gate that all share, then a sum and a linear layer."""
    net = Net(rng)
    gate_name, gate = net.conv1x1("A", K, 1)
    gated = net.add("Mul", "A", net.add("Sigmoid", gate_name))
    summed = net.add("ReduceSum", gated, net.constant([2, 3], np.int64), keepdims=0)
    last, linear = net.gemm(summed, K, C)
    return net.part(last, lambda A: linear((A * sigmoid(gate(A))).sum(axis=(2, 3))), (K, h, w), C)


@head("concatenated-branches", "pooled-linear", "dense")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    mixed, conv = net.conv1x1("A", K, 2)
    joined = net.add("Concat", net.add("Relu", mixed), net.add("Tanh", "A"), axis=1)
    last, linear = net.gemm(net.pooled(joined), K + 2, C)
    return net.part(
        last, lambda A: linear(mean(np.concatenate([relu(conv(A)), np.tanh(A)], axis=1))), (K, h, w), C
    )


@head("softmax-over-channels", "pooled-linear", "dense")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    mixed, conv = net.conv1x1("A", K, C)
    name, weight = net.weight(C, 1, 1)  # or the means would be probabilities, and no logits
    last = net.pooled(net.add("Mul", net.add("Softmax", mixed, axis=1), name))
    return net.part(last, lambda A: mean(softmax(conv(A), axis=1) * weight), (K, h, w), C)


@head("softmax-over-channels-and-cells", "generic", None)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """What Softmax with axis=1 means before opset 13: everything behind the batch axis is one axis."""
    net = Net(rng)
    mixed, conv = net.conv1x1("A", K, C)
    name, weight = net.weight(C, 1, 1)
    last = net.pooled(net.add("Mul", net.add("Softmax", mixed, axis=1), name))

    def logits64(A: Array) -> Array:
        maps = conv(A)
        return mean(softmax(maps.reshape(len(A), -1)).reshape(maps.shape) * weight)

    return net.part(last, logits64, (K, h, w), C, opset=11)


# ---------------------------------------------------------------- pooled, then a network


@head("gemm-hard-swish-gemm", "pooled-network")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    hidden, first = net.gemm(net.pooled("A"), K, 6)
    last, second = net.gemm(net.add("HardSwish", hidden), 6, C)
    return net.part(last, lambda A: second(hard_swish(first(mean(A)))), (K, h, w), C)


@head("gemm-decomposed-hard-swish-gemm", "pooled-network")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    hidden, first = net.gemm(net.pooled("A"), K, 6)
    last, second = net.gemm(net.decomposed_hard_swish(hidden), 6, C)
    return net.part(last, lambda A: second(hard_swish(first(mean(A)))), (K, h, w), C)


@head("layer-norm-after-the-pool", "pooled-network")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    scale_name, scale = net.weight(K)
    shift_name, shift = net.weight(K)
    turned = net.add("Transpose", net.add("GlobalAveragePool", "A"), perm=[0, 2, 3, 1])
    normalised = net.add("LayerNormalization", turned, scale_name, shift_name, axis=-1, epsilon=EPSILON)
    back = net.add("Transpose", normalised, perm=[0, 3, 1, 2])
    last, linear = net.gemm(net.add("Flatten", back), K, C)
    return net.part(last, lambda A: linear(layer_norm(mean(A), scale, shift)), (K, h, w), C)


@head("gemm-batch-norm-relu-gemm", "pooled-network")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    hidden, first = net.gemm(net.pooled("A"), K, 5)
    normalised, norm = net.batch_norm(hidden, 5)
    last, second = net.gemm(net.add("Relu", normalised), 5, C)
    return net.part(last, lambda A: second(relu(norm(first(mean(A))))), (K, h, w), C)


@head("relu-right-after-the-pool", "pooled-network")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    last, linear = net.gemm(net.add("Relu", net.pooled("A")), K, C)
    return net.part(last, lambda A: linear(relu(mean(A))), (K, h, w), C)


@head("convolutions-after-the-pool", "pooled-network")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """MobileNetV3 as fully convolutional exporters write it: maps of one cell all the way."""
    net = Net(rng)
    hidden, first = net.conv1x1(net.add("GlobalAveragePool", "A"), K, 5)
    mixed, second = net.conv1x1(net.add("Relu", hidden), 5, C)
    last = net.add("Flatten", mixed)
    return net.part(last, lambda A: second(relu(first(mean(A)[:, :, None, None])))[:, :, 0, 0], (K, h, w), C)


@head("dense-phi-and-network", "pooled-network", "dense", border=1)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    mixed, conv = net.conv1x1("A", K, 4, border=1)
    hidden, first = net.gemm(net.pooled(net.add("Relu", mixed)), 4, 5)
    last, second = net.gemm(net.add("Relu", hidden), 5, C)
    return net.part(last, lambda A: second(relu(first(mean(relu(conv(A)))))), (K, h, w), C)


@head("separable-phi-and-network", "pooled-network", "separable")
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    normalised, norm = net.batch_norm("A", K)
    hidden, first = net.gemm(net.pooled(net.add("Relu", normalised)), K, 5)
    last, second = net.gemm(net.add("Relu", hidden), 5, C)
    return net.part(last, lambda A: second(relu(first(mean(relu(norm(A)))))), (K, h, w), C)


@head("linear-phi-summed-and-network", "pooled-network", border=1, sums=True)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    mixed, conv = net.conv1x1("A", K, 3, border=1)
    summed = net.add("ReduceSum", mixed, net.constant([2, 3], np.int64), keepdims=0)
    hidden, first = net.gemm(summed, 3, 5)
    last, second = net.gemm(net.add("Tanh", hidden), 5, C)
    return net.part(last, lambda A: second(np.tanh(first(conv(A).sum(axis=(2, 3))))), (K, h, w), C)


# ---------------------------------------------------------------- flattened


@head("flatten-gemm", "flattened-linear", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    last, linear = net.gemm(net.add("Flatten", "A"), K * h * w, C)
    return net.part(last, lambda A: linear(A.reshape(len(A), -1)), (K, h, w), C)


@head("flatten-gemm-one-logit", "flattened-linear", any_size=False, one_class=True)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    last, linear = net.gemm(net.add("Flatten", "A"), K * h * w, 1)
    return net.part(last, lambda A: linear(A.reshape(len(A), -1)), (K, h, w), 1)


@head("reshape-to-a-constant-gemm", "flattened-linear", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    flat = net.add("Reshape", "A", net.constant([-1, K * h * w], np.int64))
    last, linear = net.gemm(flat, K * h * w, C)
    return net.part(last, lambda A: linear(A.reshape(len(A), -1)), (K, h, w), C)


@head("flatten-matmul", "flattened-linear", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    name, weight = net.weight(K * h * w, C, fan=K * h * w)
    last = net.add("MatMul", net.add("Flatten", "A"), name)
    return net.part(last, lambda A: A.reshape(len(A), -1) @ weight, (K, h, w), C)


@head("channels-last-reshape-gemm", "flattened-linear", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    turned = net.add("Transpose", "A", perm=[0, 2, 3, 1])
    flat = net.add("Reshape", turned, net.constant([-1, h * w * K], np.int64))
    last, linear = net.gemm(flat, K * h * w, C)
    return net.part(last, lambda A: linear(A.transpose(0, 2, 3, 1).reshape(len(A), -1)), (K, h, w), C)


@head("cells-before-channels-gemm-relu-gemm", "flattened-network", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """Reshaped to (N, K, h·w), transposed, reshaped again."""
    net = Net(rng)
    rows = net.add("Reshape", "A", net.constant([0, K, h * w], np.int64))
    flat = net.add("Flatten", net.add("Transpose", rows, perm=[0, 2, 1]))
    hidden, first = net.gemm(flat, K * h * w, 5)
    last, second = net.gemm(net.add("Relu", hidden), 5, C)

    def logits64(A: Array) -> Array:
        flattened = A.reshape(len(A), K, -1).transpose(0, 2, 1).reshape(len(A), -1)
        return second(relu(first(flattened)))

    return net.part(last, logits64, (K, h, w), C)


@head("gemm-relu-gemm", "flattened-network", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    hidden, first = net.gemm(net.add("Dropout", net.add("Flatten", "A")), K * h * w, 6)
    last, second = net.gemm(net.add("Dropout", net.add("Relu", hidden)), 6, C)
    return net.part(last, lambda A: second(relu(first(A.reshape(len(A), -1)))), (K, h, w), C)


@head("batch-norm-after-flatten", "flattened-linear", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    normalised, norm = net.batch_norm(net.add("Flatten", "A"), K * h * w)
    last, linear = net.gemm(normalised, K * h * w, C)
    return net.part(last, lambda A: linear(norm(A.reshape(len(A), -1))), (K, h, w), C)


@head("convolution-of-the-whole-map", "flattened-linear", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    name, weight = net.weight(C, K, h, w, fan=K * h * w)
    bias_name, bias = net.weight(C)
    last = net.add("Flatten", net.add("Conv", "A", name, bias_name))
    return net.part(last, lambda A: np.einsum("nkij,ckij->nc", A, weight) + bias, (K, h, w), C)


@head("convolution-of-the-whole-map-relu-convolution", "flattened-network", any_size=False)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """VGG made fully convolutional."""
    net = Net(rng)
    name, weight = net.weight(5, K, h, w, fan=K * h * w)
    bias_name, bias = net.weight(5)
    hidden = net.add("Relu", net.add("Conv", "A", name, bias_name))
    mixed, second = net.conv1x1(hidden, 5, C)
    last = net.add("Flatten", mixed)

    def logits64(A: Array) -> Array:
        first = relu(np.einsum("nkij,ckij->nc", A, weight) + bias)
        return second(first[:, :, None, None])[:, :, 0, 0]

    return net.part(last, logits64, (K, h, w), C)


# ---------------------------------------------------------------- no factorisation


@head("convolution-3x3-behind-the-cut", "generic", None)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    name, weight = net.weight(3, K, 3, 3, fan=9 * K)
    bias_name, bias = net.weight(3)
    mixed = net.add("Relu", net.add("Conv", "A", name, bias_name, pads=[1, 1, 1, 1]))
    last, linear = net.gemm(net.pooled(mixed), 3, C)
    return net.part(last, lambda A: linear(mean(relu(convolution(A, weight, bias, border=1)))), (K, h, w), C)


@head("squeeze-and-excite-behind-the-cut", "generic", None)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    gate_name, gate = net.conv1x1(net.add("GlobalAveragePool", "A"), K, K)
    scaled = net.add("Mul", "A", net.add("Sigmoid", gate_name))
    last, linear = net.gemm(net.pooled(net.add("Relu", scaled)), K, C)

    def logits64(A: Array) -> Array:
        return linear(mean(relu(A * sigmoid(gate(mean(A)[:, :, None, None])))))

    return net.part(last, logits64, (K, h, w), C)


@head("global-max-pool", "generic", None)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    last, linear = net.gemm(net.add("Flatten", net.add("GlobalMaxPool", "A")), K, C)
    return net.part(last, lambda A: linear(A.max(axis=(2, 3))), (K, h, w), C)


@head("attention-pooling", "generic", None)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    """Cells weighted by a softmax over cells, then a linear layer."""
    net = Net(rng)
    one, scores = net.conv1x1("A", K, 1)
    shares = net.add("Softmax", net.add("Reshape", one, net.constant([0, 1, -1], np.int64)), axis=2)
    cells = net.add("Reshape", "A", net.constant([0, K, -1], np.int64))
    pooled = net.add("MatMul", cells, net.add("Transpose", shares, perm=[0, 2, 1]))
    last, linear = net.gemm(net.add("Flatten", pooled), K, C)

    def logits64(A: Array) -> Array:
        weights = softmax(scores(A).reshape(len(A), 1, -1))
        return linear((A.reshape(len(A), K, -1) * weights).sum(axis=2))

    return net.part(last, logits64, (K, h, w), C)


def branch(net: Net, how: str, K: int) -> tuple[str, Numbers]:
    """A map beside A that is made of it cell by cell."""
    if how == "relu":
        name, shift = net.weight(K, 1, 1)
        return net.add("Relu", net.add("Sub", "A", name)), lambda A: relu(A - shift)
    if how == "square":
        return net.add("Mul", "A", "A"), lambda A: A * A
    if how == "tanh":
        return net.add("Tanh", "A"), np.tanh
    mixed, layer = net.conv1x1("A", K, K)
    return net.add("Relu", mixed), lambda A: relu(layer(A))


@variants(
    {
        f"two-means-{how}-{end}": {"how": how, "end": end}
        for how in ("relu", "square", "convolution", "tanh")
        for end in ("added", "beside", "two-layers", "gated")
    },
    "generic",
    None,
)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int, *, how: str, end: str) -> HeadGraph:
    """The mean of A and the mean of something that is made of A cell by cell."""
    net = Net(rng)
    first = net.pooled("A")
    made, of_cells = branch(net, how, K)
    second = net.pooled(made)
    if end == "added":
        last, linear = net.gemm(net.add("Add", first, second), K, C)
        return net.part(last, lambda A: linear(mean(A) + mean(of_cells(A))), (K, h, w), C)
    if end == "beside":
        last, linear = net.gemm(net.add("Concat", first, second, axis=1), 2 * K, C)
        return net.part(
            last, lambda A: linear(np.concatenate([mean(A), mean(of_cells(A))], axis=1)), (K, h, w), C
        )
    one, left = net.gemm(first, K, C)
    two, right = net.gemm(second, K, C)
    if end == "gated":
        last = net.add("Mul", net.add("Sigmoid", one), two)
        return net.part(last, lambda A: sigmoid(left(mean(A))) * right(mean(of_cells(A))), (K, h, w), C)
    return net.part(
        net.add("Add", one, two), lambda A: left(mean(A)) + right(mean(of_cells(A))), (K, h, w), C
    )


@head("mean-and-max", "generic", None)
def _(rng: np.random.Generator, K: int, h: int, w: int, C: int) -> HeadGraph:
    net = Net(rng)
    both = net.add("Concat", net.add("GlobalAveragePool", "A"), net.add("GlobalMaxPool", "A"), axis=1)
    last, linear = net.gemm(net.add("Flatten", both), 2 * K, C)

    def logits64(A: Array) -> Array:
        return linear(np.concatenate([mean(A), A.max(axis=(2, 3))], axis=1))

    return net.part(last, logits64, (K, h, w), C)


# ---------------------------------------------------------------- whole models


@dataclass(frozen=True)
class Classifier:
    """An image model: a trunk (3×3 convolution of stride 2, ReLU) and a head.

    Attributes:
        model: Input "images" (N, colours, 2h, 2w), output "logits", target tensor "A".
        activations64: Images -> A.
        logits64: Images -> logits.
        size: Of its images, (colours, 2h, 2w).
    """

    model: ModelProto
    activations64: Numbers
    logits64: Numbers
    size: tuple[int, int, int]


def classifier(
    part: HeadGraph,
    rng: np.random.Generator,
    *,
    colours: int = 3,
    batch: int | str = "N",
    size: Sequence[int | str] | None = None,
    opset: int | None = None,
) -> Classifier:
    """Puts a trunk in front of a head.

    Args:
        part: The head.
        rng: Where the trunk's weights come from.
        colours: Colour channels.
        batch: The declared batch axis.
        size: The declared (H, W); None for 2h×2w.
        opset: Operator set; None for the head's own.
    """
    channels, height, width = part.shape
    net = Net(rng)
    weight = (rng.standard_normal((channels, colours, 3, 3)) / 3).astype(np.float32)
    bias = (0.1 * rng.standard_normal(channels)).astype(np.float32)
    trunk = [
        helper.make_node(
            "Conv", ["images", "trunk_weight", "trunk_bias"], ["trunk_linear"], name="node_trunk",
            kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2],
        ),
        helper.make_node("Relu", ["trunk_linear"], ["A"], name="node_A"),
    ]  # fmt: skip
    net.initializers += [
        numpy_helper.from_array(weight, "trunk_weight"),
        numpy_helper.from_array(bias, "trunk_bias"),
        *part.initializers,
    ]
    shape = [batch, colours, *(size or (2 * height, 2 * width))]
    wide, shift = weight.astype(np.float64), bias.astype(np.float64)

    def activations64(images: Array) -> Array:
        return relu(convolution(images.astype(np.float64), wide, shift, stride=2, border=1))

    return Classifier(
        model_of([*trunk, *part.nodes], net.initializers, shape, (batch, part.classes), opset or part.opset),
        activations64,
        lambda images: part.logits64(activations64(images)),
        (colours, 2 * height, 2 * width),
    )


def model_of(
    nodes: Sequence[NodeProto],
    initializers: Sequence[TensorProto],
    input_shape: Sequence[int | str],
    output_shape: Sequence[int | str],
    opset: int = OPSET,
    *,
    source: str = "images",
    end: str = "logits",
    element: int = TensorProto.FLOAT,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "zoo",
        [helper.make_tensor_value_info(source, element, input_shape)],
        [helper.make_tensor_value_info(end, element, output_shape)],
        initializers,
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=max(8, helper.find_min_ir_version_for(imports))
    )


def with_ending(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    shape: Sequence[int | str],
    element: int = TensorProto.FLOAT,
) -> ModelProto:
    """A copy in which nodes from "logits" to "scores" follow, and "scores" is the only output."""
    longer = ModelProto()
    longer.CopyFrom(model)
    longer.graph.node.extend(nodes)
    del longer.graph.output[:]
    longer.graph.output.append(helper.make_tensor_value_info("scores", element, shape))
    return longer


def save(model: ModelProto, path: Path) -> Path:
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
