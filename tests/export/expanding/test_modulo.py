"""Remainders of whole numbers by −1: of the smallest number they end the process in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.errors import UnsupportedModelError
from camrt.export.io.model_file import read_model
from helpers import hostile_models

SMALLEST = {TensorProto.INT32: -(2.0**31), TensorProto.INT64: -(2.0**63)}


def remainders(element: int, divisor: float | None) -> list[object]:
    """Features (N, 5, 8, 8) plus a remainder of whole numbers; None divides by what the image gives."""
    kind = helper.tensor_dtype_to_np_dtype(element)
    nodes = [
        hostile_models.conv_node(),
        helper.make_node("Cast", ["features"], ["whole"], to=element),
        helper.make_node("Mod", ["whole", "divisor"], ["rest"]),
        helper.make_node("Cast", ["rest"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["features", "real"], ["active"]),
        *hostile_models.head_nodes("active"),
    ]
    weights = [*hostile_models.conv_weights(), *hostile_models.head_weights()]
    if divisor is not None:
        weights.append(numpy_helper.from_array(np.array(divisor, kind), "divisor"))
    else:
        nodes.insert(1, helper.make_node("Neg", ["square"], ["divisor"]))
        nodes.insert(1, helper.make_node("Cast", ["signs"], ["square"], to=element))
        nodes.insert(1, helper.make_node("Cos", ["nothing"], ["signs"]))
        nodes.insert(1, helper.make_node("Mul", ["features", "zero"], ["nothing"]))
        weights.append(numpy_helper.from_array(np.float32(0), "zero"))
    return [nodes, weights]


@pytest.mark.parametrize("element", SMALLEST)
@pytest.mark.parametrize("divisor", [-1, None], ids=["stored", "computed"])
def test_a_remainder_by_minus_one_is_nothing(element: int, divisor: float | None, tmp_path: Path) -> None:
    nodes, weights = remainders(element, divisor)
    path = hostile_models.save(hostile_models.model_of(nodes, weights), tmp_path / "model.onnx")
    engine = camrt.load(path, verify=False)
    nodes, weights = remainders(element, 1)
    one = camrt.load(
        hostile_models.save(hostile_models.model_of(nodes, weights), tmp_path / "one.onnx"), verify=False
    )
    for scale in (1.0, -SMALLEST[element]):
        image = np.full((1, 3, 8, 8), scale, np.float32)
        np.testing.assert_array_equal(engine.predict(image), one.predict(image))


def test_other_remainders_stay_as_they_are(tmp_path: Path) -> None:
    for element, divisor in ((TensorProto.INT64, 3), (TensorProto.INT32, -7), (TensorProto.INT8, -1)):
        nodes, weights = remainders(element, divisor)
        model = read_model(
            hostile_models.save(hostile_models.model_of(nodes, weights), tmp_path / "model.onnx")
        ).model
        assert [node.op_type for node in model.graph.node] == [node.op_type for node in nodes]


def test_inside_another_node_it_is_refused_unless_the_divisor_is_stored(tmp_path: Path) -> None:
    whole = TensorProto.INT64

    def branch(divisor: str) -> object:
        made = [
            helper.make_node("Cast", ["features"], ["whole"], to=whole),
            helper.make_node("Mod", ["whole", divisor], ["rest"]),
            helper.make_node("Cast", ["rest"], ["real"], to=TensorProto.FLOAT),
        ]
        value = helper.make_tensor_value_info("real", TensorProto.FLOAT, ["N", 5, 8, 8])
        return helper.make_graph(made, "branch", [], [value])

    weights = [*hostile_models.conv_weights(), *hostile_models.head_weights()]
    weights += [numpy_helper.from_array(np.array(3), "three"), numpy_helper.from_array(np.array(True), "yes")]
    for divisor, refused in (("three", False), ("count", True)):
        graph = branch(divisor)
        nodes = [
            hostile_models.conv_node(),
            helper.make_node("Size", ["features"], ["count"]),
            helper.make_node("If", ["yes"], ["active"], then_branch=graph, else_branch=graph),
            *hostile_models.head_nodes("active"),
        ]
        path = hostile_models.save(hostile_models.model_of(nodes, weights), tmp_path / "model.onnx")
        if refused:
            with pytest.raises(UnsupportedModelError, match="takes a remainder of whole numbers"):
                read_model(path)
        else:
            read_model(path)
