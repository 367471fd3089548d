"""Moving numbers about where sizes are known only when the graph runs."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from onnx import TensorProto  # noqa: E402

import camrt  # noqa: E402
from camrt.export.adjoint import WEIGHTING, build_adjoint_model  # noqa: E402
from helpers.adjoint_cases import (  # noqa: E402
    AdjointCase,
    check_adjoint,
    node,
    open_graph,
    run_double,
    run_single,
    torch_gradient,
)
from helpers.tolerances import assert_close  # noqa: E402

END = np.iinfo(np.int64).max


def whole(*numbers):
    return np.array(numbers, np.int64)


def watched(case, element):
    """The adjoint of a case."""
    model, graph = open_graph(case.model(), case.shape[1:])
    return build_adjoint_model(model, graph, graph.input_name, input_name="map", batch=None, element=element)


def check_sizes(case, *, double=True, others=((5, 9), (9, 10), (12, 4))):
    """One graph, made at one image size, run at others."""
    wide, narrow = (watched(case, element) for element in (TensorProto.DOUBLE, TensorProto.FLOAT))
    for size in [case.shape[1:], *others]:
        for count in (1, 2, 7):
            images = np.random.default_rng(count).standard_normal((count, case.shape[0], *size), np.float32)
            weighting, _, expected = torch_gradient(case.function, images.astype(np.float64))
            feeds = {"map": images, WEIGHTING: weighting}
            if double:
                assert_close(run_double(wide, feeds)[1], expected, np.float64)
            assert_close(run_single(narrow, feeds)[1], expected, np.float32, factor=4)  # means of some dozens


def averaged(nodes, function, **weights):
    """The map "z" averaged, in a graph that leaves its image size open."""
    ending = node("GlobalAveragePool", "z", "y")
    return AdjointCase(
        [*nodes, ending], lambda x: function(x).mean((2, 3)), (3, 8, 7), weights, open_size=True
    )


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_parts_one_behind_the_other(axis):
    nodes = [node("Relu", "x", "r"), node("Concat", "r x", "z", axis=axis)]
    check_sizes(averaged(nodes, lambda x: torch.cat([x.relu(), x], axis)))


SLICES = [
    (1, END, 1), (0, -1, 1), (-2, END, 1), (0, 4, 1), (1, END, 2), (0, END, 2), (0, 8, 1), (-4, -1, 2),
    (-1, -END, -1), (99, -END, -2), (3, 0, -1), (-99, 3, 1),
]  # fmt: skip


@pytest.mark.parametrize(("start", "end", "stride"), SLICES)
def test_slices_of_an_axis_of_open_size(start, end, stride):
    nodes = [node("Slice", "x b e a s", "z")]
    ends = slice(start, end if abs(end) < END else None, stride)
    check_sizes(
        averaged(
            nodes, lambda x: x[:, :, list(range(x.shape[2]))[ends]],
            b=whole(start), e=whole(end), a=whole(2), s=whole(stride),
        )
    )  # fmt: skip


def test_a_slice_whose_bounds_are_computed_from_sizes():
    """The second half of the channels, as a network writes it that asks a tensor for its shape."""
    nodes = [
        node("Shape", "x", "sizes"), node("Gather", "sizes one", "channels"),
        node("Div", "channels two", "half"), node("Slice", "x half channels one", "z"),
    ]  # fmt: skip
    check_sizes(averaged(nodes, lambda x: x[:, 1:], one=whole(1), two=whole(2)))


@pytest.mark.parametrize("index", [2, -1, [1], [3, 0, 3], [[0, 1], [1, 1]]], ids=str)
def test_picking_from_an_axis_of_open_size(index):
    weights = {"i": np.array(index, np.int64)}
    rank = np.ndim(index)
    nodes = [node("Gather", "x i", "z", axis=2), node("ReduceMean", "z", "y", axes=[*range(2, 3 + rank)])]
    case = AdjointCase(
        nodes, lambda x: x[:, :, index].mean([*range(2, 3 + rank)]), (3, 8, 7), weights, open_size=True
    )
    check_sizes(case)


@pytest.mark.parametrize("index", [[0, -1], [-2, 1, -2], [[-1, 0], [0, -3]]], ids=str)
def test_picking_several_from_behind_an_axis_of_open_size(index):
    rank = np.ndim(index)
    nodes = [node("Gather", "x i", "z", axis=2), node("ReduceMean", "z", "y", axes=[*range(2, 3 + rank)])]
    weights = {"i": np.array(index, np.int64)}
    case = AdjointCase(
        nodes, lambda x: x[:, :, index].mean([*range(2, 3 + rank)]), (3, 8, 7), weights, open_size=True
    )
    check_sizes(case)


def test_picking_a_column_whose_place_is_computed_from_the_size():
    """The middle of a map, as a network writes it that asks for its width."""
    nodes = [
        node("Shape", "x", "sizes"), node("Gather", "sizes three", "width"),
        node("Div", "width two", "middle"),
        node("Gather", "x middle", "c", axis=3), node("ReduceMean", "c", "y", axes=[2], keepdims=0),
    ]  # fmt: skip
    weights = {"three": np.array(3), "two": np.array(2)}
    case = AdjointCase(nodes, lambda x: x[..., x.shape[3] // 2].mean(2), (3, 8, 7), weights, open_size=True)
    check_sizes(case)


def test_indices_that_are_computed_from_sizes():
    """Flat places N − 1, ..., 0 of a vector, and back: how some exporters write a view."""
    nodes = [
        node("Reshape", "x all", "v"), node("Shape", "v", "n"), node("Squeeze", "n", "count"),
        node("Range", "zero count one", "up"), node("Sub", "n up", "down"), node("Sub", "down one", "places"),
        node("Gather", "v places", "w"), node("Reshape", "w rows", "y"),
    ]  # fmt: skip
    weights = {"all": whole(-1), "zero": np.array(0), "one": np.array(1), "rows": whole(-1, 60)}
    case = AdjointCase(nodes, lambda x: x.flatten().flip(0).reshape(len(x), 60), weights=weights, opset=18)
    check_sizes(case, others=())
    case.opset = 15  # whose scattering cannot add
    check_sizes(case, others=())


def test_picking_places():
    """An uneven adaptive pooling picks rows and columns, some twice."""
    rows, columns = np.meshgrid([0, 2, 2], [1, 3], indexing="ij")
    nodes = [
        node("Transpose", "x", "t", perm=[2, 3, 0, 1]),
        node("GatherND", "t i", "p"),
        node("Transpose", "p", "y", perm=[2, 3, 0, 1]),
    ]
    weights = {"i": np.stack([rows, columns], -1)}
    check_adjoint(AdjointCase(nodes, lambda x: x[:, :, rows, columns], weights=weights, opset=18))


def test_padding_that_also_cuts_off():
    case = AdjointCase(
        [node("Pad", "x n", "y")],
        lambda x: F.pad(x, (2, -1, -1, 1)),
        weights={"n": whole(0, 0, -1, 2, 0, 0, 1, -1)},
    )
    check_adjoint(case, double=False)  # ONNX's own reference cuts nothing off


def test_padding_computed_from_sizes():
    """To an even height, as padding that keeps sizes does."""
    nodes = [
        node("Shape", "x", "sizes"), node("Slice", "sizes two three", "h"), node("Mod", "h two", "odd"),
        node("Concat", "none odd none1", "pads", axis=0), node("Pad", "x pads", "z"),
    ]  # fmt: skip
    weights = {"two": whole(2), "three": whole(3), "none": whole(0, 0, 0, 0, 0, 0), "none1": whole(0)}
    case = averaged(nodes, lambda x: F.pad(x, (0, 0, 0, x.shape[2] % 2)), **weights)
    check_sizes(case, double=False)


@pytest.mark.parametrize("upper", [0, 1])
def test_triangles(upper):
    function = torch.triu if upper else torch.tril
    check_adjoint(
        AdjointCase(
            [node("Trilu", "x k", "y", upper=upper)], lambda x: function(x, 1), weights={"k": np.array(1)}
        )
    )


# ---------------------------------------------------------------- padding by copies

PADDED = {"edge": "replicate", "reflect": "reflect", "wrap": "circular"}
AROUND = [(1, 2, 2, 1), (0, 1, 3, 0), (2, 0, 0, 0)]  # top, left, bottom, right


def padded(mode, around):
    top, left, bottom, right = around
    return lambda x: F.pad(x, (left, right, top, bottom), mode=PADDED[mode])


@pytest.mark.parametrize("around", AROUND, ids=str)
@pytest.mark.parametrize("mode", PADDED)
def test_copies_go_back_to_what_they_are_copies_of(mode, around):
    pads = whole(0, 0, *around[:2], 0, 0, *around[2:])
    nodes = [node("Pad", "x n", "y", mode=mode)]
    opset = 19 if mode == "wrap" else 13
    check_adjoint(AdjointCase(nodes, padded(mode, around), weights={"n": pads}, opset=opset))
    averages = averaged([node("Tanh", "x", "t"), node("Pad", "t n", "p", mode=mode), node("Tanh", "p", "z")],
                        lambda x: torch.tanh(padded(mode, around)(torch.tanh(x))), n=pads)  # fmt: skip
    averages.opset = opset
    check_sizes(averages)


@pytest.mark.parametrize("opset", [9, 10, 11, 13, 18, 21])
def test_edges_in_every_operator_set(opset):
    """In front of a max-pooling, as converters from Caffe and TensorFlow write it."""
    around = [0, 0, 1, 1, 0, 0, 1, 0]
    attributes = {"mode": "edge", **({"pads": around} if opset < 11 else {})}
    nodes = [
        node("Pad", "x" if opset < 11 else "x n", "p", **attributes),
        node("MaxPool", "p", "y", kernel_shape=[3, 2], strides=[2, 2]),
    ]

    def function(x):
        return F.max_pool2d(F.pad(x, (1, 0, 1, 1), mode="replicate"), (3, 2), 2)

    check_adjoint(AdjointCase(nodes, function, (3, 7, 6), {"n": whole(*around)}, opset), double=False)


def test_copies_of_some_axes_and_around_a_volume():
    nodes = [node("Pad", "x n _ a", "y", mode="reflect")]
    weights = {"n": whole(1, 2), "a": whole(-1)}
    check_adjoint(
        AdjointCase(nodes, lambda x: F.pad(x, (1, 2, 0, 0), mode="reflect"), weights=weights, opset=18)
    )
    nodes = [
        node("Unsqueeze", "x a", "v"), node("Pad", "v n", "p", mode="edge"), node("Squeeze", "p a", "y"),
    ]  # fmt: skip
    weights = {"a": whole(1), "n": whole(0, 0, 1, 0, 2, 0, 0, 2, 3, 0)}

    def function(x):
        return F.pad(x.unsqueeze(1), (2, 0, 0, 3, 1, 2), mode="replicate").squeeze(1)

    check_adjoint(AdjointCase(nodes, function, weights=weights, opset=18))


def test_copies_at_one_end_and_a_cut_at_the_other():
    nodes = [node("Pad", "x n", "y", mode="edge")]
    pads = whole(0, 0, 2, -1, 0, 0, -1, 1)
    check_adjoint(
        AdjointCase(
            nodes, lambda x: F.pad(x[:, :, :-1, 1:], (0, 1, 2, 0), mode="replicate"), weights={"n": pads}
        ),
        double=False,
    )


SAME = [
    node("Shape", "x", "s"), node("Gather", "s last", "e"), node("Mod", "e two", "odd"),
    node("Add", "odd one", "b"), node("Concat", "none b none odd", "n", axis=0),
]  # fmt: skip
NUMBERS = {"last": whole(2, 3), "two": whole(2), "one": whole(1), "none": whole(0, 0)}


def same(mode):
    """Padding that depends on whether height and width are even, as TensorFlow computes it in the graph."""

    def function(x):
        tall, wide = (size % 2 for size in x.shape[2:])
        return F.pad(x, (wide + 1, wide, tall + 1, tall), mode=PADDED[mode])

    return function


@pytest.mark.parametrize("mode", ["edge", "reflect"])
def test_copies_as_many_as_are_computed_from_sizes(mode):
    nodes = [*SAME, node("Tanh", "x", "t"), node("Pad", "t n", "p", mode=mode), node("Tanh", "p", "z")]
    check_sizes(averaged(nodes, lambda x: torch.tanh(same(mode)(torch.tanh(x))), **NUMBERS))


def test_sizes_that_are_computed_but_fixed(tmp_path):
    """Beside the batch size in one shape, and known all the same: what follows from them is a constant."""
    nodes = [
        *SAME,
        node("Pad", "x n", "p", mode="edge"),
        node("Relu", "p", "a"),
        node("GlobalAveragePool", "a", "y"),
    ]
    case = AdjointCase(nodes, lambda x: same("edge")(x).relu().mean((2, 3)), (3, 7, 6), NUMBERS)
    path = tmp_path / "model.onnx"
    path.write_bytes(case.model().SerializeToString())
    engine = camrt.load(path, target="a")
    assert engine.targets()[-1].shape == (3, 10, 7)
    images = case.images(3)
    given = torch.from_numpy(images).requires_grad_()
    case.function(given).flatten(1)[:, 1].sum().backward()
    found = engine.explain(images.astype(np.float32), "gradient", targets=1, blur=1, score="logit").raw
    assert_close(found, given.grad.abs().amax(1).numpy(), np.float32, factor=4)
