"""Graphs brought to another floating-point type, against the graph as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camrt.export.rewrites.float_types import cast_floats
from helpers.third_party_models import run_onnxruntime
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, Net, model_of

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE


def converted(model: onnx.ModelProto, element: int) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    clamped = cast_floats(other, element)
    onnx.checker.check_model(other, full_check=True)
    for value in (*other.graph.input, *other.graph.output):
        assert value.type.tensor_type.elem_type == element
    return other, clamped


def agree(model: onnx.ModelProto, fed: np.ndarray, factor: float = 4.0) -> np.ndarray:
    """Brings a graph to float16, runs both, and returns what the converted one answers."""
    other, clamped = converted(model, HALF)
    assert not clamped
    expected = run_onnxruntime(model, fed)[0]
    found = run_onnxruntime(other, fed.astype(np.float16))[0]
    assert found.dtype == np.float16
    assert_close(found, expected, factor=factor)
    return found


@pytest.mark.parametrize("name", HEADS)
def test_heads_in_half_precision(name: str) -> None:
    part = HEADS[name].make(np.random.default_rng(0), 6, 5, 4, 3)
    model = model_of(
        part.nodes, part.initializers, ["N", 6, 5, 4], ["N", part.classes], part.opset, source="A"
    )
    activations = np.random.default_rng(1).standard_normal((2, 6, 5, 4), np.float32)
    agree(model, activations, factor=8)  # layers one behind another, each rounded


def single(
    make: Callable[[Net], str], shape: list[int | str], rank: int = 2, opset: int = 17, **more: Any
) -> onnx.ModelProto:
    """A graph from "x" to what `make` ends in."""
    net = Net(np.random.default_rng(2))
    last = make(net)
    net.nodes.append(helper.make_node("Identity", [last], ["y"]))
    free = [f"axis_{number}" for number in range(rank)]
    return model_of(net.nodes, net.initializers, shape, free, opset, source="x", end="y", **more)


def scales_from_sizes(net: Net) -> str:
    """What a trace of interpolate(x, size of another tensor) comes to: sizes divided as floats."""
    sizes = net.add("Cast", net.add("Shape", "x"), to=FLOAT)
    wanted = net.constant([1.0, 1.0, 2049.0, 6.0])
    ones = net.constant([0.0, 0.0, 1.0, 1.0])
    ratio = net.add("Div", wanted, sizes)
    picked = net.add("Add", net.add("Mul", ratio, ones), net.constant([1.0, 1.0, 0.0, 0.0]))
    return net.add("Resize", "x", "", picked, mode="nearest")


def read_twice(net: Net, scales: str) -> str:
    return net.add("Add", net.add("Resize", "x", "", scales, mode="nearest"), net.add("ReduceMax", scales))


RESIZED: dict[str, Callable[[Net], str]] = {
    "scales": lambda net: net.add("Resize", "x", "", net.constant([1, 1, 2, 1.5]), mode="linear"),
    "region": lambda net: net.add(
        "Resize", "x", net.constant([0, 0, 0.1, 0.2, 1, 1, 0.9, 0.8]), "",
        net.constant([1, 2, 3, 4], np.int64), coordinate_transformation_mode="tf_crop_and_resize",
        mode="linear",
    ),
    "scales-that-are-read-elsewhere": lambda net: read_twice(net, net.constant([1, 1, 2, 1.5])),
    "computed": scales_from_sizes,
}  # fmt: skip


@pytest.mark.parametrize("case", RESIZED)
def test_scales_stay_what_they_have_to_be(case: str) -> None:
    model = single(RESIZED[case], [1, 2, 3, 4], 4)
    found = agree(model, np.random.default_rng(3).standard_normal((1, 2, 3, 4), np.float32))
    if case == "computed":
        assert found.shape == (1, 2, 2049, 6)  # 2049 is no number of float16
    converted(
        model, DOUBLE
    )  # the checker knows that scales are float32; the runtime has no Resize of doubles


def attention(masked: Any) -> onnx.ModelProto:
    """Attention among four tokens, with a mask added to the scores, as exporters write it."""

    def make(net: Net) -> str:
        weights = [net.weight(6, 6, fan=6)[0] for _ in range(3)]
        query, key, value = (net.add("MatMul", "x", weight) for weight in weights)
        scores = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 2, 1]))
        told = net.add("Add", scores, masked(net))
        return net.add("MatMul", net.add("Softmax", told, axis=-1), value)

    return single(make, ["N", 4, 6], 3)


KEPT = np.tril(np.ones((4, 4), bool))
LOWEST = float(np.finfo(np.float32).min)


def stored_mask(net: Net) -> str:
    return net.constant(np.where(KEPT, 0, LOWEST))


def chosen_mask(net: Net) -> str:
    """Computed of constants: what is not fed is computed as it was, and bounded where it is cast."""
    lowest = net.add("Expand", net.constant([LOWEST]), net.constant([4, 4], np.int64))
    return net.add("Where", net.constant(KEPT, np.bool_), net.constant(0.0), lowest)


def multiplied_mask(net: Net) -> str:
    """BERT's (1 − kept) · −1e9."""
    kept = net.constant(KEPT.astype(np.float32))
    return net.add("Mul", net.add("Sub", net.constant(1.0), kept), net.constant(-1e9))


@pytest.mark.parametrize("masked", [stored_mask, chosen_mask, multiplied_mask], ids=lambda f: f.__name__)
def test_a_mask_of_the_lowest_number_stays_one(masked: Callable[[Net], str]) -> None:
    model = attention(masked)
    fed = np.random.default_rng(4).standard_normal((2, 4, 6), np.float32)
    other, clamped = converted(model, HALF)
    found = run_onnxruntime(other, fed.astype(np.float16))[0]
    assert np.isfinite(found).all()
    assert_close(found, run_onnxruntime(model, fed)[0], factor=4)
    assert bool(clamped) == (masked is stored_mask)


def test_infinities_stay_and_numbers_beyond_the_range_are_told() -> None:
    model = single(lambda net: net.add("Max", "x", net.constant([1e9, -np.inf, -1e9, np.inf, 1.0])), ["N", 5])
    other, clamped = converted(model, HALF)
    assert clamped == ("constant_0",)
    found = run_onnxruntime(other, np.zeros((1, 5), np.float16))[0]
    np.testing.assert_array_equal(found, np.float16([[65504, 0, 0, np.inf, 1]]))


@pytest.mark.parametrize("small", [1e-12, -1e-30])
def test_a_number_that_would_vanish_does_not(small: float) -> None:
    """0 / (0 + 1e-12) is 0, not NaN."""
    model = single(lambda net: net.add("Div", "x", net.add("Add", "x", net.constant(small))), ["N", 3])
    other, clamped = converted(model, HALF)
    assert not clamped
    np.testing.assert_array_equal(run_onnxruntime(other, np.zeros((1, 3), np.float16))[0], np.zeros((1, 3)))


def test_quantisers_keep_their_scales() -> None:
    """A bias' scale of 2e-7 has two bits in float16, and before opset 19 no scale is."""

    def make(net: Net) -> str:
        whole = net.constant([[3, -5, 70], [9, 100, -128]], np.int8)
        weight = net.add("DequantizeLinear", whole, net.constant(1e-4), net.constant(0, np.int8))
        bias = net.add("DequantizeLinear", net.constant([2_500_000, -1, 7], np.int32), net.constant(2e-7))
        step, zero = net.constant(2e-3), net.constant(128, np.uint8)
        rounded = net.add("QuantizeLinear", "x", step, zero)
        back = net.add("DequantizeLinear", rounded, step, zero)
        return net.add("Gemm", back, weight, bias)

    for opset in (13, 19, 21):
        model = single(make, ["N", 2], opset=opset)
        fed = np.random.default_rng(5).standard_normal((3, 2), np.float32)
        agree(model, fed.astype(np.float16).astype(np.float32))


def test_subgraphs_are_converted_too() -> None:
    """Constants of a branch, a stored tensor of the graph around it, and a Resize inside."""
    float_maps = helper.make_tensor_value_info("b", FLOAT, None)
    inner = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Constant", [], ["by"], value_floats=[1.0, 1.0, 2.0, 1.0]),
        helper.make_node("Resize", ["x", "", "by"], ["larger"], mode="nearest"),
        helper.make_node("Mul", ["larger", "two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "shift"], ["b"]),
    ]
    then = helper.make_graph(inner, "then", [], [float_maps])
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["c"])], "else", [], [helper.make_tensor_value_info("c", FLOAT, None)]
    )

    def make(net: Net) -> str:
        net.initializers.append(numpy_helper.from_array(np.float32([0.25]), "shift"))
        total = net.add("ReduceSum", "x", keepdims=0)
        return net.add(
            "If", net.add("Greater", total, net.constant(0.0)), then_branch=then, else_branch=other
        )

    model = single(make, ["N", 2, 3, 4], 4)
    fed = np.abs(np.random.default_rng(6).standard_normal((1, 2, 3, 4), np.float32))
    assert agree(model, fed).shape == (1, 2, 6, 4)
    assert agree(model, -fed).shape == (1, 2, 3, 4)


def test_what_a_loop_carries_is_converted() -> None:
    """s ← s·x + 0.5 three times, and every s stacked; the trip count is a whole number and stays one."""
    body = helper.make_graph(
        [
            helper.make_node("Constant", [], ["half"], value_float=0.5),
            helper.make_node("Mul", ["state", "x"], ["product"]),
            helper.make_node("Add", ["product", "half"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, None),
            helper.make_tensor_value_info("seen", FLOAT, None),
        ],
    )

    def make(net: Net) -> str:
        start, turns = net.constant([1.0, 2.0]), net.constant(3, np.int64)
        net.nodes.append(helper.make_node("Loop", [turns, "", start], ["last", "all"], body=body))
        return net.add("Add", "last", net.add("ReduceMean", "all", axes=[0], keepdims=0))

    agree(single(make, ["N", 2]), np.random.default_rng(8).standard_normal((3, 2), np.float32))


@pytest.mark.parametrize("opset", [9, 11, 17])
def test_what_has_no_half_type_is_computed_in_its_own(opset: int) -> None:
    """CumSum before opset 14 and Range, of numbers that are fed."""

    def make(net: Net) -> str:
        if opset < 11:
            return net.add("Upsample", "x", net.constant([2.0, 1.0]), mode="nearest")
        summed = net.add("CumSum", "x", net.constant(1, np.int32))
        last = net.add("ReduceSum", net.add("Abs", "x"), keepdims=0, name="end")
        counted = net.add("Range", net.constant(0.0), last, net.constant(1.0))
        return net.add("Add", summed, net.add("ReduceMean", counted, axes=[0], keepdims=0))

    agree(single(make, [2, 3], opset=opset), np.random.default_rng(7).standard_normal((2, 3), np.float32))


def test_half_weights_become_whole_ones() -> None:
    """Every tensor of a float16 file in float32, as gradients want it."""
    part = HEADS["gemm-hard-swish-gemm"].make(np.random.default_rng(0), 6, 5, 4, 3)
    model = model_of(part.nodes, part.initializers, ["N", 6, 5, 4], ["N", 3], part.opset, source="A")
    half, _ = converted(model, HALF)
    whole, _ = converted(half, FLOAT)
    assert {tensor.data_type for tensor in whole.graph.initializer} <= {FLOAT, TensorProto.INT64}
    fed = np.random.default_rng(1).standard_normal((2, 6, 5, 4), np.float32)
    assert_close(run_onnxruntime(whole, fed)[0], part.logits64(fed), np.float16, factor=4)
