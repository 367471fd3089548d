"""Operators that pick or place numbers by index, and those of one formula that few classifiers have."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from onnx import TensorProto  # noqa: E402

from camrt.errors import AdjointError  # noqa: E402
from helpers.adjoint_cases import (  # noqa: E402
    AdjointCase,
    build_adjoint_of,
    check_adjoint,
    node,
    random_positive,
    random_with_corners,
)

SHAPE = (3, 5, 4)


def whole(*numbers):
    return np.array(numbers, np.int64)


def largest(x):
    return torch.sin(x.topk(3, dim=2).values)


def put(x, indices, values):
    return x.scatter(3, indices.expand(len(x), -1, -1, -1), values)


PLACES = np.random.default_rng(0).permuted(np.tile(np.arange(4), (3, 5, 1)), axis=2)[..., :2]
INDICES = torch.from_numpy(PLACES[None].copy())
EVERY = [node("Shape", "x", "s"), node("Slice", "s zero one", "n"), node("Concat", "n rest", "many", axis=0),
         node("Expand", "i many", "j")]  # fmt: skip
BATCHED = {"zero": whole(0), "one": whole(1), "rest": whole(3, 5, 2), "i": PLACES[None]}

CASES = {
    "TopK": ([node("TopK", "x k", "t i", axis=2), node("Sin", "t", "y")], largest, {"k": whole(3)}),
    "TopK, smallest, values alone": (
        [node("TopK", "x k", "t _", axis=-1, largest=0), node("Sin", "t", "y")],
        lambda x: torch.sin(x.topk(2, largest=False).values), {"k": whole(2)},
    ),
    "TopK in front of a mean": (
        [node("TopK", "x k", "t i", axis=2), node("Cast", "i", "f", to=1), node("Mul", "t f", "m"),
         node("ReduceMean", "m", "y", axes=[2])],
        lambda x: (x.topk(3, dim=2).values * x.topk(3, dim=2).indices).mean(2), {"k": whole(3)},
    ),
    "GatherElements": (
        [*EVERY, node("GatherElements", "x j", "y", axis=3)],
        lambda x: x.gather(3, INDICES.expand(len(x), -1, -1, -1)), BATCHED,
    ),
    "ScatterElements": (
        [*EVERY, node("Tanh", "x", "t"), node("GatherElements", "t j", "u", axis=3),
         node("ScatterElements", "x j u", "y", axis=3)],
        lambda x: put(x, INDICES, torch.tanh(x).gather(3, INDICES.expand(len(x), -1, -1, -1))), BATCHED,
    ),
    "ScatterND": (
        [node("Transpose", "x", "t", perm=[2, 0, 1, 3]), node("Gather", "t last", "u", axis=0),
         node("Tanh", "u", "v"), node("ScatterND", "t p v", "w"),
         node("Transpose", "w", "y", perm=[1, 2, 0, 3])],
        lambda x: torch.cat([x[:, :, :1], torch.tanh(x[:, :, 4:]), x[:, :, 2:]], 2),
        {"last": whole(4), "p": whole([1])},
    ),
    "ScatterND, added": (
        [node("Transpose", "x", "t", perm=[2, 0, 1, 3]), node("ScatterND", "t p t", "w", reduction="add"),
         node("Transpose", "w", "y", perm=[1, 2, 0, 3])],
        lambda x: x + x.flip(2), {"p": whole([4], [3], [2], [1], [0])},
    ),
    "CumSum": ([node("CumSum", "x a", "y", exclusive=1)], lambda x: x.cumsum(2) - x, {"a": whole(2)[0]}),
    "CumSum, reversed": (
        [node("CumSum", "x a", "y", reverse=1)], lambda x: x.flip(1).cumsum(1).flip(1), {"a": whole(1)[0]},
    ),
    "ReverseSequence": (
        [node("Transpose", "x", "t", perm=[2, 1, 0, 3]), node("ReverseSequence", "t l", "r"),
         node("Transpose", "r", "y", perm=[2, 1, 0, 3])],
        lambda x: torch.stack([torch.cat([x[:, i, :n].flip(1), x[:, i, n:]], 1) for i, n in
                               enumerate((2, 5, 1))], 1), {"l": whole(2, 5, 1)},
    ),
    "ReduceProd": ([node("ReduceProd", "x", "y", axes=[2, 3])], lambda x: x.flatten(2).prod(2), {}),
    "ReduceLogSum": ([node("Abs", "x", "a"), node("Add", "a half", "b"),
                      node("ReduceLogSum", "b", "y", axes=[1], keepdims=0)],
                     lambda x: (x.abs() + 0.5).sum(1).log(), {"half": np.array(0.5, np.float32)}),
    "Shrink": ([node("Shrink", "x", "y", lambd=0.75, bias=0.25)],
               lambda x: torch.where(x.abs() > 0.75, x - 0.25 * torch.sign(x), 0 * x), {}),
    "Mod": ([node("Mod", "x half", "y", fmod=1)], lambda x: torch.fmod(x, 0.7),
            {"half": np.array(0.7, np.float32)}),
    "GlobalLpPool": ([node("GlobalLpPool", "x", "y")], lambda x: torch.linalg.vector_norm(x, dim=(2, 3)), {}),
    "GlobalLpPool, p = 3": ([node("GlobalLpPool", "x", "y", p=3)],
                            lambda x: torch.linalg.vector_norm(x, 3, dim=(2, 3)), {}),
    "LpPool": ([node("LpPool", "x", "y", kernel_shape=[3, 2], strides=[2, 2])],
               lambda x: F.lp_pool2d(x.abs(), 2.0, (3, 2), 2), {}),
    "LpPool, p = 1": ([node("LpPool", "x", "y", kernel_shape=[2, 2], strides=[1, 1], p=1)],
                      lambda x: F.lp_pool2d(x.abs(), 1.0, 2, 1), {}),
    "LpNormalization, p = 1": ([node("LpNormalization", "x", "y", p=1, axis=1)],
                               lambda x: x / x.abs().sum(1, keepdim=True), {}),
    "MeanVarianceNormalization": ([node("MeanVarianceNormalization", "x", "y", axes=[2, 3])],
                                  lambda x: F.instance_norm(x, eps=0.0), {}),
    "Tan": ([node("Tan", "x", "y")], torch.tan, {}),
    "Sinh": ([node("Sinh", "x", "y")], torch.sinh, {}),
    "Cosh": ([node("Cosh", "x", "y")], torch.cosh, {}),
    "Asinh": ([node("Asinh", "x", "y")], torch.asinh, {}),
    "Atan": ([node("Atan", "x", "y")], torch.atan, {}),
    "Atanh": ([node("Tanh", "x", "t"), node("Mul", "t half", "h"), node("Atanh", "h", "y")],
              lambda x: torch.atanh(0.5 * torch.tanh(x)), {"half": np.array(0.5, np.float32)}),
    "MaxPool of one axis": (
        [node("Reshape", "x rows", "f"), node("MaxPool", "f", "y", kernel_shape=[3], strides=[2])],
        lambda x: F.max_pool1d(x.flatten(2), 3, 2), {"rows": whole(0, 3, -1)},
    ),
}  # fmt: skip
SMOOTH = {"LpNormalization, p = 1", "MeanVarianceNormalization", "Tan", "Mod"}


@pytest.mark.parametrize("name", CASES)
def test_picking_and_formulas(name):
    nodes, function, weights = CASES[name]
    values = random_with_corners if name not in SMOOTH else None
    if name.startswith("TopK"):
        values = None  # which of equal numbers is picked differs
    if name in ("Tan", "Mod", "MeanVarianceNormalization"):
        values = random_positive
    check_adjoint(AdjointCase(nodes, function, SHAPE, weights, 17, values), double=False, factor=32)


def test_a_number_of_one_channel_goes_back_to_the_place_it_was_pooled_from():
    nodes = [
        node("MaxPool", "x", "p i", kernel_shape=[2, 2], strides=[2, 2]),
        node("Tanh", "p", "t"),
        node("MaxUnpool", "t i", "y", kernel_shape=[2, 2], strides=[2, 2]),
    ]

    def function(x):
        pooled, places = F.max_pool2d(x, 2, 2, return_indices=True)
        return F.max_unpool2d(torch.tanh(pooled), places, 2, 2)

    check_adjoint(AdjointCase(nodes, function, (3, 6, 4)), double=False)


@pytest.mark.parametrize("axes", [[2, 3], [-1]], ids=str)
def test_crops_and_pads_around_the_centre(axes):
    sizes = whole(8, 1)[-len(axes) :]

    def function(x):
        x = F.pad(x, (0, 0, 1, 2)) if len(axes) == 2 else x
        return x[..., 1:2]

    case = AdjointCase([node("CenterCropPad", "x n", "y", axes=axes)], function, SHAPE, {"n": sizes}, 18)
    check_adjoint(case, double=False)


def test_columns_put_together():
    nodes = [
        node("Reshape", "x rows", "c"),
        node("Col2Im", "c size block", "y", strides=[2, 1], pads=[1, 0, 0, 1], dilations=[1, 2]),
    ]
    # windows: (5 + 1 − 2)/2 + 1 = 3 and 6 + 1 − 3 + 1 = 5
    weights = {"rows": whole(0, 8, 15), "size": whole(5, 6), "block": whole(2, 2)}

    def function(x):
        columns = x.reshape(len(x), 8, 15)
        whole_map = F.fold(columns, (6, 7), (2, 2), (1, 2), 0, (2, 1))
        return whole_map[:, :, 1:, :6]

    check_adjoint(AdjointCase(nodes, function, (8, 3, 5), weights, 18), double=False)


REFUSED = {
    "TopK's places alone": ([node("TopK", "x k", "t i", axis=1), node("Cast", "i", "f", to=1),
                             node("Sin", "f", "y")],
                            r"derivative is zero \(TopK"),
    "ScatterElements": ([node("Identity", "x", "u"), node("Shape", "x", "s"),
                         node("ConstantOfShape", "s", "f"), node("Cast", "f", "i", to=TensorProto.INT64),
                         node("ScatterElements", "x i u", "y", axis=3, reduction="max")],
                        "by 'max' has no rule"),
    "MeanVarianceNormalization": ([node("MeanVarianceNormalization", "x", "y")], "mean over the batch"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said(name):
    nodes, text = REFUSED[name]
    with pytest.raises(AdjointError, match=text):
        build_adjoint_of(AdjointCase(nodes, lambda x: x, SHAPE, {"k": whole(2)}, 18), double=False)
