"""The native kernels. They check sizes only: call them through their folders."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.floating[Any]]
_Ints = NDArray[np.int64]

def ablate_boxes(
    activations: _Floats, batch_index: _Ints, boxes: _Ints, out: _Floats, keep: bool, threads: int
) -> None: ...
def ablate_channels(
    activations: _Floats, batch_index: _Ints, channel: _Ints, out: _Floats, threads: int
) -> None: ...
def average_precision(
    scores: _Floats, marks: NDArray[np.uint8], threads: int
) -> tuple[float, bool, bool, bool]: ...
def best_overlaps(
    maps: NDArray[np.uint8], boxes: _Ints, starts: _Ints, best: _Floats, threads: int
) -> None: ...
def blur(images: _Floats, weights: _Floats, mirror: bool, out: _Floats, threads: int) -> None: ...
def box_probabilities(
    contributions: _Floats,
    logits: _Floats,
    boxes: _Ints,
    targets: _Ints,
    sign: int,
    out: _Floats,
    threads: int,
) -> None: ...
def box_probabilities_pair(
    contributions: _Floats,
    logits_delete: _Floats,
    logits_keep: _Floats,
    boxes: _Ints,
    targets: _Ints,
    deleted: _Floats,
    kept: _Floats,
    threads: int,
) -> None: ...
def box_sums(cells: _Floats, boxes: _Ints, out: _Floats, threads: int) -> None: ...
def hidden_scores(
    base: _Floats,
    weight: _Floats,
    factor: _Floats,
    batch_index: _Ints,
    row: _Ints,
    rows: _Floats,
    function: int,
    out: _Floats,
    threads: int,
) -> None: ...
def masked_batch(
    activations: _Floats,
    images: _Floats,
    batch_index: _Ints,
    channel: _Ints,
    out: _Floats,
    normalise_first: bool,
    align_corners: bool,
    epsilon: float,
    threads: int,
) -> NDArray[np.bool_]: ...
def partial_products(weight: _Floats, u: _Floats, by_channel: bool, out: _Floats, threads: int) -> None: ...
def rank_one(
    base: _Floats,
    weight: _Floats,
    activations: _Floats,
    batch_index: _Ints,
    channel: _Ints,
    out: _Floats,
    threads: int,
) -> None: ...
def saliency(
    raw: _Floats,
    maps: _Floats | NDArray[np.uint16],
    flags: NDArray[np.uint8],
    library: bool,
    minmax: bool,
    relu: bool,
    align_corners: bool,
    threads: int,
) -> None: ...
def largest_boxes(maps: NDArray[np.uint8], largest: _Ints, threads: int) -> None: ...
def perturb(
    sheets: _Floats,
    ranks: _Ints,
    ranking: _Ints,
    count: _Ints,
    first: _Ints,
    rest: _Ints,
    out: _Floats,
    threads: int,
) -> None: ...
def score_histogram(
    scores: _Floats, marks: NDArray[np.uint8], edges: NDArray[np.float64], counts: _Ints, threads: int
) -> tuple[bool, bool, float, float, int]: ...
