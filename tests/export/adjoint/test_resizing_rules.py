"""Interpolation against the runtime's own: what it makes of unit vectors is the matrix."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import onnxruntime as ort
import pytest

from camrt.export.adjoint import WEIGHTING
from helpers.adjoint_cases import AdjointCase, build_adjoint_of, node, run_single
from helpers.tolerances import assert_close

SHAPE = (2, 6, 5)
SCALES = [(2.0, 3.0), (1.5, 0.5), (0.6, 0.8), (3.0, 1.0)]
WAYS = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
ROUNDINGS = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
KINDS = [
    *({"mode": "nearest", "nearest_mode": rounding} for rounding in ROUNDINGS),
    {"mode": "linear"},
    {"mode": "cubic", "cubic_coeff_a": -0.6},
    {"mode": "cubic", "exclude_outside": 1},
]


def check_against_the_runtime(case, back=None):
    """The adjoint of a case, or a graph made at another size."""
    forth = ort.InferenceSession(case.model().SerializeToString(), providers=["CPUExecutionProvider"])
    cells = int(np.prod(case.shape))
    units = np.eye(cells, dtype=np.float32).reshape(cells, *case.shape)
    matrix = forth.run(None, {"x": units})[0].astype(np.float64)
    weighting = np.random.default_rng(0).standard_normal((2, matrix.shape[1])).astype(np.float32)
    feeds = {"map": case.images(2), WEIGHTING: weighting}
    found = run_single(back or build_adjoint_of(case, double=False), feeds)[1]
    # The runtime makes its matrix in float32, and cubic weights cancel.
    assert_close(found.reshape(2, cells), weighting @ matrix.T, np.float32, factor=64)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_interpolating(way, kind):
    for scale, stated in product(SCALES, ["scales", "sizes"]):
        attributes = {"coordinate_transformation_mode": way, **kind}
        if stated == "scales":
            weights = {"s": np.array([1, 1, *scale], np.float32)}
            nodes = [node("Resize", "x _ s", "y", **attributes)]
        else:
            after = [int(np.floor(size * np.float32(s))) for size, s in zip(SHAPE[1:], scale, strict=True)]
            weights = {"s": np.array(after), "a": np.array([2, 3])}
            nodes = [node("Resize", "x _ _ s", "y", axes=[2, 3], **attributes)]
        check_against_the_runtime(AdjointCase(nodes, None, SHAPE, weights, opset=19))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("operator", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_interpolation_before_its_ways_had_names(operator, opset, mode):
    for scale in [(2.0, 2.0), (2.0, 3.0)] if operator == "Upsample" else SCALES:
        weights = {"s": np.array([1, 1, *scale], np.float32)}
        nodes = [node(operator, "x s", "y", mode=mode)]
        check_against_the_runtime(AdjointCase(nodes, None, SHAPE, weights, opset=opset))


def test_scales_of_some_axes():
    weights = {"s": np.array([2.5, 0.5], np.float32)}
    nodes = [node("Resize", "x _ s", "y", mode="linear", axes=[3, 2])]
    check_against_the_runtime(AdjointCase(nodes, None, SHAPE, weights, opset=18))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize("way", ["half_pixel", "align_corners", "asymmetric"])
def test_interpolation_of_images_of_open_size(way, kind):
    """By scales, and by sizes computed from another map's; the graph is run at sizes it was not made at."""
    attributes = {"coordinate_transformation_mode": way, **kind}
    scaled = [node("Resize", "x _ s", "y", **attributes)]
    sized = [
        node("Shape", "x", "n"), node("Mul", "n k", "m"), node("Add", "m one", "after"),
        node("Resize", "x _ _ after", "y", **attributes),
    ]  # fmt: skip
    weights = {
        "s": np.array([1, 1, 1.5, 0.7], np.float32), "k": np.array([1, 1, 2, 1]),
        "one": np.array([0, 0, 1, 2]),
    }  # fmt: skip
    for nodes in (scaled, sized):
        case = AdjointCase(nodes, None, (2, 6, 5), weights, opset=18, open_size=True)
        back = build_adjoint_of(case, double=False)
        back.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "C"  # as many as the map has cells
        for size in ((6, 5), (4, 7), (3, 5)):
            check_against_the_runtime(replace(case, shape=(2, *size)), back)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_smoothing_where_the_map_shrinks(mode):
    weights = {"s": np.array([1, 1, 0.5, 0.4], np.float32)}
    nodes = [node("Resize", "x _ s", "y", mode=mode, antialias=1)]
    check_against_the_runtime(AdjointCase(nodes, None, (2, 8, 7), weights, opset=18))


def test_cropping_while_resizing():
    weights = {
        "r": np.array([0.2, -0.1, 0.7, 0.8], np.float32), "n": np.array([4, 5]),
    }  # fmt: skip
    attributes = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "axes": [2, 3]}
    case = AdjointCase([node("Resize", "x r _ n", "y", **attributes)], None, SHAPE, weights, opset=18)
    check_against_the_runtime(case)


def test_channels_last():
    weights = {"s": np.array([1, 2, 1.5, 1], np.float32)}
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
        node("Resize", "t _ s", "r", mode="linear"),
        node("Transpose", "r", "y", perm=[0, 3, 1, 2]),
    ]
    check_against_the_runtime(AdjointCase(nodes, None, SHAPE, weights))
