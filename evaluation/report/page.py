"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from camrt.evaluation.report.drawing import curves, examples
from camrt.evaluation.report.table import Cell, columns, removal_rows, same_maps
from camrt.evaluation.report.texts import html_text
from camrt.evaluation.suite.measuring import CENTRE
from camrt.evaluation.suite.settings import METRICS

if TYPE_CHECKING:
    from camrt.evaluation.suite import Evaluation

__all__ = ["page"]

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

READING = {
    "drop": "How much of the class's probability is lost when the picture is multiplied by its map.",
    "increase": "How often that makes the model surer.",
    "compactness": "Sum of the map over the cells of its own grid: small maps say more.",
    "deletion": "Area under the class's probability while pixels are set to zero, the most salient first.",
    "insertion": "Area under it while true pixels are put into the blurred picture, the most salient first.",
    "removal": "Accuracy with the most salient pixels of the true class erased, relative to as many random "
    "ones, all shares erased taken together.",
    "pointing": "How often the map's highest pixel lies on an object of the class.",
    "energy": "Which share of the map's sum lies on objects of the class.",
    "maxboxacc": "How often the box around the map's largest contour overlaps a drawn box by half, at the "
    "threshold that is best for all pictures.",
    "maxboxaccv2": "The same for every contour, and the mean of overlaps 0.3, 0.5 and 0.7.",
    "pxap": "Average precision of the map as a detector of the object's pixels, pooled over all pictures.",
    "mu": "Norm of the map where the model cannot see, relative to its whole norm.",
}


def page(evaluation: Evaluation) -> str:
    """The page; the same evaluation gives the same text."""
    results = evaluation.results
    title = f"Explanations of {results['model']['file']}"
    body = [
        f"<h1>{html_text(title)}</h1>",
        f"<p class=lead>{html_text(_lead(results))}</p>",
        "<h2>Which explanation to trust</h2>",
        _table(results),
        _remarks(results),
        "<h2>Curves</h2>" if _drawn(results) else "",
        f"<div class=curves>{''.join(_drawn(results))}</div>",
        _removal(results),
        "<h2>Maps</h2>",
        *(_example(*example) for example in examples(evaluation)),
        "<h2>How to read it</h2>",
        _list(
            f"<b>{html_text(METRICS[name].title)}</b> ({METRICS[name].better} is better): "
            f"{html_text(READING[name])} <i>{html_text(METRICS[name].source)}</i>"
            for name in results["metrics"]
        ),
        "<h2>Settings</h2>",
        _settings(results),
        _problems(results["problems"]),
    ]
    return (
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        f"<title>{html_text(title)}</title>\n<style>{STYLE}</style>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _lead(results: Mapping[str, Any]) -> str:
    pictures = results["pictures"]
    told = f"{pictures['measured']} of {pictures['drawn']} pictures from {results['data']['root']} measured."
    if pictures["accuracy"] is not None:
        right = 100 * pictures["accuracy"]
        told += f" The model is right for {right:.1f} % of {pictures['with_label']} with a class."
    if pictures["objects"]:
        told += (
            f" {pictures['objects']} annotated classes cover {100 * pictures['object_share']:.1f} % of their "
            "pictures on average."
        )
    return told


def _table(results: Mapping[str, Any]) -> str:
    methods, found = columns(results)
    head = "".join(f"<th>{html_text(column.title)}</th>" for column in found)
    rows = []
    for number, method in enumerate(methods):
        own = [column.cells[number] for column in found]
        cells = "".join(f"<td{_class(cell)}>{html_text(cell.text)}</td>" for cell in own)
        rows.append(f"<tr><td>{html_text(method)}</td>{cells}</tr>")
    counted = "".join(f"<td>{html_text(column.counted)}</td>" for column in found)
    return (
        f"<div class=wide><table><thead><tr><th>method</th>{head}</tr></thead><tbody>{''.join(rows)}"
        f"<tr class=foot><td>maps that counted</td>{counted}</tr></tbody></table></div>"
    )


def _class(cell: Cell) -> str:
    return " class=best" if cell.best else " class=level" if cell.level else ""


def _remarks(results: Mapping[str, Any]) -> str:
    methods, found = columns(results)
    lines = [
        f"{html_text(column.title[:-2])}: {html_text(column.remark)}." for column in found if column.remark
    ]
    lines += [
        f"{html_text(METRICS[name].title)}: not measured: {html_text(why)}."
        for name, why in results["left_out"].items()
    ]
    lines += [html_text(f"{same_maps(group)}.") for group in results["alike"]]
    if CENTRE in methods:
        lines.append(
            f"{CENTRE} is a Gaussian in the middle of every picture: what looking at nothing brings."
        )
    lines.append(
        "± is the standard error of the mean; arrows point to the better side. The best is bold on green; "
        "pale green marks what is behind it by less than two standard errors of the paired difference."
    )
    return _list(lines)


def _drawn(results: Mapping[str, Any]) -> list[str]:
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
            drawings.append(curves(METRICS[name].title.capitalize(), lines, places, x, "probability"))
    shares = {
        method: [entry["ratio"] for entry in found["removal"]["shares"]]
        for method, found in figures.items()
        if found.get("removal")
    }
    if shares:
        places = list(results["settings"]["shares"])
        drawings.append(curves("Remove and classify", shares, places, "share of pixels erased", "R"))
    return drawings


def _removal(results: Mapping[str, Any]) -> str:
    rows = removal_rows(results)
    if not rows:
        return ""
    head = "".join(f"<th>{share:g}</th>" for share in results["settings"]["shares"])
    body = "".join(
        f"<tr><td>{html_text(method)}</td>{''.join(f'<td>{html_text(cell)}</td>' for cell in cells)}</tr>"
        for method, cells in rows
    )
    return (
        "<h2>R by the share erased (accuracy left: by the map / at random)</h2><div class=wide><table>"
        f"<thead><tr><th>method</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _example(name: str, told: str, drawings: list[tuple[str, str]]) -> str:
    images = "".join(
        f'<div><img alt="{html_text(caption)}" src="{url}">{html_text(caption)}</div>'
        for caption, url in drawings
    )
    return (
        f"<figure class=example><figcaption><code>{html_text(name)}</code> {html_text(told)}</figcaption>"
        f"<div class=row>{images}</div></figure>"
    )


def _settings(results: Mapping[str, Any]) -> str:
    model, versions = results["model"], results["versions"]
    lines = [
        f"Model <code>{html_text(model['file'])}</code>, SHA-256 <code>{html_text(model['sha256'])}</code>, "
        f"cut at <code>{html_text(', '.join(model['target']))}</code>",
        *(f"<code>{html_text(name)}</code>: {html_text(text)}" for name, text in results["methods"].items()),
        html_text(", ".join(f"{name} = {value}" for name, value in results["settings"].items())),
        html_text(", ".join(f"{name} {value}" for name, value in versions.items())),
        f"{results['passes']} pictures were run through the model.",
        *(html_text(note) for note in results["notes"]),
    ]
    return _list(lines)


def _problems(problems: list[str]) -> str:
    if not problems:
        return ""
    return f"<h2>{len(problems)} problems with pictures and annotations</h2>" + _list(
        map(html_text, problems)
    )


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
