"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from camrt.evaluation.escaping import escape_html
from camrt.evaluation.suite.measurement import CENTRE_BASELINE
from camrt.evaluation.suite.report.drawings import draw_curves, draw_examples
from camrt.evaluation.suite.report.table import ReportCell, build_columns, describe_same_maps, removal_rows
from camrt.evaluation.suite.settings import METRICS

if TYPE_CHECKING:
    from camrt.evaluation.suite import Evaluation

__all__ = ["render_page"]

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 2rem auto; max-width: 76rem; padding: 0
1rem; } h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.lead { color: #57606a; margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .45rem; text-align: right; border-bottom: 1px solid #d8dee4; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid #57606a; font-weight: 600; white-space: normal; vertical-align: bottom; }
td.best { font-weight: 700; background: #d3eddb; } td.level { background: #f0f8f2; }
tr.foot td { color: #57606a; }
.curves { display: flex; flex-wrap: wrap; gap: 1rem; } .curves svg { max-width: 100%; height: auto; }
figure.example { margin: 0 0 1.4rem; } figure.example > figcaption { margin-bottom: .3rem; }
.row { display: flex; flex-wrap: wrap; gap: .5rem; }
.row div { width: 7.8rem; font-size: .8rem; color: #57606a; } .row img { width: 100%; display: block;
border-radius: 3px; } li { margin: .15rem 0; } code { background: #f3f4f6; padding: .1rem .25rem;
border-radius: 3px; }
"""

METRIC_EXPLANATIONS = {
    "drop": "How much of the class's probability is lost when the image is multiplied by its map.",
    "increase": "How often that makes the model surer.",
    "compactness": "Sum of the map over the cells of its own grid: small maps say more.",
    "deletion": "Area under the class's probability while pixels are set to zero, the most salient first.",
    "insertion": "Area under it while true pixels are put into the blurred image, the most salient first.",
    "removal": "Accuracy with the most salient pixels of the true class erased, relative to as many random "
    "ones, all shares erased taken together.",
    "pointing": "How often the map's highest pixel lies on an object of the class.",
    "energy": "Which share of the map's sum lies on objects of the class.",
    "maxboxacc": "How often the box around the map's largest contour overlaps a drawn box by half, at the "
    "threshold that is best for all images.",
    "maxboxaccv2": "The same for every contour, and the mean of overlaps 0.3, 0.5 and 0.7.",
    "pxap": "Average precision of the map as a detector of the object's pixels, pooled over all images.",
    "mu": "Norm of the map where the model cannot see, relative to its whole norm.",
}


def render_page(evaluation: Evaluation) -> str:
    """The page; the same evaluation gives the same text."""
    results = evaluation.results
    title = f"Explanations of {results['model']['file']}"
    body = [
        f"<h1>{escape_html(title)}</h1>",
        f"<p class=lead>{escape_html(_lead(results))}</p>",
        "<h2>Which explanation to trust</h2>",
        _table(results),
        _remarks(results),
        "<h2>Curves</h2>" if _draw_all_curves(results) else "",
        f"<div class=curves>{''.join(_draw_all_curves(results))}</div>",
        _removal(results),
        "<h2>Maps</h2>",
        *(_example(*example) for example in draw_examples(evaluation)),
        "<h2>How to read it</h2>",
        _list(
            f"<b>{escape_html(METRICS[name].title)}</b> ({METRICS[name].better} is better): "
            f"{escape_html(METRIC_EXPLANATIONS[name])} <i>{escape_html(METRICS[name].source)}</i>"
            for name in results["metrics"]
        ),
        "<h2>Settings</h2>",
        _settings(results),
        _problems(results["problems"]),
    ]
    return (
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        f"<title>{escape_html(title)}</title>\n<style>{STYLE}</style>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _lead(results: Mapping[str, Any]) -> str:
    images = results["images"]
    told = f"{images['measured']} of {images['drawn']} images from {results['data']['root']} measured."
    if images["accuracy"] is not None:
        right = 100 * images["accuracy"]
        told += f" The model is right for {right:.1f} % of {images['with_label']} with a class."
    if images["objects"]:
        told += (
            f" {images['objects']} annotated classes cover {100 * images['object_share']:.1f} % of their "
            "images on average."
        )
    return told


def _table(results: Mapping[str, Any]) -> str:
    methods, found = build_columns(results)
    head = "".join(f"<th>{escape_html(column.title)}</th>" for column in found)
    rows = []
    for number, method in enumerate(methods):
        own = [column.cells[number] for column in found]
        cells = "".join(f"<td{_class(cell)}>{escape_html(cell.text)}</td>" for cell in own)
        rows.append(f"<tr><td>{escape_html(method)}</td>{cells}</tr>")
    counted = "".join(f"<td>{escape_html(column.counted)}</td>" for column in found)
    return (
        f"<div class=wide><table><thead><tr><th>method</th>{head}</tr></thead><tbody>{''.join(rows)}"
        f"<tr class=foot><td>maps that counted</td>{counted}</tr></tbody></table></div>"
    )


def _class(cell: ReportCell) -> str:
    return " class=best" if cell.best else " class=level" if cell.is_tied else ""


def _remarks(results: Mapping[str, Any]) -> str:
    methods, found = build_columns(results)
    lines = [
        f"{escape_html(column.title[:-2])}: {escape_html(column.remark)}."
        for column in found
        if column.remark
    ]
    lines += [
        f"{escape_html(METRICS[name].title)}: not measured: {escape_html(why)}."
        for name, why in results["left_out"].items()
    ]
    lines += [escape_html(f"{describe_same_maps(group)}.") for group in results["alike"]]
    if CENTRE_BASELINE in methods:
        lines.append(
            f"{CENTRE_BASELINE} is a Gaussian in the middle of every image: what looking at nothing brings."
        )
    lines.append(
        "± is the standard error of the mean; arrows point to the better side. The best is bold on green; "
        "pale green marks what is behind it by less than two standard errors of the paired difference."
    )
    return _list(lines)


def _draw_all_curves(results: Mapping[str, Any]) -> list[str]:
    drawings = []
    figures = results["figures"]
    for name, x in (("deletion", "share of pixels set to zero"), ("insertion", "share of pixels put in")):
        lines = {
            method: found[name]["curve"]
            for method, found in figures.items()
            if found.get(name, {}).get("curve")
        }
        if lines:
            places = np.linspace(0, 1, len(next(iter(lines.values())))).tolist()
            drawings.append(draw_curves(METRICS[name].title.capitalize(), lines, places, x, "probability"))
    shares = {
        method: [entry["ratio"] for entry in found["removal"]["shares"]]
        for method, found in figures.items()
        if found.get("removal")
    }
    if shares:
        places = list(results["settings"]["shares"])
        drawings.append(draw_curves("Remove and classify", shares, places, "share of pixels erased", "R"))
    return drawings


def _removal(results: Mapping[str, Any]) -> str:
    rows = removal_rows(results)
    if not rows:
        return ""
    head = "".join(f"<th>{share:g}</th>" for share in results["settings"]["shares"])
    body = "".join(
        f"<tr><td>{escape_html(method)}</td>{''.join(f'<td>{escape_html(cell)}</td>' for cell in cells)}</tr>"
        for method, cells in rows
    )
    return (
        "<h2>R by the share erased (accuracy left: by the map / at random)</h2><div class=wide><table>"
        f"<thead><tr><th>method</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _example(name: str, description: str, drawings: list[tuple[str, str]]) -> str:
    images = "".join(
        f'<div><img alt="{escape_html(caption)}" src="{url}">{escape_html(caption)}</div>'
        for caption, url in drawings
    )
    return (
        f"<figure class=example><figcaption><code>{escape_html(name)}</code> "
        f"{escape_html(description)}</figcaption>"
        f"<div class=row>{images}</div></figure>"
    )


def _settings(results: Mapping[str, Any]) -> str:
    model, versions = results["model"], results["versions"]
    lines = [
        f"Model <code>{escape_html(model['file'])}</code>, SHA-256 "
        f"<code>{escape_html(model['sha256'])}</code>, "
        f"cut at <code>{escape_html(', '.join(model['target']))}</code>",
        *(
            f"<code>{escape_html(name)}</code>: {escape_html(text)}"
            for name, text in results["methods"].items()
        ),
        escape_html(", ".join(f"{name} = {value}" for name, value in results["settings"].items())),
        escape_html(", ".join(f"{name} {value}" for name, value in versions.items())),
        f"{results['passes']} images were run through the model.",
        *(escape_html(note) for note in results["notes"]),
    ]
    return _list(lines)


def _problems(problems: list[str]) -> str:
    if not problems:
        return ""
    return f"<h2>{len(problems)} problems with images and annotations</h2>" + _list(
        map(escape_html, problems)
    )


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
