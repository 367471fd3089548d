"""Models that contain their own preprocessing (uint8 NHWC input), and ONNX Runtime's answers for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from helpers.zoo import OPSET, Array, Net, model_of, save

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (12, 16)
Front = Callable[[Net, str], str]


def imagenet_front(net: Net, name: str) -> str:
    """NHWC numbers 0 to 255 -> (x/255 − mean)/std in NCHW."""
    scaled = net.add("Div", name, net.constant(255.0))
    centred = net.add("Sub", scaled, net.constant(MEAN))
    return net.add("Transpose", net.add("Div", centred, net.constant(STD)), perm=[0, 3, 1, 2])


def pixel_model(
    folder: Path,
    front: Front = imagenet_front,
    *,
    element: int = TensorProto.UINT8,
    shape: tuple[Any, ...] = ("N", *SIZE, 3),
    channels: int = 3,
    classes: int = 4,
    opset: int = OPSET,
    stride: int = 1,
) -> Path:
    """A file: input, Cast to float32 where it is no float32, `front`, Conv 3×3, Relu "A", mean, Gemm.

    Args:
        folder: Where to put it.
        front: From the name of a float32 tensor of the input's shape to that of the convolution's input.
        element: Type of the input.
        shape: Shape of the input.
        channels: Channels of the convolution's input.
        classes: Classes.
        opset: Operator set.
        stride: Of the convolution.
    """
    net = Net(np.random.default_rng(7))
    current = "images"
    if element != TensorProto.FLOAT:
        current = net.add("Cast", current, to=TensorProto.FLOAT)
    current = front(net, current)
    weight, _ = net.weight(6, channels, 3, 3, fan=9 * channels)
    bias, _ = net.weight(6)
    net.add("Conv", current, weight, bias, pads=[1, 1, 1, 1], strides=[stride] * 2, name="Z")
    net.add("Relu", "Z", name="A")
    pooled = net.add("Flatten", net.add("GlobalAveragePool", "A"))
    matrix, _ = net.weight(classes, 6, fan=1)
    net.add("Gemm", pooled, matrix, transB=1, name="logits")
    model = model_of(net.nodes, net.initializers, list(shape), ["N", classes], opset)
    model.graph.input[0].type.tensor_type.elem_type = element
    onnx.checker.check_model(model)
    return Path(save(model, folder / "model.onnx"))


def run_onnxruntime(path: Path, batch: Array) -> Array:
    """What plain ONNX Runtime says of a batch as the file takes it."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": batch})[0])


def random_pixels(count: int = 2, size: tuple[int, int] = SIZE, channels: int = 3) -> Array:
    """uint8 (N, H, W, C)."""
    return np.random.default_rng(5).integers(0, 256, (count, *size, channels), np.uint8)


def numpy_dtype(element: int) -> Any:
    """The type of NumPy for one of ONNX."""
    return helper.tensor_dtype_to_np_dtype(element)
