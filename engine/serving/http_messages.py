"""The Open Inference Protocol over HTTP: JSON, and tensors' bytes behind it (the binary extension)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from camrt.engine.serving.tensors import (
    Array,
    Inference,
    RequestedOutput,
    check_shape,
    datatype_of,
    pack,
    tensor_of_bytes,
    tensor_of_numbers,
)
from camrt.errors import InputError

__all__ = ["decode_base64", "decode_request", "encode_answer", "read_object"]


def read_object(content: bytes, where: str = "the request") -> dict[str, Any]:
    """The JSON object that some bytes are.

    Raises:
        InputError: They are none.
    """
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{where} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{where} must be a JSON object")
    return found


def decode_base64(where: str, text: Any) -> bytes:
    """The bytes that some text is in base64.

    Raises:
        InputError: It is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise InputError(f"{where}: not base64") from None


def decode_request(body: bytes, json_length: str | None) -> Inference:
    """A request of version 2 of the protocol.

    Args:
        body: Its bytes.
        json_length: The header Inference-Header-Content-Length: how many of them are JSON; None for all.

    Raises:
        InputError: It is none; the message says which part.
    """
    split = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdigit() and int(json_length[:20]) <= len(body)):
            raise InputError(
                f"the header Inference-Header-Content-Length={json_length!r:.40} must be a number of bytes, "
                f"at most the {len(body)} of the request"
            )
        split = int(json_length)
    head = read_object(body[:split])
    binary = memoryview(body)[split:]
    inputs: dict[str, Array] = {}
    start = 0
    for number, one in enumerate(list_of(head, "inputs")):
        where = f"inputs[{number}]"
        name = text_of(one, "name", where)
        if name in inputs:
            raise InputError(f"{where}: a second input {name!r:.80}")
        where = f"inputs.{name:.80}"
        dtype, shape = check_shape(where, one.get("datatype"), one.get("shape"))
        size = parameters_of(one, where).get("binary_data_size")
        if size is None:
            array = tensor_of_numbers(where, one.get("data"), dtype, shape)
            if dtype.kind == "O" and name == "images":  # JSON cannot hold the bytes of a picture
                array.flat[:] = [decode_base64(where, element) for element in array.ravel()]
        else:
            if type(size) is not int or not 0 <= size <= len(binary) - start:
                raise InputError(
                    f"{where}.parameters.binary_data_size={size!r:.40}: {len(binary) - start} bytes are there"
                )
            array = tensor_of_bytes(where, binary[start : start + size], dtype, shape)
            start += size
        inputs[name] = array
    if start != len(binary):
        raise InputError(f"{len(binary) - start} bytes behind the JSON belong to no input")
    parameters = dict(parameters_of(head, "the request"))
    return Inference(
        inputs=inputs,
        parameters=parameters,
        outputs=[
            read_output(one, f"outputs[{number}]") for number, one in enumerate(list_of(head, "outputs"))
        ],
        id=text_of(head, "id", "the request", ""),
        binary=parameters.pop("binary_data_output", False) is True,
    )


def read_output(one: Mapping[str, Any], where: str) -> RequestedOutput:
    """An output that a request asks for."""
    parameters = parameters_of(one, where)
    unknown = sorted(set(parameters) - {"binary_data"})
    if unknown:
        hint = ": top_k of the request's parameters does that" if "classification" in unknown else ""
        raise InputError(f"{where}.parameters.{unknown[0]:.80}: there is no such parameter{hint}")
    binary = parameters.get("binary_data")
    if binary not in (None, True, False):
        raise InputError(f"{where}.parameters.binary_data must be true or false")
    return RequestedOutput(text_of(one, "name", where), binary)


def list_of(message: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """A list of objects in a message; none where it is left out."""
    found = message.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InputError(f"{name} must be a list of objects")
    return found


def parameters_of(message: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The parameters of a message; none where they are left out."""
    found = message.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"parameters of {where} must be an object")
    return found


def text_of(message: Mapping[str, Any], name: str, where: str, otherwise: str | None = None) -> str:
    """A text in a message."""
    found = message.get(name)
    if found is None and otherwise is not None:
        return otherwise
    if not isinstance(found, str) or len(found) > 1000:
        raise InputError(f"{name} of {where} must be text of at most 1000 letters")
    return found


def encode_answer(
    asked: Inference, outputs: Mapping[str, Array], model: str, version: str
) -> tuple[bytes, int | None]:
    """An answer of version 2 of the protocol.

    Args:
        asked: The request.
        outputs: Arrays by the outputs' names.
        model: The model's name.
        version: Its version.

    Returns:
        The bytes, and how many of them are JSON; None where all are.
    """
    wishes = {one.name: one.binary for one in asked.outputs}
    described, behind = [], []
    for name, array in outputs.items():
        wish = wishes.get(name)
        one: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype_of(array)}
        if asked.binary if wish is None else wish:
            behind.append(pack(array))
            one["parameters"] = {"binary_data_size": len(behind[-1])}
        elif array.dtype.kind == "O":
            one["data"] = [
                element if isinstance(element, str) else base64.b64encode(element).decode()
                for element in array.ravel()
            ]
        else:
            one["data"] = np.ascontiguousarray(array).ravel()
        described.append(one)
    head: dict[str, Any] = {
        "model_name": model,
        "model_version": version,
        "id": asked.id,
        "outputs": described,
    }
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([text, *behind]), len(text) if behind else None
