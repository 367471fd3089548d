"""What stands between a server and the scheduler: reading questions, admission, and loading files again."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.cli.serve import model_names
from camrt.engine.methods import make_method
from camrt.engine.serving.admission import Admission
from camrt.engine.serving.errors import NotReadyError, TooLargeError, describe_error, status_of
from camrt.engine.serving.limits import ServingLimits
from camrt.engine.serving.listening import listen
from camrt.engine.serving.request_making import make_request
from camrt.engine.serving.request_parsing import parse_request
from camrt.engine.serving.requests import ExplainRequest
from camrt.engine.serving.tensors import Inference
from camrt.errors import (
    BackendError,
    CamrtError,
    ClosedError,
    DeadlineError,
    InputError,
    MemoryLimitError,
    QueueFullError,
)
from helpers.calm_models import calm_model

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")

from camrt.engine.serving.metrics import ModelMetrics
from camrt.engine.serving.scheduler import Scheduler
from camrt.engine.serving.served_model import ServedModel

IMAGES = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)


def save(path: Path) -> Path:
    return calm_model(classes=3).save(path, side=8)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedModel]:
    model = ServedModel(
        "small",
        save(tmp_path / "small.onnx"),
        partial(camrt.load, preprocessing="unit", labels=["cat", "dog", "7"]),
        lambda name, engine: Scheduler(engine, observer=ModelMetrics(name)),
        grace=60.0,
    )
    yield model
    model.stop(0.0)


def test_models_are_called_after_their_files() -> None:
    assert model_names(["default", "a/my model.onnx"], None) == ["default", "my-model"]
    assert model_names(["a.onnx", "b.onnx"], ["x", "y"]) == ["x", "y"]


@pytest.mark.parametrize(
    ("models", "names", "message"),
    [
        (["a.onnx"], ["x", "y"], "2 of them, of 1 models"),
        (["a.onnx"], ["x/y"], "must be of letters"),
        (["a.onnx", "b/a.onnx"], None, "two models have one name"),
    ],
)
def test_names_that_addresses_cannot_hold(models: list[str], names: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_names(models, names)


def asked(**parameters: Any) -> Inference:
    return Inference({"images": IMAGES}, parameters)


def test_parameters_are_those_of_explain() -> None:
    parsed = parse_request(
        asked(
            method="Score-CAM", definition="torchcam", top_k=2, size="5x6", dtype="float16", timeout=2_500_000
        ),
        ServingLimits(),
    )
    assert parsed.method == make_method("score", {"definition": "torchcam"})
    assert (parsed.top_k, parsed.size, parsed.dtype, parsed.seconds) == (2, (5, 6), "float16", 2.5)
    assert parsed.outputs == ("logits", "targets", "saliency")


@pytest.mark.parametrize(
    ("text", "meant"), [("cat", "cat"), ("7", 7), ("[0, 1]", [0, 1]), ("null", "null"), ("true", "true")]
)
def test_targets_as_text(text: str, meant: Any) -> None:
    assert parse_request(asked(targets=text), ServingLimits()).targets == meant


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"method": "x" * 10**7}, "parameters.method"),
        ({"x" * 10**7: 1}, "parameters.method"),
        ({"targets": "x" * 10**7}, "targets"),
    ],
)
def test_endless_names_are_compared_with_nothing(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"^{field}: a name of 10000000 letters"):
        parse_request(asked(**parameters), ServingLimits())


def test_lists_in_one_another_are_bounded() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    for name in ("targets", "window"):
        with pytest.raises(InputError, match="too deep"):
            parse_request(Inference({"images": IMAGES}, {name: deep}, texts=False), ServingLimits())


def test_answers_are_those_of_explain(served: ServedModel) -> None:
    served.load()
    loaded = served.require()
    parsed = parse_request(asked(method="gradcam", targets=1, size="map"), ServingLimits())
    request = make_request(loaded.engine, parsed, ServingLimits(), deadline=None, client="")
    found = loaded.scheduler.submit(request).result(100)
    expected = loaded.engine.explain(IMAGES, "gradcam", targets=1, size="map")
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-5, atol=1e-6)


def test_images_and_answers_are_limited(served: ServedModel) -> None:
    served.load()
    engine = served.require().engine
    with pytest.raises(TooLargeError, match=r"inputs.images: 2 images, at most 1"):
        parse_request(asked(), ServingLimits(images=1))
    few = ServingLimits(answer=2 * 8 * 8 * 4)
    make_request(engine, parse_request(asked(), few), few, deadline=None, client="")
    with pytest.raises(TooLargeError, match=r"parameters.size: 1.0 KiB of answers are more than 512 bytes"):
        make_request(engine, parse_request(asked(top_k=2), few), few, deadline=None, client="")
    half = parse_request(asked(top_k=2, dtype="float16"), few)
    make_request(engine, half, few, deadline=None, client="")


def test_a_changed_file_is_loaded_again_and_what_was_begun_ends(served: ServedModel) -> None:
    served.load()
    before = served.require()
    request = ExplainRequest(batch=before.engine.prepare(IMAGES), method=make_method("rise", {"passes": 500}))
    future = before.scheduler.submit(request)
    assert not served.reload_if_changed()
    changed = served.path.stat().st_mtime_ns + 10**9
    os.utime(served.path, ns=(changed, changed))
    assert served.reload_if_changed()
    assert served.require() is not before
    assert future.result(100).maps.shape == (2, 8, 8)
    with pytest.raises(ClosedError):
        before.scheduler.submit(request)


def test_a_file_that_is_no_model_changes_nothing(
    served: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    served.load()
    before = served.require()
    served.path.write_bytes(b"no model")
    with caplog.at_level(logging.ERROR, "camrt.serving"):
        assert not served.reload_if_changed()
        assert not served.reload_if_changed()  # and it is not tried twice
    assert served.require() is before
    assert [record.message for record in caplog.records] == ["the changed file cannot be loaded"]
    save(served.path)
    assert served.reload_if_changed()


def test_a_model_that_is_not_there_says_why(served: ServedModel) -> None:
    served.path.unlink()
    with pytest.raises(CamrtError):
        served.load()
    with pytest.raises(NotReadyError, match=r"'small' is not ready: .*small.onnx"):
        served.require()
    save(served.path)
    served.load()
    served.unload()
    with pytest.raises(NotReadyError, match="it was unloaded"):
        served.require()


def test_admission_counts_all_and_each() -> None:
    admission = Admission(ServingLimits(requests=3, client_requests=2))
    with admission.admit("a"), admission.admit("a"):
        with pytest.raises(QueueFullError, match="this client has 2"), admission.admit("a"):
            pass
        with admission.admit("b"), pytest.raises(QueueFullError, match="the service has 3"):
            admission.admit("c").__enter__()
        assert admission.count == 2
        admission.close()
        with pytest.raises(ClosedError), admission.admit("c"):
            pass
    assert admission.count == 0


@pytest.mark.parametrize(
    ("error", "http", "grpc"),
    [
        (InputError("x"), 400, "INVALID_ARGUMENT"),
        (TooLargeError("x"), 413, "INVALID_ARGUMENT"),
        (MemoryLimitError("x"), 413, "INVALID_ARGUMENT"),
        (QueueFullError("x", 1.0), 429, "RESOURCE_EXHAUSTED"),
        (ClosedError("x"), 503, "UNAVAILABLE"),
        (DeadlineError("x"), 504, "DEADLINE_EXCEEDED"),
        (BackendError("x"), 500, "INTERNAL"),
        (ValueError("x"), 500, "INTERNAL"),
    ],
)
def test_statuses(error: Exception, http: int, grpc: str) -> None:
    assert (status_of(error).http, status_of(error).grpc) == (http, grpc)


def test_internal_errors_are_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "camrt.serving"):
        told = describe_error(ValueError("a secret"), "r1")
    assert "secret" not in told
    assert "r1" in told
    assert "a secret" in caplog.text


def test_a_span_a_request() -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from camrt.engine.serving.tracing import trace_request

    kept, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with trace_request("http v2 predict", {"traceparent": caller}) as attributes:
        attributes["camrt.model"] = "small"
    (span,) = kept.get_finished_spans()
    assert span.name == "http v2 predict"
    assert span.attributes == {"camrt.model": "small"}
    assert f"{span.parent.span_id:x}" == "b7ad6b7169203331"


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Connections send what is written at once: a client puts off its acknowledgement by 40 ms."""
    listening = listen("127.0.0.1", 0)
    with listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
