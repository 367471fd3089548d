"""How much a model file may ask for, and the size that one stored tensor claims.

Everything here is arithmetic on what the file says; nothing is allocated to find out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from camrt.errors import ModelFileError, UnsafeModelError

__all__ = [
    "ReadingLimits",
    "check_tensor",
    "claimed_bytes",
    "element_bits",
    "human_bytes",
    "human_count",
    "quote_name",
]

_GIB = 1 << 30


@dataclass(frozen=True)
class ReadingLimits:
    """What a model file may ask for before it is refused.

    Attributes:
        max_file_bytes: Size of the file, and of the model with its external data; protobuf allows no more.
        max_fields: Protobuf fields in the file. Two bytes can stand for an object of hundreds, so a file
            is counted before it is parsed.
        max_nodes_after_inlining: Nodes once every local function is expanded.
        max_bytes_after_inlining: Bytes of those nodes, with the constants in them.
        max_depth: Nesting of subgraphs in subgraphs, and of functions that call functions.
        max_values_in_scopes: Values that subgraphs see of the graphs around them, summed over subgraphs:
            inferring shapes copies them for each, and cannot be stopped.
        max_tensor_bytes: Size of one tensor: stored, claimed by its dimensions, or implied by the
            constant operands of the operator that makes it.
        max_rank: Dimensions of one tensor.
    """

    max_file_bytes: int = 2 * _GIB - 1
    max_fields: int = 2_000_000
    max_nodes_after_inlining: int = 200_000
    max_bytes_after_inlining: int = 1 * _GIB
    max_depth: int = 64
    max_values_in_scopes: int = 20_000_000
    max_tensor_bytes: int = 4 * _GIB
    max_rank: int = 64


_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}

# Fields of TensorProto that hold values, and how many entries of each make one element of a type.
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_FIELD_OF: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.STRING: "string_data",
}


def quote_name(name: str) -> str:
    """A name from a file, escaped and short enough for a message."""
    return repr(name if len(name) <= 120 else f"{name[:117]}...")


def human_bytes(count: int) -> str:
    """A byte count in the largest binary unit that keeps it at least 1, such as '3.7 TiB'."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = (max(count, 1).bit_length() - 1) // 10
    if power >= len(units):
        return f"{human_count(count)} bytes"
    return f"{count} bytes" if power == 0 else f"{count / 1024**power:.1f} {units[power]}"


def human_count(count: int) -> str:
    """A count as it is, or its order of magnitude when nobody would read the digits."""
    return str(count) if count < 10**15 else f"about 10^{len(str(count)) - 1}"


def element_bits(data_type: int) -> int | None:
    """Bits of one element, 8 at least assumed for a string; None for a type that camrt does not know."""
    return 8 if data_type == TensorProto.STRING else _BITS.get(data_type)


def claimed_bytes(data_type: int, dims: Sequence[int], label: str, limits: ReadingLimits) -> int:
    """Bytes that a tensor of these dimensions takes.

    Args:
        data_type: A value of TensorProto.DataType.
        dims: Its dimensions.
        label: What to call it in a message.
        limits: What is allowed.

    Raises:
        ModelFileError: A negative dimension or an unknown element type.
        UnsafeModelError: More dimensions or more bytes than the limits allow.
    """
    bits = element_bits(data_type)
    if bits is None:
        raise ModelFileError(f"{label} has the element type {data_type}, which camrt does not know")
    if len(dims) > limits.max_rank:
        raise UnsafeModelError(f"{label} has {len(dims)} dimensions; at most {limits.max_rank} are allowed")
    if any(dim < 0 for dim in dims):
        raise ModelFileError(f"{label} has a negative dimension: {list(dims)}")
    # Even an empty tensor may not have dimensions that nothing can index.
    claim = -(-math.prod(max(dim, 1) for dim in dims) * bits // 8)
    if claim > limits.max_tensor_bytes:
        raise UnsafeModelError(
            f"{label} claims {human_bytes(claim)} (dimensions {list(dims)[:8]}); "
            f"at most {human_bytes(limits.max_tensor_bytes)} are allowed"
        )
    return 0 if 0 in dims else claim


def check_tensor(tensor: onnx.TensorProto, label: str, limits: ReadingLimits) -> None:
    """Check that a stored tensor holds as many values as its dimensions say.

    A tensor whose data lies in another file is checked for its claim only. An empty field of raw bytes beside
    another field's values is taken away.

    Args:
        tensor: The tensor.
        label: What to call it in a message.
        limits: What is allowed.

    Raises:
        ModelFileError: The data does not fit the dimensions, or is stored twice or in segments.
        UnsafeModelError: It claims more than the limits allow.
    """
    size = claimed_bytes(tensor.data_type, tensor.dims, label, limits)
    if tensor.HasField("segment"):
        raise ModelFileError(f"{label} is stored in segments, which nothing reads; save the model again")
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    raw = len(tensor.raw_data) if tensor.HasField("raw_data") else None  # reading it copies it: once
    used = [field for field in _TYPED_FIELDS if len(getattr(tensor, field))]
    own = _FIELD_OF.get(tensor.data_type, "int32_data")
    if len(used) + bool(raw) > 1 or any(field != own for field in used):
        raise ModelFileError(
            f"{label} has its data in {' and '.join(used)}; one field of its type is allowed"
        )
    if used and raw == 0:
        tensor.ClearField("raw_data")  # readers would take it, empty as it is
    if raw is not None and not used:
        if tensor.data_type == TensorProto.STRING:
            raise ModelFileError(f"{label} holds strings as raw bytes, which ONNX does not allow")
        found, wanted, unit = raw, size, "bytes"
    else:
        found, wanted, unit = len(getattr(tensor, own)), _entries(tensor, size), "values"
    if found != wanted:
        raise ModelFileError(
            f"{label} holds {found} {unit} of data where its dimensions {list(tensor.dims)} need {wanted}; "
            "the file is damaged or incomplete: download or export it again"
        )


def _entries(tensor: onnx.TensorProto, size: int) -> int:
    """Entries of the typed field that a tensor of `size` bytes needs."""
    if tensor.data_type == TensorProto.STRING:
        return size
    count: int = math.prod(tensor.dims)
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    return size if _BITS[tensor.data_type] < 8 else count
