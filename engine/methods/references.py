"""Images that a method compares the explained one with, as a value among its options."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from camrt.engine.arrays import to_device_async, to_numpy
from camrt.errors import MethodError
from camrt.export.budget import reserve_array

__all__ = ["ReferenceImages", "check_references"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
RANK = 4  # (R, C, H, W)


class ReferenceImages:
    """References (R, C, H, W), float32, as the model takes images: equal to others of the same numbers.

    Attributes:
        values: They.
    """

    def __init__(self, values: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        self.values = values
        self._key = (values.shape, hashlib.sha256(values.tobytes()).hexdigest())

    def __len__(self) -> int:
        """How many there are."""
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReferenceImages) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        shape, digest = self._key
        return f"ReferenceImages({'×'.join(map(str, shape))}, sha256 {digest[:16]})"

    def at(self, index: int, images: Array) -> Array:
        """One of them, (1, C, H, W), where the images lie.

        Raises:
            MethodError: The images are of another size.
        """
        if tuple(images.shape[1:]) != self.values.shape[1:]:
            raise MethodError(
                f"references are (R, C, H, W) as the model takes images: {self.values.shape[1:]} each, where "
                f"the images are {tuple(images.shape[1:])}"
            )
        return to_device_async(self.values[index : index + 1].copy(), images)


def check_references(method: str, given: Any) -> ReferenceImages | None:
    """What was given as references, as a value that cannot be changed.

    Args:
        method: The method's name, for the message.
        given: None, an array (R, C, H, W), or what came of one.

    Raises:
        MethodError: It is no such array, or holds what is not finite.
    """
    if given is None or isinstance(given, ReferenceImages):
        return given
    try:
        found = to_numpy(given)
        reserve_array(found.shape, "references", itemsize=4)
        values = np.array(found, np.float32, order="C")
    except (TypeError, ValueError) as error:
        raise MethodError(f"{method}: references must be an array (R, C, H, W): {error}") from error
    if values.ndim != RANK or not values.size or not np.isfinite(values).all():
        raise MethodError(
            f"{method}: references must be an array (R, C, H, W) of finite numbers, as the model takes "
            f"images; this one is {values.shape}"
        )
    values.flags.writeable = False
    return ReferenceImages(values)
