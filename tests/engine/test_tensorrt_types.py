"""What is called of TensorRT is there, and is called as it wants, by types made of the installed bindings."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import camrt.engine
import camrt.export
import camrt.kernels

bindings = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="TensorRT for RTX is missing: pip install 'camrt[dev]'"
)
pytest.importorskip("torch")
pytest.importorskip("mypy", reason="mypy is missing: pip install 'camrt[dev]'")

CHECKED = ("runtime/trt.py", "tensorrt_plans/bindings.py", "tensorrt_plans/build.py")

# What signatures do not say, and what they say wrongly: (pattern, what takes its place).
CORRECTIONS = (
    (r"^bool: DataType\n", ""),  # or every bool would be this one
    (r"(channel_axis: typing\.SupportsInt)\) -> IScaleLayer", r"\1 = ...) -> IScaleLayer"),  # is no Python
    (r"def get_error\(self, \*args, \*\*kwargs\): ", "def get_error(self, index: int) -> ParserError: "),
    (
        r"min: Dims, opt: Dims, max: Dims",
        ", ".join(f"{name}: Dims | tuple" for name in ("min", "opt", "max")),
    ),
    (r"^(class Dims:\n)", r"\1    def __iter__(self) -> typing.Iterator[int]: ...\n"),
    (r"^(class IHostMemory:\n)", r"\1    def __buffer__(self, flags: int, /) -> memoryview: ...\n"),
    (r"(def deserialize_cuda_engine\(.*\) -> ICudaEngine): ", r"\1 | None: "),
    (r"(def create_execution_context\(.*\) -> IExecutionContext): ", r"\1 | None: "),
    (r"(def build_serialized_network\(.*\) -> IHostMemory): ", r"\1 | None: "),
)

# The stubs themselves are not checked: most of their types have no parameters.
CONFIGURATION = """
[mypy]
strict = true
warn_unreachable = true
[mypy-tensorrt_rtx_bindings.*]
ignore_errors = true
[mypy-camrt.*]
follow_imports = silent
"""


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Runs mypy, with types of the bindings; gives its exit status and what it says."""
    folder = tmp_path_factory.mktemp("types")
    stubgen = "import sys; from mypy.stubgen import main; main(sys.argv[1:])"
    subprocess.run(
        [sys.executable, "-c", stubgen, "--inspect-mode", "-p", bindings.__name__, "-o", "stubs"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    stub = folder / "stubs" / bindings.__name__ / "tensorrt_rtx.pyi"
    text = stub.read_text()
    for pattern, instead in CORRECTIONS:
        text, count = re.subn(pattern, instead, text, flags=re.MULTILINE)
        assert count, f"nothing is left to correct by {pattern!r}"
    stub.write_text(text)
    (folder / "mypy.ini").write_text(CONFIGURATION)
    # The rooms of an editable install lie in folders where mypy does not look for them.
    package = folder / "stubs" / "camrt"
    package.mkdir()
    rooms = [Path(one.__file__).parent for one in (camrt.engine, camrt.export, camrt.kernels)]
    for part in {one.name: one for one in (*Path(camrt.__file__).parent.iterdir(), *rooms)}.values():
        (package / part.name).symlink_to(part)

    def run(*words):
        ran = subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", *map(str, words)],
            cwd=folder, env=os.environ | {"MYPYPATH": "stubs"}, capture_output=True, text=True,
        )  # fmt: skip
        return SimpleNamespace(status=ran.returncode, said=ran.stdout + ran.stderr)

    return run


def source(name):
    return (Path(camrt.engine.__file__).parent / name).read_text()


# What is put in place of what is there, and what mypy says of it.
MISTAKES = (
    ("runtime/trt.py", "set_tensor_address(", "set_tensor_adress(", "set_tensor_adress"),
    ("runtime/trt.py", "(self._stream.cuda_stream)", "()", "stream_handle"),
    ("runtime/trt.py", "trt.DataType.HALF", "trt.DataType.FP16", "FP16"),
    ("runtime/trt.py", "trt.module.Runtime(self._logger)", "trt.module.Runtime()", "logger"),
    ("tensorrt_plans/build.py", "network.num_inputs", "network.number_inputs", "number_inputs"),
    ("tensorrt_plans/build.py", "get_error(number).desc()", "get_error(number).describe()", "describe"),
    ("tensorrt_plans/build.py", "trt.ILogger.Severity.ERROR", "trt.ILogger.Level.ERROR", "Level"),
    ("tensorrt_plans/bindings.py", "_bindings.OnnxParser]", "_bindings.Parser]", "Parser"),
)  # fmt: skip


def test_every_call_fits_the_bindings_and_mistakes_do_not(mypy, tmp_path):
    """One test, since both runs of mypy read torch: the second finds what the first has kept of it."""
    words = [f"--module=camrt.engine.{name.removesuffix('.py').replace('/', '.')}" for name in CHECKED]
    ran = mypy(*words)
    assert ran.status == 0, ran.said
    assert f"no issues found in {len(CHECKED)} source files" in ran.said
    for number, (name, right, wrong, _) in enumerate(MISTAKES):
        text = source(name)
        assert right in text, f"{name} has no {right!r}"
        (tmp_path / f"mistaken_{number}.py").write_text(text.replace(right, wrong))
    ran = mypy(*sorted(tmp_path.glob("*.py")))
    for number, (_, _, wrong, named) in enumerate(MISTAKES):
        said = [line for line in ran.said.splitlines() if f"mistaken_{number}.py" in line and "error" in line]
        assert any(named in line for line in said), f"{wrong!r} was not found:\n{ran.said}"
