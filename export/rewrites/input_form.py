"""The image input of a file: what it declares, and bringing it to float32 (N, C, H, W).

1. Exactly one input, of rank 4, of floating-point numbers or of whole ones that float32 can hold.
2. The axis of the channels is the one that the caller names; else that of the graph, by the first node that
   moves axes or reads channels, behind those that take each number by itself; else the one with 1, 3 or 4.
3. An (N, H, W, C) input gets a Transpose in front.
4. A float16 or double input gets a Cast in front; one of whole numbers is rounded, held within its type's
   range, and cast. The adjoint passes this rounding by as if it were none (`is_rounding`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from camrt.errors import InputError, UnsupportedModelError
from camrt.export.graph.index import attribute, set_shape, static_shape
from camrt.export.graph.operators import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY, FLOATING, QUANTISERS
from camrt.export.graph.upkeep import rename_tensors, replace_nodes

__all__ = [
    "IMAGES",
    "INTEGER_RANGES",
    "InputForm",
    "InputLayout",
    "describe_shape",
    "is_rounding",
    "read_input_form",
    "standardise_input",
]

InputLayout = Literal["NCHW", "NHWC"]

IMAGES = "camrt_images"
MAX_EXACT_FLOAT32 = float(1 << 24)  # up to here float32 holds every whole number
INTEGER_RANGES: dict[int, tuple[float, float]] = {
    TensorProto.UINT8: (0.0, 255.0),
    TensorProto.INT8: (-128.0, 127.0),
    TensorProto.UINT16: (0.0, 65535.0),
    TensorProto.INT16: (-32768.0, 32767.0),
    TensorProto.INT32: (-MAX_EXACT_FLOAT32, MAX_EXACT_FLOAT32),
}
ROUNDING = "camrt_rounding"  # begins the names of the nodes that round pixels
CHANNEL_COUNTS = (1, 3, 4)  # channels of images, where nothing else tells the axis of channels
TRANSPOSED_LAYOUTS = {(0, 3, 1, 2): "NHWC", (0, 2, 3, 1): "NCHW"}
# Their first input's second axis is that of the channels.
CHANNELS_FIRST = frozenset(
    {"BatchNormalization", "Conv", "ConvInteger", "InstanceNormalization", "MaxPool", "AveragePool", "LRN"}
)
# What may stand before them and leaves axes where they are.
LAYOUT_PRESERVING = (
    ELEMENTWISE_UNARY
    | ELEMENTWISE_BINARY
    | QUANTISERS
    | {"Cast", "CastLike", "Floor", "Identity", "Pad", "Resize", "Round", "Slice", "Upsample"}
)


@dataclass(frozen=True)
class InputForm:
    """The image input of a file, as it declares it.

    Attributes:
        name: Its name.
        element: Its element type (`onnx.TensorProto` constant).
        layout: Its axes' order.
        channels: C; None when it is open.
        height: H; None when it is open.
        width: W; None when it is open.
        batch: N; None when it is open.
    """

    name: str
    element: int
    layout: InputLayout
    channels: int | None
    height: int | None
    width: int | None
    batch: int | None


def read_input_form(model: onnx.ModelProto, layout: InputLayout | None = None) -> InputForm:
    """What a model's image input is.

    Args:
        model: A model whose initializers are no inputs.
        layout: The order of its axes, where the caller knows it.

    Raises:
        InputError: There is no such layout.
        UnsupportedModelError: It has no single image input of a type that images can be brought to.
    """
    if layout is not None and layout not in get_args(InputLayout):
        raise InputError(f"layout={layout!r} must be 'NCHW' (channels first) or 'NHWC' (channels last)")
    inputs = list(model.graph.input)
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise UnsupportedModelError(
            f"an image classifier has exactly one input, this model has {len(inputs)} ({names}); "
            "export it with its other inputs baked in as constants"
        )
    value = inputs[0]
    shape = static_shape(value)
    if shape is None or len(shape) != 4:
        raise UnsupportedModelError(
            f"input {value.name!r} has shape {describe_shape(value)}; images (N, C, H, W) are needed"
        )
    element = value.type.tensor_type.elem_type
    if element not in FLOATING and element not in INTEGER_RANGES:
        raise UnsupportedModelError(
            f"input {value.name!r} holds {TensorProto.DataType.Name(element)}; floating-point numbers, or "
            "whole ones of at most 16 bits or of 32 with a sign, are needed: export the model with a float32 "
            f"or uint8 input and a Cast to {TensorProto.DataType.Name(element)} behind it"
        )
    found, channels = find_layout(model, value.name)
    if layout is None:
        last = shape[3] in CHANNEL_COUNTS and shape[1] not in CHANNEL_COUNTS
        first = shape[1] in CHANNEL_COUNTS and shape[3] not in CHANNEL_COUNTS
        layout = (None if first or (last and found is None) else found) or ("NHWC" if last else "NCHW")
    declared = shape[3] if layout == "NHWC" else shape[1]
    height, width = (shape[1], shape[2]) if layout == "NHWC" else (shape[2], shape[3])
    return InputForm(value.name, element, layout, declared or channels, height, width, shape[0])


def find_layout(model: onnx.ModelProto, name: str) -> tuple[InputLayout | None, int | None]:
    """The layout that the first nodes read an input in, and how many channels the first convolution takes."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    layout: InputLayout | None = None
    for readers in find_first_readers(model, name):
        for node in readers:
            if node.op_type == "Transpose" and layout is None:
                moved = TRANSPOSED_LAYOUTS.get(tuple(attribute(node, "perm", ())))
                layout = "NHWC" if moved == "NHWC" else "NCHW" if moved == "NCHW" else None
            elif node.op_type in CHANNELS_FIRST:
                weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
                count = None if weight is None else int(weight.dims[1]) * int(attribute(node, "group", 1))
                return layout or "NCHW", count
    return layout, None


def find_first_readers(model: onnx.ModelProto, name: str) -> Iterator[list[NodeProto]]:
    """The nodes that read a tensor, then those that read what the only one of them makes, and so on.

    It ends behind the first node that is no step of `LAYOUT_PRESERVING` or Transpose.
    """
    while True:
        readers = [
            node for node in model.graph.node if name in node.input and node.op_type not in ("Shape", "Size")
        ]
        if not readers:
            return
        yield readers
        only = readers[0]
        if len(readers) > 1 or not (only.op_type in LAYOUT_PRESERVING or only.op_type == "Transpose"):
            return
        name = only.output[0]


def standardise_input(model: onnx.ModelProto, layout: InputLayout | None = None) -> InputForm:
    """Gives a model one float32 (N, C, H, W) input named `camrt_images`, in place.

    Args:
        model: The model; its constants are initializers.
        layout: See `read_input_form`.

    Returns:
        What its input was; `channels` is not None.

    Raises:
        InputError: There is no such layout.
        UnsupportedModelError: As `read_input_form`, or its number of channels is open.
    """
    form = read_input_form(model, layout)
    if form.channels is None:
        raise UnsupportedModelError(
            f"input {form.name!r} has shape {describe_shape(model.graph.input[0])}: its number of colour "
            "channels is open; export the model with a fixed one"
        )
    front: list[NodeProto] = []
    current = IMAGES
    if form.layout == "NHWC":
        front.append(helper.make_node("Transpose", [current], ["camrt_nhwc"], perm=[0, 2, 3, 1]))
        current = "camrt_nhwc"
    if form.element in INTEGER_RANGES:
        current = add_rounding(model, current, front, *INTEGER_RANGES[form.element])
    if form.element != TensorProto.FLOAT:
        front.append(
            helper.make_node(
                "Cast", [current], ["camrt_cast"], to=form.element, name=f"{ROUNDING}_{len(front)}"
            )
        )
        current = "camrt_cast"
    rename_tensors(model.graph, lambda name: current if name == form.name else name)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, None))
    sizes = [form.batch or "N", form.channels, form.height or "height", form.width or "width"]
    set_shape(model.graph.input[0], sizes)
    replace_nodes(model.graph, [*front, *model.graph.node])
    del model.graph.value_info[:]
    return form


def add_rounding(model: onnx.ModelProto, name: str, front: list[NodeProto], low: float, high: float) -> str:
    """Adds the nodes that round a tensor to whole numbers within a range; the tensor they make."""
    for constant, number in (("camrt_low", low), ("camrt_high", high), ("camrt_half", 0.5)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), constant))
    steps = (
        ("Add", "camrt_half", "camrt_raised"),  # not Round, which came with opset 11
        ("Floor", "", "camrt_rounded"),
        ("Max", "camrt_low", "camrt_bounded"),  # not Clip, which took bounds as attributes before opset 11
        ("Min", "camrt_high", "camrt_clipped"),
    )
    for operator, constant, made in steps:
        label = f"{ROUNDING}_{len(front)}"
        front.append(helper.make_node(operator, [name, constant][: 1 + bool(constant)], [made], name=label))
        name = made
    return name


def is_rounding(node: NodeProto) -> bool:
    """Whether a node is one of those that bring images to a file's whole numbers."""
    return node.name.startswith(ROUNDING)


def describe_shape(value: onnx.ValueInfoProto) -> str:
    """A declared shape as a reader would write it: (N, 3, 224, 224)."""
    if not value.type.tensor_type.HasField("shape"):
        return "of unknown rank"
    axes = [
        str(axis.dim_value) if axis.HasField("dim_value") else (axis.dim_param or "?")
        for axis in value.type.tensor_type.shape.dim
    ]
    return "(" + ", ".join(axes) + ")"
