"""Engines that are pickled and copied: loaded again in other processes, of the same file alone."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import camrt
from camrt.default import model_path
from camrt.engine.load import load
from camrt.engine.origin import mutable_state, reload_engine
from camrt.errors import ModelFileError, PickleError

NAMES = [f"class number {number}" for number in range(33)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(model_path().read_bytes())
    return path


def elsewhere(engine: camrt.Engine) -> camrt.Engine:
    """What a process that does not have the engine makes of its pickle."""
    assert engine.origin is not None
    return reload_engine(replace(engine.origin, name="of no living engine"), mutable_state(engine))


ELSEWHERE = """
import pickle, sys
import numpy as np

if __name__ == "__main__":
    engine = pickle.load(open(sys.argv[1], "rb"))
    batch = np.load(sys.argv[2])
    np.savez(sys.argv[3], logits=engine.predict(batch), maps=engine.explain(batch, "gradcam").maps)
    print(engine.labels[3], engine.call_deadline, engine.batch_size, engine.target.name, engine.threads)
"""


def test_another_process_has_the_same_engine(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(file.parent)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    engine = camrt.load(file.name, threads=2, batch_size=3, labels="names.txt", target="relu_13")
    (tmp_path / "names.txt").unlink()
    engine.call_deadline = 77.0
    content = pickle.dumps(engine)
    assert len(content) < 4000
    (tmp_path / "engine.pickle").write_bytes(content)
    batch = np.random.default_rng(0).uniform(size=engine.interface.probe_shape(5, (32, 32)))
    np.save(tmp_path / "batch.npy", batch.astype(np.float32))
    files = [str(tmp_path / name) for name in ("engine.pickle", "batch.npy", "found.npz")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, *files],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        cwd="/",
    )
    assert done.stdout.strip() == "class number 3 77.0 3 relu_13 2", done.stderr[-2000:]
    with np.load(files[2]) as found:
        given = batch.astype(np.float32)
        np.testing.assert_allclose(found["logits"], engine.predict(given), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["maps"], engine.explain(given, "gradcam").maps, rtol=1e-4, atol=1e-5)


def test_where_the_engine_is_already_nothing_is_loaded(file: Path):
    engine = camrt.load(file)
    content = pickle.dumps(engine)
    file.unlink()
    found = pickle.loads(content)
    assert found is not engine
    assert found.predict is not None
    found.call_deadline = 5.0
    assert engine.call_deadline == 600.0
    assert found._model is engine._model
    del engine, found
    gc.collect()
    with pytest.raises(ModelFileError, match=r"net\.onnx"):
        pickle.loads(content)


def test_a_file_that_is_another_one_now_is_refused(file: Path):
    engine = camrt.load(file)
    other = bytearray(file.read_bytes())
    other[-1] ^= 1
    file.write_bytes(other)
    with pytest.raises(
        ModelFileError, match=r"net\.onnx' has other contents than when the engine was loaded"
    ):
        elsewhere(engine)


def test_the_embedded_classifier_is_no_path():
    engine = camrt.load("default")
    assert engine.origin is not None
    assert engine.origin.path == "default"
    assert elsewhere(engine).sha256 == engine.sha256


def test_an_unpickled_engine_is_pickled_again(file: Path):
    found = elsewhere(camrt.load(file, preprocessing={"size": (32, 32)}))
    again = pickle.loads(pickle.dumps(found))
    assert again.origin == found.origin
    assert again.preprocessing == found.preprocessing


def test_options_are_those_of_load():
    """One that is added to `camrt.load` goes along, or it is for torch models alone, or lifts no limit."""
    engine = camrt.load("default")
    assert engine.origin is not None
    of_torch = {"size", "example", "compile", "trusted"}
    names = set(load.__wrapped__.__kwdefaults__)  # type: ignore[attr-defined]
    assert set(engine.origin.options) == names - of_torch


def test_copies_share_what_was_made_ready():
    engine = camrt.load("default")
    for made in (copy.copy(engine), copy.deepcopy({"engine": engine})["engine"]):
        assert made is not engine
        assert made._model is engine._model
        made.call_deadline = 1.0
    assert engine.call_deadline == 600.0


def test_another_preprocessing_leaves_the_engine_its_own_and_goes_along(file: Path):
    engine = camrt.load(file)
    before = engine.preprocessing
    assert before is not None
    other = engine.with_preprocessing(replace(before, mean=(0.1, 0.2, 0.3)))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    assert engine.preprocessing == before
    assert np.array_equal(engine.predict(image), camrt.load(file).predict(image))
    assert not np.array_equal(other.predict(image), engine.predict(image))
    for found in (pickle.loads(pickle.dumps(other)), elsewhere(other)):
        assert np.array_equal(found.predict(image), other.predict(image))


def test_an_engine_of_a_torch_module_is_told_how_to_go_elsewhere(tmp_path: Path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    engine = camrt.load(module, size=(8, 8))
    with pytest.raises(
        PickleError, match=r"of Sequential cannot be pickled.* Call camrt\.load in each process"
    ):
        pickle.dumps(engine)
    with pytest.raises(PickleError, match=r"copy the module, and call camrt\.load on that"):
        copy.deepcopy(engine)
    assert copy.copy(engine).num_classes == 4
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    opened = camrt.load(tmp_path / "net.pt2", trusted=True)
    with pytest.raises(PickleError, match=r"of net\.pt2 cannot be pickled: only one .* of an ONNX file"):
        pickle.dumps(opened)
    assert copy.deepcopy(opened).num_classes == 4


def test_explanations_are_pickled_and_copied():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    explanation = camrt.load("default").explain([image, image], "pixab", top_k=2)
    for made in (pickle.loads(pickle.dumps(explanation)), copy.copy(explanation), copy.deepcopy(explanation)):
        assert repr(made) == repr(explanation)
        np.testing.assert_array_equal(made.maps, explanation.maps)
        np.testing.assert_array_equal(made.on_original(1, 1), explanation.on_original(1, 1))
        assert made.overlay(0).tobytes() == explanation.overlay(0).tobytes()
        assert made.label(0, 1) == explanation.label(0, 1)
