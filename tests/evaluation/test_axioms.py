"""CAM breaks the three axioms, CALM keeps them: on formulas, and measured on files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.errors import InputError, MethodError, UnsupportedModelError
from camrt.evaluation.metrics.axioms import measure_axioms, write_with_constant
from helpers.calm_models import calm_model
from helpers.oracles import calm as oracle

CELLS = (4, 3)


def images(count: int = 4) -> Any:
    return np.random.default_rng(1).standard_normal((count, 3, 2 * CELLS[0], 2 * CELLS[1])).astype(np.float32)


def cam_file(path: Path, ending: str | None = None) -> Path:
    """A pooled-linear classifier: strided convolution, ReLU, mean, linear layer."""
    rng = np.random.default_rng(0)
    weights = {
        "trunk": rng.standard_normal((5, 3, 2, 2)),
        "weight": rng.standard_normal((4, 5)),
        "bias": rng.standard_normal(4),
    }
    nodes = [
        helper.make_node("Conv", ["input", "trunk"], ["convolved"], strides=[2, 2]),
        helper.make_node("Relu", ["convolved"], ["A"]),
        helper.make_node("GlobalAveragePool", ["A"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("Gemm", ["vector", "weight", "bias"], ["logits"], transB=1),
    ]
    if ending is not None:
        nodes.append(helper.make_node(ending, ["logits"], ["scores"]))
    size = [2 * side for side in CELLS]
    graph = helper.make_graph(
        nodes,
        "cam",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, *size])],
        [helper.make_tensor_value_info("scores" if ending else "logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def cam(f: Any) -> Any:
    """Zhou's map: ReLU, divided by its maximum."""
    return np.maximum(f, 0) / f.max()


def test_the_axioms_on_the_formulas() -> None:
    """Sections 3.1 and 4.2 of the paper, on maps made so that all three are told apart."""
    f = np.array([[[[2.0, -1.0], [0.5, 1.0]], [[0.0, 1.0], [-2.0, 0.5]]]])
    u = np.array([[[[0.3, -0.2], [1.0, 0.0]]]])

    def p_of_cam(maps: Any) -> Any:
        logits = maps.mean(axis=(2, 3))
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    # implementation invariance: the same function of the image, written with a constant more
    np.testing.assert_allclose(p_of_cam(f), p_of_cam(f + 3))
    assert np.abs(cam(f[0, 0]) - cam(f[0, 0] + 3)).max() > 0.3
    np.testing.assert_allclose(oracle.joint(f, u), oracle.joint(f + 3, u), rtol=1e-12)
    # sensitivity: the second cell moves p(y|x), and CAM gives it nothing
    other = f.copy()
    other[0, 0, 0, 1] = -4.0
    assert abs(p_of_cam(f)[0, 0] - p_of_cam(other)[0, 0]) > 0.05
    assert cam(f[0, 0])[0, 1] == 0
    assert (oracle.joint(f, u) > 0).all()
    # completeness
    assert abs(cam(f[0, 0]).sum() - p_of_cam(f)[0, 0]) > 0.5
    assert abs(oracle.joint(f, u).sum() - 1) < 1e-12


def test_cam_breaks_all_three(tmp_path: Path) -> None:
    for ending in (None, "Softmax"):
        found = measure_axioms(cam_file(tmp_path / f"{ending}.onnx", ending), images())
        assert found.method == "cam"
        assert found.invariance > 0.1
        assert found.insensitivity > 0.05
        assert found.incompleteness > 0.5
        assert (found.invariant, found.sensitive, found.complete) == (False, False, False)


def test_calm_keeps_all_three(tmp_path: Path) -> None:
    found = measure_axioms(calm_model().save(tmp_path / "calm.onnx"), images())
    assert found.method == "calm"
    assert found.images == 4
    assert found.invariance < 1e-5
    assert found.insensitivity == 0
    assert found.incompleteness < 1e-5
    assert (found.invariant, found.sensitive, found.complete) == (True, True, True)


def test_min_max_cam_is_invariant(tmp_path: Path) -> None:
    """Specification G4: taking the minimum off takes the constant off."""
    found = measure_axioms(cam_file(tmp_path / "cam.onnx"), images(), "cam", normalisation="minmax")
    assert found.invariance < 1e-5
    assert not found.complete


def test_other_kinds_of_calm_are_not_complete(tmp_path: Path) -> None:
    path = calm_model().save(tmp_path / "calm.onnx")
    found = measure_axioms(path, images(), "calm", kind="conditional")
    assert found.invariant
    assert not found.complete


@pytest.mark.parametrize("kind", ["cam", "calm", "softmax"])
def test_the_constant_leaves_every_probability(tmp_path: Path, kind: str) -> None:
    if kind == "calm":
        path = calm_model().save(tmp_path / "model.onnx")
    else:
        path = cam_file(tmp_path / "model.onnx", "Softmax" if kind == "softmax" else None)
    changed = write_with_constant(path, tmp_path / "changed.onnx", 7.5)
    before, after = camrt.load(path), camrt.load(changed)
    shift = 0.0 if kind == "calm" else 7.5
    assert np.abs(after.predict(images()) - before.predict(images()) - shift).max() < 1e-5
    one, other = (engine.probabilities(engine.predict(images())) for engine in (before, after))
    assert np.abs(one - other).max() < 1e-6


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    path = cam_file(tmp_path / "cam.onnx")
    with pytest.raises(InputError, match="gradient explains pixels"):
        measure_axioms(path, images(), "gradient")
    with pytest.raises(MethodError, match="needs a CALM model"):
        measure_axioms(path, images(), "calm")
    with pytest.raises(UnsupportedModelError, match="of activation 'sigmoid'"):
        measure_axioms(cam_file(tmp_path / "sigmoid.onnx", "Sigmoid"), images())


def test_the_command(tmp_path: Path) -> None:
    path = calm_model().save(tmp_path / "calm.onnx")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 6, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    arguments = [
        "evaluate",
        "axioms",
        str(path),
        str(tmp_path),
        "--preprocessing",
        "imagenet-squash",
        "--size",
        "8x6",
    ]
    said = CliRunner().invoke(app, [*arguments, "-m", "calm", "-m", "gradcam"])
    assert said.exit_code == 0, said.output
    shown = said.output
    lines = [line.split("│")[1:-1] for line in said.output.splitlines() if line.startswith("│")]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[4:]] for cells in lines}
    assert rows["calm"] == ["yes", "yes", "yes"]
    assert rows["gradcam"][2] == "no"
    out = tmp_path / "kept"
    both = [*arguments, "-m", "calm", "-m", "gradcam", "-o", str(out)]
    kept = CliRunner().invoke(app, both)
    assert (kept.exit_code, kept.output) == (0, shown)
    results = json.loads((out / "results.json").read_text())
    assert [one["complete"] for one in results["methods"]] == [True, False]
    assert results["methods"][0]["images"] == 2
    assert "| yes | yes | yes |" in (out / "table.md").read_text()
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    for options, code, told in (
        ([], 2, "--resume"),
        (["--resume"], 0, "Axioms on 2 images"),
        (["--resume", "--limit", "1"], 2, "which differs in images"),
        (["--overwrite"], 0, "Axioms on 2 images"),
    ):
        again = CliRunner().invoke(app, [*both, *options])
        assert again.exit_code == code, again.output
        assert told in again.output
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written
    nowhere = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert nowhere.exit_code == 2
    assert "name it by --out" in nowhere.output
    (tmp_path / "empty").mkdir()
    said = CliRunner().invoke(app, [*arguments[:3], str(tmp_path / "empty"), *arguments[4:]])
    assert said.exit_code == 2
