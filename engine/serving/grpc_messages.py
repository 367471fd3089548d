"""The Open Inference Protocol over gRPC: KServe's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

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

__all__ = ["decode_message", "encode_message"]

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where numbers of a type lie that are not sent raw."""


def decode_message(message: Any) -> Inference:
    """A request.

    Args:
        message: A ModelInferRequest.

    Raises:
        InputError: It is none; the message says which part.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InputError(f"raw_input_contents: {len(raw)} of them, of {len(message.inputs)} inputs")
    inputs: dict[str, Array] = {}
    for number, one in enumerate(message.inputs):
        where = f"inputs.{one.name:.80}"
        if one.name in inputs:
            raise InputError(f"inputs[{number}]: a second input {one.name!r:.80}")
        dtype, shape = check_shape(where, one.datatype, list(one.shape))
        if raw:
            if one.HasField("contents"):
                raise InputError(f"{where}.contents: the request has raw_input_contents as well")
            inputs[one.name] = tensor_of_bytes(where, raw[number], dtype, shape)
        elif one.datatype in CONTENTS:
            values = list(getattr(one.contents, CONTENTS[one.datatype]))
            inputs[one.name] = tensor_of_numbers(where, values, dtype, shape)
        else:
            raise InputError(f"{where}: {one.datatype} goes into raw_input_contents")
    return Inference(
        inputs=inputs,
        parameters=decode_parameters(message.parameters),
        outputs=[RequestedOutput(one.name) for one in message.outputs],
        id=message.id,
    )


def decode_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as Python's values.

    Raises:
        InputError: One of a kind that KServe's messages do not carry, such as Triton's floating point.
    """
    values = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InputError(f"parameters.{name:.80}: of a kind that is not taken; send a number as text")
        values[name] = getattr(parameter, kind)
    return values


def encode_message(asked: Inference, outputs: Mapping[str, Array], model: str, version: str) -> Any:
    """An answer, a ModelInferResponse with all outputs raw."""
    tensors = [
        pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype_of(array), shape=array.shape)
        for name, array in outputs.items()
    ]
    return pb.ModelInferResponse(
        model_name=model,
        model_version=version,
        id=asked.id,
        outputs=tensors,
        raw_output_contents=[pack(array) for array in outputs.values()],
    )
