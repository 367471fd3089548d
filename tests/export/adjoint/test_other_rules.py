"""Every other rule by itself, corners and ties included."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from onnx import TensorProto  # noqa: E402

from camrt.errors import AdjointError  # noqa: E402
from helpers.adjoint_cases import (  # noqa: E402
    AdjointCase,
    away_from,
    check_adjoint,
    node,
    random_positive,
    random_with_corners,
)

SHAPE = (3, 5, 4)


def weight(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def double(values):
    return torch.from_numpy(np.asarray(values, np.float64))


def one(operator, function, *, values=random_with_corners, **attributes):
    opset, domain = attributes.pop("opset", 17), attributes.pop("domain", "")
    case = AdjointCase(
        [node(operator, "x", "y", domain=domain, **attributes)], function, opset=opset, values=values
    )
    return pytest.param(case, domain == "", id=f"{operator}-{opset}-{attributes}")


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


UNARY = [
    one("Relu", F.relu),
    one("Clip", lambda x: F.hardtanh(x, -1.0, 2.0), opset=9, min=-1.0, max=2.0),
    one("LeakyRelu", lambda x: F.leaky_relu(x, 0.25), alpha=0.25),
    one("ThresholdedRelu", lambda x: F.threshold(x, 1.5, 0.0), alpha=1.5),
    one("Elu", lambda x: F.elu(x, 0.75), alpha=0.75, values=away_from(0)),
    one("Celu", lambda x: F.celu(x, 0.75), alpha=0.75),
    one("Selu", F.selu, values=away_from(0)),
    one("Sigmoid", torch.sigmoid),
    one("Tanh", torch.tanh),
    one("HardSigmoid", F.hardsigmoid, alpha=1 / 6, values=away_from(-3, 3)),
    one("HardSwish", F.hardswish, values=away_from(-3, 3)),
    one("Softplus", F.softplus),
    one("Softsign", F.softsign),
    one("Erf", torch.erf),
    one("Gelu", F.gelu, opset=20),
    one("Gelu", lambda x: F.gelu(x, approximate="tanh"), opset=20, approximate="tanh"),
    one("Gelu", F.gelu, domain="com.microsoft"),
    one("FastGelu", lambda x: F.gelu(x, approximate="tanh"), domain="com.microsoft"),
    one("QuickGelu", quick_gelu, domain="com.microsoft", alpha=1.702),
    one("Mish", F.mish, opset=18),
    one("Exp", torch.exp),
    one("Log", torch.log, values=random_positive),
    one("Sqrt", torch.sqrt, values=random_positive),
    one("Reciprocal", torch.reciprocal, values=random_positive),
    one("Neg", torch.neg),
    one("Abs", torch.abs),
    one("Sin", torch.sin),
    one("Cos", torch.cos),
    one("Identity", lambda x: x),
    one("Transpose", lambda x: x.permute(0, 3, 1, 2), perm=[0, 3, 1, 2]),
    one("DepthToSpace", lambda x: F.pixel_shuffle(x, 1), blocksize=1),
    one("Softmax", lambda x: x.softmax(1), axis=1),
    one("Softmax", lambda x: x.flatten(1).softmax(1).view_as(x), opset=11),
    one("Softmax", lambda x: x.softmax(-1)),
    one("LogSoftmax", lambda x: x.log_softmax(2), axis=2),
    one("LogSoftmax", lambda x: x.flatten(1).log_softmax(1).view_as(x), opset=12, axis=1),
    one("LpNormalization", lambda x: F.normalize(x, dim=1, eps=0), axis=1, p=2, values=random_positive),
    one("LRN", lambda x: F.local_response_norm(x, 3, 0.5, 0.6, 2.0), size=3, alpha=0.5, beta=0.6, bias=2.0),
    one("ReduceMean", lambda x: x.mean((2, 3)), axes=[2, 3], keepdims=0),
    one("ReduceMean", lambda x: x.mean(2, keepdim=True), axes=[-2]),
    one("ReduceSum", lambda x: x.sum((1, 3)), opset=11, axes=[1, -1], keepdims=0),
    one("ReduceMax", lambda x: x.amax((2, 3)), axes=[2, 3], keepdims=0),
    one("ReduceMin", lambda x: x.amin(1, keepdim=True), axes=[1]),
    one("ReduceL1", lambda x: x.abs().sum(3), axes=[3], keepdims=0),
    one("ReduceL2", lambda x: x.square().sum((2, 3)).sqrt(), axes=[2, 3], keepdims=0),
    one("ReduceSumSquare", lambda x: x.square().sum((2, 3)), axes=[2, 3], keepdims=0),
    one("ReduceLogSumExp", lambda x: x.logsumexp((2, 3)), axes=[2, 3], keepdims=0),
]  # fmt: skip


@pytest.mark.parametrize(("case", "standard"), UNARY)
def test_operators_of_one_tensor(case, standard):
    # ONNX's own reference lacks some, or makes them in float32 only.
    lacking = {"LRN", "Celu", "Selu", "HardSwish", "Softsign", "Erf", "Mish", "Gelu", "HardSigmoid"}
    old_softmax = "Softmax" in case.nodes[0].op_type and case.opset < 13
    check_adjoint(
        case, double=standard and case.nodes[0].op_type not in lacking and not old_softmax, factor=16
    )


def several(
    nodes, function, *, name="", values=None, weights=None, opset=17, shape=SHAPE, factor=8.0, **options
):
    label = name or nodes[-1].op_type
    return pytest.param(
        AdjointCase(nodes, function, shape, weights or {}, opset, values, **options), factor, id=label
    )


W = {"w": weight(3, 1, 4)}
TWICE = [node("Relu", "x", "a"), node("Tanh", "x", "b")]


def both(function):
    return lambda x: function(F.relu(x), torch.tanh(x))


def spread(function):
    return lambda x: function(x, torch.tanh(x).mean((2, 3), keepdim=True))


SPREAD = [node("Tanh", "x", "t"), node("GlobalAveragePool", "t", "b")]
G = {"s": weight(3), "b": weight(3)}
LAYER = {"s": weight(5, 4), "b": weight(5, 4)}
IMAGE = {"m": weight(3), "v": weight(3) ** 2 + np.float32(0.1), **G}

OTHERS = [
    several([*TWICE, node("Add", "a b", "y")], both(lambda a, b: a + b)),
    several([*TWICE, node("Sub", "a b", "y")], both(lambda a, b: a - b)),
    several([*TWICE, node("Mul", "a b", "y")], both(lambda a, b: a * b)),
    several([*TWICE, node("Sum", "a b x", "y")], lambda x: F.relu(x) + torch.tanh(x) + x),
    several([*TWICE, node("Mean", "a b x", "y")], lambda x: (F.relu(x) + torch.tanh(x) + x) / 3),
    several([*TWICE, node("Max", "a b", "y")], both(torch.maximum), values=random_with_corners),
    several([*TWICE, node("Min", "a b", "y")], both(torch.minimum), values=random_with_corners),
    several([node("Exp", "x", "a"), node("Div", "x a", "y")], lambda x: x / x.exp(), name="div"),
    several([*SPREAD, node("Mul", "x b", "y")], spread(lambda x, b: x * b), name="mul-spread"),
    several([*SPREAD, node("Div", "b w", "c"), node("Sub", "x c", "y")],
            spread(lambda x, b: x - b / double(W["w"])), weights=W, name="div-sub-spread"),
    several([node("Mul", "x w", "y")], lambda x: x * double(W["w"]), weights=W, name="mul-weight"),
    several([node("Pow", "x p", "y")], lambda x: x**2, weights={"p": np.array(2, np.float32)}, name="square"),
    several([node("Pow", "x p", "y")], lambda x: x**-1.5, weights={"p": np.array(-1.5, np.float32)},
            values=random_positive, name="power"),
    several([node("PRelu", "x s", "y")], lambda x: torch.where(x > 0, x, x * double(W["w"])),
            weights={"s": W["w"]}, values=random_with_corners),
    several([node("Clip", "x _ hi", "y")], lambda x: F.hardtanh(x, -99.0, 1.0),
            weights={"hi": np.array(1, np.float32)}, values=random_with_corners),
    several([node("Greater", "x zero", "c"), *TWICE, node("Where", "c a b", "y")],
            lambda x: torch.where(x > 0, F.relu(x), torch.tanh(x)), weights={"zero": np.float32(0)[None]}),
    several([node("BatchNormalization", "x s b m v", "y", epsilon=0.0078125)],
            lambda x: F.batch_norm(x, *(double(IMAGE[k]) for k in "mvsb"), eps=0.0078125), weights=IMAGE),
    several([node("InstanceNormalization", "x s b", "y", epsilon=0.0078125)],
            lambda x: F.instance_norm(x, weight=double(G["s"]), bias=double(G["b"]), eps=0.0078125),
            weights=G, factor=32.0),
    several([node("LayerNormalization", "x s b", "y", axis=2, epsilon=0.0078125)],
            lambda x: F.layer_norm(x, (5, 4), double(LAYER["s"]), double(LAYER["b"]), 0.0078125),
            weights=LAYER, factor=32.0),
    several([node("LayerNormalization", "x s", "y")],
            lambda x: F.layer_norm(x, (4,), double(LAYER["s"][0])), weights={"s": LAYER["s"][0]},
            name="layer-norm-last", factor=64.0),
    several([node("GroupNormalization", "x s b", "y", num_groups=3, epsilon=0.0078125)],
            lambda x: F.group_norm(x, 3, double(G["s"]), double(G["b"]), 0.0078125), weights=G, opset=21,
            factor=32.0),
    several([node("RMSNormalization", "x s", "y", axis=-1, epsilon=0.0078125)],
            lambda x: F.rms_norm(x, (4,), double(LAYER["s"][0]), 0.0078125), weights={"s": LAYER["s"][0]},
            opset=23, factor=32.0),
    several([node("Dropout", "x", "y")], lambda x: x),
    several([node("Reshape", "x n", "y")], lambda x: x.reshape(len(x), 5, 12),
            weights={"n": np.array([0, 5, -1], np.int64)}),
    several([node("Unsqueeze", "x n", "a"), node("Squeeze", "a n", "y")], lambda x: x,
            weights={"n": np.array([1], np.int64)}, name="squeeze"),
    several([*TWICE, node("Concat", "a b a", "y", axis=-2)], both(lambda a, b: torch.cat([a, b, a], 2))),
    several([node("Split", "x n", "a b", axis=2), node("Tanh", "a", "y")], lambda x: torch.tanh(x[:, :, :2]),
            weights={"n": np.array([2, 3], np.int64)}, name="split-one"),
    several([node("Split", "x n", "a b", axis=2), node("Concat", "b a", "y", axis=2)],
            lambda x: torch.cat([x[:, :, 2:], x[:, :, :2]], 2), weights={"n": np.array([2, 3], np.int64)},
            name="roll"),
    several([node("Slice", "x b e a", "y")], lambda x: x[:, :, 1:4, :3],
            weights={"b": np.array([1, -9]), "e": np.array([-1, 3]), "a": np.array([2, -1])}),
    several([node("Slice", "x b e a s", "y")], lambda x: x[:, :, 1::2].flip(3)[..., ::3],
            weights={"b": np.array([1, -1]), "e": np.array([99, -99]), "a": np.array([2, 3]),
                     "s": np.array([2, -3])}, name="slice-steps"),
    several([node("Slice", "x", "y", starts=[1], ends=[3], axes=[2])], lambda x: x[:, :, 1:3], opset=9,
            name="slice-9"),
    several([node("Gather", "x i", "y", axis=2)], lambda x: x[:, :, 3], weights={"i": np.array(-2)},
            name="gather-one"),
    several([node("Gather", "x i", "y", axis=2)], lambda x: x[:, :, [4, 0, 4]],
            weights={"i": np.array([4, 0, -1])}, name="gather-some"),
    several([node("Gather", "x i", "y", axis=3)], lambda x: x[..., [[1, 0, 3], [1, 2, 2]]],
            weights={"i": np.array([[1, 0, 3], [1, 2, 2]])}, name="gather-table"),
    several([node("GlobalAveragePool", "x", "a"), node("Expand", "a n", "y")],
            lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 2, 3),
            weights={"n": np.array([1, 1, 2, 3])}),
    several([node("Tile", "x n", "y")], lambda x: x.repeat(1, 2, 1, 3),
            weights={"n": np.array([1, 2, 1, 3])}),
    several([node("Pad", "x n", "y")], lambda x: F.pad(x, (1, 0, 2, 3)),
            weights={"n": np.array([0, 0, 2, 1, 0, 0, 3, 0])}),
    several([node("DepthToSpace", "x", "y", blocksize=2, mode="CRD")], lambda x: F.pixel_shuffle(x, 2),
            shape=(8, 3, 2), name="depth-to-space-crd"),
    several([node("SpaceToDepth", "x", "a", blocksize=2), node("DepthToSpace", "a", "y", blocksize=2)],
            lambda x: x, shape=(3, 4, 6), name="space-to-depth"),
    several([node("Flatten", "x", "f"), node("Gemm", "f w b", "y", alpha=0.5, beta=2.0)],
            lambda x: 0.5 * x.flatten(1) @ double(weight(60, 7)) + 2 * double(weight(7)),
            weights={"w": weight(60, 7), "b": weight(7)}),
    several([node("Flatten", "x", "f"), node("Gemm", "f w", "y", transB=1)],
            lambda x: x.flatten(1) @ double(weight(7, 60)).T,
            weights={"w": weight(7, 60)}, name="gemm-turned"),
    several([node("Flatten", "x", "f"), node("Relu", "f", "r"), node("Gemm", "f w r", "y")],
            lambda x: x.flatten(1) @ double(weight(60, 60)) + F.relu(x.flatten(1)),
            weights={"w": weight(60, 60)}, name="gemm-bias"),
    several([node("MatMul", "x w", "y")], lambda x: x @ double(weight(4, 6)), weights={"w": weight(4, 6)}),
    several([node("MatMul", "w x", "y")], lambda x: double(weight(6, 5)) @ x, weights={"w": weight(6, 5)},
            name="matmul-left"),
    several([node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("Tanh", "x", "a"),
             node("MatMul", "a t", "m"),
             node("Softmax", "m", "s", axis=-1), node("MatMul", "s x", "y")],
            lambda x: (torch.tanh(x) @ x.mT).softmax(-1) @ x, name="attention", factor=32.0),
    several([node("Einsum", "x w", "y", equation="nchw,kc->nkhw")],
            lambda x: torch.einsum("nchw,kc->nkhw", x, double(weight(6, 3))), weights={"w": weight(6, 3)}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "factor"), OTHERS)
def test_operators_of_several_tensors(case, factor):
    operators = {made.op_type for made in case.nodes}
    lacking = {"LayerNormalization", "GroupNormalization", "RMSNormalization", "BatchNormalization", "PRelu"}
    check_adjoint(case, double=not operators & lacking, factor=factor)


def test_the_straight_through_rule():
    """The pair passes what lies within the range, and nothing where it is saturated."""

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return (torch.round(x / 0.1) + 3).clamp(0, 255).sub(3).mul(0.1)

        @staticmethod
        def backward(context, g):
            (x,) = context.saved_tensors
            return g * (x / 0.1 + 3 > 0) * (x / 0.1 + 3 < 255)

    weights = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
    check_adjoint(AdjointCase(nodes, Through.apply, weights=weights), double=False)
    each = {"s": np.array([0.1, 0.1, 0.1], np.float32), "z": np.array([3, 3, 3], np.uint8)}
    nodes = [node("QuantizeLinear", "x s z", "q", axis=1), node("DequantizeLinear", "q s z", "y", axis=1)]
    check_adjoint(AdjointCase(nodes, Through.apply, weights=each), double=False)


REFUSED = {
    "Floor": ([node("Floor", "x", "y")], {}, r"zero everywhere: .*derivative is zero \(Floor \(node"),
    "Cast": ([node("Cast", "x", "i", to=TensorProto.INT64), node("Cast", "i", "y", to=TensorProto.FLOAT)], {},
             r"derivative is zero \(Cast \(node 'Cast_i'\)\)"),
    "ArgMax": ([node("ArgMax", "x", "i", axis=1), node("Cast", "i", "f", to=1), node("Sin", "f", "y")], {},
               r"derivative is zero \(ArgMax .*'pixab'"),
    "Hardmax": ([node("Hardmax", "x", "h"), node("Sin", "h", "y")], {}, r"derivative is zero \(Hardmax"),
    "Det": ([node("MatMul", "x w", "m"), node("Det", "m", "y")], {"w": weight(4, 5)},
            r"Det .*no rule for this operator"),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "weights", "text"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_derivative_or_no_rule_is_refused_by_name(nodes, weights, text):
    with pytest.raises(AdjointError, match=text):
        check_adjoint(AdjointCase(nodes, None, weights=weights))
