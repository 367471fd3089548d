"""Work on ONNX graphs: reading files safely, cutting them at a tensor, factoring what follows the cut.

Nothing here runs a model, and nothing here needs torch, but for `to_onnx`, which is imported when it is asked
for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camrt.export.from_torch import to_onnx

__all__ = ["to_onnx"]


def __getattr__(name: str) -> Any:
    if name != "to_onnx":
        raise AttributeError(f"module 'camrt.export' has no attribute {name!r}")
    from camrt.export.from_torch import to_onnx

    return to_onnx
