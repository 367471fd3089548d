"""A training's whole state in one file without pickle: tensors as safetensors, all else as JSON in it."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from camrt.errors import TrainingError
from camrt.training.tensor_files import read_tensors, write_tensors

__all__ = ["pack_value", "read_state", "unpack_value", "write_state"]

STRUCTURE = "camrt.structure"


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a state, which takes its place when it is whole.

    Raises:
        TrainingError: It holds something that is neither a tensor nor plain data.
        StorageError: It cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = pack_value(content, tensors, "")
    write_tensors(path, tensors, {STRUCTURE: json.dumps(structure)})


def read_state(path: Path) -> dict[str, Any]:
    """Reads a state.

    Raises:
        TrainingError: The file is missing or damaged, or no checkpoint.
    """
    tensors, notes = read_tensors(path)
    if STRUCTURE not in notes:
        raise TrainingError(f"{path} is no checkpoint of a run")
    try:
        content: dict[str, Any] = unpack_value(json.loads(notes[STRUCTURE]), tensors)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TrainingError(f"{path} is no checkpoint of a run, or damaged: {error!r:.80}") from error
    return content


def pack_value(value: Any, tensors: dict[str, torch.Tensor], key_path: str) -> Any:
    """Converts a value to JSON; tensors are moved to `tensors` and replaced by {"tensor": name}.

    Raises:
        TrainingError: It is neither a tensor nor plain data.
    """
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors)}:{key_path}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        items = [
            [pack_value(k, tensors, ""), pack_value(v, tensors, f"{key_path}.{k}" if key_path else str(k))]
            for k, v in value.items()
        ]
        return {"ordered" if isinstance(value, OrderedDict) else "mapping": items}
    if isinstance(value, (list, tuple)):
        content = [pack_value(item, tensors, f"{key_path}.{index}") for index, item in enumerate(value)]
        return {"tuple": content} if isinstance(value, tuple) else content
    if isinstance(value, Path):
        return {"path": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TrainingError(f"{key_path}: {type(value).__name__} {value!r:.60} has no place in a checkpoint")


def unpack_value(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `pack_value`."""
    if isinstance(value, list):
        return [unpack_value(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpack_value(item, tensors) for item in content)
    if kind == "path":
        return Path(content)
    pairs = [(unpack_value(k, tensors), unpack_value(v, tensors)) for k, v in content]
    return OrderedDict(pairs) if kind == "ordered" else dict(pairs)
