"""Version 1 of KServe's protocol: `:predict` and `:explain`, JSON with a list of instances.

An instance is a picture, {"b64": "..."}, or lists of numbers (C, H, W) as the model takes them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from camrt.engine.serving.http_messages import decode_base64, parameters_of, read_object
from camrt.engine.serving.tensors import Array, Inference, RequestedOutput, tensor_of_numbers
from camrt.errors import InputError

__all__ = ["decode_instances", "encode_rows"]


def decode_instances(body: bytes, *, explain: bool) -> Inference:
    """A request of version 1.

    Args:
        body: Its bytes.
        explain: Whether it came to `:explain`; else it came to `:predict`, which answers logits alone.

    Raises:
        InputError: It is none; the message says which part.
    """
    head = read_object(body)
    instances = head.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InputError("instances must be a list of one or more pictures or arrays")
    unknown = sorted(set(head) - {"instances", "parameters", "outputs"})
    if unknown:
        raise InputError(
            f"{unknown[0]:.80}: a request has instances, parameters and outputs, and no other field"
        )
    outputs = head.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(name, str) for name in outputs):
        raise InputError("outputs must be a list of names")
    return Inference(
        inputs={"images": read_instances(instances)},
        parameters=parameters_of(head, "the request"),
        outputs=[RequestedOutput(name) for name in outputs] if explain else [RequestedOutput("logits")],
        texts=False,
    )


def read_instances(instances: list[Any]) -> Array:
    """The pictures (N,) or the numbers (N, C, H, W) that instances are."""
    if isinstance(instances[0], dict):
        pictures = np.empty(len(instances), object)
        for number, one in enumerate(instances):
            where = f"instances[{number}]"
            if not isinstance(one, dict) or set(one) != {"b64"}:
                raise InputError(f'{where} must be a picture, {{"b64": "..."}}, as the first one is')
            pictures[number] = decode_base64(where, one["b64"])
        return pictures
    shape: list[int] = []
    level: Any = instances
    while isinstance(level, list) and len(shape) < 5:
        shape.append(len(level))
        level = level[0] if level else None
    return tensor_of_numbers("instances", instances, np.dtype("<f4"), tuple(shape))


def encode_rows(outputs: Mapping[str, Array], *, explain: bool) -> bytes:
    """An answer of version 1: of each instance its row of every output.

    Args:
        outputs: Arrays (N, ...) by the outputs' names.
        explain: Whether it goes to `:explain`; else the logits alone are the rows.
    """
    rows: Any
    if not explain:
        rows = {"predictions": outputs["logits"]}
    else:
        count = min(len(array) for array in outputs.values())
        rows = {
            "explanations": [
                {name: row_of(array[number]) for name, array in outputs.items()} for number in range(count)
            ]
        }
    return orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)


def row_of(values: Any) -> Any:
    """A row as JSON holds it: numbers and texts as they are, pictures as the instances are written."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "O":
        return [row_of(value) for value in values]
    if isinstance(values, bytes):
        return {"b64": base64.b64encode(values).decode()}
    return np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values
