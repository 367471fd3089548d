"""The report's figures: curves, and examples with their maps; as SVG for the page and as PDF for papers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from camrt.engine.extras import import_extra
from camrt.engine.printable import escape_chart
from camrt.evaluation.suite.metric_registry import METRICS
from camrt.evaluation.suite.report.examples import Example

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "draw_curves", "draw_map_figure", "to_pdf", "to_svg"]

CURVES = {
    "deletion": "share of pixels set to zero",
    "insertion": "share of pixels put in",
    "roadmorf": "share of pixels imputed",
    "roadlerf": "share of pixels imputed",
}
"""The metrics that are curves, and what runs along them."""
FIGURES = tuple(f"figures/{name}.pdf" for name in (*CURVES, "removal", "maps"))
"""The files that figures may be written as."""
STYLE = {"svg.hashsalt": "camrt", "svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 9}
INCHES = 1.4  # that an example's cell is wide


def draw_curves(results: Mapping[str, Any]) -> dict[str, Figure]:
    """The curves that were measured, by the names of their metrics."""
    figures = results["figures"]
    drawn = {}
    for name, x in CURVES.items():
        lines = {
            method: found[name]["curve"]
            for method, found in figures.items()
            if found.get(name, {}).get("curve")
        }
        if lines:
            places = np.linspace(0, 1, len(next(iter(lines.values())))).tolist()
            if name.startswith("road"):
                places = results["settings"]["road"]
            title = METRICS[name].title
            drawn[name] = _draw_lines(title[0].upper() + title[1:], lines, places, x, "probability")
    shares = {
        method: [entry["ratio"] for entry in found["removal"]["shares"]]
        for method, found in figures.items()
        if found.get("removal")
    }
    if shares:
        places = list(results["settings"]["shares"])
        drawn["removal"] = _draw_lines("Remove and classify", shares, places, "share of pixels erased", "R")
    return drawn


def draw_map_figure(examples: Sequence[Example]) -> Figure:
    """The examples, a row each: the image, and the overlay of every method."""
    columns = 1 + max(len(example.maps) for example in examples)
    figures, matplotlib = import_extra("matplotlib.figure"), import_extra("matplotlib")
    with matplotlib.rc_context(STYLE):
        figure: Figure = figures.Figure(
            figsize=(INCHES * columns, INCHES * len(examples)), layout="constrained"
        )
        axes = figure.subplots(len(examples), columns, squeeze=False)
        for one in axes.ravel():
            one.set_axis_off()
        for row, example in zip(axes, examples, strict=True):
            shown = [example.image, *(drawn.overlay for drawn in example.maps)]
            for cell, image in zip(row, shown, strict=False):
                cell.imshow(np.asarray(image))
        names = ["image", *(drawn.method for drawn in examples[0].maps)]
        for cell, name in zip(axes[0], names, strict=False):
            cell.set_title(escape_chart(name), fontsize=8)
    return figure


def to_svg(figure: Figure) -> str:
    """A figure as SVG without a date, so that the same figure gives the same text."""
    buffer = io.StringIO()
    with import_extra("matplotlib").rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def to_pdf(figure: Figure) -> bytes:
    """A figure as PDF without a date."""
    buffer = io.BytesIO()
    with import_extra("matplotlib").rc_context(STYLE):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def _draw_lines(
    title: str, lines: Mapping[str, Sequence[float | None]], positions: Sequence[float], x: str, y: str
) -> Figure:
    """Curves over the same places."""
    matplotlib, figures = import_extra("matplotlib"), import_extra("matplotlib.figure")
    with matplotlib.rc_context(STYLE):
        figure: Figure = figures.Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for name, values in lines.items():
            axes.plot(
                positions,
                [np.nan if value is None else value for value in values],
                label=escape_chart(name),
                linewidth=1.4,
                marker="o" if len(positions) < 12 else None,
            )
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure
