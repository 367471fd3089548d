"""Affine forms: tensors of a head written as weight · x + bias of the tensor x the head starts from.

`AffineForms.follow` walks a head's nodes in order and keeps a form for every tensor that is an affine
function of x, feature by feature (vectors) or cell by cell (maps). The products are taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from camrt.export.allocation import broadcast_to, diagonal, eye, matmul, ones, zeros
from camrt.export.graph.index import Graph, attribute
from camrt.export.graph.operators import RESHAPING, preserves_values

__all__ = ["Affine", "AffineForms", "has_known_bias", "is_spatially_constant"]

Array = npt.NDArray[Any]

# A square matrix larger than this is never made just to hold a diagonal.
LARGEST_DIAGONAL = 8192


@dataclass(frozen=True)
class Affine:
    """x -> weight · x + bias over D input features.

    Attributes:
        weight: (F, D) array; None for the identity.
        bias: (F,) float64 array; None for zero.
        padded: Whether a border of cells was added around the map, where the value is the last bias only.
    """

    weight: Array | None = None
    bias: Array | None = None
    padded: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether nothing is changed."""
        return self.weight is None and self.bias is None and not self.padded

    def features(self, inputs: int) -> int:
        """Number of output features F, given D."""
        return inputs if self.weight is None else int(self.weight.shape[0])


def has_known_bias(graph: Graph, node: NodeProto) -> bool:
    """Whether the third input of a Conv or Gemm is absent or a constant whose value is known."""
    return len(node.input) < 3 or not node.input[2] or graph.constant(node.input[2]) is not None


def is_spatially_constant(value: Array) -> bool:
    """Whether a constant broadcast against (N, K, h, w) is the same at every cell."""
    return all(size == 1 for size in value.shape[max(0, value.ndim - 2) :])


class AffineForms:
    """Affine forms of the tensors behind one start tensor.

    Args:
        graph: The indexed graph.
        start: The tensor x.
        inputs: Its number of features D.
        cells: True when x is a map (N, D, h, w) and forms hold cell by cell; False when it is a vector,
            (N, D) or with further axes of size one.
    """

    def __init__(self, graph: Graph, start: str, inputs: int, *, cells: bool) -> None:
        self.graph = graph
        self.inputs = inputs
        self.cells = cells
        self.forms: dict[str, Affine] = {start: Affine()}

    def follow(self, nodes: Iterable[NodeProto]) -> dict[str, Affine]:
        """Adds the forms of every node that keeps things affine; returns all, in graph order."""
        for node in nodes:
            if not any(name in self.forms for name in node.input):
                continue
            form = self._step(node)
            if form is not None and self._in_place(node.output[0], form):
                self.forms[node.output[0]] = form
        return self.forms

    def _in_place(self, name: str, form: Affine) -> bool:
        """Whether the tensor has the feature axis where this kind of form expects it."""
        shape = self.graph.shape(name)
        if shape is None:
            return False
        features = form.features(self.inputs)
        if self.cells:
            return len(shape) == 4 and shape[1] == features
        return math.prod(shape[1:]) == features and sum(size != 1 for size in shape[1:]) <= 1

    def _step(self, node: NodeProto) -> Affine | None:
        operator = node.op_type
        form = self.forms.get(node.input[0])
        if preserves_values(node):
            return form
        if not self.cells and operator in RESHAPING:
            return form
        if operator == "Neg" and form is not None:
            return self._scaled(form, -ones(form.features(self.inputs), "signs of a head's features"))
        if operator in ("Add", "Sub", "Mul", "Div", "Sum") and len(node.input) == 2:
            return self._binary(node)
        if form is None or not all(self.graph.is_constant(name) for name in node.input[1:] if name):
            return None
        if operator == "BatchNormalization":
            return self._batch_normalization(node, form)
        if operator == "Conv":
            return self._convolution(node, form)
        if operator == "Gemm" and not self.cells:
            return self._gemm(node, form)
        if operator == "MatMul" and not self.cells:
            weight = self.graph.constant(node.input[1])
            if weight is None or weight.ndim != 2 or weight.shape[0] != form.features(self.inputs):
                return None
            return self._composed(form, weight.T, None)
        return None

    def _gemm(self, node: NodeProto, form: Affine) -> Affine | None:
        weight = self.graph.constant(node.input[1])
        if weight is None or attribute(node, "transA", 0):
            return None
        if weight.ndim != 2:
            return None
        weight = weight if attribute(node, "transB", 0) else weight.T
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        if alpha != 1.0:
            weight = alpha * weight.astype(np.float64)
        if not has_known_bias(self.graph, node):
            return None
        bias = self.graph.constant(node.input[2]) if len(node.input) > 2 else None
        if bias is not None:
            if (bias.ndim > 1 and bias.shape[0] != 1) or bias.size not in (1, weight.shape[0]):
                return None
            bias = beta * broadcast_to(
                bias.astype(np.float64).reshape(-1), (weight.shape[0],), "bias of a head's layer"
            )
        return self._composed(form, weight, bias)

    def _convolution(self, node: NodeProto, form: Affine) -> Affine | None:
        weight = self.graph.constant(node.input[1])
        pads = list(attribute(node, "pads", [0, 0, 0, 0]))
        if weight is None or weight.ndim != 4 or weight.shape[2:] != (1, 1):
            return None
        if any(stride != 1 for stride in attribute(node, "strides", [1, 1])):
            return None
        if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            return None
        padded = any(pads)
        if padded and (not self.cells or form.bias is not None or form.padded or pads[:2] != pads[2:]):
            return None  # the border would hold something else than the last bias, or be wider on one side
        groups = int(attribute(node, "group", 1))
        if groups < 1 or len(weight) % groups or weight.shape[1] * groups != form.features(self.inputs):
            return None
        dense = expand_groups(weight[:, :, 0, 0], groups)
        if not has_known_bias(self.graph, node):
            return None
        bias = self.graph.constant(node.input[2]) if len(node.input) > 2 else None
        composed = self._composed(form, dense, bias)
        return None if composed is None else Affine(composed.weight, composed.bias, padded or form.padded)

    def _batch_normalization(self, node: NodeProto, form: Affine) -> Affine | None:
        if attribute(node, "training_mode", 0) or (form.padded and self.cells):
            return None
        values = [self.graph.constant(name) for name in node.input[1:5]]
        features = (form.features(self.inputs),)
        if any(value is None or value.shape != features for value in values):
            return None
        scale, shift, mean, variance = (np.asarray(value, dtype=np.float64) for value in values)
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        scaled = self._scaled(form, factor)
        return None if scaled is None else self._shifted(scaled, shift - mean * factor)

    def _binary(self, node: NodeProto) -> Affine | None:
        left, right = (self.forms.get(name) for name in node.input)
        operator = node.op_type
        if left is not None and right is not None:
            shapes = [self.graph.shape(name) for name in node.input]
            if operator not in ("Add", "Sub", "Sum") or shapes[0] != shapes[1] or left.padded != right.padded:
                return None
            return self._added(left, right, -1.0 if operator == "Sub" else 1.0)
        form = left if left is not None else right
        constant = self.graph.constant(node.input[1] if left is not None else node.input[0])
        if form is None or constant is None or form.padded:
            return None
        vector = self._per_feature(constant, node.output[0], form.features(self.inputs))
        if vector is None:
            return None
        if operator in ("Add", "Sum"):
            return self._shifted(form, vector)
        if operator == "Sub":
            if left is not None:
                return self._shifted(form, -vector)
            negated = self._scaled(form, -np.ones_like(vector))
            return None if negated is None else self._shifted(negated, vector)
        if operator == "Mul":
            return self._scaled(form, vector)
        return self._scaled(form, 1.0 / vector) if left is not None and (vector != 0).all() else None

    def _per_feature(self, constant: Array, output: str, features: int) -> Array | None:
        """A broadcast constant as one number a feature; None when it differs between cells or images."""
        shape = self.graph.shape(output)
        if shape is None or constant.ndim > len(shape):
            return None
        if self.cells and not is_spatially_constant(constant):
            return None
        target = (1, shape[1], 1, 1) if self.cells else (1, *shape[1:])
        try:
            vector = broadcast_to(
                constant.astype(np.float64), target, "numbers of a head's features"
            ).reshape(-1)
        except ValueError:
            return None
        return vector if vector.shape == (features,) else None

    def _composed(self, form: Affine, weight: Array, bias: Array | None) -> Affine | None:
        if weight.shape[1] != form.features(self.inputs) or (bias is not None and len(bias) != len(weight)):
            return None
        total = None if bias is None else bias.astype(np.float64)
        if form.bias is not None:
            passed_on = weight.astype(np.float64) @ form.bias
            total = passed_on if total is None else total + passed_on
        if form.weight is not None:
            weight = matmul(weight, form.weight, "layers of a head as one")
        return Affine(weight, total, form.padded)

    def _scaled(self, form: Affine, factor: Array) -> Affine | None:
        if form.weight is None:
            if self.inputs > LARGEST_DIAGONAL:
                return None
            weight = diagonal(factor, "factors of a head's features")
        else:
            weight = factor[:, None] * form.weight.astype(np.float64)
        return Affine(weight, None if form.bias is None else factor * form.bias, form.padded)

    def _shifted(self, form: Affine, vector: Array) -> Affine:
        return Affine(form.weight, vector if form.bias is None else form.bias + vector, form.padded)

    def _added(self, left: Affine, right: Affine, sign: float) -> Affine | None:
        if self.inputs > LARGEST_DIAGONAL and (left.weight is None or right.weight is None):
            return None
        size = left.features(self.inputs)
        weights = [
            eye(size, "weight of a head's sum") if form.weight is None else form.weight
            for form in (left, right)
        ]
        biases = [
            zeros(size, "bias of a head's sum") if form.bias is None else form.bias for form in (left, right)
        ]
        weight = weights[0].astype(np.float64) + sign * weights[1].astype(np.float64)
        return Affine(weight, biases[0] + sign * biases[1], left.padded)


def expand_groups(weight: Array, groups: int) -> Array:
    """A grouped pointwise convolution's (F, D/groups) weight as the dense (F, D) one it stands for."""
    if groups == 1:
        return weight
    outputs, width = weight.shape
    whole = zeros((outputs, width * groups), "grouped convolution", weight.dtype)
    for group, rows in enumerate(np.split(np.arange(outputs), groups)):
        whole[rows, group * width : (group + 1) * width] = weight[rows]
    return whole
