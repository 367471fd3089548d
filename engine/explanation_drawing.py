"""The pictures of an explanation: overlays, sheets, figures, and what a notebook shows of it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.engine.array_types import ArrayT_co
from camrt.engine.comparison import NOTEBOOK_TARGETS, draw_comparison, to_html
from camrt.engine.explanation_record import ExplanationRecord
from camrt.engine.figures import draw_figure
from camrt.engine.images.read import ImageSource
from camrt.engine.images.style import StyleOptions
from camrt.engine.map_placement import DrawnOn, MapPlacement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DrawnExplanation"]


class DrawnExplanation(ExplanationRecord[ArrayT_co]):
    """An explanation that can be drawn."""

    def on_original(self, i: int, t: int = 0) -> NDArray[np.float32]:
        """One of the maps on the image as it was given: zero where the preprocessing cut it off.

        Args:
            i: Which image.
            t: Which of its targets.

        Returns:
            (H, W) float32 in [0, 1], of the image's size, upright.

        Raises:
            InputError: The batch was given as numbers.
            NoSuchImageError: No such image or target.
        """
        at = self.index_of(i, t)
        return self.placement.on_original(at[0], self.maps[at])

    @property
    def placement(self) -> MapPlacement:
        """Where the maps lie on their images."""
        return MapPlacement(self.views, self.framings, self.map_framing, self.sources)

    def overlay(
        self,
        i: int = 0,
        t: int = 0,
        *,
        image: ImageSource | None = None,
        on: DrawnOn | None = None,
        **style: Unpack[StyleOptions],
    ) -> Image.Image:
        """An image with one of its maps drawn over it: the whole of it, at its own size, where it is known.

        Args:
            i: Which image.
            t: Which of its targets.
            image: What to draw on instead: the image that was explained, in any size (a file, Pillow image or
                uint8 array), or what the model saw of it; or, where the batch was given as numbers, any, over
                which the map is stretched.
            on: "original", the image as it was given, with what preprocessing cut off darkened; "view", what
                the model saw of it. Left out, the first that is known: files are read again, images and
                arrays are drawn on as they are now.
            **style: `colormap`, `mode`, `opacity`, `fade`, `threshold`, `outside`, `legend`, `peak`, `boxes`,
                see `camrt.engine.images.style.DrawingStyle`.

        Returns:
            An RGB image, of the size of what is drawn on; higher by the colour bar with `legend=True`.

        Raises:
            InputError: There is no image to draw on, it has other proportions, or the style means nothing.
            MissingExtraError: The colour map is one of matplotlib's, which is not installed.
            ImageError: The image cannot be read.
            NoSuchImageError: No such image or target.

        Example:
            found = engine.explain(["cat.jpg"], "pixab")
            found.overlay(colormap="viridis", legend=True, peak=True).save("overlay.png")
            found.overlay(mode="mask", threshold=0.4)
        """
        at = self.index_of(i, t)
        return self.placement.overlay(at[0], self.maps[at], image, on, style)

    def sheet(
        self,
        i: int = 0,
        columns: int = 4,
        *,
        image: ImageSource | None = None,
        on: DrawnOn | None = None,
        **style: Unpack[StyleOptions],
    ) -> Image.Image:
        """An image and the overlays of all its targets on one sheet, each with its probability or value.

        Args:
            i: Which image.
            columns: Images a row.
            image: What to draw on, see `overlay`; brought to at most 512 pixels a side.
            on: See `overlay`.
            **style: See `overlay`.

        Raises:
            InputError: There is no image to draw on (see `overlay`), or columns below 1.
            ImageError: The image cannot be read.
            NoSuchImageError: No such image.
        """
        (i, *_), each = self.index_of(i, None), range(self.targets_per_image)
        captions = [f"{self.answer(i, t)} {self.label(i, t)}" for t in each]
        maps = [self.maps[self.index_of(i, t)] for t in each]
        return self.placement.sheet(i, maps, captions, columns, image, on, style)

    def plot(
        self,
        *others: DrawnExplanation[Any],
        i: int = 0,
        image: ImageSource | None = None,
        on: DrawnOn | None = None,
        **style: Unpack[StyleOptions],
    ) -> Figure:
        """A figure of an image beside its maps: a row for each explanation, a column for each class.

        Args:
            *others: Explanations of the same batch by other methods.
            i: Which image.
            image: What to draw on, see `overlay`.
            on: See `overlay`.
            **style: See `overlay`; the colour bar is always there.

        Returns:
            A figure of matplotlib, which notebooks show and `.savefig("figure.pdf")` writes.

        Raises:
            InputError: There is no image to draw on (see `overlay`), or explanations of other batches.
            MissingExtraError: matplotlib is not installed (`camrt[plot]`).
            ImageError: The image cannot be read.
            NoSuchImageError: No such image.

        Example:
            first, second = engine.explain_all(["cat.jpg"], ["gradcam", "pixab"], top_k=3)
            first.plot(second).savefig("comparison.pdf")
        """
        return draw_figure([self, *others], i, image=image, on=on, **style)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows where it shows no HTML: the first image's maps."""
        if not len(self):
            return None
        buffer = io.BytesIO()
        draw_comparison([self], 0, width=700, most_targets=NOTEBOOK_TARGETS).save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """What a notebook shows: the first images with their maps."""
        return to_html(self)
