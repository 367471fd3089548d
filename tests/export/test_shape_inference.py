"""Shapes of a graph's tensors (`camrt.export.graph.shape_inference`)."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from camrt.export.graph.shape_inference import fixed_sizes, infer_shapes
from camrt.kernels.memory import resident_memory
from helpers.hostile_models import model_of


def constant(name, value):
    return numpy_helper.from_array(np.array(value), name)


def test_long_vectors_that_are_added_take_no_memory():
    """onnx itself would keep 140 bytes for each of the numbers, of each sum."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["sum0"], value=constant("", [0]))]
    nodes += [helper.make_node("Add", [f"sum{i}", "one"], [f"sum{i + 1}"]) for i in range(3)]
    nodes += [
        helper.make_node("Cast", ["sum3"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["floats"], ["large"], keepdims=0),
        helper.make_node("Add", ["image", "large"], ["features"]),
    ]
    model = model_of(nodes, [constant("shape", [1_000_000]), constant("one", 1)])
    before = resident_memory()
    shapes, _ = infer_shapes(model, (2, 3, 8, 8))
    assert shapes["sum3"] == (1_000_000,)
    assert shapes["features"] == (2, 3, 8, 8)
    assert fixed_sizes(model, shapes)["sum3"] == (1_000_000,)
    assert resident_memory() - before < 50 << 20


@pytest.mark.parametrize("size", [8, 9, 14])
def test_what_exporters_pad_windows_by_is_computed(size):
    """(7 − H mod 7) mod 7 rows below, as torch writes it: sizes in pairs, turned around and transposed."""
    nodes = [
        helper.make_node("Shape", ["image"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "two"], ["rows"], axis=0),
        helper.make_node("Mod", ["rows", "seven"], ["over"]),
        helper.make_node("Sub", ["seven", "over"], ["missing"]),
        helper.make_node("Mod", ["missing", "seven"], ["below"]),
        helper.make_node("Concat", ["nothing", "below", "nothings"], ["pairs"], axis=0),
        helper.make_node("Reshape", ["pairs", "by_two"], ["table"]),
        helper.make_node("Slice", ["table", "last", "first", "zero", "last"], ["turned"]),
        helper.make_node("Transpose", ["turned"], ["aside"], perm=[1, 0]),
        helper.make_node("Reshape", ["aside", "all"], ["pads"]),
        helper.make_node("Pad", ["image", "pads"], ["padded"]),
    ]
    constants = {
        "two": [2], "seven": [7], "nothing": [0, 0, 0], "nothings": [0, 0, 0, 0], "by_two": [4, 2],
        "last": [-1], "first": [np.iinfo(np.int64).min], "zero": [0], "all": [-1],
    }  # fmt: skip
    model = model_of(
        nodes,
        [constant(name, value) for name, value in constants.items()],
        inputs=[("image", ("N", 3, "H", "W"))],
        output=("padded", ("N", 3, "P", "W")),
    )
    shapes, _ = infer_shapes(model, (2, 3, size, 8))
    assert shapes["padded"] == (2, 3, -(-size // 7) * 7, 8)
