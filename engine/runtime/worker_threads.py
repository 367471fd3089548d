"""Runs uninterruptible work in a worker thread, so that the caller can stop at a deadline or on Ctrl-C.

A runtime looks at its flag to stop between two operators, and one operator of a file that somebody else made
may take minutes. And Python's signal handlers run in the main thread only, which sees nothing of Ctrl-C while
it is inside the runtime. So what may take long is run in a thread of its own, for which its caller waits: a
wait ends with the deadline, or with the exception that a signal's handler raises, and what still runs then is
told to stop, and left to end by itself.

Nothing of the host's signal handling is touched.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from camrt.engine.runtime.run_stopping import called_to_stop
from camrt.export.budget import check_deadline, prefer_deadline_error, seconds_left
from camrt.kernels.fork_safety import renew_after_fork

__all__ = ["run_with_deadline"]

T = TypeVar("T")

GRACE_SECONDS = 0.1  # seconds that a run which was told to stop gets to end, before it is left
IDLE_SECONDS = 5.0  # seconds after which a thread without work ends
EXIT_WAIT_SECONDS = 0.5  # seconds that the process waits at its end for what was left


def run_with_deadline(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Runs something that releases Python's lock, no longer than the call at hand may take.

    Args:
        work: Is run, in another thread.
        stop: Tells it to end soon; called from this thread when it has taken too long, or when an exception
            is raised here meanwhile, as by Ctrl-C, and by whoever may stop this thread's runs
            (`camrt.engine.runtime.run_stopping`).

    Returns:
        What `work` returns.

    Raises:
        DeadlineError: The call at hand has taken too long, or took too long in `work`.
        BaseException: What `work` raises, and what the handler of a signal raises.
    """
    job = _Job(work, stop)
    left = seconds_left()
    try:
        with called_to_stop(stop):
            _POOL.start(job)
            ended = job.wait(left)
    except BaseException:
        job.stop()
        job.wait(GRACE_SECONDS)
        raise
    if not ended:
        job.stop()
        job.wait(GRACE_SECONDS)
        check_deadline()
    with prefer_deadline_error():
        return job.result()


class _Job(Generic[T]):
    """Something to be run, and how it ended."""

    def __init__(self, work: Callable[[], T], stop: Callable[[], None]) -> None:
        self.stop = stop
        self._work = work
        self._running = threading.Lock()
        self._running.acquire()
        self._found: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._found = self._work()
        except BaseException as error:  # handed to the caller, which raises it
            self._error = error
        finally:
            del self._work
            self._running.release()

    def wait(self, seconds: float) -> bool:
        """Waits until it has ended; whether it has."""
        ended = self._running.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
        if ended:
            self._running.release()
        return ended

    def result(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._found


class _Worker:
    """A thread that runs one job after another, and ends when it has had none for a while."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job[Any]] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="camrt-run", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        waits = 0  # the second in vain ends a thread that was taken for a job which never came
        while waits < 2:
            try:
                job = self.jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                waits = 2 if _POOL.dismiss(self) else waits + 1
                continue
            waits = 0
            _POOL.begin(job)
            job.run()
            _POOL.finish(self, job)
            del job


class _WorkerPool:
    """The threads of this process that run jobs, and what they run."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._running: set[_Job[Any]] = set()

    def start(self, job: _Job[Any]) -> None:
        """Gives a job to a thread that has none."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        (worker or _Worker()).jobs.put(job)

    def begin(self, job: _Job[Any]) -> None:
        """Notes that a job runs."""
        with self._lock:
            self._running.add(job)

    def finish(self, worker: _Worker, job: _Job[Any]) -> None:
        """Takes back a thread that has run its job."""
        with self._lock:
            self._running.discard(job)
            self._idle.append(worker)

    def dismiss(self, worker: _Worker) -> bool:
        """Whether a thread without work may end: it may not when it is given some at this moment."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True

    def end(self) -> None:
        """Stops what still runs, and waits for it: a runtime may not be unloaded under it."""
        with self._lock:
            running = list(self._running)
        until = time.monotonic() + EXIT_WAIT_SECONDS
        for job in running:
            job.stop()
        for job in running:
            job.wait(max(until - time.monotonic(), 0.0))


_POOL = _WorkerPool()
atexit.register(_POOL.end)
