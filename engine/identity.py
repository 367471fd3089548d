"""What an engine is, as runs note it to know it again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import camrt

if TYPE_CHECKING:
    from camrt.engine.engine import Engine
    from camrt.engine.images.preprocess import Preprocessing

__all__ = ["model_identity", "package_versions"]


def model_identity(engine: Engine, preprocessing: Preprocessing | None) -> dict[str, Any]:
    """Everything about a model that answers and maps depend on, as JSON has it."""
    interface = engine.interface
    return {
        "file": engine.path.name,
        "sha256": engine.sha256,
        "target": [cut.target.name for cut in engine.cuts],
        "preprocessing": None if preprocessing is None else json.loads(preprocessing.to_json()),
        "batch_size": engine.batch_size,
        "activation": interface.activation,
        "reading": interface.reading,
        "layout": interface.layout,
        "runtime": engine.runtime,
        "place": str(engine.device),
    }


def package_versions(packages: Iterable[str] = ("numpy", "onnxruntime")) -> dict[str, str | None]:
    """The version of camrt and of the packages that it computes with; None of one that is missing."""
    found: dict[str, str | None] = {"camrt": camrt.__version__}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
