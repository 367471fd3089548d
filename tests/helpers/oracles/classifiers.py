"""Small classifiers written twice: as float64 arithmetic, and as ONNX graphs with the same weights.

The activation to explain is the tensor `activation`. With the trunk "rectify" it is the image itself with
negative values cut off, and with "keep" the image as it is, so that a test can choose its activations; with
"convolve" it is a strided 3×3 convolution of a three-colour image, rectified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["HEADS", "SmallClassifier", "classifier", "pooled_linear"]

Array = npt.NDArray[Any]
Head = Literal["pooled-linear", "pooled-network", "flattened-linear", "flattened-network", "generic"]
HEADS: tuple[Head, ...] = (
    "pooled-linear",
    "pooled-network",
    "flattened-linear",
    "flattened-network",
    "generic",
)
Trunk = Literal["rectify", "keep", "convolve"]


@dataclass(frozen=True, eq=False)
class SmallClassifier:
    """A classifier of one image in float64, and its graph.

    Attributes:
        model: The graph; its batch axis is open.
        image: (C, H, W) of its input.
        activation: Image (C, H, W) -> activation (K, h, w).
        head: Activation -> logits (classes,).
        ending: What follows the logits in the graph.
        weight: (classes, K) of the layer behind the pooling, for the head "pooled-linear".
        bias: (classes,) of that layer.
    """

    model: onnx.ModelProto
    image: tuple[int, int, int]
    activation: Callable[[Array], Array]
    head: Callable[[Array], Array]
    ending: Literal["softmax", "sigmoid"] | None
    weight: Array | None = None
    bias: Array | None = None

    def logits(self, image: Array) -> Array:
        """Logits (classes,) of one image."""
        return self.head(self.activation(image))

    def scores(self, kind: Literal["logit", "probability"]) -> Callable[[Array], Array]:
        """Activation -> scores (classes,)."""
        return lambda activation: self._score(self.head(activation), kind)

    def scores_of_image(self, kind: Literal["logit", "probability"]) -> Callable[[Array], Array]:
        """Image -> scores (classes,)."""
        return lambda image: self._score(self.logits(image), kind)

    def _score(self, logits: Array, kind: str) -> Array:
        if kind == "logit":
            return logits
        if self.ending == "sigmoid":
            return np.asarray(1.0 / (1.0 + np.exp(-logits)))
        raised = np.exp(logits - logits.max())
        return np.asarray(raised / raised.sum())

    def save(self, folder: Path) -> Path:
        """Writes the graph and says where."""
        path = folder / "model.onnx"
        onnx.save(self.model, path)
        return path


class _Graph:
    """Nodes and weights in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, values: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def model(self, image: tuple[int, int, int], classes: int, output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *image])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", classes])],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 8
        onnx.checker.check_model(made)
        return made


def classifier(
    head: Head,
    *,
    cells: tuple[int, int] = (3, 4),
    channels: int = 3,
    classes: int = 4,
    trunk: Trunk = "rectify",
    ending: Literal["softmax", "sigmoid"] | None = None,
    scale: float = 2.0,
    seed: int = 0,
) -> SmallClassifier:
    """A classifier with random weights of about `scale` in its last layer."""
    draw = np.random.default_rng(seed)

    def random(*shape: int) -> Array:
        return draw.normal(size=shape).astype(np.float32).astype(np.float64)

    graph = _Graph()
    image, activation = _trunk(graph, trunk, channels, cells, random)
    area = cells[0] * cells[1]
    convolution = random(channels, channels, 3, 3)
    fan_in = channels * area if head.startswith("flattened") else channels
    units = 6
    hidden, hidden_bias = random(units, fan_in), random(units)
    network = head in ("pooled-network", "flattened-network")
    weight = random(classes, units if network else fan_in) * scale
    weight = weight.astype(np.float32).astype(np.float64)
    bias = random(classes)

    def answer(values: Array) -> Array:
        if head == "generic":
            values = np.maximum(_convolve(values, convolution, stride=1), 0.0)
        vector = values.reshape(-1) if head.startswith("flattened") else values.mean(axis=(1, 2))
        if network:
            vector = np.maximum(hidden @ vector + hidden_bias, 0.0)
        return np.asarray(weight @ vector + bias)

    now = "activation"
    if head == "generic":
        now = graph.node("Conv", [now, graph.weight("mix", convolution)], "mixed", pads=[1, 1, 1, 1])
        now = graph.node("Relu", [now], "mixed_positive")
    if not head.startswith("flattened"):
        now = graph.node("GlobalAveragePool", [now], "pooled")
    now = graph.node("Flatten", [now], "vector")
    if network:
        layer = [graph.weight("hidden", hidden), graph.weight("hidden_bias", hidden_bias)]
        now = graph.node("Gemm", [now, *layer], "units", transB=1)
        now = graph.node("Relu", [now], "units_positive")
    layer = [graph.weight("weight", weight), graph.weight("bias", bias)]
    now = graph.node("Gemm", [now, *layer], "logits", transB=1)
    if ending is not None:
        now = graph.node(ending.capitalize(), [now], "probabilities")
    linear = head == "pooled-linear"
    return SmallClassifier(
        graph.model(image, classes, now),
        image,
        activation,
        answer,
        ending,
        weight if linear else None,
        bias if linear else None,
    )


def pooled_linear(
    weight: Array,
    bias: Array,
    cells: tuple[int, int],
    *,
    per_cell: Array | None = None,
    trunk: Trunk = "keep",
) -> SmallClassifier:
    """Given weights (classes, K) behind global pooling, or (classes, K, h, w) of every cell."""
    graph = _Graph()
    channels = (weight if per_cell is None else per_cell).shape[1]
    image, activation = _trunk(graph, trunk, channels, cells, lambda *_: np.zeros(0))

    def answer(values: Array) -> Array:
        if per_cell is not None:
            return np.asarray((per_cell * values).sum(axis=(1, 2, 3)) + bias)
        return np.asarray(weight @ values.mean(axis=(1, 2)) + bias)

    now = "activation" if per_cell is not None else graph.node("GlobalAveragePool", ["activation"], "pooled")
    now = graph.node("Flatten", [now], "vector")
    values = weight if per_cell is None else per_cell.reshape(len(per_cell), -1)
    layer = [graph.weight("weight", values), graph.weight("bias", bias)]
    graph.node("Gemm", [now, *layer], "logits", transB=1)
    model = graph.model(image, len(bias), "logits")
    return SmallClassifier(model, image, activation, answer, None, weight, bias)


def _trunk(
    graph: _Graph, kind: Trunk, channels: int, cells: tuple[int, int], random: Callable[..., Array]
) -> tuple[tuple[int, int, int], Callable[[Array], Array]]:
    """The image's size and its activation; `convolve` takes images of odd sizes, 2h−1 by 2w−1."""
    if kind == "convolve":
        kernel = random(channels, 3, 3, 3)
        graph.node(
            "Conv", ["images", graph.weight("kernel", kernel)], "raw", pads=[1, 1, 1, 1], strides=[2, 2]
        )
        graph.node("Relu", ["raw"], "activation")
        image = (3, 2 * cells[0] - 1, 2 * cells[1] - 1)
        return image, lambda values: np.maximum(_convolve(values, kernel, stride=2), 0.0)
    if kind == "keep":
        graph.node("LeakyRelu", ["images"], "activation", alpha=1.0)
        return (channels, *cells), lambda values: np.asarray(values, np.float64)
    graph.node("Relu", ["images"], "activation")
    return (channels, *cells), lambda values: np.maximum(np.asarray(values, np.float64), 0.0)


def _convolve(values: Array, kernel: Array, stride: int) -> Array:
    """3×3 cross-correlation with a border of zeros: (C, H, W) and (F, C, 3, 3) -> (F, h, w)."""
    padded = np.pad(np.asarray(values, np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,fcij->fhw", windows, kernel)
