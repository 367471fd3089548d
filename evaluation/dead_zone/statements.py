"""What "CAM-Based Methods Can See through Walls" proves of masked networks, each statement beside its value.

Sections 3 and 4 of the paper (specification D1 to D3): Proposition 2 and what a masked one-layer network
cannot see, Theorem 3 on the expected Grad-CAM of networks that are drawn at random, and the rows that the
masked VGG-16 cannot see. Values come from runs of networks; what the paper says of them, from its formulas.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

import camrt
from camrt.engine.methods import make_method
from camrt.evaluation.dead_zone.detection import find_dead_zone
from camrt.evaluation.dead_zone.grad_cam_theorem import check_theorem, expected_norm
from camrt.evaluation.dead_zone.narrow_vgg import IMAGE_SIDE, LAST_MAP_ROWS, paper_dead_rows, save_narrow_vgg
from camrt.evaluation.dead_zone.one_layer_cnn import Array, OneLayerCNN, check_image_size
from camrt.evaluation.metrics.dead_zone_share import dead_share, lower_rows_mask
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["STATEMENT_CHECKS", "Statement", "TheoryInputs"]

FILTER_SIDE = POOL_SIDE = 2
"""Sides of filters and of pooling cells in the paper's network."""
WIDTHS = {1: (10,), 2: (32, 10), 3: (32, 16, 10)}
"""Units of the dense layers, by their number L; with one it is the paper's network."""
KEPT_ROWS = 5
"""Rows of the 14 that the masked VGG-16 sees."""
ALLOWED_ERRORS = 3
"""A value that is found by chance may be so many standard errors off."""
ROUNDING_TOLERANCE = 1e-10
"""Where sums of a few thousand products of float64 are compared by their quotient."""


@dataclass(frozen=True)
class TheoryInputs:
    """What the one-layer statements are measured on.

    Attributes:
        xi: The image (H, H); H − 1 is a multiple of 4, so that half of the pooled rows can be masked, and
            that half is not zero all over.
        filters: V.
        draws: Networks that are drawn for expectations.
        seed: Of everything that is drawn.
    """

    xi: Array
    filters: int
    draws: int
    seed: int


@dataclass(frozen=True)
class Statement:
    """A statement of the paper, and what was found.

    Attributes:
        text: What is stated, of what.
        theory: What the value must be, or must reach.
        value: What was found.
        error: The value's standard error where it is found by chance; else how far rounding may take it, 0
            where both must be equal.
        relation: How value and theory must relate. ">" and "≥" are strict: no error is allowed.
    """

    text: str
    theory: float
    value: float
    error: float = 0.0
    relation: Literal["=", "≥", ">"] = "="

    @property
    def holds(self) -> bool:
        """Whether the value is what is stated, within three errors."""
        if self.relation == "≥":
            return self.value >= self.theory
        if self.relation == ">":
            return self.value > self.theory
        return abs(self.value - self.theory) <= ALLOWED_ERRORS * self.error


@ignore_float_errors
def check_one_layer(subject: TheoryInputs) -> list[Statement]:
    """Proposition 2 for one to three dense layers, and what the masked network does not see (D1)."""
    found = []
    for layers, widths in WIDTHS.items():
        network = draw_network(subject, widths)
        closed = network.closed_form_weights(subject.xi)
        apart = np.abs(network.difference_weights(subject.xi) - closed).max() / np.abs(closed).max()
        text = f"L = {layers}: |α of runs − α in closed form| / largest |α|"
        found.append(Statement(text, 0.0, float(apart), ROUNDING_TOLERANCE))
    network = draw_network(subject, WIDTHS[1])
    half = network.pooled[0] // 2
    xi = subject.xi
    answers = network.forward(xi)
    noise = np.random.default_rng(subject.seed).standard_normal(xi.shape)
    seen = 0
    for row in range(len(xi)):
        changed = xi.copy()
        changed[row] += noise[row]
        seen += not np.array_equal(network.forward(changed), answers)
    lower = slice(POOL_SIDE * half, None)
    marked = max(network.grad_cam(xi, target)[lower].max() for target in range(WIDTHS[1][-1]))
    gradient = np.abs(network.gradient(xi)[:, lower]).max()
    return [
        *found,
        Statement(
            f"rows of the image that change an output, of {len(xi)}",
            POOL_SIDE * half + FILTER_SIDE - 1,
            seen,
        ),
        Statement("largest |∂f/∂B| in the masked half of the map", 0.0, float(gradient)),
        Statement("largest Grad-CAM there, over all outputs", 0.0, float(marked), relation=">"),
    ]


def draw_network(subject: TheoryInputs, widths: tuple[int, ...]) -> OneLayerCNN:
    """A network at initialisation, the lower half of its pooled rows masked."""
    size = check_image_size(subject.xi)
    network = OneLayerCNN.random(size, subject.filters, FILTER_SIDE, POOL_SIDE, widths, seed=subject.seed)
    return network.mask_lower(network.pooled[0] // 2)


@ignore_float_errors
def check_grad_cam_theorem(subject: TheoryInputs) -> list[Statement]:
    """Theorem 3: the expected Grad-CAM of networks drawn at random, in the masked half too (D2)."""
    V, draws = subject.filters, subject.draws
    rng = np.random.default_rng((subject.seed, V))
    norms = np.linalg.norm(np.maximum(rng.standard_normal((draws, V)), 0), axis=1)
    check = check_theorem(subject.xi, V, FILTER_SIDE, POOL_SIDE, draws=draws, seed=subject.seed)
    found = [
        Statement(
            f"c_V, the mean norm of {V} rectified normal numbers",
            expected_norm(V),
            float(norms.mean()),
            float(norms.std(ddof=1) / math.sqrt(draws)),
        ),
        Statement("mean Grad-CAM / E[GC], all places", 1.0, check.ratio, check.ratio_error),
        Statement("mean Grad-CAM / E[GC], masked half", 1.0, check.masked_ratio, check.masked_error),
        Statement(
            "share of the mean Grad-CAM's sum in the masked half",
            check.expected_share,
            check.masked_share,
            check.share_error,
        ),
    ]
    if check.bound_ratio > 0:  # from more than 20 filters on
        text = f"least mean Grad-CAM / bound of the theorem ({check.bound_ratio:.3f} of E[GC]), over places"
        found.append(Statement(text, 1.0, check.least_over_bound, relation="≥"))
    if check.zero_places:
        text = f"largest mean Grad-CAM at the {check.zero_places} places over patches of zeros"
        found.append(Statement(text, 0.0, check.largest_at_zero))
    return found


@ignore_float_errors
def check_vgg(subject: TheoryInputs) -> list[Statement]:
    """What the masked VGG-16 cannot see, by the gradients and the outputs of its file (D3)."""
    images = (
        np.random.default_rng(subject.seed).standard_normal((4, 3, IMAGE_SIDE, IMAGE_SIDE)).astype(np.float32)
    )
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vgg.onnx"
        for kept in range(1, 10):
            save_narrow_vgg(path, kept, subject.seed)
            engine = camrt.load(path)
            text = (
                f"{kept} of {LAST_MAP_ROWS} rows kept: lowest rows of {IMAGE_SIDE} that no output depends on"
            )
            zone = find_dead_zone(engine, seed=subject.seed)
            found.append(Statement(text, paper_dead_rows(kept), zone.lowest_rows))
        save_narrow_vgg(path, KEPT_ROWS, subject.seed)
        engine = camrt.load(path)
        maps = {
            name: engine.explain(images, make_method(name, {"postprocess": "library"}))
            for name in ("hirescam", "layercam", "gradcam")
        }
    dead = lower_rows_mask((IMAGE_SIDE, IMAGE_SIDE), paper_dead_rows(KEPT_ROWS))
    shares = {name: dead_share(own.maps, dead) for name, own in maps.items()}
    for name, title in (("hirescam", "HiResCAM"), ("layercam", "LayerCAM")):
        in_the_map = float(np.abs(maps[name].raw[:, KEPT_ROWS:]).max())
        found += [
            Statement(
                f"{title}'s largest |value| in rows {KEPT_ROWS} to {LAST_MAP_ROWS - 1} of the map",
                0.0,
                in_the_map,
            ),
            Statement(f"μ of {title}", 0.0, float(np.nanmax(shares[name]))),
        ]
    uniform = float(dead_share(np.ones((1, IMAGE_SIDE, IMAGE_SIDE)), dead)[0])
    return [
        *found,
        Statement("μ of a uniform map, sqrt(54/224)", math.sqrt(54 / 224), uniform, ROUNDING_TOLERANCE),
        Statement("μ of Grad-CAM at initialisation", 0.0, float(np.nanmean(shares["gradcam"])), relation=">"),
    ]


STATEMENT_CHECKS: Mapping[str, Callable[[TheoryInputs], list[Statement]]] = MappingProxyType(
    {
        "Proposition 2": check_one_layer,
        "Theorem 3": check_grad_cam_theorem,
        "masked VGG-16": check_vgg,
    }
)
"""The statements, by what they are about."""
