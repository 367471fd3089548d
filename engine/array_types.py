"""Types of batches and of what is answered to them, for editors and type checkers.

Arrays of NumPy, and images, are answered with arrays of NumPy; arrays of another library with arrays of that
library, such as `torch.Tensor`. None of them is imported for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from camrt.engine.images.read import ImageSource

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # the standard one takes a default from Python 3.13 on
else:
    from typing import TypeVar

__all__ = ["ArrayT", "ArrayT_co", "DLPackArray", "NumPyArray", "NumPyBatch"]

NumPyArray = npt.NDArray[Any]
NumPyBatch = NumPyArray | ImageSource | Sequence[ImageSource]
"""A batch that is answered with arrays of NumPy: one of them (N, C, H, W), or images."""


class DLPackArray(Protocol):
    """An array that other libraries can take without a copy: see https://dmlc.github.io/dlpack/latest."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""

    @property
    def ndim(self) -> int:
        """Number of its axes."""

    def __getitem__(self, key: Any, /) -> Any: ...
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> Any: ...


ArrayT = TypeVar("ArrayT", bound=DLPackArray)
"""The kind of array that went in and comes out."""

if TYPE_CHECKING:
    ArrayT_co = TypeVar("ArrayT_co", bound=DLPackArray, covariant=True, default=Any)
else:
    ArrayT_co = TypeVar("ArrayT_co", bound=DLPackArray, covariant=True)
