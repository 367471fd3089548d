"""Images that a file turns round, unfolds or samples before anything else: where the map lies then."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import camrt
from helpers.oracles.ablation import ablation_cam
from helpers.tolerances import assert_close
from helpers.zoo import Net, classifier, model_of, save

CHANNELS, CLASSES = 6, 4
SHAPE = (CHANNELS, 4, 3)


def linear_head():
    rng = np.random.default_rng(31)
    net = Net(rng)
    last, linear = net.gemm(net.pooled(net.add("Tanh", "A")), CHANNELS, CLASSES)

    def logits64(A):
        return linear(np.tanh(A).mean(axis=(2, 3)))

    return net, classifier(net.part(last, logits64, SHAPE, CLASSES), rng), logits64


def in_front(whole, net, operator, *constants, **attributes):
    """The file with a node in front of its trunk."""
    front = Net(net.rng)
    made = front.add(operator, "images", *(front.constant(*value) for value in constants), **attributes)
    for tensor in front.initializers:
        tensor.name = f"front_{tensor.name}"
    for position, name in enumerate(front.nodes[0].input):
        front.nodes[0].input[position] = name if name == "images" else f"front_{name}"
    whole.model.graph.node[0].input[0] = made
    whole.model.graph.node.insert(0, front.nodes[0])
    whole.model.graph.initializer.extend(front.initializers)
    return whole.model


def turned_by_slice(axes):
    count = len(axes)
    return [
        ([-1] * count, np.int64), ([-(2**62)] * count, np.int64), (axes, np.int64), ([-1] * count, np.int64)
    ]  # fmt: skip


@pytest.mark.parametrize("axes", [[3], [2], [2, 3], [-1]], ids=str)
def test_a_mirror_in_front_turns_the_map_back(axes, tmp_path):
    """The map is that of the mirrored image, turned round: it lies where the image's cells do."""
    net, whole, logits64 = linear_head()
    model = in_front(whole, net, "Slice", *turned_by_slice(axes))
    engine = camrt.load(save(model, tmp_path / "model.onnx"), target="A")
    some = np.random.default_rng(32).standard_normal((2, *whole.size), np.float32)
    around = tuple(axis % 4 for axis in axes)
    activations = whole.activations64(np.flip(some, around))
    assert_close(engine.predict(some), logits64(activations), np.float32, factor=16)
    found = engine.explain(some, "ablation", targets=1, score="logit", size="map")
    back = tuple(axis - 2 for axis in around)
    for raw, activation in zip(found.raw, activations, strict=True):
        expected = np.flip(ablation_cam(lambda at: logits64(at[None])[0], activation, 1), back)
        assert_close(raw, expected, np.float32, factor=64)  # differences of scores, divided by one


@pytest.mark.parametrize("method", ["ablation", "pixab", "score", "gradcam"])
@pytest.mark.parametrize(
    ("axes", "ends"),
    [([3], [-(2**62)]), ([2], [-(2**62)]), ([2, 3], [-(2**62)] * 2), ([3], [1])],
    ids=["columns", "rows", "both", "columns-of-a-crop"],
)
def test_maps_of_mirrored_images_lie_on_the_images(axes, ends, method, tmp_path):
    """A file that mirrors its image says of it what the file without that says of the mirror image."""
    _, whole, _ = linear_head()
    plain = camrt.load(save(whole.model, tmp_path / "plain.onnx"), target="A", threads=1)
    net, whole, _ = linear_head()
    constants = turned_by_slice(axes)
    constants[1] = (ends, np.int64)
    cropped = 2 if ends == [1] else 0  # columns 0 and 1 are left out
    model = in_front(whole, net, "Slice", *constants)
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    sizes[3].dim_value += cropped
    engine = camrt.load(save(model, tmp_path / "model.onnx"), target="A", threads=1)
    channels, height, width = whole.size
    some = np.random.default_rng(35).standard_normal((2, channels, height, width + cropped), np.float32)
    mirrored = np.flip(some[..., cropped:], axes).copy()
    found = engine.explain(some, method, targets=1)
    expected = plain.explain(mirrored, method, targets=1)
    back = [axis - 4 for axis in axes]
    assert_close(found.raw, np.flip(expected.raw, back), factor=64)  # differences of scores, divided by one
    assert_close(found.maps[..., cropped:], np.flip(expected.maps, back), factor=256)  # and scaled to [0, 1]
    assert not found.maps[..., :cropped].any()


CROPS = {
    "pad": ("Pad", [([0, 0, -1, -2, 0, 0, -2, 0], np.int64)], {}),
    "gather": ("Gather", [], {"axis": 3}),
    "gather-backwards": ("Gather", [], {"axis": 3}),
}


@pytest.mark.parametrize("crop", CROPS)
def test_maps_of_what_other_operators_crop_lie_there(crop, tmp_path):
    operator, constants, attributes = CROPS[crop]
    _, whole, _ = linear_head()
    plain = camrt.load(save(whole.model, tmp_path / "plain.onnx"), target="A", threads=1)
    net, whole, _ = linear_head()
    channels, height, width = whole.size
    if crop != "pad":
        constants = [(np.arange(2, 2 + width)[:: -1 if crop.endswith("backwards") else 1], np.int64)]
    model = in_front(whole, net, operator, *constants, **attributes)
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    rows, after = (slice(1, 1 + height), 2) if crop == "pad" else (slice(None), 0)
    sizes[2].dim_value += (rows.start or 0) + after
    sizes[3].dim_value += 2
    engine = camrt.load(save(model, tmp_path / "model.onnx"), target="A", threads=1)
    shape = (2, channels, sizes[2].dim_value, sizes[3].dim_value)
    some = np.random.default_rng(36).standard_normal(shape, np.float32)
    back = -1 if crop.endswith("backwards") else 1
    seen = some[..., rows, 2 : 2 + width][..., ::back].copy()
    found, expected = (
        one.explain(of, "gradcam", targets=1).maps for one, of in ((engine, some), (plain, seen))
    )
    assert_close(found[..., rows, 2 : 2 + width], expected[..., ::back], factor=256)  # scaled to [0, 1]
    outside = np.ones(shape[2:], bool)
    outside[rows, 2 : 2 + width] = False
    assert not found[..., outside].any()


@pytest.mark.parametrize("shear", [0.0, 0.3], ids=["as-it-is", "sheared"])
def test_maps_of_a_resampled_image_lie_on_that_image(shear, tmp_path):
    """A GridSample in front: the file's maps are those of the network behind it on the sampled image."""
    net, whole, _ = linear_head()
    plain = camrt.load(save(whole.model, tmp_path / "plain.onnx"), threads=1)
    channels, height, width = whole.size
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    grid = np.stack([columns + shear * rows, rows], axis=-1)[None].astype(np.float32)
    model = in_front(whole, net, "GridSample", (grid, np.float32), align_corners=1)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    engine = camrt.load(save(model, tmp_path / "model.onnx"), threads=1)
    assert any("makes another image of the image" in note for note in engine.notes)
    some = np.random.default_rng(36).standard_normal((2, channels, height, width), np.float32)
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(some), torch.from_numpy(grid).expand(2, -1, -1, -1), align_corners=True
    ).numpy()
    for method in ("pixab", "ablation", "gradcam"):
        found, expected = (
            one.explain(of, method, targets=1).raw for one, of in ((engine, some), (plain, sampled))
        )
        assert_close(found, expected, factor=256)  # the image is sampled by another library


@pytest.mark.parametrize("size", [None, ("H", "W")], ids=["fixed", "open"])
def test_an_unfolding_in_front_leaves_rows_and_columns(size, tmp_path):
    """Windows of 2×2 by two Gathers whose indices count rows and columns, as torch writes unfold."""
    rng = np.random.default_rng(33)
    net = Net(rng)
    current, sizes = "images", []
    for axis, at in ((2, 2), (3, 4)):
        whole = net.add("Gather", net.add("Shape", "images"), net.constant(axis, np.int64), axis=0)
        starts = net.add("Range", net.constant(0, np.int64), whole, net.constant(2, np.int64))
        wide = net.add("Unsqueeze", starts, net.constant([0], np.int64))
        windows = net.add("Add", wide, net.constant([[0], [1]], np.int64))
        current = net.add("Gather", current, windows, axis=at)
        sizes.append(
            net.add(
                "Div", net.add("Reshape", whole, net.constant([1], np.int64)), net.constant([2], np.int64)
            )
        )
    turned = net.add("Transpose", current, perm=[0, 1, 2, 4, 3, 5])
    patches = net.add("Reshape", turned, net.add("Concat", net.constant([-1, 12], np.int64), *sizes, axis=0))
    layer, layer64 = net.conv1x1(patches, 12, CHANNELS)
    features = net.add("Relu", layer, name="features")
    last, linear = net.gemm(net.pooled(features), CHANNELS, CLASSES)

    def features64(images):
        count, _, height, width = images.shape
        split = images.reshape(count, 3, height // 2, 2, width // 2, 2).transpose(0, 1, 3, 5, 2, 4)
        return np.maximum(layer64(split.reshape(count, 12, height // 2, width // 2)), 0)

    part = net.part(last, lambda x: linear(features64(x).mean(axis=(2, 3))), (3, 8, 6), CLASSES)
    model = model_of(part.nodes, part.initializers, ["N", 3, *(size or (8, 6))], ["N", CLASSES])
    engine = camrt.load(save(model, tmp_path / "model.onnx"), preprocessing=camrt.Preprocessing(size=(8, 6)))
    assert engine.target.name == "features"
    assert engine.head.kind == "pooled-linear"
    some = np.random.default_rng(34).standard_normal((2, 3, 8, 6), np.float32)
    assert_close(engine.predict(some), part.logits64(some.astype(np.float64)), np.float32, factor=16)
    maps = engine.explain(some, "activation", targets=1, size="map").raw
    assert_close(maps, features64(some.astype(np.float64)).sum(axis=1), np.float32, factor=16)
