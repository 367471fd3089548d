"""Where the images of a scene go: one to four rectangles on a square canvas that never overlap.

The canvas is cut, always across its largest piece, until there is one piece an image (a guillotine
partition); each image then takes a random rectangle inside its own piece, so no two can overlap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camrt.errors import InputError

__all__ = ["MAX_IMAGES", "boxes_to_canvas", "sample_frames"]

MAX_IMAGES = 4
"""The most images a scene holds."""

_CUT = (0.4, 0.6)
_FILL = (0.6, 1.0)
_ASPECT = 1.5


def sample_frames(rng: np.random.Generator, count: int, canvas: int, whole: float = 0.5) -> NDArray[np.int64]:
    """Draws the frames of one scene's images.

    Args:
        rng: the source of chance.
        count: how many images, 1 to 4.
        canvas: side of the canvas in pixels, at least 32.
        whole: for a scene of a single image, the chance that it fills the canvas from edge to edge.

    Returns:
        int64 (count, 4), half-open (r0, c0, r1, c1) in pixels, inside the canvas and without overlap. No side
        is more than one and a half times the other, and none is less than 0.2 of the canvas.

    Raises:
        InputError: a count or a canvas out of range.
    """
    if not 1 <= count <= MAX_IMAGES:
        raise InputError(f"a scene holds 1 to {MAX_IMAGES} images, not {count}")
    if canvas < 32:
        raise InputError(f"a canvas is at least 32 pixels wide, not {canvas}")
    if count == 1 and rng.random() < whole:
        return np.array([[0, 0, canvas, canvas]], np.int64)
    pieces = [(0, 0, canvas, canvas)]
    while len(pieces) < count:
        largest = max(range(len(pieces)), key=lambda index: _area(pieces[index]))
        pieces += _split_piece(rng, pieces.pop(largest))
    frames = np.array([_sample_inside(rng, piece) for piece in pieces], np.int64)
    return rng.permutation(frames, axis=0)


def boxes_to_canvas(
    boxes: NDArray[np.int64], frame: NDArray[np.int64], image: tuple[int, int]
) -> NDArray[np.int64]:
    """Carries boxes of an image to the canvas on which the whole image fills a frame.

    Args:
        boxes: (n, 4) half-open (r0, c0, r1, c1) in the image's own pixels.
        frame: (4,) half-open, in pixels of the canvas.
        image: the image's height and width.

    Returns:
        int64 (n, 4), half-open in pixels of the canvas, rounded outwards and so never empty.
    """
    frame = np.asarray(frame, np.int64)
    scale = np.tile((frame[2:] - frame[:2]) / np.asarray(image, np.float64), 2)
    exact = np.asarray(boxes, np.float64).reshape(-1, 4) * scale + np.tile(frame[:2], 2)
    near, far = np.floor(exact[:, :2] + 1e-9), np.ceil(exact[:, 2:] - 1e-9)
    return np.concatenate([near, far], axis=1).astype(np.int64)


def _area(piece: tuple[int, int, int, int]) -> int:
    return (piece[2] - piece[0]) * (piece[3] - piece[1])


def _split_piece(
    rng: np.random.Generator, piece: tuple[int, int, int, int]
) -> list[tuple[int, int, int, int]]:
    r0, c0, r1, c1 = piece
    height, width = r1 - r0, c1 - c0
    share = rng.uniform(*_CUT)
    if height > width or (height == width and rng.random() < 0.5):
        middle = r0 + round(share * height)
        return [(r0, c0, middle, c1), (middle, c0, r1, c1)]
    middle = c0 + round(share * width)
    return [(r0, c0, r1, middle), (r0, middle, r1, c1)]


def _sample_inside(rng: np.random.Generator, piece: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    r0, c0, r1, c1 = piece
    height, width = (max(1, int(np.ceil(rng.uniform(*_FILL) * side))) for side in (r1 - r0, c1 - c0))
    height, width = min(height, int(_ASPECT * width)), min(width, int(_ASPECT * height))
    top = int(rng.integers(r0, r1 - height + 1))
    left = int(rng.integers(c0, c1 - width + 1))
    return top, left, top + height, left + width
