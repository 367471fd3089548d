"""What another runtime than ONNX Runtime on the CPU answers first is compared with what that answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import camrt
from camrt.engine.build import build_engine
from camrt.engine.runtime.first_run import quantised_tolerance, size_of_error
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.engine.runtime.ort_providers import HOST_PROVIDERS, HostProvider, check_provider
from camrt.engine.runtime.wrapped_runner import WrappedRunner
from camrt.errors import BackendError, WrongAnswerError
from camrt.export.adjoint import GRADIENT
from camrt.export.io.model_file import read_model
from helpers import hostile_models
from helpers.zoo import model_of

AZURE = (
    "AzureExecutionProvider"  # takes no operator of ours, and so stands for one that leaves some to the CPU
)


class Altered(WrappedRunner):
    """A runner whose answers are altered."""

    def __init__(self, runner: Any, alter: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(runner)
        self._alter = alter

    def __call__(self, *given: Any, **named: Any) -> list[Any]:
        return [self._alter(answer) for answer in super().__call__(*given, **named)]


class Foreign(OnnxRuntime):
    """A runtime that answers something else than it should, for gradients or for all graphs."""

    def __init__(self, alter: Callable[[np.ndarray], np.ndarray], gradients: bool) -> None:
        super().__init__(threads=1)
        self.name, self.first_run_tolerance = "foreign", 1e-2
        self._alter, self._gradients = alter, gradients

    def make_runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> Any:
        runner = super().make_runner(model, label=label, batch=batch)
        gradient = GRADIENT in {value.name for value in model.graph.output}
        return Altered(runner, self._alter) if gradient or not self._gradients else runner


def engine_on(runtime: Any, folder: Any, **options: Any) -> camrt.Engine:
    file = read_model(hostile_models.classifier(folder / "model.onnx"))
    return build_engine(file, runtime, OnnxRuntime(few_runs=True), **options)


BATCH = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)


def test_answers_that_agree_are_given(tmp_path):
    engine = engine_on(Foreign(lambda answer: answer * 1.0001, gradients=False), tmp_path)
    assert engine.explain(BATCH, "gradient").raw.shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("alter", "how"),
    [
        (lambda answer: -answer, r"is off by 2 of its size, and 0\.01 is allowed"),
        (lambda answer: answer[..., ::-1] * 1.2, r"is off by \S+ of its size"),
        (lambda answer: answer * np.nan, "has another shape, or other numbers that are not finite"),
    ],
)
def test_a_model_that_is_answered_otherwise_is_not_loaded(alter, how, tmp_path):
    with pytest.raises(
        WrongAnswerError,
        match=rf"foreign does not answer what onnxruntime answers for the model: 'camrt_\w+' {how}",
    ):
        engine_on(Foreign(alter, gradients=False), tmp_path)
    engine = engine_on(Foreign(alter, gradients=False), tmp_path, verify=False)  # nothing is compared
    assert engine.predict(BATCH).shape == (2, 4)


def test_a_gradient_is_compared_when_it_is_first_needed_and_not_used(tmp_path):
    engine = engine_on(Foreign(lambda answer: -answer, gradients=True), tmp_path)
    engine.explain(BATCH, "pixab")
    for _ in range(2):
        with pytest.raises(WrongAnswerError, match="for the model's adjoint"):
            engine.explain(BATCH, "gradient")


def test_sizes_of_errors():
    one = np.ones((2, 3), np.float32)
    assert size_of_error(one, one) == 0
    assert size_of_error(one * 1.5, one) == pytest.approx(0.5, rel=1e-5)
    assert size_of_error(one[:1], one) == math.inf
    assert size_of_error(one * np.nan, one) == math.inf
    assert size_of_error(one * np.inf, one * np.inf) == 0
    assert size_of_error(one * 1e-9, one * 0) < 1e-2  # rounding of what is zero
    assert size_of_error(one * 1e-3, one * 0) > 1


@pytest.mark.parametrize(
    ("rounding", "gradient", "allowed"),
    [(None, False, 0.0), ("camrt_round", False, 0.0), ("y", False, 0.2), ("y", True, 0.7)],
)
def test_graphs_that_round_are_allowed_more(rounding, gradient, allowed):
    nodes = [helper.make_node("Relu", ["x"], [GRADIENT if gradient else "z"])]
    if rounding is not None:
        nodes.append(helper.make_node("Round", ["x"], [rounding]))
    shape = ("N", 3)
    model = model_of(nodes, [], shape, shape, source="x", end=nodes[0].output[0])
    assert quantised_tolerance(model) == allowed


@pytest.mark.parametrize("backend", HOST_PROVIDERS)
def test_a_provider_that_is_not_there_is_refused_by_name(backend):
    provider = HOST_PROVIDERS[backend]
    if provider.name in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has {provider.name}")
    with pytest.raises(
        BackendError, match=f"this onnxruntime has no {provider.name}, but .*CPUExecutionProvider"
    ):
        camrt.load("default", backend=backend)


def test_a_provider_takes_arrays_of_the_host():
    with pytest.raises(BackendError, match="backend='onnxruntime-xnnpack' takes arrays of the host"):
        camrt.load("default", backend="onnxruntime-xnnpack", device="cuda")


@pytest.mark.parametrize("backend", HOST_PROVIDERS)
def test_a_provider_that_is_there_answers_as_the_cpu_does(backend):
    if HOST_PROVIDERS[backend].name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {HOST_PROVIDERS[backend].name}")
    engine = camrt.load("default", backend=backend)
    assert engine.runtime == backend


def test_a_provider_that_leaves_nodes_to_the_cpu_is_used_and_one_that_did_not_start_is_not(
    tmp_path, monkeypatch
):
    if AZURE not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {AZURE}")
    monkeypatch.setitem(HOST_PROVIDERS, "onnxruntime-azure", HostProvider(AZURE, "", lambda threads: {}))
    path = hostile_models.classifier(tmp_path / "model.onnx")
    runtime = OnnxRuntime(backend="onnxruntime-azure", threads=1)
    runner = runtime.make_runner(hostile_models.load(path), label="model")
    assert runner._ready().session.get_providers() == [AZURE, "CPUExecutionProvider"]
    np.testing.assert_array_equal(
        engine_on(runtime, tmp_path).explain(BATCH, "gradcam").raw,
        camrt.load(path).explain(BATCH, "gradcam").raw,
    )
    with pytest.raises(BackendError, match=f"this onnxruntime did not start its {AZURE}, but CPUExec"):
        check_provider(HOST_PROVIDERS["onnxruntime-azure"], ["CPUExecutionProvider"])
