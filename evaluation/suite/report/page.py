"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from PIL import Image

from camrt.engine.extras import import_extra
from camrt.engine.printable import replace_unprintable
from camrt.evaluation.suite.measurement import CENTRE_BASELINE
from camrt.evaluation.suite.metric_registry import METRICS, title_of_left_out
from camrt.evaluation.suite.report.examples import Example
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


def render_page(evaluation: Evaluation, curves: Sequence[str], examples: Sequence[Example]) -> str:
    """The page; the same evaluation gives the same text.

    Args:
        evaluation: What was measured.
        curves: Drawings in SVG.
        examples: Images with their maps.

    Raises:
        MissingExtraError: Jinja2 is not installed.
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
            curves=curves,
            removal=removal_rows(results),
            examples=examples,
            metrics=METRICS,
            results=results,
        )
    )
    return page


def make_environment() -> Any:
    """What templates of HTML are rendered by: whatever is put in is escaped, and printable."""
    jinja2 = import_extra("jinja2")
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_to_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_url"] = _to_data_url
    return environment


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
        "± is the standard error of the mean; arrows point to the better side. The best is bold on green "
        "where some method is clearly behind it; pale green marks what is behind it by less than two "
        "standard errors of the paired difference. A click on a column's title sorts by it."
    )
    return lines


def _to_data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
