"""Changes of the bytes of a file, whatever they stand for."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["BYTES"]


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Some bits turned."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8, 40])):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def spliced(data: bytes, chance: random.Random) -> bytes:
    """A part taken out, repeated, moved elsewhere or replaced by chance."""
    if not data:
        return data
    begin = chance.randrange(len(data))
    end = min(len(data), begin + chance.choice([1, 2, 4, 16, 200, len(data)]))
    part, place = data[begin:end], chance.randrange(len(data))
    how = chance.randrange(4)
    if how == 0:
        return data[:begin] + data[end:]
    if how == 1:
        return data[:place] + part + data[place:]
    if how == 2:
        return data[:begin] + bytes(chance.randrange(256) for _ in part[:64]) + data[end:]
    return data[: len(data) * chance.randrange(100) // 100]


def numbered(data: bytes, chance: random.Random) -> bytes:
    """A byte made one of those that begin or end numbers and fields."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 2, 3])):
        if changed:
            changed[chance.randrange(len(changed))] = chance.choice(
                [0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x12, 0x22, 0x3A]
            )
    return bytes(changed)


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes-flipped": flipped,
    "bytes-spliced": spliced,
    "bytes-numbered": numbered,
}
