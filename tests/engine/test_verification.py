"""What the engine finds when it compares its answers with the model's while it is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.engine import cuts, head_making
from camrt.engine.heads import FactoredHead
from camrt.engine.runtime.ort_cpu import OnnxRuntimeRunner
from camrt.errors import CutError, InputError, UnsupportedModelError
from camrt.export.adjoint.registry import RULES
from camrt.export.heads.factoring import Factors, factor_head
from camrt.export.heads.last_linear import find_last_linear
from helpers.oracles.ablation import ablation_cam
from helpers.oracles.pixab import pixab_cam
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, Net, classifier, model_of, save

K, H, W, C = 6, 5, 4, 3
IMAGES = np.random.default_rng(3).standard_normal((4, 3, 2 * H, 2 * W), np.float32)


def zoo_model(name: str):
    part = HEADS[name].make(np.random.default_rng(0), K, H, W, C)
    return classifier(part, np.random.default_rng(1))


# ---------------------------------------------------------------- heads that were misread


@pytest.mark.parametrize("name", list(HEADS))
def test_every_head_of_the_zoo_agrees(tmp_path, name):
    engine = camrt.load(save(zoo_model(name).model, tmp_path / "m.onnx"), target="A")
    assert engine.head.kind == HEADS[name].kind
    assert engine.verification
    assert all(one.agrees for one in engine.verification)
    assert "checked on noise" in engine.describe()


def shuffled(factors: Factors) -> Factors:
    return replace(factors, weight=factors.weight[:, ::-1].copy())


def one_column(factors: Factors) -> Factors:
    weight = factors.weight.copy()
    weight[:, 0] *= 1.1
    return replace(factors, weight=weight)


def other_bias(factors: Factors) -> Factors:
    return replace(factors, bias=factors.bias + np.float32(0.3))


def summed(factors: Factors) -> Factors:
    return replace(factors, reduction="sum")


def without_phi(factors: Factors) -> Factors:
    return replace(factors, phi="identity", phi_model=None, phi_tensor=None, phi_start=None)


PLANTED = [
    ("gap-flatten-gemm", shuffled),
    ("gap-flatten-gemm", one_column),
    ("gap-flatten-gemm", other_bias),
    ("gap-flatten-gemm", summed),
    ("flatten-gemm", one_column),
    ("flatten-gemm", shuffled),
    ("gemm-relu-gemm", one_column),
    ("gemm-relu-gemm", other_bias),
    ("batch-norm-relu-before-the-pool", without_phi),
]


@pytest.mark.parametrize(("name", "mistake"), PLANTED)
def test_a_misread_head_is_not_used(tmp_path, monkeypatch, name, mistake: Callable[[Factors], Factors]):
    path = save(zoo_model(name).model, tmp_path / "m.onnx")
    right = camrt.load(path, target="A")
    monkeypatch.setattr(cuts, "factor_head", lambda *given: mistake(factor_head(*given)))
    engine = camrt.load(path, target="A")
    assert engine.head.kind == "generic"
    assert any(f"the {right.head.kind} form of the head was not used" in note for note in engine.notes)
    assert "does not answer what the graph answers" in engine.describe()
    for method in ("pixab", "ablation", "gradcam", "layercam"):
        mine, theirs = (one.explain(IMAGES, method, targets=1).raw for one in (engine, right))
        assert_close(mine, theirs, factor=20)  # a graph against algebra: sums in another order


def test_nothing_is_compared_where_that_is_not_wanted(tmp_path, monkeypatch):
    path = save(zoo_model("gap-flatten-gemm").model, tmp_path / "m.onnx")
    monkeypatch.setattr(cuts, "factor_head", lambda *given: one_column(factor_head(*given)))
    engine = camrt.load(path, verify=False)
    assert engine.head.kind == "pooled-linear"
    assert engine.verification == ()
    assert "answers were not compared" in engine.describe()


def test_a_wrong_level_is_refused(tmp_path):
    path = save(zoo_model("gap-flatten-gemm").model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="verify='much' must be True, False or 'thorough'"):
        camrt.load(path, verify="much")


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-relu-gemm", "convolution-3x3-behind-the-cut"])
def test_thorough_compares_more(tmp_path, name):
    path = save(zoo_model(name).model, tmp_path / "m.onnx")
    quick, thorough = camrt.load(path), camrt.load(path, verify="thorough")
    assert len(thorough.verification) > len(quick.verification)
    assert all(one.agrees for one in thorough.verification)
    assert {"gradient", "gradient of the image"} <= {one.question for one in thorough.verification}


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-relu-gemm"])
def test_a_gradient_that_leaves_out_a_channel_is_found(tmp_path, monkeypatch, name):
    path = save(zoo_model(name).model, tmp_path / "m.onnx")
    own = FactoredHead.gradients

    def less(self, asked):
        for gradient in own(self, asked):
            wrong = np.array(gradient)
            wrong[:, 0] *= -1.0
            yield wrong

    monkeypatch.setattr(FactoredHead, "gradients", less)
    engine = camrt.load(path)
    assert engine.head.kind == "generic"
    assert any("gradient" in note for note in engine.notes)


def test_a_head_whose_graph_is_wrong_is_refused(tmp_path, monkeypatch):
    path = save(zoo_model("convolution-3x3-behind-the-cut").model, tmp_path / "m.onnx")
    own = head_making.build_head_model

    def other(*given, **more):
        made = own(*given, **more)
        for tensor in made.graph.initializer:
            values = numpy_helper.to_array(tensor) * np.float32(1.5)
            if values.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return made

    def wrong_layer(*given):
        found = find_last_linear(*given)
        return None if found is None else replace(found, weight=np.float32(1.5) * found.weight)

    what = "behind target 'relu_1' the model does not answer what its parts answer"
    network = save(zoo_model("gemm-hard-swish-gemm").model, tmp_path / "network.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(cuts, "find_last_linear", lambda *_: None)
        patch.setattr(head_making, "build_head_model", other)
        with pytest.raises(CutError, match=what):
            camrt.load(path)
    monkeypatch.setattr(cuts, "find_last_linear", wrong_layer)
    with pytest.raises(CutError, match="does not answer what its parts answer"):
        camrt.load(network)


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-relu-gemm", "global-max-pool"])
def test_four_images_are_run(tmp_path, monkeypatch, name):
    """The rest of the cost are rows of the head."""
    rows = []
    own = OnnxRuntimeRunner.__call__

    def counting(self, batch, fetch=None, extra_inputs=None):
        if self._label == "model":
            rows.append(len(batch))
        return own(self, batch, fetch, extra_inputs)

    monkeypatch.setattr(OnnxRuntimeRunner, "__call__", counting)
    camrt.load(save(zoo_model(name).model, tmp_path / "m.onnx"))
    assert sorted(rows) == [1, 3]


# ---------------------------------------------------------------- a map that is pooled twice


@pytest.mark.parametrize("end", ["added", "beside", "two-layers", "gated"])
@pytest.mark.parametrize("how", ["relu", "square", "convolution", "tanh"])
def test_two_means_of_one_map(tmp_path, how, end):
    whole = zoo_model(f"two-means-{how}-{end}")
    engine = camrt.load(save(whole.model, tmp_path / "m.onnx"))
    activations = whole.activations64(IMAGES)
    part = HEADS[f"two-means-{how}-{end}"].make(np.random.default_rng(0), K, H, W, C)
    by_boxes = partial(pixab_cam, denominators="N3", probability=False)
    for method, oracle, options in (
        ("ablation", ablation_cam, {}),
        ("pixab", by_boxes, {"score": "logit", "denominators": "N3"}),
    ):
        found = engine.explain(IMAGES, method, targets=2, **options).raw
        for mine, one in zip(found, activations, strict=True):
            assert_close(mine, oracle(lambda A: part.logits64(A[None])[0], one, 2), "float32", factor=20)


def test_the_gradient_through_two_means(tmp_path):
    """G = W[c, k] / cells · (1 + [A > shift]) for logits = W · (mean(A) + mean(relu(A − shift))) + b."""
    whole = zoo_model("two-means-relu-added")
    engine = camrt.load(save(whole.model, tmp_path / "m.onnx"))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.model.graph.initializer}
    shift, weight = tensors["constant_0"], tensors["constant_1"]
    assert weight.shape == (C, K)
    A = whole.activations64(IMAGES)
    beyond = A - shift.astype(np.float64) > 0
    gradient = weight[2].astype(np.float64)[:, None, None] / (H * W) * (1.0 + beyond)
    expected = (gradient.mean(axis=(2, 3), keepdims=True) * A).sum(axis=1)
    assert_close(engine.explain(IMAGES, "gradcam", targets=2).raw, expected, "float32", factor=20)


# ---------------------------------------------------------------- rows, chance, whole batches


def pooled_twist(tmp_path: Path, twist: Callable[[Net, str], str], *, on_map: bool = False) -> Path:
    """A classifier in which something is done to the map, or to the pooled vector."""
    net = Net(np.random.default_rng(0))
    source = twist(net, "A") if on_map else "A"
    vector = net.pooled(source)
    last, _ = net.gemm(vector if on_map else twist(net, vector), K, C)
    part = net.part(last, lambda A: A, (K, H, W), C)
    return save(classifier(part, np.random.default_rng(1)).model, tmp_path / "m.onnx")


def one_by_one(path: Path, images: np.ndarray) -> np.ndarray:
    """What plain onnxruntime answers to each image alone."""
    session = ort.InferenceSession(path)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


RANDOM = {
    "normal": ("RandomNormalLike", {"scale": 0.5}),
    "little": ("RandomNormalLike", {"scale": 0.01}),
    "uniform": ("RandomUniformLike", {}),
}


@pytest.mark.parametrize("operator", RANDOM)
@pytest.mark.parametrize("on_map", [True, False])
def test_a_model_that_draws_is_refused(tmp_path, operator, on_map):
    kind, attributes = RANDOM[operator]
    path = pooled_twist(
        tmp_path, lambda net, x: net.add("Add", x, net.add(kind, x, **attributes)), on_map=on_map
    )
    with pytest.raises(UnsupportedModelError, match=rf"differently each time .*{kind} .* evaluation mode"):
        camrt.load(path)


def lower_triangle(net: Net, x: str) -> str:
    return net.add("Trilu", x, upper=0)


def with_unit_rows(net: Net, x: str) -> str:
    return net.add("Add", x, net.add("EyeLike", x, dtype=1))


def centred(net: Net, x: str) -> str:
    return net.add("Sub", x, net.add("ReduceMean", x, axes=[0], keepdims=1))


def running_sum(net: Net, x: str) -> str:
    return net.add("CumSum", x, net.constant(0, np.int64))


def shares_of_batch(net: Net, x: str) -> str:
    return net.add("Mul", x, net.add("Softmax", x, axis=0))


def backwards(net: Net, x: str) -> str:
    first, last, axis, step = (net.constant([number], np.int64) for number in (-1, -99, 0, -1))
    return net.add("Slice", x, first, last, axis, step)


def with_neighbour(net: Net, x: str) -> str:
    """Each row plus half the next one, and the last plus half the first."""
    one, zero, axis, end = (net.constant([number], np.int64) for number in (1, 0, 0, 99))
    turned = net.add(
        "Concat", net.add("Slice", x, one, end, axis), net.add("Slice", x, zero, one, axis), axis=0
    )
    return net.add("Add", x, net.add("Mul", turned, net.constant(0.5)))


ROW_TWISTS = [
    lower_triangle,
    with_unit_rows,
    centred,
    running_sum,
    shares_of_batch,
    backwards,
    with_neighbour,
]


@pytest.mark.parametrize("twist", ROW_TWISTS)
def test_images_that_are_answered_otherwise_among_others_are_run_alone(tmp_path, twist):
    path = pooled_twist(tmp_path, twist)
    engine = camrt.load(path)
    assert any("one at a time" in note for note in engine.notes)
    assert_close(engine.predict(IMAGES), one_by_one(path, IMAGES), factor=20)
    for method in ("pixab", "ablation"):
        together = engine.explain(IMAGES, method, targets=1).raw
        alone = np.concatenate([engine.explain(one[None], method, targets=1).raw for one in IMAGES])
        assert_close(together, alone, factor=20)


def test_altered_activations_are_run_alone_as_well(tmp_path):
    """A running sum over the rows of a batch of one is that row: alone, the model is the one without it."""
    summing = camrt.load(pooled_twist(tmp_path, running_sum))
    plain = camrt.load(pooled_twist(tmp_path, lambda net, x: net.add("Identity", x)))
    for method in ("pixab", "ablation"):
        mine, theirs = (one.explain(IMAGES, method, targets=1).raw for one in (summing, plain))
        assert_close(mine, theirs, factor=20)


def test_a_batch_of_fixed_size_that_is_mixed_is_refused(tmp_path):
    model = onnx.load(pooled_twist(tmp_path, centred))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(UnsupportedModelError, match="batch size is fixed at 2: export it with an open"):
        camrt.load(save(model, tmp_path / "fixed.onnx"))


def test_dynamically_quantised_files_are_run_one_image_at_a_time(tmp_path):
    whole = zoo_model("gemm-relu-gemm")
    plain, path = save(whole.model, tmp_path / "plain.onnx"), tmp_path / "dynamic.onnx"
    quantize_dynamic(plain, path)
    assert any(node.op_type == "DynamicQuantizeLinear" for node in onnx.load(path).graph.node)
    engine = camrt.load(path)
    assert any("takes all images of a batch together" in note for note in engine.notes)
    loud = IMAGES * np.array([0.1, 1.0, 3.0, 10.0], np.float32)[:, None, None, None]
    assert_close(engine.predict(loud), one_by_one(path, loud), factor=20)


def test_noise_that_a_model_cannot_take_is_told(tmp_path):
    """Logits of noise are NaN: there is nothing to compare, and images may do better."""
    path = pooled_twist(tmp_path, lambda net, x: net.add("Log", net.add("Neg", net.add("Relu", x))))
    engine = camrt.load(path)
    assert any("logits for noise are not finite" in note for note in engine.notes)
    assert engine.verification == ()


def test_a_model_of_one_logit_and_of_two_targets(tmp_path):
    net = Net(np.random.default_rng(0))
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["early"], pads=[1] * 4),
        helper.make_node("Relu", ["early"], ["A"]),
    ]
    kernel = numpy_helper.from_array(
        np.random.default_rng(2).standard_normal((K, 3, 3, 3)).astype(np.float32), "w"
    )
    last, _ = net.gemm(net.pooled("A"), K, 1)
    nodes += [*net.nodes, helper.make_node("Identity", [last], ["logits"])]
    path = save(model_of(nodes, [kernel, *net.initializers], ["N", 3, 8, 8], ["N", 1]), tmp_path / "m.onnx")
    engine = camrt.load(path, target=["early", "A"])
    assert all(one.agrees for one in engine.verification)


def test_inspect_verify_says_which_question_has_no_answer(tmp_path, monkeypatch):
    path = save(zoo_model("gemm-relu-gemm").model, tmp_path / "m.onnx")
    monkeypatch.delitem(RULES, ("", "Relu"))
    result = CliRunner().invoke(app, ["inspect", str(path), "--verify"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    (row,) = [line for line in result.stdout.splitlines() if "gradient of the image" in line]
    assert "none" in row
    assert "refused: no gradient can be followed through" in row


def test_inspect_verify_lists_what_was_compared(tmp_path):
    path = save(zoo_model("gemm-relu-gemm").model, tmp_path / "m.onnx")
    result = CliRunner().invoke(app, ["inspect", str(path), "--verify"])
    assert result.exit_code == 0, result.output
    assert "Compared on noise" in result.stdout
    for question in ("boxes", "gradient", "removed channels", "gradient of the image"):
        assert any(question in line and "yes" in line for line in result.stdout.splitlines()), question


# ---------------------------------------------------------------- files that do not run


def unrunnable(size: int | str = 8) -> onnx.ModelProto:
    """A classifier that is well formed, and reshapes an activation to a size that it has not."""
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["A"]),
        helper.make_node("Reshape", ["A", "shape"], ["cells"]),
        helper.make_node("ReduceMean", ["cells"], ["logits"], axes=[2], keepdims=0),
    ]
    tensors = [
        numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "weight"),
        numpy_helper.from_array(np.array([0, 4, 7]), "shape"),
    ]
    graph = helper.make_graph(
        nodes,
        "unrunnable",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 4])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_a_file_that_runs_on_no_image_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(unrunnable(), path)
    with pytest.raises(UnsupportedModelError, match=r"runs on no image of the shape that it names") as raised:
        camrt.load(path, target="A")
    message = str(raised.value)
    assert "cannot be reshaped" in message
    assert message.endswith("look whether onnxruntime runs the file by itself, and export it anew")
    assert not re.search(r"\n|onnxruntime_src|ONNXRuntimeError|reshape_helper", message)


def test_a_file_of_open_size_that_does_not_run_on_a_guess_is_kept(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(unrunnable("S"), path)
    engine = camrt.load(path, target="A")
    assert any("could not be run on noise" in note for note in engine.notes)
