"""Figures of matplotlib: an image beside its maps, with titles and a colour bar, for notebooks and papers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from camrt.engine.comparison import arrange
from camrt.engine.extras import import_extra
from camrt.engine.images.overlay import draw_heat
from camrt.engine.images.read import ImageSource
from camrt.engine.images.style import DrawingStyle, StyleOptions
from camrt.engine.map_placement import DrawnOn
from camrt.engine.printable import escape_chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from camrt.engine.explanation_drawing import DrawnExplanation

__all__ = ["draw_figure"]

_INCHES = 3.0  # that a cell is wide
_LARGEST = 1200  # pixels a side of what is drawn on: more is not seen in a figure


def draw_figure(
    explanations: Sequence[DrawnExplanation[Any]],
    i: int,
    *,
    image: ImageSource | None,
    on: DrawnOn | None,
    **style: Unpack[StyleOptions],
) -> Figure:
    """The figure that `Explanation.plot` gives; the arguments and errors are its own."""
    colors = import_extra("matplotlib.colors", "plot")
    mappable = import_extra("matplotlib.cm", "plot").ScalarMappable
    rows = arrange(explanations, i)
    how = DrawingStyle(**style)
    own = style | {"legend": False}
    placement = explanations[0].placement
    ground = (
        placement.ground(explanations[0].index_of(i)[0], image, on)
        if image is not None or placement.has_images
        else None
    )
    if ground is not None and max(ground.image.size) > _LARGEST:
        ground = ground.fitted(_LARGEST, _LARGEST)
    height, width = rows[0].maps[0].shape if ground is None else (ground.image.height, ground.image.width)
    columns = max(len(row.maps) for row in rows) + (ground is not None)
    figure: Figure = _figure_class()(
        figsize=(_INCHES * columns + 0.8, len(rows) * (_INCHES * min(height / width, 2) + 0.5)),
        layout="constrained",
    )
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for one in axes.ravel():
        one.set_axis_off()
    if ground is not None:
        axes[0, 0].imshow(np.asarray(ground.image))
        axes[0, 0].set_title("image")
    for row, cells in zip(rows, axes[:, columns - max(len(row.maps) for row in rows) :], strict=True):
        for cell, caption, saliency in zip(cells, row.captions, row.maps, strict=False):
            drawing = draw_heat(saliency, **own) if ground is None else ground.draw(saliency, own)
            cell.imshow(np.asarray(drawing))
            cell.set_title(
                f"{escape_chart(caption)}\n{escape_chart(row.method)}", fontsize="medium", wrap=True
            )
    scale = mappable(colors.Normalize(0, 1), colors.ListedColormap(how.colours / 255))
    figure.colorbar(scale, ax=axes, label="saliency", shrink=0.8, pad=0.02)
    return figure


@cache
def _figure_class() -> Any:
    """Matplotlib's figure, which says itself how a notebook shows it, without pyplot."""

    class ExplanationFigure(import_extra("matplotlib.figure", "plot").Figure):  # type: ignore[misc]
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return ExplanationFigure
