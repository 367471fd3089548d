"""Branches: the gradient goes back through the one that is taken."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import camrt  # noqa: E402
from camrt.errors import AdjointError  # noqa: E402
from camrt.export.adjoint import WEIGHTING  # noqa: E402
from helpers.adjoint_cases import (  # noqa: E402
    AdjointCase,
    build_adjoint_of,
    check_adjoint,
    node,
    run_single,
    torch_gradient,
)
from helpers.tolerances import assert_close  # noqa: E402

W = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32) / 3


def branch(nodes, *stored, element=TensorProto.FLOAT):
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], element, ["N", 3, 5, 4])]
    return helper.make_graph(nodes, nodes[-1].output[0], [], outputs, list(stored))


def two_ways(element):
    """A convolution and a mean of what was made outside, or something that does without."""
    half = np.array(0.5, helper.tensor_dtype_to_np_dtype(element))
    taken = [node("Conv", "t w", "v", pads=[1, 1, 1, 1]), node("Mul", "v x", "m"), node("Tanh", "m", "one")]
    one = branch(taken, element=element)
    left = [node("Mul", "x scale", "s"), node("Sigmoid", "s", "other")]
    other = branch(left, numpy_helper.from_array(half, "scale"), element=element)
    return one, other


BEFORE = [
    node("Tanh", "x", "t"),
    node("ReduceMean", "x", "level", keepdims=0),
    node("Greater", "level half", "c"),
]


def function(x):
    if x.mean() > 0.05:
        return torch.tanh(F.conv2d(torch.tanh(x), torch.from_numpy(W.astype(np.float64)), padding=1) * x) + x
    return torch.sigmoid(0.5 * x) + x


def case(**options):
    one, other = two_ways(options.get("element", TensorProto.FLOAT))
    chosen = node("If", "c", "z", then_branch=one, else_branch=other)
    weights = {"w": W, "half": np.array(0.05, np.float32)}
    return AdjointCase([*BEFORE, chosen, node("Add", "z x", "y")], function, weights=weights, **options)


@pytest.mark.parametrize("mean", [-0.3, 0.4])
def test_a_branch_chosen_by_the_image(mean):
    check_adjoint(case(values=lambda rng, shape: rng.standard_normal(shape) + mean), double=False, factor=16)


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_branches_of_other_types(element):
    """The numbers a branch holds are brought to the gradient's type too."""
    model = build_adjoint_of(case(element=element), double=False)
    images = (
        np.random.default_rng(1).standard_normal((2, 3, 5, 4)).astype(np.float16).astype(np.float64) - 0.5
    )
    weighting, _, expected = torch_gradient(function, images)
    found = run_single(model, {"map": images, WEIGHTING: weighting})[1]
    assert_close(found, expected, np.float32, factor=16)


def test_a_branch_in_a_head(tmp_path):
    one = branch([node("Mul", "t t", "one")])
    other = branch([node("Sigmoid", "t", "other")])
    nodes = [
        node("Tanh", "x", "t"), node("ReduceMax", "t", "level", keepdims=0),
        node("Greater", "level half", "c"),
        node("If", "c", "z", then_branch=one, else_branch=other), node("GlobalAveragePool", "z", "y"),
    ]  # fmt: skip
    made = AdjointCase(nodes, lambda x: x.mean((2, 3)), weights={"half": np.array(0.05, np.float32)})
    path = tmp_path / "model.onnx"
    path.write_bytes(made.model().SerializeToString())
    engine = camrt.load(path, target="t")
    images = made.images(2)
    a = torch.tanh(torch.from_numpy(images)).requires_grad_()
    (a * a).mean((2, 3))[:, 2].sum().backward()
    found = engine.explain(images.astype(np.float32), "hirescam", targets=2, size="map").raw
    assert_close(found, (a * a.grad).sum(1).detach().numpy(), np.float32, factor=8)


def test_a_branch_inside_a_branch():
    inner = node(
        "If",
        "c",
        "n",
        then_branch=branch([node("Exp", "q", "e")]),
        else_branch=branch([node("Neg", "q", "f")]),
    )
    one = branch([node("Mul", "x t", "q"), inner, node("Add", "n q", "one")])
    nodes = [
        *BEFORE,
        node("If", "c", "y", then_branch=one, else_branch=branch([node("Mul", "t t", "other")])),
    ]

    def nested(x):
        if x.mean() > 0.05:
            return torch.exp(x * torch.tanh(x)) + x * torch.tanh(x)
        return torch.tanh(x) ** 2

    for mean in (-0.3, 0.4):
        values = lambda rng, shape, mean=mean: rng.standard_normal(shape) / 2 + mean  # noqa: E731
        check_adjoint(
            AdjointCase(nodes, nested, weights={"half": np.array(0.05, np.float32)}, values=values),
            double=False,
            factor=16,
        )


def test_loops_are_refused_by_name():
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Tanh", "state", "next")], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("state", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("next", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [node("Relu", "x", "a"), node("Loop", "times yes a", "y", body=body)]
    weights = {"times": np.array(2), "yes": np.array(True)}
    with pytest.raises(AdjointError, match=r"Loop \(node 'Loop_y'\): camrt has no rule"):
        build_adjoint_of(AdjointCase(nodes, torch.tanh, weights=weights), double=False)
