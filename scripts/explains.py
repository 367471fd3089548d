"""Whether the camrt that is installed explains: with native kernels, without torch, and from the shell.

python -W error scripts/explains.py

It explains noise, and has `camrt explain` explain the image that comes with the default classifier.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

import camrt
from camrt.default import model_path
from camrt.kernels import IMPLEMENTATION


def main() -> None:
    """Explains twice.

    Raises:
        SystemExit: Something is missing, or not as it should be.
    """
    if Path(camrt.__file__).parents[1] not in map(
        Path, (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    ):
        raise SystemExit(f"{camrt.__file__} is not what was installed")
    engine = camrt.load(model_path())
    shape = (1, 3, engine.interface.height, engine.interface.width)
    maps = engine.explain(np.random.default_rng(0).standard_normal(shape, np.float32), "pixab").maps
    if IMPLEMENTATION != "native" or maps.shape != (1, *shape[2:]) or "torch" in sys.modules:
        raise SystemExit(
            f"{IMPLEMENTATION} kernels, maps {maps.shape}, torch loaded: {'torch' in sys.modules}"
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = shutil.which("camrt", path=sysconfig.get_path("scripts"))
        if command is None:
            raise SystemExit("the command camrt was not installed")
        subprocess.run([command, "explain", "--out", str(out)], check=True)
        if not list(out.rglob("*.png")):
            raise SystemExit("camrt explain has written no image")
    print("camrt", camrt.__version__, "explains with", IMPLEMENTATION, "kernels and without torch")


if __name__ == "__main__":
    main()
