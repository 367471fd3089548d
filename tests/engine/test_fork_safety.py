"""An engine, and what reads images, in processes that were forked from one that has used them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from camrt.engine import device
from camrt.engine.images import read as reading
from camrt.engine.images.read import read_image
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.errors import BackendError
from camrt.kernels.fork_safety import renew_after_fork

WAITING = """
import os, time

def ended(children, seconds):
    "How each child ended; those that have not by then are killed."
    until, found = time.monotonic() + seconds, {}
    while len(found) < len(children) and time.monotonic() < until:
        for child in set(children) - set(found):
            number, status = os.waitpid(child, os.WNOHANG)
            if number:
                found[child] = str(os.waitstatus_to_exitcode(status))
        time.sleep(0.02)
    for child in set(children) - set(found):
        os.kill(child, 9)
        os.waitpid(child, 0)
        found[child] = "hung"
    return sorted(found.values())
"""
UNSAID = ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL")
"""Where ONNX Runtime sees that it shall tell nobody of models, or is being tested."""
LIMIT = 240  # seconds, of a busy machine

FORKED = """
import sys, threading
import numpy as np
import camrt
from camrt.engine.images.read import read_image

folder = sys.argv[1]
engine = camrt.load("default")
batch = np.random.default_rng(0).uniform(size=engine.interface.probe_shape(4, (64, 64))).astype(np.float32)
expected = engine.predict(batch)
ending = threading.Event()

def decode():
    while not ending.is_set():
        read_image(f"{folder}/large.png")

threading.Thread(target=decode).start()
time.sleep(0.2)
children = []
for _ in range(12):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            read_image(f"{folder}/small.png")
            code = 0 if np.allclose(engine.predict(batch), expected) else 2
        finally:
            os._exit(code)
    children.append(child)
ending.set()
print(ended(children, LIMIT))
"""

FORKED_ENGINES = """
import gc, sys, threading
import numpy as np
import camrt

METHODS = ("pixab", "gradcam", "ablation")

def answers(engine):
    maps = [engine.explain(batch, method).maps for method in METHODS]
    return [engine.predict(batch), *maps]

engines = [camrt.load("default", threads=threads) for threads in (1, 4, None)]
shape = engines[0].interface.probe_shape(5, (32, 32))
batch = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
expected = [answers(engine) for engine in engines[:2]]
expected.append(expected[0])  # and the last has made nothing ready that is made when it is needed
ending = threading.Event()

def predict():
    while not ending.is_set():
        engines[0].predict(batch)

busy = threading.Thread(target=predict)
busy.start()
children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        for engine, wanted in zip(engines, expected):
            for found, known in zip(answers(engine), wanted):
                np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-5)
        if number % 2:  # the others are freed by Python at its end
            del engines, engine
            gc.collect()
        sys.exit(7)
    children.append(child)
ending.set()
busy.join()
print(ended(children, LIMIT))
"""

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def noisy(path: Path, side: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def check(code: str, wanted: str, *arguments: str, **environment: str) -> None:
    """Compares the last line that a program prints; it runs without what this process and a CI have set."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSAID}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"LIMIT = {LIMIT}\n{WAITING}{code}", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT + 40,
        check=False,
        env={**kept, **environment},
    )
    assert done.stdout.strip().splitlines()[-1:] == [wanted], done.stderr[-2000:]


def holds_in_a_child(question: Callable[[], bool]) -> bool:
    """What a question is answered with in a child, which is killed where it does not end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if question() else 1
        finally:
            os._exit(code)
    until, number = time.monotonic() + LIMIT, 0
    while not number and time.monotonic() < until:
        number, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not number:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child does not end")
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1)
    return code == 0


@forking
def test_children_of_a_process_that_has_used_an_engine_decode_and_predict(tmp_path: Path):
    noisy(tmp_path / "large.png", 1500)
    noisy(tmp_path / "small.png", 20)
    check(FORKED, str(["0"] * 12), str(tmp_path))


@forking
def test_children_answer_as_their_parent_and_end_whatever_threads_its_engines_have():
    """A child that frees a session with threads hangs or crashes, and one that ends frees all."""
    check(FORKED_ENGINES, str(["7"] * 4))


def test_onnxruntime_tells_nobody_of_models():
    code = """
import camrt, onnxruntime
tasks = "/proc/self/task"
print(os.environ["ORT_DISABLE_TELEMETRY"], len(os.listdir(tasks)) if os.path.isdir(tasks) else 1)
"""
    check(code, "1 1", OPENBLAS_NUM_THREADS="1")


FORKED_TORCH = """
import os, sys
import torch
import camrt

torch.set_num_threads(2)
module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 5, 3),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(5, 4),
).eval()
engine = camrt.load(module, size=(16, 16))
batch = torch.zeros(1, 3, 16, 16)
child = os.fork()
if child == 0:
    try:
        engine.predict(batch)
        os._exit(1)
    except camrt.errors.BackendError as error:
        if "torch.set_num_threads(1)" not in str(error):
            os._exit(2)
    torch.set_num_threads(1)
    engine.predict(batch)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@forking
def test_torch_is_refused_in_a_child_until_it_knows_that_its_threads_are_gone():
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED_TORCH],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.strip() == "0", done.stderr[-2000:]


@forking
def test_an_engine_on_a_card_says_that_cuda_does_not_survive_a_fork(monkeypatch: pytest.MonkeyPatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(device, "find_spec", lambda _: object())
    place = device.TorchDevice(torch.device("cuda"))

    def refused() -> bool:
        try:
            place.put(np.zeros(1))
        except BackendError as error:
            return "start processes by spawn instead of fork" in str(error)
        return False

    assert holds_in_a_child(refused)


@forking
def test_a_child_shares_sessions_without_threads_and_runs_no_others():
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "nothing",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    single, several = (OnnxRuntime(threads=count).make_runner(model, label="nothing") for count in (1, 2))
    before = single._ready(), several._ready()

    def right() -> bool:
        (found,) = several(np.ones(3, np.float32))
        return (
            single._ready() is before[0]
            and several._ready() is not before[1]
            and several._ready().session.get_session_options().intra_op_num_threads == 1
            and found.tolist() == [1, 1, 1]
        )

    assert holds_in_a_child(right)
    assert several._ready() is before[1]


@forking
def test_what_was_locked_elsewhere_is_not_in_a_child():
    class Thing:
        def __init__(self) -> None:
            self.renew()

        def renew(self) -> None:
            self.lock = threading.Lock()

    thing = Thing()
    renew_after_fork(thing)
    held, ending = threading.Event(), threading.Event()

    def hold() -> None:
        with thing.lock:
            held.set()
            ending.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    held_there = holds_in_a_child(lambda: not thing.lock.acquire(timeout=5))
    ending.set()
    thread.join()
    assert not held_there


def test_images_are_decoded_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One whose decoding does not end keeps no other waiting."""
    path = noisy(tmp_path / "small.png", 20)
    begun, ending = threading.Event(), threading.Event()
    decode = reading._rgb

    def slow(image: Image.Image) -> tuple[Image.Image, str | None]:
        if image.size == (7, 7):
            begun.set()
            ending.wait(60)
        return decode(image)

    monkeypatch.setattr(reading, "_rgb", slow)
    thread = threading.Thread(target=read_image, args=(noisy(tmp_path / "slow.png", 7),))
    thread.start()
    try:
        assert begun.wait(60)
        started = time.monotonic()
        read_image(path)
        assert time.monotonic() - started < 30
        assert not ending.is_set()
    finally:
        ending.set()
        thread.join()


def test_pillow_is_silent_and_nobody_else(tmp_path: Path):
    """Pillow warns of a damaged EXIF block."""
    path = tmp_path / "damaged.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        with Image.open(path) as image:
            image.getexif()
        assert len(given) == 1
        read_image(path)
        assert len(given) == 1
        warnings.warn("mine", UserWarning, stacklevel=1)
        assert len(given) == 2
    assert warnings.filters == before
