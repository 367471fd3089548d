"""Files that hold their maps give what the engine gives, over every head, and keep what they are made of."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.engine.maps_in_file import comparison, writing
from camrt.engine.methods import make_method
from camrt.engine.methods.ablation import AblationCAM
from camrt.engine.methods.gradients import GradCAM, GradCAMPlusPlus
from camrt.engine.methods.pixab import PixabCAM
from camrt.errors import (
    DeadlineError,
    InputError,
    MethodError,
    ModelFileError,
    RoundingWarning,
    WrongAnswerError,
)
from camrt.export import with_maps
from camrt.export.graph.upkeep import rename_tensors
from camrt.export.outputs.declared_maps import MAPS_KEY, read_declared_maps
from helpers.tolerances import TOLERANCES
from helpers.zoo import HEADS, classifier, save

EVERYWHERE = ["activation", "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "gradcam-elementwise",
              "ablation", "pixab"]  # fmt: skip
EPSILON = TOLERANCES["float32"][0]


def open_session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options)


def run(path, feeds, *outputs):
    return open_session(path).run(list(outputs) or None, feeds)


def zoo_model(name, folder, **options):
    part = HEADS[name].make(np.random.default_rng(0), 6, 5, 4, 3)
    whole = classifier(part, np.random.default_rng(1), **options)
    return save(whole.model, folder / "model.onnx"), whole.size, part.classes


def images_of(count, size, seed=3):
    return np.random.default_rng(seed).standard_normal((count, *size)).astype(np.float32)


def assert_same_maps(maps, raw, expected, expected_raw=None):
    """Maps beside the engine's: both lose the digits that two scores of about one have in common."""
    if expected_raw is None:
        expected, expected_raw = expected.maps, expected.raw
    scale = np.abs(expected_raw).max(axis=(-2, -1), keepdims=True)
    lost = 1.0 + 4.0 / np.maximum(scale, 1e-6)
    assert (np.abs(raw - expected_raw) <= EPSILON * np.maximum(scale, 1e-6) * lost).all()
    assert (np.abs(maps - expected) <= EPSILON * lost).all()
    assert maps.dtype == raw.dtype == np.float32
    assert 0 <= maps.min() <= maps.max() <= 1


def assert_wellformed(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    return model


@pytest.mark.parametrize("name", HEADS)
def test_every_head_of_the_zoo(name, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "compare_with_engine", lambda *given, **options: None)  # compared below
    path, size, classes = zoo_model(name, tmp_path)
    engine = camrt.load(path, target="A", verify=False, cache=False)
    assert engine.head.kind == HEADS[name].kind
    methods = [*EVERYWHERE, *(["cam"] if engine.head.has_class_maps else [])]
    made = with_maps(path, methods, tmp_path / "maps.onnx", target="A", raw=True, verify=False)
    assert_wellformed(made)
    images, target = images_of(7, size), np.arange(7) % classes
    names = [f"{kind}_{method}" for method in methods for kind in ("saliency", "raw")]
    plain, held = open_session(path), open_session(made)
    outcome = {}
    for count in (1, 7):
        (before,) = plain.run(None, {"images": images[:count]})
        feeds = {"images": images[:count], "target": target[:count]}
        after, *outcome[count] = held.run(["logits", *names], feeds)
        np.testing.assert_array_equal(after, before)
    for number, method in enumerate(methods):
        expected = engine.explain(images, method, targets=target)
        for count, found in outcome.items():
            assert_same_maps(*found[2 * number :][:2], expected.maps[:count], expected.raw[:count])


SMALL = "gap-flatten-gemm"


def test_several_targets(tmp_path):
    path, size, _ = zoo_model("gemm-relu-gemm", tmp_path)
    methods = ["pixab", "gradcam", "hirescam", "ablation"]
    made = with_maps(path, methods, tmp_path / "maps.onnx", targets="several", raw=True)
    assert_wellformed(made)
    images, target = images_of(4, size), np.array([[0, 2], [1, 1], [2, 0], [0, 1]])
    for method in methods:
        found = run(made, {"images": images, "target": target}, f"saliency_{method}", f"raw_{method}")
        assert_same_maps(*found, camrt.load(path).explain(images, method, targets=target))


@pytest.mark.parametrize("several", [False, True])
def test_targets_that_are_no_classes_have_maps_of_zeros(several, tmp_path):
    path, size, classes = zoo_model(SMALL, tmp_path)
    made = with_maps(
        path, "gradcam", tmp_path / "maps.onnx", raw=True, targets="several" if several else "one"
    )
    images = images_of(5, size)
    target = np.array([-1, classes, -2, 0, 2**40])
    maps, raw = run(
        made, {"images": images, "target": target[:, None] if several else target}, "saliency", "raw"
    )
    maps, raw = maps.reshape(5, *maps.shape[-2:]), raw.reshape(5, *raw.shape[-2:])
    engine = camrt.load(path)
    predicted = engine.explain(images, "gradcam")
    assert_same_maps(maps[:1], raw[:1], camrt.load(path).explain(images[:1], "gradcam"))
    assert predicted.targets[0] == run(path, {"images": images[:1]})[0].argmax()
    for number in (1, 2, 4):
        assert not maps[number].any()
        assert np.isnan(raw[number]).all()
    assert_same_maps(maps[3:4], raw[3:4], engine.explain(images[3:4], "gradcam", targets=0))


@pytest.mark.parametrize(
    ("images", "target"), [(5, (4,)), (1, (5,)), (5, (1,)), (2, (2, 1)), (2, ())], ids=str
)
def test_targets_of_another_length_are_refused(images, target, tmp_path):
    path, size, _ = zoo_model(SMALL, tmp_path)
    made = with_maps(path, "activation", tmp_path / "maps.onnx")
    with pytest.raises(Exception, match=r"(?i)concat|rank"):
        run(made, {"images": images_of(images, size), "target": np.zeros(target, np.int64)})
    several = with_maps(path, "activation", tmp_path / "several.onnx", targets="several")
    with pytest.raises(Exception, match=r"(?i)concat|rank"):
        run(several, {"images": images_of(3, size), "target": np.zeros((2, 3), np.int64)})


@pytest.mark.parametrize("method", ["pixab", "gradcam", "ablation", "activation"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_have_maps_of_zeros(method, value, tmp_path):
    path, size, _ = zoo_model(SMALL, tmp_path)
    made = with_maps(path, method, tmp_path / "maps.onnx", raw=True)
    images = images_of(3, size)
    images[1] = value
    maps, raw = run(made, {"images": images, "target": np.array([0, 1, 2])}, "saliency", "raw")
    assert not maps[1].any()
    assert np.isnan(raw[1]).all()
    fine = camrt.load(path).explain(images[[0, 2]], method, targets=[0, 2])
    assert_same_maps(maps[[0, 2]], raw[[0, 2]], fine)
    assert maps[0].any()


def test_maps_that_are_constant_or_negative_are_zeros(tmp_path):
    path, size, _ = zoo_model(SMALL, tmp_path)
    made = with_maps(path, "activation", tmp_path / "maps.onnx", raw=True)
    images = np.zeros((1, *size), np.float32)
    engine = camrt.load(path)
    for method in ("gradcam", "pixab"):
        made = with_maps(path, method, tmp_path / "maps.onnx", raw=True)
        for target in range(3):
            maps, raw = run(made, {"images": images, "target": np.array([target])}, "saliency", "raw")
            assert_same_maps(maps, raw, engine.explain(images, method, targets=target))


def test_the_predicted_class_needs_no_input(tmp_path):
    path, size, _ = zoo_model(SMALL, tmp_path)
    made = with_maps(path, "pixab", tmp_path / "maps.onnx", targets="predicted", raw=True)
    assert [value.name for value in onnx.load(made).graph.input] == ["images"]
    images = images_of(3, size)
    found = run(made, {"images": images}, "saliency", "raw")
    assert_same_maps(*found, camrt.load(path).explain(images, "pixab"))


def test_what_a_file_holds_is_known_when_it_is_loaded(tmp_path):
    path, size, _ = zoo_model(SMALL, tmp_path)
    made = with_maps(path, ["pixab", "gradcam"], tmp_path / "maps.onnx")
    images = images_of(2, size)
    engine = camrt.load(made)
    assert any("pixab ('saliency_pixab')" in note for note in engine.notes)
    assert "the file holds maps itself" in engine.describe()
    np.testing.assert_array_equal(
        engine.explain(images, "pixab").maps, camrt.load(path).explain(images, "pixab").maps
    )
    declared = read_declared_maps(onnx.load(made))
    assert declared.outputs == ("saliency_pixab", "saliency_gradcam")
    assert declared.target == "target"
    assert not declared.several
    assert declared.layer == ("A",)
    with pytest.raises(InputError, match="holds maps already"):
        with_maps(made, "gradcam", tmp_path / "again.onnx")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"maps": [{"method": "a\\u001b[2J", "options": "", "saliency": "logits", "raw": null}], '
        '"target": null, "several": false, "layer": []}',
        '{"maps": [], "target": "nothing", "several": false, "layer": []}',
        '{"maps": [], "target": "images", "several": false, "layer": []}',
        '{"maps": [{"method": "a", "options": "", "saliency": "x", "raw": null}], "target": null,'
        ' "several": false, "layer": []}',
        '{"maps": [{"method": "a", "options": "", "saliency": "logits", "raw": null}], "target": null,'
        ' "several": false, "layer": []}',
    ],
)
def test_metadata_that_lies_is_refused(text, tmp_path):
    path, _, _ = zoo_model(SMALL, tmp_path)
    model = onnx.load(path)
    model.metadata_props.add(key=MAPS_KEY, value=text)
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match=MAPS_KEY):
        camrt.load(path)


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ([], {}, "at least one"),
        ("eigen", {}, "not written into files"),
        (["gradcam", "grad"], {}, "each may be given once"),
        ("gradcam", {"opset": 16}, "from 17 to 21"),
        ("gradcam", {"targets": "all"}, "one of"),
        ("gradcam", {"most_passes": -1}, "whole number"),
        ("gradcam", {"backend": "openvino"}, "no option 'backend'"),
        ("cam", {"target": "images"}, "images"),
    ],
)
def test_wrong_options_are_refused(methods, options, message, tmp_path):
    path, _, _ = zoo_model(SMALL, tmp_path)
    with pytest.raises(camrt.errors.CamrtError, match=message):
        with_maps(path, methods, tmp_path / "maps.onnx", **options)
    assert not (tmp_path / "maps.onnx").exists()


def test_contrasts_are_refused(tmp_path):
    path, _, _ = zoo_model(SMALL, tmp_path)
    with pytest.raises(MethodError, match="contrast"):
        with_maps(path, GradCAM(contrast="similar"), tmp_path / "maps.onnx")


def test_passes_are_bounded(tmp_path):
    path, *_ = zoo_model("convolution-3x3-behind-the-cut", tmp_path)
    with pytest.raises(MethodError, match="--most-passes"):
        with_maps(path, "pixab", tmp_path / "maps.onnx", target="A", most_passes=10)


@pytest.mark.parametrize("opset", [17, 19, 21])
def test_operator_sets(opset, tmp_path):
    path, *_ = zoo_model("gemm-relu-gemm", tmp_path)
    made = with_maps(path, ["pixab", "gradcam", "ablation"], tmp_path / "maps.onnx", opset=opset)
    assert assert_wellformed(made).opset_import[0].version == opset


def test_outputs_that_are_rounded_otherwise_are_told_and_others_refused(tmp_path, monkeypatch):
    """ONNX Runtime optimises the file with maps otherwise, such as a real classifier's of 300 nodes."""
    path, *_ = zoo_model(SMALL, tmp_path)
    run_file = comparison.run
    factor = 1 + 2e-7

    def run_rounded(content, outputs, feeds):
        first, *others = run_file(content, outputs, feeds)
        return [first * np.float32(factor) if others else first, *others]

    monkeypatch.setattr(comparison, "run", run_rounded)
    with pytest.warns(RoundingWarning, match="otherwise, by [12].*e-07 of its largest number"):
        with_maps(path, "gradcam", tmp_path / "maps.onnx")
    factor = 1 + 1e-3
    with pytest.raises(WrongAnswerError, match=r"other numbers than before, by 0\.001 of the largest"):
        with_maps(path, "gradcam", tmp_path / "other.onnx")
    factor = np.nan
    with pytest.raises(WrongAnswerError, match="by inf of the largest"):
        with_maps(path, "gradcam", tmp_path / "other.onnx")


def test_sums_that_cancel_may_differ_by_rounding():
    """HiResCAM of tokens that a LayerNorm reads is zero but for rounding: their scale does not count."""
    raw = np.array([1e-6, 0.02])[:, None, None] * np.ones((2, 3, 3))
    terms = np.full((2, 3, 3), 0.04)
    allowed = comparison.allowed_errors(make_method("hirescam", {}), raw, terms)
    assert allowed == pytest.approx([0.04, comparison.MAP_TOLERANCE])


def test_names_of_tensors_that_are_added_are_free(tmp_path):
    path, size, _ = zoo_model(SMALL, tmp_path)
    model = onnx.load(path)
    given = {"A": "camrt_maps_1", "trunk_linear": "camrt_maps__2"}
    rename_tensors(model.graph, lambda name: given.get(name, name))
    save(model, path)
    made = with_maps(path, "pixab", tmp_path / "maps.onnx", raw=True)
    images = images_of(2, size)
    found = run(made, {"images": images, "target": np.array([0, 1])}, "saliency", "raw")
    assert_same_maps(*found, camrt.load(path).explain(images, "pixab", targets=[0, 1]))


@pytest.mark.parametrize("name", ["target", "saliency"])
def test_a_model_that_has_a_tensor_of_such_a_name_is_refused(name, tmp_path):
    path, *_ = zoo_model(SMALL, tmp_path)
    model = onnx.load(path)
    rename_tensors(model.graph, lambda tensor: name if tensor == "A" else tensor)
    save(model, path)
    with pytest.raises(InputError, match=f"has a tensor '{name}' already"):
        with_maps(path, "gradcam", tmp_path / "maps.onnx")


def test_it_ends_by_its_deadline(tmp_path):
    path, *_ = zoo_model(SMALL, tmp_path)
    with pytest.raises(DeadlineError):
        with_maps(path, "pixab", tmp_path / "maps.onnx", load_deadline=1e-3)


REAL = {
    "brain_mri_cnn": ["gradcam", "gradcam++", "hirescam", "ablation", "pixab"],
    "mobilenet_v2": ["cam", "gradcam", "layercam", "ablation", "pixab", "gradient"],
    "mobilenet_v3_small": ["gradcam", "pixab"],
    "squeezenet1_0": ["gradcam", "ablation", "pixab", "guided"],
}


@pytest.mark.realdata
@pytest.mark.skipif("CAMRT_DATA" not in os.environ, reason="CAMRT_DATA does not name a folder of real models")
@pytest.mark.parametrize("name", REAL)
def test_real_models(name, tmp_path):
    path = Path(os.environ["CAMRT_DATA"]) / "models" / f"{name}.onnx"
    made = with_maps(path, REAL[name], tmp_path / "maps.onnx", raw=True)
    engine = camrt.load(path)
    for count in (1, 7):
        images = images_of(count, engine.interface.probe_shape(1)[1:]) / 2
        target = np.arange(count) * 31 % engine.num_classes
        (before,) = run(path, {"input": images})
        names = [f"{kind}_{method}" for method in REAL[name] for kind in ("saliency", "raw")]
        after, *found = run(made, {"input": images, "target": target}, "logits", *names)
        np.testing.assert_array_equal(after, before)
        for number, method in enumerate(REAL[name]):
            expected = engine.explain(images, method, targets=target)
            maps, raw = found[2 * number :][:2]
            if method == "gradient":  # rounding turns some of a network's many steps on or off
                assert np.abs(maps - expected.maps).max() < 0.05
            else:
                assert_same_maps(maps, raw, expected)


METHODS_WITH_OPTIONS = [
    PixabCAM(score="logit"),
    PixabCAM(denominators="N3", assignment="same"),
    PixabCAM(assignment="anchor", boxes=((2, 3), (1, 1)), perspectives="deletion"),
    PixabCAM(denominators="N1", boxes=((3, 2),), perspectives="preservation", assignment="same"),
    AblationCAM(score="probability"),
    GradCAM(score="probability"),
    GradCAM(postprocess="library"),
    GradCAM(normalisation="minmax", absolute=True),
    GradCAMPlusPlus(definition="grad-cam"),
    GradCAMPlusPlus(normalise_alpha=True),
]


@pytest.mark.parametrize(
    "name", [SMALL, "flatten-gemm", "gemm-relu-gemm", "convolution-3x3-behind-the-cut", "squeezenet"]
)
def test_options_of_methods(name, tmp_path):
    path, size, classes = zoo_model(name, tmp_path)
    engine = camrt.load(path, target="A")
    images, target = images_of(3, size), np.arange(3) % classes
    for method in METHODS_WITH_OPTIONS:
        made = with_maps(path, method, tmp_path / "maps.onnx", target="A", raw=True, verify=False)
        found = run(made, {"images": images, "target": target}, "saliency", "raw")
        assert_same_maps(*found, engine.explain(images, method, targets=target))


def test_the_command(tmp_path):
    path, *_ = zoo_model(SMALL, tmp_path)
    out = tmp_path / "maps.onnx"
    words = ["export", str(path), "--with", "gradcam,cam", "--with", "pixab:score=logit", "--raw"]
    result = CliRunner().invoke(app, [*words, "--targets", "several", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "with maps by gradcam, cam, pixab" in result.output.replace("\n", " ")
    declared = read_declared_maps(onnx.load(out))
    assert declared.several
    assert declared.maps[2].options == repr(PixabCAM(score="logit"))
    assert declared.maps[2].outputs == ("saliency_pixab", "raw_pixab")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--with", "nothing", "-o", "x.onnx"], "unknown method"),
        (["--with", "gradcam"], "--out says where"),
        (
            ["--with", "gradcam", "--precision", "fp16", "-o", "x.onnx"],
            "--precision means nothing with --with",
        ),
        (["--with", "gradcam", "--to", "tensorrt", "-o", "x"], "--with means nothing with --to tensorrt"),
        (["--raw", "-o", "x.onnx"], "--raw means nothing with --to onnx"),
        (["--with", ",", "-o", "x.onnx"], "must name methods"),
    ],
)
def test_the_command_says_what_is_wrong(words, message, tmp_path, monkeypatch):
    path, *_ = zoo_model(SMALL, tmp_path)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["export", str(path), *words])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
