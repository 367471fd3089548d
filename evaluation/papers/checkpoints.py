"""Weights of torchvision's VGG as a user has them, made an ONNX file that tables can be measured on."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camrt.engine.extras import import_extra
from camrt.engine.images.preprocess import METADATA_KEY, Preprocessing
from camrt.errors import ModelFileError
from camrt.export.io.atomic_files import write_atomic
from camrt.export.vgg import build_vgg

__all__ = ["SUFFIXES", "read_weights", "write_checkpoint_as_onnx"]

SUFFIXES: Final = (".pth", ".pt", ".bin", ".safetensors")
"""Of files that hold weights alone."""
WRAPPERS: Final = ("state_dict", "model")
"""Under which training scripts put a state dict in a larger one."""


def write_checkpoint_as_onnx(path: Path, folder: Path) -> Path:
    """Writes the network of a checkpoint as an ONNX file named after a hash of it, unless the file is there.

    Args:
        path: A state dict of torchvision's VGG, by torch or in safetensors.
        folder: Where the file goes.

    Raises:
        ModelFileError: It cannot be read, holds more than weights, or is of another network.
        StorageError: The file cannot be written.
        MissingExtraError: torch, or safetensors, is not installed.
    """
    weights = read_weights(path)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}{weights[name].shape}".encode() + weights[name].tobytes())
    place = folder / f"vgg-{digest.hexdigest()[:16]}.onnx"
    if not place.exists():
        try:
            model, size = build_vgg(weights)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from None
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, Preprocessing.named("imagenet", (size, size)).to_json()
        write_atomic(place, model.SerializeToString())
    return place


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of a checkpoint, by name; nothing that is in it is run.

    Raises:
        ModelFileError: It cannot be read, or holds more than weights.
        MissingExtraError: torch, or safetensors, is not installed.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    safe = path.suffix.lower() == ".safetensors"
    library = import_extra("safetensors.numpy", "train") if safe else import_extra("torch", "torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of pickles that it then refuses or reads
            content: Any = (
                library.load_file(path) if safe else library.load(path, map_location="cpu", weights_only=True)
            )
    except Exception as error:  # damaged files make the unpickler raise almost anything
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: cannot be read as weights: {reason:.200}") from error
    for name in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise ModelFileError(f"{path}: holds {type(content).__name__}, and not weights by name")
    found = {}
    for name, value in content.items():
        array = np.asarray(value.float() if hasattr(value, "float") else value)
        if isinstance(name, str) and array.dtype.kind == "f":
            found[name.removeprefix("module.")] = array.astype(np.float32)
    return found
