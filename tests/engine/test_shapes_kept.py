"""Files whose answers have other shapes than they declare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import camrt
from camrt.engine.runtime.host_runner import check_same_shape
from camrt.engine.runtime.shaped_runner import ShapeCheckedRunner
from camrt.errors import AdjointError, CamrtError, UnsupportedModelError
from camrt.export.adjoint import build_adjoint_model
from camrt.export.graph.index import Graph
from camrt.export.rewrites.interface import standardise
from helpers import hostile_models


class Answers:
    """A runner that answers what it is told to."""

    outputs = ("logits", "map")

    def __init__(self, *answers: np.ndarray) -> None:
        self.answers = answers

    def allocate_rows(self, shape):
        return np.empty(shape, np.float32)

    def __call__(self, batch, fetch=None, extra_inputs=None):
        return list(self.answers)


@pytest.mark.parametrize(
    ("logits", "maps"),
    [
        ((3, 4), (2, 5, 3, 3)),
        ((2, 3), (2, 5, 3, 3)),
        ((2,), (2, 5, 3, 3)),
        ((2, 4), (2, 4, 3, 3)),
        ((2, 4), (2, 5, 9)),
    ],
)
def test_answers_of_another_shape_are_refused(logits: tuple[int, ...], maps: tuple[int, ...]) -> None:
    shapes = {"logits": (4,), "map": (5, None, None)}
    batch = np.zeros((2, 3, 6, 6), np.float32)
    right = ShapeCheckedRunner(Answers(np.zeros((2, 4)), np.zeros((2, 5, 7, 1))), shapes)
    assert right(batch)[0].shape == (2, 4)
    assert right.outputs == ("logits", "map")
    assert right.allocate_rows((1, 2)).shape == (1, 2)
    with pytest.raises(UnsupportedModelError, match="for a batch of 2, not"):
        ShapeCheckedRunner(Answers(np.zeros(logits), np.zeros(maps)), shapes)(batch)


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_that_declares_classes_it_does_not_give_is_refused(verify: bool, tmp_path: Path) -> None:
    """Four classes an image are declared; five numbers an image come, in rows of four."""
    nodes = [
        hostile_models.conv_node(),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("NonZero", ["pooled"], ["places"]),
        helper.make_node("Cast", ["places"], ["numbers"], to=1),
        helper.make_node("Reshape", ["numbers", "rows"], ["logits"]),
    ]
    rows = numpy_helper.from_array(np.array([-1, 4], np.int64), "rows")
    model = hostile_models.model_of(nodes, [*hostile_models.conv_weights(), rows])
    path = hostile_models.save(model, tmp_path / "model.onnx")
    with pytest.raises(CamrtError):
        camrt.load(path, threads=1, verify=verify).explain(np.ones((2, 3, 8, 8), np.float32), "gradcam")


def test_parts_of_other_shapes_are_refused() -> None:
    rows = [np.zeros((2, 3)), np.zeros((1, 3))]
    assert check_same_shape(rows, "model") == rows
    for strange in ([np.zeros((2, 3)), np.zeros((2, 4))], [np.zeros(()), np.zeros(())]):
        with pytest.raises(UnsupportedModelError, match="another shape for other images"):
            check_same_shape(strange, "model")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "1" * 5000, '"a"', "{}", "[", "\ud7ff", "null"],
    ids=["deep", "digits", "text", "object", "open", "letter", "null"],
)
@pytest.mark.parametrize("key", ["camrt.labels", "camrt.preprocessing", "camrt.head"])
def test_metadata_that_cannot_be_read_is_refused(key: str, text: str, tmp_path: Path) -> None:
    model = hostile_models.classifier_model()
    helper.set_model_props(model, {key: text})
    path = hostile_models.save(model, tmp_path / "model.onnx")
    if (key, text) == ("camrt.preprocessing", "{}"):
        assert camrt.load(path).preprocessing is not None
        return
    with pytest.raises(CamrtError, match=r"label|preprocessing|camrt\.head"):
        camrt.load(path)


def test_labels_are_texts_that_can_be_written(tmp_path: Path) -> None:
    model = hostile_models.classifier_model()
    helper.set_model_props(model, {"camrt.labels": '["a", "\\ud800b", "c", "d"]'})
    labels = camrt.load(hostile_models.save(model, tmp_path / "model.onnx")).labels
    assert labels is not None
    assert [label.encode() for label in labels] == [b"a", b"?b", b"c", b"d"]
    helper.set_model_props(model, {"camrt.labels": '["a", ["b"], null, {}]'})
    with pytest.raises(CamrtError, match="array of texts"):
        camrt.load(hostile_models.save(model, tmp_path / "model.onnx"))


def test_a_gradient_has_the_shape_of_what_it_is_taken_at() -> None:
    batch = np.zeros((2, 3, 6, 6), np.float32)
    shapes = {"logits": (4,), "map": None}
    right = ShapeCheckedRunner(Answers(np.zeros((2, 4)), np.zeros(batch.shape)), shapes)
    assert right(batch)[1].shape == batch.shape
    with pytest.raises(UnsupportedModelError, match=r"map has shape .* not \(2, 3, 6, 6\)"):
        ShapeCheckedRunner(Answers(np.zeros((2, 4)), np.zeros((2, 3, 6, 5))), shapes)(batch)


@pytest.mark.parametrize(
    "bound", [np.zeros(4, np.float32), np.zeros(0, np.float32), np.zeros((1, 4), np.float32)]
)
def test_clips_by_several_numbers_end_in_errors(bound: np.ndarray, tmp_path: Path) -> None:
    nodes = [
        hostile_models.conv_node(),
        helper.make_node("Clip", ["features", "bound"], ["clipped"]),
        *hostile_models.head_nodes("clipped"),
    ]
    weights = [
        *hostile_models.conv_weights(),
        *hostile_models.head_weights(),
        numpy_helper.from_array(bound, "bound"),
    ]
    model = hostile_models.model_of(nodes, weights)
    standard = onnx.ModelProto.FromString(model.SerializeToString())
    standardise(standard)
    with pytest.raises(AdjointError, match=rf"its min is {bound.size} numbers"):
        build_adjoint_model(standard, Graph(standard, (1, 3, 8, 8)), "features", input_name="A", batch=None)
    path = hostile_models.save(model, tmp_path / "model.onnx")
    with pytest.raises(CamrtError):
        camrt.load(path, target="features", threads=1).explain(np.ones((2, 3, 8, 8), np.float32), "gradcam")


@pytest.mark.parametrize("shape", [np.array(-1), np.array([], np.int64), np.array([[-1, 5]])])
def test_reshapes_to_no_list_of_sizes_end_in_errors(shape: np.ndarray, tmp_path: Path) -> None:
    nodes = [
        hostile_models.conv_node(),
        hostile_models.head_nodes("features")[0],
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        hostile_models.head_nodes("features")[2],
    ]
    weights = [
        *hostile_models.conv_weights(),
        *hostile_models.head_weights(),
        numpy_helper.from_array(shape, "shape"),
    ]
    fixed = {"inputs": [("image", (1, 3, 8, 8))], "output": ("logits", (1, 4))}
    path = hostile_models.save(hostile_models.model_of(nodes, weights, **fixed), tmp_path / "model.onnx")
    with pytest.raises(CamrtError):
        camrt.load(path, threads=1).explain(np.ones((2, 3, 8, 8), np.float32), "gradcam")
