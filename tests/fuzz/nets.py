"""Small classifiers of the parts that the other helpers of the tests do not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from helpers.zoo import Net, model_of

__all__ = ["NETS", "thinned"]

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
CLASSES = 4
Made = Callable[[], ModelProto]
NETS: dict[str, Made] = {}


def net(name: str) -> Callable[[Made], Made]:
    def register(make: Made) -> Made:
        NETS[name] = make
        return make

    return register


def begun(channels: int = 6, source: str = "images", stride: int = 2) -> tuple[Net, str]:
    """A net of a convolution and a ReLU."""
    made = Net(np.random.default_rng(3))
    return made, made.add("Relu", convolved(made, source, 3, channels, stride=stride))


def convolved(
    made: Net, source: str, into: int, out: int, size: int = 3, stride: int = 1, **more: Any
) -> str:
    weight, _ = made.weight(out, into, size, size, fan=into * size * size)
    pads = [size // 2] * 4
    return made.add("Conv", source, weight, pads=pads, strides=[stride] * 2, **more)


def ended(
    made: Net, source: str, channels: int, size: Sequence[int | str] = ("N", 3, 8, 8), opset: int = 17
) -> ModelProto:
    """The mean over the cells, and a linear layer."""
    flat = made.add("Flatten", made.add("GlobalAveragePool", source))
    return finished(made, flat, channels, size, opset)


def finished(
    made: Net, flat: str, features: int, size: Sequence[int | str] = ("N", 3, 8, 8), opset: int = 17
) -> ModelProto:
    """A linear layer."""
    weight, bias, _, _ = made.linear(features, CLASSES)
    made.add("Gemm", flat, weight, bias, transB=1, name="logits")
    return model_of(made.nodes, made.initializers, size, [size[0], CLASSES], opset)


def values(name: str, shape: Sequence[int | str] | None, element: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


@net("if")
def _() -> ModelProto:
    made, features = begun()
    largest = made.add("ReduceMax", features, keepdims=0)
    chosen = made.add("Greater", largest, made.constant(0.5))
    branches = {
        f"{which}_branch": helper.make_graph(
            [helper.make_node(operator, [features], [f"{which}_made"])],
            which,
            [],
            [values(f"{which}_made", None)],
        )
        for which, operator in (("then", "Relu"), ("else", "Tanh"))
    }
    return ended(made, made.add("If", chosen, **branches), 6)


@net("loop")
def _() -> ModelProto:
    made, features = begun()
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["go_on"]),
            helper.make_node("Mul", ["state", "half"], ["smaller"]),
            helper.make_node("Add", ["smaller", features], ["next"]),
        ],
        "body",
        [values("turn", [], INT64), values("going", [], BOOL), values("state", ["N", 6, 4, 4])],
        [values("go_on", [], BOOL), values("next", ["N", 6, 4, 4])],
        [numpy_helper.from_array(np.float32(0.5), "half")],
    )
    turns, always = made.constant(3, np.int64), made.constant(True, np.bool_)
    return ended(made, made.add("Loop", turns, always, features, body=body), 6)


@net("scan")
def _() -> ModelProto:
    made, features = begun()
    turned = made.add("Transpose", features, perm=[2, 0, 1, 3])
    body = helper.make_graph(
        [
            helper.make_node("Add", ["sum", "row"], ["next"]),
            helper.make_node("Tanh", ["next"], ["shown"]),
        ],
        "rows",
        [values("sum", [1, 6, 4]), values("row", [1, 6, 4])],
        [values("next", [1, 6, 4]), values("shown", [1, 6, 4])],
    )
    start = made.constant(np.zeros((1, 6, 4)))
    made.nodes.append(
        helper.make_node("Scan", [start, turned], ["last", "all"], body=body, num_scan_inputs=1)
    )
    return ended(made, made.add("Transpose", "all", perm=[1, 2, 0, 3]), 6, (1, 3, 8, 8))


@net("recurrent")
def _() -> ModelProto:
    made, features = begun()
    rows = made.add("ReduceMean", features, axes=[3], keepdims=0)
    steps = made.add("Transpose", rows, perm=[2, 0, 1])
    weights = [made.weight(1, 15, size, fan=size)[0] for size in (6, 5)]
    made.nodes.append(
        helper.make_node("GRU", [steps, *weights], ["", "state"], hidden_size=5, linear_before_reset=1)
    )
    return finished(made, made.add("Squeeze", "state", made.constant([0], np.int64)), 5)


@net("lstm")
def _() -> ModelProto:
    made, features = begun()
    steps = made.add("Transpose", made.add("ReduceMax", features, axes=[2], keepdims=0), perm=[2, 0, 1])
    weights = [made.weight(2, 12, size, fan=size)[0] for size in (6, 3)]
    made.nodes.append(
        helper.make_node("LSTM", [steps, *weights], ["", "h"], hidden_size=3, direction="bidirectional")
    )
    ordered = made.add("Transpose", "h", perm=[1, 0, 2])
    return finished(made, made.add("Flatten", ordered), 6)


@net("transformer")
def _() -> ModelProto:
    made = Net(np.random.default_rng(4))
    width, tokens = 8, 5
    weight, _ = made.weight(width, 3, 4, 4, fan=48)
    patches = made.add("Conv", "images", weight, strides=[4, 4])
    rows = made.add("Reshape", patches, made.constant([0, width, -1], np.int64))
    cells = made.add("Transpose", rows, perm=[0, 2, 1])
    shape = made.add("Shape", cells)
    number = made.add("Gather", shape, made.constant([0], np.int64), axis=0)
    wanted = made.add("Concat", number, made.constant([1, width], np.int64), axis=0)
    first = made.add("Expand", made.weight(1, 1, width)[0], wanted)
    current = made.add("Add", made.add("Concat", first, cells, axis=1), made.weight(1, tokens, width)[0])
    for _block in range(2):
        scale, shift = made.weight(width)[0], made.weight(width)[0]
        normal = made.add("LayerNormalization", current, scale, shift, axis=-1)
        heads = []
        for _part in range(3):
            mixed = made.add("MatMul", normal, made.weight(width, width, fan=width)[0])
            split = made.add("Reshape", mixed, made.constant([0, 0, 2, 4], np.int64))
            heads.append(made.add("Transpose", split, perm=[0, 2, 1, 3]))
        keys = made.add("Transpose", heads[1], perm=[0, 1, 3, 2])
        attention = made.add("Softmax", made.add("MatMul", heads[0], keys), axis=-1)
        joined = made.add("Transpose", made.add("MatMul", attention, heads[2]), perm=[0, 2, 1, 3])
        flat = made.add("Reshape", joined, made.constant([0, 0, width], np.int64))
        current = made.add("Add", current, flat)
        inner = made.add("Erf", made.add("MatMul", current, made.weight(width, width, fan=width)[0]))
        current = made.add("Add", current, inner)
    token = made.add("Gather", current, made.constant(0, np.int64), axis=1)
    return finished(made, token, width)


@net("quantised")
def _() -> ModelProto:
    made, features = begun()
    scale, zero = made.constant(0.0213), made.constant(3, np.uint8)
    whole = made.add("QuantizeLinear", features, scale, zero)
    back = made.add("DequantizeLinear", whole, scale, zero)
    weight = made.constant(np.random.default_rng(1).integers(-99, 99, (6, 6, 1, 1)), np.int8)
    steps, middle = made.constant(np.full(6, 0.0117)), made.constant(np.zeros(6), np.int8)
    dense = made.add("DequantizeLinear", weight, steps, middle, axis=0)
    return ended(made, made.add("Relu", made.add("Conv", back, dense)), 6)


@net("whole-numbers")
def _() -> ModelProto:
    made, features = begun()
    scale, zero = made.constant(0.0213), made.constant(3, np.uint8)
    whole = made.add("QuantizeLinear", features, scale, zero)
    weight = made.constant(np.random.default_rng(1).integers(-99, 99, (6, 6, 3, 3)), np.int8)
    steps, middle = made.constant(np.full(6, 0.0117)), made.constant(np.zeros(6), np.int8)
    inputs = [whole, scale, zero, weight, steps, middle, scale, zero]
    layer = made.add("QLinearConv", *inputs, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    return ended(made, made.add("DequantizeLinear", layer, scale, zero), 6)


@net("resized")
def _() -> ModelProto:
    made, features = begun()
    larger = made.add("Resize", features, "", made.constant([1.0, 1.0, 2.0, 2.0]), mode="linear")
    smaller = made.add("AveragePool", larger, kernel_shape=[2, 2], strides=[2, 2])
    padded = made.add("Pad", smaller, made.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="reflect")
    return ended(made, convolved(made, padded, 6, 6, stride=2), 6)


@net("sampled")
def _() -> ModelProto:
    made, features = begun()
    moved = made.add("Tanh", convolved(made, features, 6, 2))
    places = made.add("Transpose", moved, perm=[0, 2, 3, 1])
    return ended(made, made.add("GridSample", features, places, align_corners=1), 6)


@net("channels-last")
def _() -> ModelProto:
    made = Net(np.random.default_rng(3))
    turned = made.add("Transpose", "images", perm=[0, 3, 1, 2])
    features = made.add("Relu", convolved(made, turned, 3, 6, stride=2))
    last = made.add("Transpose", features, perm=[0, 2, 3, 1])
    mixed = made.add("MatMul", last, made.weight(6, 6, fan=6)[0])
    active = made.add("Relu", mixed)
    return finished(made, made.add("ReduceMean", active, axes=[1, 2], keepdims=0), 6, ("N", 8, 8, 3))


@net("best-few")
def _() -> ModelProto:
    made, features = begun()
    model = ended(made, features, 6)
    model.graph.node.append(
        helper.make_node("TopK", ["logits", "few"], ["scores", "classes"], axis=-1, largest=1)
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "few"))
    del model.graph.output[:]
    model.graph.output.extend([values("scores", ["N", 2]), values("classes", ["N", 2], INT64)])
    return model


@net("two-outputs")
def _() -> ModelProto:
    made, features = begun()
    model = ended(made, features, 6)
    model.graph.output.append(values(features, ["N", 6, 4, 4]))
    return model


@net("open-sizes")
def _() -> ModelProto:
    made, features = begun()
    model = ended(made, features, 6, ("N", 3, "H", "W"))
    helper.set_model_props(
        model,
        {
            "camrt.labels": '["a", "b", "c", "d"]',
            "camrt.preprocessing": '{"size": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}',
        },
    )
    return model


@net("branches")
def _() -> ModelProto:
    made, features = begun()
    made.nodes.append(
        helper.make_node("Split", [features, made.constant([2, 4], np.int64)], ["few", "many"], axis=1)
    )
    wide = convolved(made, "many", 4, 4, group=1)
    both = made.add("Concat", made.add("MaxPool", "few", kernel_shape=[3, 3], pads=[1] * 4), wide, axis=1)
    cut = made.add("Slice", both, *(made.constant([n], np.int64) for n in (0, 5, 1, 1)))
    mixed = made.add("Einsum", cut, made.weight(6, 5, fan=5)[0], equation="ncij,kc->nkij")
    normal = [made.constant(np.full(6, value)) for value in (1.0, 0.1, 0.0, 2.0)]
    active = made.add("HardSwish", made.add("BatchNormalization", mixed, *normal))
    return ended(made, made.add("Clip", active, made.constant(-1.0), made.constant(6.0)), 6)


@net("grouped")
def _() -> ModelProto:
    made, features = begun()
    weight, _ = made.weight(6, 2, 1, 1, fan=2)
    mixed = made.add("Conv", features, weight, group=3)
    normal = made.add("InstanceNormalization", mixed, *(made.constant(np.full(6, n)) for n in (1.0, 0.1)))
    return ended(made, made.add("PRelu", normal, made.constant(np.full((6, 1, 1), 0.1))), 6)


@net("doubles")
def _() -> ModelProto:
    model = NETS["grouped"]()
    for tensor in model.graph.initializer:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


@net("functions")
def _() -> ModelProto:
    made, features = begun()
    made.nodes.append(helper.make_node("gate", [features], ["gated"], domain="local", slope=0.5))
    model = ended(made, "gated", 6)
    inner = [
        helper.make_node("LeakyRelu", ["x"], ["leaky"]),
        helper.make_node("Sigmoid", ["x"], ["open"]),
        helper.make_node("Mul", ["leaky", "open"], ["y"]),
    ]
    inner[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    function = helper.make_function(
        "local", "gate", ["x"], ["y"], inner, [helper.make_opsetid("", 17)], ["slope"]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def thinned(model: ModelProto, times: int, size: int = 32) -> ModelProto:
    """A network with a part of each layer's channels left, for images size×size."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        for axis in (0, 1)[: array.ndim]:
            if array.ndim in (1, 4) and array.shape[axis] > 4:
                array = np.take(array, range(-(-array.shape[axis] // times)), axis)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    del model.graph.value_info[:]
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.metadata_props[:]
    return model
