"""Interpolation against the runtime's own: what it makes of unit vectors is the matrix."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnxruntime as ort
import pytest
from adjoint_cases import Case, adjoint_of, node, run_single
from tolerances import assert_close

from camrt.export.adjoint import WEIGHTING

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


def check_against_the_runtime(case):
    forth = ort.InferenceSession(case.model().SerializeToString(), providers=["CPUExecutionProvider"])
    cells = int(np.prod(case.shape))
    units = np.eye(cells, dtype=np.float32).reshape(cells, *case.shape)
    matrix = forth.run(None, {"x": units})[0].astype(np.float64)
    weighting = np.random.default_rng(0).standard_normal((2, matrix.shape[1])).astype(np.float32)
    feeds = {"map": case.pictures(2), WEIGHTING: weighting}
    found = run_single(adjoint_of(case, double=False), feeds)[1]
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
        check_against_the_runtime(Case(nodes, None, SHAPE, weights, opset=19))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("operator", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_interpolation_before_its_ways_had_names(operator, opset, mode):
    for scale in [(2.0, 2.0), (2.0, 3.0)] if operator == "Upsample" else SCALES:
        weights = {"s": np.array([1, 1, *scale], np.float32)}
        nodes = [node(operator, "x s", "y", mode=mode)]
        check_against_the_runtime(Case(nodes, None, SHAPE, weights, opset=opset))


def test_scales_of_some_axes():
    weights = {"s": np.array([2.5, 0.5], np.float32)}
    nodes = [node("Resize", "x _ s", "y", mode="linear", axes=[3, 2])]
    check_against_the_runtime(Case(nodes, None, SHAPE, weights, opset=18))
