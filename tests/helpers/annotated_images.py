"""A small classifier in a file, and folders of annotated images for it, made for tests."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from camrt import Preprocessing

__all__ = [
    "COLOURS",
    "PREPROCESSING",
    "SIDE",
    "boxed_squares",
    "colour_model",
    "dead_zone_model",
    "draw_square",
    "masked_squares",
]

COLOURS = ("red", "green", "blue")
SIDE = 32
PREPROCESSING = Preprocessing(size=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def colour_model(path: Path, *, hidden: bool = False) -> Path:
    """Sees which of three colours is there: strided convolution, ReLU, mean, one linear layer or two."""
    rng = np.random.default_rng(5)
    trunk = rng.standard_normal((8, 3, 4, 4)) * 0.02
    trunk[:3] += np.where(np.eye(3) == 1, 0.05, -0.03)[:, :, None, None]
    weights = {
        "trunk": trunk,
        "shift": np.full(8, -0.6),
        "weight": np.concatenate([6 * np.eye(3), rng.standard_normal((3, 5))], axis=1),
        "bias": np.zeros(3),
    }
    nodes = [
        helper.make_node("Conv", ["input", "trunk", "shift"], ["convolved"], strides=[4, 4]),
        helper.make_node("Relu", ["convolved"], ["A"]),
        helper.make_node("GlobalAveragePool", ["A"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("Gemm", ["vector", "weight", "bias"], ["scores"], transB=1),
    ]
    if hidden:
        weights |= {"last": np.eye(3) * 2 - 0.2}
        nodes += [
            helper.make_node("Tanh", ["scores"], ["t"]),
            helper.make_node("MatMul", ["t", "last"], ["logits"]),
        ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits" if hidden else "scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def dead_zone_model(path: Path) -> Path:
    """Reads cells of 4×4 pixels, and gives the lower half of the cells no weight."""
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((3, 6, 8, 8))
    weight[:, :, 4:] = 0
    weights = {
        "trunk": 0.3 * rng.standard_normal((6, 3, 4, 4)),
        "weight": weight.reshape(3, -1),
        "bias": np.zeros(3),
    }
    nodes = [
        helper.make_node("Conv", ["input", "trunk"], ["convolved"], strides=[4, 4]),
        helper.make_node("Relu", ["convolved"], ["A"]),
        helper.make_node("Flatten", ["A"], ["vector"]),
        helper.make_node("Gemm", ["vector", "weight", "bias"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "walled",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def boxed_squares(folder: Path, count: int = 12) -> Path:
    """Images of a coloured square on grey noise, and a CSV of their boxes."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    with (folder / "boxes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "x0", "y0", "x1", "y1"])
        for number in range(count):
            image, (left, top, right, bottom) = draw_square(rng, number % 3)
            Image.fromarray(image).save(folder / f"{number:03d}.png")
            table.writerow([f"{number:03d}.png", COLOURS[number % 3], left, top, right, bottom])
    return folder


def masked_squares(folder: Path, count: int = 6) -> Path:
    """The same in a folder for each class, with a PNG mask for each image."""
    rng = np.random.default_rng(2)
    for number in range(count):
        colour = COLOURS[number % 3]
        image, (left, top, right, bottom) = draw_square(rng, number % 3)
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[top:bottom, left:right] = 255
        for kind, pixels in (("", image), ("masks", mask)):
            path = folder / kind / colour / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def draw_square(rng: np.random.Generator, colour: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """An image of 48 × 40 pixels, and the box (x0, y0, x1, y1) of its square."""
    image = rng.integers(90, 150, (40, 48, 3)).astype(np.uint8)
    wide, tall = rng.integers(10, 18, 2)
    left, top = rng.integers(0, 48 - wide), rng.integers(0, 40 - tall)
    image[top : top + tall, left : left + wide] = 20
    image[top : top + tall, left : left + wide, colour] = 250
    return image, (int(left), int(top), int(left + wide), int(top + tall))
