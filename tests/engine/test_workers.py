"""An engine in the workers of torch's DataLoader and of multiprocessing, started by fork and by spawn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

WORKERS = """
import sys
from multiprocessing import get_context

import numpy as np

import camrt

SECONDS = 200


class Maps:
    "A data set that holds an engine."

    def __init__(self, engine, images):
        self.engine, self.images = engine, images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        image = self.images[number : number + 1]
        maps = [self.engine.explain(image, method).maps[0] for method in ("pixab", "gradcam")]
        return [self.engine.predict(image)[0], *maps]


def check(found, wanted):
    for one, known in zip(found, wanted, strict=True):
        for values, right in zip(one, known, strict=True):
            np.testing.assert_allclose(values, right, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    from torch.utils.data import DataLoader

    engine = camrt.load("default", threads=2)
    images = np.random.default_rng(0).uniform(size=engine.interface.probe_shape(4, (32, 32)))
    data = Maps(engine, images.astype(np.float32))
    wanted = [data[number] for number in range(4)]
    for way in sys.argv[1:]:
        workers = {"fork": 2, "spawn": 1}[way]
        loader = DataLoader(
            data, batch_size=None, num_workers=workers, multiprocessing_context=way, timeout=SECONDS
        )
        check(loader, wanted)
    if "fork" in sys.argv:
        with get_context("fork").Pool(2) as pool:  # pickled, and the workers have it already
            check(pool.map_async(data.__getitem__, range(4)).get(SECONDS), wanted)
    print("right")
"""


def test_workers_answer_as_their_parent(tmp_path: Path):
    """None waits for ever: the loader and the pool have a limit of their own, which they tell."""
    pytest.importorskip("torch")
    (tmp_path / "workers.py").write_text(WORKERS)
    ways = ["fork", "spawn"] if hasattr(os, "fork") else ["spawn"]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(tmp_path / "workers.py"), *ways],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, told = process.communicate(timeout=280)
        finally:  # its workers with it
            if sys.platform == "win32":
                process.kill()
            else:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    assert printed.strip() == "right", told[-2000:]
