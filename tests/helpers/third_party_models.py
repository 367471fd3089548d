"""A small network with the layers that other tools rewrite, and what ONNX Runtime itself answers.

model = residual()                        # images (N, 3, 24, 24) -> logits (N, 5), target tensor "A"
runtime_answers(model, batch)             # ONNX Runtime on the file as it is
runtime_answers(behind(model, "A", FLOAT, shape), maps)   # on what follows a tensor
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from helpers.zoo import Net, model_of

Array = np.ndarray[Any, Any]
SIZE = (3, 24, 24)
CLASSES = 5


def residual_model(
    channels: int = 8, features: int = 24, *, opset: int = 17, batch: int | str = "N", ends: str = "logits"
) -> onnx.ModelProto:
    """Convolutions, a skip connection, a depthwise layer with a gate, a concatenation, a pool and a Gemm."""
    net = Net(np.random.default_rng(11))

    def convolution(source: str, into: int, out: int, size: int, name: str | None = None, **more: Any) -> str:
        group = more.get("group", 1)
        weight, _ = net.weight(out, into // group, size, size, fan=into // group * size * size)
        bias, _ = net.weight(out, fan=16)
        pads = [size // 2] * 4
        return net.add("Conv", source, weight, bias, kernel_shape=[size, size], pads=pads, name=name, **more)

    first = net.add("Relu", convolution("images", 3, channels, 3, strides=[2, 2]))
    pooled = net.add("MaxPool", first, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    inner = net.add("Relu", convolution(pooled, channels, channels, 3))
    joined = net.add("Relu", net.add("Add", convolution(inner, channels, channels, 3), pooled))
    by_channel = net.add("LeakyRelu", convolution(joined, channels, channels, 3, group=channels), alpha=0.1)
    gate = net.add("Sigmoid", convolution(net.add("GlobalAveragePool", by_channel), channels, channels, 1))
    gated = net.add("Mul", by_channel, gate)
    smooth = net.add("AveragePool", gated, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    both = net.add("Concat", gated, smooth, axis=1)
    net.add("Relu", convolution(both, 2 * channels, features, 1), name="A")
    flat = net.add("Flatten", net.add("GlobalAveragePool", "A"))
    weight, bias, _, _ = net.linear(features, CLASSES)
    net.add("Gemm", flat, weight, bias, transB=1, name="logits")
    if ends != "logits":
        net.add(ends, "logits", name="scores", axis=-1)
    return model_of(
        net.nodes,
        net.initializers,
        [batch, *SIZE],
        [batch, CLASSES],
        opset,
        end="logits" if ends == "logits" else "scores",
    )


def random_images(count: int = 3, seed: int = 12) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *SIZE), np.float32)


def run_onnxruntime(
    model: onnx.ModelProto | Path,
    fed: Array | dict[str, Array],
    fetch: Sequence[str] | None = None,
    *,
    plain: bool = False,
) -> list[Array]:
    """What ONNX Runtime answers on the CPU; `plain` without any optimisation of the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    feeds = fed if isinstance(fed, dict) else {session.get_inputs()[0].name: fed}
    return session.run(fetch, feeds)


def save_optimised(path: Path, level: str, into: Path) -> Path:
    """The file that ONNX Runtime saves when it optimises one; level BASIC, EXTENDED or ALL."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(into)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return into


def extract_tail(
    model: onnx.ModelProto, tensor: str, element: int, shape: Sequence[int | str], end: str = "logits"
) -> onnx.ModelProto:
    """The nodes of a file that follow a tensor of it, as a file."""
    needed, kept = {end}, []
    for node in reversed(model.graph.node):
        if any(name in needed for name in node.output) and tensor not in node.output:
            kept.append(node)
            needed.update(node.input)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.input[:], part.graph.output[:], part.graph.value_info[:]
    part.graph.node.extend(reversed(kept))
    part.graph.input.append(onnx.helper.make_tensor_value_info(tensor, element, shape))
    part.graph.output.append(next(v for v in model.graph.output if v.name == end))
    return part
