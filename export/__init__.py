"""Work on ONNX graphs: reading files safely, cutting them at a tensor, factoring what follows the cut.

Nothing here runs a model, and nothing here needs torch. It imports nothing of camrt but `camrt.kernels`.
What a user calls of it, `camrt.export.with_maps` and `camrt.export.add_to_triton_repository`, lies in the
engine, which it asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from camrt.engine.maps_in_file.writing import with_maps as with_maps
    from camrt.engine.triton_repository import add_to_triton_repository as add_to_triton_repository

__all__ = ["add_to_triton_repository", "with_maps"]

if not TYPE_CHECKING:  # looked up when asked for: this room imports nothing of the engine's
    __getattr__, __dir__, _ = lazy_loader.attach(
        "camrt",
        submod_attrs={
            "engine.maps_in_file.writing": ["with_maps"],
            "engine.triton_repository": ["add_to_triton_repository"],
        },
    )
