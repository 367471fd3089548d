"""What several commands share: options, a model with its preprocessing, and lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camrt.cli.arguments import engine_preprocessing, parse_size, read_labels, read_preprocessing
from camrt.default import resolve_model_path

if TYPE_CHECKING:
    from camrt.engine.engine import Engine

__all__ = [
    "Annotations",
    "BackendName",
    "BatchSize",
    "Device",
    "Labels",
    "Limit",
    "MethodOptions",
    "Methods",
    "Model",
    "Out",
    "Overwrite",
    "Plans",
    "Precision",
    "PreprocessingOption",
    "Resume",
    "Seed",
    "Size",
    "Threads",
    "complete_method",
    "load_engine",
    "split_list",
]


def complete_method(incomplete: str) -> list[str]:
    """The methods whose names begin so, behind those before the last comma."""
    from camrt.engine.methods import methods as registry

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in registry() if name.startswith(last)]


Model = Annotated[str, typer.Argument(help="An ONNX classifier, or the word default.")]
Methods = Annotated[
    str,
    typer.Option(
        help="Separated by commas, or all; options as in pixab:denominators=N1.",
        autocompletion=complete_method,
    ),
]
Labels = Annotated[
    Path | None, typer.Option(help="Class names: a text file with one a line, or a JSON array.")
]
PreprocessingOption = Annotated[
    str | None,
    typer.Option(
        help="imagenet, imagenet-squash, tf, unit, raw, or a JSON file of camrt.Preprocessing's fields, as "
        '{"mean": [0.5], "std": [0.25], "resize": "crop"}.'
    ),
]
Size = Annotated[str | None, typer.Option(help="HxW to bring images to, where the model leaves it open.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; with --backend openvino also GPU or NPU.")]
BackendName = Annotated[
    str | None,
    typer.Option(
        help="onnxruntime, openvino, onnxruntime-xnnpack, -coreml, -directml or -tensorrt, tensorrt, "
        "tensorrt-rtx; for .pt2 files torch."
    ),
]
Plans = Annotated[Path | None, typer.Option(help="Folder of TensorRT plans, see camrt export.")]
Precision = Annotated[
    str | None, typer.Option(help="fp32, fp16 or bf16: on a GPU, and with --backend openvino.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images run at once: the bound on memory.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Measure this many images, drawn with the seed.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run in that folder.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run in that folder: its files alone are removed.")
]
MethodOptions = Annotated[
    list[str] | None, typer.Option("--option", "-O", help="The method's KEY=VALUE; repeatable.")
]
Annotations = Annotated[
    Path | None, typer.Option(help="A CSV or COCO file, or a folder of XML, masks or WSOL metadata.")
]


def load_engine(
    model: str, preprocessing: str | None, size: str | None, labels: Path | None, **settings: Any
) -> Engine:
    """The model that some options mean, with its preprocessing.

    Args:
        model: A file, or the word default.
        preprocessing: A name, or a JSON file.
        size: HxW.
        labels: A file of class names.
        **settings: Of `camrt.load`.

    Raises:
        InputError: Options that make no sense, or a preprocessing that nobody states.
        CamrtError: What loading raises.
    """
    import camrt

    sides = parse_size(size)
    steps = read_preprocessing(preprocessing, sides)
    engine = camrt.load(
        resolve_model_path(model), preprocessing=steps, labels=read_labels(labels), **settings
    )
    return engine.with_preprocessing(engine_preprocessing(engine, sides))


def split_list(text: str) -> list[str]:
    """The parts between commas that are not in brackets."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]
