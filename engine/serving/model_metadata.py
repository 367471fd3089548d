"""What the protocol's metadata say of a model."""

from __future__ import annotations

from typing import Any

from camrt.engine.description import admits
from camrt.engine.engine import Engine
from camrt.engine.methods import single_methods
from camrt.engine.serving.request_parsing import PICTURE_FORMATS

__all__ = ["describe_inputs", "describe_model", "describe_outputs"]

ANY = -1  # a side of any length, in the protocol


def describe_inputs(engine: Engine) -> list[dict[str, Any]]:
    """The inputs; `images` may also be BYTES [N], the files of pictures, and `targets` may be left out."""
    interface = engine.interface
    sides = [interface.channels, interface.height or ANY, interface.width or ANY]
    return [
        {"name": "images", "datatype": "FP32", "shape": [ANY, *sides]},
        {"name": "targets", "datatype": "INT64", "shape": [ANY, ANY]},
    ]


def describe_outputs(engine: Engine) -> list[dict[str, Any]]:
    """The outputs; with one target an image the axis of targets is left out."""
    classes, targets, maps = [ANY, engine.num_classes], [ANY, ANY], [ANY, ANY, ANY, ANY]
    outputs = {
        "logits": ("FP32", classes),
        "probabilities": ("FP32", classes),
        "targets": ("INT64", targets),
        "labels": ("BYTES", targets),
        "scores": ("FP32", targets),
        "saliency": ("FP32", maps),
        "raw": ("FP32", maps),
        "flags": ("UINT8", targets),
        "overlay": ("BYTES", targets),
    }
    if engine.labels is None:
        del outputs["labels"]
    if engine.preprocessing is None:
        del outputs["overlay"]
    return [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in outputs.items()]


def describe_model(name: str, engine: Engine, version: str) -> dict[str, Any]:
    """All that is said of a model: the protocol's metadata, and its file and methods as `parameters`."""
    return {
        "name": name,
        "versions": [version],
        "platform": f"camrt_{engine.runtime}",
        "inputs": describe_inputs(engine),
        "outputs": describe_outputs(engine),
        "parameters": {
            "file": engine.path.name,
            "sha256": engine.sha256,
            "classes": engine.num_classes,
            "labels": engine.labels is not None,
            "pictures": list(PICTURE_FORMATS) if engine.preprocessing is not None else [],
            "methods": [name for name, method in single_methods().items() if admits(engine, method)],
        },
    }
