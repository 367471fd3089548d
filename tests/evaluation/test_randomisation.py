"""Cascading randomisation: which weights a file has, what is drawn for them, and how alike the maps stay."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.engine.extras import MissingExtraError
from camrt.errors import CutError, DegenerateMapWarning, InputError, MethodError, UnsupportedModelError
from camrt.evaluation.metrics import randomisation as module
from camrt.evaluation.metrics.randomisation import (
    RandomisationResult,
    cascading_randomisation,
    compare_maps,
    stage_counts,
)
from camrt.evaluation.metrics.weight_layers import Parameter, find_weight_layers, randomise_layers
from camrt.export.io.model_file import read_model
from helpers.calm_models import calm_model
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, Net, classifier, model_of, save

CELLS = (8, 9)


def images(count: int = 3) -> Any:
    size = (count, 3, 2 * CELLS[0], 2 * CELLS[1])
    return np.random.default_rng(1).random(size).astype(np.float32)


def zoo_file(path: Path, name: str = "gap-flatten-gemm", channels: int = 12) -> Path:
    part = HEADS[name].make(np.random.default_rng(0), channels, *CELLS, 4)
    return save(classifier(part, np.random.default_rng(1)).model, path)


def stored(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def many_layers() -> onnx.ModelProto:
    """A convolution normalised, one whose weights come by detours, one that no output needs, a product."""
    net = Net(np.random.default_rng(0))
    first, _ = net.weight(16, 3, 3, 3, fan=27)
    convolved = net.add("Conv", "images", first, name="first")
    normalised, _ = net.batch_norm(convolved, 16)
    active = net.add("Relu", normalised)
    second, _ = net.weight(8, 4, 1, 1)
    bias = numpy_helper.from_array(np.arange(8, dtype=np.float32))
    net.add("Constant", name="second_bias", value=bias)
    net.add("Identity", second, name="alias")
    joined = net.add("Conv", active, "alias", "second_bias", name="second", group=4)
    net.add("Conv", active, net.weight(2, 16, 1, 1)[0], name="unneeded")
    pooled = net.pooled(net.add("Relu", joined))
    third, _ = net.weight(5, 8)
    turned = net.add("Transpose", third, perm=[1, 0])
    product = net.add("MatMul", pooled, turned, name="third")
    net.add("Add", net.weight(5)[0], product, name="logits")
    return model_of(net.nodes, net.initializers, ("N", 3, 8, 8), ("N", 5))


def one_layer(operator: str, shapes: list[tuple[int, ...]], position: int = 0, **attributes: Any) -> Any:
    """A node that takes the image at an input, and stored tensors of these shapes at the others."""
    net = Net(np.random.default_rng(0))
    names = [net.weight(*shape)[0] for shape in shapes]
    names.insert(position, "images")
    net.add(operator, *names, name="logits", **attributes)
    return model_of(net.nodes, net.initializers, ("N",), ("N",))


# ---------------------------------------------------------------- layers


def test_layers_from_the_output_to_the_input() -> None:
    third, second, first = find_weight_layers(many_layers())
    assert [layer.operator for layer in (third, second, first)] == ["MatMul", "Conv", "Conv"]
    assert (third.name, second.name, first.name) == ("node_third", "node_second", "node_first")
    assert [(item.role, item.fan_in) for item in third.parameters] == [("weight", 8), ("bias", 0)]
    assert [(item.role, item.fan_in) for item in second.parameters] == [("weight", 4), ("bias", 0)]
    assert second.parameters[1].name == "second_bias"
    assert [(item.role, item.fan_in) for item in first.parameters] == [
        ("weight", 27), ("scale", 0), ("shift", 0), ("mean", 0), ("variance", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "fan_in"),
    [
        (one_layer("Conv", [(6, 4, 3, 5)], group=2), 60),
        (one_layer("ConvTranspose", [(6, 4, 3, 5)], group=2), 45),
        (one_layer("Gemm", [(7, 3)]), 7),
        (one_layer("Gemm", [(7, 3)], transB=1), 3),
        (one_layer("Gemm", [(7, 3)], position=1), 3),
        (one_layer("Gemm", [(7, 3)], position=1, transA=1), 7),
        (one_layer("MatMul", [(7, 3)]), 7),
        (one_layer("MatMul", [(2, 7, 3)]), 7),
        (one_layer("MatMul", [(7,)]), 7),
        (one_layer("MatMul", [(7, 3)], position=1), 3),
        (one_layer("MatMul", [(7, 3)], position=1, domain=""), 3),
    ],
)
def test_fan_in(model: onnx.ModelProto, fan_in: int) -> None:
    (layer,) = find_weight_layers(model)
    assert [item.fan_in for item in layer.parameters] == [fan_in]


def test_normalisations_elsewhere_are_layers_by_themselves() -> None:
    net = Net(np.random.default_rng(0))
    joined = net.add("Concat", "images", "images", axis=1)
    names = [net.weight(6)[0] for _ in range(2)]
    net.add("LayerNormalization", joined, *names, name="logits")
    (layer,) = find_weight_layers(model_of(net.nodes, net.initializers, ("N", 3), ("N", 6)))
    assert layer.operator == "LayerNormalization"
    assert [item.role for item in layer.parameters] == ["scale", "shift"]


def test_what_is_added_and_is_no_bias() -> None:
    """A map of numbers (an embedding of places, say) behind a convolution; and a second vector."""
    net = Net(np.random.default_rng(0))
    convolved = net.add("Conv", "images", net.weight(4, 3, 1, 1)[0])
    placed = net.add("Add", convolved, net.weight(1, 4, 8, 8)[0])
    pooled = net.add("MatMul", net.pooled(placed), net.weight(4, 4)[0])
    once = net.add("Add", pooled, net.weight(4)[0])
    net.add("Add", once, net.weight(4)[0], name="logits")
    head, trunk = find_weight_layers(model_of(net.nodes, net.initializers, ("N", 3, 8, 8), ("N", 4)))
    assert [item.role for item in head.parameters] == ["weight", "bias"]
    assert [item.role for item in trunk.parameters] == ["weight"]
    assert head.parameters[1].name == once_bias(net, once)


def once_bias(net: Net, name: str) -> str:
    return next(node.input[1] for node in net.nodes if name in node.output)


def test_products_of_two_activations_are_no_layers() -> None:
    net = Net(np.random.default_rng(0))
    turned = net.add("Transpose", "images", perm=[1, 0])
    net.add("MatMul", "images", turned, name="logits")
    assert find_weight_layers(model_of(net.nodes, [], ("N", 3), ("N", "N"))) == ()


def test_weights_that_cannot_be_replaced() -> None:
    net = Net(np.random.default_rng(0))
    scaled = net.add("Mul", net.weight(4, 3)[0], net.weight(4, 1)[0])
    net.add("Gemm", "images", scaled, name="logits", transB=1)
    with pytest.raises(UnsupportedModelError, match=r"node_logits.* computed in the graph by Mul; fold"):
        find_weight_layers(model_of(net.nodes, net.initializers, ("N", 3), ("N", 4)))

    model = one_layer("MatMul", [(3, 4)])
    dense = model.graph.initializer.pop()
    values = numpy_helper.from_array(np.ones(1, np.float32), dense.name)
    places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 4]))
    with pytest.raises(UnsupportedModelError, match="are sparse"):
        find_weight_layers(model)

    branches = {
        f"{way}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["images", "W"], ["inside"])],
            way,
            [],
            [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
        )
        for way in ("then", "else")
    }
    net = Net(np.random.default_rng(0))
    net.add("If", net.constant(True, np.bool_), name="logits", **branches)
    net.initializers.append(numpy_helper.from_array(np.ones((3, 4), np.float32), "W"))
    with pytest.raises(UnsupportedModelError, match="in a branch or a loop"):
        find_weight_layers(model_of(net.nodes, net.initializers, ("N", 3), ("N", 4)))


# ---------------------------------------------------------------- draws


def test_normal_draws_have_each_tensors_own_mean_and_spread() -> None:
    rng = np.random.default_rng(0)
    model = one_layer("Gemm", [(300, 200), (200,)])
    for tensor, (middle, spread) in zip(model.graph.initializer, ((3, 0.2), (-1, 5)), strict=True):
        values = rng.uniform(-1, 1, tuple(tensor.dims)) * spread * math.sqrt(3) + middle
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    new = stored(randomise_layers(model, find_weight_layers(model), 0))
    for name, old in stored(model).items():
        error = old.std() / math.sqrt(old.size)
        assert abs(new[name].mean() - old.mean()) < 5 * error
        assert abs(new[name].std() / old.std() - 1) < 5 / math.sqrt(2 * old.size)
        assert abs(np.corrcoef(new[name].ravel(), old.ravel())[0, 1]) < 5 / math.sqrt(old.size)
    middle = new["constant_0"].ravel()
    beyond = np.abs(middle - middle.mean()) > 2 * middle.std()  # none of the old ones, 4.55 % of a normal
    assert abs(beyond.mean() - 0.0455) < 0.01


def test_he_draws_are_those_of_an_untrained_network() -> None:
    model = many_layers()
    layers = find_weight_layers(model)
    copy = randomise_layers(model, layers, 0, "he")
    new = stored(copy)
    first = new["constant_0"]
    assert abs(first.mean()) < 5 * math.sqrt(2 / 27 / first.size)
    assert abs(first.var() * 27 / 2 - 1) < 0.25
    scale, shift, average, variance = (new[item.name] for item in layers[2].parameters[1:])
    assert (scale == 1).all()
    assert (shift == 0).all()
    assert (average == 0).all()
    assert (variance == 1).all()
    node = next(node for node in copy.graph.node if "second_bias" in node.output)
    assert not numpy_helper.to_array(node.attribute[0].t).any()


def test_shuffled_values_are_the_same_values() -> None:
    model = many_layers()
    layers = find_weight_layers(model)
    old, new = stored(model), stored(randomise_layers(model, layers, 0, "shuffle"))
    for layer in layers:
        for item in layer.parameters:
            if item.name in old:
                np.testing.assert_array_equal(np.sort(old[item.name], None), np.sort(new[item.name], None))
                same = np.array_equal(old[item.name], new[item.name])
                assert same == (item.role in ("mean", "variance"))


@pytest.mark.parametrize("draw", ["normal", "shuffle"])
def test_running_statistics_stay(draw: Any) -> None:
    model = many_layers()
    layers = find_weight_layers(model)
    old, new = stored(model), stored(randomise_layers(model, layers, 0, draw))
    changed = {item.role: not np.array_equal(old[item.name], new[item.name]) for item in layers[2].parameters}
    assert changed == {"weight": True, "scale": True, "shift": True, "mean": False, "variance": False}


@pytest.mark.parametrize("draw", ["normal", "he", "shuffle"])
def test_a_seed_is_a_file(draw: Any) -> None:
    model = many_layers()
    before = model.SerializeToString(deterministic=True)
    layers = find_weight_layers(model)
    files = [
        randomise_layers(model, layers, seed, draw).SerializeToString(deterministic=True)
        for seed in (0, 0, 1)
    ]
    assert files[0] == files[1] != files[2]
    assert before == model.SerializeToString(deterministic=True) != files[0]
    assert before == randomise_layers(model, (), 0, draw).SerializeToString(deterministic=True)
    one, two = (stored(randomise_layers(model, layers[:count], 0, draw)) for count in (1, 3))
    for item in layers[0].parameters:
        np.testing.assert_array_equal(one[item.name], two[item.name])


@pytest.mark.parametrize("draw", ["normal", "he", "shuffle"])
def test_a_tensor_of_two_layers_is_drawn_once(draw: Any) -> None:
    net = Net(np.random.default_rng(0))
    shared, _ = net.weight(6, 6)
    below = net.add("Relu", net.add("MatMul", "images", shared))
    net.add("MatMul", below, shared, name="logits")
    model = model_of(net.nodes, net.initializers, ("N", 6), ("N", 6))
    layers = find_weight_layers(model)
    assert len(layers) == 2
    one, two = (stored(randomise_layers(model, layers[:count], 0, draw))[shared] for count in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
@pytest.mark.parametrize("draw", ["normal", "he", "shuffle"])
def test_types_are_kept(element: int, draw: Any) -> None:
    model = one_layer("Gemm", [(30, 20)])
    kind = helper.tensor_dtype_to_np_dtype(element)
    old = np.random.default_rng(0).standard_normal((30, 20)).astype(kind)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(old, "constant_0"))
    (tensor,) = randomise_layers(model, find_weight_layers(model), 0, draw).graph.initializer
    assert tensor.data_type == element
    new = numpy_helper.to_array(tensor).astype(np.float64)
    assert np.isfinite(new).all()
    assert not np.array_equal(new, old.astype(np.float64))


def quantised() -> onnx.ModelProto:
    net = Net(np.random.default_rng(0))
    weight = net.constant(np.random.default_rng(0).integers(-128, 128, (6, 4)), np.int8)
    step, zero = net.constant(0.1), net.constant(0, np.int8)
    net.add("MatMul", "images", net.add("DequantizeLinear", weight, step, zero), name="logits")
    return model_of(net.nodes, net.initializers, ("N", 6), ("N", 4))


def test_quantised_weights_are_shuffled_or_refused() -> None:
    model = quantised()
    layers = find_weight_layers(model)
    assert layers[0].parameters == (Parameter("constant_0", "weight", 6),)
    for draw in ("normal", "he"):
        with pytest.raises(
            UnsupportedModelError, match="constant_0 is quantised to INT8: only draw='shuffle'"
        ):
            randomise_layers(model, layers, 0, draw)
    old, new = (stored(each)["constant_0"] for each in (model, randomise_layers(model, layers, 0, "shuffle")))
    assert new.dtype == np.int8
    assert not np.array_equal(old, new)
    np.testing.assert_array_equal(np.sort(old, None), np.sort(new, None))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draw": "uniform"}, "must be one of normal, he, shuffle"),
        ({"seed": -1}, ">= 0"),
        ({"seed": True}, ">= 0"),
    ],
)
def test_draws_that_are_not_understood(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        randomise_layers(many_layers(), (), **{"seed": 0, **options})


def test_layers_of_another_model() -> None:
    with pytest.raises(InputError, match="layer node_second: the model stores no tensor constant_5"):
        randomise_layers(quantised(), find_weight_layers(many_layers())[1:2], 0, "shuffle")


# ---------------------------------------------------------------- similarity


def ranks(values: Any) -> Any:
    """From 1, ties at their mean."""
    flat = values.ravel()
    return np.array([(flat < value).sum() + ((flat == value).sum() + 1) / 2 for value in flat])


def ssim(one: Any, other: Any, window: int) -> float:
    """Wang et al. 2004, equation 13, in every window that lies on the map, with unbiased variances."""
    c1, c2, found = 0.01**2, 0.03**2, []
    for row in range(one.shape[0] - window + 1):
        for column in range(one.shape[1] - window + 1):
            place = slice(row, row + window), slice(column, column + window)
            x, y = one[place].ravel(), other[place].ravel()
            covariance = np.cov(x, y)
            luminance = (2 * x.mean() * y.mean() + c1) / (x.mean() ** 2 + y.mean() ** 2 + c1)
            structure = (2 * covariance[0, 1] + c2) / (covariance[0, 0] + covariance[1, 1] + c2)
            found.append(luminance * structure)
    return float(np.mean(found))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 999))
def test_similarities_agree_with_loops(height: int, width: int, seed: int) -> None:
    one, other = np.random.default_rng(seed).integers(0, 5, (2, height, width)) / 4  # ties
    correlation, similarity = compare_maps(one, other)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert np.isnan(correlation)
    else:
        assert abs(correlation - np.corrcoef(ranks(one), ranks(other))[0, 1]) < 1e-12
    if min(height, width) < 3:
        assert np.isnan(similarity)
    else:
        window = max(side for side in (3, 5, 7) if side <= min(height, width))
        assert abs(similarity - ssim(one, other, window)) < 1e-12


def test_a_map_is_like_itself() -> None:
    one = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    assert_close(compare_maps(one, one), (1, 1), "float64")
    assert_close(compare_maps(one, one**3)[0], 1, "float64")
    assert_close(compare_maps(one, 1 - one)[0], -1, "float64")


def test_maps_without_a_similarity() -> None:
    one, lost = np.random.default_rng(0).random((8, 8)), np.full((8, 8), np.nan)
    assert np.isnan(compare_maps(one, lost)).all()
    correlation, similarity = compare_maps(one, np.zeros((8, 8)))
    assert np.isnan(correlation)
    assert abs(similarity) < 0.1
    with pytest.raises(InputError, match=r"must both be \(h, w\)"):
        compare_maps(one, one[1:])


# ---------------------------------------------------------------- the cascade


@pytest.mark.parametrize(
    ("stages", "counts"),
    [
        (None, (1, 2, 3, 4, 5)),
        (1, (5,)),
        (2, (1, 5)),
        (3, (1, 3, 5)),
        (4, (1, 2, 4, 5)),
        (5, (1, 2, 3, 4, 5)),
        ((0, 2), (0, 2)),
        ([5], (5,)),
    ],
)
def test_stages(stages: Any, counts: tuple[int, ...]) -> None:
    assert stage_counts(stages, 5) == counts


@settings(max_examples=100, deadline=None)
@given(layers=st.integers(1, 200), data=st.data())
def test_stages_are_as_many_as_asked(layers: int, data: Any) -> None:
    stages = data.draw(st.integers(2, layers)) if layers > 1 else 1
    counts = stage_counts(stages, layers)
    assert len(set(counts)) == stages
    assert list(counts) == sorted(counts)
    assert counts[-1] == layers


@pytest.mark.parametrize("stages", [0, 6, True, (), (3, 2), (2, 2), (-1, 2), (4, 6)])
def test_stages_that_there_are_not(stages: Any) -> None:
    with pytest.raises(InputError, match=r"stages=.* must be"):
        stage_counts(stages, 5)


def test_a_random_head_leaves_the_activation(tmp_path: Path) -> None:
    """Eigen-CAM and Activation-CAM look at the activation alone; CAM looks at the head's weights."""
    path = zoo_file(tmp_path / "model.onnx")
    found = cascading_randomisation(path, images(), ["eigen", "activation", "cam"], stages=(0, 1, 2), seed=3)
    assert found.layers[1] == "node_trunk"
    assert found.stages == (0, 1, 2)
    assert found.spearman.shape == found.ssim.shape == (3, 3, 3)
    for same in (found.spearman[0], found.ssim[0], found.spearman[1, :2], found.ssim[1, :2]):
        assert_close(same, np.ones(same.shape))  # nothing was drawn, and then nothing before the activation
    assert np.nanmax(found.spearman[1, 2]) < 0.95
    assert np.nanmax(found.spearman[2, :2]) < 0.95
    np.testing.assert_array_equal(found.targets, camrt.load(path).predict(images()).argmax(axis=1))


def test_the_class_stays_and_the_maps_are_those_of_the_copies(tmp_path: Path) -> None:
    path = zoo_file(tmp_path / "model.onnx", "convolution-3x3-behind-the-cut")
    model = read_model(path).model
    layers = find_weight_layers(model)
    found = cascading_randomisation(path, images(), ["gradcam"], stages=2, targets=2, draw="he", batch_size=2)
    assert (found.targets == 2).all()
    assert found.stages == (1, len(layers)) == (1, 3)
    before = camrt.load(path).explain(images(), "gradcam", targets=2, size="map").maps
    for stage, count in enumerate(found.stages):
        copy = save(randomise_layers(model, layers[:count], 0, "he"), tmp_path / f"{count}.onnx")
        after = camrt.load(copy).explain(images(), "gradcam", targets=2, size="map").maps
        for image in range(3):
            expected = compare_maps(before[image], after[image])
            np.testing.assert_array_equal(
                expected, (found.spearman[stage, 0, image], found.ssim[stage, 0, image])
            )


def test_another_target_and_calm(tmp_path: Path) -> None:
    path = calm_model().save(tmp_path / "calm.onnx")
    found = cascading_randomisation(path, images(), ["calm"], draw="shuffle")
    assert found.spearman.shape == (3, 1, 3)
    assert np.nanmin(found.mean_spearman) < 0.9
    path = zoo_file(tmp_path / "model.onnx", "convolution-3x3-behind-the-cut")
    kept, changed = (
        cascading_randomisation(path, images(), ["eigen"], stages=(2,), target=target)
        for target in ("A", "relu_1")
    )
    assert_close(kept.spearman, np.ones((1, 1, 3)))
    assert np.nanmax(changed.spearman) < 0.95


def test_maps_that_are_lost_have_no_similarity(tmp_path: Path) -> None:
    """The logarithm of positive sums; of sums with signs it is not a number."""
    net = Net(np.random.default_rng(0))
    positive = net.constant(np.random.default_rng(0).random((4, 3, 2, 2)) + 0.1)
    active = net.add("Log", net.add("Conv", "images", positive, strides=[2, 2]), name="A")
    logits, _ = net.gemm(net.pooled(active), 4, 3)
    model = model_of(net.nodes, net.initializers, ("N", 3, 16, 18), ("N", 3), end=logits)
    path = save(model, tmp_path / "model.onnx")
    with pytest.warns(DegenerateMapWarning, match="not finite"):
        found = cascading_randomisation(path, images(), ["eigen"], target="A", draw="he")
    assert_close(found.spearman[0], np.ones((1, 3)))
    assert np.isnan(found.spearman[1]).all()
    assert np.isnan(found.ssim[1]).all()
    assert found.undefined_spearman.tolist() == found.undefined_ssim.tolist() == [[0], [3]]
    assert_close(found.mean_spearman[0, 0], 1)
    assert np.isnan(found.mean_spearman[1, 0])


def test_means_leave_out_what_has_no_value() -> None:
    values = np.array([[[1.0, np.nan, 0.5], [np.nan] * 3]])
    found = RandomisationResult(("a", "b"), ("x",), (1,), np.zeros(3, np.int64), values, -values)
    np.testing.assert_array_equal(found.mean_spearman, [[0.75, np.nan]])
    np.testing.assert_array_equal(found.mean_ssim, [[-0.75, np.nan]])
    assert found.undefined_spearman.tolist() == [[1, 3]]
    assert found.undefined_ssim.tolist() == [[1, 3]]


def test_a_target_that_disappears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zoo_file(tmp_path / "model.onnx")

    def renamed(model: onnx.ModelProto, *_: Any) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for node in copy.graph.node:
            for names in (node.input, node.output):
                names[:] = ["B" if name == "A" else name for name in names]
        return copy

    monkeypatch.setattr(module, "randomise_layers", renamed)
    with pytest.raises(CutError, match="with 1 layers randomised the model can no longer be cut at A"):
        cascading_randomisation(path, images(), ["cam"])


def test_what_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zoo_file(tmp_path / "model.onnx")
    for methods in ("cam", [], ()):
        with pytest.raises(InputError, match="a list of one or more methods"):
            cascading_randomisation(path, images(), methods)
    with pytest.raises(MethodError, match="needs a CALM model"):
        cascading_randomisation(path, images(), ["calm"])
    with pytest.raises(InputError, match="one class an image"):
        cascading_randomisation(path, images(), ["cam"], targets=np.zeros((3, 2), np.int64))
    with pytest.raises(InputError, match="no layers with weights"):
        stage_counts(None, 0)
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(MissingExtraError, match=r"skimage is not installed.*'camrt\[evaluate\]'"):
        cascading_randomisation(path, images(), ["cam"])


def test_a_transformer_of_torch(tmp_path: Path) -> None:
    nets = pytest.importorskip("helpers.torch_nets")
    from camrt.engine.torch_models.to_onnx import to_onnx

    batch = nets.random_images(2)
    path = to_onnx(nets.build_net(nets.Transformer), batch, tmp_path / "net.onnx")
    layers = find_weight_layers(read_model(path).model)
    assert [layer.operator for layer in layers] == [
        "Gemm", *["LayerNormalization", "MatMul", "MatMul", "MatMul"] * 3, "LayerNormalization", "Conv",
    ]  # fmt: skip
    assert all({item.role for item in layer.parameters} >= {"weight", "bias"} for layer in layers[2:5])
    found = cascading_randomisation(path, batch, ["eigen"], stages=2)
    assert_close(found.spearman[0], np.ones((1, 2)))
    assert (found.spearman[1] < 0.95).all()


def test_a_run_is_known_by_the_classes_that_it_explains(tmp_path: Path) -> None:
    """However they were said: here by a function, and by their numbers when it goes on."""
    pytest.importorskip("skimage")
    path = zoo_file(tmp_path / "model.onnx")

    def asked(targets: Any, **options: Any) -> RandomisationResult:
        kept = {"stages": 1, "targets": targets, "out": tmp_path / "out", **options}
        return cascading_randomisation(path, images(), ["gradcam"], **kept)

    first = asked(lambda logits: np.argmin(logits, axis=1))
    again = asked(first.targets, resume=True)
    assert again.targets.tolist() == first.targets.tolist()
    assert np.array_equal(again.spearman, first.spearman, equal_nan=True)
    with pytest.raises(InputError, match="which differs in settings"):
        asked((first.targets + 1) % 4, resume=True)
