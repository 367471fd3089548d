"""Where maps lie on the images that they are of, and drawing them there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from camrt.engine.arrays import to_numpy
from camrt.engine.batch import MapSize, resolve_map_size
from camrt.engine.images.framing import Framing, uncrop_maps
from camrt.engine.images.overlay import overlay
from camrt.engine.images.read import ImageSource, decode_image, read_image
from camrt.engine.images.sheets import contact_sheet
from camrt.engine.images.style import DrawingStyle, StyleOptions
from camrt.errors import InputError, NoSuchImageError
from camrt.export.geometry.region import Region

__all__ = ["DrawnOn", "Ground", "MapPlacement", "check_index", "place_maps"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
DrawnOn = Literal["original", "view"]
"""An image as it was given, or what the model saw of it."""
SHEET_SIDE = 512  # pixels that an image on a sheet has at most


@dataclass(frozen=True, eq=False)
class Ground:
    """An image to draw maps on.

    Attributes:
        image: RGB.
        region: The part of it that the maps show; None for all of it.
        scale: Its pixels for each of the image that it was resized from.
    """

    image: Image.Image
    region: Region | None
    scale: float = 1.0

    def draw(self, saliency: Array, style: StyleOptions) -> Image.Image:
        """It with a map over it; boxes are in pixels of the image that it was resized from."""
        boxes = style.get("boxes")
        if boxes is not None:
            style = style | {"boxes": self.scale * np.asarray(boxes, np.float64)}
        return overlay(self.image, to_numpy(saliency), region=self.region, **style)

    def fitted(self, width: int, height: int) -> Ground:
        """The same as large as it may be with at most so many pixels a side."""
        fitting = ImageOps.contain(self.image, (width, height))
        region = self.region
        if region is not None:
            whole = Framing((self.image.height, self.image.width), region)
            region = whole.resized_to((fitting.height, fitting.width)).region
        return Ground(fitting, region, fitting.width / self.image.width)


@dataclass(frozen=True, eq=False)
class MapPlacement:
    """What maps are drawn on.

    Attributes:
        views: The images as the model saw them, if images were given.
        framings: Which part of each image that is, if images were given.
        map_framing: Which part of the model's input the maps show; None for all of it.
        sources: The images as they were given, where they are known.
    """

    views: Sequence[Image.Image] | None
    framings: Sequence[Framing] | None
    map_framing: Framing | None
    sources: Sequence[ImageSource | None] | None = None

    def on_original(self, i: int, saliency: Array) -> NDArray[np.float32]:
        """A map of image i on it as it was given, see `Explanation.on_original`.

        Raises:
            InputError: The batch was given as numbers.
        """
        if self.framings is None:
            raise InputError("the batch was given as numbers: which part of an image they are is not known")
        values = np.asarray(to_numpy(saliency), np.float32)
        return np.asarray(uncrop_maps(values, self._within(self.framings[i]))).clip(0, 1)

    def ground(self, i: int, image: ImageSource | None, on: DrawnOn | None) -> Ground:
        """What a map of image i is drawn on, see `Explanation.overlay`.

        Raises:
            InputError: There is no image to draw on, or it has other proportions.
            ImageError: The image cannot be read.
        """
        if on is not None and on not in get_args(DrawnOn):
            raise InputError(f"on={on!r:.80} must be one of {', '.join(map(repr, get_args(DrawnOn)))}")
        if image is not None:
            read = read_image(image)
            return Ground(read, self._placed(i, read))
        source = None if self.sources is None else self.sources[i]
        if on == "original" and source is None:
            raise InputError(
                "the image as it was given is not known (numbers, an open file, or results that were read "
                "again): give image="
            )
        if on != "view" and source is not None:
            read = decode_image(source).image  # what had to be guessed of it was told when it was explained
            return Ground(read, self._placed(i, read))
        if self.views is None:
            raise InputError(
                "there is no image to draw on, since the batch was given as numbers: "
                "explain images instead, or give overlay(image=...)"
            )
        seen = self.views[i]
        return Ground(seen, self._within(Framing.whole((seen.height, seen.width))).region)

    @property
    def has_images(self) -> bool:
        """Whether there is an image to draw on without one being given."""
        return self.views is not None or self.sources is not None

    def overlay(
        self,
        i: int,
        saliency: Array,
        image: ImageSource | None,
        on: DrawnOn | None,
        style: StyleOptions,
    ) -> Image.Image:
        """An image with a map of image i drawn over it, see `Explanation.overlay`.

        Raises:
            InputError: There is no image to draw on, it has other proportions, or the style means nothing.
            ImageError: The image cannot be read.
        """
        DrawingStyle(**style)  # refused before an image is read
        return self.ground(i, image, on).draw(saliency, style)

    def sheet(
        self,
        i: int,
        maps: Sequence[Array],
        captions: Sequence[str],
        columns: int,
        image: ImageSource | None,
        on: DrawnOn | None,
        style: StyleOptions,
    ) -> Image.Image:
        """An image and some maps of it on one sheet, see `Explanation.sheet`.

        Raises:
            InputError: There is no image to draw on, columns below 1, or a style that means nothing.
            ImageError: The image cannot be read.
        """
        ground = self.ground(i, image, on)
        if max(ground.image.size) > SHEET_SIDE:
            ground = ground.fitted(SHEET_SIDE, SHEET_SIDE)
        overlays = [ground.draw(saliency, style) for saliency in maps]
        return contact_sheet([ground.image, *overlays], ["image", *captions], columns)

    def _within(self, framing: Framing) -> Framing:
        """The part of an image that the maps show, given that which the model's input shows."""
        return framing if self.map_framing is None else framing.compose(self.map_framing)

    def _placed(self, i: int, image: Image.Image) -> Region | None:
        """The part of an image that the maps show: of the original in any size, or of its view."""
        size = (image.height, image.width)
        view = None if self.views is None else (self.views[i].height, self.views[i].width)
        if self.framings is None:
            return None if self.map_framing is None else self.map_framing.resized_to(size).region
        framing = self.framings[i]
        (height, width), scale = framing.size, size[0] / framing.size[0]
        if size == view != framing.size:
            return self._within(Framing.whole(size)).region
        if abs(width * scale - size[1]) <= max(scale, 1):  # a side was rounded to a pixel
            return self._within(framing).resized_to(size).region
        raise InputError(
            f"an image of {size[0]}×{size[1]} is neither that of {height}×{width} which was explained, in "
            f"any size, nor what the model saw of it{'' if view is None else f', of {view[0]}×{view[1]}'}"
        )


def place_maps(
    size: MapSize,
    image: tuple[int, int],
    grid: tuple[int, int],
    framings: Sequence[Framing] | None,
    seen: Framing,
) -> tuple[Framing, Framing]:
    """Where the model's input lies in maps of a wanted size, and which part of it they show.

    Args:
        size: The wanted size, see `camrt.Engine.explain`.
        image: (H, W) of the model's input.
        grid: (h, w) of the raw maps, the finest of several.
        framings: Which part of each image the model's input is, if images were given.
        seen: The part of the model's input that the raw maps show.
    """
    final = resolve_map_size(size, image, grid, framings)
    shown = Framing.whole(image)
    if isinstance(size, str) and size == "map":
        shown = seen
    elif isinstance(size, str) and size == "original" and framings is not None:
        shown = framings[0].inverse(image)
    return shown.inverse(final), shown


def check_index(number: int, count: int, what: str, holder: str = "the explanation has") -> int:
    """A number of something, from 0; negative ones count from the end.

    Raises:
        NoSuchImageError: There is none of that number.
    """
    try:
        found = None if isinstance(number, (bool, np.bool_)) else index(number)
    except TypeError:
        found = None
    if found is None:
        article = "an" if what[0] in "aeiou" else "a"
        raise NoSuchImageError(f"{number!r:.80} is no number of {article} {what}: give a whole number")
    if not -count <= found < count:
        raise NoSuchImageError(f"there is no {what} {found}: {holder} {count}, counted from 0")
    return found % count
