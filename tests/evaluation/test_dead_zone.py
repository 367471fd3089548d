"""μ, and the pixels that cannot influence a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.errors import AdjointError, InputError
from camrt.evaluation.dead_zone.detection import RANDOM_PROBES, DeadZone, find_dead_zone, is_dead
from camrt.evaluation.metrics.dead_zone_share import dead_share, lower_rows_mask
from camrt.export.adjoint.registry import RULES

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
    if opaque:  # an operator whose rule can be taken away, before the activation
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
    zone = find_dead_zone(blind(tmp_path / "m.onnx", rows=rows, columns=columns), method=way)
    expected = np.zeros((SIDE, SIDE), bool)
    # a kernel of 3 × 3 looks one pixel further than the cells that are read
    expected[SIDE - rows + 1 :] = rows > 0
    expected[:, SIDE - columns + 1 :] |= columns > 0
    assert np.array_equal(zone.pixels, expected)
    assert zone.method == way
    assert zone.lowest_rows == max(rows - 1, 0)
    assert zone.share == expected.mean()


@pytest.mark.parametrize("way", ["gradients", "noise"])
def test_a_model_that_sees_everything_has_none(tmp_path: Path, way: Any) -> None:
    zone = find_dead_zone(blind(tmp_path / "m.onnx"), method=way)
    assert not zone.pixels.any()
    assert zone.lowest_rows == 0


def test_a_model_without_gradients_is_tried_with_noise(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delitem(RULES, ("", "Mod"))
    engine = blind(tmp_path / "m.onnx", rows=5, opaque=True)
    with pytest.raises(AdjointError):
        find_dead_zone(engine, method="gradients")
    zone = find_dead_zone(engine)
    assert zone.method == "noise"
    assert zone.lowest_rows == 4


def dense_model(path: Path, nodes: list[Any], weights: dict[str, Any], side: Any = SIDE) -> Any:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return camrt.load(path)


@pytest.mark.parametrize("way", ["gradients", "noise", None])
def test_noise_denies_what_gradients_and_small_probes_suggest(tmp_path: Path, way: Any) -> None:
    """A model that only sees what is far brighter than any probe: each pixel by itself seems dead."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["input", "kernel", "shift"], ["c"]),
        helper.make_node("Relu", ["c"], ["A"]),
        helper.make_node("Flatten", ["A"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["logits"]),
    ]
    weights = {
        "kernel": np.abs(rng.standard_normal((4, 3, 1, 1))),
        "shift": np.full(4, -14.0),
        "dense": rng.standard_normal((4 * SIDE * SIDE, 3)),
    }
    zone = find_dead_zone(dense_model(tmp_path / "m.onnx", nodes, weights), method=way)
    assert not zone.pixels.all()
    if way != "noise":
        assert zone.method == "gradients"
        assert not zone.pixels.any()


def test_a_model_that_sees_nothing_is_all_dead(tmp_path: Path) -> None:
    zone = find_dead_zone(blind(tmp_path / "m.onnx", rows=SIDE))
    assert zone.pixels.all()
    assert zone.lowest_rows == SIDE
    assert zone.share == 1


@pytest.mark.parametrize("way", ["gradients", "noise"])
def test_rows_between_rows_that_are_seen(tmp_path: Path, way: Any) -> None:
    """A zone that is narrower than the grid's cells at both ends, and not at the border."""
    side = 40
    rng = np.random.default_rng(4)
    dense = rng.standard_normal((3, side, side, 3))
    dense[:, 11:24] = 0
    nodes = [
        helper.make_node("Identity", ["input"], ["A"]),
        helper.make_node("Conv", ["A", "kernel"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["logits"]),
    ]
    weights = {"kernel": rng.standard_normal((3, 3, 1, 1)), "dense": dense.reshape(-1, 3)}
    zone = find_dead_zone(dense_model(tmp_path / "m.onnx", nodes, weights, side), method=way)
    expected = np.zeros((side, side), bool)
    expected[11:24] = True
    np.testing.assert_array_equal(zone.pixels, expected)
    assert zone.lowest_rows == 0


@pytest.mark.parametrize("way", ["gradients", "noise"])
def test_logits_that_are_not_finite_show_nothing(tmp_path: Path, way: Any) -> None:
    """NaN stays NaN whatever is altered: that does not make pixels dead."""
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["c"]),
        helper.make_node("Sqrt", ["c"], ["A"]),  # of negative numbers too
        helper.make_node("Flatten", ["A"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["logits"]),
    ]
    rng = np.random.default_rng(7)
    weights = {
        "kernel": rng.standard_normal((4, 3, 1, 1)),
        "dense": rng.standard_normal((4 * SIDE * SIDE, 3)),
    }
    engine = dense_model(tmp_path / "m.onnx", nodes, weights)
    probes = rng.standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    assert np.isnan(engine.predict(probes)).all()
    assert not is_dead(engine, probes, lower_rows_mask((SIDE, SIDE), 1), rng)
    assert not find_dead_zone(engine, method=way).pixels.any()


def test_noise_at_no_pixel_changes_nothing(tmp_path: Path) -> None:
    engine, rng = blind(tmp_path / "m.onnx", rows=5), np.random.default_rng(0)
    probes = rng.standard_normal((3, 3, SIDE, SIDE), np.float32)
    zone = lower_rows_mask((SIDE, SIDE), 4)
    assert is_dead(engine, probes, np.zeros((SIDE, SIDE), bool), rng)
    assert is_dead(engine, probes, zone, rng)
    assert not is_dead(engine, probes, lower_rows_mask((SIDE, SIDE), 5), rng)


def test_a_model_of_any_size_needs_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["c"]),
        helper.make_node("Relu", ["c"], ["A"]),
        helper.make_node("GlobalAveragePool", ["A"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["logits"]),
    ]
    rng = np.random.default_rng(6)
    weights = {"kernel": rng.standard_normal((4, 3, 1, 1)), "dense": rng.standard_normal((4, 3))}
    engine = dense_model(tmp_path / "m.onnx", nodes, weights, "side")
    with pytest.raises(InputError, match="say which"):
        find_dead_zone(engine)
    zone = find_dead_zone(engine, size=(6, 9))
    assert zone.pixels.shape == (6, 9)
    assert not zone.pixels.any()
    assert find_dead_zone(engine, np.zeros((1, 3, 5, 4), np.float32)).pixels.shape == (5, 4)


def test_passes_are_those_of_the_model(tmp_path: Path) -> None:
    found = find_dead_zone(blind(tmp_path / "m.onnx", rows=5), method="gradients")
    assert (
        found.passes == 2 * RANDOM_PROBES + 2 * RANDOM_PROBES
    )  # forth and back, then with and without noise
    assert find_dead_zone(blind(tmp_path / "n.onnx"), method="gradients").passes == 2 * RANDOM_PROBES


def test_what_a_zone_says_of_itself() -> None:
    zone = DeadZone(np.array([[True, False], [True, True], [True, True]]), "noise", 0)
    assert zone.lowest_rows == 2
    assert zone.share == 5 / 6
    assert DeadZone(~lower_rows_mask((3, 2), 1), "noise", 0).lowest_rows == 0


def test_given_images_are_tried_too(tmp_path: Path) -> None:
    images = np.random.default_rng(1).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    assert find_dead_zone(blind(tmp_path / "m.onnx", rows=5), images).lowest_rows == 4


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
    assert dead_share(saliency[None], lower_rows_mask((2, 2), 1))[0] == pytest.approx(mu, abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, (4, 3), elements=st.one_of(st.just(0.0), st.floats(0, 1e300))),
    hnp.arrays(np.bool_, (4, 3)),
)
def test_the_share_and_that_of_the_rest_are_sine_and_cosine(saliency: Any, zone: Any) -> None:
    mu, rest = dead_share(saliency[None], zone)[0], dead_share(saliency[None], ~zone)[0]
    if not saliency.any():
        assert np.isnan(mu)
        return
    assert mu**2 + rest**2 == pytest.approx(1)
    scaled = saliency / saliency.max()
    assert mu == pytest.approx(np.linalg.norm(scaled[zone]) / np.linalg.norm(scaled), abs=1e-12)


def test_no_maps_have_no_share() -> None:
    assert dead_share(np.zeros((0, 4, 4)), lower_rows_mask((4, 4), 1)).shape == (0,)
    assert lower_rows_mask((4, 3), 1).tolist() == [[False] * 3] * 3 + [[True] * 3]
    assert not lower_rows_mask((4, 3), 0).any()


def test_a_uniform_map_and_a_map_of_zeros() -> None:
    zone = lower_rows_mask((224, 224), 54)
    found = dead_share(np.stack([np.full((224, 224), 0.3), np.zeros((224, 224))]), zone)
    assert found[0] == pytest.approx(0.49099, abs=1e-5)
    assert np.isnan(found[1])
    tiny = dead_share(np.full((1, 4, 4), 1e-200), lower_rows_mask((4, 4), 1))
    assert tiny[0] == pytest.approx(0.5)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="dead rows"):
        lower_rows_mask((4, 4), 5)
    with pytest.raises(InputError, match="nowhere negative"):
        dead_share(np.full((1, 2, 2), -1.0), lower_rows_mask((2, 2), 1))
    with pytest.raises(InputError, match="dead rows"):
        lower_rows_mask((4, 4), -1)
    with pytest.raises(InputError, match="finite"):
        dead_share(np.full((1, 2, 2), np.nan), lower_rows_mask((2, 2), 1))
    with pytest.raises(InputError, match="bool"):
        dead_share(np.ones((1, 2, 2)), lower_rows_mask((2, 3), 1))
    with pytest.raises(InputError, match="bool"):
        dead_share(np.ones((1, 2, 2)), np.ones((2, 2)))


def test_a_zone_thinner_than_the_grid_of_noise_is_found_from_the_border(tmp_path: Path) -> None:
    """The grid of noise has sixteen cells a side: of 48 rows it tries three at a time."""
    rng = np.random.default_rng(0)
    kernel, dense = rng.standard_normal((2, 3, 1, 1)), rng.standard_normal((3, 2, 48, 48))
    dense[:, :, -2:] = 0
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["A"]),
        helper.make_node("Flatten", ["A"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "thin",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 48, 48])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(kernel.astype(np.float32), "kernel"),
            numpy_helper.from_array(dense.reshape(3, -1).T.astype(np.float32), "dense"),
        ],
    )
    path = tmp_path / "thin.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    engine = camrt.load(path)
    assert find_dead_zone(engine, method="noise").lowest_rows == 2
    with pytest.raises(InputError, match="way='guess'"):
        find_dead_zone(engine, method="guess")  # type: ignore[arg-type]
