"""Tensors of the Open Inference Protocol, as they lie in a request and in an answer.

A request is a stranger's: every size that it states is compared with the bytes that are there before an array
is made of them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.errors import InputError

__all__ = [
    "MOST_AXES",
    "Inference",
    "RequestedOutput",
    "check_shape",
    "datatype_of",
    "pack",
    "tensor_of_bytes",
    "tensor_of_numbers",
    "texts",
]

Array = npt.NDArray[Any]

DTYPES: dict[str, str] = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "O",
}
"""NumPy's types of the protocol's; BYTES are arrays of objects, `bytes`, or in answers also `str`."""
DATATYPES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
MOST_AXES = 8


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a request asks for.

    Attributes:
        name: Its name.
        binary: Whether it goes behind the JSON of an answer; None where the request does not say.
    """

    name: str
    binary: bool | None = None


@dataclass(frozen=True)
class Inference:
    """A request, whichever way it came.

    Attributes:
        inputs: Arrays by the inputs' names.
        parameters: Of the request.
        outputs: What is asked for; none for the usual ones.
        id: The caller's name of the request, which goes back.
        binary: Whether outputs that do not say go behind the JSON of an answer.
        texts: Whether values of parameters are text where they are neither numbers nor truth values, as in
            version 2 of the protocol, so that lists in them are written as JSON.
    """

    inputs: Mapping[str, Array]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[RequestedOutput] = ()
    id: str = ""
    binary: bool = False
    texts: bool = True


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's type."""
    return DATATYPES[array.dtype.newbyteorder("<") if array.dtype.kind != "O" else array.dtype]


def check_shape(where: str, datatype: Any, shape: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The type and shape that a request states of a tensor.

    Args:
        where: The tensor, for messages.
        datatype: The protocol's name of the type.
        shape: Its sides.

    Raises:
        InputError: They are none.
    """
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InputError(f"{where}.datatype={datatype!r:.40} must be one of {', '.join(DTYPES)}")
    sides = list(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else None
    if sides is None or len(sides) > MOST_AXES:
        raise InputError(f"{where}.shape must be a list of at most {MOST_AXES} whole numbers")
    if any(type(side) is not int or not 0 <= side < 1 << 31 for side in sides):
        raise InputError(f"{where}.shape={sides!r:.80} must be of whole numbers from 0 to 2147483647")
    return np.dtype(DTYPES[datatype]), tuple(sides)


def tensor_of_bytes(
    where: str, content: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    """A tensor of its bytes: numbers in little-endian order, or BYTES with four bytes of length before each.

    Raises:
        InputError: There are more or fewer than the shape says.
    """
    count = math.prod(shape)
    if dtype.kind != "O":
        if len(content) != count * dtype.itemsize:
            raise InputError(
                f"{where}: {len(content)} bytes, and shape {list(shape)} of {DATATYPES[dtype]} takes "
                f"{count * dtype.itemsize}"
            )
        return np.frombuffer(content, dtype).reshape(shape)
    if count * 4 > len(content):
        raise InputError(f"{where}: {len(content)} bytes hold no {count} elements of BYTES")
    elements, start = np.empty(count, object), 0
    for number in range(count):
        (length,) = struct.unpack_from("<I", content, start) if start + 4 <= len(content) else (1 << 32,)
        end = start + 4 + length
        if end > len(content):
            raise InputError(f"{where}: element {number} of BYTES goes beyond the end of the data")
        elements[number], start = bytes(content[start + 4 : end]), end
    if start != len(content):
        raise InputError(
            f"{where}: {len(content) - start} bytes are left over behind {count} elements of BYTES"
        )
    return elements.reshape(shape)


def tensor_of_numbers(where: str, values: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A tensor of a list of numbers, flat or in lists like its axes; or of texts, for BYTES.

    Raises:
        InputError: They are no numbers, of another type, or more or fewer than the shape says.
    """
    flat = flatten(where, values, shape)
    kinds = set(map(type, flat))  # before NumPy sees them: a text among numbers makes texts of all
    taken: dict[str, set[type]] = {"O": {str, bytes}, "f": {int, float}, "b": {bool}}
    if kinds - taken.get(dtype.kind, {int}):
        raise InputError(f"{where}.data: not all of it is {DATATYPES[dtype]}")
    if dtype.kind == "O":
        elements = np.empty(len(flat), object)
        elements[:] = [one.encode() if isinstance(one, str) else one for one in flat]
        return elements.reshape(shape)
    try:
        return np.array(flat, dtype).reshape(shape)
    except OverflowError:
        raise InputError(f"{where}.data: numbers beyond the range of {DATATYPES[dtype]}") from None


def flatten(where: str, values: Any, shape: tuple[int, ...]) -> list[Any]:
    """The elements of a tensor that is a flat list, or lists in one another as its shape says."""
    if not isinstance(values, list):
        raise InputError(f"{where}.data must be a list")
    level, lengths = values, [len(values)]
    while level and isinstance(level[0], list) and len(lengths) < len(shape):
        if set(map(type, level)) != {list} or len(set(map(len, level))) > 1:
            raise InputError(f"{where}.data: its lists have different lengths")
        lengths.append(len(level[0]))
        level = list(chain.from_iterable(level))
    if lengths not in ([math.prod(shape)], list(shape)):
        raise InputError(
            f"{where}.data has {len(level)} elements in lists of {lengths}, its shape is {list(shape)}"
        )
    return level


def texts(where: str, array: Array) -> list[Any]:
    """A tensor of BYTES as text, in lists like its axes.

    Raises:
        InputError: It is no UTF-8.
    """
    try:
        decoded = [element.decode() for element in array.ravel()]
    except UnicodeDecodeError:
        raise InputError(f"{where}: not all of it is text in UTF-8") from None
    held = np.empty(array.size, object)
    held[:] = decoded
    lists: list[Any] = held.reshape(array.shape).tolist()
    return lists


def pack(array: Array) -> bytes:
    """A tensor's bytes, as `tensor_of_bytes` reads them."""
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    elements = (one.encode() if isinstance(one, str) else one for one in array.ravel())
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
