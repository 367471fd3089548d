"""What a client of a service asks of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from camrt.engine.batch import MapSize, PreparedBatch
from camrt.engine.fusion import Fusion
from camrt.engine.map_output import MapType
from camrt.engine.methods import Method

__all__ = ["ExplainRequest"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExplainRequest:
    """A question about some images.

    Attributes:
        batch: The images, as `engine.prepare` gives them.
        method: How they are explained; None for their logits alone.
        targets: The classes, see `camrt.Engine.explain`; no function.
        top_k: Explain so many of the most probable classes instead.
        size: Of the maps.
        fuse: How the maps of several layers become one.
        dtype: Of the maps.
        deadline: When it is of no use any more, by `time.monotonic`; None for the engine's `call_deadline`.
        client: Who asks, for the limit of requests a client.

    Example:
        request = ExplainRequest(batch=engine.prepare(["cat.jpg"]), method=make_method("pixab", {}))
    """

    batch: PreparedBatch
    method: Method | None = None
    targets: Any = None
    top_k: int | None = None
    size: MapSize = "image"
    fuse: Fusion = "mean"
    dtype: MapType | None = None
    deadline: float | None = None
    client: str = ""
