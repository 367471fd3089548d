"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from camrt.engine.extras import import_extra
from camrt.engine.printable import replace_unprintable
from camrt.evaluation.suite.measurement import CENTRE_BASELINE
from camrt.evaluation.suite.metric_registry import METRICS, title_of_left_out
from camrt.evaluation.suite.report.drawings import draw_curves, draw_examples
from camrt.evaluation.suite.report.table import (
    build_columns,
    describe_counts,
    describe_further_explanations,
    describe_same_maps,
    removal_rows,
)

if TYPE_CHECKING:
    from camrt.evaluation.suite import Evaluation

__all__ = ["make_environment", "render_page"]


def render_page(evaluation: Evaluation) -> str:
    """The page; the same evaluation gives the same text.

    Raises:
        MissingExtraError: Jinja2 or matplotlib is not installed.
    """
    results = evaluation.results
    methods, columns = build_columns(results)
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    page: str = (
        make_environment()
        .from_string(template)
        .render(
            title=f"Explanations of {results['model']['file']}",
            lead=_lead(results),
            methods=methods,
            columns=columns,
            remarks=_remarks(results),
            curves=_draw_all_curves(results),
            removal=removal_rows(results),
            examples=draw_examples(evaluation),
            metrics=METRICS,
            results=results,
        )
    )
    return page


def make_environment() -> Any:
    """What templates of HTML are rendered by: whatever is put in is escaped, and printable."""
    jinja2 = import_extra("jinja2")
    return jinja2.Environment(
        autoescape=True,
        finalize=_to_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _to_printable(value: Any) -> Any:
    """Text without characters that are not printed; markup, and what is no text, as it is."""
    return replace_unprintable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _lead(results: Mapping[str, Any]) -> str:
    images = results["images"]
    told = f"{describe_counts(images)}, from {results['data']['root']}."
    if images["accuracy"] is not None:
        right = 100 * images["accuracy"]
        told += f" The model is right for {right:.1f} % of {images['with_label']} with a class."
    if images["objects"]:
        told += (
            f" {images['objects']} annotated classes cover {100 * images['object_share']:.1f} % of their "
            "images on average."
        )
    return told


def _remarks(results: Mapping[str, Any]) -> list[str]:
    methods, found = build_columns(results)
    lines = [f"{column.title[:-2]}: {column.remark}." for column in found if column.remark]
    lines += [f"{title_of_left_out(name)}: not measured: {why}." for name, why in results["left_out"].items()]
    lines += [f"{describe_same_maps(group)}." for group in results["alike"]]
    lines += [f"{line}." for line in describe_further_explanations(results)]
    if CENTRE_BASELINE in methods:
        lines.append(
            f"{CENTRE_BASELINE} is a Gaussian in the middle of every image: a map that ignores the image."
        )
    lines.append(
        "± is the standard error of the mean; arrows point to the better side. The best is bold on green; "
        "pale green marks what is behind it by less than two standard errors of the paired difference."
    )
    return lines


def _draw_all_curves(results: Mapping[str, Any]) -> list[str]:
    drawings = []
    figures = results["figures"]
    shares = results["settings"]["road"]
    for name, x, given in (
        ("deletion", "share of pixels set to zero", None),
        ("insertion", "share of pixels put in", None),
        ("roadmorf", "share of pixels imputed", shares),
        ("roadlerf", "share of pixels imputed", shares),
    ):
        lines = {
            method: found[name]["curve"]
            for method, found in figures.items()
            if found.get(name, {}).get("curve")
        }
        if lines:
            places = given or np.linspace(0, 1, len(next(iter(lines.values())))).tolist()
            title = METRICS[name].title
            drawings.append(draw_curves(title[0].upper() + title[1:], lines, places, x, "probability"))
    shares = {
        method: [entry["ratio"] for entry in found["removal"]["shares"]]
        for method, found in figures.items()
        if found.get("removal")
    }
    if shares:
        places = list(results["settings"]["shares"])
        drawings.append(draw_curves("Remove and classify", shares, places, "share of pixels erased", "R"))
    return drawings
