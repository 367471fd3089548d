"""An image beside its maps, a row for each method and a column for each class, drawn by Pillow alone."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from PIL import Image, ImageDraw, ImageFont, ImageOps

from camrt.engine.images.overlay import draw_heat
from camrt.engine.images.read import ImageSource
from camrt.engine.images.sheets import colour_bar, wrap_caption
from camrt.engine.images.style import DrawingStyle, StyleOptions
from camrt.engine.map_placement import DrawnOn
from camrt.errors import CamrtError, InputError

if TYPE_CHECKING:
    from camrt.engine.explanation_drawing import DrawnExplanation

__all__ = ["NOTEBOOK_TARGETS", "ComparisonRow", "arrange", "draw_comparison", "to_html"]

_LEAST_CELL = 160  # pixels that a cell is wide at least
_HIGHEST = 1.3  # times its width that a cell is high at most
_BESIDE = 3  # methods that stand side by side
_NOTEBOOK_IMAGES = 6  # that a notebook shows
NOTEBOOK_TARGETS = 4  # that it shows of each


@dataclass(frozen=True)
class ComparisonRow:
    """What one explanation says of an image.

    Attributes:
        method: Its name; with its options where another row has the same name. Empty where captions have it.
        captions: Of each class: its label, and what the model says of it.
        maps: (H, W), one a class.
    """

    method: str
    captions: list[str]
    maps: list[Any]


def arrange(explanations: Sequence[DrawnExplanation[Any]], i: int) -> list[ComparisonRow]:
    """A row for each explanation of image i.

    Raises:
        InputError: There are none, or they are of batches of different sizes.
        NoSuchImageError: No such image.
    """
    if not explanations:
        raise InputError("a comparison needs at least one explanation")
    if len({len(one) for one in explanations}) > 1:
        counts = ", ".join(str(len(one)) for one in explanations)
        raise InputError(f"explanations of the same images are compared, these are of {counts}")
    short = [one.method.partition("(")[0] for one in explanations]
    rows = []
    for one, name in zip(explanations, short, strict=True):
        each = range(one.targets_per_image)
        rows.append(
            ComparisonRow(
                one.method if short.count(name) > 1 else name,
                [f"{one.label(i, t)} {one.answer(i, t)}" for t in each],
                [one.maps[one.index_of(i, t)] for t in each],
            )
        )
    return rows


def put_side_by_side(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Methods with one map each as rows of several methods, whose names are in the captions."""
    return [
        ComparisonRow(
            "",
            [f"{row.method}: {row.captions[0]}" for row in rows[start : start + _BESIDE]],
            [row.maps[0] for row in rows[start : start + _BESIDE]],
        )
        for start in range(0, len(rows), _BESIDE)
    ]


def draw_comparison(
    explanations: Sequence[DrawnExplanation[Any]],
    i: int = 0,
    *,
    title: str | None = None,
    width: int = 1600,
    most_targets: int | None = None,
    image: ImageSource | None = None,
    on: DrawnOn | None = None,
    **style: Unpack[StyleOptions],
) -> Image.Image:
    """A titled sheet: the image, and beside it the maps of each class, a row for each explanation.

    Of one class alone, the explanations' maps stand side by side.

    Args:
        explanations: Of the same batch, by different methods.
        i: Which image.
        title: What stands above; nothing, when left out.
        width: Of the sheet in pixels, at most; more where its columns would be too narrow to see anything.
        most_targets: How many of the classes are shown, from the first; all, when left out.
        image: What to draw on, see `Explanation.overlay`; heat alone is drawn of a batch of numbers.
        on: See `Explanation.overlay`.
        **style: See `Explanation.overlay`; one colour bar stands beneath the image, with `legend` or without.

    Raises:
        InputError: No explanations, or of other batches; or the style means nothing.
        MissingExtraError: The colour map is one of matplotlib's, which is not installed.
        ImageError: The image cannot be read.
        NoSuchImageError: No such image.

    Example:
        draw_comparison(engine.explain_all(["cat.jpg"], ["gradcam", "pixab"], top_k=3), title="cat.jpg")
    """
    rows = arrange(explanations, i)
    if len(rows) > 1 and all(len(row.maps[:most_targets]) == 1 for row in rows):
        rows = put_side_by_side(rows)
    how = DrawingStyle(**style)
    cell_style = style | {"legend": False}
    placement = explanations[0].placement
    ground = (
        placement.ground(explanations[0].index_of(i)[0], image, on) if image or placement.has_images else None
    )
    columns = max(len(row.maps[:most_targets]) for row in rows) + (ground is not None)
    cell = max((width - _gap(width)) // columns - _gap(width), _LEAST_CELL)
    sizes = cell, round(_HIGHEST * cell)
    if ground is not None:
        ground = ground.fitted(*sizes)
    drawings = [
        [
            ImageOps.contain(draw_heat(saliency, **cell_style), sizes)
            if ground is None
            else ground.draw(saliency, cell_style)
            for saliency in row.maps[:most_targets]
        ]
        for row in rows
    ]
    sides = [(one.width, one.height) for row in drawings for one in row]
    cell = max(*(side for side, _ in sides), _LEAST_CELL)  # high images are narrower than their cells
    sheet = _Sheet(columns, cell, max(side for _, side in sides), _gap(width))
    top = sheet.gap if title is None else sheet.write_title(title)
    for row, pictures in zip(rows, drawings, strict=True):
        top = sheet.add_row(row, pictures, top, shift=ground is not None)
    legend = colour_bar(how.colours, cell, sheet.caption_size)
    if ground is not None:
        sheet.add_beside(ground.image, legend, top)
    else:
        sheet.add_below(legend, top)
    return sheet.image


def to_html(explanation: DrawnExplanation[Any]) -> str:
    """An explanation as a notebook shows it: a line on it, and the first images with their first maps."""
    parts = [f"<p>{html.escape(repr(explanation))}</p>"]
    for i in range(min(len(explanation), _NOTEBOOK_IMAGES)):
        try:
            drawing = draw_comparison([explanation], i, width=1000, most_targets=NOTEBOOK_TARGETS)
        except CamrtError as error:  # its file has gone, say
            parts.append(f"<p>image {i}: {html.escape(str(error))}</p>")
            continue
        buffer = io.BytesIO()
        drawing.save(buffer, "JPEG", quality=88)
        url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        parts.append(f'<img alt="image {i} and its maps" style="max-width: 100%" src="{url}">')
    left = len(explanation) - _NOTEBOOK_IMAGES
    if left > 0:
        parts.append(f"<p>and {left} more image{'s' * (left != 1)}: explanation[{_NOTEBOOK_IMAGES}:]</p>")
    return "<div>" + "".join(parts) + "</div>"


def _gap(width: int) -> int:
    return max(width // 100, 6)


class _Sheet:
    """A white sheet that grows downwards.

    Args:
        columns: Cells a row.
        cell: Pixels that each is wide.
        height: Pixels that each is high.
        gap: Pixels between them.
    """

    def __init__(self, columns: int, cell: int, height: int, gap: int) -> None:
        self.gap, self._cell, self._height = gap, cell, height
        self.caption_size = max(min(cell // 18, 34), 12)
        self._first = 0  # where the first row's pictures begin
        self.image = Image.new("RGB", (columns * (cell + gap) + gap, 1), "white")

    def _grow(self, height: int) -> None:
        if height > self.image.height:
            taller = Image.new("RGB", (self.image.width, height), "white")
            taller.paste(self.image, (0, 0))
            self.image = taller

    def _write(self, text: str, left: int, top: int, width: int, size: int, colour: str) -> int:
        """Writes some lines; where the next would be."""
        font = ImageFont.load_default(size)
        line = math.ceil(1.15 * font.getbbox("Ag")[3])
        lines = wrap_caption(text, width, font)
        self._grow(top + line * len(lines) + self.gap)
        draw = ImageDraw.Draw(self.image)
        for number, words in enumerate(lines):
            draw.text((left, top + number * line), words, colour, font)
        return top + line * len(lines)

    def write_title(self, title: str) -> int:
        """The title; where what follows begins."""
        size = round(1.7 * self.caption_size)
        return (
            self._write(title, self.gap, self.gap, self.image.width - 2 * self.gap, size, "black") + self.gap
        )

    def add_row(self, row: ComparisonRow, pictures: Sequence[Image.Image], top: int, *, shift: bool) -> int:
        """A method's name, its pictures and their captions; where what follows begins."""
        start = self.gap + shift * (self._cell + self.gap)
        width = self.image.width - start - self.gap
        if row.method:
            size = round(1.25 * self.caption_size)
            top = self._write(row.method, start, top, width, size, "#444444") + self.gap // 2
        self._first = self._first or top
        self._grow(top + self._height + self.gap)
        bottom = top + self._height
        for number, (picture, caption) in enumerate(zip(pictures, row.captions, strict=False)):
            left = start + number * (self._cell + self.gap)
            self.image.paste(picture, (left, top))
            under = self._write(
                caption, left, top + self._height + self.gap // 3, self._cell, self.caption_size, "black"
            )
            bottom = max(bottom, under)
        return bottom + self.gap

    def add_beside(self, image: Image.Image, legend: Image.Image, bottom: int) -> None:
        """The image with the colour bar beneath, in the first column and half way down."""
        top = self._first
        both = image.height + self.gap + legend.height
        upper = top + max((bottom - top - both) // 2, 0)
        self._grow(upper + both + self.gap)
        self.image.paste(image, (self.gap, upper))
        self.image.paste(legend, (self.gap, upper + image.height + self.gap))

    def add_below(self, legend: Image.Image, top: int) -> None:
        """The colour bar under all else."""
        self._grow(top + legend.height + self.gap)
        self.image.paste(legend, (self.gap, top))
