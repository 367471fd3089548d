"""Graphs in the precision asked for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from camrt.engine.tensorrt_plans.build import cast_to_precision
from camrt.errors import ClampedConstantWarning
from helpers.zoo import Net, model_of


def masked(lowest: float) -> onnx.ModelProto:
    net = Net(np.random.default_rng(0))
    last = net.add("Max", "x", net.constant([lowest, 0.0]))
    return model_of(net.nodes, net.initializers, ["N", 2], ["N", 2], source="x", end=last)


def test_numbers_beyond_the_precision_are_told() -> None:
    model = masked(-1e9)
    with pytest.warns(ClampedConstantWarning, match=r"fp16 ends at 65504: .* 1 of the .* \('constant_0'\)"):
        narrow = cast_to_precision(model, "fp16")
    np.testing.assert_array_equal(numpy_helper.to_array(narrow.graph.initializer[0]), [-65504, 0])
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT


@pytest.mark.parametrize(("precision", "lowest"), [("fp16", -6e4), ("fp16", -np.inf), ("bf16", -1e9)])
def test_nothing_is_said_of_numbers_within_it(precision: str, lowest: float) -> None:
    narrow = cast_to_precision(masked(lowest), precision)
    stored = numpy_helper.to_array(narrow.graph.initializer[0]).astype(np.float64)
    np.testing.assert_allclose(stored, [lowest, 0], rtol=4e-3)
