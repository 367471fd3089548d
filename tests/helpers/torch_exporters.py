"""Exporting torch modules in tests as people do: by both exporters, whose talk is kept out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

__all__ = ["export", "silence_exporters"]

# What the exporters say about themselves; nothing that the model could do anything about.
EXPORTER_TALK = [
    ("ignore", r".*legacy TorchScript-based ONNX export.*", DeprecationWarning),
    ("ignore", r"The feature will be removed\..*", DeprecationWarning),
    ("ignore", r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*", FutureWarning),
    ("ignore", r".*Converting a tensor to a Python (boolean|number).*", torch.jit.TracerWarning),
    ("ignore", r".*Constant folding - Only steps=1 can be constant folded.*", UserWarning),
    ("ignore", r".*Converting a tensor to a NumPy array.*", torch.jit.TracerWarning),
    ("ignore", r".*Iterating over a tensor.*", torch.jit.TracerWarning),
    ("ignore", r".*torch\.tensor results are registered as constants.*", torch.jit.TracerWarning),
]


@contextmanager
def silence_exporters() -> Iterator[None]:
    """Leaves out what the exporters warn of as long as the block runs."""
    with warnings.catch_warnings():
        for action, message, category in EXPORTER_TALK:
            warnings.filterwarnings(action, message, category)  # type: ignore[arg-type]
        yield


def export(net: Any, size: tuple[int, int], path: Path, *, dynamo: bool, opened: bool) -> Path:
    """Writes a module's file.

    Args:
        net: The module.
        size: (H, W) of its images.
        path: Where the file goes.
        dynamo: By the new exporter, or by the one that traces.
        opened: Whether the batch axis is open.
    """
    example = torch.zeros(2 if opened else 1, 3, *size)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    # With gradients off, attention is fused into an operator that the old exporter does not know.
    with silence_exporters(), torch.enable_grad():
        if dynamo:
            shapes = ({0: torch.export.Dim("n", min=1, max=64)},) if opened else None
            torch.onnx.export(
                net,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
                **names,
            )
        else:
            axes = {"input": {0: "n"}, "logits": {0: "n"}} if opened else None
            torch.onnx.export(net, (example,), path, dynamo=False, dynamic_axes=axes, **names)
    return path
