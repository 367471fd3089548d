"""The package as a whole: what importing it costs, and what its parts say of each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import files
from pathlib import Path

import pytest

import camrt

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "PIL", "rich")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
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
short = {"passes": 2}, {"draws": 2}
few = {"rise": short[0], "lime": short[0], "kernelshap": short[0], "sscam": short[1], "iscam": short[1]}
for method in camrt.methods():
    plain = method.removeprefix("guided-")
    if plain in ("deeplift", "lrp", "lift", "relevance", "rollout", "legrad", "vit-recipro"):
        continue  # of logits, which a CALM model has not, and of transformers
    if plain not in ("aise", "cam" if engine.has_joint else "calm"):  # AISE needs SciPy
        engine.explain(batch, method, **few.get(plain, {}))
print([name for name in sys.modules if name.split(".")[0] in ("torch", "torchvision", "matplotlib", "scipy")])
"""
    assert run(code) == "[]"


def test_a_gpu_without_torch_names_the_extra():
    code = """
import sys
sys.modules["torch"] = None
import camrt, camrt.engine.runtime as runtime
from camrt.default import model_path
runtime.list_cuda_devices = tuple
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


def test_experiments_are_no_part_of_the_wheel():
    project = ROOT / "pyproject.toml"
    if not project.exists():
        pytest.skip("the tests are not beside the project's own files")
    packages = tomllib.loads(project.read_text())["tool"]["scikit-build"]["wheel"]["packages"]
    assert {name.split("/")[0] for name in packages} == {"camrt"}
    assert "experiments" not in packages.values()
    sources = [path for folder in packages.values() for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 300
    importing = re.compile(r"^\s*(from|import) (experiments|helpers|tests)\b", re.MULTILINE)
    assert [path for path in sources if importing.search(path.read_text("utf-8"))] == []
    assert [file for file in files("camrt") or () if "experiments" in file.parts] == []


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No camrt attribute explain"):
        camrt.explain  # noqa: B018 - looking it up is what fails


PARTS = (
    "default.model_path",
    "engine",
    "evaluation.datasets.read_dataset",
    "evaluation.pxap",
    "evaluation.dead_zone",
    "evaluation.metrics.pointing_game",
    "evaluation.papers.TABLE_TASKS",
    "export",
    "kernels.IMPLEMENTATION",
    "load",
    "training",
)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_at_hand_without_an_import_of_its_own(part):
    code = f"import sys, camrt; camrt.{part}; print('torch' in sys.modules)"
    assert run(code) == "False"


def test_what_needs_torch_is_at_hand_too():
    pytest.importorskip("torch", reason="to_onnx and with_head need torch")
    assert run("import camrt; print(callable(camrt.to_onnx), callable(camrt.training.with_head))") == (
        "True True"
    )


def test_dir_lists_the_front_door():
    parts = {part.partition(".")[0] for part in PARTS}
    assert {"load", "Engine", "methods", "Explanation", "Preprocessing"} | parts <= set(dir(camrt))


def test_every_public_name_of_a_lazy_package_is_there():
    """What `__all__` promises and what is looked up lazily are two lists: they must not part."""
    for name in ("camrt", "camrt.evaluation", "camrt.evaluation.metrics", "camrt.evaluation.papers"):
        package = import_module(name)
        assert set(package.__all__) - {"__version__"} <= set(dir(package))
        for member in package.__all__:
            getattr(package, member)


def test_every_error_is_a_camrt_error_and_a_builtin_one():
    from camrt import errors

    builtin = (ValueError, TypeError, RuntimeError, MemoryError, OSError)
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, Warning):
            assert issubclass(kind, errors.CamrtWarning)
        elif kind is not errors.CamrtError:
            assert issubclass(kind, errors.CamrtError)
            # A late call must not be taken for a file that cannot be read, see its docstring.
            assert issubclass(kind, builtin) == (kind is not errors.DeadlineError)


def test_the_command_line_imports_nothing_heavy():
    assert (
        run(f"import camrt.cli.main, sys; print([name for name in {HEAVY} if name in sys.modules])") == "[]"
    )
