"""What the demo page computes itself, beside what camrt and Pillow make of the same numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camrt import Preprocessing
from helpers.demo_page import FOLDER

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None or not FOLDER.is_dir(), reason="Node.js or docs/demo is missing")

PREPROCESS = """
import { readFileSync } from "node:fs";
import { Preprocessing } from "./preprocessing.js";
const asked = JSON.parse(readFileSync(0, "utf-8"));
const answers = asked.map(({ fields, size, width, height, pixels, last }) => {
  const steps = new Preprocessing(fields, size);
  const picture = { data: Uint8Array.from(pixels), width, height, channels: 3 };
  return { array: [...steps.array(picture, last)], box: steps.framing(height, width) };
});
console.log(JSON.stringify(answers));
"""
METADATA = """
import { readFileSync } from "node:fs";
import { readMetadata } from "./onnx_metadata.js";
import { PageError } from "./page_error.js";
for (const path of process.argv.slice(1)) {
  try {
    console.log(JSON.stringify([...readMetadata(readFileSync(path), "it")]));
  } catch (error) {
    console.log(JSON.stringify(error instanceof PageError ? error.message : `unexpected: ${error.stack}`));
  }
}
"""


def run_node(script: str, *arguments: str, given: Any = None) -> list[Any]:
    """The lines of JSON that a script prints in the page's folder."""
    assert NODE is not None
    command = [NODE, "--input-type=module", "-e", script, "--", *arguments]
    result = subprocess.run(
        command, cwd=FOLDER, input=json.dumps(given), capture_output=True, text=True, check=False, timeout=200
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.js")))
def test_syntax(name):
    assert NODE is not None
    subprocess.run([NODE, "--check", str(FOLDER / name)], check=True, timeout=60)


def test_pictures_become_the_numbers_that_camrt_makes():
    """Not one number differs: whole pictures and crops, larger and smaller, colours and grey."""
    rng = np.random.default_rng(3)
    ways = [
        {"resize": "squash"},
        {"resize": "squash", "interpolation": "bicubic", "colours": "BGR"},
        {"resize": "squash", "interpolation": "nearest", "mean": [0.5], "std": [0.25]},
        {"resize": "crop", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"resize": "crop", "crop_fraction": 1.0, "colours": "L"},
        {"resize": "crop", "interpolation": "bicubic", "scale": 1 / 127.5, "mean": [1.0]},
    ]
    cases: list[tuple[dict, np.ndarray, tuple[int, int]]] = []
    for fields in ways:
        for height, width in ((24, 31), (17, 51), (70, 51), (24, 24), (3, 200), (1, 1)):
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            cases.append((fields, pixels, (24, 24) if width % 2 == 0 else (17, 30)))
    asked = [
        {
            "fields": fields,
            "size": size,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "pixels": pixels.ravel().tolist(),
            "last": index % 2 == 1,
        }
        for index, (fields, pixels, size) in enumerate(cases)
    ]
    (answers,) = run_node(PREPROCESS, given=asked)
    for index, ((fields, pixels, size), answer) in enumerate(zip(cases, answers, strict=True)):
        steps = Preprocessing.from_json(json.dumps(fields), size)
        expected = steps.array(steps.view(Image.fromarray(pixels)))
        shape = (*size, steps.channels) if index % 2 else expected.shape
        found = np.array(answer["array"], np.float32).reshape(shape)
        found = found.transpose(2, 0, 1) if index % 2 else found
        np.testing.assert_array_equal(found, expected, err_msg=f"{fields} {pixels.shape}")
        region = steps.framing(pixels.shape[:2]).region
        assert answer["box"] == {side: getattr(region, side) for side in ("left", "upper", "right", "lower")}


def test_metadata_is_read_and_what_is_no_model_is_refused(tmp_path):
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    output = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value, output)
    model = helper.make_model(graph)
    helper.set_model_props(model, {"camrt.labels": '["é", "b"]', "empty": ""})
    save(model, tmp_path / "model.onnx")
    whole = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("It is a truth universally acknowledged")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "endless.onnx").write_bytes(b"\xff" * 4000)
    names = ("model", "cut", "text", "empty", "endless")
    found, *refused = run_node(METADATA, *(str(tmp_path / f"{name}.onnx") for name in names))
    assert dict(found) == {"camrt.labels": '["é", "b"]', "empty": ""}
    assert refused == ["it is no ONNX model, or is damaged."] * 4
