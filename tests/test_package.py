"""The package as a whole: what importing it costs, and what its parts say of each other."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import camrt

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "PIL", "rich")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout.strip()


def test_importing_camrt_imports_nothing_heavy():
    assert run(f"import sys, camrt; print([m for m in {HEAVY!r} if m in sys.modules])") == "[]"


def test_explaining_an_onnx_file_imports_no_torch():
    code = """
import sys, camrt, numpy as np
from camrt.default import model_path
engine = camrt.load(model_path())
shape = (1, 3, engine.interface.height, engine.interface.width)
batch = np.random.default_rng(0).standard_normal(shape, np.float32)
for method in camrt.methods():
    if method != ("cam" if engine.head.has_joint else "calm"):
        engine.explain(batch, method)
print([name for name in sys.modules if name.split(".")[0] in ("torch", "torchvision", "matplotlib", "scipy")])
"""
    assert run(code) == "[]"


def test_a_gpu_without_torch_names_the_extra():
    code = """
import sys
sys.modules["torch"] = None
import camrt, camrt.engine.backends as backends
from camrt.default import model_path
backends.cards = tuple
try:
    camrt.load(model_path(), device="cuda")
except camrt.errors.BackendError as error:
    print(error)
"""
    wanted = "on a GPU camrt works with torch's tensors, and torch is missing: pip install 'camrt[gpu]'"
    assert run(code) == wanted


def test_the_version_is_said_once():
    project = ROOT / "pyproject.toml"
    if not project.exists():
        pytest.skip("the tests are not beside the project's own files")
    assert tomllib.loads(project.read_text())["project"]["version"] == camrt.__version__


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'explain'"):
        camrt.explain  # noqa: B018 - looking it up is what fails


def test_export_is_at_hand_without_an_import_of_its_own():
    assert run("import camrt; print(callable(camrt.export.to_onnx))") == "True"


def test_dir_lists_the_front_door():
    assert {"load", "Engine", "methods", "Explanation", "Preprocessing"} <= set(dir(camrt))


def test_every_error_is_a_camrt_error_and_a_builtin_one():
    from camrt import errors

    builtin = (ValueError, TimeoutError, RuntimeError)
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, Warning):
            assert issubclass(kind, errors.CamrtWarning)
        elif kind is not errors.CamrtError:
            assert issubclass(kind, errors.CamrtError)
            assert issubclass(kind, builtin)


def test_the_command_line_imports_nothing_heavy():
    assert run(f"import camrt.cli, sys; print([name for name in {HEAVY} if name in sys.modules])") == "[]"
