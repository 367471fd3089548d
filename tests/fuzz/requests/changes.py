"""Changes of requests: of their bytes, and of the values in their JSON."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

import camrt
from fuzz.requests.seeds import HEADER, Request

__all__ = ["change_bytes", "change_request"]

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 1 << 31, 1 << 63, -(1 << 63), 1 << 70, 0.5, -0.0, 1e308, 1e-320),
    *("", "0", "1", "null", "[]", "[1, 2]", "[[1, 1], [2, 2]]", '{"a": 1}', "cat", "é\u0000", "x" * 5000),
    *("/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/", "../../..", "10000x10000", "0x0", "1e999"),
    *("FP16", "FP64", "BYTES", "INT64", "BOOL", "UINT8", "saliency", "overlay", "labels", "raw", "original"),
    *(
        "images",
        "targets",
        [],
        [[]],
        [1],
        [1, 2, 3, 4],
        [-1, 3, 8, 8],
        [0, 3, 8, 8],
        [1 << 40],
        ["a"],
        [None],
    ),
    *({}, {"b64": ""}, {"a": {}}),
)
NAMES = (
    *("method", "targets", "top_k", "size", "fuse", "dtype", "timeout"),
    *("binary_data_output", "binary_data_size"),
)
METHODS = {name: tuple(method.__dataclass_fields__) for name, method in camrt.methods().items()}
"""The methods and their options."""


def change_request(rng: random.Random, seed: Request) -> Request:
    """A request that differs from a sound one in some way."""
    body, headers, address = seed.body, dict(seed.headers), seed.address
    kind = rng.random()
    if kind < 0.75:
        split = int(headers.get(HEADER, len(body)))
        head = json.loads(body[:split])
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            change_value(rng, head)
        text = json.dumps(head).encode()
        body = text + body[split:]
        if headers and rng.random() < 0.9:
            headers[HEADER] = str(len(text))
    elif kind < 0.9:
        body = change_bytes(rng, body)
    elif kind < 0.95:
        headers[HEADER] = rng.choice(
            ("", "-1", "x", "1" * 30, "٣", str(len(body)), "0", str(rng.randrange(len(body))))
        )
    else:
        others = ("/v2/models/fuzzed/versions/1/infer", "/v2/models//infer")
        address = rng.choice((address.replace("fuzzed", "other"), address + "x", *others))
    return Request(address, body, headers)


def strange(rng: random.Random) -> Any:
    """A value that is seldom right, of its own: it may be changed further."""
    return deepcopy(rng.choice((*STRANGE, *range(5), 0.25)))


def change_value(rng: random.Random, head: dict[str, Any]) -> None:
    """Changes a value in some JSON: replaces, removes or renames it, or asks for another method or option."""
    places = list(walk(head))
    if rng.random() < 0.6:
        parameters = head.setdefault("parameters", {})
        if isinstance(parameters, dict):
            parameters[rng.choice(NAMES)] = strange(rng)
            if rng.random() < 0.7:
                method = parameters["method"] = rng.choice(list(METHODS))
                parameters.pop("definition", None)
                parameters.pop("boxes", None)
                parameters.pop("passes", None)
                parameters[rng.choice(METHODS[method])] = strange(rng)
            return
    if not places:
        return
    holder, key = rng.choice(places)
    action = rng.random()
    if action < 0.7:
        holder[key] = strange(rng)
    elif action < 0.85:
        del holder[key]
    elif isinstance(holder, dict):
        holder[rng.choice(("x", "name", "data", ""))] = holder.pop(key)
    else:
        holder.extend([holder[key]] * rng.choice((1, 2, 100)))


def walk(value: Any) -> Any:
    """Every place in some JSON: what holds it, and its key or index; of long lists a few."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))[:6]
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from walk(value[key])


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    """Bytes with some of them flipped, cut away, or there twice."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not changed:
            break
        at = rng.randrange(len(changed))
        length = min(rng.choice((1, 1, 4, 30, 1000)), len(changed) - at)
        action = rng.random()
        if action < 0.5:
            changed[at] = rng.randrange(256)
        elif action < 0.7:
            del changed[at : at + length]
        elif action < 0.85:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at : at + length] = rng.randbytes(length)
    return bytes(changed)
