"""Counting a file's protobuf fields before it is parsed.

Two bytes of a file can make the parser build an object of several hundred, and a file cut short can be a
valid shorter message; so the fields are walked first, without building anything. Strings, numbers and
weights are stepped over: the cost goes with the number of fields, not with the size of the file. Names are
checked to be UTF-8, without which they are not text to anything that reads the model afterwards.
"""

from __future__ import annotations

from typing import Any

import onnx

from camrt.errors import ModelFileError, UnsafeModelError
from camrt.export.budget import check_deadline

__all__ = ["check_field_count"]

# For a message type: the fields that hold messages, with the table of each, and those that hold text.
_Table = dict[int, "_Table"]

_TEXT: _Table = {}

_MAX_NESTING = 100  # protobuf's own default; deeper files do not parse anywhere


def _table(message: Any, known: dict[str, _Table]) -> _Table:
    if message.full_name not in known:
        known[message.full_name] = table = {}
        for field in message.fields:
            if field.message_type is not None:
                table[field.number] = _table(field.message_type, known)
            elif field.type == field.TYPE_STRING:
                table[field.number] = _TEXT
    return known[message.full_name]


_MODEL: _Table = _table(onnx.ModelProto.DESCRIPTOR, {})


def check_field_count(data: bytes | bytearray, max_fields: int) -> None:
    """Walk the fields of a serialised model.

    Args:
        data: The file's bytes.
        max_fields: How many fields are allowed.

    Raises:
        ModelFileError: It is not a protobuf message, ends in the middle of a field, or nests too deeply.
        UnsafeModelError: It has more fields than allowed.
    """
    position, end, table = 0, len(data), _MODEL
    outer: list[tuple[int, _Table]] = []
    count = 0
    try:
        while True:
            if position >= end:
                if not outer:
                    return
                end, table = outer.pop()
                continue
            count += 1
            if count % 65536 == 0:
                check_deadline()
            if count > max_fields:
                raise UnsafeModelError(
                    f"has more than {max_fields} protobuf fields, far more than a classifier needs; "
                    "it was not parsed"
                )
            key = data[position]
            position += 1
            if key >= 0x80:
                key, position = _varint(data, position - 1)
            wire = key & 7
            if wire == 2:
                size = data[position]
                position += 1
                if size >= 0x80:
                    size, position = _varint(data, position - 1)
                if position + size > end:
                    raise _cut(len(data), position, size, end, nested=bool(outer))
                inner = table.get(key >> 3)
                if inner is None or inner is _TEXT:
                    if inner is _TEXT:
                        data[position : position + size].decode()
                    position += size
                    continue
                if len(outer) >= _MAX_NESTING:
                    raise ModelFileError(
                        f"nests messages more than {_MAX_NESTING} deep, which protobuf refuses"
                    )
                outer.append((end, table))
                end, table = position + size, inner
            elif wire == 0:
                _, position = _varint(data, position)
            elif wire == 1:
                position += 8
            elif wire == 5:
                position += 4
            else:
                raise ModelFileError(f"is not an ONNX file, or is damaged at byte {position - 1}")
            if position > end:
                raise _cut(len(data), position, 0, end, nested=bool(outer))
    except UnicodeDecodeError:
        raise ModelFileError(
            f"has a name at byte {position} that is not UTF-8: the file is damaged"
        ) from None
    except IndexError:
        raise ModelFileError(_truncated(len(data))) from None


def _varint(data: bytes | bytearray, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ModelFileError(f"is not an ONNX file, or is damaged at byte {position}")


def _truncated(size: int) -> str:
    return f"is cut short: it ends after {size} bytes in the middle of a field; download or export it again"


def _cut(total: int, position: int, size: int, end: int, *, nested: bool) -> ModelFileError:
    if nested:
        return ModelFileError(
            f"is not an ONNX file, or is damaged near byte {position}: a field overruns its message"
        )
    missing = position + size - end
    return ModelFileError(f"{_truncated(total)} ({missing} bytes are missing, if it is an ONNX file)")
