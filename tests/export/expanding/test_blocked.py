"""Files that ONNX Runtime has laid out for one processor: written by it where it does, and made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import camrt
from camrt.errors import ModelFileError, UnsupportedModelError
from camrt.export.io.model_file import read_model
from helpers.nchwc_nets import BLOCKED, NetworkPair, build_network_pair
from helpers.third_party_models import random_images, residual_model, run_onnxruntime, save_optimised
from helpers.tolerances import assert_close
from helpers.zoo import save


@pytest.mark.parametrize(
    ("channels", "features"), [(8, 24), (16, 32), (20, 36), (32, 64)], ids=lambda number: str(number)
)
def test_a_file_that_the_runtime_saved_at_its_highest_level(
    channels: int, features: int, tmp_path: Path
) -> None:
    source = save(residual_model(channels, features, ends="Softmax"), tmp_path / "model.onnx")
    saved = save_optimised(source, "ALL", tmp_path / "saved.onnx")
    if not any(node.domain == BLOCKED for node in onnx.load(saved).graph.node):
        pytest.skip("this processor's kernels take maps as they are")
    batch = random_images()
    engine, other = camrt.load(saved), camrt.load(source)
    assert engine.interface.recognised == "Softmax"
    assert engine.target.shape == other.target.shape == (features, 6, 6)
    assert engine.head.kind == "pooled-linear"
    found = engine.probabilities(engine.predict(batch))
    assert_close(found, run_onnxruntime(saved, batch)[0], factor=8)
    for method in ("gradcam", "ablation", "pixab", "gradient", "eigen"):
        maps, expected = (each.explain(batch, method, targets=2).raw for each in (engine, other))
        assert_close(maps, expected, factor=64)  # differences of scores, and other orders of sums before them


# ---------------------------------------------------------------- made by hand


@pytest.mark.parametrize(
    ("block", "channels", "opset"),
    [(8, 8, 17), (8, 20, 17), (16, 20, 17), (16, 8, 9), (8, 12, 10), (16, 36, 11)],
    ids=lambda number: str(number),
)
def test_every_operator_is_turned_back(block: int, channels: int, opset: int, tmp_path: Path) -> None:
    """Whatever block this processor has: the dimensions say which the file was made for."""
    plain, blocked = build_network_pair(block, channels, opset).models()
    path = tmp_path / "model.onnx"
    path.write_bytes(blocked.SerializeToString())
    read = read_model(path).model
    onnx.checker.check_model(read)
    assert all(not node.domain for node in read.graph.node)
    batch = np.random.default_rng(1).standard_normal((2, 3, 12, 10), np.float32)
    assert_close(run_onnxruntime(read, batch)[0], run_onnxruntime(plain, batch)[0], factor=4)
    # Filters without what they were filled up with, number by number.
    for one, other in zip(stored(read), stored(plain), strict=True):
        np.testing.assert_array_equal(one, other)
    engine = camrt.load(path)
    assert engine.target.shape == (channels + 4, 6, 5)
    other_engine = camrt.load(save(plain_imports(plain), tmp_path / "plain.onnx"))
    for method in ("gradcam", "ablation", "pixab"):
        found, wanted = (each.explain(batch, method, targets=1).raw for each in (engine, other_engine))
        assert_close(found, wanted, factor=16)


def stored(model: onnx.ModelProto) -> list[np.ndarray]:
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    return sorted(arrays, key=lambda values: (values.shape, float(values.sum())))


def plain_imports(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.opset_import[1:]
    return model


@pytest.mark.parametrize("opset", [9, 10, 11, 17])
def test_larger_maps(opset: int, tmp_path: Path) -> None:
    """Each number four times; and between them, as the runtime computes it on a processor with blocks."""
    pair = NetworkPair(8, 8, opset)
    pair.convolution("images", "first", 3, 8, 3, plain=True)
    pair.nodes[1].append(
        helper.make_node(
            "Upsample", ["first"], ["larger"], domain=BLOCKED, scales=[1, 1, 2, 3], mode="nearest"
        )
    )
    scales = numpy_helper.from_array(np.array([1, 1, 2, 3], np.float32), "scales")
    pair.stored[0].append(scales)
    if opset < 11:
        operator = "Upsample" if opset == 9 else "Resize"
        pair.nodes[0].append(helper.make_node(operator, ["first", "scales"], ["larger"], mode="nearest"))
    else:
        pair.stored[0].append(numpy_helper.from_array(np.zeros(0, np.float32), "region"))
        pair.nodes[0].append(
            helper.make_node(
                "Resize", ["first", "region", "scales"], ["larger"], mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            )
        )  # fmt: skip
    pair.convolution("larger", "last", 8, 12)
    pair.leave("last", "A", 12)
    pair.end("A", 12)
    plain, blocked = pair.models()
    path = tmp_path / "model.onnx"
    path.write_bytes(blocked.SerializeToString())
    batch = np.random.default_rng(1).standard_normal((2, 3, 12, 10), np.float32)
    assert_close(camrt.load(path).predict(batch), run_onnxruntime(plain, batch)[0], factor=4)


@pytest.mark.parametrize(
    ("mode", "places"),
    [
        ("nearest", "asymmetric"),
        ("linear", "asymmetric"),
        ("linear", "half_pixel"),
        ("linear", "align_corners"),
    ],
)
def test_larger_maps_of_the_runtime(mode: str, places: str, tmp_path: Path) -> None:
    model = residual_model(32, 32)
    node = next(node for node in model.graph.node if node.op_type == "AveragePool")
    source, made = node.input[0], node.output[0]
    index = list(model.graph.node).index(node)
    del model.graph.node[index]
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    model.graph.initializer.append(scales)
    how = {"nearest_mode": "floor"} if mode == "nearest" else {}
    model.graph.node.insert(
        index,
        helper.make_node(
            "Resize",
            [source, "", "scales"],
            ["larger"],
            mode=mode,
            coordinate_transformation_mode=places,
            **how,
        ),
    )
    model.graph.node.insert(
        index + 1, helper.make_node("AveragePool", ["larger"], [made], kernel_shape=[2, 2], strides=[2, 2])
    )
    saved = save_optimised(save(model, tmp_path / "model.onnx"), "ALL", tmp_path / "saved.onnx")
    batch = random_images()
    assert_close(camrt.load(saved).predict(batch), run_onnxruntime(model, batch)[0], factor=4)


# ---------------------------------------------------------------- what does not fit


def broken(change: str) -> onnx.ModelProto:
    model = build_network_pair(8, 20).models()[1]
    graph = model.graph
    by_name = {tensor.name: tensor for tensor in graph.initializer}
    if change == "a-filter-that-is-computed":
        graph.node.insert(0, helper.make_node("Identity", ["w2"], ["made"]))
        next(node for node in graph.node if "w2" in node.input and "made" not in node.output).input[1] = (
            "made"
        )
    elif change == "rows-that-fill-no-block":
        by_name["w2"].CopyFrom(numpy_helper.from_array(np.ones((20, 24, 3, 3), np.float32), "w2"))
    elif change == "a-filter-of-rank-2":
        by_name["w2"].CopyFrom(numpy_helper.from_array(np.ones((24, 24), np.float32), "w2"))
    elif change == "fewer-channels-than-are-read":
        next(node for node in graph.node if node.op_type == "ReorderOutput").attribute[0].i = 5
    elif change == "no-channels":
        next(node for node in graph.node if node.op_type == "ReorderOutput").attribute[0].i = 0
    elif change == "a-reshape-of-blocks":
        index = next(i for i, node in enumerate(graph.node) if node.op_type == "Tanh")
        graph.node[index].op_type = "Flatten"
    elif change == "out-of-nowhere":
        next(node for node in graph.node if node.op_type == "ReorderOutput").input[0] = "images"
    elif change == "a-weight-in-between":
        graph.initializer.append(numpy_helper.from_array(np.ones((1, 24, 1, 1), np.float32), "by"))
        next(node for node in graph.node if node.op_type == "Mul").input[1] = "by"
    elif change == "another-operator":
        next(node for node in graph.node if node.op_type == "ReorderInput").op_type = "ReorderNothing"
    return model


@pytest.mark.parametrize(
    "change",
    [
        "a-filter-that-is-computed",
        "rows-that-fill-no-block",
        "a-filter-of-rank-2",
        "fewer-channels-than-are-read",
        "no-channels",
        "a-reshape-of-blocks",
        "out-of-nowhere",
        "a-weight-in-between",
        "another-operator",
    ],
)
def test_what_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(broken(change).SerializeToString())
    with pytest.raises((UnsupportedModelError, ModelFileError), match="ORT_ENABLE_EXTENDED"):
        read_model(path)
