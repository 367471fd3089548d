"""Files with maps, run from other languages by the programs that docs/serving_files.md shows."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from markdown_it import MarkdownIt
from PIL import Image

import camrt
from helpers.annotated_images import COLOURS, colour_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "serving_files.md"
NODE_PACKAGE = "onnxruntime-node@1.30.0"
SECONDS = 300
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the tests are not beside docs/serving_files.md")


def program(language: str) -> str:
    """The page's program in a language."""
    tokens = MarkdownIt().parse(PAGE.read_text("utf-8"))
    (found,) = [token.content for token in tokens if token.type == "fence" and token.info == language]
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
