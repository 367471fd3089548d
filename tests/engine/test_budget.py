"""What a call may take: bytes and seconds (`camrt.export.budget`, `camrt.engine.call_limits`)."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import camrt
from camrt.errors import DeadlineError, InputError, MemoryLimitError
from camrt.export.budget import Budget, check_deadline, reserve, reserve_array, seconds_left, within_budget


def test_without_a_budget_time_is_not_bounded_and_memory_is():
    assert seconds_left() == math.inf
    check_deadline()
    reserve(1 << 20, "little")
    with pytest.raises(MemoryLimitError, match="needs 1\\.0 TiB at once for much"):
        reserve(1 << 40, "much")


def test_more_than_the_budget_is_refused_with_the_option_that_allows_it():
    with within_budget(Budget(max_memory=1000, call="loading")):
        reserve_array((2, 100), "noise")
        with pytest.raises(MemoryLimitError, match=r"loading needs 1\.2 KiB .* for noise .*max_memory=1000"):
            reserve_array((3, 100), "noise")


def test_of_two_budgets_the_tighter_one_holds_for_each_thing():
    with (
        within_budget(Budget(max_memory=100, seconds=1000)),
        within_budget(Budget(max_memory=1000, seconds=10)),
    ):
        assert 9 < seconds_left() <= 10
        with pytest.raises(MemoryLimitError):
            reserve(500, "it")
    assert seconds_left() == math.inf


def test_a_deadline_that_has_passed_says_whose_it_was():
    with within_budget(Budget(seconds=0.01, call="explaining", option="call_deadline")):
        time.sleep(0.02)
        with pytest.raises(
            DeadlineError, match=r"explaining was stopped after its deadline of 0\.01 s; call_"
        ):
            check_deadline()
        with pytest.raises(DeadlineError):
            seconds_left()


@pytest.mark.parametrize(
    "options",
    [
        {"max_memory": 0},
        {"max_memory": 1.5},
        {"max_memory": True},
        {"call_deadline": 0},
        {"call_deadline": math.nan},
        {"load_deadline": "soon"},
    ],
)
def test_bounds_that_make_no_sense_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        camrt.load("default", **options)


def test_an_engines_calls_take_what_it_says():
    engine = camrt.load("default", call_deadline=100, max_memory=1 << 30)
    assert (engine.call_deadline, engine.max_memory) == (100.0, 1 << 30)
    batch = np.zeros((1, 3, engine.interface.height, engine.interface.width), np.float32)
    engine.predict(batch)
    engine.call_deadline = 1e-9
    for call in (engine.predict, engine.explain):
        with pytest.raises(DeadlineError, match="call_deadline="):
            call(batch)


def test_a_late_call_says_how_many_images_were_done():
    engine = camrt.load("default", threads=1, batch_size=1)
    batch = np.zeros((3, 3, engine.interface.height, engine.interface.width), np.float32)
    asked = []

    def slowly(logits):
        asked.append(len(logits))
        if len(asked) == 2:
            time.sleep(0.6)
        return np.zeros(len(logits), np.int64)

    engine.explain(batch, targets=0)  # what is made ready once
    engine.call_deadline = 0.5
    with pytest.raises(DeadlineError, match=r"call_deadline= sets another\. [01] of 3 images were done"):
        engine.explain(batch, targets=slowly)


def test_calls_of_several_threads_have_a_deadline_each(tmp_path):
    """One engine's calls are late at once, again and again; another's, beside it, never are."""
    ample = camrt.load("default", threads=1)
    short = camrt.load("default", threads=1, call_deadline=1e-9)
    batch = np.random.default_rng(0).random((1, 3, ample.interface.height, ample.interface.width), np.float32)
    expected = ample.explain(batch, "gradcam").raw

    def call(number):
        if number % 2:
            with pytest.raises(DeadlineError):
                short.explain(batch, "gradcam")
            return True
        return np.array_equal(ample.explain(batch, "gradcam").raw, expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(40)))
