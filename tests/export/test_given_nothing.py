"""Operators for which ONNX Runtime ends the process when nothing comes to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper

import camrt
from camrt.errors import ModelFileError, UnsupportedModelError
from helpers import hostile_models
from helpers.tolerances import assert_close

PARAMETERS = [
    numpy_helper.from_array(np.ones(5, np.float32), "scales"),
    hostile_models.make_tensor("shifts", 5),
]
RECURRENT = [
    hostile_models.make_tensor("W", 1, 9, 5),
    hostile_models.make_tensor("R", 1, 9, 3),
    hostile_models.make_tensor("end", 3, 4),
]


def cut_rows(first: str) -> list[NodeProto]:
    return [
        hostile_models.conv_node(),
        helper.make_node("Slice", ["features", first, "last", "axis"], ["rows"]),
    ]


def normalised() -> list[NodeProto]:
    return [
        helper.make_node("InstanceNormalization", ["rows", "scales", "shifts"], ["normalised"]),
        *hostile_models.head_nodes("normalised"),
    ]


def recurrent() -> list[NodeProto]:
    """A GRU over the rows, the mean of each being a step."""
    return [
        helper.make_node("ReduceMean", ["rows"], ["means"], axes=[3], keepdims=0),
        helper.make_node("Transpose", ["means"], ["steps"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["steps", "W", "R"], ["", "state"], hidden_size=3),
        helper.make_node("Squeeze", ["state", "direction"], ["found"]),
        helper.make_node("MatMul", ["found", "end"], ["logits"]),
    ]


BEHIND = {"InstanceNormalization": normalised, "GRU": recurrent}


def sized(operator: str, first: int, size: int | str, folder: Path) -> Path:
    """A classifier that looks at the rows from `first` on."""
    bounds = [("first", first), ("last", 10_000), ("axis", 2), ("direction", 0)]
    stored = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in bounds]
    weights = [
        *hostile_models.conv_weights(),
        *hostile_models.head_weights(),
        *PARAMETERS,
        *RECURRENT,
        *stored,
    ]
    inputs = [("image", ("N", 3, size, size))]
    model = hostile_models.model_of([*cut_rows("first"), *BEHIND[operator]()], weights, inputs=inputs)
    return hostile_models.save(model, folder / f"{size}.onnx")


@pytest.mark.parametrize("operator", BEHIND)
def test_what_is_given_nothing_whatever_the_image_is_refused(operator: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=rf"{operator}.* is given nothing: .*\b0\b"):
        camrt.load(sized(operator, 8, 8, tmp_path))


@pytest.mark.parametrize("operator", BEHIND)
def test_images_of_open_size_that_leave_nothing_are_refused(operator: str, tmp_path: Path) -> None:
    """In a process of its own, which would end."""
    path = sized(operator, 8, "side", tmp_path)
    text = f"""
import camrt, numpy as np
engine = camrt.load({str(path)!r}, target="features")
print(engine.predict(np.ones((1, 3, 12, 12), np.float32)).shape)
try:
    engine.predict(np.ones((1, 3, 8, 8), np.float32))
except camrt.errors.CamrtError as error:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "(1, 4)\nrefused\n"), done.stderr


@pytest.mark.parametrize("operator", BEHIND)
def test_open_sizes_are_answered_as_fixed_ones(operator: str, tmp_path: Path) -> None:
    batch = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    fixed = camrt.load(sized(operator, 2, 8, tmp_path), target="features")
    opened = camrt.load(sized(operator, 2, "side", tmp_path), target="features")
    for method in ("gradcam", "ablation"):
        assert_close(opened.explain(batch, method).raw, fixed.explain(batch, method).raw)


def test_inside_another_node_it_is_refused(tmp_path: Path) -> None:
    out = helper.make_tensor_value_info("branch", onnx.TensorProto.FLOAT, None)
    inner = helper.make_node("InstanceNormalization", ["features", "scales", "shifts"], ["branch"])
    both = [helper.make_graph([inner], "branch", [], [out]) for _ in range(2)]
    nodes = [
        hostile_models.conv_node(),
        helper.make_node("If", ["yes"], ["normalised"], then_branch=both[0], else_branch=both[1]),
        *hostile_models.head_nodes("normalised"),
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    model = hostile_models.model_of(
        nodes, [*hostile_models.conv_weights(), *hostile_models.head_weights(), *PARAMETERS, yes]
    )
    with pytest.raises(UnsupportedModelError, match="inside another node"):
        camrt.load(hostile_models.save(model, tmp_path / "model.onnx"))


def test_a_version_that_cannot_be_is_refused(tmp_path: Path) -> None:
    model = hostile_models.classifier_model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 2**40))
    with pytest.raises(ModelFileError, match="which there is not"):
        camrt.load(hostile_models.save(model, tmp_path / "model.onnx"))
