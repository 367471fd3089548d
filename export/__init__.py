"""Work on ONNX graphs: reading files safely, cutting them at a tensor, factoring what follows the cut.

Nothing here runs a model, and nothing here needs torch, but for `to_onnx`, which is imported when it is asked
for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from camrt.export.from_torch import to_onnx

__all__ = ["to_onnx"]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"from_torch": ["to_onnx"]})
