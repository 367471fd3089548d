"""Writing the embedded classifier: one self-describing ONNX file, checked before it is put in place.

The file carries its class names, its preprocessing and its provenance in `metadata_props`, as JSON, under
`camrt.labels`, `camrt.preprocessing` and `camrt.provenance`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from camrt.errors import ModelFileError
from camrt.export.from_torch import exported
from camrt.training.small_network import SmallNetwork, folded

__all__ = ["OPSET", "preprocessing", "save_checked", "to_onnx", "verify"]

OPSET = 18
LARGEST = 2_000_000
"""Most bytes the file may have."""


def preprocessing(canvas: int, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """How a picture becomes an input: squashed whole to the canvas, then x = (pixel·scale − mean) / std."""
    return {
        "size": [canvas, canvas],
        "mean": list(mean),
        "std": list(std),
        "scale": 1 / 255,
        "colours": "RGB",
        "resize": "squash",
        "interpolation": "bilinear",
    }


def to_onnx(network: SmallNetwork, canvas: int, metadata: Mapping[str, Any]) -> onnx.ModelProto:
    """Exports the network with its normalisations folded.

    Args:
        network: the trained network.
        canvas: S, the side of the input; the batch stays free.
        metadata: name -> value, each written as JSON under `camrt.NAME`.

    Returns:
        A model of `input` (batch, 3, S, S) float32 to `logits` (batch, C) float32.
    """
    model = exported(folded(network), torch.zeros(2, 3, canvas, canvas), OPSET, dynamic_batch=True)
    onnx.helper.set_model_props(
        model, {f"camrt.{name}": json.dumps(value, ensure_ascii=False) for name, value in metadata.items()}
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def verify(path: Path, network: SmallNetwork, inputs: NDArray[np.float32], tolerance: float = 1e-4) -> float:
    """Compares onnxruntime's logits of a file with the network's own.

    Args:
        path: the ONNX file.
        network: the network it was made from, not folded.
        inputs: float32 (N, 3, S, S), real pictures.
        tolerance: the largest difference of a logit that is let pass. Both sides compute in float32; folding
            and the order of summation move logits of size about ten by about 1e-5.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        ModelFileError: the difference is larger than the tolerance, or not a number.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answered = np.asarray(session.run(["logits"], {"input": inputs})[0])
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(inputs)).numpy()
    difference = float(np.abs(answered - expected).max())
    if not difference <= tolerance:
        raise ModelFileError(f"onnxruntime's logits differ from torch's by {difference:.3g}")
    return difference


def save_checked(
    model: onnx.ModelProto, path: Path, network: SmallNetwork, inputs: NDArray[np.float32]
) -> float:
    """Writes a model beside its place, verifies it there, and only then moves it into place.

    Args:
        model: what `to_onnx` returned.
        path: where the file goes; a file already there is replaced only by one that passed.
        network: what to compare with.
        inputs: real pictures to compare on, (N, 3, S, S).

    Returns:
        The largest absolute difference of a logit.

    Raises:
        ModelFileError: the file is too large, or its logits are not the network's.
    """
    data = model.SerializeToString()
    if len(data) > LARGEST:
        raise ModelFileError(f"the model has {len(data)} bytes, more than {LARGEST}")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".onnx", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        difference = verify(draft, network, inputs)
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return difference
