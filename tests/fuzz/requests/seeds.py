"""Sound requests, which are then changed."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from PIL import Image

__all__ = ["MODEL", "Request", "grpc_seeds", "http_seeds"]

MODEL = "fuzzed"
SIDE = 8
HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Request:
    """A request over HTTP."""

    address: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def numbers() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((2, 3, SIDE, SIDE)).astype(np.float32)


def picture(form: str = "PNG") -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(values).save(file, form)
    return file.getvalue()


def http_seeds() -> list[Request]:
    """One of each kind: version 1 and 2, pictures and numbers, in JSON and behind it."""
    first = f"/v1/models/{MODEL}"
    picture64 = base64.b64encode(picture()).decode()
    images = numbers()
    flat = [round(value, 3) for value in images.ravel().tolist()]
    tensor = {"name": "images", "datatype": "FP32", "shape": list(images.shape), "data": flat}
    targets = {"name": "targets", "datatype": "INT64", "shape": [2, 2], "data": [0, 1, 2, 0]}
    parameters = {"method": "score", "definition": "torchcam", "size": "16x12", "dtype": "float16"}
    second = f"/v2/models/{MODEL}/infer"
    behind = {"name": "images", "datatype": "FP32", "shape": list(images.shape)}
    behind["parameters"] = {"binary_data_size": images.nbytes}
    files = b"".join(len(one).to_bytes(4, "little") + one for one in (picture("JPEG"), picture("BMP")))
    pictures = {
        "name": "images",
        "datatype": "BYTES",
        "shape": [2],
        "parameters": {"binary_data_size": len(files)},
    }
    everything = [
        {"name": name} for name in ("logits", "probabilities", "targets", "scores", "saliency", "raw")
    ]
    return [
        Request(f"{first}:predict", as_json({"instances": images.tolist()})),
        Request(
            f"{first}:explain",
            as_json(
                {
                    "instances": [{"b64": picture64}] * 2,
                    "parameters": {
                        "method": "rise",
                        "passes": 8,
                        "top_k": 2,
                        "size": [9, 7],
                        "timeout": 900_000,
                    },
                    "outputs": ["saliency", "overlay", "flags"],
                }
            ),
        ),
        Request(second, as_json({"id": "1", "inputs": [tensor, targets], "parameters": parameters})),
        with_binary(second, {"inputs": [behind], "outputs": everything}, images.tobytes()),
        with_binary(
            second,
            {
                "inputs": [pictures],
                "parameters": {"method": "pixab", "boxes": "[[3, 3]]", "binary_data_output": True},
                "outputs": [{"name": "overlay", "parameters": {"binary_data": False}}, {"name": "raw"}],
            },
            files,
        ),
    ]


def with_binary(address: str, head: dict[str, Any], behind: bytes) -> Request:
    text = as_json(head)
    return Request(address, text + behind, {HEADER: str(len(text))})


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def grpc_seeds() -> list[bytes]:
    """Messages: numbers raw and not, and pictures with targets by name."""
    pb, images = triton.service_pb2, numbers()
    listed = pb.ModelInferRequest(model_name=MODEL, id="2")
    tensor = listed.inputs.add(name="images", datatype="FP32", shape=images.shape)
    tensor.contents.fp32_contents.extend(images.ravel().tolist())
    raw = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[images.tobytes()])
    raw.inputs.add(name="images", datatype="FP32", shape=images.shape)
    raw.outputs.add(name="saliency")
    raw.parameters["method"].string_param = "gradcam"
    raw.parameters["top_k"].int64_param = 2
    pictures = pb.ModelInferRequest(model_name=MODEL)
    pictures.inputs.add(name="images", datatype="BYTES", shape=[1]).contents.bytes_contents.append(picture())
    pictures.inputs.add(name="targets", datatype="INT64", shape=[1]).contents.int64_contents.append(1)
    pictures.parameters["absolute"].bool_param = True
    return [message.SerializeToString() for message in (listed, raw, pictures)]
