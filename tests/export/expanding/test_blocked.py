"""Files that ONNX Runtime has laid out for one processor: written by it where it does, and made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign import optimised, pictures, residual, runtime_answers
from onnx import TensorProto, helper, numpy_helper
from tolerances import assert_close
from zoo import save

import camrt
from camrt.errors import ModelFileError, UnsupportedModelError
from camrt.export.reading import read_model

BLOCKED = "com.microsoft.nchwc"


@pytest.mark.parametrize(
    ("channels", "features"), [(8, 24), (16, 32), (20, 36), (32, 64)], ids=lambda number: str(number)
)
def test_a_file_that_the_runtime_saved_at_its_highest_level(
    channels: int, features: int, tmp_path: Path
) -> None:
    source = save(residual(channels, features, ends="Softmax"), tmp_path / "model.onnx")
    saved = optimised(source, "ALL", tmp_path / "saved.onnx")
    if not any(node.domain == BLOCKED for node in onnx.load(saved).graph.node):
        pytest.skip("this processor's kernels take maps as they are")
    batch = pictures()
    engine, other = camrt.load(saved), camrt.load(source)
    assert engine.interface.recognised == "Softmax"
    assert engine.target.shape == other.target.shape == (features, 6, 6)
    assert engine.head.kind == "pooled-linear"
    found = engine.probabilities(engine.predict(batch))
    assert_close(found, runtime_answers(saved, batch)[0], factor=8)
    for method in ("gradcam", "ablation", "pixab", "gradient", "eigen"):
        maps, expected = (each.explain(batch, method, targets=2).raw for each in (engine, other))
        assert_close(maps, expected, factor=64)  # differences of scores, and other orders of sums before them


# ---------------------------------------------------------------- made by hand, for a processor of any block


def in_blocks(weight: np.ndarray, block: int, plain: bool) -> np.ndarray:
    """Filters (O, I, h, w) in the runtime's order, element by element; plain where what they read is."""
    out, into, height, width = weight.shape
    rows = -(-out // block) * block
    columns = into if plain else -(-into // block) * block
    inner = 1 if plain else block
    flat = np.zeros(rows * columns * height * width, np.float32)
    for o, i, y, x in np.ndindex(weight.shape):
        place = (o // block) * (columns // inner) + i // inner
        place = ((place * height + y) * width + x) * inner + i % inner
        flat[place * block + o % block] = weight[o, i, y, x]
    return flat.reshape(rows, columns, height, width)


class Pair:
    """The same network in the usual layout and in blocks."""

    def __init__(self, block: int, channels: int, opset: int = 17) -> None:
        self.block, self.channels, self.opset = block, channels, opset
        self.rng = np.random.default_rng(9)
        self.nodes: tuple[list[onnx.NodeProto], list[onnx.NodeProto]] = ([], [])
        self.stored: tuple[list[TensorProto], list[TensorProto]] = ([], [])
        self.count = 0

    def both(self, operator: str, inputs: str, output: str, own: bool = False, **attributes: Any) -> None:
        for nodes, domain in zip(self.nodes, ("", BLOCKED if own else ""), strict=True):
            nodes.append(helper.make_node(operator, inputs.split(), [output], domain=domain, **attributes))

    def enter(self, source: str, output: str, last: bool = False) -> None:
        if last:
            self.nodes[0].append(helper.make_node("Transpose", [source], [output], perm=[0, 3, 1, 2]))
        else:
            self.nodes[0].append(helper.make_node("Identity", [source], [output]))
        self.nodes[1].append(
            helper.make_node("ReorderInput", [source], [output], domain=BLOCKED, channels_last=int(last))
        )

    def leave(self, source: str, output: str, channels: int, last: bool = False) -> None:
        if last:
            self.nodes[0].append(helper.make_node("Transpose", [source], [output], perm=[0, 2, 3, 1]))
        else:
            self.nodes[0].append(helper.make_node("Identity", [source], [output]))
        self.nodes[1].append(
            helper.make_node(
                "ReorderOutput",
                [source],
                [output],
                domain=BLOCKED,
                channels=channels,
                channels_last=int(last),
            )
        )

    def convolution(
        self, source: str, output: str, into: int, out: int, size: int = 1, *, plain: bool = False,
        by_channel: bool = False, activation: str = "", summed: str = "", stride: int = 1,
    ) -> None:  # fmt: skip
        self.count += 1
        weight_name, bias_name = f"w{self.count}", f"b{self.count}"
        own = 1 if by_channel else into
        weight = (self.rng.standard_normal((out, own, size, size)) / np.sqrt(own * size * size)).astype(
            np.float32
        )
        bias = self.rng.standard_normal(out).astype(np.float32)
        filled = -(-out // self.block) * self.block
        blocked = in_blocks(weight, self.block, plain or by_channel)
        for tensors, values in zip(
            self.stored, ((weight, bias), (blocked, np.pad(bias, (0, filled - out)))), strict=True
        ):
            tensors.append(numpy_helper.from_array(values[0], weight_name))
            tensors.append(numpy_helper.from_array(values[1], bias_name))
        common = {"kernel_shape": [size, size], "pads": [size // 2] * 4, "strides": [stride] * 2}
        groups = (out, filled) if by_channel else (1, 1)
        made = f"{output}_sum" if activation or summed else output
        self.nodes[0].append(
            helper.make_node("Conv", [source, weight_name, bias_name], [made], group=groups[0], **common)
        )
        if summed:
            last = f"{output}_joined" if activation else output
            self.nodes[0].append(helper.make_node("Add", [made, summed], [last]))
            made = last
        if activation == "HardSwish":  # an operator of its own from opset 14 on
            gate = helper.make_node("HardSigmoid", [made], [f"{output}_gate"], alpha=1 / 6, beta=0.5)
            self.nodes[0].extend([gate, helper.make_node("Mul", [made, f"{output}_gate"], [output])])
        elif activation:
            self.nodes[0].append(helper.make_node(activation, [made], [output]))
        more: dict[str, Any] = {"activation": activation} if activation else {}
        inputs = [source, weight_name, bias_name, *([summed] if summed else [])]
        self.nodes[1].append(
            helper.make_node("Conv", inputs, [output], domain=BLOCKED, group=groups[1], **common, **more)
        )

    def models(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        made = []
        for nodes, tensors in zip(self.nodes, self.stored, strict=True):
            graph = helper.make_graph(
                nodes,
                "pair",
                [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["N", 3, 12, 10])],
                [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
                tensors,
            )
            imports = [helper.make_opsetid("", self.opset), helper.make_opsetid(BLOCKED, 1)]
            made.append(helper.make_model(graph, opset_imports=imports, ir_version=8))
        return made[0], made[1]

    def end(self, source: str, channels: int) -> None:
        self.both("GlobalAveragePool", source, "pooled")
        self.both("Flatten", "pooled", "flat")
        dense = numpy_helper.from_array(self.rng.standard_normal((channels, 4)).astype(np.float32), "dense")
        shift = numpy_helper.from_array(self.rng.standard_normal(4).astype(np.float32), "shift")
        for tensors in self.stored:
            tensors.extend([dense, shift])
        self.both("Gemm", "flat dense shift", "logits")


def network(block: int, channels: int, opset: int = 17, mode: str = "nearest") -> Pair:
    """Every operator that there is in blocks."""
    pair = Pair(block, channels, opset)
    pair.convolution("pictures", "first", 3, channels, 3, plain=True, activation="Relu")
    pair.both("MaxPool", "first", "halved", own=True, kernel_shape=[2, 2], strides=[2, 2])
    pair.convolution("halved", "joined", channels, channels, 3, activation="Relu", summed="halved")
    pair.convolution("joined", "each", channels, channels, 3, by_channel=True, activation="Sigmoid")
    pair.both("Mul", "each joined", "product")
    pair.both("AveragePool", "product", "smooth", own=True, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    pair.both("Add", "smooth product", "added")
    pair.both("Tanh", "added", "bent_once")
    pair.convolution("bent_once", "bent", channels, channels, activation="HardSwish")
    pair.leave("bent", "turned", channels, last=True)
    pair.both("Abs", "turned", "size")
    pair.enter("size", "back", last=True)
    pair.convolution("back", "last", channels, channels + 4, activation="Relu")
    pair.leave("last", "A", channels + 4)
    pair.end("A", channels + 4)
    return pair


@pytest.mark.parametrize(
    ("block", "channels", "opset"),
    [(8, 8, 17), (8, 20, 17), (16, 20, 17), (16, 8, 9), (8, 12, 10), (16, 36, 11)],
    ids=lambda number: str(number),
)
def test_every_operator_is_turned_back(block: int, channels: int, opset: int, tmp_path: Path) -> None:
    """Whatever block this processor has: the dimensions say which the file was made for."""
    plain, blocked = network(block, channels, opset).models()
    path = tmp_path / "model.onnx"
    path.write_bytes(blocked.SerializeToString())
    read = read_model(path).model
    onnx.checker.check_model(read)
    assert all(not node.domain for node in read.graph.node)
    batch = np.random.default_rng(1).standard_normal((2, 3, 12, 10), np.float32)
    assert_close(runtime_answers(read, batch)[0], runtime_answers(plain, batch)[0], factor=4)
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
    pair = Pair(8, 8, opset)
    pair.convolution("pictures", "first", 3, 8, 3, plain=True)
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
    assert_close(camrt.load(path).predict(batch), runtime_answers(plain, batch)[0], factor=4)


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
    model = residual(32, 32)
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
    saved = optimised(save(model, tmp_path / "model.onnx"), "ALL", tmp_path / "saved.onnx")
    batch = pictures()
    assert_close(camrt.load(saved).predict(batch), runtime_answers(model, batch)[0], factor=4)


# ---------------------------------------------------------------- what does not fit


def broken(change: str) -> onnx.ModelProto:
    model = network(8, 20).models()[1]
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
        next(node for node in graph.node if node.op_type == "ReorderOutput").input[0] = "pictures"
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
