"""How the help of a command is laid out: its options in panels, so that it fits into 80 columns."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperOption

__all__ = ["LaidOutCommand"]

PANELS = {
    "Model": (
        *("layer", "fuse", "preprocessing", "labels", "size", "output", "activation", "layout", "grid"),
        *("trust", "max_memory", "load_deadline", "call_deadline"),
    ),
    "Results": (
        *("out", "write", "resume", "overwrite", "block_size", "map_size", "quiet"),
        *("on", "picture", "no_overlays", "colormap", "mode", "threshold", "show"),
    ),
    "TensorRT plans": ("batches", "gradients"),
    "Where and how fast": (
        *("device", "backend", "plans", "precision", "threads", "batch_size", "decode_threads"),
        *("jpeg_scaling", "ray", "actors", "cpus_per_actor", "gpus_per_actor"),
    ),
}
"""The panel of an option, by its parameter's name; others stand in the first."""


class LaidOutCommand(TyperCommand):
    """A command whose help fits into 80 columns."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        panels = {name: panel for panel, names in PANELS.items() for name in names}
        for one in self.params:
            if isinstance(one, TyperOption):
                one.rich_help_panel = panels.get(one.name or "")
                if one.is_flag:
                    one.metavar = ""  # it takes nothing
            else:
                one.metavar = one.metavar or (one.name or "").upper()
