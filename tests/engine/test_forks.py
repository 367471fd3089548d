"""An engine, and what reads pictures, in processes that were forked from one that has used them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camrt.engine import pictures as reading
from camrt.engine.pictures import read_picture
from camrt.kernels.forks import renewed_in_children

FORKED = """
import os, sys, threading, time
import numpy as np
from PIL import Image
import camrt
from camrt.engine.pictures import read_picture

folder = sys.argv[1]
engine = camrt.load("default")
batch = np.random.default_rng(0).uniform(size=engine.interface.probe_shape(4, (64, 64))).astype(np.float32)
expected = engine.predict(batch), engine.explain(batch, "pixab").maps
ending = threading.Event()

def decode():
    while not ending.is_set():
        read_picture(f"{folder}/large.png")

threading.Thread(target=decode).start()
time.sleep(0.2)
children = []
for _ in range(12):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            read_picture(f"{folder}/small.png")
            logits, maps = engine.predict(batch), engine.explain(batch, "pixab").maps
            engine.explain(batch, "gradcam")  # whose graph is made ready here
            code = 0 if np.allclose(logits, expected[0]) and np.allclose(maps, expected[1]) else 2
        finally:
            os._exit(code)
    children.append(child)
ending.set()
until, codes = time.monotonic() + 100, {}
while len(codes) < len(children) and time.monotonic() < until:
    for child in set(children) - set(codes):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            codes[child] = os.waitstatus_to_exitcode(status)
    time.sleep(0.05)
for child in set(children) - set(codes):
    os.kill(child, 9)
    codes[child] = "hung"
print(sorted(map(str, codes.values())))
"""

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def noisy(path: Path, side: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@forking
def test_children_of_a_process_that_has_used_an_engine_decode_and_explain(tmp_path: Path):
    noisy(tmp_path / "large.png", 1500)
    noisy(tmp_path / "small.png", 20)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.strip() == str(["0"] * 12), done.stderr[-2000:]


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
def test_what_was_locked_elsewhere_is_not_in_a_child():
    class Thing:
        def __init__(self) -> None:
            self.renew()

        def renew(self) -> None:
            self.lock = threading.Lock()

    thing = Thing()
    renewed_in_children(thing)
    held, ending = threading.Event(), threading.Event()

    def hold() -> None:
        with thing.lock:
            held.set()
            ending.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        child = os.fork()
    if child == 0:
        os._exit(0 if thing.lock.acquire(timeout=5) else 1)
    ending.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_pictures_are_decoded_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One whose decoding does not end keeps no other waiting."""
    path = noisy(tmp_path / "small.png", 20)
    begun, ending = threading.Event(), threading.Event()
    decode = reading._rgb

    def slow(picture: Image.Image) -> tuple[Image.Image, str | None]:
        if picture.size == (7, 7):
            begun.set()
            ending.wait(60)
        return decode(picture)

    monkeypatch.setattr(reading, "_rgb", slow)
    thread = threading.Thread(target=read_picture, args=(noisy(tmp_path / "slow.png", 7),))
    thread.start()
    try:
        assert begun.wait(60)
        started = time.monotonic()
        read_picture(path)
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
        with Image.open(path) as picture:
            picture.getexif()
        assert len(given) == 1
        read_picture(path)
        assert len(given) == 1
        warnings.warn("mine", UserWarning, stacklevel=1)
        assert len(given) == 2
    assert warnings.filters == before
