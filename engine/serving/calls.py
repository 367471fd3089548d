"""A request on its way through the service, from the bytes that came to the bytes that go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from camrt.engine.serving.tensors import Array, Inference

__all__ = ["Call", "Decode", "clean_request_id"]

Decode = Callable[[], Inference]
"""Makes a request of the bytes that came."""
Encode = Callable[[Inference, Mapping[str, Array], str, str], Any]
"""Makes the answer of a request, its outputs, and the model's name and version."""


@dataclass(eq=False)
class Call:
    """A request on its way.

    Attributes:
        client: Whose it is: an address.
        request_id: Its name in the log, and in the answer's header.
        protocol: How it came: "http v1", "http v2" or "grpc".
        model: The model's name, as far as there is one.
        version: The version that was asked for; empty for any.
        end_time: When it must have been answered, by `time.monotonic`.
        encode: Writes the answer.
        decode: Reads it, once its bytes are there.
        method: What was asked, once that is known.
        images: How many of them, once that is known.
        started: When it came, by `time.monotonic`.
    """

    client: str
    request_id: str
    protocol: str
    model: str
    version: str
    end_time: float
    encode: Encode
    decode: Decode | None = None
    method: str = ""
    images: int = 0
    started: float = field(default_factory=time.monotonic)


def clean_request_id(given: str | None) -> str:
    """A request's name: the caller's, where that is short and can be printed, or a new one."""
    if given and len(given) <= 128 and given.isascii() and given.isprintable():
        return given
    return uuid4().hex
