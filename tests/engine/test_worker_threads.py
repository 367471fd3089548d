"""What cannot be interrupted is left when its time is up, or when the program is told to stop."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import camrt
from camrt.engine.runtime import make_onnx_runtime
from camrt.engine.runtime.worker_threads import run_with_deadline
from camrt.errors import DeadlineError
from camrt.export.budget import Budget, within_budget
from helpers import hostile_models
from helpers.concurrent_calls import ask_from_threads


def nothing() -> None:
    pass


def test_what_is_run_answers_or_fails_as_if_it_were_called():
    assert run_with_deadline(lambda: 3, nothing) == 3
    with pytest.raises(KeyError, match="gone"):
        run_with_deadline(lambda: {}["gone"], nothing)


def test_a_thread_is_used_again():
    first = run_with_deadline(threading.current_thread, nothing)
    assert first is not threading.current_thread()
    time.sleep(0.2)  # it comes back after its answer
    assert run_with_deadline(threading.current_thread, nothing) is first


def test_what_does_not_stop_is_left():
    ending = threading.Event()
    stopped = []
    try:
        with within_budget(Budget(seconds=0.2, call="explaining")):
            started = time.monotonic()
            with pytest.raises(DeadlineError, match="explaining was stopped"):
                run_with_deadline(lambda: ending.wait(60), lambda: stopped.append(True))
            assert time.monotonic() - started < 20
        assert stopped == [True]
        assert run_with_deadline(lambda: 4, nothing) == 4  # by another thread
    finally:
        ending.set()


def test_an_answer_that_comes_too_late_is_none():
    ending = threading.Event()
    with within_budget(Budget(seconds=0.1)), pytest.raises(DeadlineError):
        run_with_deadline(lambda: ending.wait(60), ending.set)


def test_an_error_after_the_deadline_is_the_deadline():
    ending = threading.Event()

    def fail() -> None:
        ending.wait(60)
        raise OSError

    with within_budget(Budget(seconds=0.1)), pytest.raises(DeadlineError):
        run_with_deadline(fail, ending.set)


def test_a_run_that_was_quick_and_now_is_not_is_stopped_all_the_same(tmp_path: Path):
    model = hostile_models.load(hostile_models.endless_loop(tmp_path / "model.onnx", above=1e6))
    runner = make_onnx_runtime(threads=1).make_runner(model, label="model")
    quiet = np.zeros((1, 3, 8, 8), np.float32)
    for _ in range(3):
        runner(quiet)
    with within_budget(Budget(seconds=1.0)), pytest.raises(DeadlineError):
        runner(quiet + 1e9)
    assert np.isfinite(runner(quiet)[0]).all()


def test_runs_from_many_threads_answer_what_they_were_asked(tmp_path: Path):
    engine = camrt.load(hostile_models.classifier(tmp_path / "model.onnx"), verify=False)
    batches = np.random.default_rng(0).normal(size=(8, 4, 3, 8, 8)).astype(np.float32)
    expected = [engine.predict(batch) for batch in batches]
    found = ask_from_threads(engine.predict, batches, 10)
    for answers, wanted in zip(found, expected, strict=True):
        assert len(answers) == 10
        for answer in answers:
            np.testing.assert_array_equal(answer, wanted)
