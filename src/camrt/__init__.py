"""camrt: a runtime for visual explanations of exported image classifiers.

    engine = camrt.load("resnet50.onnx")
    engine.explain(batch, method="pixab").maps

Importing this package imports nothing heavy: the runtime is loaded by `camrt.load`, and each part, such as
`camrt.evaluation`, when it is first looked up.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import lazy_loader

from camrt import errors

if TYPE_CHECKING:
    from camrt import default as default
    from camrt import engine as engine
    from camrt import evaluation as evaluation
    from camrt import export as export
    from camrt import kernels as kernels
    from camrt import training as training
    from camrt.engine.engine import Engine
    from camrt.engine.explanation import Explanation
    from camrt.engine.images.preprocess import Preprocessing
    from camrt.engine.load import load
    from camrt.engine.methods import methods
    from camrt.engine.runs.opened import open_run
    from camrt.engine.torch_models.to_onnx import to_onnx

# From 1.29 on ONNX Runtime tells Microsoft which models it is given, unless this is set when it is first
# imported; and a child that was forked waits for ever, when it ends, for the thread that does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

__all__ = [
    "Engine",
    "Explanation",
    "Preprocessing",
    "__version__",
    "errors",
    "load",
    "methods",
    "open_run",
    "to_onnx",
]

if not TYPE_CHECKING:  # a type checker would take any name for one that is there
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        {"default", "engine", "errors", "evaluation", "export", "kernels", "training"},
        {
            "engine.explanation": ["Explanation"],
            "engine.load": ["load"],
            "engine.methods": ["methods"],
            "engine.runs.opened": ["open_run"],
            "engine.images.preprocess": ["Preprocessing"],
            "engine.engine": ["Engine"],
            "engine.torch_models.to_onnx": ["to_onnx"],
        },
    )
