"""A VGG of torchvision's, as an ONNX model made of its weights alone.

The names of a state dict say what the network is: `features.N` are convolutions with or without batch
normalisation, and a gap in N a max-pool; `classifier.N` are dense layers. The side of its images follows
from the inputs of the first of them. Nothing of the network is run, and torch is not needed.

"Very Deep Convolutional Networks for Large-Scale Image Recognition" (Simonyan and Zisserman, 2014).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from camrt.errors import ModelFileError

__all__ = ["build_vgg"]

Weights = Mapping[str, npt.NDArray[np.float32]]

EPSILON: Final = 1e-5  # torch's, of batch normalisation
OPSET: Final = 17


def build_vgg(weights: Weights) -> tuple[onnx.ModelProto, int]:
    """The network that a state dict is of, and the side of the images it takes.

    Args:
        weights: Arrays by the names of torchvision's VGG, which need not be ImageNet's: fewer or narrower
            layers, other classes.

    Raises:
        ModelFileError: The names or shapes are not those of a VGG.
    """
    convolutions = layer_numbers(weights, "features", 4)
    dense = layer_numbers(weights, "classifier", 2)
    if not convolutions or not dense:
        shown = ", ".join(list(weights)[:3])
        raise ModelFileError(
            "these are no weights of torchvision's VGG, which has features.0.weight and classifier.0.weight: "
            f"there are {shown or 'none'}"
        )
    build = VggBuilder(weights)
    name, normalised = "images", f"features.{convolutions[0] + 1}.running_mean" in weights
    every = 3 if normalised else 2
    pools = 0
    for place, index in enumerate(convolutions):
        behind = convolutions[place + 1] - index if place + 1 < len(convolutions) else every + 1
        if behind not in (every, every + 1):
            raise ModelFileError(
                f"features.{index} and the next layer are {behind} apart: no VGG of torchvision's"
            )
        name = build.convolution(name, index, normalised)
        if behind == every + 1:
            name = build.node("MaxPool", [name], f"pool.{index}", kernel_shape=[2, 2], strides=[2, 2])
            pools += 1
    channels = len(weights[f"features.{convolutions[-1]}.weight"])
    inputs = weights[f"classifier.{dense[0]}.weight"].shape[1]
    side = math.isqrt(inputs // channels)
    if not side or channels * side * side != inputs:
        raise ModelFileError(
            f"classifier.{dense[0]} has {inputs} inputs, which are no square map of {channels} channels"
        )
    name = build.node("Flatten", [name], "flat")
    for place, index in enumerate(dense):
        last = place + 1 == len(dense)
        name = build.dense(name, index, "logits" if last else f"classifier.{index}.out")
        if not last:
            name = build.node("Relu", [name], f"classifier.{index}.relu")
    size = side * 2**pools
    classes = len(weights[f"classifier.{dense[-1]}.weight"])
    graph = helper.make_graph(
        build.nodes,
        "vgg",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", build.colours, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        build.tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return model, size


class VggBuilder:
    """Nodes and tensors of a network in the making."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.colours = 0

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def stored(self, name: str, shape: tuple[int | None, ...]) -> str:
        """Adds a tensor, of some shape, None for any length.

        Raises:
            ModelFileError: It is missing, or of another shape, or holds numbers that are not finite.
        """
        values = self.weights.get(name)
        if values is None:
            raise ModelFileError(f"there is no {name}")
        wanted = tuple(None if b is None else a for a, b in zip(values.shape, shape, strict=False))
        if len(values.shape) != len(shape) or wanted != shape:
            raise ModelFileError(f"{name} has shape {values.shape}, and {shape} is needed")
        if not np.isfinite(values).all():
            raise ModelFileError(f"{name} holds numbers that are not finite")
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def convolution(self, name: str, index: int, normalised: bool) -> str:
        """A 3×3 convolution, normalised or not, and rectified."""
        layer = f"features.{index}"
        outputs, inputs = self.weights[f"{layer}.weight"].shape[:2]
        if not self.colours:
            self.colours = inputs
        weights = [
            self.stored(f"{layer}.weight", (None, inputs, 3, 3)),
            self.stored(f"{layer}.bias", (outputs,)),
        ]
        found = self.node("Conv", [name, *weights], f"{layer}.out", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        if normalised:
            after = f"features.{index + 1}"
            parts = ("weight", "bias", "running_mean", "running_var")
            stored = [self.stored(f"{after}.{part}", (outputs,)) for part in parts]
            found = self.node("BatchNormalization", [found, *stored], f"{after}.out", epsilon=EPSILON)
        return self.node("Relu", [found], f"{layer}.relu")

    def dense(self, name: str, index: int, output: str) -> str:
        """A dense layer."""
        layer = f"classifier.{index}"
        outputs = len(self.weights[f"{layer}.weight"])
        weights = [self.stored(f"{layer}.weight", (None, None)), self.stored(f"{layer}.bias", (outputs,))]
        return self.node("Gemm", [name, *weights], output, transB=1)


def layer_numbers(weights: Weights, part: str, dimensions: int) -> list[int]:
    """The numbers of a part's layers whose weights have so many dimensions, in order."""
    found = (re.fullmatch(rf"{part}\.(\d{{1,4}})\.weight", name) for name in weights)
    return sorted(int(each[1]) for each in found if each and weights[each[0]].ndim == dimensions)
