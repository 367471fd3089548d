"""`camrt serve` as its clients know it: a process, asked over HTTP and gRPC."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import camrt
from camrt.default import model_path, scene_path
from camrt.engine.engine import Engine
from helpers.served import Served, serve

# kserve is not imported here: its gRPC messages and those of Triton's client have the same names
pytestmark = pytest.mark.skipif(find_spec("kserve") is None, reason="kserve is not installed")
grpcclient = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
httpclient = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

SCENE = scene_path().read_bytes()
SCENE64 = base64.b64encode(SCENE).decode()
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # batches of other sizes


@pytest.fixture(scope="module")
def engine() -> Engine:
    return camrt.load("default")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "broken.onnx").write_bytes(b"no model")
    arguments = ["default", str(folder / "broken.onnx"), "default", "--name", "one", "--name", "broken"]
    with serve(folder, *arguments, "--name", "two", "--max-payload", "4MiB", "--max-images", "8") as process:
        yield process


def numbers(engine: Engine, count: int = 2) -> np.ndarray[Any, Any]:
    image = engine.prepare([SCENE]).images
    noise = np.random.default_rng(0).normal(size=(count, *image.shape[1:]))
    return np.ascontiguousarray((image + 0.1 * noise).astype(np.float32))


def tensor(array: np.ndarray[Any, Any], name: str = "images", datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def test_health_and_metadata(served: Served) -> None:
    assert served.ask("/v2/health/live").json == {"live": True}
    assert served.ask("/v2/health/ready").json == {"ready": True}
    assert served.ask("/v2").json["name"] == "camrt"
    assert served.ask("/v2/models").json == {"models": ["one", "broken", "two"]}
    said = served.ask("/v2/models/one").json
    assert said["parameters"]["file"] == model_path().name
    assert "pixab" in said["parameters"]["methods"]
    assert "cam" not in said["parameters"]["methods"]  # it has no linear layer behind pooling
    assert served.ask(f"/v2/models/one/versions/{said['versions'][0]}/ready").status == 200
    assert served.ask("/v2/models/one/versions/7/ready").status == 404


def test_a_model_that_cannot_be_loaded_leaves_the_others(served: Served) -> None:
    assert served.ask("/v2/models/broken/ready").status == 503
    assert 'camrt_model_ready{model="broken"} 0.0' in served.ask("/metrics").body.decode()
    refused = served.ask("/v1/models/broken:explain", {"instances": [{"b64": SCENE64}]})
    assert refused.status == 503
    assert "broken.onnx" in refused.json["error"]
    assert served.ask("/v2/models/two/ready").status == 200


def test_first_version_explains_pictures(served: Served, engine: Engine) -> None:
    body = {
        "instances": [{"b64": SCENE64}],
        "parameters": {"method": "pixab", "top_k": 2, "size": [20, 30]},
        "outputs": ["targets", "labels", "scores", "saliency", "overlay"],
    }
    answer = served.ask("/v1/models/one:explain", body, {"x-request-id": "my-own"})
    assert answer.status == 200
    assert answer.headers["x-request-id"] == "my-own"
    (row,) = answer.json["explanations"]
    expected = engine.explain([SCENE], "pixab", top_k=2, size=(20, 30))
    assert row["targets"] == expected.targets[0].tolist()
    assert row["labels"] == [expected.label(0, 0), expected.label(0, 1)]
    np.testing.assert_allclose(row["scores"], expected.scores[0], **CLOSE)
    np.testing.assert_allclose(row["saliency"], expected.maps[0], **CLOSE)
    drawn = Image.open(io.BytesIO(base64.b64decode(row["overlay"][1]["b64"])))
    assert drawn.size == expected.overlay(0).size


def test_first_version_predicts_numbers(served: Served, engine: Engine) -> None:
    images = numbers(engine)
    answer = served.ask("/v1/models/two:predict", {"instances": images.tolist()})
    np.testing.assert_allclose(answer.json["predictions"], engine.predict(images), **CLOSE)


def test_second_version_in_json(served: Served, engine: Engine) -> None:
    images = numbers(engine, 1)
    body = {
        "id": "7",
        "inputs": [tensor(images)],
        "parameters": {"method": "gradcam", "targets": "cat", "size": "map"},
        "outputs": [{"name": "saliency"}, {"name": "probabilities"}],
    }
    answer = served.ask("/v2/models/one/infer", body).json
    assert answer["id"] == "7"
    assert answer["model_name"] == "one"
    maps, chances = answer["outputs"]
    expected = engine.explain(images, "gradcam", targets="cat", size="map")
    assert maps["name"] == "saliency"
    np.testing.assert_allclose(np.reshape(maps["data"], maps["shape"]), expected.maps, **CLOSE)
    np.testing.assert_allclose(chances["data"], expected.probabilities[0], **CLOSE)


def ask_triton(client: Any, module: Any, array: np.ndarray[Any, Any], names: list[str], **given: Any) -> Any:
    """What a client of Triton's gets."""
    asked = module.InferInput("images", list(array.shape), "BYTES" if array.dtype == object else "FP32")
    asked.set_data_from_numpy(array)
    outputs = [module.InferRequestedOutput(name) for name in names]
    return client.infer("one", [asked], outputs=outputs, **given)


@pytest.mark.parametrize("way", ["http", "grpc"])
@pytest.mark.parametrize("form", ["numbers", "pictures"])
def test_triton_clients(served: Served, engine: Engine, way: str, form: str) -> None:
    module = httpclient if way == "http" else grpcclient
    with module.InferenceServerClient(getattr(served, way)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("two")
        batch: Any = numbers(engine) if form == "numbers" else [SCENE, SCENE]
        array = batch if form == "numbers" else np.array(batch, object)
        options = {"method": "gradcam++", "definition": "grad-cam", "top_k": 3, "dtype": "float16"}
        names = ["logits", "targets", "labels", "scores", "saliency", "raw", "flags"]
        found = ask_triton(client, module, array, names, parameters=options, request_id="r")
        expected = engine.explain(batch, "gradcam++", top_k=3, dtype="float16", definition="grad-cam")
        for name, wanted in {
            "logits": expected.logits,
            "scores": expected.scores,
            "raw": expected.raw,
        }.items():
            np.testing.assert_allclose(found.as_numpy(name), wanted, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(found.as_numpy("targets"), expected.targets)
        np.testing.assert_array_equal(found.as_numpy("flags"), expected.flags)
        assert found.as_numpy("saliency").dtype == np.float16
        np.testing.assert_allclose(
            found.as_numpy("saliency").astype(float), expected.maps.astype(float), atol=2e-3
        )
        assert found.as_numpy("labels")[0, 0].decode() == expected.label(0, 0)


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_targets_as_an_input(served: Served, engine: Engine, way: str) -> None:
    module = httpclient if way == "http" else grpcclient
    images, classes = numbers(engine), np.array([[1, 2], [3, 4]])
    with module.InferenceServerClient(getattr(served, way)) as client:
        inputs = [
            module.InferInput("images", list(images.shape), "FP32"),
            module.InferInput("targets", [2, 2], "INT64"),
        ]
        for one, values in zip(inputs, (images, classes), strict=True):
            one.set_data_from_numpy(values)
        found = client.infer("one", inputs)
    expected = engine.explain(images, "pixab", targets=classes)
    np.testing.assert_array_equal(found.as_numpy("targets"), classes)
    np.testing.assert_allclose(found.as_numpy("saliency"), expected.maps, **CLOSE)


WRONG: dict[str, tuple[dict[str, Any], str, int]] = {
    "method": (
        {"parameters": {"method": "pixabb"}},
        "parameters.method: unknown method 'pixabb'; did you mean",
        400,
    ),
    "option": ({"parameters": {"denominator": "N1"}}, "parameters: pixab has no option 'denominator'", 400),
    "option's value": ({"parameters": {"denominators": "N9"}}, "denominators", 400),
    "method's kind": ({"parameters": {"method": "cam"}}, "", 400),
    "target": ({"parameters": {"targets": 99}}, "targets: class 99 is out of range", 400),
    "name": ({"parameters": {"targets": "a cta"}}, "targets: targets='a cta': no class", 400),
    "top_k": ({"parameters": {"top_k": 0}}, "parameters.top_k: top_k=0 must be", 400),
    "both": ({"parameters": {"top_k": 1, "targets": 1}}, "targets: give targets= or top_k=", 400),
    "size": ({"parameters": {"size": "0x5"}}, "parameters.size: size=(0, 5) must be", 400),
    "large": (
        {"parameters": {"size": "10000x10000", "top_k": 33}},
        "parameters.size: 12.3 GiB of answers",
        413,
    ),
    "fuse": ({"parameters": {"fuse": "least"}}, "parameters.fuse: fuse='least' must be", 400),
    "dtype": ({"parameters": {"dtype": "int8"}}, "parameters.dtype: dtype='int8' must be", 400),
    "timeout": ({"parameters": {"timeout": -1}}, "parameters.timeout: -1 must be", 400),
    "output": ({"outputs": [{"name": "salience"}]}, "outputs.salience: there is no such output", 400),
    "input": ({"inputs": []}, "inputs.images: it is missing", 400),
    "drawing": ({"outputs": [{"name": "overlay"}]}, "outputs.overlay: it is drawn on pictures", 400),
    "path": (
        {"parameters": {"method": "expected-gradients", "references": "/etc/passwd"}},
        "references",
        400,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_told_which_field(served: Served, engine: Engine, name: str) -> None:
    change, message, status = WRONG[name]
    answer = served.ask("/v2/models/one/infer", {"inputs": [tensor(numbers(engine, 1))]} | change)
    assert answer.status == status, answer.body
    assert message in answer.json["error"]


def test_wrong_numbers_are_refused(served: Served, engine: Engine) -> None:
    image = tensor(numbers(engine, 1))
    for change, message in [
        ({"shape": [1, 3, 5, 5]}, "inputs.images.data has"),
        ({"shape": [1, 2, 3]}, "inputs.images"),
        ({"datatype": "FP31"}, "inputs.images.datatype='FP31' must be one of"),
        ({"data": ["1"]}, "inputs.images"),
        ({"name": "image"}, "inputs.image: there is no such input"),
        ({"datatype": "BYTES", "shape": [1], "data": ["AAAA"]}, "inputs.images[0]: not a picture"),
        ({"datatype": "BYTES", "shape": [1], "data": ["/etc/passwd"]}, "inputs.images: not base64"),
        ({"parameters": {"binary_data_size": 10}}, "binary_data_size=10: 0 bytes are there"),
    ]:
        answer = served.ask("/v2/models/one/infer", {"inputs": [image | change]})
        assert answer.status == 400, answer.body
        assert message in answer.json["error"]


def test_limits_come_before_decoding(served: Served) -> None:
    assert served.ask("/v2/models/one/infer", b" " * (5 << 20)).status == 413
    nine = {"instances": [{"b64": SCENE64}] * 9}
    assert "9 images, at most 8" in served.ask("/v1/models/one:explain", nine).json["error"]
    file = io.BytesIO()
    Image.new("L", (9000, 9000)).save(file, "PNG")
    bomb = {"instances": [{"b64": base64.b64encode(file.getvalue()).decode()}]}
    answer = served.ask("/v1/models/one:explain", bomb)
    assert answer.status == 413
    assert "inputs.images[0]: the picture has 9000x9000 pixels" in answer.json["error"]


def test_errors_over_grpc(served: Served, engine: Engine) -> None:
    images = numbers(engine, 1)
    with grpcclient.InferenceServerClient(served.grpc) as client:
        for options, status in [
            ({"parameters": {"method": "pixabb"}}, "INVALID_ARGUMENT"),
            ({"parameters": {"method": "rise"}, "client_timeout": 0.001}, "DEADLINE_EXCEEDED"),
            ({"parameters": {"method": "rise"}, "timeout": 1}, "DEADLINE_EXCEEDED"),
        ]:
            with pytest.raises(grpcclient.InferenceServerException) as error:
                ask_triton(client, grpcclient, images, ["saliency"], **options)
            assert error.value.status() == f"StatusCode.{status}"
        with pytest.raises(grpcclient.InferenceServerException, match="no model 'three'"):
            client.get_model_metadata("three")


def test_addresses_that_there_are_not(served: Served) -> None:
    assert served.ask("/v2/models/three/infer", {}).status == 404
    assert served.ask("/v2/models/one/versions/7/infer", {"inputs": []}).status == 404
    assert served.ask("/nothing").status == 404
    assert served.ask("/v2/models/one/infer").status == 405
    assert served.ask("/v2/repository/models/one/load", b"").status == 400


def test_a_deadline_ends_a_long_method(served: Served) -> None:
    body = {
        "instances": [{"b64": SCENE64}],
        "parameters": {"method": "rise", "passes": 1_000_000, "timeout": 300_000},
    }
    started = time.monotonic()
    answer = served.ask("/v1/models/one:explain", body)
    assert answer.status == 504
    assert time.monotonic() - started < 60
    assert served.ask("/v1/models/one:predict", {"instances": [{"b64": SCENE64}]}).status == 200


def test_work_of_a_client_that_left_ends(served: Served) -> None:
    body = json.dumps(
        {"instances": [{"b64": SCENE64}], "parameters": {"method": "rise", "passes": 1_000_000}}
    ).encode()
    host, port = served.http.split(":")
    with socket.create_connection((host, int(port))) as left:
        head = f"POST /v1/models/two:explain HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        left.sendall(head.encode() + body)
        wait_for(lambda: served.metric("camrt_requests_in_flight") == 1)
    wait_for(lambda: served.metric("camrt_requests_in_flight") == 0)
    wait_for(lambda: any(line["status"] == 499 for line in served.log_lines("answered")))


def test_a_client_that_leaves_while_it_sends_is_no_error_of_ours(served: Served) -> None:
    host, port = served.http.split(":")
    left = 'camrt_requests_total{model="one",protocol="http v1",status="499"}'
    before = served.metric(left)
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /v1/models/one:explain HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
        connection.sendall(head.encode())
        wait_for(lambda: served.metric("camrt_requests_in_flight") == 1)
    wait_for(lambda: served.metric(left) == before + 1)
    assert served.log_lines("internal error") == []


def wait_for(condition: Any, seconds: float = 100.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


def test_metrics_and_log(served: Served) -> None:
    before = served.metric('camrt_requests_total{model="two",protocol="http v1",status="200"}')
    answer = served.ask("/v1/models/two:explain", {"instances": [{"b64": SCENE64}]}, {"x-request-id": "told"})
    assert answer.status == 200
    assert served.metric('camrt_requests_total{model="two",protocol="http v1",status="200"}') == before + 1
    assert served.metric('camrt_method_seconds_count{method="pixab",model="two"}') >= 1
    assert served.metric('camrt_passes_total{kind="trunk",model="two"}') >= 1
    assert served.metric('camrt_queue_seconds_count{model="two"}') >= 1
    assert served.metric('camrt_batch_rows_count{model="two"}') >= 1
    assert served.metric('camrt_batch_fill_count{model="two"}') >= 1
    assert served.metric('request_explain_seconds_count{model_name="two"}') >= 1  # kserve's own
    assert served.metric('camrt_model_ready{model="two"}') == 1
    (line,) = (one for one in served.log_lines("answered") if one["request_id"] == "told")
    assert (line["method"], line["images"], line["status"]) == ("pixab", 1, 200)


def test_full_and_drained(tmp_path: Path, engine: Engine) -> None:
    """While a long request is under way: another of the client, and SIGTERM."""
    with serve(tmp_path, "default", "--client-limit", "1", "--deadline", "280", "--grace", "250") as one:
        picture = {"instances": [{"b64": SCENE64}]}
        slow = picture | {"parameters": {"method": "rise", "passes": 600}}
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(one.ask("/v1/models/default:explain", slow)))
        thread.start()
        wait_for(lambda: one.metric("camrt_requests_in_flight") == 1)
        full = one.ask("/v1/models/default:explain", picture)
        assert full.status == 429
        assert int(full.headers["retry-after"]) >= 1
        with grpcclient.InferenceServerClient(one.grpc) as client:
            with pytest.raises(grpcclient.InferenceServerException) as error:
                ask_grpc(client, engine)
            assert error.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        one.process.send_signal(signal.SIGTERM)
        wait_for(lambda: one.ask("/v2/health/ready").status == 503)
        assert one.ask("/v1/models/default:explain", picture).status == 503
        thread.join(250)
        assert answers[0].status == 200, answers[0].body
        assert one.process.wait(100) == 0


def test_a_port_that_is_taken_is_told(served: Served) -> None:
    command = [sys.executable, "-m", "camrt", "serve", "default", "--port", served.http.partition(":")[2]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert f"cannot listen on {served.http}" in done.stderr


def test_loading_again_drops_and_changes_no_answer(tmp_path: Path, engine: Engine) -> None:
    """Clients ask all the while that the file is loaded again and again."""
    images = numbers(engine, 1)
    expected = engine.explain(images, "gradcam", targets=3, size="map").maps
    inputs = [tensor(images)]
    body = {"inputs": inputs, "parameters": {"method": "gradcam", "targets": 3, "size": "map"}}
    answers: list[Any] = []
    file = tmp_path / "model.onnx"
    file.write_bytes(model_path().read_bytes())
    with serve(tmp_path, str(file), "--model-control", "explicit", "--no-request-log") as one:
        enough = threading.Event()

        def ask() -> None:
            while not enough.is_set():
                answers.append(one.ask("/v2/models/model/infer", body))

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        for _ in range(3):
            assert one.ask("/v2/repository/models/model/load", b"").json == {"name": "model", "load": True}
        file.write_bytes(b"no model")
        assert one.ask("/v2/repository/models/model/load", b"").status == 503
        assert one.ask("/v2/models/model/ready").status == 200  # the engine before it is still at work
        enough.set()
        for client in clients:
            client.join()
    assert len(answers) >= 3
    for answer in answers:
        assert answer.status == 200, answer.body
        maps = next(output for output in answer.json["outputs"] if output["name"] == "saliency")
        np.testing.assert_allclose(np.reshape(maps["data"], maps["shape"]), expected, **CLOSE)


def ask_grpc(client: Any, engine: Engine) -> Any:
    images = numbers(engine, 1)
    asked = grpcclient.InferInput("images", list(images.shape), "FP32")
    asked.set_data_from_numpy(images)
    return client.infer("default", [asked])
