"""Which tensor holds the class scores: shapes, the best few of them, and what is refused with the way out."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.errors import UnsupportedModelError
from camrt.export.outputs.class_scores import count_classes
from helpers.output_endings import WHOLE_MODEL, random_images, run_onnxruntime, zoo_model
from helpers.tolerances import assert_close
from helpers.zoo import save, softmax, with_ending

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def node(operator: str, source: str, made: str, **attributes: Any) -> Any:
    return helper.make_node(operator, source.split(), made.split(), **attributes)


def model_with(nodes: Any, outputs: Any, whole: Any, **values: Any) -> Any:
    """Nodes behind "logits", and outputs by name: (shape, element type)."""
    model = with_ending(whole.model, nodes, ["N", 4])
    del model.graph.output[:]
    for name, (shape, element) in outputs.items():
        model.graph.output.append(helper.make_tensor_value_info(name, element, shape))
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


@pytest.mark.parametrize(
    ("shape", "batch", "classes"),
    [
        ((1, 5), 1, 5),
        ((1, 5, 1, 1), 1, 5),
        ((1, 1, 1, 5), 1, 5),
        ((5,), 1, 5),
        ((), 1, 1),
        ((1,), 1, 1),
        ((3, 5), 3, 5),
        ((1, 3, 5), 3, 5),
        ((3,), 3, 1),
        ((3, 3), 3, 3),
        ((5, 3), 3, None),
        ((5,), 3, None),
        ((3, 5, 2), 3, None),
        ((1, 5, 2), 1, None),
        ((), 3, None),
    ],
    ids=str,
)
def test_shapes_of_scores(shape, batch, classes):
    assert count_classes(shape, batch) == classes


@pytest.mark.parametrize(
    ("end", "batch"),
    [*product(["rows", "channels-last", "one-in-front"], [1, 3, "N"]), ("bare", 1)],
    ids=str,
)
def test_scores_in_any_shape(end, batch, tmp_path):
    """The same scores however they lie, for a fixed batch and an open one."""
    whole = zoo_model(batch=batch)
    target, shape = {
        "rows": ([0, 4, 1, 1], [batch, 4, 1, 1]),
        "channels-last": ([-1, 1, 1, 4], [batch, 1, 1, 4]),
        "one-in-front": ([1, -1, 4], [1, batch, 4]),
        "bare": ([4], [4]),
    }[end]
    nodes = [node("Softmax", "logits", "p"), node("Reshape", "p target", "scores")]
    path = save(
        model_with(nodes, {"scores": (shape, FLOAT)}, whole, target=np.array(target)), tmp_path / "m.onnx"
    )
    engine = camrt.load(path, threads=1)
    batches = random_images(whole)
    found = engine.predict(batches)
    assert engine.interface.recognised == "Softmax"
    assert_close(found, whole.logits64(batches), factor=WHOLE_MODEL)
    for method in ("gradcam", "pixab"):
        assert engine.explain(batches, method, targets=1).maps.shape == (3, *whole.size[1:])


def test_scores_whose_images_are_the_second_axis_are_refused(tmp_path):
    whole = zoo_model()
    path = save(
        model_with([node("Transpose", "logits", "scores")], {"scores": ([4, "N"], FLOAT)}, whole),
        tmp_path / "m.onnx",
    )
    with pytest.raises(UnsupportedModelError, match=r"class scores; this model gives 'scores' \(4, 1\)"):
        camrt.load(path)


# ---------------------------------------------------------------- the best few


TOP = {
    "values": {"values": (["N", 2], FLOAT)},
    "values-and-classes": {"values": (["N", 2], FLOAT), "indices": (["N", 2], INT64)},
    "classes-alone": {"indices": (["N", 2], INT64)},
    "classes-as-numbers": {"numbers": (["N", 2], FLOAT)},
    "the-best": {"first": (["N", 1], FLOAT)},
}


@pytest.mark.parametrize("outputs", TOP)
def test_the_best_few_are_traced_to_all_scores(outputs, tmp_path):
    """A rank is no class: what TopK sorts is explained, through the softmax before it."""
    whole = zoo_model()
    nodes = [
        node("Softmax", "logits", "p"),
        node("TopK", "p few", "values indices"),
        node("Cast", "indices", "numbers", to=FLOAT),
        node("Slice", "values zero one one", "first"),
    ]
    values = {"few": np.array([2]), "zero": np.array([0]), "one": np.array([1])}
    path = save(model_with(nodes, TOP[outputs], whole, **values), tmp_path / "m.onnx")
    engine = camrt.load(path, threads=1)
    batch = random_images(whole)
    assert engine.num_classes == 4
    ours = engine.probabilities(engine.predict(batch))
    assert_close(ours, softmax(whole.logits64(batch)), factor=WHOLE_MODEL)
    if "values" in TOP[outputs]:
        assert_close(-np.sort(-ours)[:, :2], run_onnxruntime(path, batch, "values"), factor=WHOLE_MODEL)
    assert "holds the best classes alone (TopK): explained are all scores, 'p'" in engine.notes[0]


@pytest.mark.parametrize("end", ["confidence-and-class", "confidence-alone-of-a-ranking", "gathered-by-rank"])
def test_the_best_by_other_operators_is_traced_too(end, tmp_path):
    """A pair (confidence, class) is no model of one class."""
    whole = zoo_model()
    nodes = [
        node("Softmax", "logits", "p"),
        node("ReduceMax", "p", "kept", axes=[1], keepdims=0),
        node("Identity", "kept", "confidence"),
        node("ArgMax", "logits", "label", axis=1, keepdims=0),
        node("Hardmax", "p", "one-hot"),
        node("TopK", "p few", "values indices"),
        node("GatherElements", "p indices", "gathered", axis=1),
    ]
    outputs = {
        "confidence-and-class": {"confidence": (["N"], FLOAT), "label": (["N"], INT64)},
        "confidence-alone-of-a-ranking": {"confidence": (["N"], FLOAT), "one-hot": (["N", 4], FLOAT)},
        "gathered-by-rank": {"gathered": (["N", 2], FLOAT)},
    }[end]
    path = save(model_with(nodes, outputs, whole, few=np.array([2])), tmp_path / "m.onnx")
    engine = camrt.load(path, threads=1)
    batch = random_images(whole)
    ours = engine.probabilities(engine.predict(batch))
    assert_close(ours, softmax(whole.logits64(batch)), factor=WHOLE_MODEL)
    first = run_onnxruntime(path, batch, next(iter(outputs))).reshape(3, -1)[:, 0]
    assert_close(ours.max(axis=1), first, factor=WHOLE_MODEL)
    assert "explained are all scores, 'p'" in engine.notes[0]


def test_the_largest_of_cells_is_no_ranking(tmp_path):
    """One number an image, the largest of several: nothing beside it says that those were classes."""
    whole = zoo_model()
    nodes = [node("Sigmoid", "logits", "p"), node("ReduceMax", "p", "any", axes=[1], keepdims=0)]
    path = save(model_with(nodes, {"any": (["N"], FLOAT)}, whole), tmp_path / "m.onnx")
    engine = camrt.load(path, threads=1)
    batch = random_images(whole)
    ours = engine.probabilities(engine.predict(batch))
    assert_close(ours, run_onnxruntime(path, batch, "any"), factor=WHOLE_MODEL)


def test_scores_beside_the_best_few_are_taken(tmp_path):
    whole = zoo_model()
    nodes = [node("Softmax", "logits", "p"), node("TopK", "p few", "values indices")]
    outputs = {"values": (["N", 2], FLOAT), "logits": (["N", 4], FLOAT)}
    engine = camrt.load(save(model_with(nodes, outputs, whole, few=np.array([2])), tmp_path / "m.onnx"))
    batch = random_images(whole)
    assert_close(engine.predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)
    assert engine.notes == ()


def test_other_numbers_beside_the_best_few_need_a_choice(tmp_path):
    whole = zoo_model()
    pooled = whole.model.graph.node[-2].output[0]
    nodes = [node("TopK", "logits few", "values indices")]
    outputs = {"values": (["N", 2], FLOAT), pooled: (["N", 6], FLOAT)}
    path = save(model_with(nodes, outputs, whole, few=np.array([2])), tmp_path / "m.onnx")
    engine = camrt.load(path, output="values")
    assert engine.num_classes == 4
    assert camrt.load(path, output=pooled).num_classes == 6


# ---------------------------------------------------------------- what is left of scores


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        (
            [node("ArgMax", "logits", "label", axis=1, keepdims=0)],
            {"label": (["N"], INT64)},
            r"'label' holds class numbers, which ArgMax makes of 'logits' \(1, 4\).*pass output='logits'",
        ),
        (
            [node("ArgMax", "logits", "i", axis=1), node("Cast", "i", "label", to=FLOAT)],
            {"label": (["N", 1], FLOAT)},
            r"'label' holds class numbers, which ArgMax makes of 'logits'.*pass output='logits'",
        ),
        (
            [node("Greater", "logits zero", "b"), node("Cast", "b", "label", to=FLOAT)],
            {"label": (["N", 4], FLOAT)},
            r"'label' holds decisions, which Greater makes of 'logits'.*pass output='logits'",
        ),
        (
            [node("Hardmax", "logits", "one-hot")],
            {"one-hot": (["N", 4], FLOAT)},
            r"'one-hot' holds decisions, which Hardmax makes of 'logits'.*pass output='logits'",
        ),
        (
            [node("ArgMax", "logits", "i", axis=1, keepdims=0), node("OneHot", "i four pair", "one-hot")],
            {"one-hot": (["N", 4], FLOAT)},
            r"'one-hot' holds class numbers, which ArgMax makes of 'logits'.*pass output='logits'",
        ),
        (
            [node("TopK", "logits two", "best i"), node("Softmax", "best", "p")],
            {"p": (["N", 2], FLOAT)},
            r"'p' holds the best of scores, which TopK makes of 'logits'.*pass output='logits'",
        ),
        (
            [node("TopK", "logits two", "best i"), node("Mul", "percent best", "p")],
            {"p": (["N", 2], FLOAT)},
            r"'p' holds the best of scores, which TopK makes of 'logits'.*pass output='logits'",
        ),
    ],
    ids=[
        "labels",
        "labels-as-numbers",
        "decisions",
        "hardmax",
        "one-hot",
        "softmax-of-few",
        "percents-of-few",
    ],
)
def test_what_is_left_of_scores_is_refused_and_named(nodes, outputs, message, tmp_path):
    whole = zoo_model()
    values = {"zero": np.float32(0), "percent": np.float32(100), "two": np.array([2])}
    values |= {"four": np.array([4]), "pair": np.array([0, 1], np.float32)}
    path = save(model_with(nodes, outputs, whole, **values), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModelError, match=message):
        camrt.load(path)
    batch = random_images(whole)
    found = camrt.load(path, output="logits", threads=1)
    assert_close(found.predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)


def test_a_detector_is_refused(tmp_path):
    whole = zoo_model()
    nodes = [
        node("Reshape", "logits corners", "boxes"),
        node("Reshape", "logits flat", "s"),
        node("NonMaxSuppression", "boxes s", "selected"),
    ]
    outputs = {"selected": (["M", 3], INT64)}
    values = {"corners": np.array([1, -1, 4]), "flat": np.array([1, 1, -1])}
    path = save(model_with(nodes, outputs, whole, **values), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModelError, match=r"detects objects.*class maps explain classifiers"):
        camrt.load(path)


def test_labels_beside_scores_are_passed_by(tmp_path):
    """As sklearn-like pipelines write it: a label, and probabilities."""
    whole = zoo_model()
    nodes = [
        node("ArgMax", "logits", "label", axis=1, keepdims=0),
        node("Softmax", "logits", "probabilities"),
    ]
    outputs = {"label": (["N"], INT64), "probabilities": (["N", 4], FLOAT)}
    engine = camrt.load(save(model_with(nodes, outputs, whole), tmp_path / "m.onnx"), threads=1)
    batch = random_images(whole)
    assert_close(engine.predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)


def test_a_sequence_of_maps_is_no_tensor(tmp_path):
    whole = zoo_model()
    model = with_ending(whole.model, [node("Softmax", "logits", "p")], ["N", 4])
    zipped = helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
    model.graph.node.append(zipped)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    number = helper.make_tensor_type_proto(FLOAT, [])
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, number))
    del model.graph.output[:]
    model.graph.output.append(helper.make_value_info("z", kind))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        UnsupportedModelError, match=r"'z' \(a sequence, not a tensor\); export it without ZipMap"
    ):
        camrt.load(path)
    assert camrt.load(path, output="p", threads=1).interface.recognised == "Softmax"
