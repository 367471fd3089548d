"""How near cheaper maps come to Score-CAM's: budgets of passes, lower precision, and other methods.

    python -m experiments.score_budget --data FOLDER --out docs/results/score_budget.md

FOLDER holds `models/squeezenet1_0.onnx`, `models/mobilenet_v3_small.onnx` and `pictures/imagenet_val400.zip`.
Each variant explains the same images, for the class that the float32 model predicts, and is compared with the
full Score-CAM map of the float32 model on the map's own grid. What is measured is kept in a JSON file beside
the report, image by image; a run that was cut off goes on where it was. Seconds are of one process on this
machine, an image at a time.
"""

from __future__ import annotations

import io
import json
import platform
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import matplotlib
import numpy as np
import onnxruntime
import typer
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

import camrt
from camrt.export.io.atomic_files import write_atomic
from camrt.kernels.processors import usable_processors

__all__ = ["VARIANTS", "agreement", "format_report", "main"]

NETWORKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "mobilenet_v3_small": {"preprocessing": "tf", "size": (224, 224)},
    "squeezenet1_0": {"preprocessing": "imagenet-squash", "size": (227, 227)},
}
FULL: Final = "all channels"
BUDGETS: Final = (16, 32, 64, 128)
NUMBERS: Final = ("float32", "bfloat16", "int8")
CALIBRATION: Final = 64
"""Images that ranges for int8 are read off; none of them is measured on."""
VARIANTS: Final[Mapping[str, tuple[str, str, Mapping[str, Any]]]] = {
    FULL: ("float32", "score", {}),
    **{f"{passes} clusters": ("float32", "score", {"passes": passes}) for passes in BUDGETS},
    "all channels, bfloat16": ("bfloat16", "score", {}),
    "64 clusters, bfloat16": ("bfloat16", "score", {"passes": 64}),
    "all channels, int8": ("int8", "score", {}),
    "Activation-CAM": ("float32", "activation", {}),
    "Grad-CAM": ("float32", "gradcam", {}),
}
"""What is asked of each network: in which numbers, by which method, with which options."""


@dataclass(frozen=True)
class Images:
    """Images to measure on, and others to calibrate with.

    Attributes:
        measured: One by one.
        others: For ranges of int8.
    """

    measured: list[Image.Image]
    others: list[Image.Image]


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships without types
    """Batches of one image for the quantiser."""

    def __init__(self, name: str, batch: NDArray[np.float32]) -> None:
        self._left = iter([{name: one[None]} for one in batch])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next one, or None."""
        return next(self._left, None)


def read_images(data: Path, count: int) -> Images:
    """Images drawn from the validation set, the same first ones for any count, and some to calibrate with."""
    with zipfile.ZipFile(data / "pictures" / "imagenet_val400.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".JPEG"))
        names = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
        chosen = [names[: min(count, len(names) - CALIBRATION)], names[-CALIBRATION:]]
        measured, others = (
            [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in part] for part in chosen
        )
    return Images(measured, others)


def quantise(path: Path, engine: camrt.Engine, images: Images, folder: Path) -> Path:
    """An int8 copy of a file with QuantizeLinear and DequantizeLinear around every layer."""
    assert engine.preprocessing is not None
    batch = np.stack(
        [engine.preprocessing.array(engine.preprocessing.view(image)) for image in images.others]
    ).astype(np.float32)
    name = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    ready, made = folder / "ready.onnx", folder / "int8.onnx"
    quant_pre_process(path, ready)
    quantize_static(
        ready,
        made,
        Calibration(name, batch),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return made


def load(numbers: str, network: str, data: Path, images: Images, folder: Path) -> camrt.Engine:
    """An engine of a network that computes in "float32", "bfloat16" or "int8"."""
    path = data / "models" / f"{network}.onnx"
    steps = NETWORKS[network]
    options: dict[str, Any] = {
        "preprocessing": camrt.Preprocessing.named(steps["preprocessing"], steps["size"])
    }
    if numbers == "bfloat16":
        return camrt.load(path, backend="openvino", precision="bf16", **options)
    if numbers == "int8":
        path = quantise(path, camrt.load(path, **options), images, folder)
    return camrt.load(path, **options)


def agreement(found: NDArray[Any], full: NDArray[Any]) -> tuple[float, bool]:
    """The Pearson correlation of two maps (h, w), and whether their largest cell is the same one.

    NaN where a map is constant.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = float(np.corrcoef(found.ravel(), full.ravel())[0, 1])
    return correlation, bool(found.argmax() == full.argmax())


def measure_network(
    network: str, data: Path, images: Images, kept: dict[str, list[dict[str, Any]]], save: Callable[[], None]
) -> None:
    """Measures what is not measured yet of a network, and saves after each image.

    All variants explain an image one after the other, so that what else the machine does meets all alike.

    Args:
        network: Its name.
        data: Folder of models and pictures.
        images: What is explained.
        kept: By variant, what was measured of each image.
        save: Called after each image.
    """
    started = min(len(kept.setdefault(variant, [])) for variant in VARIANTS)
    if started >= len(images.measured):
        return
    with tempfile.TemporaryDirectory() as folder:
        engines = {numbers: load(numbers, network, data, images, Path(folder)) for numbers in NUMBERS}
    for numbers, method, _ in VARIANTS.values():  # what is made ready at the first run
        few: dict[str, Any] = {"passes": 2} if method == "score" else {}
        engines[numbers].explain([images.measured[0]], method, **few)
    for number in range(started, len(images.measured)):
        image = images.measured[number]
        target = int(engines["float32"].predict([image]).argmax())
        full = np.zeros(0)
        for variant, (numbers, method, options) in VARIANTS.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found = engines[numbers].explain([image], method, targets=target, size="map", **options)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            shown = found.maps[0].astype(np.float64)
            full = shown if variant == FULL else full
            correlation, same = agreement(shown, full)
            passes = found.passes.full + found.passes.trunk
            row = {"r": correlation, "same": same, "passes": passes, "seconds": wall, "cpu": cpu}
            kept[variant] = [*kept[variant][:number], row]
        save()
        typer.echo(f"{network}: {number + 1} of {len(images.measured)} images")


def summarise(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What a variant's images came to."""
    correlations = np.array([row["r"] for row in rows])
    return {
        "median": float(np.nanmedian(correlations)),
        "tenth": float(np.nanpercentile(correlations, 10)),
        "worst": float(np.nanmin(correlations)),
        "same": float(np.mean([row["same"] for row in rows])),
        "passes": float(np.mean([row["passes"] for row in rows])),
        "seconds": float(np.median([row["seconds"] for row in rows])),
        "cpu": float(np.median([row["cpu"] for row in rows])),
        "undefined": float(np.isnan(correlations).sum()),
    }


def describe_network(told: Mapping[str, Mapping[str, float]]) -> str:
    """A network's table in sentences."""
    full = told[FULL]

    def tell(variant: str) -> str:
        one = told[variant]
        return (
            f"{variant}: r = {one['median']:.3f} in {100 * one['cpu'] / full['cpu']:.0f} % of the CPU time "
            f"(worst image {one['worst']:.3f})"
        )

    others = max(("Activation-CAM", "Grad-CAM"), key=lambda variant: told[variant]["median"])
    chosen = ("64 clusters", "all channels, bfloat16", "64 clusters, bfloat16", "all channels, int8", others)
    return "; ".join(map(tell, chosen)) + "."


def format_report(found: Mapping[str, Any], picture: str) -> str:
    """The report as Markdown."""
    count = min(len(rows) for network in found["networks"].values() for rows in network.values())
    lines = [
        "# Score-CAM under a budget",
        "",
        'How near is `engine.explain(batch, "score", passes=64)` to Score-CAM with every channel, '
        "what does it cost, and what do lower precision or another method give? The map's own grid, the "
        f"class that the float32 model predicts, {count} ImageNet validation images, one at a time; "
        f"{found['machine']}.",
        "",
        "```sh",
        "python -m experiments.score_budget --data FOLDER --out docs/results/score_budget.md",
        "```",
        "",
        f"![Correlation with the full map against the time of an image]({picture})",
    ]
    for network, kept in found["networks"].items():
        lines += [
            "",
            f"## {network}",
            "",
            "| | r, median | tenth percentile | worst | same top cell | passes | seconds | CPU seconds |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for variant, rows in kept.items():
            told = summarise(rows)
            numbers = [f"{told[name]:.3f}" for name in ("median", "tenth", "worst")]
            numbers += [f"{100 * told['same']:.0f} %", f"{told['passes']:.0f}", f"{told['seconds']:.2f}"]
            numbers.append(f"{told['cpu']:.2f}")
            lines.append(f"| {variant} | {' | '.join(numbers)} |")
        lines += ["", describe_network({variant: summarise(rows) for variant, rows in kept.items()})]
    lines += [
        "",
        "r is the Pearson correlation of two maps' cells, after what is negative was cut off. Passes are "
        "those of the whole model, the first one and the empty image's among them. Seconds are medians: of "
        "the clock, and of processors that worked for it, which is what to compare where a machine has other "
        "work.",
    ]
    return "\n".join(line if line.startswith("|") else textwrap.fill(line, 116) for line in lines) + "\n"


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draws the agreement against the time, a panel a network."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "camrt", "font.size": 8}):
        figure, panels = pyplot.subplots(
            1, len(found["networks"]), figsize=(9.5, 4.2), sharey=True, layout="constrained"
        )
        for panel, (network, kept) in zip(np.atleast_1d(panels), found["networks"].items(), strict=True):
            for number, (variant, rows) in enumerate(kept.items()):
                told = summarise(rows)
                panel.errorbar(
                    told["cpu"],
                    told["median"],
                    [[told["median"] - told["tenth"]], [0]],
                    fmt="os^Dv"[number % 5],
                    label=variant,
                    color=f"C{number}",
                    capsize=2,
                )
            panel.set(title=network, xscale="log", xlabel="processor seconds an image")
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        np.atleast_1d(panels)[0].set_ylabel("correlation: median and tenth percentile")
        figure.legend(
            *np.atleast_1d(panels)[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
            frameon=False,
        )
        figure.savefig(path, metadata={"Date": None})


def main(
    data: Annotated[Path, typer.Option(help="Folder of models and pictures.")],
    out: Annotated[Path, typer.Option(help="Where the Markdown goes; JSON and SVG go beside it.")],
    count: Annotated[int, typer.Option(min=2, help="How many images.")] = 50,
) -> None:
    """Measures what is not measured yet, and writes the report."""
    store = out.with_suffix(".json")
    found: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {"networks": {}}
    found["machine"] = f"{platform.machine()}, {usable_processors()} cores"

    def save() -> None:
        write_atomic(store, (json.dumps(found) + "\n").encode())

    images = read_images(data, count)
    for network in NETWORKS:
        measure_network(network, data, images, found["networks"].setdefault(network, {}), save)
    networks = {
        network: {variant: rows[:count] for variant, rows in kept.items()}
        for network, kept in found["networks"].items()
    }
    told, picture = {**found, "networks": networks}, out.with_suffix(".svg")
    plot(told, picture)
    write_atomic(out, format_report(told, picture.name).encode())


if __name__ == "__main__":
    typer.run(main)
