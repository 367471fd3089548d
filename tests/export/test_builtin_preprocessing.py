"""What a file does before its first layer, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from camrt.errors import ModelFileError
from camrt.export.geometry.builtin_preprocessing import BuiltinPreprocessing, find_builtin_preprocessing
from camrt.export.geometry.region import Region
from camrt.export.graph.index import Graph

FLOAT = TensorProto.FLOAT


def front_of(
    nodes: Sequence[tuple[str, str, dict[str, Any]]],
    size: tuple[int, int] = (30, 40),
    opset: int = 17,
    kernel: int = 3,
    element: int = FLOAT,
    **constants: Any,
) -> BuiltinPreprocessing:
    """The front of: image, the nodes one behind the other (operator, further inputs), a convolution."""
    made, current = [], "x0"
    for number, (operator, others, attributes) in enumerate(nodes, start=1):
        names = others.split() if "x" in others.split() else ["x", *others.split()]
        inputs = [current if name == "x" else "" if name == "-" else name for name in names]
        made.append(helper.make_node(operator, inputs, [f"x{number}"], **attributes))
        current = f"x{number}"
    made.append(helper.make_node("Conv", [current, "kernel"], ["y"]))
    held = {"kernel": np.ones((2, 3, kernel, kernel), np.float32), **constants}
    graph = helper.make_graph(
        made,
        "front",
        [helper.make_tensor_value_info("x0", FLOAT, ["N", 3, *size])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return find_builtin_preprocessing(Graph(model, (2, 3, *size)), element)


def single(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


MEAN, STD = single(0.485, 0.456, 0.406)[:, None, None], single(0.229, 0.224, 0.225)[:, None, None]
NORMAL = {
    "divided": ([("Div", "c", {})], {"c": single(255)}, (1 / 255, 0), (0, 255)),
    "multiplied": ([("Mul", "c x", {})], {"c": single(1 / 255)}, (1 / 255, 0), (0, 255)),
    "to-minus-one": (
        [("Div", "c", {}), ("Sub", "one", {})],
        {"c": single(127.5), "one": single(1)},
        (1 / 127.5, -1),
        (0, 255),
    ),
    "means-of-pixels": ([("Sub", "c", {})], {"c": single(104, 117, 123)[:, None, None]}, (1, -104), (0, 255)),
    "imagenet-of-unit": (
        [("Sub", "m", {}), ("Div", "s", {})],
        {"m": MEAN, "s": STD},
        (1 / 0.229, -0.485 / 0.229),
        (0, 1),
    ),
    "sixteen-bits": ([("Div", "c", {})], {"c": single(65535)}, (1 / 65535, 0), (0, 65535)),
    "batch-normalisation": (
        [("BatchNormalization", "g b m v", {"epsilon": 0.0})],
        {
            "g": single(1, 2, 1),
            "b": single(0, 0, 1),
            "m": single(124, 116, 104),
            "v": single(3600, 14400, 3600),
        },
        (1 / 60, -124 / 60),
        (0, 255),
    ),
    "depthwise": (
        [("Conv", "w b", {"group": 3})],
        {"w": np.full((3, 1, 1, 1), 1 / 60, np.float32), "b": single(-2, -2, -2)},
        (1 / 60, -2),
        (0, 255),
    ),
    "diagonal": (
        [("Conv", "w", {})],
        {"w": np.eye(3, dtype=np.float32)[:, :, None, None] / 255},
        (1 / 255, 0),
        (0, 255),
    ),
    "mean-image": (
        [("Sub", "c", {})],
        {"c": np.random.default_rng(0).uniform(100, 120, (1, 3, 30, 40)).astype(np.float32)},
        (1, None),
        (0, 255),
    ),
    "unknown-range": ([("Mul", "c", {})], {"c": single(1.1)}, (1.1, 0), None),
    "normalised-before": (
        [("BatchNormalization", "g b m v", {})],
        {"g": single(1, 1, 1), "b": single(0, 0, 0), "m": single(0.02, 0.1, -0.1), "v": single(1.1, 1, 0.9)},
        (1 / np.sqrt(1.1 + 1e-5), None),
        None,
    ),
}


@pytest.mark.parametrize(("nodes", "constants", "numbers", "levels"), NORMAL.values(), ids=NORMAL)
def test_numbers(nodes: Any, constants: Any, numbers: Any, levels: Any) -> None:
    found = front_of(nodes, **constants)
    assert found.levels == levels
    assert found.scale[0] == pytest.approx(numbers[0], rel=1e-6)
    if numbers[1] is not None:
        assert found.shift[0] == pytest.approx(numbers[1], rel=1e-6)
    assert not found.spatial_steps


def test_channels_in_another_order() -> None:
    """What is done to a channel is told of the channel it came in as."""
    turns = {
        "gather": ("Gather", "order", {"axis": 1}),
        "slice": ("Slice", "last far channel back", {}),
    }
    constants = {
        "order": whole(2, 1, 0),
        "last": whole(-1),
        "far": whole(np.iinfo(np.int64).min),
        "channel": whole(1),
        "back": whole(-1),
        "m": single(103, 116, 124)[:, None, None],
    }
    for turn in turns.values():
        found = front_of([turn, ("Sub", "m", {})], **constants)
        assert found.shift == (-124, -116, -103)
        assert found.levels == (0, 255)


def test_nothing_in_front() -> None:
    assert front_of([]) == BuiltinPreprocessing()
    assert front_of([("Relu", "", {})]) == BuiltinPreprocessing()
    assert front_of([("Sub", "c x", {})], c=single(255)) == BuiltinPreprocessing()  # c − x
    assert BuiltinPreprocessing().describe((4, 5)) == ""


@pytest.mark.parametrize("shape", [(3, 5, 1, 1), (3, 2, 1, 1), (3, 1, 1, 1), (3, 3, 1, 2)])
def test_a_convolution_of_other_channels_is_no_scaling(shape: tuple[int, ...]) -> None:
    assert front_of([("Conv", "w", {})], w=np.zeros(shape, np.float32)) == BuiltinPreprocessing()


def test_signed_bytes() -> None:
    found = front_of(
        [("DequantizeLinear", "s z", {})], element=TensorProto.INT8, s=np.float32(1 / 255), z=np.float32(-128)
    )
    assert found.levels == (-128, 127)


MOVES = {
    # rows 4 to 28 and columns 16 to 40
    "slice": (
        [("Slice", "a b c", {})],
        {"a": whole(4, 16), "b": whole(28, 40), "c": whole(2, 3)},
        (16, 4, 40, 28),
    ),
    "from-the-end": (
        [("Slice", "a b c", {})],
        {"a": whole(-10), "b": whole(2**62), "c": whole(-1)},
        (30, 0, 40, 30),
    ),
    "two-slices": (
        [("Slice", "a b c", {}), ("Slice", "a b c", {})],
        {"a": whole(2, 3), "b": whole(20, 30), "c": whole(2, 3)},
        (6, 4, 30, 20),
    ),
    # every second row: 1, 3, ..., 29: middles at 1.5, 3.5, ...: edges at 0.5 and 30.5
    "every-second": (
        [("Slice", "a b c d", {})],
        {"a": whole(1), "b": whole(30), "c": whole(2), "d": whole(2)},
        (0, 0.5, 40, 30.5),
    ),
    "mirrored": (
        [("Slice", "a b c d", {})],
        {"a": whole(-1), "b": whole(np.iinfo(np.int64).min), "c": whole(3), "d": whole(-1)},
        (40, 0, 0, 30),
    ),
    "letterbox": ([("Pad", "p", {})], {"p": whole(0, 0, 5, 0, 0, 0, 5, 0)}, (0, -5, 40, 35)),
    "uneven-pad": (
        [("Pad", "p", {"mode": "reflect"})],
        {"p": whole(0, 0, 0, 8, 0, 0, 0, 4)},
        (-8, 0, 44, 30),
    ),
    # a Pad by less than nothing crops, whatever kernel comes behind
    "pad-that-crops": ([("Pad", "p", {})], {"p": whole(0, 0, -4, -16, 0, 0, -2, 0)}, (16, 4, 40, 28)),
    "pad-that-crops-and-pads": ([("Pad", "p", {})], {"p": whole(0, 0, 0, -3, 0, 0, 0, 1)}, (3, 0, 41, 30)),
    "gathered-columns": (
        [("Gather", "i", {"axis": 3}), ("Gather", "j", {"axis": 2})],
        {"i": np.arange(16, 36), "j": np.arange(29, 9, -1)},
        (16, 30, 36, 10),
    ),
    "gathered-from-last-to-first": (
        [("Gather", "i", {"axis": 3})],
        {"i": np.arange(39, -1, -1)},
        (40, 0, 0, 30),
    ),
    "gathered-at-random": ([("Gather", "i", {"axis": 3})], {"i": whole(3, 1, 2)}, (0, 0, 40, 30)),
    "own-pad": ([("Pad", "p", {})], {"p": whole(0, 0, 1, 1, 0, 0, 1, 1)}, (0, 0, 40, 30)),
    "own-pad-turned": (
        [
            ("Transpose", "", {"perm": [0, 2, 3, 1]}),
            ("Pad", "p", {}),
            ("Transpose", "", {"perm": [0, 3, 1, 2]}),
            ("Cast", "", {"to": FLOAT}),
        ],
        {"p": whole(0, 1, 1, 0, 0, 1, 1, 0)},
        (0, 0, 40, 30),
    ),
    "resized": (
        [("Resize", "- - s", {"mode": "linear"})],
        {"s": whole(2, 3, 16, 64)},
        (0, 0, 40, 30),
    ),
    "resized-by-scale": (
        [("Resize", "- c", {"mode": "linear"})],
        {"c": single(1, 1, 0.5, 0.3)},
        (0, 0, 40, 30),
    ),
    # 30·0.35 = 10.5 -> 10 rows, each 1/0.35 = 2.857 of the image's: the rest is not seen
    "resized-in-part": (
        [("Resize", "- c", {"mode": "linear"})],
        {"c": single(1, 1, 0.35, 1)},
        (0, 0, 40, 10 / 0.35),
    ),
    # 10 rows at 0, 3, 6, ..., 27: middles at 0.5, 3.5, ...: edges at −1 and 29
    "asymmetric": (
        [("Resize", "- - s", {"mode": "linear", "coordinate_transformation_mode": "asymmetric"})],
        {"s": whole(2, 3, 10, 40)},
        (0, -1, 40, 29),
    ),
    # 59 rows from the first's middle to the last's: steps of 1/2, edges 1/4 beyond the middles
    "aligned-corners": (
        [("Resize", "- - s", {"mode": "linear", "coordinate_transformation_mode": "align_corners"})],
        {"s": whole(2, 3, 59, 40)},
        (0, 0.25, 40, 29.75),
    ),
    "crop-of-resized": (
        [("Resize", "- - s", {"mode": "linear"}), ("Slice", "a b c", {})],
        {"s": whole(2, 3, 60, 80), "a": whole(10, 20), "b": whole(50, 60), "c": whole(2, 3)},
        (10, 5, 30, 25),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "constants", "expected"), MOVES.values(), ids=MOVES)
def test_places(nodes: Any, constants: Any, expected: tuple[float, ...]) -> None:
    found = front_of(nodes, **constants)
    assert found.region((30, 40)).box == pytest.approx(expected, abs=1e-5)


def test_the_only_output_of_a_split_that_is_read_is_a_crop() -> None:
    nodes = [
        helper.make_node("Split", ["x0", "lengths"], ["a", "b", "c"], axis=3),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "front",
        [helper.make_tensor_value_info("x0", FLOAT, ["N", 3, 30, 40])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [
            numpy_helper.from_array(whole(10, 25, 5), "lengths"),
            numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert find_builtin_preprocessing(Graph(model, (2, 3, 30, 40))).region((30, 40)) == Region(10, 0, 35, 30)
    graph.node.append(helper.make_node("Conv", ["a", "w"], ["z"]))
    graph.output.append(helper.make_tensor_value_info("z", FLOAT, None))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert find_builtin_preprocessing(Graph(model, (2, 3, 30, 40))) == BuiltinPreprocessing()


def test_places_of_older_operator_sets() -> None:
    slices = [("Slice", "", {"starts": [4, 16], "ends": [28, 40], "axes": [2, 3]})]
    assert front_of(slices, opset=9).region((30, 40)) == Region(16, 4, 40, 28)
    pads = [("Pad", "", {"pads": [0, 0, 5, 0, 0, 0, 5, 0]})]
    assert front_of(pads, opset=9).region((30, 40)) == Region(0, -5, 40, 35)
    upsampled = [("Upsample", "c", {"mode": "linear"})]
    found = front_of(upsampled, opset=9, c=single(1, 1, 2, 2)).region((30, 40))
    assert found.box == pytest.approx((0.25, 0.25, 40.25, 30.25))


def test_places_follow_the_axes_and_the_size() -> None:
    last, first = ({"perm": order} for order in ([0, 2, 3, 1], [0, 3, 1, 2]))
    turned = [("Transpose", "", last), ("Slice", "a b c", {}), ("Transpose", "", first)]
    found = front_of(turned, a=whole(1, -5), b=whole(9, 2**62), c=whole(1, 2))
    assert found.region((30, 40)) == Region(35, 1, 40, 9)
    assert found.region((10, 20)) == Region(15, 1, 20, 9)
    assert found.describe((30, 40)) == "shows rows 1 to 9 and columns 35 to 40"


OWN_PADS = {
    "turned": [
        ("Transpose", "", {"perm": [0, 2, 3, 1]}),
        ("Pad", "p", {"mode": "edge"}),
        ("Transpose", "", {"perm": [0, 3, 1, 2]}),
    ],
    "cast": [("Pad", "q", {}), ("Cast", "", {"to": FLOAT}), ("Identity", "", {})],
    "normalised": [("Pad", "q", {}), ("Sub", "m", {}), ("Div", "s", {})],
    "quantised": [("Pad", "q", {}), ("QuantizeLinear", "t z", {}), ("DequantizeLinear", "t z", {})],
}


@pytest.mark.parametrize("nodes", OWN_PADS.values(), ids=OWN_PADS)
def test_a_layers_own_pad_is_no_shift_wherever_it_stands(nodes: Any) -> None:
    constants = {"p": whole(0, 3, 3, 0, 0, 3, 3, 0), "q": whole(0, 0, 3, 3, 0, 0, 3, 3), "m": MEAN, "s": STD}
    constants |= {"t": single(0.1)[0], "z": np.uint8(3)}
    assert front_of(nodes, kernel=7, **constants).region((30, 40)) == Region(0, 0, 40, 30)
    assert front_of(nodes, kernel=3, **constants).region((30, 40)) == Region(-3, -3, 43, 33)


def test_what_is_computed_from_the_image_is_left_alone() -> None:
    found = front_of([("Slice", "a b c", {})], a=whole(1), b=whole(2), c=whole(1))
    assert found == BuiltinPreprocessing()  # of channels, not of places


DAMAGED: dict[str, Any] = {
    "no-step": ([("Slice", "a b c d", {})], {"a": whole(1), "b": whole(9), "c": whole(2), "d": whole(0)}),
    "ends": ([("Slice", "a b c", {})], {"a": whole(1, 2), "b": whole(9), "c": whole(2, 3)}),
    "pads": ([("Pad", "p", {})], {"p": whole(0, 0, 9, 9, 0, 0, 9)}),
    "scale": ([("Resize", "- c", {})], {"c": single(1, 1, 0, 1)}),
    "endless-scale": ([("Resize", "- c", {})], {"c": single(1, 1, np.inf, 1)}),
    "length": ([("Resize", "- - s", {})], {"s": whole(2, 3, 0, 1)}),
    "no-divisor": ([("Div", "c", {})], {"c": single(0)}),
    "not-a-number": ([("Mul", "c", {})], {"c": single(np.nan)}),
    "no-factor": ([("Mul", "c", {})], {"c": single(0)}),
    "channels": ([("Sub", "c", {})], {"c": single(1, 2)[:, None, None]}),
    "five-axes": ([("Sub", "c", {})], {"c": np.ones((1, 1, 3, 1, 1), np.float32)}),
    "normalisation": (
        [("BatchNormalization", "g g g g", {})],
        {"g": single(1, 2)},
    ),
    "variance": (
        [("BatchNormalization", "g g g v", {})],
        {"g": single(1, 2, 3), "v": single(-1, -1, -1)},
    ),
    "quantiser": ([("DequantizeLinear", "s", {})], {"s": single(0)}),
}


@pytest.mark.parametrize(("nodes", "constants"), DAMAGED.values(), ids=DAMAGED)
def test_what_makes_no_sense_is_left_alone(nodes: Any, constants: Any) -> None:
    try:
        found = front_of(nodes, **constants)
    except ModelFileError:  # shapes do not fit together
        return
    assert found.levels is None
    assert not found.scale
    assert found.region((30, 40)) == Region.whole((30, 40))


def test_regions_within_regions_and_back() -> None:
    """An image of 100×300 of which columns 100 to 200 are shown in 50×50, and of these a part."""
    shown = Region(100, 0, 200, 100)
    assert shown.of(Region.whole((50, 50)), (50, 50)) == shown
    assert shown.of(Region(10, 20, 30, 40), (50, 50)) == Region(120, 40, 160, 80)
    assert shown.inverse((100, 300), (50, 50)) == Region(-50, 0, 100, 50)
