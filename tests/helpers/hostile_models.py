"""Model files that camrt must refuse, or survive: one small function makes each.

Every function writes into the path it is given (and, where it says so, beside it) and returns that path.
The networks are tiny: images of 3×8×8, four classes, weights from a fixed seed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
DOMAIN = "local"


def make_tensor(name: str, *shape: int) -> TensorProto:
    """A float tensor of small values, the same in every run."""
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    return numpy_helper.from_array((values / 4).astype(np.float32), name)


def model_of(
    nodes: Sequence[NodeProto],
    initializers: Sequence[TensorProto] = (),
    *,
    inputs: Sequence[tuple[str, Sequence[int | str]]] = (("image", ("N", 3, 8, 8)),),
    output: tuple[str, Sequence[int | str]] = ("logits", ("N", 4)),
    functions: Sequence[FunctionProto] = (),
    domains: Sequence[str] = (),
    opset: int = OPSET,
) -> ModelProto:
    """A model of some nodes, in the default operator set and the domains named."""
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info(name, floats, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(output[0], floats, output[1])],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=IR_VERSION)


def save(model: ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def head_nodes(features: str) -> list[NodeProto]:
    """From features (N, 5, H, W) to logits (N, 4), with the weights of `head_weights`."""
    return [
        helper.make_node("GlobalAveragePool", [features], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["logits"], "head"),
    ]


def head_weights() -> list[TensorProto]:
    return [make_tensor("head.weight", 5, 4), make_tensor("head.bias", 4)]


def conv_node(image: str = "image", features: str = "features") -> NodeProto:
    return helper.make_node("Conv", [image, "conv.weight"], [features], "conv", pads=[1, 1, 1, 1])


def conv_weights() -> list[TensorProto]:
    return [make_tensor("conv.weight", 5, 3, 3, 3)]


def classifier_model() -> ModelProto:
    """A valid classifier: convolution, ReLU, pooling, one linear layer."""
    nodes = [conv_node(), helper.make_node("Relu", ["features"], ["active"], "relu"), *head_nodes("active")]
    return model_of(nodes, [*conv_weights(), *head_weights()])


def classifier(path: Path) -> Path:
    """A valid classifier in one file."""
    return save(classifier_model(), path)


# ---- files that are valid ONNX and not what camrt explains ----


def long_operator(path: Path) -> Path:
    """A valid classifier, one operator of which takes a minute: a runtime cannot stop inside of it.

    A kernel of 401×401 over a plane of 3000×3000 zeros: 1.4e12 products, 72 MB.
    """
    plane, kernel = 3000, 401
    nodes = [
        conv_node(),
        helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=1),
        helper.make_node("Mul", ["largest", "nought"], ["cell"]),
        helper.make_node("Expand", ["cell", "plane"], ["zeros"]),
        helper.make_node("Conv", ["zeros", "kernel"], ["long"], pads=[kernel // 2] * 4),
        helper.make_node("ReduceMax", ["long"], ["end"], keepdims=1),
        helper.make_node("Add", ["features", "end"], ["active"]),
        *head_nodes("active"),
    ]
    constants = [
        numpy_helper.from_array(np.float32(0), "nought"),
        numpy_helper.from_array(np.array([1, 1, plane, plane], np.int64), "plane"),
        numpy_helper.from_array(np.ones((1, 1, kernel, kernel), np.float32), "kernel"),
    ]
    return save(model_of(nodes, [*conv_weights(), *head_weights(), *constants]), path)


def endless_loop(path: Path, *, above: float | None = None) -> Path:
    """A valid classifier with a Loop, between convolution and pooling, that never ends.

    onnxruntime accepts the file; a run of it goes on until something stops it.

    Args:
        path: The file to write.
        above: Only features with a number above this one make the loop begin; None for all of them.
    """
    floats, flag = TensorProto.FLOAT, TensorProto.BOOL
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["go_on"]),
            helper.make_node("Relu", ["state"], ["next_state"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", flag, []),
            helper.make_tensor_value_info("state", floats, ["N", 5, 8, 8]),
        ],
        [
            helper.make_tensor_value_info("go_on", flag, []),
            helper.make_tensor_value_info("next_state", floats, ["N", 5, 8, 8]),
        ],
    )
    begins, constants = [], [numpy_helper.from_array(np.array(True), "always")]
    if above is not None:
        constants = [numpy_helper.from_array(np.float32(above), "most")]
        begins = [
            helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "most"], ["always"]),
        ]
    nodes = [
        conv_node(),
        *begins,
        helper.make_node("Loop", ["", "always", "features"], ["active"], "endless", body=body),
        *head_nodes("active"),
    ]
    return save(model_of(nodes, [*conv_weights(), *head_weights(), *constants]), path)


def long_constants(path: Path, links: int = 1500) -> Path:
    """A valid classifier that adds what a long chain of nodes makes of a constant."""
    nodes = [helper.make_node("Neg", [f"c{i}"], [f"c{i + 1}"]) for i in range(links)]
    nodes += [conv_node(), helper.make_node("Add", ["features", f"c{links}"], ["active"])]
    start = numpy_helper.from_array(np.full((1, 5, 1, 1), 0.5, np.float32), "c0")
    return save(model_of([*nodes, *head_nodes("active")], [*conv_weights(), *head_weights(), start]), path)


def endless_constant(path: Path) -> Path:
    """A valid classifier that adds what a Loop makes of constants, which never ends."""
    floats, flag = TensorProto.FLOAT, TensorProto.BOOL
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["go_on"]), helper.make_node("Relu", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", flag, []),
            helper.make_tensor_value_info("state", floats, [1, 5, 1, 1]),
        ],
        [
            helper.make_tensor_value_info("go_on", flag, []),
            helper.make_tensor_value_info("next", floats, [1, 5, 1, 1]),
        ],
    )
    nodes = [
        conv_node(),
        helper.make_node("Loop", ["", "always", "start"], ["shift"], "endless", body=body),
        helper.make_node("Add", ["features", "shift"], ["active"], "shifted"),
        *head_nodes("active"),
    ]
    constants = [
        numpy_helper.from_array(np.array(True), "always"),
        numpy_helper.from_array(np.ones((1, 5, 1, 1), np.float32), "start"),
    ]
    return save(model_of(nodes, [*conv_weights(), *head_weights(), *constants]), path)


def diamonds(path: Path, links: int = 1000) -> Path:
    """A valid classifier with 2^links paths from the image to its logits."""
    nodes, last = [conv_node()], "features"
    for i in range(links):
        nodes += [
            helper.make_node("Relu", [last], [f"left{i}"]),
            helper.make_node("Sigmoid", [last], [f"right{i}"]),
            helper.make_node("Max", [f"left{i}", f"right{i}"], [f"joined{i}"]),
        ]
        last = f"joined{i}"
    return save(model_of([*nodes, *head_nodes(last)], [*conv_weights(), *head_weights()]), path)


def many_branches(path: Path, count: int = 50) -> Path:
    """A valid classifier with an If behind another: each of them sees what all before it make."""
    nodes, last = [conv_node()], "features"
    for i in range(count):
        inner = [
            helper.make_graph(
                [helper.make_node(operator, [last], [f"{operator}{i}"])],
                operator,
                [],
                [helper.make_tensor_value_info(f"{operator}{i}", TensorProto.FLOAT, ["N", 5, 8, 8])],
            )
            for operator in ("Relu", "Sigmoid")
        ]
        nodes.append(
            helper.make_node("If", ["chosen"], [f"x{i}"], then_branch=inner[0], else_branch=inner[1])
        )
        last = f"x{i}"
    chosen = numpy_helper.from_array(np.array(True), "chosen")
    return save(model_of([*nodes, *head_nodes(last)], [*conv_weights(), *head_weights(), chosen]), path)


def huge_padding(path: Path, pixels: int = 10**9) -> Path:
    """A valid classifier whose convolution pads its rows without measure: one operator that takes seconds."""
    nodes = [
        helper.make_node(
            "Conv", ["image", "conv.weight"], ["features"], "conv", pads=[1, pixels, 1, 1], strides=[2, 256]
        ),
        helper.make_node("Relu", ["features"], ["active"], "relu"),
        *head_nodes("active"),
    ]
    return save(model_of(nodes, [*conv_weights(), *head_weights()]), path)


def several_inputs(path: Path) -> Path:
    """A valid classifier that takes a second image, a mask."""
    inputs = [("image", ("N", 3, 8, 8)), ("mask", ("N", 1, 8, 8))]
    nodes = [
        helper.make_node("Mul", ["image", "mask"], ["masked"]),
        conv_node("masked"),
        *head_nodes("features"),
    ]
    return save(model_of(nodes, [*conv_weights(), *head_weights()], inputs=inputs), path)


def no_spatial_tensor(path: Path) -> Path:
    """A classifier that flattens the image first, so that nothing after the input has rows and columns."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "hidden.weight"], ["hidden"], "hidden"),
        helper.make_node("Relu", ["hidden"], ["active"], "relu"),
        helper.make_node("Gemm", ["active", "head.weight", "head.bias"], ["logits"], "head"),
    ]
    return save(model_of(nodes, [make_tensor("hidden.weight", 192, 5), *head_weights()]), path)


def bad_output_shape(path: Path) -> Path:
    """A segmentation network: its output is (N, 5, 8, 8), not (N, C)."""
    output = ("features", ("N", 5, 8, 8))
    return save(model_of([conv_node()], conv_weights(), output=output), path)


def custom_operator(path: Path) -> Path:
    """A classifier with an operator of nobody's operator set."""
    nodes = [
        conv_node(),
        helper.make_node("Swish9", ["features"], ["active"], "swish", domain="example.ops"),
        *head_nodes("active"),
    ]
    return save(model_of(nodes, [*conv_weights(), *head_weights()], domains=["example.ops"]), path)


# ---- files that are not ONNX, or not all of it ----


def not_onnx_png(path: Path) -> Path:
    """A valid image, one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def truncated(path: Path, fraction: float = 0.5) -> Path:
    """The first part of a valid file, as a broken download leaves it."""
    data = classifier_model().SerializeToString()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


# ---- files that ask for far more than their size suggests ----


def terabyte_constant(path: Path) -> Path:
    """Ten bytes that ask for 4 TB: ConstantOfShape of 10⁶ × 10⁶, added to the features."""
    nodes = [
        conv_node(),
        helper.make_node("ConstantOfShape", ["huge"], ["zeros"], "terabytes"),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], "largest", keepdims=0),
        helper.make_node("Add", ["features", "zero"], ["active"], "add"),
        *head_nodes("active"),
    ]
    huge = numpy_helper.from_array(np.array([10**6, 10**6]), "huge")
    return save(model_of(nodes, [*conv_weights(), *head_weights(), huge]), path)


def terabyte_initializer(path: Path) -> Path:
    """An initializer that says it has 10⁶ × 10⁶ values and holds none."""
    claim = TensorProto(name="head.weight", data_type=TensorProto.FLOAT, dims=[10**6, 10**6])
    nodes = [conv_node(), *head_nodes("features")]
    return save(model_of(nodes, [*conv_weights(), claim, make_tensor("head.bias", 4)]), path)


def many_dimensions(path: Path, links: int = 40) -> Path:
    """A chain of Gather nodes, each of which doubles the number of dimensions: 2⁴⁰ at its end.

    onnx's and onnxruntime's shape inference follow it to the end, in exponential time and memory.
    """
    nodes = [helper.make_node("Gather", ["g0", "g0"], ["g1"], "link0")]
    nodes += [
        helper.make_node("Gather", [f"g{i}", f"g{i}"], [f"g{i + 1}"], f"link{i}") for i in range(1, links)
    ]
    start = numpy_helper.from_array(np.zeros((1, 1), np.int64), "g0")
    last = [
        conv_node(),
        helper.make_node("Cast", [f"g{links}"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["cast"], ["zero"], keepdims=0),
        helper.make_node("Add", ["features", "zero"], ["active"]),
        *head_nodes("active"),
    ]
    return save(model_of([*nodes, *last], [*conv_weights(), *head_weights(), start]), path)


def nested_functions(path: Path, levels: int = 12, calls: int = 10) -> Path:
    """A kilobyte of functions, each calling the next ten times: 10¹² nodes once inlined."""
    functions = []
    opset = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    for level in range(levels):
        last = level == levels - 1
        body = [
            helper.make_node(
                "Relu" if last else f"f{level + 1}",
                ["x" if call == 0 else f"t{call}"],
                ["y" if call == calls - 1 else f"t{call + 1}"],
                domain="" if last else DOMAIN,
            )
            for call in range(calls)
        ]
        functions.append(helper.make_function(DOMAIN, f"f{level}", ["x"], ["y"], body, opset))
    call = helper.make_node("f0", ["features"], ["active"], "bomb", domain=DOMAIN)
    nodes = [conv_node(), call, *head_nodes("active")]
    model = model_of(nodes, [*conv_weights(), *head_weights()], functions=functions, domains=[DOMAIN])
    return save(model, path)


def recursive_function(path: Path) -> Path:
    """A function that calls itself, by way of another."""
    opset = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    functions = [
        helper.make_function(
            DOMAIN, one, ["x"], ["y"], [helper.make_node(other, ["x"], ["y"], domain=DOMAIN)], opset
        )
        for one, other in (("ping", "pong"), ("pong", "ping"))
    ]
    call = helper.make_node("ping", ["features"], ["active"], "call", domain=DOMAIN)
    nodes = [conv_node(), call, *head_nodes("active")]
    model = model_of(nodes, [*conv_weights(), *head_weights()], functions=functions, domains=[DOMAIN])
    return save(model, path)


def nested_subgraphs(path: Path, depth: int = 200) -> Path:
    """If in If in If: deeper than protobuf parses, written field by field since it cannot be built either."""

    def field(number: int, data: bytes) -> bytes:
        size, length = len(data), b""
        while size >= 0x80:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    graph = b""
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + bytes([20 << 3 & 0x7F | 0x80, 1, 5])
        graph = field(1, field(4, b"If") + field(5, attribute))
    path.write_bytes(bytes([1 << 3, IR_VERSION]) + field(7, graph) + field(8, bytes([2 << 3, OPSET])))
    return path


def many_empty_nodes(path: Path, count: int = 5_000_000) -> Path:
    """Two bytes for each of millions of nodes, which take hundreds of bytes each once parsed."""
    nodes = b"\x0a\x00" * count
    size = len(nodes)
    length = b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    path.write_bytes(bytes([1 << 3, IR_VERSION, 7 << 3 | 2]) + length + bytes([size]) + nodes)
    return path


# ---- files that are valid, and ask for more memory than a call may take ----


def many_channels(path: Path) -> Path:
    """A classifier of images with 100 000 colours, of any size: noise for it would be 19 GiB an image."""
    weight = numpy_helper.from_array(np.ones((2, 100_000, 1, 1), np.float16), "narrow")
    nodes = [
        helper.make_node("Cast", ["narrow"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["image", "wide"], ["features"], "conv"),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["logits"], "flatten"),
    ]
    inputs = [("image", ("N", 100_000, "H", "W"))]
    return save(model_of(nodes, [weight], inputs=inputs, output=("logits", ("N", 2))), path)


def long_images(path: Path, width: int = 30_000) -> Path:
    """A classifier of images 8 pixels high and 30 000 wide: a square of that is 7 GB in float64."""
    nodes = [conv_node(), helper.make_node("Relu", ["features"], ["active"], "relu"), *head_nodes("active")]
    inputs = [("image", ("N", 3, 8, width))]
    return save(model_of(nodes, [*conv_weights(), *head_weights()], inputs=inputs), path)


def wide_padding(path: Path) -> Path:
    """A head's pointwise convolution with a border of 30 000 cells around its map: 3.6 GiB a channel."""
    nodes = [
        conv_node(),
        helper.make_node("Relu", ["features"], ["active"], "relu"),
        helper.make_node("Conv", ["active", "mix"], ["padded"], "mix", pads=[30_000] * 4),
        *head_nodes("padded"),
    ]
    return save(model_of(nodes, [*conv_weights(), make_tensor("mix", 5, 5, 1, 1), *head_weights()]), path)


def narrow_bottleneck(path: Path, width: int = 200_000) -> Path:
    """A head of two layers with one unit between: as one matrix they would be 600 GiB."""
    nodes = [
        conv_node(),
        helper.make_node("Relu", ["features"], ["active"], "relu"),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "out"], ["wide"], "out"),
        helper.make_node("MatMul", ["wide", "waist"], ["one"], "waist"),
        helper.make_node("MatMul", ["one", "out_again"], ["wide_again"], "out_again"),
        helper.make_node("MatMul", ["wide_again", "waist_again"], ["waist_of_two"], "waist_again"),
        helper.make_node("MatMul", ["waist_of_two", "last"], ["logits"], "last"),
    ]
    sizes = {"out": (5, width), "waist": (width, 1), "out_again": (1, width), "waist_again": (width, 1)}
    weights = [make_tensor(name, *shape) for name, shape in sizes.items()]
    return save(model_of(nodes, [*conv_weights(), *weights, make_tensor("last", 1, 4)]), path)


def many_classes_and_channels(path: Path, width: int = 30_000) -> Path:
    """A head without weights, with a class for each of its many channels."""
    nodes = [
        helper.make_node("Conv", ["image", "spread"], ["features"], "conv"),
        helper.make_node("Relu", ["features"], ["active"], "relu"),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["logits"], "flatten"),
    ]
    output = ("logits", ("N", width))
    return save(model_of(nodes, [make_tensor("spread", width, 3, 1, 1)], output=output), path)


def counted_from_pixels(path: Path) -> Path:
    """The features are added to a sum of as many zeros as the image's largest number says, times 10⁸."""
    nodes = [
        conv_node(),
        helper.make_node("ReduceMax", ["image"], ["largest"], keepdims=0),
        helper.make_node("Abs", ["largest"], ["positive"]),
        helper.make_node("Mul", ["positive", "times"], ["many"]),
        helper.make_node("Cast", ["many"], ["count"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["count", "one"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], "gigabytes"),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["features", "nothing"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["active"], "relu"),
        *head_nodes("active"),
    ]
    constants = [
        numpy_helper.from_array(np.float32(1e8), "times"),
        numpy_helper.from_array(np.array([1]), "one"),
    ]
    return save(model_of(nodes, [*conv_weights(), *head_weights(), *constants]), path)


def kept_by_a_loop(path: Path, times: int = 10_000) -> Path:
    """A Loop that keeps a copy of the features, made larger, each of ten thousand times, and sums them."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["go_on"]),
            helper.make_node("Relu", ["large"], ["kept"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["N", 5, 256, 256]),
        ],
    )
    nodes = [
        conv_node(),
        helper.make_node("Tile", ["features", "repeats"], ["large"], "tile"),
        helper.make_node("Loop", ["times", ""], ["all"], "loop", body=body),
        helper.make_node("ReduceSum", ["all", "first"], ["active"], "sum", keepdims=0),
        *head_nodes("active"),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 1, 32, 32]), "repeats"),
        numpy_helper.from_array(np.array(times), "times"),
        numpy_helper.from_array(np.array([0]), "first"),
    ]
    return save(model_of(nodes, [*conv_weights(), *head_weights(), *constants]), path)


def large_constants(path: Path, count: int = 40, numbers: int = 30_000_000) -> Path:
    """Sums of constants, each of 120 MB and 40 of them, that could all be computed beforehand."""
    parts = [f"part{i}" for i in range(count)]
    nodes = [
        conv_node(),
        helper.make_node("ReduceMean", ["image"], ["level"], keepdims=0),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], "zeros"),
        *(helper.make_node("Add", ["zeros", f"number{i}"], [parts[i]]) for i in range(count)),
        *(helper.make_node("Mul", [part, "level"], [f"{part}_scaled"]) for part in parts),
        *(helper.make_node("ReduceMax", [f"{part}_scaled"], [f"{part}_max"], keepdims=0) for part in parts),
        helper.make_node("Sum", ["features", *(f"{part}_max" for part in parts)], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["active"], "relu"),
        *head_nodes("active"),
    ]
    constants = [numpy_helper.from_array(np.array([numbers]), "shape")]
    constants += [numpy_helper.from_array(np.float32(i), f"number{i}") for i in range(count)]
    return save(model_of(nodes, [*conv_weights(), *head_weights(), *constants]), path)


# ---- external data ----


def external(path: Path, location: str, *, offset: str | None = None, length: str | None = None) -> Path:
    """A classifier whose convolution weights are said to be at `location`, which is not written."""
    model = classifier_model()
    weights = next(item for item in model.graph.initializer if item.name == "conv.weight")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            weights.external_data.add(key=key, value=value)
    return save(model, path)


def external_bytes() -> bytes:
    """What the external file of `external` should hold."""
    return bytes(make_tensor("conv.weight", 5, 3, 3, 3).raw_data)


def external_valid(path: Path) -> Path:
    """A valid classifier with its convolution weights in `weights.bin` beside it."""
    path.with_name("weights.bin").write_bytes(external_bytes())
    return external(path, "weights.bin")


def external_missing(path: Path) -> Path:
    """Its weights are in a file that is not there."""
    return external(path, "weights.bin")


def external_parent(path: Path) -> Path:
    """Its weights are in the folder above: `../<folder>-secret.bin`, which exists."""
    secret = path.parent.with_name(f"{path.parent.name}-secret.bin")
    secret.write_bytes(external_bytes())
    return external(path, f"../{secret.name}")


def external_absolute(path: Path) -> Path:
    """Its weights are at an absolute path, which exists."""
    secret = path.with_name("secret.bin")
    secret.write_bytes(external_bytes())
    return external(path, str(secret.absolute()))


def external_symlink(path: Path) -> Path:
    """Its weights are a symbolic link, `weights.bin`, to a file beside it."""
    path.with_name("secret.bin").write_bytes(external_bytes())
    path.with_name("weights.bin").symlink_to("secret.bin")
    return external(path, "weights.bin")


def external_symlinked_folder(path: Path) -> Path:
    """Its weights are in `inner/`, a symbolic link to a folder elsewhere."""
    real = path.with_name("real")
    real.mkdir()
    (real / "weights.bin").write_bytes(external_bytes())
    path.with_name("inner").symlink_to("real")
    return external(path, "inner/weights.bin")


def external_hardlink(path: Path) -> Path:
    """Its weights are a second name of another file, which onnxruntime by itself would load."""
    secret = path.with_name("secret.bin")
    secret.write_bytes(external_bytes())
    path.with_name("weights.bin").hardlink_to(secret)
    return external(path, "weights.bin")


def external_fifo(path: Path) -> Path:
    """Its weights are a named pipe, which would block whoever opens it."""
    os.mkfifo(path.with_name("weights.bin"))
    return external(path, "weights.bin")


class FolderMakingPickle:
    """What makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (self.marker,)


REFUSED: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        custom_operator,
        external_absolute,
        external_fifo,
        external_hardlink,
        external_missing,
        external_parent,
        external_symlink,
        external_symlinked_folder,
        many_dimensions,
        many_empty_nodes,
        nested_functions,
        nested_subgraphs,
        not_onnx_png,
        recursive_function,
        terabyte_constant,
        terabyte_initializer,
        truncated,
    )
}
"""Every file here that must be refused at reading."""

READ: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        classifier,
        external_valid,
        endless_loop,
        several_inputs,
        no_spatial_tensor,
        bad_output_shape,
    )
}
"""Every file here that is valid ONNX: reading takes it, whatever `camrt.load` then says of it."""


LARGE: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        counted_from_pixels,
        kept_by_a_loop,
        large_constants,
        long_images,
        many_channels,
        many_classes_and_channels,
        narrow_bottleneck,
        wide_padding,
    )
}
"""Every file here that is valid, and takes more memory than a call may, where nobody asks before."""


def load(path: Path) -> ModelProto:
    """The file as it is, unchecked, without its external data."""
    return onnx.load_model(path, load_external_data=False)
