"""μ, and the pixels that cannot influence a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.errors import AdjointError, InputError
from camrt.evaluation.walls.dead_zone import find_dead_zone
from camrt.evaluation.walls.share import dead_share, lower_rows

SIDE = 16


def blind(path: Path, *, rows: int = 0, columns: int = 0, opaque: bool = False) -> Any:
    """Convolution, ReLU and a dense layer without weights for its last rows and columns of cells."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((3, 4, SIDE, SIDE))
    dense[:, :, SIDE - rows :] = 0
    dense[:, :, :, SIDE - columns :] = 0
    weights = {"kernel": rng.standard_normal((4, 3, 3, 3)), "dense": dense.reshape(3, -1).T}
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["A"]),
        helper.make_node("Flatten", ["A"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["logits"]),
    ]
    if opaque:  # an operator without a rule, before the activation
        nodes[0].input[0] = "rounded"
        nodes.insert(0, helper.make_node("Mod", ["input", "large"], ["rounded"], fmod=1))
        weights["large"] = np.array(1e6)
    graph = helper.make_graph(
        nodes,
        "blind",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return camrt.load(path)


@pytest.mark.parametrize("way", ["gradients", "noise"])
@pytest.mark.parametrize(("rows", "columns"), [(5, 0), (0, 4), (6, 3), (2, 0)])
def test_blind_rows_and_columns_are_found(tmp_path: Path, way: Any, rows: int, columns: int) -> None:
    zone = find_dead_zone(blind(tmp_path / "m.onnx", rows=rows, columns=columns), way=way)
    expected = np.zeros((SIDE, SIDE), bool)
    # a kernel of 3 × 3 looks one pixel further than the cells that are read
    expected[SIDE - rows + 1 :] = rows > 0
    expected[:, SIDE - columns + 1 :] |= columns > 0
    assert np.array_equal(zone.pixels, expected)
    assert zone.way == way
    assert zone.lowest_rows == max(rows - 1, 0)
    assert zone.share == expected.mean()


@pytest.mark.parametrize("way", ["gradients", "noise"])
def test_a_model_that_sees_everything_has_none(tmp_path: Path, way: Any) -> None:
    zone = find_dead_zone(blind(tmp_path / "m.onnx"), way=way)
    assert not zone.pixels.any()
    assert zone.lowest_rows == 0


def test_a_model_without_gradients_is_tried_with_noise(tmp_path: Path) -> None:
    engine = blind(tmp_path / "m.onnx", rows=5, opaque=True)
    with pytest.raises(AdjointError):
        find_dead_zone(engine, way="gradients")
    zone = find_dead_zone(engine)
    assert zone.way == "noise"
    assert zone.lowest_rows == 4


def test_given_pictures_are_tried_too(tmp_path: Path) -> None:
    pictures = np.random.default_rng(1).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    assert find_dead_zone(blind(tmp_path / "m.onnx", rows=5), pictures).lowest_rows == 4


@pytest.mark.parametrize(
    ("raw", "mu"),
    [
        ([[1.25, 0], [2, 1.5]], 0.894),
        ([[0.9333, 0], [1.2667, 1.8]], 0.921),
        ([[0.6265, 0], [1.0765, 0.5294]], 0.886),
        ([[1, 0], [1.25, 2.25]], 0.932),
        ([[4, 0], [0, 0]], 0),
    ],
)
def test_the_specifications_shares(raw: Any, mu: float) -> None:
    saliency = (np.array(raw) - np.min(raw)) / np.ptp(raw)
    assert dead_share(saliency[None], lower_rows((2, 2), 1))[0] == pytest.approx(mu, abs=5e-4)


def test_a_uniform_map_and_a_map_of_zeros() -> None:
    zone = lower_rows((224, 224), 54)
    found = dead_share(np.stack([np.full((224, 224), 0.3), np.zeros((224, 224))]), zone)
    assert found[0] == pytest.approx(0.49099, abs=1e-5)
    assert np.isnan(found[1])
    tiny = dead_share(np.full((1, 4, 4), 1e-200), lower_rows((4, 4), 1))
    assert tiny[0] == pytest.approx(0.5)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="dead rows"):
        lower_rows((4, 4), 5)
    with pytest.raises(InputError, match="nowhere negative"):
        dead_share(np.full((1, 2, 2), -1.0), lower_rows((2, 2), 1))
    with pytest.raises(InputError, match="bool"):
        dead_share(np.ones((1, 2, 2)), np.ones((2, 2)))
