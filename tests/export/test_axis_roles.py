"""What is said of a tensor's axes, against numbers that say where in the image they came from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from camrt.export.geometry.axis_parts import CellTokens
from camrt.export.geometry.axis_roles import find_axis_roles
from camrt.export.graph.index import Graph

IMAGES = "images"
SHAPE = (5, 6, 4, 3)


def graph_of(nodes, constants=(), shape=SHAPE):
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info(IMAGES, onnx.TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    return model, Graph(model, shape)


def chain(*steps, shape=SHAPE):
    """A graph of one node after another: (operator, further constant inputs, attributes)."""
    nodes, constants, current = [], [], IMAGES
    for index, (operator, values, attributes) in enumerate(steps):
        names = [f"c{index}_{i}" for i in range(len(values))]
        constants += zip(names, values, strict=True)
        reads = [*names, current] if operator == "Concat" else [current, *names]
        nodes.append(helper.make_node(operator, reads, [f"t{index}"], **attributes))
        current = f"t{index}"
    return *graph_of(nodes, constants, shape), current


def reshape(*sizes):
    return "Reshape", [np.array(sizes)], {}


def transpose(*order):
    return "Transpose", [], {"perm": order}


def cut(axis, start, end, step=1):
    return "Slice", [np.array([number]) for number in (start, end, axis, step)], {}


def in_front(batch, count, channels):
    return "Concat", [np.full((batch, count, channels), -1, np.float32)], {"axis": 1}


@pytest.mark.parametrize(
    ("steps", "expected"),
    {
        "tokens": ([reshape(5, 6, 12), transpose(0, 2, 1)], ("n", CellTokens(0, 4, 3), "")),
        "channels-before-tokens": ([reshape(5, 6, 12)], ("n", "", CellTokens(0, 4, 3))),
        "channels-last": ([transpose(0, 2, 3, 1)], ("n", "h", "w", "")),
        "and-as-tokens": ([transpose(0, 2, 3, 1), reshape(5, -1, 6)], ("n", CellTokens(0, 4, 3), "")),
        "there-and-back": (
            [transpose(0, 2, 3, 1), reshape(5, 12, 6), reshape(5, 4, 3, 6), transpose(0, 3, 1, 2)],
            ("n", "", "h", "w"),
        ),
        "turned-over": ([transpose(0, 1, 3, 2), reshape(5, 6, 12)], ("n", "", "")),
        "class-token": (
            [transpose(0, 2, 3, 1), reshape(5, 12, 6), in_front(5, 1, 6)],
            ("n", CellTokens(1, 4, 3), ""),
        ),
        "registers-too": (
            [transpose(0, 2, 3, 1), reshape(5, 12, 6), in_front(5, 4, 6), in_front(5, 1, 6)],
            ("n", CellTokens(5, 4, 3), ""),
        ),
        "class-token-taken-off": (
            [transpose(0, 2, 3, 1), reshape(5, 12, 6), in_front(5, 2, 6), cut(1, 2, 99)],
            ("n", CellTokens(0, 4, 3), ""),
        ),
        "a-cell-taken-off": (
            [transpose(0, 2, 3, 1), reshape(5, 12, 6), in_front(5, 2, 6), cut(1, 3, 99)],
            ("n", "", ""),
        ),
        "the-last-cell-taken-off": (
            [transpose(0, 2, 3, 1), reshape(5, 12, 6), cut(1, 0, -1)],
            ("n", "", ""),
        ),
        "patches-laid-out": (
            [
                ("Gather", [np.arange(2)[:, None] + 2 * np.arange(2)], {"axis": 2}),
                ("Gather", [np.arange(2)[:, None] + np.arange(2)], {"axis": 4}),
                transpose(0, 1, 2, 4, 3, 5), reshape(5, 24, 4), transpose(0, 2, 1),
            ],
            ("n", CellTokens(0, 2, 2), ""),
        ),
        "no-windows": (
            [("Gather", [np.array([[0, 1], [3, 2]])], {"axis": 2})], ("n", "", "", "", "w"),
        ),
        "channels-put-into-another-order": (
            [
                transpose(1, 0, 2, 3), ("GatherND", [np.array([[3], [0], [1]])], {}), transpose(1, 0, 2, 3),
            ],
            ("n", "", "h", "w"),
        ),
        "class-token-alone": (
            [
                transpose(0, 2, 3, 1), reshape(5, 12, 6), in_front(5, 1, 6),
                ("Gather", [np.array(0)], {"axis": 1}),
            ],
            ("n", ""),
        ),
        "split-into-heads": (
            [transpose(0, 2, 3, 1), reshape(5, 12, 6), reshape(5, 12, 2, 3), transpose(0, 2, 1, 3)],
            ("n", "", CellTokens(0, 4, 3), ""),
        ),
        "backwards": ([cut(2, 3, -99, -1)], ("n", "", "-h", "w")),
        "backwards-twice": ([cut(2, 3, -99, -1), cut(2, 3, -99, -1)], ("n", "", "h", "w")),
        "every-other": ([cut(2, 1, 99, 2)], ("n", "", "h", "w")),
        "blocks-of-two-rows": (
            [transpose(0, 2, 3, 1), reshape(5, 2, 2, 3, 6), transpose(0, 1, 3, 2, 4), reshape(5, 2, 3, 12)],
            ("n", "h", "w", ""),
        ),
        "rows-for-a-linear-layer": (
            [
                transpose(0, 2, 3, 1), reshape(5, 12, 6), in_front(5, 1, 6), reshape(65, 6),
                ("Gemm", [np.zeros((6, 7), np.float32)], {}), reshape(5, 13, 7),
            ],
            ("n", CellTokens(1, 4, 3), ""),
        ),
        "images-and-heads-as-one": (
            [
                reshape(5, 6, 12), transpose(2, 0, 1), reshape(12, 10, 3), transpose(1, 0, 2),
                transpose(1, 0, 2), reshape(12, 5, 6), transpose(1, 0, 2),
            ],
            ("n", CellTokens(0, 4, 3), ""),
        ),
        "windows-joined-in-another-order": (
            [transpose(0, 2, 3, 1), reshape(5, 2, 2, 3, 6), transpose(0, 2, 1, 3, 4), reshape(5, 12, 6)],
            ("n", "", ""),
        ),
        "mean": ([("ReduceMean", [np.array([2, 3])], {"keepdims": 0})], ("n", "")),
        "mean-of-channels": ([("ReduceMean", [np.array([1])], {"keepdims": 0})], ("n", "h", "w")),
        "padded": ([("Pad", [np.array([0, 0, 1, 0, 0, 0, 2, 3])], {})], ("n", "", "h", "w")),
    }.values(),
    ids=lambda value: None,
)  # fmt: skip
def test_axes(steps, expected):
    _, graph, last = chain(*steps)
    assert find_axis_roles(graph)[last] == expected


def test_a_start_that_is_computed_says_nothing():
    nodes = [
        helper.make_node("Shape", [IMAGES], ["sizes"]),
        helper.make_node("Slice", ["sizes", "one", "two"], ["start"]),
        helper.make_node("Slice", [IMAGES, "start", "end", "one"], ["out"]),
    ]
    constants = [(name, np.array([value])) for name, value in (("one", 1), ("two", 2), ("end", 99))]
    for axes, expected in (("one", ("n", "", "h", "w")), ("two", ("n", "", "", "w"))):
        nodes[-1].input[3] = axes
        _, graph = graph_of(nodes, constants)
        graph.shapes["out"] = (5, 3, 4, 3) if axes == "one" else (5, 6, 2, 3)
        assert find_axis_roles(graph)["out"] == expected


def test_tokens_that_attend_to_one_another():
    """Rows are those of the queries; the scores' columns are tokens too, so that they are no map."""
    nodes = [
        helper.make_node("Reshape", [IMAGES, "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["x"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "rows"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "x"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "layer"], ["out"]),
    ]
    layer = np.zeros((6, 7), np.float32)
    _, graph = graph_of(nodes, [("flat", np.array([5, 6, 12])), ("layer", layer)])
    axes, cells = find_axis_roles(graph), CellTokens(0, 4, 3)
    assert axes["scores"] == axes["weights"] == ("n", cells, cells)
    assert axes["mixed"] == axes["out"] == ("n", cells, "")


@st.composite
def moves(draw):
    """Reshapes, transpositions, cuts and tokens in front, one after another."""
    height, width, channels, batch = draw(st.tuples(*[st.integers(1, 6)] * 3, st.integers(1, 3)))
    start = shape = (batch, channels, height, width)
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["reshape", "transpose", "cut", "front", "split"]))
        if kind == "transpose":
            order = draw(st.permutations(range(len(shape))))
            steps.append(transpose(*order))
            shape = tuple(shape[axis] for axis in order)
        elif kind == "cut":
            axis = draw(st.integers(0, len(shape) - 1))
            first = draw(st.integers(0, shape[axis] - 1))
            end = draw(st.sampled_from([shape[axis], draw(st.integers(first + 1, shape[axis]))]))
            steps.append(cut(axis, first, end))
            shape = (*shape[:axis], end - first, *shape[axis + 1 :])
        elif kind == "front" and len(shape) == 3:
            count = draw(st.integers(1, 2))
            steps.append(in_front(shape[0], count, shape[2]))
            shape = (shape[0], shape[1] + count, shape[2])
        elif kind == "reshape" and len(shape) > 2:
            axis = draw(st.integers(0, len(shape) - 2))
            shape = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
            steps.append(reshape(*shape))
        elif kind == "split" and len(shape) < 6:
            axis = draw(st.integers(0, len(shape) - 1))
            factor = draw(st.sampled_from([f for f in range(1, shape[axis] + 1) if shape[axis] % f == 0]))
            shape = (*shape[:axis], factor, shape[axis] // factor, *shape[axis + 1 :])
            steps.append(reshape(*shape))
    return start, steps or [transpose(0, 1, 2, 3)]


@given(moves())
@settings(deadline=None, derandomize=True, database=None, max_examples=300)
def test_nothing_false_is_said_of_an_axis(case):
    """Along an axis of rows the rows' numbers grow alike wherever one looks, and so for the others."""
    start, steps = case
    model, graph, last = chain(*steps, shape=start)
    batch, _, height, width = start
    places = {
        "n": np.arange(batch)[:, None, None, None],
        "h": np.arange(height)[:, None],
        "w": np.arange(width),
    }
    run = ReferenceEvaluator(model)
    came = {
        role: run.run(None, {IMAGES: np.broadcast_to(place, start).astype(np.float32)})[0]
        for role, place in places.items()
    }
    for axis, role in enumerate(find_axis_roles(graph)[last]):
        if isinstance(role, CellTokens):
            rows, columns = (
                np.moveaxis(came[name], axis, 0).reshape(role.size, -1)[role.prefix :] for name in "hw"
            )
            grid = (role.height, role.width, -1)
            assert_grows(rows.reshape(grid), 0)
            assert_grows(columns.reshape(grid), 1)
        elif role in places:
            assert_grows(came[role], axis)


def assert_grows(values, axis):
    """What comes later along an axis is larger, whatever the other axes; tokens in front aside."""
    along = np.moveaxis(np.where(values < 0, np.nan, values), axis, 0).reshape(values.shape[axis], -1)
    along = along[:, ~np.isnan(along).all(axis=0)]
    assert (np.nanmin(along, 1)[1:] > np.nanmax(along, 1)[:-1]).all()
