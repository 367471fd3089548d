"""How files end: `probabilities(predict(x))` are the file's own answers, and maps those of its definition.

The oracle is plain onnxruntime on the file as it was written, and for maps the head's definition in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.engine.output_probe import make_output_prober
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.errors import MethodError
from camrt.export.rewrites.float_types import cast_floats
from camrt.export.rewrites.interface import standardise
from helpers.oracles.ablation import ablation_cam
from helpers.oracles.gradients import grad_cam, numeric_gradient
from helpers.oracles.pixab import pixab_cam
from helpers.output_endings import (
    BY_NUMBERS,
    PLAIN,
    SHAPE,
    WHOLE_MODEL,
    Ending,
    Numbers,
    build_model,
    hard,
    identity,
    log_odds,
    make_step,
    random_images,
    run_onnxruntime,
    zoo_model,
)
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, convolution, model_of, pointwise, relu, save, sigmoid, softmax

# Maps are differences of scores that agree in most of their digits.
DIFFERENCES = 100.0


@pytest.mark.parametrize("name", [*PLAIN, *BY_NUMBERS])
def test_probabilities_are_the_files_answers(name, tmp_path):
    ending = {**PLAIN, **BY_NUMBERS}[name]
    model, whole = build_model(ending)
    path = save(model, tmp_path / "model.onnx")
    engine = camrt.load(path, threads=1)
    batch = random_images(whole)
    logits = engine.predict(batch)
    theirs = run_onnxruntime(path, batch)
    assert engine.interface.activation == ending.activation
    assert logits.shape == theirs.shape
    assert_close(engine.probabilities(logits) * ending.factor, theirs, np.float32, WHOLE_MODEL)
    assert_close(logits, ending.logits64(whole.logits64(batch)), factor=WHOLE_MODEL)
    assert_close(
        engine.probabilities(logits), ending.probabilities64(whole.logits64(batch)), factor=WHOLE_MODEL
    )
    if name in PLAIN:
        assert engine.head.kind == "pooled-linear"
        assert engine.interface.reading == "as it is"
        assert engine.notes == ()
    else:
        assert "activation= overrules this" in " ".join(engine.notes)
        assert "ends in probabilities p" in engine.describe()


@pytest.mark.parametrize("name", [*PLAIN, *BY_NUMBERS])
def test_maps_are_those_of_the_definition(name, tmp_path):
    """Grad-CAM, Ablation-CAM and Pixab-CAM, of logits and of probabilities, in float64 from the papers."""
    ending = {**PLAIN, **BY_NUMBERS}[name]
    model, whole = build_model(ending)
    head = HEADS["gap-flatten-gemm"].make(np.random.default_rng(3), *SHAPE, ending.features)
    engine = camrt.load(save(model, tmp_path / "model.onnx"), threads=1)
    batch = random_images(whole, 1)
    activation = whole.activations64(batch)[0]
    target = 0
    for kind, numbers in (("logit", ending.logits64), ("probability", ending.probabilities64)):

        def score(altered: Any, numbers: Numbers = numbers) -> Any:
            return numbers(head.logits64(altered[None]))[0]

        gradient = numeric_gradient(lambda altered, score=score: float(score(altered)[target]), activation)
        wanted = {
            "gradcam": grad_cam(gradient, activation),
            "ablation": ablation_cam(score, activation, target),
            "pixab": pixab_cam(
                score,
                activation,
                target,
                denominators="N2" if kind == "probability" else "N3",
                probability=kind == "probability",
            ),
        }
        for method, expected in wanted.items():
            found = engine.explain(batch, method, targets=target, score=kind)
            assert_close(found.raw[0], expected, np.float32, DIFFERENCES)
            assert_close(found.scores, [score(activation)[target]], np.float32, WHOLE_MODEL)


# ---------------------------------------------------------------- saturated and degenerate answers


@pytest.mark.parametrize("size", [100.0, 3e3], ids=["nearly-one-hot", "zeros-and-ones"])
@pytest.mark.parametrize(
    "name", ["mean-of-two-softmaxes", "one-and-the-rest", "hard-sigmoid", "one-of-each-pair"]
)
def test_saturated_answers_stay_finite(name, size, tmp_path):
    """Zeros and ones have finite logits, whose probabilities are the file's; gradients are numbers."""
    ending = BY_NUMBERS[name]
    model, whole = build_model(ending)
    path = save(model, tmp_path / "model.onnx")
    engine = camrt.load(path, threads=1)
    batch = size * random_images(whole)
    logits = engine.predict(batch)
    assert np.isfinite(logits).all()
    assert np.abs(logits).max() < 90
    assert_close(engine.probabilities(logits), run_onnxruntime(path, batch), factor=WHOLE_MODEL)
    for method in ("gradcam", "pixab", "ablation"):
        assert np.isfinite(engine.explain(batch, method).raw).all()


@pytest.mark.parametrize("bias", [-1e3, 1e3], ids=["zeros", "ones"])
def test_answers_that_are_always_zero_or_one(bias, tmp_path):
    ending = Ending(
        [make_step("Add", "logits far", "moved"), make_step("HardSigmoid", "moved")],
        hard,
        identity,
        {"far": np.float32(bias)},
    )
    model, whole = build_model(ending)
    path = save(model, tmp_path / "model.onnx")
    engine = camrt.load(path, threads=1)
    batch = random_images(whole)
    assert engine.interface.activation == "sigmoid"
    assert_close(engine.probabilities(engine.predict(batch)), run_onnxruntime(path, batch))
    assert engine.explain(batch, "gradcam").flags.all()


def test_a_clipped_regression_of_two_numbers_is_no_distribution(tmp_path):
    """Its bounds leave zeros and ones on most noise, which may sum to one by accident: its numbers stay."""
    ending = Ending(
        [make_step("Mul", "logits far", "wide"), make_step("Clip", "wide low high")],
        identity,
        identity,
        {"far": np.array([[1e4, -1e4]], np.float32), "low": np.float32(0), "high": np.float32(1)},
        features=2,
        shape=("N", 2),
    )
    model, whole = build_model(ending)
    path = save(model, tmp_path / "model.onnx")
    engine = camrt.load(path, threads=1)
    batch = random_images(whole)
    assert engine.interface.activation == "sigmoid"
    assert_close(engine.probabilities(engine.predict(batch)), run_onnxruntime(path, batch))


def test_rectified_scores_are_logits_wherever_they_lie(tmp_path):
    """Small scores behind a ReLU lie in [0, 1] on any noise, and are no probabilities."""
    ending = Ending(
        [make_step("Mul", "logits small", "little"), make_step("Relu", "little")],
        identity,
        identity,
        {"small": np.float32(1e-4)},
    )
    model, whole = build_model(ending)
    engine = camrt.load(save(model, tmp_path / "model.onnx"), threads=1)
    assert engine.interface.reading == "as it is"
    assert engine.interface.activation == "softmax"
    batch = random_images(whole)
    assert_close(engine.predict(batch), np.maximum(whole.logits64(batch) * 1e-4, 0), factor=WHOLE_MODEL)


def test_constant_rectified_scores_that_sum_to_one_are_no_distribution(tmp_path):
    ending = Ending(
        [make_step("Mul", "logits none", "n"), make_step("Add", "n fixed", "m"), make_step("Relu", "m")],
        identity,
        identity,
        {"none": np.float32(0), "fixed": np.full((1, 4), 0.25, np.float32)},
    )
    model, _ = build_model(ending)
    assert camrt.load(save(model, tmp_path / "model.onnx"), threads=1).interface.reading == "as it is"


def half_of(model: Any) -> Any:
    """The model in float16."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize(
    "name", ["mean-of-two-softmaxes", "one-of-each-pair", "percents", "one-and-the-rest"]
)
def test_half_precision_answers(name, tmp_path):
    ending = {**PLAIN, **BY_NUMBERS}[name]
    model, whole = build_model(ending)
    path = save(half_of(model), tmp_path / "model.onnx")
    engine = camrt.load(path, threads=1)
    batch = random_images(whole)
    theirs = run_onnxruntime(path, batch.astype(np.float16))
    assert engine.interface.activation == ending.activation
    assert_close(engine.probabilities(engine.predict(batch)) * ending.factor, theirs, np.float16, factor=2)


def test_logarithms_stay_finite_in_half_precision(tmp_path):
    """The least probability vanishes in float16: a graph brought to it holds the least that it has."""
    model, whole = build_model(BY_NUMBERS["mean-of-two-softmaxes"])
    engine_logits = camrt.load(save(model, tmp_path / "model.onnx"), threads=1)
    standardise(model, prober=make_output_prober(OnnxRuntime()))
    cast_floats(model, TensorProto.FLOAT16)
    path = tmp_path / "half.onnx"
    path.write_bytes(model.SerializeToString())
    for size in (1.0, 30.0):
        batch = size * random_images(whole)
        found = run_onnxruntime(path, batch.astype(np.float16), "camrt_logits").astype(np.float32)
        assert np.isfinite(found).all()
        wanted = engine_logits.probabilities(engine_logits.predict(batch))
        assert np.abs(engine_logits.probabilities(found) - wanted).max() < 0.02 * size


# ---------------------------------------------------------------- plain numbers, and what the user says


@pytest.mark.parametrize("classes", [1, 3])
def test_plain_numbers(classes, tmp_path):
    """A regression: its numbers are explained, and nothing is called a probability."""
    whole = zoo_model(classes)
    path = save(whole.model, tmp_path / "model.onnx")
    engine = camrt.load(path, activation="none", threads=1)
    batch = random_images(whole)
    found = engine.explain(batch, "pixab", targets=0)
    assert_close(found.logits, whole.logits64(batch), factor=WHOLE_MODEL)
    assert_close(found.scores, whole.logits64(batch)[:, 0], factor=WHOLE_MODEL)
    assert np.isnan(found.probabilities).all()
    assert "plain numbers" in engine.describe()
    reference = camrt.load(path, activation="sigmoid", threads=1)
    np.testing.assert_array_equal(found.raw, reference.explain(batch, "pixab", targets=0, score="logit").raw)
    for method in ("score", "ablation", "gradcam"):
        assert np.isfinite(engine.explain(batch, method).raw).all()
    for method in ("pixab", "gradcam", "score"):
        with pytest.raises(MethodError, match=r"plain numbers.*no probabilities.*score='logit'"):
            engine.explain(batch, method, score="probability")
    with pytest.raises(camrt.errors.InputError, match="plain numbers"):
        engine.probabilities(found.logits)


def test_one_number_that_no_logit_would_be(tmp_path):
    """An age of about 40 is no logit; about 0 it may be one, and is read so, with a note."""
    for shift, activation in ((40.0, "none"), (0.0, "sigmoid")):
        ending = Ending(
            [make_step("Add", "logits far")], identity, identity, {"far": np.float32(shift)}, 1, ("N", 1)
        )
        model, whole = build_model(ending)
        engine = camrt.load(save(model, tmp_path / "model.onnx"), threads=1)
        assert engine.interface.activation == activation
        assert "one number an image" in engine.notes[0]
        batch = random_images(whole)
        found = engine.explain(batch, "pixab")
        assert np.ptp(found.raw, axis=(1, 2)).min() > 1e-3 * np.abs(found.raw).max()
        assert_close(found.logits, whole.logits64(batch) + shift, factor=WHOLE_MODEL)


def test_a_number_that_is_never_negative_is_no_logit(tmp_path):
    model, _ = build_model(
        Ending([make_step("Relu", "logits")], identity, identity, features=1, shape=("N", 1))
    )
    assert camrt.load(save(model, tmp_path / "model.onnx"), threads=1).interface.activation == "none"


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("name", ["softmax", "sigmoid", "mean-of-two-softmaxes", "hard-sigmoid", "logits"])
def test_what_the_user_says_overrules_the_file(name, activation, tmp_path):
    """Of a softmax or sigmoid that was taken off, the logits are read otherwise; "none" takes nothing off."""
    whole_of = {
        "softmax": Ending([make_step("Softmax", "logits")], softmax, identity),
        "sigmoid": Ending([make_step("Sigmoid", "logits")], sigmoid, identity),
        "logits": Ending([make_step("Identity", "logits")], identity, identity),
        **BY_NUMBERS,
    }
    ending = whole_of[name]
    model, whole = build_model(ending)
    path = save(model, tmp_path / "model.onnx")
    engine = camrt.load(path, activation=activation, threads=1)
    batch = random_images(whole)
    z = whole.logits64(batch)
    assert engine.interface.activation == activation
    if activation == "none":
        assert_close(engine.predict(batch), run_onnxruntime(path, batch), factor=WHOLE_MODEL)
        return
    if name in BY_NUMBERS:
        p = ending.probabilities64(z)
        expected = np.log(p) if activation == "softmax" else log_odds(p)
    else:
        expected = z
    logits = engine.predict(batch)
    assert_close(logits, expected, factor=WHOLE_MODEL)
    shares = softmax(expected) if activation == "softmax" else sigmoid(expected)
    assert_close(engine.probabilities(logits), shares, factor=WHOLE_MODEL)
    overruled = {"softmax": "sigmoid", "sigmoid": "softmax"}.get(name) == activation
    assert ("as asked for" in " ".join(engine.notes)) == overruled


def test_files_that_end_plainly_are_not_run_for_it(tmp_path, monkeypatch):
    """A probe is a run of the whole model: only an ending that the graph leaves open pays for one."""
    probes = []

    def counted(runtime: Any) -> Any:
        def probe(*given: Any) -> Any:
            probes.append(given)

        return probe

    monkeypatch.setattr("camrt.engine.build.make_output_prober", counted)
    plain = {name: ending for name, ending in PLAIN.items() if ending.opset == 17}
    plain["logits"] = Ending([make_step("Identity", "logits")], identity, identity)
    plain["log-softmax"] = Ending([make_step("LogSoftmax", "logits")], identity, identity)
    plain["tanh"] = Ending([make_step("Tanh", "logits")], identity, identity)
    for ending in plain.values():
        model, _ = build_model(ending)
        camrt.load(save(model, tmp_path / "model.onnx"), threads=1)
    assert probes == []
    for ending in BY_NUMBERS.values():
        model, _ = build_model(ending)
        camrt.load(save(model, tmp_path / "model.onnx"), threads=1)
    assert len(probes) == len(BY_NUMBERS)


def test_answers_of_altered_activations_need_not_sum_to_one(tmp_path):
    """A softmax in each cell, then their mean: deleted cells give no probability to any class."""
    rng = np.random.default_rng(0)
    kernel, layer = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 3, 3, 3), (4, 6, 1, 1)))
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["c"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["feat"]),
        helper.make_node("Conv", ["feat", "layer"], ["classes"]),
        helper.make_node("Softmax", ["classes"], ["cells"], axis=1),
        helper.make_node("GlobalAveragePool", ["cells"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    weights = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(layer, "layer")]
    path = save(model_of(nodes, weights, ["N", 3, 12, 12], ["N", 4]), tmp_path / "m.onnx")
    engine = camrt.load(path, target="cells")
    assert engine.interface.reading == "log"
    images = rng.standard_normal((2, 3, 12, 12), np.float32)
    whole = ort.InferenceSession(path).run(None, {"images": images})[0]
    assert_close(engine.probabilities(engine.predict(images)), whole, factor=10)
    maps = relu(convolution(images.astype(np.float64), kernel, np.zeros(6), stride=2, border=1))
    cells = softmax(pointwise(maps, layer[:, :, 0, 0]), axis=1)
    found = engine.explain(images, "ablation", targets=1, score="probability").raw
    for mine, one in zip(found, cells, strict=True):
        assert_close(mine, ablation_cam(lambda A: A.mean(axis=(1, 2)), one, 1), "float32", factor=20)
    gradient = np.zeros((2, 4, 1, 1))
    gradient[:, 1] = 1 / 36
    expected = (gradient * cells).sum(axis=1)
    mine = engine.explain(images, "gradcam", targets=1, score="probability").raw
    assert_close(mine, expected, "float32", factor=20)
