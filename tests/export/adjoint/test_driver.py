"""The adjoint as a whole: what meets is added, what has no way back is said, whatever type the file holds."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

import camrt  # noqa: E402
from camrt.errors import AdjointError, CutError  # noqa: E402
from camrt.export.adjoint import WEIGHTING, build_adjoint_model  # noqa: E402
from camrt.export.heads.cut import extra_input_name  # noqa: E402
from helpers.adjoint_cases import (  # noqa: E402
    AdjointCase,
    build_adjoint_of,
    check_adjoint,
    node,
    open_graph,
    run_single,
    torch_gradient,
)
from helpers.tolerances import assert_close  # noqa: E402

W = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) / 3
V = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)


def double(values):
    return torch.from_numpy(values.astype(np.float64))


HEAD = [
    node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "a"), node("Tanh", "a", "t"),
    node("GlobalAveragePool", "t", "p"), node("Flatten", "p", "f"), node("MatMul", "f v", "y"),
]  # fmt: skip


def head(x):
    return torch.tanh(F.relu(F.conv2d(x, double(W), padding=1))).mean((2, 3)) @ double(V)


def test_cotangents_that_meet_are_added():
    nodes = [
        node("Tanh", "x", "a"),
        node("Mul", "a x", "b"),
        node("Add", "b a", "c"),
        node("Sum", "c x c a", "y"),
    ]

    def function(x):
        a = torch.tanh(x)
        c = a * x + a
        return c + x + c + a

    check_adjoint(AdjointCase(nodes, function))


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_everything_is_computed_in_one_type_whatever_the_file_holds(element):
    """The weights are those of the narrow type; the arithmetic is not."""
    case = AdjointCase(HEAD, head, weights={"w": W, "v": V}, element=element)
    model = build_adjoint_of(case, double=False)
    held = {tensor.data_type for tensor in model.graph.initializer}
    assert held <= {TensorProto.FLOAT, TensorProto.INT64}
    narrow = {name: narrowed(value, element) for name, value in case.weights.items()}
    twin = build_adjoint_of(AdjointCase(HEAD, head, weights=narrow), double=False)
    images = case.images(3)
    feeds = {"map": images, WEIGHTING: np.ones((3, 5), np.float32)}
    for found, expected in zip(run_single(model, feeds), run_single(twin, feeds), strict=True):
        assert np.array_equal(found, expected)


def narrowed(values, element):
    dtype = helper.tensor_dtype_to_np_dtype(element)
    return values.astype(dtype).astype(np.float32)


def test_a_tensor_that_goes_around_is_an_input_of_its_own():
    nodes = [
        node("Relu", "x", "a"),
        node("Tanh", "x", "b"),
        node("Sigmoid", "a", "s"),
        node("Mul", "s b", "y"),
    ]
    case = AdjointCase(nodes, lambda x: torch.sigmoid(F.relu(x)) * torch.tanh(x))
    model, graph = open_graph(case.model())
    back = build_adjoint_model(model, graph, "a", input_name="map", batch=None, extra_inputs=["b"])
    x = torch.from_numpy(case.images(2))
    a, b = F.relu(x).requires_grad_(), torch.tanh(x)
    weighting = np.random.default_rng(2).standard_normal((2, 60)).astype(np.float32)
    (torch.sigmoid(a) * b).flatten(1).mul(double(weighting)).sum().backward()
    feeds = {"map": a.detach().numpy(), extra_input_name(0): b.numpy(), WEIGHTING: weighting}
    assert_close(run_single(back, feeds)[1], a.grad.numpy(), np.float32, factor=4)


def test_what_the_trunk_pass_gives_is_not_run_again():
    nodes = [
        node("Flatten", "x", "f"),
        node("MatMul", "f w", "z"),
        node("Relu", "z", "r"),
        node("MatMul", "r v", "y"),
    ]
    rng = np.random.default_rng(3)
    weights = {
        name: rng.standard_normal(size).astype(np.float32)
        for name, size in {"w": (60, 7), "v": (7, 4)}.items()
    }
    case = AdjointCase(
        nodes, lambda x: F.relu(x.flatten(1) @ double(weights["w"])) @ double(weights["v"]), weights=weights
    )
    model, graph = open_graph(case.model())
    back = build_adjoint_model(
        model,
        graph,
        "x" if "x" in graph.shapes else graph.input_name,
        input_name="map",
        batch=None,
        known_tensors=["z"],
    )
    forward = [each for each in back.graph.node if each.op_type == "MatMul"]
    assert len(forward) == 3  # the second layer, and both ways back
    images = case.images(2)
    weighting, _, expected = torch_gradient(case.function, images)
    z = images.reshape(2, -1) @ weights["w"]
    feeds = {"map": images, extra_input_name(0): z, WEIGHTING: weighting}
    assert_close(run_single(back, feeds)[1], expected, np.float32, factor=8)


def test_a_fixed_batch():
    case = AdjointCase(HEAD, head, weights={"w": W, "v": V}, batch=3)
    images = case.images(3)
    weighting, _, expected = torch_gradient(head, images)
    found = run_single(build_adjoint_of(case, double=False), {"map": images, WEIGHTING: weighting})
    assert_close(found[1], expected, np.float32, factor=8)


def test_the_logits_must_depend_on_the_start():
    nodes = [node("Relu", "x", "a"), node("Shape", "a", "s"), node("ConstantOfShape", "s", "zero"),
             node("Tanh", "x", "t"), node("Add", "t zero", "y")]  # fmt: skip
    model, graph = open_graph(AdjointCase(nodes, torch.tanh).model())
    with pytest.raises(AdjointError, match="do not depend on 'a'"):
        build_adjoint_model(model, graph, "a", input_name="map", batch=None)


@pytest.mark.parametrize("opset", [9, 10, 12])
def test_an_operator_set_without_computed_slices_or_adding_scatters(opset):
    """The gradient is written in a later one."""
    nodes = [
        node("Conv", "x w", "c", strides=[2, 2]),
        node("MaxPool", "c", "m", kernel_shape=[2, 1], strides=[1, 1]),
        node("GlobalAveragePool", "m", "p"),
        node("Flatten", "p", "y"),
    ]

    def function(x):
        return F.max_pool2d(F.conv2d(x, double(W), stride=2), (2, 1), 1).mean((2, 3))

    check_adjoint(AdjointCase(nodes, function, (3, 7, 6), {"w": W}, opset), double=False)


def test_what_has_no_spelling_in_the_later_operator_set_is_said():
    nodes = [node("Dropout", "x", "d m"), node("Mul", "d m", "y")]  # the mask's type was another
    with pytest.raises(AdjointError, match="operator set 17, and this file's, of operator set 9,"):
        build_adjoint_of(AdjointCase(nodes, lambda x: x, opset=9), double=False)


def test_numbers_that_are_not_finite_do_not_raise():
    model = build_adjoint_of(AdjointCase(HEAD, head, weights={"w": W, "v": V}), double=False)
    images = np.zeros((2, 3, 5, 4))
    images[0, 0, 0, 0] = np.nan
    images[1, 0, 0, 0] = np.inf
    logits, _ = run_single(model, {"map": images, WEIGHTING: np.ones((2, 5), np.float32)})
    assert np.isnan(logits[0]).all()


# ---------------------------------------------------------------- through camrt.load


def write(case, path):
    path.write_bytes(case.model().SerializeToString())
    return path


def test_a_method_without_gradients_works_where_there_is_no_rule(tmp_path):
    nodes = [node("Relu", "x", "a"), node("Hardmax", "a", "h", axis=1), *HEAD[3:]]
    nodes[2] = node("GlobalAveragePool", "h", "p")
    v = np.random.default_rng(4).standard_normal((3, 5)).astype(np.float32)
    engine = camrt.load(write(AdjointCase(nodes, None, weights={"v": v}), tmp_path / "m.onnx"), target="a")
    images = AdjointCase(nodes, None).images(2).astype(np.float32)
    assert engine.explain(images, "pixab").maps.shape == (2, 5, 4)
    for method in ("gradcam", "gradient", "opticam"):
        with pytest.raises(
            AdjointError, match=r"derivative is zero \(Hardmax \(node 'Hardmax_h'\)\).*'pixab'"
        ):
            engine.explain(images, method)


def test_a_target_inside_a_fused_operator_is_not_found(tmp_path):
    fused = node("FusedConv", "x w", "a", domain="com.microsoft", activation="Relu", pads=[1, 1, 1, 1])
    path = write(AdjointCase([fused, *HEAD[2:]], head, weights={"w": W, "v": V}), tmp_path / "m.onnx")
    with pytest.raises(CutError, match="target 'c' was not found"):
        camrt.load(path, target="c")


def test_a_float16_file(tmp_path):
    wide = camrt.load(
        write(
            AdjointCase(
                HEAD,
                head,
                weights={"w": narrowed(W, TensorProto.FLOAT16), "v": narrowed(V, TensorProto.FLOAT16)},
            ),
            tmp_path / "w.onnx",
        ),
        target="a",
    )
    half = camrt.load(
        write(
            AdjointCase(HEAD, head, weights={"w": W, "v": V}, element=TensorProto.FLOAT16),
            tmp_path / "h.onnx",
        ),
        target="a",
    )
    images = AdjointCase(HEAD, head).images(3).astype(np.float32)
    for method in ("gradcam", "layercam", "gradient"):
        expected, found = (engine.explain(images, method, targets=1).raw for engine in (wide, half))
        # the trunk's activation is float16
        assert_close(found, expected, np.float16, factor=4)


def test_a_quantised_file_follows_the_straight_through_rule(tmp_path):
    scale, zero = np.array(0.02, np.float32), np.array(0, np.uint8)
    nodes = [
        HEAD[0], node("QuantizeLinear", "c s z", "q"), node("DequantizeLinear", "q s z", "a"),
        node("Conv", "a w2", "d"), node("QuantizeLinear", "d s z", "r"),
        node("DequantizeLinear", "r s z", "b"),
        node("GlobalAveragePool", "b", "p"), *HEAD[4:],
    ]  # fmt: skip
    mixed = np.random.default_rng(5).standard_normal((4, 4, 1, 1)).astype(np.float32)
    case = AdjointCase(nodes, head, weights={"w": W, "v": V, "s": scale, "z": zero, "w2": mixed})
    engine = camrt.load(write(case, tmp_path / "q.onnx"), target="a")
    images = case.images(2)

    def quantised(x):
        whole = (torch.round(x / 0.02)).clamp(0, 255) * 0.02
        return x + (whole - x).detach()

    c = F.conv2d(torch.from_numpy(images), double(W), padding=1)
    a = ((torch.round(c / 0.02)).clamp(0, 255) * 0.02).detach().requires_grad_()
    d = F.conv2d(a, double(mixed))
    passed = d.clamp(0.0, 255 * 0.02)  # nothing passes where the quantiser is saturated
    b = quantised(d).detach() + passed - passed.detach()
    (b.mean((2, 3)) @ double(V))[:, 1].sum().backward()
    found = engine.explain(images.astype(np.float32), "hirescam", targets=1, size="map")
    assert_close(found.raw, (a * a.grad).sum(1).detach().numpy(), np.float32, factor=50)  # 0.02 is rounded


# ---------------------------------------------------------------- any graph

UNARY = {
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Erf": torch.erf,
    "Neg": torch.neg,
}
BINARY = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul}


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_random_graphs(data):
    count = data.draw(st.integers(2, 7))
    nodes, plan = [], []
    for i in range(count):
        made = "y" if i == count - 1 else f"t{i}"
        operator = data.draw(st.sampled_from([*UNARY, *BINARY, "Conv"]))
        reads = [data.draw(st.integers(0, i)) for _ in range(2 if operator in BINARY else 1)]
        names = ["x" if read == 0 else f"t{read - 1}" for read in reads]
        if operator == "Conv":
            nodes.append(node("Conv", f"{names[0]} w", made, pads=[1, 1, 1, 1]))
        else:
            nodes.append(node(operator, " ".join(names), made))
        plan.append((operator, reads))
    square = W[:3] / 2

    def function(x):
        values = [x]
        for operator, reads in plan:
            given_ = [values[read] for read in reads]
            if operator == "Conv":
                values.append(F.conv2d(given_[0], double(square), padding=1))
            else:
                values.append({**UNARY, **BINARY}[operator](*given_))
        return values[-1]

    case = AdjointCase(nodes, function, weights={"w": square})
    images = case.images(2)
    weighting, logits, expected = torch_gradient(function, images)
    found = run_single(build_adjoint_of(case, double=False), {"map": images, WEIGHTING: weighting})
    assert_close(found[0], logits, np.float32, factor=16)
    assert_close(found[1], expected, np.float32, factor=64)  # products of several layers' slopes
