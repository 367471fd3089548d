"""The runs that several threads ask of a model's runners: those of a kind together, and in turn.

What a thread asks within `RunQueue.sharing` waits here for a worker. A worker takes what waits for the same
runner, of whichever threads, and runs it as one batch. A question that has asked for more than a batch is
long: its rows are run a little at a time between runs for short questions (`camrt.engine.serving.pace`), and
long questions take turns.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from sys import modules
from typing import Any

from camrt.engine.arrays import concat
from camrt.engine.runtime import Runner
from camrt.engine.runtime.run_sharing import RunSharing
from camrt.engine.runtime.run_stopping import RunStopper, stoppable
from camrt.engine.serving.observer import Observer
from camrt.engine.serving.pace import Pace
from camrt.engine.serving.run_task import BATCH, Asker, RunPart, RunTask
from camrt.errors import ClosedError, DeadlineError
from camrt.export.budget import Budget, check_deadline, prefer_deadline_error, seconds_left, within_budget
from camrt.kernels.dispatch import host_readable
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["RunQueue"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
GRACE_SECONDS = 1.0  # seconds that runs get to end when all is closed


class SharedRuns:
    """What a thread asks runners through; see `camrt.engine.runtime.run_sharing.RunSharing`."""

    def __init__(self, queue: RunQueue, asker: Asker) -> None:
        self._queue = queue
        self._asker = asker

    def run(
        self, runner: Runner, batch: Array, names: Sequence[str], extra_inputs: Mapping[str, Array]
    ) -> list[Array]:
        """Has the rows run with others', and waits for the answer."""
        task = RunTask(
            self._asker,
            runner,
            {BATCH: batch, **extra_inputs},
            tuple(names),
            time.monotonic() + seconds_left(),
            math.prod(batch.shape[1:]) / self._asker.numbers,
            missing=len(batch),
        )
        return self._queue.wait_for(task)


class RunQueue:
    """Runs what threads ask for.

    Args:
        max_batch: The largest run, in images.
        max_delay: Seconds that a run waits for short questions which are about to ask for one.
        workers: How many runs there are at once.
        max_memory: Bytes that a run may allocate at once.
        observer: Is told of every run.

    Attributes:
        changed: Is notified of whatever changes here; its lock guards the queue.
    """

    def __init__(
        self, *, max_batch: int, max_delay: float, workers: int, max_memory: int, observer: Observer
    ) -> None:
        self.changed = threading.Condition()
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._max_memory = max_memory
        self._observer = observer
        self._pace = Pace(max_batch)
        self._short: deque[RunTask] = deque()
        self._long: deque[RunTask] = deque()
        self._short_ended = float("-inf")  # when the last run for a short question ended
        self._computing = 0
        self._running: dict[RunStopper, list[RunPart]] = {}
        self._closed = False
        self._workers = [
            threading.Thread(target=self._work, name=f"camrt-runs-{number}", daemon=True)
            for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def is_hungry(self) -> bool:
        """Whether no short question waits for a run."""
        return not self._short

    def sharing(self, asker: Asker) -> RunSharing:
        """What that thread's runs are shared by, see `sharing_runs`."""
        return SharedRuns(self, asker)

    def begin(self, asker: Asker) -> None:
        """Notes that a thread begins to work on a question."""
        with self.changed:
            self._set_computing(asker, True)

    def end(self, asker: Asker) -> None:
        """Notes that a thread has ended."""
        with self.changed:
            self._set_computing(asker, False)
            if not asker.is_long:
                self._pace.note_short_question()
            self.changed.notify_all()

    def stop(self, asker: Asker) -> None:
        """Leaves what a thread waits for undone: nobody wants its answer."""
        with self.changed:
            asker.stopped = True
            if asker.task is not None:
                self._finish(asker.task, DeadlineError("nobody waits for the answer any more"))

    def close(self) -> None:
        """Ends the workers, and waits a little for them; what still waits is refused."""
        with self.changed:
            self._closed = True
            running = [part.task for parts in self._running.values() for part in parts]
            for task in (*self._short, *self._long, *running):
                self._finish(task, ClosedError("the service was ended"))
            self.changed.notify_all()
        until = time.monotonic() + GRACE_SECONDS
        for worker in self._workers:  # one that is within a run ends after it
            worker.join(max(until - time.monotonic(), 0.0))

    def wait_for(self, task: RunTask) -> list[Array]:
        """The outputs of a task.

        Raises:
            DeadlineError: The call at hand has taken too long, or its asker was stopped.
            BaseException: What the runner raises.
        """
        asker = task.asker
        with self.changed:
            if self._closed:
                raise ClosedError("the service was ended")
            if asker.stopped:
                raise DeadlineError("nobody waits for the answer any more")
            asker.asked += task.rows * task.row_size
            self._set_computing(asker, False)
            asker.is_long = asker.is_long or asker.asked > self._max_batch * asker.requests
            (self._long if asker.is_long else self._short).append(task)
            asker.task = task
            self.changed.notify_all()
        if not task.done.wait(min(task.end - time.monotonic(), threading.TIMEOUT_MAX)):
            with self.changed:
                self._finish(task, DeadlineError("the run was not made in time"))
        if task.error is not None:
            with prefer_deadline_error():
                raise task.error
        check_deadline()
        parts = [task.found[start] for start in sorted(task.found)]
        return [concat(outputs) for outputs in zip(*parts, strict=True)]

    def _set_computing(self, asker: Asker, computing: bool) -> None:
        """Keeps count of the short questions that may ask for a run soon."""
        computing = computing and not asker.is_long
        self._computing += computing - asker.is_computing
        asker.is_computing = computing

    def _finish(self, task: RunTask, error: BaseException | None = None) -> None:
        """Gives a task its answer, once; a run that was for it alone is stopped if it still goes on."""
        if task.done.is_set():
            return
        for lane in (self._short, self._long):
            if task in lane:
                lane.remove(task)
        task.error = error
        task.asker.task = None
        self._set_computing(task.asker, True)
        task.done.set()
        for stopper, parts in self._running.items():
            if all(part.task.done.is_set() for part in parts):
                stopper.stop()
        self.changed.notify_all()

    # ---------------------------------------------------------------- workers

    def _work(self) -> None:
        while parts := self._next():
            self._run(parts)

    def _next(self) -> list[RunPart]:
        """What is run next, as soon as there is something; nothing when the queue is closed."""
        with self.changed:
            while not self._closed:
                now, waits = time.monotonic(), []
                if self._long:
                    waits.append(self._seconds_until_long(now))
                    if waits[-1] <= 0:
                        return self._take(self._long, self._pace.size(id(self._long[0].runner)))
                if self._short:
                    waits.append(self._seconds_until_short(now))
                    if waits[-1] <= 0:
                        return self._take(self._short, self._max_batch)
                soonest = min(waits, default=math.inf)
                self.changed.wait(None if soonest == math.inf else soonest)
            return []

    def _seconds_until_long(self, now: float) -> float:
        """How long a long question waits: for its turn, or until short ones ask for nothing more."""
        if self._pace.long_is_due or not (self._short or self._computing):
            return 0.0
        return math.inf if self._short else self._short_ended + self._max_delay - now

    def _seconds_until_short(self, now: float) -> float:
        """How long what short questions ask for waits for more of it."""
        if not self._computing or sum(task.rows * task.row_size for task in self._short) >= self._max_batch:
            return 0.0
        return self._short[0].arrived + self._max_delay - now

    def _take(self, lane: deque[RunTask], most: float) -> list[RunPart]:
        """Rows of the first task, and of those that can be run with it, of no more than so many images.

        A task of which rows are left goes to the end of the queue.
        """
        kind, left = lane[0].kind, most
        parts: list[RunPart] = []
        for task in [task for task in lane if task.kind == kind]:
            count = min(task.rows - task.taken, int(left / task.row_size))
            if not parts:
                count = max(count, 1)
            if count < 1:
                break
            part = RunPart(task, task.taken, task.taken + count)
            parts.append(part)
            left -= part.size
            task.taken = part.stop
            lane.remove(task)
            if task.taken < task.rows:
                lane.append(task)
        self.changed.notify_all()  # who waits for this queue to be hungry
        return parts

    def _run(self, parts: list[RunPart]) -> None:
        """Runs some rows together; where that fails, those of each task by themselves."""
        stopper = RunStopper()
        with self.changed:
            wanted = [part for part in parts if not part.task.done.is_set()]
            if not wanted:
                return
            self._running[stopper] = wanted
        started = time.monotonic()
        try:
            try:
                with stoppable(stopper):
                    found = self._run_together(wanted)
            finally:
                with self.changed:
                    del self._running[stopper]
            seconds, size = time.monotonic() - started, sum(part.size for part in wanted)
            rows = sum(part.stop - part.start for part in wanted)
            self._observer.batch(rows, len(wanted), size / self._max_batch, seconds)
        except Exception as error:
            if len(wanted) > 1:
                for part in wanted:
                    self._run([part])
                return
            with self.changed:
                self._finish(wanted[0].task, error)
            return
        with self.changed:
            if wanted[0].task.asker.is_long:
                self._pace.note_long_run(id(wanted[0].task.runner), size, seconds)
            else:
                self._pace.note_short_run(id(wanted[0].task.runner), seconds)
                self._short_ended = time.monotonic()
            for part, outputs in zip(wanted, found, strict=True):
                part.task.found[part.start] = outputs
                part.task.missing -= part.stop - part.start
                if not part.task.missing:
                    self._finish(part.task)

    @ignore_float_errors
    def _run_together(self, parts: list[RunPart]) -> list[list[Array]]:
        """The outputs of each task's rows, by one run of the runner that they all wait for."""
        first = parts[0].task
        names = list(dict.fromkeys(name for part in parts for name in part.task.names))
        feeds = {
            name: concat([part.task.feeds[name][part.start : part.stop] for part in parts])
            for name in first.feeds
        }
        left = max(part.task.end for part in parts) - time.monotonic()
        with within_budget(Budget(self._max_memory, left, "a run for some requests")):
            outputs = first.runner(feeds.pop(BATCH), names, feeds or None)
        wait_for_device(outputs)
        by_name = dict(zip(names, outputs, strict=True))
        answers, done = [], 0
        for part in parts:
            following = done + part.stop - part.start
            answers.append([by_name[name][done:following] for name in part.task.names])
            done = following
        return answers


def wait_for_device(outputs: Sequence[Array]) -> None:
    """Waits until arrays on a device have been computed, so that no more than a run is ever queued there."""
    if outputs and not host_readable(outputs[0]):
        modules["torch"].cuda.current_stream(outputs[0].device).synchronize()
