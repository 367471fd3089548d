"""Errors of ours on a file of a stranger's: camrt errors to a user, and to be seen in tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import camrt
from camrt.errors import CutError, UnsupportedModelError
from camrt.export.internal_errors import report_internal_errors
from helpers import hostile_models

OURS = [
    KeyError("x"), IndexError("x"), AssertionError(), TypeError("x"), ValueError("x"), ZeroDivisionError(),
    RecursionError(), AttributeError("x"), StopIteration(), OverflowError(), np.exceptions.AxisError("x"),
]  # fmt: skip
OTHERS = [CutError("x"), MemoryError(), OSError(), KeyboardInterrupt(), RuntimeError("x")]


@pytest.fixture
def translating(monkeypatch):
    monkeypatch.delenv("CAMRT_INTERNAL_ERRORS", raising=False)


@pytest.mark.parametrize("error", OURS, ids=lambda error: type(error).__name__)
def test_an_error_of_ours_says_so_and_has_its_cause(error: Exception, translating) -> None:
    with (
        pytest.raises(UnsupportedModelError, match=r"the file could not be understood .*report it") as caught,
        report_internal_errors("the file"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", OURS, ids=lambda error: type(error).__name__)
def test_it_is_seen_in_tests(error: Exception) -> None:
    with pytest.raises(type(error)), report_internal_errors("the file"):
        raise error


@pytest.mark.parametrize(
    "error", [CutError("x"), MemoryError(), OSError(), KeyboardInterrupt(), RuntimeError("x")]
)
def test_what_means_something_else_goes_on(error: BaseException, translating) -> None:
    with pytest.raises(type(error)) as caught, report_internal_errors("the file"):
        raise error
    assert caught.value is error


def test_loading_and_graphs_made_later_are_within_it(tmp_path: Path, translating, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise IndexError("list index out of range")

    path = hostile_models.classifier(tmp_path / "model.onnx")
    engine = camrt.load(path, threads=1)
    monkeypatch.setattr("camrt.engine.cuts.build_adjoint_model", broken)
    with pytest.raises(UnsupportedModelError, match=r"run here could not be understood \(IndexError in "):
        engine.explain(np.zeros((1, 3, 8, 8), np.float32), "gradient")
    monkeypatch.setattr("camrt.engine.build.find_builtin_preprocessing", broken)
    with pytest.raises(UnsupportedModelError, match=r"onnx: the graph could not .*camrt\.engine\.build"):
        camrt.load(path)
    monkeypatch.setattr("camrt.export.io.model_file.check_signatures", broken)
    with pytest.raises(UnsupportedModelError, match=r"model\.onnx: the file could not be understood"):
        camrt.load(path)
