"""The colours that a saliency is drawn in: our own table, and every colour map of matplotlib by its name."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.extras import import_extra
from camrt.errors import InputError

__all__ = ["DEFAULT_COLORMAP", "Colormap", "colour_table"]

Colormap = str | NDArray[np.uint8]
"""A name, or a table (n, 3) of RGB from no saliency to the most."""

DEFAULT_COLORMAP = "ember"

# From deep violet through magenta and orange to a pale yellow. The lightness rises in even steps (CIELAB
# L* from 8 to 95), so that more saliency is always lighter, in grey print too, and for every kind of sight.
_EMBER = (
    (28, 7, 62),
    (54, 8, 104),
    (85, 10, 131),
    (119, 14, 138),
    (153, 25, 131),
    (186, 41, 114),
    (214, 63, 91),
    (235, 92, 65),
    (247, 126, 42),
    (252, 164, 40),
    (252, 205, 77),
    (252, 243, 160),
)


def colour_table(colormap: Colormap) -> NDArray[np.uint8]:
    """The colour of each of 256 levels of saliency.

    Args:
        colormap: "ember", which is our own; the name of one of matplotlib's, such as "inferno", "viridis",
            "turbo" or "jet" (the extra `plot`); or a table (n, 3) of uint8, at least two rows, between which
            colours are interpolated.

    Returns:
        (256, 3) uint8 RGB.

    Raises:
        InputError: An unknown name, or something that is no table.
        MissingExtraError: The name is not our own, and matplotlib is not installed.

    Example:
        colour_table("viridis")[255]
    """
    if isinstance(colormap, str):
        return _named(colormap)
    table = np.asarray(colormap)
    if table.ndim != 2 or table.shape[1] != 3 or len(table) < 2 or table.dtype != np.uint8:
        raise InputError(
            f"colormap: a name or a table (n, 3) of uint8 from no saliency to the most, at least two rows, "
            f"got {table.dtype} {table.shape}"
        )
    return _spread(table)


@cache
def _named(name: str) -> NDArray[np.uint8]:
    if name == DEFAULT_COLORMAP:
        return _spread(np.array(_EMBER, np.uint8))
    known: Any = import_extra("matplotlib", "plot").colormaps
    if name not in known:
        raise InputError(
            f"colormap={name!r:.80} is none that camrt ({DEFAULT_COLORMAP}) or matplotlib knows, such as "
            "inferno, viridis, cividis, turbo or jet"
        )
    table: NDArray[np.uint8] = known[name](np.linspace(0, 1, 256), bytes=True)[:, :3]
    return table


def _spread(anchors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    at = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)
