"""What saliency maps are written into: an array of the caller's, or a new one of a wanted type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from array_api_compat import is_numpy_array, is_torch_array

from camrt.engine.arrays import zeros
from camrt.engine.device import Device, NumpyDevice
from camrt.errors import InputError

__all__ = ["MapOutput", "MapType", "check_map_output"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
MapType = Literal["float32", "float16"]


@dataclass(frozen=True)
class MapOutput:
    """Where maps go.

    Attributes:
        kind: Their type.
        out: The caller's array; None for a new one.
        buffer: The memory of it where the engine computes; None where that has to be copied from there.
    """

    kind: MapType = "float32"
    out: Array | None = None
    buffer: Array | None = None

    def allocate(self, shape: Sequence[int], like: Array, asked: Sequence[int]) -> Array | None:
        """The array that maps are written into; None where any new one of float32 is as good.

        Args:
            shape: (N, T, H, W).
            like: An array that lies where the maps are made.
            asked: (N,) or (N, T), as the classes were asked for.

        Raises:
            InputError: The caller's array has another shape.
        """
        if self.out is not None:
            wanted = (*asked, *shape[2:])
            if tuple(self.out.shape) != wanted:
                raise InputError(f"out= must have shape {wanted}, the maps' own, not {tuple(self.out.shape)}")
        if self.buffer is not None:
            return self.buffer.reshape(*shape)
        return None if self.kind == "float32" else zeros(tuple(shape), like, self.kind)

    def give(self, maps: Array, to_caller: Callable[[Array], Any]) -> Any:
        """The maps as the caller gets them: the array that was passed, where one was."""
        if self.out is None:
            return to_caller(maps)
        if self.buffer is None:
            self.out[...] = to_caller(maps)
        return self.out


def check_map_output(dtype: Any, out: Any, batch: Any, count: int, device: Device) -> MapOutput:
    """What maps are written into, as a call said it.

    Args:
        dtype: The type of the maps; None for that of `out`, or float32.
        out: An array; None for a new one.
        batch: What was passed to be explained.
        count: How many images that is.
        device: Where the engine computes.

    Raises:
        InputError: The type is none that maps have, or the array cannot take them.
    """
    kinds = get_args(MapType)
    wanted = None if dtype is None else getattr(dtype, "__name__", str(dtype)).removeprefix("torch.")
    if wanted not in (None, *kinds):
        raise InputError(f"dtype={dtype!r} must be one of {', '.join(map(repr, kinds))}")
    if out is None:
        return MapOutput("float16" if wanted == "float16" else "float32")
    if is_torch_array(batch) != is_torch_array(out) or not (is_numpy_array(out) or is_torch_array(out)):
        own = "a tensor of torch" if is_torch_array(batch) else "an array of NumPy"
        raise InputError(f"out= must be {own}, of the kind that comes back, not {type(out).__name__}")
    found = str(out.dtype).removeprefix("torch.")
    if found not in kinds or wanted not in (None, found):
        raise InputError(f"out= must be {wanted or ' or '.join(kinds)}, and is {found}")
    if not (out.is_contiguous() if is_torch_array(out) else out.flags.c_contiguous and out.flags.writeable):
        raise InputError("out= must be contiguous in memory, row by row, and writeable")
    if is_torch_array(out) and out.device != batch.device:
        raise InputError(f"out= is on {out.device} and the batch on {batch.device}: both must be there")
    if out.ndim not in (3, 4) or len(out) != count:
        raise InputError(f"out= must be ({count}, H, W) or ({count}, T, H, W), not {tuple(out.shape)}")
    return MapOutput("float16" if found == "float16" else "float32", out, find_buffer(out, device))


def find_buffer(out: Array, device: Device) -> Array | None:
    """An array's memory as the engine's own kind of array; None where it lies elsewhere."""
    if isinstance(device, NumpyDevice):
        if is_numpy_array(out):
            return out
        return out.detach().numpy() if out.device.type == "cpu" else None
    if is_numpy_array(out):
        return None
    return out.detach() if device.put(np.zeros(1, np.float32)).device == out.device else None
