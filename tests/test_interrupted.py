"""Ctrl-C ends what runs at once, whatever the runtime is at: a library's caller, and the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LONGEST = 20.0  # seconds on a busy machine; on an idle one it takes a tenth of one
CALLS = {
    "loading a file that does not end": """
        path = hostile.endless_loop(folder / "model.onnx")
        print("begins", flush=True)
        camrt.load(path)
    """,
    "explaining by a loop that does not end": """
        engine = camrt.load(hostile.endless_loop(folder / "model.onnx", above=1e6))
        print("begins", flush=True)
        engine.explain(np.full((1, 3, 8, 8), 1e7, np.float32))
    """,
    "predicting by one operator that takes a minute": """
        model = hostile.long_operator(folder / "model.onnx")
        engine = camrt.load(model, target="active", verify=False, threads=1)
        print("begins", flush=True)
        engine.predict(np.ones((1, 3, 8, 8), np.float32))
    """,
    "explaining by many passes": """
        engine = camrt.load("default")
        size = (64, 3, engine.interface.height, engine.interface.width)
        batch = np.random.default_rng(0).standard_normal(size, np.float32)
        print("begins", flush=True)
        while True:
            engine.explain(batch, "score")
    """,
}
START = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import camrt, numpy as np
from helpers import hostile_models as hostile
folder = pathlib.Path({folder!r})
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and errors after Ctrl-C, which must end it soon."""
    time.sleep(0.5)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert time.monotonic() - begun < LONGEST
    return process.returncode, errors


def test_a_process_ends_though_an_operator_still_runs(tmp_path: Path) -> None:
    """The deadline is met, the caller goes on, and nothing at its end waits for what was left."""
    text = f"""{START.format(tests=str(Path(__file__).parent), folder=str(tmp_path))}
model = hostile.long_operator(folder / "model.onnx")
engine = camrt.load(model, target="active", verify=False, threads=1, call_deadline=0.5)
try:
    engine.predict(np.ones((1, 3, 8, 8), np.float32))
except camrt.errors.DeadlineError:
    print("late", flush=True)
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "late\n", "")
    assert time.monotonic() - begun < LONGEST


@pytest.mark.parametrize("call", CALLS)
def test_a_call_ends_at_ctrl_c(call: str, tmp_path: Path) -> None:
    lines = CALLS[call].strip("\n").splitlines()
    text = START.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    text += "\n".join(line.removeprefix("        ") for line in lines)
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    code, errors = interrupted(process)
    assert code == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_command_ends_at_ctrl_c_and_says_how_to_go_on(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(300):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{number:03}.png")
    line = [sys.executable, "-m", "camrt", "explain", "default", images, "-m", "score", "--batch-size", "4"]
    process = subprocess.Popen(
        [*map(str, line), "-o", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert "class" in first
    code, errors = interrupted(process)
    assert code == 130
    last = errors.strip().splitlines()[-1]  # before it, perhaps how long it takes
    assert last == "stopped; what was written is whole, the same command with --resume goes on"
    assert list((tmp_path / "out").glob("000*.png"))
