"""How a saliency is drawn over its image: what a caller may say of it, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from camrt.engine.images.colormaps import DEFAULT_COLORMAP, Colormap, colour_table
from camrt.errors import InputError

__all__ = ["DrawingMode", "DrawingStyle", "Outside", "StyleOptions"]

DrawingMode = Literal["blend", "mask", "contour"]
Outside = Literal["dim", "outline", "none"]
Boxes = Sequence[Sequence[float]] | NDArray[Any]

FADE: dict[DrawingMode, float] = {"blend": 0.75, "mask": 0.9, "contour": 0.4}
MASK_THRESHOLD = 0.5
CONTOURS = (0.25, 0.5, 0.75)


class StyleOptions(TypedDict, total=False):
    """The options of a drawing, each as `DrawingStyle` describes it."""

    colormap: Colormap
    mode: DrawingMode
    opacity: float
    fade: float | None
    threshold: float | None
    outside: Outside
    legend: bool
    peak: bool
    boxes: Boxes | None


@dataclass(frozen=True, eq=False)
class DrawingStyle:
    """How a saliency is drawn.

    Args:
        colormap: "ember" (our own, lighter throughout), the name of one of matplotlib's, or a table (n, 3) of
            uint8.
        mode: "blend" lays colours over the image, "mask" keeps what is salient of it and fades the rest,
            "contour" draws lines of equal saliency.
        opacity: Of the most salient colour, or of the lines, in [0, 1].
        fade: How far the image beneath loses colour and light, in [0, 1]: without that, heat on warm images
            is not seen. 0 leaves it as it is; None takes what suits the mode.
        threshold: A saliency, in [0, 1): below it "blend" draws nothing; "mask" keeps what reaches it (0.5,
            when left out), "contour" draws its one line (0.25, 0.5 and 0.75, when left out).
        outside: What the model did not see of an image is darkened ("dim"), divided off by a line
            ("outline"), or left as it is ("none").
        legend: Whether a colour bar stands beneath.
        peak: Whether the most salient place is marked, of a map that has one.
        boxes: (n, 4) left, upper, right and lower edge in pixels of what is drawn on, drawn as frames.

    Raises:
        InputError: A value that means nothing.
        MissingExtraError: The colour map is one of matplotlib's, which is not installed.
    """

    colormap: Colormap = DEFAULT_COLORMAP
    mode: DrawingMode = "blend"
    opacity: float = 0.75
    fade: float | None = None
    threshold: float | None = None
    outside: Outside = "dim"
    legend: bool = False
    peak: bool = False
    boxes: Boxes | None = None

    def __post_init__(self) -> None:
        colour_table(self.colormap)
        for name, value, allowed in (
            ("mode", self.mode, get_args(DrawingMode)),
            ("outside", self.outside, get_args(Outside)),
        ):
            if value not in allowed:
                raise InputError(f"{name}={value!r:.80} must be one of {', '.join(map(repr, allowed))}")
        _check_share("opacity", self.opacity)
        if self.fade is not None:
            _check_share("fade", self.fade)
        if self.threshold is not None:
            _check_share("threshold", self.threshold)
            if self.threshold == 1:
                raise InputError("threshold must be below 1, or nothing would be left to draw")
        if self.boxes is not None:
            boxes = np.asarray(self.boxes)
            if boxes.size and (
                boxes.dtype.kind not in "fiu"
                or boxes.ndim != 2
                or boxes.shape[1] != 4
                or not np.isfinite(boxes).all()
            ):
                raise InputError(
                    "boxes are rows of four numbers, the left, upper, right and lower edge in pixels, got "
                    f"{self.boxes!r:.80}"
                )

    @property
    def colours(self) -> NDArray[np.uint8]:
        """(256, 3), the colour of each level of saliency."""
        return colour_table(self.colormap)

    @property
    def faded(self) -> float:
        """How far the image is faded."""
        return FADE[self.mode] if self.fade is None else float(self.fade)


def _check_share(name: str, value: Any) -> None:
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise InputError(f"{name} must be in [0, 1], got {value!r:.80}")
