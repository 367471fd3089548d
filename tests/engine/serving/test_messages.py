"""Tensors, and requests over HTTP, as they are read and written; without a server."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from camrt.engine.serving.tensors import (
    DTYPES,
    Inference,
    RequestedOutput,
    check_shape,
    pack,
    tensor_of_bytes,
)
from camrt.errors import InputError

pytest.importorskip("orjson", reason="orjson is not installed")

from camrt.engine.serving.first_version import decode_instances, encode_rows
from camrt.engine.serving.http_messages import decode_request, encode_answer


def example(datatype: str) -> np.ndarray[Any, Any]:
    if datatype == "BYTES":
        array = np.empty((2, 1), object)
        array[:, 0] = [b"\x00\xff", b""]
        return array
    return np.arange(6).reshape(2, 3).astype(DTYPES[datatype])


@pytest.mark.parametrize("datatype", DTYPES)
def test_tensors_come_back_from_their_bytes(datatype: str) -> None:
    array = example(datatype)
    dtype, shape = check_shape("x", datatype, list(array.shape))
    again = tensor_of_bytes("x", pack(array), dtype, shape)
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
    for wrong in (pack(array)[:-1], pack(array) + b"\x00"):
        with pytest.raises(InputError, match=r"^x: "):
            tensor_of_bytes("x", wrong, dtype, shape)


def test_a_length_beyond_the_end_reserves_nothing() -> None:
    with pytest.raises(InputError, match="goes beyond the end"):
        tensor_of_bytes("x", b"\xff\xff\xff\xff", np.dtype(object), (1,))
    with pytest.raises(InputError, match="hold no 1073741824 elements"):
        tensor_of_bytes("x", b"\x00" * 8, np.dtype(object), (1 << 30,))


@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        ("FP32", [1, 2], "data has 2 elements"),
        ("FP32", [[1, 2], [3]], "data has 2 elements in lists of"),
        ("FP32", [[[1], [2], [3]]], "data has"),
        ("FP32", [1, "x" * 1000, 3], "not all of it is FP32"),
        ("FP32", [True, 2, 3], "not all of it is FP32"),
        ("INT64", [1, 2, 3.0], "not all of it is INT64"),
        ("UINT8", [1, 2, 300], "beyond the range of UINT8"),
        ("UINT8", [1, 2, -1], "beyond the range of UINT8"),
        ("BYTES", ["a", "b", 3], "not all of it is BYTES"),
        ("FP32", "abc", "data must be a list"),
    ],
)
def test_numbers_in_json_are_of_the_type_and_shape(datatype: str, data: Any, message: str) -> None:
    body = {"inputs": [{"name": "x", "datatype": datatype, "shape": [3], "data": data}]}
    with pytest.raises(InputError, match=message):
        decode_request(json.dumps(body).encode(), None)


def test_lists_in_one_another_are_as_long_as_each_other() -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3]]}]}
    with pytest.raises(InputError, match="lists have different lengths"):
        decode_request(json.dumps(body).encode(), None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"inputs": 3}', "inputs must be a list of objects"),
        (b'{"inputs": [{}]}', r"name of inputs\[0\] must be text"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": "3"}]}', "inputs.x.shape must be a list"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}]}', "whole numbers from 0 to"),
        (b'{"parameters": []}', "parameters of the request must be an object"),
        (b'{"outputs": [{"name": "logits", "parameters": {"classification": 2}}]}', "top_k"),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_request(body, None)


@pytest.mark.parametrize("length", ["", "-1", "x", "3x", "1000", "9" * 40, "٣"])
def test_the_length_of_the_json_is_a_number_of_bytes(length: str) -> None:
    with pytest.raises(InputError, match="Inference-Header-Content-Length"):
        decode_request(b"{}", length)


@pytest.mark.parametrize("binary", [False, True])
def test_answers_come_back(binary: bool) -> None:
    outputs = {"scores": np.array([[0.5, -1.0]], np.float32), "labels": np.array([["a", "é"]], object)}
    asked = Inference(inputs={}, outputs=[RequestedOutput("scores", binary)], id="7", binary=binary)
    content, split = encode_answer(asked, outputs, "model", "v")
    head = json.loads(content[:split])
    assert (head["id"], head["model_name"], head["model_version"]) == ("7", "model", "v")
    assert (split is not None) == binary
    scores, labels = head["outputs"]
    if binary:
        assert scores["parameters"] == {"binary_data_size": 8}
        assert content[split:] == pack(outputs["scores"]) + pack(outputs["labels"])
    else:
        assert scores["data"] == [0.5, -1.0]
        assert labels["data"] == ["a", "é"]


def test_pictures_of_the_first_version() -> None:
    body = {"instances": [{"b64": base64.b64encode(b"file").decode()}], "outputs": ["overlay"]}
    asked = decode_instances(json.dumps(body).encode(), explain=True)
    assert asked.inputs["images"].tolist() == [b"file"]
    drawn = np.array([[b"png"]], object)
    rows = json.loads(encode_rows({"overlay": drawn}, explain=True))
    assert rows == {"explanations": [{"overlay": [{"b64": base64.b64encode(b"png").decode()}]}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "instances must be a list"),
        ({"instances": []}, "instances must be a list"),
        ({"instances": [{"b64": "AA=="}, [1]]}, r"instances\[1\] must be a picture"),
        ({"instances": [{"b64": 3}]}, r"instances\[0\]: not base64"),
        ({"instances": [{"path": "/etc/passwd"}]}, r"instances\[0\] must be a picture"),
        ({"instances": ["/etc/passwd"]}, "instances.data: not all of it is FP32"),
        ({"instances": [[1]], "parameter": {}}, "parameter: a request has instances"),
        ({"instances": [[1]], "outputs": [1]}, "outputs must be a list of names"),
    ],
)
def test_what_is_no_request_of_the_first_version_is_refused(body: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_instances(json.dumps(body).encode(), explain=True)
