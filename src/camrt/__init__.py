"""camrt: a runtime for visual explanations of exported image classifiers.

    engine = camrt.load("resnet50.onnx")
    engine.explain(batch, method="pixab").maps

Importing this package imports nothing heavy: the runtime is loaded by `camrt.load`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from camrt import errors

if TYPE_CHECKING:
    from camrt.engine.explanation import Explanation
    from camrt.engine.loading import load
    from camrt.engine.methods import methods
    from camrt.engine.preprocessing import Preprocessing
    from camrt.engine.session import Engine

__version__ = "0.1.0"

__all__ = ["Engine", "Explanation", "Preprocessing", "__version__", "errors", "load", "methods"]

_HOMES = {
    "Engine": "camrt.engine.session",
    "Explanation": "camrt.engine.explanation",
    "Preprocessing": "camrt.engine.preprocessing",
    "load": "camrt.engine.loading",
    "methods": "camrt.engine.methods",
}


def __getattr__(name: str) -> Any:
    if name == "export":
        return import_module("camrt.export")
    if name not in _HOMES:
        raise AttributeError(f"module 'camrt' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
