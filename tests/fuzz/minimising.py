"""Making a file that failed as small as it goes: it must still fail in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from onnx import ModelProto

from fuzz.changes import all_graphs
from fuzz.files import make_file

__all__ = ["fewest_changes", "smallest"]

Fails = Callable[[bytes], bool]


def fewest_changes(seed: int, index: int, fails: Fails) -> bytes:
    """The file of a number with no change that it fails without."""
    without: list[int] = []
    made = make_file(seed, index)
    for place in range(8):
        tried = make_file(seed, index, [*without, place])
        if tried.data != made.data and tried.changes and fails(tried.data):
            without.append(place)
            made = tried
    return made.data


def smallest(data: bytes, fails: Fails, seconds: float = 60.0) -> bytes:
    """A file with parts left out, one after the other, for as long as it fails and the time lasts.

    Args:
        data: A file that fails.
        fails: Whether another fails in the same way.
        seconds: To stop after.
    """
    end = time.monotonic() + seconds
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # it is of bytes that protobuf does not take
        return shorter(data, fails, end)
    if not fails(model.SerializeToString(deterministic=True)):
        return shorter(data, fails, end)
    changed = True
    while changed and time.monotonic() < end:
        changed = False
        for apply in simpler(model):
            if time.monotonic() >= end:
                break
            tried = ModelProto()
            tried.CopyFrom(model)
            apply(tried)
            if tried != model and fails(tried.SerializeToString(deterministic=True)):
                model.CopyFrom(tried)
                changed = True
    return model.SerializeToString(deterministic=True)


def shorter(data: bytes, fails: Fails, end: float) -> bytes:
    """Bytes with pieces cut out, half of them at first."""
    size = len(data) // 2
    while size and time.monotonic() < end:
        place = 0
        while place < len(data) and time.monotonic() < end:
            tried = data[:place] + data[place + size :]
            if tried and fails(tried):
                data = tried
            else:
                place += size
        size //= 2
        if size < 8:
            break
    return data


def simpler(model: ModelProto) -> Iterator[Callable[[ModelProto], None]]:
    """Ways to leave out one thing; those that leave out most come first."""

    def without(place: int, field: str) -> Callable[[ModelProto], None]:
        return lambda other: drop(getattr(all_graphs(other)[0], field), place)

    for field in ("value_info", "sparse_initializer"):
        yield lambda other, field=field: clear(getattr(other.graph, field))  # type: ignore[misc]
    for name in ("metadata_props", "functions"):
        for place in reversed(range(len(getattr(model, name)))):
            yield lambda other, name=name, place=place: drop(getattr(other, name), place)  # type: ignore[misc]
    for place in reversed(range(len(model.graph.node))):
        yield lambda other, place=place: bridge(other, place)  # type: ignore[misc]
        yield without(place, "node")
    yield unread
    for field in ("output", "input", "initializer"):
        for place in reversed(range(len(getattr(model.graph, field)))):
            yield without(place, field)
    for place in range(len(model.graph.node)):
        for item in range(len(model.graph.node[place].attribute)):
            yield lambda other, place=place, item=item: drop(  # type: ignore[misc]
                other.graph.node[place].attribute if place < len(other.graph.node) else [], item
            )


def clear(field: Any) -> None:
    del field[:]


def drop(field: Any, place: int) -> None:
    if place < len(field):
        del field[place]


def bridge(model: ModelProto, place: int) -> None:
    """Leaves a node out, and lets its readers read what it read."""
    if place >= len(model.graph.node):
        return
    node = onnx.NodeProto()
    node.CopyFrom(model.graph.node[place])
    del model.graph.node[place]
    if node.input and node.output:
        for other in model.graph.node:
            for i, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[i] = node.input[0]


def unread(model: ModelProto) -> None:
    """Leaves out the tensors that nothing names."""
    read = {name for graph in all_graphs(model) for node in graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    for place in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[place].name not in read:
            del model.graph.initializer[place]
