"""Older graphs brought to the operator set camrt writes for: the same numbers, by onnxruntime on both."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from camrt.export.graph.index import opset
from camrt.export.rewrites.opset_upgrade import MODERN_OPSET, upgrade_opset

SHAPE = (2, 4, 6, 5)


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def model_of(nodes, version, weights=None, *, element=TensorProto.FLOAT, shape=("N", 4, 6, 5)):
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("x", element, shape)],
        [onnx.ValueInfoProto(name=name) for name in nodes[-1].output if name],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=4)


def run(model, x):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


SCALES = {"s": np.array([1, 1, 2, 3], np.float32)}
CASES = {
    "Clip": ([node("Clip", "x", "y", min=-0.5, max=0.25)], 9, {}),
    "Clip below": ([node("Clip", "x", "y", min=0.0)], 10, {}),
    "Pad": ([node("Pad", "x", "y", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5)], 9, {}),
    "Pad edge": ([node("Pad", "x", "y", pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="edge")], 9, {}),
    "Pad reflect": ([node("Pad", "x", "y", pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect")], 10, {}),
    "Slice": ([node("Slice", "x", "y", starts=[1, 0], ends=[-1, 9])], 9, {}),
    "Slice axes": ([node("Slice", "x", "y", starts=[1], ends=[3], axes=[2])], 9, {}),
    "Dropout": ([node("Dropout", "x", "y", ratio=0.5)], 9, {}),
    "Dropout with mask": ([node("Dropout", "x", "d m", ratio=0.5), node("Relu", "d", "y")], 9, {}),
    "Squeeze": (
        [node("GlobalAveragePool", "x", "p"), node("Squeeze", "p", "q", axes=[2, 3]),
         node("Unsqueeze", "q", "y", axes=[0])], 9, {},
    ),
    "ReduceSum": ([node("ReduceSum", "x", "y", axes=[2, 3], keepdims=0)], 11, {}),
    "ReduceSum of all": ([node("ReduceSum", "x", "y")], 9, {}),
    "Split": ([node("Split", "x", "a b", axis=1, split=[1, 3]), node("Concat", "b a", "y", axis=1)], 9, {}),
    "Split evenly": ([node("Split", "x", "a b", axis=1), node("Sub", "b a", "y")], 11, {}),
    "TopK": ([node("TopK", "x", "y i", axis=1, k=2)], 9, {}),
    "Softmax of all": ([node("Softmax", "x", "y")], 9, {}),
    "Softmax of two axes": ([node("Softmax", "x", "y", axis=-2)], 12, {}),
    "Softmax of the last": ([node("LogSoftmax", "x", "y", axis=3)], 11, {}),
    "Softmax of rows": ([node("Flatten", "x", "f"), node("Softmax", "f", "y")], 9, {}),
    "Softmax of pooled": ([node("GlobalAveragePool", "x", "f"), node("Softmax", "f", "y", axis=1)], 9, {}),
    "Hardmax": ([node("Hardmax", "x", "y", axis=2)], 9, {}),
    "Upsample": ([node("Upsample", "x s", "y", mode="nearest")], 9, SCALES),
    "Upsample by lines": ([node("Upsample", "x s", "y", mode="linear")], 9, SCALES),
    "Resize": ([node("Resize", "x s", "y", mode="nearest")], 10, {"s": SCALES["s"] * np.float32(1.25)}),
    "Resize up and down": ([node("Resize", "x s", "y")], 10, {"s": np.array([1, 1, 0.4, 1.7], np.float32)}),
    "Resize down": ([node("Resize", "x s", "y")], 10, {"s": np.array([1, 1, 0.4, 0.7], np.float32)}),
    "Resize by lines": (
        [node("Resize", "x s", "y", mode="linear")], 10, {"s": np.array([1, 1, 0.5, 2.5], np.float32)},
    ),
    "RoiAlign": (
        [node("RoiAlign", "x r i", "y", output_height=2, output_width=2)], 10,
        {"r": np.array([[0, 0, 3, 4]], np.float32), "i": np.array([1])},
    ),
    "Scatter": (
        [node("Scatter", "x i u", "y", axis=3)], 9,
        {"i": np.array([[[[1]]]]), "u": np.array([[[[7]]]], np.float32)},
    ),
    "BatchNormalization": (
        [node("BatchNormalization", "x a a a a", "y")], 9, {"a": np.arange(1, 5, dtype=np.float32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_newer_spelling_gives_the_same(name):
    nodes, version, weights = CASES[name]
    model = model_of(nodes, version, weights)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    expected = run(model, x)
    assert upgrade_opset(model)
    assert opset(model) == MODERN_OPSET
    for found, wanted in zip(run(model, x), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_open_sizes():
    nodes = [node("Clip", "x", "c", min=0.0, max=0.5), node("Softmax", "c", "y", axis=2)]
    model = model_of(nodes, 9, shape=("N", 4, "h", "w"))
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    expected = run(model, x)[0]
    assert upgrade_opset(model)
    np.testing.assert_array_equal(run(model, x)[0], expected)


def test_bounds_have_the_type_of_what_they_bound():
    """onnxruntime has no older Clip of doubles; it has the newer one."""
    model = model_of([node("Clip", "x", "y", min=-0.1, max=0.5)], 9, element=TensorProto.DOUBLE)
    x = np.random.default_rng(0).standard_normal(SHAPE)
    assert upgrade_opset(model)
    np.testing.assert_array_equal(run(model, x)[0], x.clip(np.float32(-0.1), 0.5))


def test_a_branch_is_upgraded_too():
    branches = [
        helper.make_graph(
            [node(operator, "x", "out", **attributes)], operator, [],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        )
        for operator, attributes in (("Clip", {"min": 0.0}), ("Pad", {"pads": [0, 0, 1, 1, 0, 0, -1, -1]}))
    ]  # fmt: skip
    chosen = node("If", "yes", "y", then_branch=branches[0], else_branch=branches[1])
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    for yes in (True, False):
        model = model_of([chosen], 9, {"yes": np.array(yes)})
        expected = run(model, x)[0]
        assert upgrade_opset(model)
        np.testing.assert_array_equal(run(model, x)[0], expected)


KEPT = {
    "a mask of the old type": (9, [node("Dropout", "x", "d m"), node("Mul", "d m", "y")]),
    "a way of placing cells that was dropped": (
        11,
        [node("Resize", "x r s", "y", coordinate_transformation_mode="tf_half_pixel_for_nn")],
    ),
    "cells rounded by scales that are computed": (
        10,
        [node("Sqrt", "s", "t"), node("Resize", "x t", "y")],
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_said_anew_stays(name):
    version, nodes = KEPT[name]
    weights = {"s": np.array([1, 1, 0.5, 2], np.float32), "r": np.zeros(0, np.float32)}
    model = model_of(nodes, version, weights)
    before = model.SerializeToString()
    assert not upgrade_opset(model)
    assert model.SerializeToString() == before


def test_a_newer_graph_is_left_alone():
    model = model_of([node("Relu", "x", "y")], 18)
    before = model.SerializeToString()
    assert upgrade_opset(model)
    assert model.SerializeToString() == before
