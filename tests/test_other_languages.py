"""Files with maps, run from other languages by the programs that docs/serving_files.md shows."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from helpers.annotated_images import COLOURS, colour_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "serving_files.md"
NODE_PACKAGE = "onnxruntime-node@1.30.0"
SECONDS = 120
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the tests are not beside docs/serving_files.md")


def program(language: str, words: str = "") -> str:
    """The page's program in a language, with some words in it."""
    tokens = MarkdownIt().parse(PAGE.read_text("utf-8"))
    (found,) = [
        token.content
        for token in tokens
        if token.type == "fence" and token.info == language and words in token.content
    ]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the programs find the file, which takes 224×224 pixels, and a prepared image."""
    folder = tmp_path_factory.mktemp("languages")
    colour_model(folder / "resnet50.onnx")
    model = onnx.load(folder / "resnet50.onnx")
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = 224
    onnx.save(model, folder / "resnet50.onnx")
    camrt.export.with_maps(
        folder / "resnet50.onnx", "pixab", folder / "resnet50_maps.onnx", preprocessing="unit", labels=COLOURS
    )
    engine = camrt.load(folder / "resnet50_maps.onnx")
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (9, 9, 3), np.uint8))
    engine.preprocessing.array(engine.preprocessing.view(image)).tofile(folder / "image.f32")
    return folder


def expected(folder: Path) -> str:
    """What the programs print: where the engine's map is largest."""
    engine = camrt.load(folder / "resnet50_maps.onnx")
    batch = np.fromfile(folder / "image.f32", np.float32).reshape(1, 3, 224, 224)
    (maps,) = engine.explain(batch, "pixab").maps
    row, column = np.unravel_index(maps.argmax(), maps.shape)
    return f"most salient at row {row}, column {column}\n"


def run(command: list[str], folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


AS_A_SERVER = """
import numpy as np, onnxruntime, tritonclient.grpc
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

class Server:
    # Takes requests as the configuration says, and runs the file.
    def __init__(self, address):
        assert address == "localhost:8001"

    def infer(self, name, inputs):
        text = open(f"models/{name}/config.pbtxt", encoding="utf-8").read()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert [part.name for part in config.input] == [given.name() for given in inputs]
        feeds = {}
        for part, given in zip(config.input, inputs):
            rows, *sides = given.shape()
            assert sides == list(part.dims) and rows <= config.max_batch_size
            assert model_config_pb2.DataType.Value("TYPE_" + given.datatype()) == part.data_type
            kind = {"FP32": np.float32, "INT64": np.int64}[given.datatype()]
            shape = (rows, *part.reshape.shape) if part.HasField("reshape") else (rows, *sides)
            feeds[part.name] = np.frombuffer(given._get_content(), kind).reshape(shape)
        session = onnxruntime.InferenceSession(f"models/{name}/1/{config.default_model_filename}")
        names = [part.name for part in config.output]
        found = dict(zip(names, session.run(names, feeds)))
        return type("Answer", (), {"as_numpy": staticmethod(found.get)})

tritonclient.grpc.InferenceServerClient = Server
batch = np.fromfile("image.f32", np.float32).reshape(1, 3, 224, 224)
exec(open("client.py").read())
row, column = np.unravel_index(maps[0].argmax(), maps[0].shape)
print(f"most salient at row {row}, column {column}")
"""


def test_tritons_client(folder, monkeypatch):
    """Against the file, behind the checks that the server makes of a request by its configuration."""
    pytest.importorskip("tritonclient", reason="tritonclient is missing: pip install 'camrt[dev]'")
    (words,) = [
        shlex.split(line) for line in program("sh", "--triton-repository").splitlines() if "triton" in line
    ]
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output
    (folder / "client.py").write_text(program("py"))
    assert run([sys.executable, "-c", AS_A_SERVER], folder) == expected(folder)


def test_javascript(folder):
    modules = ROOT / "build" / "npm" / "node_modules"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js is missing")
    if not (modules / "onnxruntime-node").is_dir():
        if os.environ.get("CAMRT_REGISTRY") != "1":
            pytest.skip("onnxruntime-node is missing: CAMRT_REGISTRY=1 allows npm to fetch it")
        command = [
            npm,
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(modules.parent),
        ]
        try:
            subprocess.run([*command, NODE_PACKAGE], check=True, capture_output=True, timeout=SECONDS)
        except subprocess.SubprocessError as error:
            pytest.skip(f"npm could not fetch onnxruntime-node: {error}")
    (folder / "node_modules").symlink_to(modules, target_is_directory=True)
    (folder / "explain.mjs").write_text(program("js"))
    assert run([node, "explain.mjs"], folder) == expected(folder)


def test_cpp(folder):
    """With the library in onnxruntime's Python package, and headers from where the compiler finds them."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is missing")
    probe = "#include <onnxruntime_cxx_api.h>\n"
    checked = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    folders = [f"-I{place}" for place in ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")]
    if subprocess.run([*checked, *folders], input=probe, capture_output=True, text=True).returncode:
        pytest.skip("ONNX Runtime's headers are missing: Debian 13 has them in libonnxruntime-dev")
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    libraries = sorted((Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this package of onnxruntime has no library of its own for C++")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(libraries[0])
    (folder / "explain.cpp").write_text(program("cpp"))
    link = ["-L.", "-lonnxruntime", f"-Wl,-rpath,{folder}"]
    run([compiler, "-std=c++17", *folders, "explain.cpp", *link, "-o", "explain"], folder)
    assert run(["./explain"], folder) == expected(folder)
