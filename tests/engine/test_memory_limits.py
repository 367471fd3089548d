"""Small files that ask for gigabytes get an error, or an answer, within the memory that a call may take."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helpers.hostile_models import LARGE

LIMIT = 256 << 20
# Beside the limit: what is freed and not given back, and libraries that are imported on the way.
BESIDE = 200 << 20
METHODS = ("gradcam", "pixab", "opticam", "smoothgrad")
ENDS = {"answered", "DeadlineError", "MemoryLimitError", "UnsafeModelError"}
SCRIPT = """
import json, resource, sys, warnings
import numpy as np
import onnx.reference
import camrt
from camrt.errors import CamrtError

def attempt(call):
    try:
        return call(), "answered"
    except CamrtError as error:
        return None, type(error).__name__

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

limit, methods = int(sys.argv[1]), sys.argv[3].split(",")
warnings.simplefilter("ignore")
camrt.load("default").explain(np.zeros((1, 3, 128, 128), np.float32), "opticam", steps=1)
before = peak()
engine, how = attempt(lambda: camrt.load(sys.argv[2], max_memory=limit, load_deadline=30, call_deadline=10))
found = {"load": how}
if engine is not None:
    wanted = engine.interface
    shape = (2, wanted.channels, wanted.height or 16, wanted.width or 16)
    batch = np.random.default_rng(0).standard_normal(shape, np.float32)
    for method in methods:
        options = {"opticam": {"steps": 2}, "smoothgrad": {"draws": 2}}.get(method, {})
        found[method] = attempt(lambda: engine.explain(batch, method, **options))[1]
print(json.dumps({"found": found, "grown": peak() - before}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are in other units elsewhere")
@pytest.mark.parametrize("name", LARGE)
def test_a_file_gets_no_more_than_it_may(name, tmp_path):
    path = LARGE[name](tmp_path / "model.onnx")
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(LIMIT), str(path), ",".join(METHODS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout.splitlines()[-1])
    assert set(answer["found"].values()) <= ENDS, answer
    assert answer["grown"] < LIMIT + BESIDE, answer
