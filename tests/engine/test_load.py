"""`camrt.load`, from whole files: what becomes of every head of the zoo, options, and real models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import camrt
from camrt.engine import cuts
from camrt.engine.runtime import ort_cpu
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.errors import BackendError, InputError
from camrt.export.heads.factoring import Unfactored
from camrt.export.onnx_sessions import open_session
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, save

SHAPE = (6, 4, 3)
CLASSES = 5
# A convolution in front of a head of several layers.
WHOLE_MODEL = 16.0
# Maps are differences of scores that agree in most of their digits.
DIFFERENCES = 100.0


def zoo_model(name, **options):
    rng = np.random.default_rng(3)
    return classifier(HEADS[name].make(rng, *SHAPE, CLASSES), rng, **options)


def saved(tmp_path, name="gap-flatten-gemm", **metadata):
    model = zoo_model(name).model
    helper.set_model_props(model, metadata)
    return save(model, tmp_path / "model.onnx")


def forced_generic(path, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "factor_head", lambda *_: Unfactored("asked for"))
        return camrt.load(path, **options)


# ---------------------------------------------------------------- every head, as a file


@pytest.mark.parametrize("name", HEADS)
def test_a_whole_model_predicts_and_explains_as_its_definition(name, tmp_path):
    case, whole = HEADS[name], zoo_model(name)
    path = save(whole.model, tmp_path / "model.onnx")
    engine = camrt.load(path, target="A", batch_size=4, threads=1)
    assert engine.target.shape == SHAPE
    assert engine.head.kind == case.kind
    batch = np.random.default_rng(4).standard_normal((3, *whole.size), np.float32)
    logits = whole.logits64(batch)
    assert_close(engine.predict(batch), logits, factor=WHOLE_MODEL)

    generic = forced_generic(path, target="A", batch_size=4, threads=1)
    assert generic.head.kind == "generic"
    targets = np.tile([0, logits.shape[1] - 1], (3, 1))
    for method, score in (("ablation", "logit"), ("pixab", "logit"), ("pixab", "probability")):
        ours = engine.explain(batch, method, targets=targets, score=score, size="map")
        theirs = generic.explain(batch, method, targets=targets, score=score, size="map")
        assert_close(ours.raw, theirs.raw, factor=DIFFERENCES)
        assert_close(ours.logits, logits, factor=WHOLE_MODEL)
        assert (ours.passes.trunk, ours.passes.full) == (3, 0)
        limit = engine.head.channel_passes(6) if method == "ablation" else engine.head.box_passes(200)
        assert ours.passes.head <= 3 * limit[0]
    if case.kind == "pooled-linear" and not case.border:
        maps = engine.explain(batch, "cam", targets=targets).raw
        total = maps.sum(axis=(2, 3)) if case.sums else maps.mean(axis=(2, 3))
        assert_close(total, np.take_along_axis(logits, targets, axis=1), factor=WHOLE_MODEL)


@pytest.mark.parametrize(
    "name", ["gap-flatten-gemm", "squeezenet-padded", "gemm-relu-gemm", "global-max-pool"]
)
def test_images_beyond_one_batch_are_answered_alike(name, tmp_path):
    path = save(zoo_model(name).model, tmp_path / "model.onnx")
    batch = np.random.default_rng(5).standard_normal((7, *zoo_model(name).size), np.float32)
    whole = camrt.load(path, target="A", batch_size=32).explain(batch, "pixab", targets=1)
    for batch_size in (1, 3):
        pieces = camrt.load(path, target="A", batch_size=batch_size).explain(batch, "pixab", targets=1)
        assert_close(pieces.raw, whole.raw, factor=DIFFERENCES)


def test_graphs_behind_the_cut_are_made_ready_when_first_needed(tmp_path):
    path = save(zoo_model("gemm-relu-gemm").model, tmp_path / "model.onnx")
    batch = np.zeros((1, *zoo_model("gemm-relu-gemm").size), np.float32)
    labels, make = [], OnnxRuntime.make_runner

    def watched(self, model, **options):
        labels.append(options["label"])
        return make(self, model, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRuntime, "make_runner", watched)
        engine = camrt.load(path, verify=False)
        engine.predict(batch)
        assert labels == ["model"]
        engine.explain(batch, "pixab")
        engine.explain(batch, "pixab")
        assert labels == ["model", "head behind its first layer", "last layer of the head"]


# ---------------------------------------------------------------- options


def test_threads_are_those_of_the_environment_where_none_are_said(tmp_path, monkeypatch):
    path = save(zoo_model("gap-flatten-gemm").model, tmp_path / "model.onnx")
    made = []

    def open_watched(data, options, *more):
        made.append(options)
        return open_session(data, options, *more)

    monkeypatch.setattr(ort_cpu, "open_session", open_watched)
    monkeypatch.setenv("CAMRT_THREADS", "3")
    assert camrt.load(path).threads == 3
    assert {options.intra_op_num_threads for options in made} == {3}
    assert {options.get_session_config_entry("session.force_spinning_stop") for options in made} == {"1"}
    assert camrt.load(path, threads=2).threads == 2
    monkeypatch.setenv("CAMRT_THREADS", "none")
    with pytest.raises(InputError, match="CAMRT_THREADS='none' in the environment must be a whole number"):
        camrt.load(path)
    monkeypatch.delenv("CAMRT_THREADS")
    monkeypatch.setattr(ort_cpu, "usable_processors", lambda: 1)
    made.clear()
    assert camrt.load(path).threads is None
    assert {options.intra_op_num_threads for options in made} == {0 if os.cpu_count() == 1 else 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be a whole number >= 1"),
        ({"batch_size": 2.0}, "batch_size=2.0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"threads": 0}, "threads=0 must be None or a whole number >= 1"),
        ({"threads": 1.5}, "threads=1.5"),
        ({"activation": "relu"}, "activation='relu' must be None, 'softmax', 'sigmoid' or 'none'"),
        ({"labels": ["a", "b"]}, "2 labels were given for a model with 5 classes"),
        ({"labels": "no-such-file.txt"}, "labels='no-such-file.txt': cannot be read: no such file"),
    ],
    ids=lambda value: next(iter(value.items())).__repr__() if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        camrt.load(saved(tmp_path), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorflow"}, "unknown backend 'tensorflow'"),
        ({"device": "tpu"}, "device='tpu' must be 'cpu', 'cuda' or 'cuda:N'"),
        (
            {"device": "cuda"},
            "this needs an NVIDIA GPU.*: install the driver; device='cpu' runs a model without one",
        ),
        ({"device": "cuda:1", "backend": "onnxruntime-tensorrt"}, "this needs an NVIDIA GPU"),
        ({"backend": "onnxruntime-tensorrt"}, "runs on a GPU: pass device='cuda'"),
    ],
    ids=str,
)
def test_a_backend_that_is_not_there_is_never_replaced(options, message, tmp_path, monkeypatch):
    monkeypatch.setattr("camrt.engine.tensorrt_plans.cuda_devices.LIBRARY", "no-such-driver.so")
    with pytest.raises(BackendError, match=message):
        camrt.load(saved(tmp_path), **options)


def test_labels_from_a_list_a_file_and_the_model(tmp_path):
    names = [f"class {index}" for index in range(CLASSES)]
    listing = tmp_path / "labels.txt"
    listing.write_text("\n".join(names) + "\n\n", encoding="utf-8")
    path = saved(tmp_path, **{"camrt.labels": json.dumps(names)})
    for labels in (names, listing, str(listing), None):
        assert camrt.load(path, labels=labels).labels == tuple(names)
    assert camrt.load(path, labels=list("abcde")).labels == tuple("abcde")


def test_labels_without_any(tmp_path):
    assert camrt.load(saved(tmp_path)).labels is None


@pytest.mark.parametrize("text", ["not json", '{"a": 1}'], ids=["not-json", "not-a-list"])
def test_labels_in_the_model_that_are_none(text, tmp_path):
    with pytest.raises(InputError, match=r"metadata entry camrt\.labels: (not valid|expected a) JSON"):
        camrt.load(saved(tmp_path, **{"camrt.labels": text}))


def test_preprocessing_in_the_model_is_used(tmp_path):
    steps = camrt.Preprocessing(size=(8, 6), mean=(0.5, 0.5, 0.5))
    path = saved(tmp_path, **{"camrt.preprocessing": steps.to_json()})
    assert camrt.load(path).preprocessing == steps
    assert camrt.load(path, preprocessing="unit").preprocessing != steps
    assert camrt.load(saved(tmp_path)).preprocessing is None


def test_an_engine_says_what_it_is(tmp_path):
    engine = camrt.load(saved(tmp_path))
    assert repr(engine) == "<camrt.Engine model.onnx: 5 classes, cut at 'A', pooled-linear>"
    assert engine.path == (tmp_path / "model.onnx").resolve()
    assert len(engine.sha256) == 64


# ---------------------------------------------------------------- real models

REAL = {
    "brain_mri_cnn": ("flattened-linear", None),
    "mobilenet_v2": ("pooled-linear", None),
    "mobilenet_v3_small": ("pooled-network", None),
    "squeezenet1_0": ("pooled-linear", (512, 13, 13)),
}


@pytest.mark.realdata
@pytest.mark.skipif("CAMRT_DATA" not in os.environ, reason="CAMRT_DATA does not name a folder of real models")
@pytest.mark.parametrize("name", REAL)
def test_a_real_model_is_what_it_is(name):
    kind, target = REAL[name]
    path = Path(os.environ["CAMRT_DATA"]) / "models" / f"{name}.onnx"
    engine = camrt.load(path)
    assert engine.head.kind == kind
    if target is not None:
        assert engine.target.shape == target
        assert "mixes channels" in engine.head.describe()
    interface = engine.interface
    size = (2, interface.channels, interface.height or 224, interface.width or 224)
    batch = np.random.default_rng(0).standard_normal(size, np.float32)
    ours = engine.explain(batch, "pixab", size="map", score="logit")
    theirs = forced_generic(path).explain(batch, "pixab", size="map", score="logit")
    assert_close(ours.raw, theirs.raw, factor=DIFFERENCES)


# ---------------------------------------------------------------- the embedded classifier, by its word


def test_the_word_default_is_the_embedded_classifier(tmp_path, monkeypatch):
    """A file of that name in the working folder is meant by a path, never by the word."""
    (mine := saved(tmp_path)).rename(tmp_path / "default")
    monkeypatch.chdir(tmp_path)
    assert camrt.load("default").path == camrt.default.model_path().resolve()
    for path in ("./default", Path("default"), tmp_path / "default"):
        assert camrt.load(path, target="A").path == (tmp_path / "default").resolve()
    assert not mine.exists()


def test_the_word_default_where_a_file_is_read_again():
    pytest.importorskip("skimage", reason="the structural similarity is scikit-image's")
    pytest.importorskip("scipy", reason="the rank correlation is scipy's")
    from camrt.evaluation.metrics.axioms import measure_axioms
    from camrt.evaluation.metrics.randomisation import cascading_randomisation

    scene = [camrt.default.scene_path()]
    assert measure_axioms("default", scene, "calm", constants=(1.0,)).images == 1
    assert cascading_randomisation("default", scene, ["calm"], stages=(1,)).stages == (1,)
