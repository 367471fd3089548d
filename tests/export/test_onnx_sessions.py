"""Nothing is printed on stdout when ONNX Runtime fails, and nothing is run elsewhere in its place."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import camrt
from camrt.engine.runtime import make_onnx_runtime, ort_cpu
from camrt.errors import BackendError, CamrtError
from camrt.export.expanding import blocked
from camrt.export.onnx_sessions import open_session
from helpers.hostile_models import classifier_model
from helpers.zoo import save

ROOMS = [Path(getattr(camrt, room).__file__).parent for room in ("engine", "export", "evaluation", "kernels")]


def unspeakable() -> bytes:
    """A model with an operator that the runtime does not know, whose name no text can hold."""
    content = classifier_model().SerializeToString()
    assert content.count(b"Conv") == 1
    return content.replace(b"Conv", b"Con\xff")


def test_all_sessions_are_made_in_one_place():
    """Elsewhere they would print "EP Error" on stdout, and try again on the CPU."""
    made = {
        path.name
        for room in ROOMS
        for path in room.rglob("*.py")
        if "InferenceSession(" in path.read_text("utf-8")
    }
    assert made == {"onnx_sessions.py"}


def test_what_the_runtime_would_print(capfd):
    """The test of the tests below: by itself it does print."""
    with pytest.raises(UnicodeDecodeError):
        ort.InferenceSession(unspeakable(), providers=["CPUExecutionProvider"])
    assert "EP Error" in capfd.readouterr().out


def test_a_session_that_is_refused(tmp_path, capfd):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(UnicodeDecodeError):
        open_session(unspeakable(), options)
    path = tmp_path / "model.onnx"
    path.write_bytes(unspeakable())
    with pytest.raises(CamrtError):
        camrt.load(path)
    assert capfd.readouterr().out == ""


class Unspeakable:
    """A model that gives such bytes."""

    def SerializeToString(self) -> bytes:  # noqa: N802  # as protobuf has it
        return unspeakable()


def test_a_graph_whose_names_are_no_text(capfd, monkeypatch):
    held = SimpleNamespace(model=Unspeakable(), add_to_options=lambda _: None)
    monkeypatch.setattr(ort_cpu, "externalize_weights", lambda _: held)
    with pytest.raises(BackendError, match="onnxruntime refuses the model"):
        make_onnx_runtime(threads=1).make_runner(classifier_model(), label="model")
    assert capfd.readouterr().out == ""


def test_files_that_the_runtime_refuses(tmp_path, capfd):
    """Too new a set of operators, and one that the runtime lacks."""
    model = classifier_model()
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    newer = save(model, tmp_path / "newer.onnx")
    model = classifier_model()
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    model.graph.node[0].domain = "elsewhere"
    for path in (newer, save(model, tmp_path / "custom.onnx")):
        with pytest.raises(CamrtError):
            camrt.load(path)
    blocked._of_the_runtime.cache_clear()
    blocked._of_the_runtime()
    assert capfd.readouterr().out == ""


def test_a_run_that_fails(tmp_path, capfd):
    engine = camrt.load(save(classifier_model(), tmp_path / "model.onnx"))
    with pytest.raises(BackendError, match="failed while running"):
        engine._model(np.zeros((1, 5, 8, 8), np.float32), None)
    assert capfd.readouterr().out == ""
