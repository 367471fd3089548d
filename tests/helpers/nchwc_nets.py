"""Networks as ONNX Runtime lays them out for a processor (NCHWc), made by hand beside their usual form.

plain, blocked = network(8, 20).models()   # blocks of 8 channels, 20 channels
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCKED = "com.microsoft.nchwc"


def to_blocked_weights(weight: np.ndarray, block: int, plain: bool) -> np.ndarray:
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


class NetworkPair:
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
        blocked = to_blocked_weights(weight, self.block, plain or by_channel)
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
                [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 12, 10])],
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


def build_network_pair(block: int, channels: int, opset: int = 17, mode: str = "nearest") -> NetworkPair:
    """Every operator that there is in blocks."""
    pair = NetworkPair(block, channels, opset)
    pair.convolution("images", "first", 3, channels, 3, plain=True, activation="Relu")
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
