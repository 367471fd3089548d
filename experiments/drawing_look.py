"""Which look heat gets by default: candidates measured on real photographs, and side by side on a sheet.

    python -m experiments.drawing_look --data FOLDER --shown FOLDER --out docs/results/drawing_look.md

`--data` holds `models/mobilenet_v2.onnx` and `pictures/coco64.zip`; 60 of its photographs get a Grad-CAM
map of the predicted class, and every candidate draws it. *Heat* is where the map is at least 0.6,
*surroundings* where it is below 0.2. A candidate's contrast is the distance between the mean colours of the
two in CIELAB, in units of how much the colours within them differ (the root of the mean of both variances):
a standardised difference. It is measured in full colour, as people without green receptors see it, and of
lightness alone, as in a grey print. `--shown` holds photographs that may be published; they are drawn on
the sheet beside the report.
"""

from __future__ import annotations

import io
import json
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2lab

import camrt
from camrt.engine.images.colormaps import colour_table
from camrt.engine.images.overlay import overlay
from camrt.engine.images.read import list_images, read_image
from camrt.engine.images.sheets import contact_sheet
from camrt.engine.images.style import StyleOptions
from camrt.export.io.atomic_files import open_atomic, write_atomic

__all__ = ["CANDIDATES", "SIGHTS", "as_seen", "contrast", "format_report", "main", "measure_maps"]

CANDIDATES: Final[Mapping[str, StyleOptions]] = {
    "ember, opacity 0.5, not faded (before)": {"opacity": 0.5, "fade": 0},
    "ember, not faded": {"fade": 0},
    "ember, faded 0.3": {"fade": 0.3},
    "ember, faded 0.75 (the default)": {},
    "ember, faded 0.9": {"fade": 0.9},
    "inferno, faded 0.75": {"colormap": "inferno"},
    "viridis, faded 0.75": {"colormap": "viridis"},
    "turbo, opacity 0.5, not faded": {"colormap": "turbo", "opacity": 0.5, "fade": 0},
    "jet, opacity 0.5, not faded": {"colormap": "jet", "opacity": 0.5, "fade": 0},
    "mask": {"mode": "mask"},
    "contour": {"mode": "contour"},
}
SIGHTS: Final[Mapping[str, NDArray[np.float64]]] = {
    "full colour": np.eye(3),
    "no red receptors": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no green receptors": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no blue receptors": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
"""How linear RGB is seen: Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation
of Color Vision Deficiency" (2009), severity 1."""
INTRODUCTION: Final = """
`python -m experiments.drawing_look` draws the Grad-CAM map of MobileNetV2 on {images} photographs of COCO
in each candidate's way. *Contrast* is the distance in CIELAB between the mean colours of the heat
(saliency at least 0.6) and of its surroundings (below 0.2), in units of how much the colours within both
differ; *lighter* is how much lighter the heat is (L*). Each is the median over the images, and behind it
the tenth percentile: what one still gets on nine images of ten."""
REASONS: Final = """
Heat laid over a photograph as it is hardly stands out where the photograph is warm or light itself, and
on one image of ten it is darker than what is around it. What helps is taking colour and light out of the
photograph (`fade`), not another colour map. At 0.9 the contrast is higher still, and the photograph all
but grey; 0.75 leaves its colours to be told. `mask` and `contour` leave the heat's place as it is, so
that this measure says nothing of them. The same is seen on the photographs below, which are CC0: samples
of IBM's MAX-ResNet-50, MAX-Inception-ResNet-v2 and MAX-Image-Caption-Generator."""
ORDER: Final = """
A map is read in the right order, by everybody and in grey print, where more saliency is always lighter.
Lightness (L*) from no saliency to the most; falls by less than rounding to 8 bits makes do not count:"""
HEAT, SURROUNDINGS = 0.6, 0.2
ROUNDING = 0.3  # of lightness
LEAST = 50  # pixels of each, or a map says nothing
SIDE = 320  # pixels of the photographs that are measured, at most
SHOWN_SIDE = 150  # of those on the sheet


def as_seen(pixels: NDArray[np.uint8], sight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels (..., 3) of sRGB in CIELAB, as somebody sees them."""
    share = pixels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ sight.T, 0, 1)
    back = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab: NDArray[np.float64] = rgb2lab(back)
    return lab


def contrast(heat: NDArray[np.float64], surroundings: NDArray[np.float64]) -> float:
    """The distance of two sets of colours (n, channels), in units of how much each differs within itself."""
    within = (heat.var(axis=0).sum() + surroundings.var(axis=0).sum()) / 2
    apart = np.linalg.norm(heat.mean(axis=0) - surroundings.mean(axis=0))
    return float(apart / np.sqrt(within + 1e-9))


def measure_maps(
    images: Sequence[Image.Image], maps: Sequence[NDArray[np.float32]], style: StyleOptions
) -> dict[str, list[float]]:
    """What a candidate makes of each image: contrasts, and how much lighter the heat is (CIELAB L*)."""
    found: dict[str, list[float]] = {
        "contrast": [],
        "no green receptors": [],
        "grey print": [],
        "lighter": [],
    }
    for image, saliency in zip(images, maps, strict=True):
        hot, cold = saliency >= HEAT, saliency < SURROUNDINGS
        if min(hot.sum(), cold.sum()) < LEAST:
            continue
        drawn = np.asarray(overlay(image, saliency, **style))
        colours = as_seen(drawn, SIGHTS["full colour"])
        other = as_seen(drawn, SIGHTS["no green receptors"])
        found["contrast"].append(contrast(colours[hot], colours[cold]))
        found["no green receptors"].append(contrast(other[hot], other[cold]))
        found["grey print"].append(contrast(colours[hot][:, :1], colours[cold][:, :1]))
        found["lighter"].append(float(colours[hot][:, 0].mean() - colours[cold][:, 0].mean()))
    return found


def describe_order(colormap: str) -> str:
    """How a colour map's lightness goes, for each kind of sight."""
    cells = []
    for sight in SIGHTS.values():
        lightness = as_seen(colour_table(colormap)[None], sight)[0, :, 0]
        falls = int((np.diff(lightness) < -ROUNDING).sum())
        cells.append(
            f"{lightness[0]:.0f} to {lightness[-1]:.0f}" + (f", falls at {falls} of 255" if falls else "")
        )
    return f"| {colormap} | " + " | ".join(cells) + " |"


def format_report(measured: Mapping[str, Mapping[str, Sequence[float]]], images: int) -> str:
    """The report in Markdown: for each candidate the median over the images, and the tenth percentile."""
    lines = [
        "# How heat is drawn by default",
        "",
        textwrap.fill(INTRODUCTION.format(images=images).strip(), 120),
        "",
        "| candidate | contrast | without green receptors | in grey | lighter |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, found in measured.items():
        cells = (f"{np.median(values):.1f} ({np.percentile(values, 10):.1f})" for values in found.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        textwrap.fill(REASONS.strip(), 120),
        "",
        "![Every candidate on some photographs](drawing_look.jpg)",
        "",
        textwrap.fill(ORDER.strip(), 120),
        "",
        "| colour map | " + " | ".join(SIGHTS) + " |",
        "| --- |" + " --- |" * len(SIGHTS),
        *(describe_order(name) for name in ("ember", "inferno", "viridis", "turbo", "jet")),
    ]
    return "\n".join(lines) + "\n"


def draw_sheet(engine: camrt.Engine, paths: Sequence[Path]) -> Image.Image:
    """Some photographs, a row each, drawn by every candidate."""
    cells, captions = [], []
    for path in paths:
        image = read_image(path)
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        saliency = engine.explain([image], "gradcam").maps[0]
        cells += [image, *(overlay(image, saliency, **style) for style in CANDIDATES.values())]
        captions += [path.stem, *CANDIDATES]
    return contact_sheet(cells, captions, len(CANDIDATES) + 1)


def main(
    data: Annotated[Path, typer.Option(help="Folder with models/ and pictures/.")],
    shown: Annotated[Path, typer.Option(help="Folder of photographs that may be published.")],
    out: Annotated[Path, typer.Option(help="The report; the sheet and the numbers go beside it.")],
    count: Annotated[int, typer.Option(min=1, help="Photographs that are measured.")] = 60,
) -> None:
    """Measures every candidate, and writes the report, its numbers and the sheet."""
    steps: dict[str, Any] = {"size": (224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize": "squash"}
    engine = camrt.load(data / "models" / "mobilenet_v2.onnx", preprocessing=steps)
    with zipfile.ZipFile(data / "pictures" / "coco64.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:count]
        images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    for image in images:
        image.thumbnail((SIDE, SIDE))
    maps = [engine.explain([one], "gradcam", size=(one.height, one.width)).maps[0] for one in images]
    measured = {name: measure_maps(images, maps, style) for name, style in CANDIDATES.items()}
    write_atomic(out, format_report(measured, len(images)).encode())
    write_atomic(out.with_suffix(".json"), (json.dumps(measured, indent=1) + "\n").encode())
    with open_atomic(out.with_suffix(".jpg")) as file:
        draw_sheet(engine, list_images(shown)).save(file, "JPEG", quality=80, optimize=True)


if __name__ == "__main__":
    typer.run(main)
