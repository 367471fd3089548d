"""Cue localisation of CALM (ICCV 2021, section 5.2), pixel by pixel; and a small folder laid out as CUB's.

A class has an attribute at 50 per cent. Attributes that two classes do not share name the differing parts by
the words in their names. A pixel is in the mask when it is bird and the keypoint nearest to it belongs to a
differing part. |s_A − s_B|, upsampled bilinearly, is ranked over the pixels of all images of both classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = [
    "ATTRIBUTES",
    "KEYPOINTS",
    "difference",
    "differing_parts",
    "mask",
    "points",
    "ranked_precision",
    "small_cub",
]

KEYPOINTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape",
    "right eye", "right leg", "right wing", "tail", "throat",
)  # fmt: skip
"""CUB's parts.txt."""
ATTRIBUTES = (
    "has_bill_shape::cone",
    "has_back_color::blue",
    "has_tail_shape::forked_tail",
    "has_leg_color::red",
    "has_primary_color::black",
)
HEAD = {"bill", "crown", "eye", "forehead", "head", "nape", "throat"}
HEAD_POINTS = {"beak", "crown", "forehead", "left eye", "right eye", "nape", "throat"}


def differing_parts(one: Sequence[float], other: Sequence[float], names: Sequence[str]) -> set[str]:
    parts = set()
    for a, b, name in zip(one, other, names, strict=True):
        if (a >= 50) == (b >= 50):
            continue
        for word in HEAD:
            if name.find(word) >= 0:
                parts.add("head")
        for word in ("back", "belly", "breast", "tail", "leg", "wing"):
            if name.find(word) >= 0:
                parts.add(word)
    return parts


def points(
    keypoints: dict[str, tuple[float, float]], size: tuple[int, int], side: int
) -> list[tuple[str, int, int]]:
    """(part, x, y), head, back, belly, breast, tail, legs, wings; `keypoints` holds the visible ones."""
    scaled = {name: (x / size[1] * side, y / size[0] * side) for name, (x, y) in keypoints.items()}
    head = [scaled[name] for name in KEYPOINTS if name in scaled and name in HEAD_POINTS]
    found = []
    if head:
        found.append(
            ("head", int(sum(x for x, _ in head) / len(head)), int(sum(y for _, y in head) / len(head)))
        )
    for name in ("back", "belly", "breast", "tail", "left leg", "right leg", "left wing", "right wing"):
        if name in scaled:
            found.append((name.split()[-1], int(scaled[name][0]), int(scaled[name][1])))
    return found


def mask(found: list[tuple[str, int, int]], parts: set[str], bird: Any) -> Any:
    """None where none of the parts is among the points."""
    if not any(part in parts for part, _, _ in found):
        return None
    inside = np.zeros(bird.shape, bool)
    for row in range(bird.shape[0]):
        for column in range(bird.shape[1]):
            best, of_best = math.inf, ""
            for part, x, y in found:
                distance = (x - column) ** 2 + (y - row) ** 2
                if distance < best:
                    best, of_best = distance, part
            inside[row, column] = of_best in parts and bird[row, column]
    return inside


def upsampled(values: Any, height: int, width: int) -> Any:
    """Bilinear with half-pixel centres; what lies beyond the outer centres takes their value."""
    low, wide = values.shape
    result = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * low / height - 0.5, 0), low - 1)
            x = min(max((column + 0.5) * wide / width - 0.5, 0), wide - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, low - 1), min(left + 1, wide - 1)
            above = values[top, left] * (1 - x + left) + values[top, right] * (x - left)
            below = values[bottom, left] * (1 - x + left) + values[bottom, right] * (x - left)
            result[row, column] = above * (1 - y + top) + below * (y - top)
    return result


def scaled_to_one(values: Any, kind: str) -> Any:
    if kind == "calm":
        return np.minimum(np.maximum(values, 0), 1)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def difference(one: Any, other: Any, size: tuple[int, int], order: str, kind: str) -> Any:
    """Of two maps (h, w)."""
    if order == "before":
        return np.abs(upsampled(scaled_to_one(one, kind) - scaled_to_one(other, kind), *size))
    return scaled_to_one(np.abs(upsampled(one - other, *size)), kind)


def ranked_precision(scores: Any, positives: Any, edges: Any = None) -> float:
    """Σ P (R − R before) over thresholds from high to low: every score, or the lower borders of bins."""
    scores, positives = np.ravel(scores), np.ravel(positives).astype(bool)
    if edges is not None:
        counted = (scores >= edges[0]) & (scores <= edges[-1])
        scores, positives = scores[counted], positives[counted]
    total, before, area = positives.sum(), 0.0, 0.0
    for threshold in sorted(set(scores.tolist()) if edges is None else set(edges[:-1]), reverse=True):
        above = scores >= threshold
        if above.any():
            recall = positives[above].sum() / total
            area += positives[above].mean() * (recall - before)
            before = recall
    return float(area)


def small_cub(folder: Path, *, seed: int = 0, beside: bool = False) -> dict[str, Any]:
    """Four classes of three images, the last two of each for testing; what is in them, by name.

    Classes 1 and 2 differ in the head, 1 and 3 in back and leg, 1 and 4 in the primary colour alone.
    """
    rng = np.random.default_rng(seed)
    labels = ("001.Auk", "002.Crow", "003.Wren", "004.Rook")
    shares = np.full((4, len(ATTRIBUTES)), 20.0)
    shares[1, 0], shares[2, [1, 3]], shares[3, 4] = 50.0, (90.0, 50.0), 100.0
    names = [f"{label}/{label[4:]}_{number}.jpg" for label in labels for number in range(3)]
    sizes, visible, birds = [], [], []
    (folder / "attributes").mkdir(parents=True)
    (folder / "parts").mkdir()
    for name in names:
        height, width = (int(side) for side in rng.integers(20, 40, 2))
        for kind in ("images", "segmentations"):
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(
            folder / "images" / name
        )
        bird = np.zeros((height, width), np.uint8)
        bird[4:-3, 3:-5] = 204
        bird[4:8, 3:9] = 51
        Image.fromarray(bird).save((folder / "segmentations" / name).with_suffix(".png"))
        sizes.append((height, width))
        birds.append(bird)
        visible.append(
            {
                part: (round(float(rng.uniform(0, width)), 1), round(float(rng.uniform(0, height)), 1))
                for part in KEYPOINTS
                if rng.random() < 0.6
            }
        )
    visible[4] = {"tail": (5.0, 6.0), "left wing": (9.5, 3.0)}  # a test image of class 2 without a head
    texts = {
        "images.txt": [f"{n + 1} {name}" for n, name in enumerate(names)],
        "image_class_labels.txt": [f"{n + 1} {n // 3 + 1}" for n in range(12)],
        "train_test_split.txt": [f"{n + 1} {int(n % 3 == 0)}" for n in range(12)],
        "classes.txt": [f"{n + 1} {label}" for n, label in enumerate(labels)],
        "attributes/class_attribute_labels_continuous.txt": [" ".join(map(str, row)) for row in shares],
        "parts/parts.txt": [f"{n + 1} {part}" for n, part in enumerate(KEYPOINTS)],
        "parts/part_locs.txt": [
            f"{n + 1} {place + 1} {'{} {} 1'.format(*shown[part]) if part in shown else '0.0 0.0 0'}"
            for n, shown in enumerate(visible)
            for place, part in enumerate(KEYPOINTS)
        ],
        ("../attributes.txt" if beside else "attributes/attributes.txt"): [
            f"{n + 1} {name}" for n, name in enumerate(ATTRIBUTES)
        ],
    }
    for name, lines in texts.items():
        (folder / name).write_text("\r\n".join(lines) + "\r\n")
    return {
        "names": names,
        "labels": labels,
        "shares": shares,
        "sizes": sizes,
        "visible": visible,
        "birds": birds,
    }
