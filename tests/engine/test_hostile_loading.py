"""Hostile and broken files through the front door: refused or stopped in time, the process unharmed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import camrt
from camrt.errors import (
    BackendError,
    CutError,
    DeadlineError,
    InputError,
    ModelFileError,
    UnsafeModelError,
    UnsupportedModelError,
)
from helpers import hostile_models

REFUSED = [
    (hostile_models.not_onnx_png, ModelFileError, "PNG"),
    (hostile_models.truncated, ModelFileError, "cut short"),
    (hostile_models.external_missing, ModelFileError, "weights.bin"),
    (hostile_models.external_parent, UnsafeModelError, r"\.\."),
    (hostile_models.external_absolute, UnsafeModelError, "absolute"),
    (hostile_models.external_symlink, UnsafeModelError, "symbolic link"),
    (hostile_models.external_symlinked_folder, UnsafeModelError, "symbolic link"),
    (hostile_models.external_hardlink, UnsafeModelError, "hard link"),
    (hostile_models.external_fifo, UnsafeModelError, "regular file"),
    (hostile_models.nested_functions, UnsafeModelError, "function"),
    (hostile_models.recursive_function, UnsafeModelError, "itself"),
    (hostile_models.terabyte_constant, UnsafeModelError, "TiB|TB|bytes|GiB"),
    (hostile_models.terabyte_initializer, UnsafeModelError, "TiB|TB|bytes|GiB"),
    (hostile_models.several_inputs, UnsupportedModelError, "exactly one input"),
    (hostile_models.bad_output_shape, UnsupportedModelError, r"output is \(N, C\)"),
    (hostile_models.no_spatial_tensor, CutError, "two spatial axes"),
    (hostile_models.custom_operator, UnsupportedModelError, "operator"),
]


@pytest.mark.parametrize(("make", "error", "text"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_hostile_or_broken_file_is_refused_quickly(make, error, text, tmp_path: Path):
    path = make(tmp_path / "model.onnx")
    started = time.perf_counter()
    with pytest.raises(error, match=text):
        camrt.load(path)
    assert time.perf_counter() - started < 20


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"absent\.onnx"):
        camrt.load(tmp_path / "absent.onnx")


def test_external_data_beside_the_file_is_read(tmp_path: Path):
    engine = camrt.load(hostile_models.external_valid(tmp_path / "model.onnx"))
    assert engine.predict(images(engine, 2)).shape == (2, engine.num_classes)


def test_an_endless_loop_is_stopped_while_it_is_loaded(tmp_path: Path):
    started = time.perf_counter()
    with pytest.raises(DeadlineError, match="loading was stopped after its deadline of 1 s; load_deadline="):
        camrt.load(hostile_models.endless_loop(tmp_path / "model.onnx"), load_deadline=1.0)
    assert time.perf_counter() - started < 20


def test_an_endless_loop_is_stopped_at_the_deadline_of_a_call_and_the_engine_lives_on(tmp_path: Path):
    engine = camrt.load(hostile_models.endless_loop(tmp_path / "model.onnx", above=1e6), call_deadline=1.0)
    batch = 1e7 * images(engine, 1)
    for _ in range(2):
        started = time.perf_counter()
        with pytest.raises(DeadlineError, match="predicting was stopped after its deadline of 1 s; call_"):
            engine.predict(batch)
        assert time.perf_counter() - started < 20
    healthy = camrt.load(hostile_models.classifier(tmp_path / "healthy.onnx"))
    assert np.isfinite(healthy.predict(images(healthy, 1))).all()


def test_an_operator_that_has_begun_is_left_at_the_deadline(tmp_path: Path):
    with pytest.raises(DeadlineError, match="loading was stopped"):
        camrt.load(hostile_models.huge_padding(tmp_path / "model.onnx", pixels=10**8), load_deadline=0.3)
    healthy = camrt.load(hostile_models.classifier(tmp_path / "healthy.onnx"))
    assert np.isfinite(healthy.predict(images(healthy, 1))).all()


def test_deadlines_of_two_threads_do_not_mix(tmp_path: Path):
    endless = camrt.load(hostile_models.endless_loop(tmp_path / "endless.onnx", above=1e6), call_deadline=1.5)
    healthy = camrt.load(hostile_models.classifier(tmp_path / "healthy.onnx"), call_deadline=60.0)
    stopped: list[Exception] = []

    def run_endless() -> None:
        try:
            endless.predict(1e7 * images(endless, 1))
        except DeadlineError as error:
            stopped.append(error)

    thread = threading.Thread(target=run_endless)
    thread.start()
    count = 0
    while thread.is_alive() and count < 100_000:
        healthy.predict(images(healthy, 1))
        count += 1
    thread.join()
    assert len(stopped) == 1
    assert count > 0


def test_loading_is_stopped_at_the_load_deadline(tmp_path: Path):
    with pytest.raises(DeadlineError, match="deadline of 1e-09 s"):
        camrt.load(hostile_models.classifier(tmp_path / "model.onnx"), load_deadline=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"backend": "tensorflow"}, BackendError, "unknown backend 'tensorflow'"),
        ({"device": "gpu"}, BackendError, "device='gpu' must be 'cpu', 'cuda' or 'cuda:N'"),
        ({"batch_size": 0}, InputError, "batch_size=0"),
        ({"batch_size": True}, InputError, "batch_size=True"),
        ({"threads": 0}, InputError, "threads=0"),
        ({"activation": "relu"}, InputError, "activation='relu'"),
        ({"labels": ["one"]}, InputError, "1 labels were given for a model with 4 classes"),
        ({"labels": "absent.txt"}, InputError, r"absent\.txt"),
        ({"preprocessing": "imagenett"}, InputError, "unknown name 'imagenett'"),
        ({"target": "nowhere"}, CutError, "'nowhere' was not found in the graph"),
        ({"output": "nowhere"}, UnsupportedModelError, "no output 'nowhere'"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_named(options, error, text, tmp_path: Path):
    path = hostile_models.classifier(tmp_path / "model.onnx")
    with pytest.raises(error, match=text):
        camrt.load(path, **options)


def images(engine: camrt.Engine, count: int) -> np.ndarray:
    interface = engine.interface
    shape = (count, interface.channels, interface.height or 8, interface.width or 8)
    return np.random.default_rng(0).standard_normal(shape, np.float32)
