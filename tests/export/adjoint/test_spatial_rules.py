"""Convolution, pooling and interpolation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812

from camrt.errors import AdjointError  # noqa: E402
from camrt.export.adjoint import WEIGHTING  # noqa: E402
from helpers.adjoint_cases import (  # noqa: E402
    AdjointCase,
    build_adjoint_of,
    check_adjoint,
    node,
    run_single,
    torch_gradient,
)
from helpers.tolerances import assert_close  # noqa: E402


def weight(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def double(values):
    return torch.from_numpy(values.astype(np.float64))


def pair(value):
    return list(value) if isinstance(value, tuple) else [value, value]


def conv(shape, outputs, kernel, *, stride=1, dilation=1, pads=(0, 0, 0, 0), group=1, **options):
    w, b = weight(outputs, shape[0] // group, *kernel), weight(outputs)
    top, left, bottom, right = pads

    def function(x):
        padded = F.pad(x, (left, right, top, bottom))
        return F.conv2d(padded, double(w), double(b), stride=stride, dilation=dilation, groups=group)

    attributes = {"strides": pair(stride), "dilations": pair(dilation), "pads": list(pads), "group": group}
    nodes = [node("Conv", "x w b", "y", kernel_shape=list(kernel), **attributes)]
    return AdjointCase(nodes, function, shape, {"w": w, "b": b}, **options)


@pytest.mark.parametrize("open_size", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3), (5, 1)])
def test_convolutions(kernel, stride, open_size):
    for pads, size in product([(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 3)], [(7, 6), (8, 9)]):
        check_adjoint(conv((3, *size), 4, kernel, stride=stride, pads=pads, open_size=open_size))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("group", "outputs"), [(2, 4), (4, 4), (4, 8)])
def test_grouped_convolutions(group, outputs, stride):
    # ONNX's own reference knows no groups in ConvTranspose
    check_adjoint(
        conv((4, 7, 6), outputs, (3, 3), stride=stride, pads=(1, 1, 1, 1), group=group), double=stride == 1
    )


@pytest.mark.parametrize("stride", [1, 2, (2, 1), (1, 3)])
def test_dilated_convolutions_and_uneven_strides(stride):
    check_adjoint(conv((2, 9, 8), 3, (3, 2), stride=stride, dilation=2, pads=(2, 1, 2, 1)))
    check_adjoint(conv((2, 9, 8), 3, (3, 2), stride=stride, pads=(3, 2, 3, 2)))


def test_padding_wider_than_the_kernel_reaches():
    check_adjoint(conv((2, 5, 4), 3, (1, 1), pads=(1, 2, 2, 1)))
    check_adjoint(conv((2, 5, 4), 3, (1, 1), stride=2, pads=(1, 2, 2, 1)))


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_automatic_padding(mode, stride):
    w, size = weight(3, 2, 3, 2), (6, 7)
    total = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(size, (3, 2), strict=True)]
    total = [0, 0] if mode == "VALID" else total
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    begin, end = (large, small) if mode == "SAME_LOWER" else (small, large)

    def function(x):
        return F.conv2d(F.pad(x, (begin[1], end[1], begin[0], end[0])), double(w), stride=stride)

    nodes = [node("Conv", "x w", "y", auto_pad=mode, strides=[stride, stride])]
    check_adjoint(AdjointCase(nodes, function, (2, *size), {"w": w}))


def test_automatic_padding_of_images_of_open_size_is_refused():
    nodes = [node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 2])]
    with pytest.raises(AdjointError, match="fixed size"):
        check_adjoint(AdjointCase(nodes, None, (2, 6, 7), {"w": weight(3, 2, 3, 2)}, open_size=True))


def test_a_turned_weight_that_depends_on_the_image_is_refused():
    nodes = [node("ReduceMean", "x", "m", axes=[0], keepdims=1), node("Pad", "m n", "w"),
             node("ConvTranspose", "x w", "y")]  # fmt: skip
    case = AdjointCase(nodes, None, (2, 3, 3), {"n": np.array([0] * 4 + [1] + [0] * 3)})
    with pytest.raises(AdjointError, match=r"ConvTranspose .*its weight depends on the image"):
        build_adjoint_of(case, double=False)


@pytest.mark.parametrize(("stride", "extra"), [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_transposed_convolutions(stride, extra):
    w = weight(4, 2, 3, 2)

    def function(x):
        return F.conv_transpose2d(x, double(w), stride=stride, padding=(1, 0), output_padding=extra, groups=2)

    attributes = {"strides": [stride] * 2, "pads": [1, 0, 1, 0], "output_padding": [extra] * 2, "group": 2}
    case = AdjointCase([node("ConvTranspose", "x w", "y", **attributes)], function, (4, 5, 4), {"w": w})
    check_adjoint(case, double=False)  # ONNX's own reference knows no groups here


def tied(rng, shape):
    return rng.integers(-1, 2, shape)


MAX_POOLS = [
    (2, 2, 0, False, 1), (3, 2, 1, False, 1), (3, 2, 0, True, 1), (3, 1, 1, False, 1), (2, 1, 0, False, 2),
    (3, 3, 1, False, 1), (2, 3, 0, False, 1), (5, 2, 2, True, 1),
]  # fmt: skip


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("open_size", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "pads", "ceil", "dilation"), MAX_POOLS)
def test_max_pooling(kernel, stride, pads, ceil, dilation, open_size, ties):
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pads] * 4}
    nodes = [node("MaxPool", "x", "y", ceil_mode=int(ceil), dilations=[dilation] * 2, **attributes)]

    def function(x):
        return F.max_pool2d(x, kernel, stride, pads, dilation, ceil_mode=ceil)

    for size in ((7, 7), (8, 7), (6, 9)):
        case = AdjointCase(nodes, function, (3, *size), values=tied if ties else None, open_size=open_size)
        check_adjoint(case, double=dilation == 1 and not ceil)


def test_windows_with_uneven_strides_need_a_runtime_that_scatters():
    nodes = [node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[1, 2])]
    check_adjoint(AdjointCase(nodes, lambda x: F.max_pool2d(x, 2, (1, 2)), (2, 6, 6)), double=False)
    with pytest.raises(AdjointError, match="two different strides"):
        build_adjoint_of(AdjointCase(nodes, None, (2, 6, 6)), double=False, supports_scatter_add=False)


@pytest.mark.parametrize("open_size", [False, True])
@pytest.mark.parametrize(("kernel", "strides", "pads"), [((2, 1), (2, 1), (0, 0)), ((3, 2), (1, 2), (1, 0))])
def test_averages_of_windows_with_uneven_strides(kernel, strides, pads, open_size):
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": [*pads, *pads]}
    nodes = [node("AveragePool", "x", "y", **attributes)]

    def function(x):
        return F.avg_pool2d(x, kernel, strides, pads, count_include_pad=False)

    for size in ((7, 7), (8, 6)):
        check_adjoint(AdjointCase(nodes, function, (3, *size), open_size=open_size), double=False)
    nodes = [node("LpPool", "x", "y", **attributes)]
    powers = np.prod(kernel)

    def norms(x):
        padded = F.pad(x.abs(), (pads[1], pads[1], pads[0], pads[0]))
        return (F.avg_pool2d(padded**2, kernel, strides) * powers).sqrt()

    check_adjoint(AdjointCase(nodes, norms, (3, 7, 7)), double=False)


@pytest.mark.parametrize("rank", [1, 3])
def test_averages_over_one_axis_and_three(rank):
    form = [0, 3, -1] if rank == 1 else [0, 3, 4, 3, 2]
    kernel, strides = [2, 2, 1][:rank], [2, 1, 1][:rank]
    nodes = [
        node("Reshape", "x form", "f"),
        node("AveragePool", "f", "y", kernel_shape=kernel, strides=strides),
    ]

    def function(x):
        pool = F.avg_pool1d if rank == 1 else F.avg_pool3d
        shape = (len(x), 3, 24) if rank == 1 else (len(x), 3, 4, 3, 2)
        return pool(x.reshape(shape), kernel, strides)

    check_adjoint(AdjointCase(nodes, function, (3, 6, 4), {"form": np.array(form)}), double=False)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "ceil"),
    [(2, 2, 0, False), (3, 2, 1, False), (3, 1, 1, False), (3, 2, 0, True), (3, 3, 1, False)],
)
def test_average_pooling(kernel, stride, pads, ceil, counted):
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pads] * 4}
    nodes = [node("AveragePool", "x", "y", ceil_mode=int(ceil), count_include_pad=int(counted), **attributes)]

    def function(x):
        return F.avg_pool2d(x, kernel, stride, pads, ceil_mode=ceil, count_include_pad=counted)

    for size in ((7, 7), (8, 6)):
        check_adjoint(AdjointCase(nodes, function, (3, *size), opset=19), double=not ceil)


def test_counted_padding_with_windows_beyond_the_map_is_refused():
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    nodes = [node("AveragePool", "x", "y", ceil_mode=1, count_include_pad=1, **attributes)]
    with pytest.raises(AdjointError, match="ceil_mode together with counted padding"):
        check_adjoint(AdjointCase(nodes, None, (2, 6, 6), opset=19))


def test_a_pooling_without_a_rule_is_refused_by_name():
    nodes = [node("MaxRoiPool", "x boxes", "y", pooled_shape=[2, 2])]
    case = AdjointCase(
        nodes, lambda x: x[..., :2, :2], weights={"boxes": np.array([[0, 0, 0, 3, 3]], np.float32)}
    )
    with pytest.raises(AdjointError, match=r"MaxRoiPool \(node 'MaxRoiPool_y'\): camrt has no rule"):
        build_adjoint_of(case, double=False)


@pytest.mark.parametrize("ties", [False, True])
def test_global_pooling(ties):
    values = tied if ties else None
    check_adjoint(
        AdjointCase(
            [node("GlobalAveragePool", "x", "y")], lambda x: x.mean((2, 3)), values=values, open_size=True
        )
    )
    case = AdjointCase(
        [node("GlobalMaxPool", "x", "y")], lambda x: F.adaptive_max_pool2d(x, 1), values=values
    )
    check_adjoint(case)


RESIZES = [
    ("nearest", "asymmetric", {"nearest_mode": "floor"}, {"mode": "nearest"}),
    ("linear", "half_pixel", {}, {"mode": "bilinear", "align_corners": False}),
    ("linear", "pytorch_half_pixel", {}, {"mode": "bilinear", "align_corners": False}),
    ("linear", "align_corners", {}, {"mode": "bilinear", "align_corners": True}),
    ("cubic", "half_pixel", {"cubic_coeff_a": -0.75}, {"mode": "bicubic", "align_corners": False}),
]


@pytest.mark.parametrize("size", [(7, 8), (10, 3), (5, 9)])
@pytest.mark.parametrize(("mode", "coordinates", "attributes", "options"), RESIZES)
def test_resizing(mode, coordinates, attributes, options, size):
    """The sizes hold the batch, so that it is fixed."""
    kind = {"mode": mode, "coordinate_transformation_mode": coordinates, **attributes}
    nodes = [node("Resize", "x _ _ sizes", "y", **kind)]
    sizes = np.array([5, 3, *size], np.int64)
    case = AdjointCase(
        nodes, lambda x: F.interpolate(x, size, **options), (3, 5, 4), {"sizes": sizes}, batch=5
    )
    images = case.images(5)
    weighting, _, expected = torch_gradient(case.function, images)
    found = run_single(build_adjoint_of(case, double=False), {"map": images, WEIGHTING: weighting})
    assert_close(found[1], expected, np.float32, factor=20)  # the matrices themselves are made in float32


def test_upsampling_by_whole_factors():
    scales = np.array([1, 1, 2, 3], np.float32)
    kind = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [node("Resize", "x _ scales", "y", **kind)]
    check_adjoint(
        AdjointCase(nodes, lambda x: F.interpolate(x, scale_factor=(2, 3)), weights={"scales": scales})
    )


@pytest.mark.parametrize(
    ("group", "stride", "dilation", "pads"),
    [(1, 1, 1, (1, 1, 1, 1)), (1, 2, 1, (0, 1, 1, 0)), (2, 1, 2, (2, 0, 1, 1)), (2, 3, 1, (1, 1, 0, 0))],
)
def test_a_convolution_whose_weight_is_made_from_the_image(group, stride, dilation, pads):
    """Dynamic convolution: one weight for the batch, made of what the whole of it holds on average."""
    mix = weight(4, 6 * (4 // group) * 3 * 2)
    nodes = [
        node("ReduceMean", "x", "m", axes=[0, 2, 3], keepdims=0), node("MatMul", "m mix", "v"),
        node("Tanh", "v", "t"), node("Reshape", "t form", "w"), node("Slice", "t zero six", "b"),
        node("Conv", "x w b", "y", group=group, strides=[stride] * 2, dilations=[dilation] * 2, pads=pads),
    ]  # fmt: skip
    weights = {
        "mix": mix,
        "form": np.array([6, 4 // group, 3, 2]),
        "zero": np.array([0]),
        "six": np.array([6]),
    }

    def function(x):
        made = torch.tanh(x.mean((0, 2, 3)) @ double(mix))
        padded = F.pad(x, (pads[1], pads[3], pads[0], pads[2]))
        return F.conv2d(padded, made.reshape(6, 4 // group, 3, 2), made[:6], stride, 0, dilation, group)

    check_adjoint(AdjointCase(nodes, function, (4, 8, 7), weights), double=False, factor=32)
