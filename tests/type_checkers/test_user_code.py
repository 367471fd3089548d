"""What users write has the types they expect, and what they misspell is an error: by mypy and by pyright."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import camrt

CODE = Path(__file__).with_name("user_code.py")
ROOMS = ("engine", "evaluation", "export", "kernels", "training")
CACHE = Path(__file__).parents[2] / ".mypy_cache"  # of torch's types, which take mypy longest

pytest.importorskip("torch", reason="the user's code is about tensors too")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the user's code and, unless the package is installed in one piece, with its pieces."""
    made = tmp_path_factory.mktemp("user")
    shutil.copy(CODE, made)
    package = Path(camrt.__file__).parent
    if not (package / "engine").exists():  # an editable installation is put together by an import hook
        (made / "camrt").mkdir()
        for room in ROOMS:
            source = import_module(f"camrt.{room}").__file__
            (made / "camrt" / room).symlink_to(Path(source).parent, target_is_directory=True)
        for part in package.iterdir():
            if part.name not in ROOMS:
                (made / "camrt" / part.name).symlink_to(part)
    return made


def check(command, folder):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy(folder):
    pytest.importorskip("mypy", reason="mypy is not installed: pip install 'camrt[dev]'")
    options = ["--config-file=", "--strict", "--follow-imports=silent", "--cache-dir", str(CACHE)]
    check(["mypy", *options, CODE.name], folder)


def test_pyright(folder):
    pytest.importorskip("pyright", reason="pyright is not installed: pip install 'camrt[dev]'")
    if shutil.which("node") is None and os.environ.get("CAMRT_REGISTRY") != "1":
        pytest.skip("pyright needs Node.js, and would download it, which CAMRT_REGISTRY=1 allows")
    settings = {
        "include": [CODE.name],
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    check(["pyright", "--pythonpath", sys.executable], folder)
