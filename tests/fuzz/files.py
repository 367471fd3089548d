"""Which file a number stands for: a seed, a kind of change, and what chance makes of them."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx

from fuzz.changes import BYTES, KINDS, WEIGHTS_BESIDE
from fuzz.seeds import SEEDS, seed_bytes

__all__ = ["Made", "make_file", "write_file"]

ALL_KINDS = (*KINDS, *BYTES)
MOST_CHANGES = 4
MOST_TRIES = 8


@dataclass(frozen=True)
class Made:
    """A mutated file.

    Attributes:
        data: Its bytes.
        seed: The name of the file it was made from.
        kind: The kind of most of its changes.
        changes: What was done, one after the other.
    """

    data: bytes
    seed: str
    kind: str
    changes: tuple[str, ...]


def make_file(seed: int, index: int, without: Collection[int] = ()) -> Made:
    """The file of a number: always the same.

    Args:
        seed: Of the whole run.
        index: Of the file.
        without: Changes to leave out, by their place.
    """
    chance = random.Random(f"{seed} {index}")
    name = chance.choice(sorted(SEEDS))
    kind = chance.choice(ALL_KINDS)
    count = min(1 + int(chance.expovariate(1.0)), MOST_CHANGES)
    kinds = [kind if chance.random() < 0.75 else chance.choice(ALL_KINDS) for _ in range(count - 1)] + [kind]
    kinds.sort(key=lambda each: each in BYTES)  # bytes last: what they break may not be parsed again
    model = onnx.ModelProto()
    model.ParseFromString(seed_bytes(name))
    changes: list[str] = []
    data: bytes | None = None
    for place, each in enumerate(kinds):
        own = random.Random(f"{seed} {index} {place}")
        if place in without:
            continue
        if each in BYTES:
            data = BYTES[each](data or model.SerializeToString(deterministic=True), own)
            changes.append(each)
            continue
        for _ in range(MOST_TRIES):
            if (said := KINDS[each](model, own)) is not None:
                changes.append(f"{each}: {said}")
                break
    if data is None:
        data = model.SerializeToString(deterministic=True)
    return Made(data, name, kind, tuple(changes))


def write_file(data: bytes, folder: Path) -> Path:
    """A file and the external data that it may refer to."""
    path = folder / "model.onnx"
    path.write_bytes(data)
    beside = folder / WEIGHTS_BESIDE
    if not beside.exists():
        beside.write_bytes(bytes(range(256)) * 16)
    return path
