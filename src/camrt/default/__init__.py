"""The embedded default: a small classifier of our own and a photograph; camrt works with nothing given.

`classifier.onnx` carries its labels, preprocessing and provenance in its own metadata; NOTICE.md says where
the photograph comes from. Importing this package imports nothing heavy.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from camrt.errors import CamrtError, ImageError, ModelFileError

__all__ = ["model_path", "resolve_model_path", "scene_path"]


def resolve_model_path(model: str | os.PathLike[str]) -> Path:
    """Returns the file that a model is named by: the embedded classifier for the word "default".

    The word always means the embedded classifier; a file of that name is a path, such as "./default" on the
    command line and Path("default") in Python.

    Raises:
        ModelFileError: the installation lacks the embedded classifier.
    """
    return model_path() if model == "default" else Path(model)


def model_path() -> Path:
    """Returns the path of the embedded classifier, an ONNX file.

    Raises:
        ModelFileError: the installation lacks it.
    """
    return _installed("classifier.onnx", ModelFileError, "the embedded classifier")


def scene_path() -> Path:
    """Returns the path of the embedded scene, a JPEG file: a photograph of a street with yellow taxis.

    Raises:
        ImageError: the installation lacks it.
    """
    return _installed("scene.jpg", ImageError, "the embedded scene")


def _installed(name: str, missing: type[CamrtError], what: str) -> Path:
    """A file of this package; raises `missing` when the installation lacks it."""
    path = Path(str(files(__name__) / name))
    if not path.is_file():
        raise missing(f"{what} is missing: {path}")
    return path
