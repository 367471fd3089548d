from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.engine.passes import PassCounts
from camrt.engine.serving.requests import ExplainRequest
from camrt.engine.serving.run_queue import RunQueue
from camrt.engine.serving.scheduler import Scheduler
from camrt.errors import (
    BackendError,
    ClosedError,
    DeadlineError,
    InputError,
    MethodError,
    QueueFullError,
    TargetError,
)
from helpers import hostile_models, zoo
from helpers.gated_runs import SECONDS, GatedRuns
from helpers.tolerances import assert_close

MARK = 1000.0  # a first number of images whose runs fail
PIXAB, CAM, GRAD = (make_method(name, {}) for name in ("pixab", "cam", "gradcam"))
RISE = make_method(
    "rise", {"passes": 64, "cells": 2}
)  # a long question; CAM makes one pass, and no other run


@pytest.fixture
def engine(tmp_path: Path) -> camrt.Engine:
    """A small classifier."""
    part = zoo.HEADS["gap-flatten-gemm"].make(np.random.default_rng(4), 6, 3, 4, 3)
    whole = zoo.classifier(part, np.random.default_rng(5))
    loaded = camrt.load(zoo.save(whole.model, tmp_path / "model.onnx"), target="A", threads=1)
    loaded.explain(images(1), "gradcam")  # its graphs are made ready
    return loaded


@pytest.fixture
def gate(engine: camrt.Engine, monkeypatch: pytest.MonkeyPatch) -> GatedRuns:
    return GatedRuns.put(monkeypatch)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 6, 8)).astype(np.float32)


def request(engine: camrt.Engine, method: Any = CAM, count: int = 1, **options: Any) -> ExplainRequest:
    given = options.pop("images", images(count))
    return ExplainRequest(batch=engine.prepare(given), method=method, **options)


def submit_together(scheduler: Scheduler, *requests: ExplainRequest) -> list[Future[Any]]:
    with scheduler._changed:
        return [scheduler.submit(one) for one in requests]


def make_late(scheduler: Scheduler, asked: ExplainRequest) -> None:
    """Has the deadline of a request pass now."""
    with scheduler._changed:
        object.__setattr__(asked, "deadline", time.monotonic())
        scheduler._changed.notify_all()


def wait_until(scheduler: Scheduler, condition: Any) -> None:
    with scheduler._changed:
        assert scheduler._changed.wait_for(condition, SECONDS)


class Seen:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.batches: list[tuple[int, int, float]] = []
        self.counts = PassCounts()
        self.answers: list[tuple[str | None, type | None]] = []

    def queued(self, seconds: float) -> None:
        self.waits.append(seconds)

    def batch(self, rows: int, requests: int, fill: float, seconds: float) -> None:
        self.batches.append((rows, requests, fill))

    def passes(self, counts: PassCounts) -> None:
        self.counts += counts

    def answered(self, method: str | None, seconds: float, error: BaseException | None) -> None:
        self.answers.append((method, None if error is None else type(error)))


# ---------------------------------------------------------------- sharing


def test_different_questions_share_the_pass_through_the_trunk(engine, gate) -> None:
    seen = Seen()
    with Scheduler(engine, max_delay=0.0, observer=seen) as scheduler:
        full = request(engine, None, 32)  # is a batch by itself, and holds the only worker
        gate.close()
        first = scheduler.submit(full)
        gate.wait_for(1)
        asked = submit_together(
            scheduler,
            request(engine, PIXAB),
            request(engine, PIXAB, targets=2, images=images(2, 1)),
            request(engine, CAM, top_k=2),
            request(engine, GRAD, size="map"),
            request(engine, None),
            request(engine, RISE),
        )
        wait_until(scheduler, lambda: len(scheduler._runs._short) == 6)
        gate.let_go()
        wait([first, *asked], SECONDS)
    assert gate.rows[:2] == [32, 7]
    assert (7, 6, 7 / 32) in seen.batches
    assert (seen.counts.trunk, seen.counts.full) == (6, 33 + 64)
    assert Counter(seen.answers) == Counter(
        {("pixab", None): 2, ("cam", None): 1, ("gradcam", None): 1, (None, None): 2, ("rise", None): 1}
    )
    assert len(seen.waits) == 7


def test_equal_questions_are_one_call(engine, gate) -> None:
    with Scheduler(engine) as scheduler:
        asked = submit_together(
            scheduler, *(request(engine, targets=n % 3, images=images(1, n)) for n in range(8))
        )
        found = [future.result(SECONDS) for future in asked]
    assert gate.rows == [8]
    assert {one.passes.trunk for one in found} == {8}
    for n, one in enumerate(found):
        assert one.targets.tolist() == [n % 3]
        assert_close(one.raw, engine.explain(images(1, n), CAM, targets=n % 3).raw, factor=4)


def test_masked_images_of_several_requests_fill_batches(engine, gate) -> None:
    with Scheduler(engine, max_batch=16) as scheduler:
        gate.close()
        asked = submit_together(
            scheduler, *(request(engine, make_method("rise", {"passes": n, "cells": 2})) for n in (20, 21))
        )
        gate.let_go()
        wait(asked, SECONDS)
    assert sum(gate.rows) == 2 + 20 + 21
    assert max(gate.rows) <= 16


# ---------------------------------------------------------------- fairness


def test_a_long_question_does_not_hold_up_a_short_one(engine, gate) -> None:
    with Scheduler(engine, max_batch=16, max_delay=0.0) as scheduler:
        gate.close()
        long = scheduler.submit(request(engine, RISE))
        gate.wait_for(1)
        assert gate.step() == 16  # masked images
        for _ in range(2):
            short = scheduler.submit(request(engine, CAM, 3))
            wait_until(scheduler, lambda: scheduler._runs._short)
            assert gate.step() == 3
            gate.step()
            short.result(SECONDS)
            assert not long.done()
        gate.let_go()
        found = long.result(SECONDS)
    assert max(gate.rows) <= 16
    assert_close(found.raw, engine.explain(images(1), RISE).raw, factor=4)


# ---------------------------------------------------------------- deadlines, and clients that leave


def test_a_deadline_within_a_long_method(engine, gate) -> None:
    with Scheduler(engine, max_batch=16) as scheduler:
        gate.close()
        asked = request(engine, RISE, deadline=time.monotonic() + 600)
        late = scheduler.submit(asked)
        gate.wait_for(1)
        gate.step()
        make_late(scheduler, asked)
        with pytest.raises(DeadlineError, match="stopped at its deadline"):
            late.result(SECONDS)  # while its run has not ended
        gate.let_go()
        assert scheduler.drain(SECONDS)
        wait_until(scheduler, lambda: not scheduler._long)
    assert len(gate.rows) == 2


def test_a_deadline_that_has_passed(engine, gate) -> None:
    with Scheduler(engine, max_delay=0.05) as scheduler:
        late, other = submit_together(
            scheduler, request(engine, deadline=time.monotonic() - 1), request(engine)
        )
        assert isinstance(late.exception(SECONDS), DeadlineError)
        assert other.result(SECONDS).passes.trunk == 1
    assert gate.rows == [1]


def test_one_that_is_late_leaves_the_others_of_its_call(engine, gate) -> None:
    with Scheduler(engine) as scheduler:
        gate.close()
        asked = request(engine, deadline=time.monotonic() + 600)
        late, other = submit_together(scheduler, asked, request(engine))
        gate.wait_for(1)
        make_late(scheduler, asked)
        assert isinstance(late.exception(SECONDS), DeadlineError)
        gate.let_go()
        assert other.result(SECONDS).maps.shape == (1, 6, 8)


def test_the_work_for_a_client_that_left_is_not_done(engine, gate) -> None:
    with Scheduler(engine, max_batch=16) as scheduler:
        gate.close()
        left = scheduler.submit(request(engine, RISE))
        gate.wait_for(1)
        gate.step()
        assert left.cancel()
        wait_until(scheduler, lambda: not scheduler._long)  # its thread has ended
        gate.let_go()
        assert scheduler.drain(SECONDS)
    assert len(gate.rows) == 2
    with pytest.raises(CancelledError):
        left.result(0)


def endless_engine(folder: Path) -> tuple[camrt.Engine, np.ndarray, np.ndarray]:
    """An engine, images that it answers, and images that it never ends with."""
    engine = camrt.load(hostile_models.endless_loop(folder / "endless.onnx", above=1e6), threads=1)
    good = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    return engine, good, np.full_like(good, 1e9)


@pytest.mark.parametrize("leave", ["client", "deadline"])
def test_a_run_that_nobody_waits_for_is_stopped(tmp_path: Path, leave: str) -> None:
    engine, good, endless = endless_engine(tmp_path)
    with Scheduler(engine) as scheduler:
        asked = ExplainRequest(batch=engine.prepare(endless), deadline=time.monotonic() + 600)
        left = scheduler.submit(asked)
        wait_until(scheduler, lambda: scheduler._runs._running)
        if leave == "client":
            left.cancel()
        else:
            make_late(scheduler, asked)
        following = scheduler.submit(ExplainRequest(batch=engine.prepare(good)))
        assert_close(following.result(SECONDS), engine.predict(good))


def test_closing_stops_runs(tmp_path: Path) -> None:
    engine, _, endless = endless_engine(tmp_path)
    scheduler = Scheduler(engine)
    left = scheduler.submit(ExplainRequest(batch=engine.prepare(endless)))
    wait_until(scheduler, lambda: scheduler._runs._running)
    scheduler.close()
    assert isinstance(left.exception(0), ClosedError)
    for worker in scheduler._runs._workers:
        worker.join(SECONDS)
        assert not worker.is_alive()


def test_a_client_that_leaves_before_its_turn(engine, gate) -> None:
    with Scheduler(engine, max_delay=0.05) as scheduler:
        with scheduler._changed:
            left, other = scheduler.submit(request(engine)), scheduler.submit(request(engine))
            assert left.cancel()
        other.result(SECONDS)
    assert gate.rows == [1]


# ---------------------------------------------------------------- limits


def test_a_full_queue_refuses_at_once(engine, gate) -> None:
    with Scheduler(engine, queue=3) as scheduler:
        gate.close()
        taken = [scheduler.submit(request(engine)) for _ in range(3)]
        with pytest.raises(QueueFullError, match="3 requests are waiting") as full:
            scheduler.submit(request(engine))
        assert 0 < full.value.retry_after <= 60
        assert len(scheduler) == 3
        gate.let_go()
        wait(taken, SECONDS)
        wait_until(scheduler, lambda: not len(scheduler))
        scheduler.submit(request(engine)).result(SECONDS)


def test_a_client_has_its_share(engine, gate) -> None:
    with Scheduler(engine, queue=8, client_limit=2) as scheduler:
        gate.close()
        taken = [scheduler.submit(request(engine, client="one")) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests of this client"):
            scheduler.submit(request(engine, client="one"))
        taken.append(scheduler.submit(request(engine, client="two")))
        taken[0].cancel()
        taken.append(scheduler.submit(request(engine, client="one")))
        gate.let_go()
        wait(taken, SECONDS)
        wait_until(scheduler, lambda: not scheduler._clients)


def test_long_questions_at_once_are_few(engine, gate) -> None:
    with Scheduler(engine) as scheduler:
        gate.close()
        long = submit_together(scheduler, *(request(engine, RISE) for _ in range(9)))
        short = scheduler.submit(request(engine))
        wait_until(scheduler, lambda: scheduler._long.total() == 4)
        gate.let_go()
        short.result(SECONDS)
        wait(long, SECONDS)
        assert scheduler._long.total() <= 4
    assert all(future.exception() is None for future in long)


def test_a_client_with_many_long_questions_does_not_hold_up_another_s(engine, gate, monkeypatch) -> None:
    monkeypatch.setattr(RunQueue, "is_hungry", True)  # though runs wait at the gate
    with Scheduler(engine, max_delay=0.0) as scheduler:
        gate.close()
        many = submit_together(scheduler, *(request(engine, RISE, client="one") for _ in range(9)))
        wait_until(scheduler, lambda: scheduler._long.total() == 4)
        other = scheduler.submit(request(engine, RISE, client="two"))
        many[0].cancel()
        wait_until(scheduler, lambda: scheduler._long == Counter(one=3, two=1))
        gate.let_go()
        wait([*many, other], SECONDS)
        wait_until(scheduler, lambda: not scheduler._long)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_batch": 0}, "max_batch=0"),
        ({"queue": True}, "queue=True"),
        ({"workers": 1.5}, "workers=1.5"),
        ({"client_limit": 0}, "client_limit=0"),
        ({"max_delay": -1}, "max_delay=-1"),
        ({"max_delay": float("nan")}, "max_delay=nan"),
    ],
)
def test_arguments_that_make_no_sense(engine, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Scheduler(engine, **options)


# ---------------------------------------------------------------- the end


def test_draining_loses_no_request(engine, gate) -> None:
    scheduler = Scheduler(engine)
    gate.close()
    taken = [scheduler.submit(request(engine, method)) for method in (PIXAB, RISE, None)]
    assert not scheduler.drain(0.05)
    with pytest.raises(ClosedError, match="takes no more"):
        scheduler.submit(request(engine))
    gate.let_go()
    assert scheduler.drain(SECONDS)
    assert all(future.exception(0) is None for future in taken)
    scheduler.close()


def test_closing_ends_what_is_left(engine, gate) -> None:
    scheduler = Scheduler(engine, queue=16, max_batch=16)
    gate.close()
    taken = [scheduler.submit(request(engine, method)) for method in (PIXAB, *[RISE] * 6)]
    gate.wait_for(1)
    scheduler.close()  # though a run does not end
    assert all(isinstance(future.exception(0), ClosedError) for future in taken)
    assert len(gate.rows) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("camrt-requests")]
    gate.let_go()
    for worker in scheduler._runs._workers:
        worker.join(SECONDS)
        assert not worker.is_alive()
    scheduler.close()


def test_nothing_is_kept_of_a_request(engine) -> None:
    with Scheduler(engine) as scheduler:
        asked = request(engine, deadline=time.monotonic() + 600)
        kept = weakref.ref(asked)
        scheduler.submit(asked).result(SECONDS)
        del asked
        scheduler.submit(request(engine, None)).result(SECONDS)  # threads let go of what they had
        deadline = time.monotonic() + SECONDS
        while kept() is not None and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        assert kept() is None


# ---------------------------------------------------------------- errors


def test_a_run_that_fails_fails_no_other_request(engine, gate) -> None:
    gate.refuse = lambda rows: bool((rows.reshape(len(rows), -1)[:, 0] == MARK).any())
    broken = images(1)
    broken[0, 0, 0, 0] = MARK
    with Scheduler(engine, max_delay=0.05) as scheduler:
        asked = submit_together(
            scheduler,
            request(engine, images=images(1, 1)),
            request(engine, images=broken),
            request(engine, images=images(1, 2)),
            request(engine, PIXAB),
            request(engine, None, images=broken),
            request(engine, None),
        )
        errors = [future.exception(SECONDS) for future in asked]
    assert [None if error is None else type(error) for error in errors] == [
        None, BackendError, None, None, BackendError, None,
    ]  # fmt: skip
    gate.refuse = lambda _: False
    assert_close(asked[2].result().raw, engine.explain(images(1, 2), CAM).raw, factor=4)


@pytest.mark.parametrize("when", ["queued", "batch", "passes"])
def test_an_observer_that_fails_leaves_nobody_waiting(engine, when: str) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    seen = Seen()
    setattr(seen, when, fail)
    with Scheduler(engine, observer=seen) as scheduler:
        assert isinstance(scheduler.submit(request(engine)).exception(SECONDS), ZeroDivisionError)


def test_errors_are_those_of_a_call(engine) -> None:
    with Scheduler(engine) as scheduler:
        with pytest.raises(TargetError, match="class 7 is out of range"):
            scheduler.submit(request(engine, targets=7))
        for options in (
            {"top_k": 9},
            {"targets": 1, "top_k": 1},
            {"size": "original"},
            {"size": 5},
            {"size": [2, 0]},
            {"fuse": ["none"]},
        ):
            with pytest.raises((InputError, TargetError)) as alone:
                engine.explain(images(1), CAM, **options)
            asked = [request(engine, top_k=options.get("top_k")), request(engine, **options)]
            error = submit_together(scheduler, *asked)[1].exception(SECONDS)
            assert (type(error), str(error)) == (alone.type, str(alone.value))
        error = scheduler.submit(request(engine, make_method("rollout", {}))).exception(SECONDS)
        assert isinstance(error, MethodError)


# ---------------------------------------------------------------- all of it at once


@pytest.mark.parametrize("workers", [1, 3])
def test_good_and_bad_cancelled_and_late_requests(engine, gate, workers: int) -> None:
    """No answer is lost, wrong or given twice."""
    gate.refuse = lambda rows: bool((rows.reshape(len(rows), -1)[:, 0] == MARK).any())
    kinds = ["pixab", "cam", "gradcam", "predict", "rise", "broken", "class", "late", "cancelled"]
    methods = {"pixab": PIXAB, "cam": CAM, "gradcam": GRAD, "predict": None, "rise": RISE}
    given = [images(1, seed) for seed in range(4)]
    broken = [rows.copy() for rows in given]
    for rows in broken:
        rows[0, 0, 0, 0] = MARK
    expected = {
        (kind, seed): engine.predict(rows) if method is None else engine.explain(rows, method).raw
        for kind, method in methods.items()
        for seed, rows in enumerate(given)
    }
    seen = Seen()
    ends: Counter[Any] = Counter()
    found: list[tuple[str, int, Future[Any]]] = []

    def ask(number: int) -> None:
        rng = np.random.default_rng(number)
        for _ in range(40):
            kind, seed = str(rng.choice(kinds)), int(rng.integers(4))
            method = methods.get(kind, RISE if rng.random() < 0.5 else PIXAB)
            made = request(
                engine,
                method,
                images=(broken if kind == "broken" else given)[seed],
                top_k=99 if kind == "class" else None,
                deadline=time.monotonic() + (0.0 if kind == "late" else 600.0),
                client=str(number),
            )
            future = scheduler.submit(made)
            future.add_done_callback(lambda future: ends.update([id(future)]))
            if kind == "cancelled":
                future.cancel()
            found.append((kind, seed, future))
            if rng.random() < 0.5:
                wait([future], SECONDS)

    with Scheduler(engine, max_batch=8, queue=500, workers=workers, observer=seen) as scheduler:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert scheduler.drain(SECONDS)
        assert not len(scheduler)
        wait_until(scheduler, lambda: not scheduler._runs._computing and not scheduler._long)
    wanted = {"broken": BackendError, "late": DeadlineError}
    for kind, seed, future in found:
        assert future.done()
        if kind == "cancelled":
            assert future.cancelled() or future.exception() is None  # it was answered before
        elif kind == "class":
            assert isinstance(future.exception(), (TargetError, type(None)))
        elif kind in wanted:
            assert isinstance(future.exception(), wanted[kind])
        else:
            answer = future.result()
            answer = answer if kind == "predict" else answer.raw
            assert_close(answer, expected[kind, seed], factor=4)
    assert len(found) == 8 * 40 == len(seen.answers)
    assert set(ends.values()) == {1}
