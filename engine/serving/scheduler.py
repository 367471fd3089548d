"""Answers requests of many clients by one model, in shared batches and in turn."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from functools import partial
from types import TracebackType
from typing import Self

from camrt.engine.caller_warnings import silence_warnings
from camrt.engine.engine import Engine
from camrt.engine.explanation import Explanation
from camrt.engine.passes import PassCounts
from camrt.engine.runtime.run_sharing import sharing_runs
from camrt.engine.serving.observer import NOBODY, Observer
from camrt.engine.serving.pending import Group, GroupBudget, Pending, late_error
from camrt.engine.serving.questions import Answer, QuestionReader, ask_together
from camrt.engine.serving.requests import ExplainRequest
from camrt.engine.serving.run_queue import RunQueue
from camrt.engine.serving.run_task import Asker
from camrt.errors import ClosedError, DegenerateMapWarning, InputError, QueueFullError
from camrt.export.budget import within_budget

__all__ = ["Scheduler"]

LONG_AT_ONCE = 4  # long questions that are worked on at once, each with a batch of altered images in memory
LEAST_WAIT, MOST_WAIT = 0.1, 60.0  # seconds after which a client is told to come again


class Scheduler:
    """Answers requests of many clients by one engine.

    Requests that ask the same of other images are answered by one call, and all that the calls at work ask of
    the model's runners at one time is run together, whatever the method, the classes and the options: see
    `camrt.engine.serving.run_queue`. Answers are those of separate calls of `engine.explain`, but for the
    order of a sum here or there.

    Args:
        engine: The model.
        max_batch: The largest run, in images; no more than the engine's `batch_size`.
        max_delay: Seconds that a request waits for others to share a batch with.
        queue: How many requests there are at most, those that are worked on among them.
        workers: Runs at once.
        client_limit: How many requests of one client there are at most; None for `queue`.
        observer: Is told what happens.

    Raises:
        InputError: An argument that makes no sense.

    Example:
        with Scheduler(engine, max_batch=16, max_delay=0.002, queue=64) as scheduler:
            request = ExplainRequest(batch=engine.prepare(["cat.jpg"]), method=make_method("pixab", {}))
            scheduler.submit(request).result().maps
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int = 32,
        max_delay: float = 0.002,
        queue: int = 128,
        workers: int = 1,
        client_limit: int | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        limits = {"max_batch": max_batch, "queue": queue, "workers": workers, "client_limit": client_limit}
        for name, value in limits.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name}={value!r} must be a whole number, 1 or more")
        if isinstance(max_delay, bool) or not isinstance(max_delay, (int, float)) or not 0 <= max_delay < 60:
            raise InputError(f"max_delay={max_delay!r} must be seconds, from 0 to less than 60")
        self._engine = copy(engine)  # with its own batch size
        self._engine.batch_size = self._max_batch = min(max_batch, engine.batch_size)
        self._reader = QuestionReader(self._engine)
        self._max_delay = max_delay
        self._queue = queue
        self._client_limit = queue if client_limit is None else client_limit
        self._observer = observer
        self._runs = RunQueue(
            max_batch=self._max_batch,
            max_delay=max_delay,
            workers=workers,
            max_memory=engine.max_memory,
            observer=observer,
        )
        self._changed = self._runs.changed  # its lock guards all that follows, too
        self._taken: set[Pending] = set()
        self._clients: Counter[str] = Counter()
        self._waiting: list[Group] = []
        self._open: dict[Hashable, Group] = {}
        self._long: Counter[str] = Counter()  # long questions at work, by client
        self._interval, self._last_answer = 0.0, time.monotonic()  # of answers, for `retry_after`
        self._draining = self._closed = False
        self._threads = ThreadPoolExecutor(queue, thread_name_prefix="camrt-requests")
        self._dispatcher = threading.Thread(target=self._dispatch, name="camrt-dispatch", daemon=True)
        self._dispatcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many requests have no answer yet."""
        return len(self._taken)

    def submit(self, request: ExplainRequest) -> Future[Answer]:
        """Takes a request, at once.

        Args:
            request: It. `future.cancel()` ends the work on it.

        Returns:
            Its answer: an explanation, or logits (N, C), in arrays of NumPy; or what `engine.explain` raises,
            `DeadlineError` as soon as its deadline has passed, or `ClosedError`. Of requests that were
            answered by one call, `passes` and `seconds` are those of the call.

        Raises:
            QueueFullError: There are too many, of all clients or of this one; it says when to come again.
            ClosedError: No more are taken.
            TargetError: Its classes are none of the model's.
        """
        pending = Pending(self._reader.read(request))
        with self._changed:
            if self._draining:
                raise ClosedError("the service takes no more requests: it is being ended")
            if len(self._taken) >= self._queue:
                raise QueueFullError(
                    f"{self._queue} requests are waiting, which is as many as may", self._retry_after()
                )
            if self._clients[request.client] >= self._client_limit:
                raise QueueFullError(
                    f"{self._client_limit} requests of this client are waiting, which is as many as may",
                    self._retry_after(),
                )
            self._taken.add(pending)
            self._clients[request.client] += 1
            self._put(pending)
            self._changed.notify_all()
        pending.future.add_done_callback(partial(self._settled, pending))
        return pending.future

    def drain(self, timeout: float | None = None) -> bool:
        """Takes no more requests, and waits until all that were taken have their answers.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Returns:
            Whether all have.
        """
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._taken, timeout)

    def close(self) -> None:
        """Takes no more requests, fails those without an answer, and ends all threads."""
        with self._changed:
            self._draining = self._closed = True
            left = list(self._taken)
            self._changed.notify_all()
        for pending in left:
            pending.fail(ClosedError("the service was ended before the request was answered"))
        self._runs.close()
        self._dispatcher.join()
        self._threads.shutdown()

    # ---------------------------------------------------------------- taking requests

    def _put(self, pending: Pending) -> None:
        """Puts a request into a group of questions of its kind."""
        kind = pending.question.kind
        group = self._open.get(kind) if kind is not None else None
        if group is None or group.images + pending.question.images > self._max_batch:
            group = Group(kind is None, [])
            self._waiting.append(group)
            if kind is not None:
                self._open[kind] = group
        group.members.append(pending)
        pending.group = group

    def _settled(self, pending: Pending, future: Future[Answer]) -> None:
        """Notes that a request has its answer, or that nobody waits for it."""
        now = time.monotonic()
        if future.cancelled():
            pending.note_cancelled()
        with self._changed:
            self._taken.discard(pending)
            client = pending.question.request.client
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
            self._interval += 0.2 * (now - self._last_answer - self._interval)
            self._last_answer = now
            group = pending.group
            if group is not None and group.asker is not None and not group.live:
                self._runs.stop(group.asker)
            self._changed.notify_all()
        method = pending.question.request.method
        error = TimeoutError("the client left") if future.cancelled() else future.exception()
        self._observer.answered(None if method is None else method.name, now - pending.arrived, error)

    def _retry_after(self) -> float:
        """Seconds in which what is waiting now will be answered, about."""
        return min(max(self._interval * len(self._taken), LEAST_WAIT), MOST_WAIT)

    # ---------------------------------------------------------------- giving them to threads

    def _dispatch(self) -> None:
        while True:
            with self._changed:
                while True:
                    now = time.monotonic()
                    late = [pending for pending in self._taken if pending.end <= now]
                    ready = self._take_ready(now)
                    if late or ready:
                        break
                    if self._closed:
                        return
                    self._changed.wait(self._seconds_to_next(now))
            for pending in late:
                pending.fail(late_error())
            for group in ready:
                self._threads.submit(self._answer, group)

    def _startable(self) -> list[Group]:
        """Groups that may be worked on, the oldest first: all, but for so many long ones.

        Of those come first the ones of clients with the fewest at work.
        """
        long = [group for group in self._waiting if group.is_long]
        long.sort(key=lambda group: self._long[group.client])
        held_back = set(long[max(LONG_AT_ONCE - self._long.total(), 0) :])
        return [group for group in self._waiting if group not in held_back]

    def _take_ready(self, now: float) -> list[Group]:
        """Groups to be worked on now: full ones, or all of them when the oldest has waited long enough.

        While what short questions ask for waits to be run, others gather meanwhile.
        """
        self._waiting = [group for group in self._waiting if group.live]
        groups = self._startable()
        if not (groups and self._runs.is_hungry and groups[0].members[0].arrived + self._max_delay <= now):
            groups = [group for group in groups if group.images >= self._max_batch]
        for group in groups:
            shape = group.members[0].question.request.batch.images.shape
            group.asker = Asker(math.prod(shape[1:]), len(group.members))
            self._runs.begin(group.asker)
            if group.is_long:
                self._long[group.client] += 1
        self._waiting = [group for group in self._waiting if group.asker is None]
        self._open = {kind: group for kind, group in self._open.items() if group.asker is None and group.live}
        return groups

    def _seconds_to_next(self, now: float) -> float | None:
        """Seconds until something is to be done, if nothing happens before."""
        times = [pending.end for pending in self._taken]
        if self._runs.is_hungry and (groups := self._startable()):
            times.append(groups[0].members[0].arrived + self._max_delay)
        soonest = min(times, default=math.inf)
        return None if soonest == math.inf else min(max(soonest - now, 0.0), threading.TIMEOUT_MAX)

    # ---------------------------------------------------------------- answering them

    def _answer(self, group: Group) -> None:
        """Answers a group's requests, in a thread of its own."""
        assert group.asker is not None
        try:
            for member in group.live:
                self._observer.queued(time.monotonic() - member.arrived)
            self._answer_together(group.members, group.asker)
        except BaseException as error:  # an observer's, say: nobody waits for ever
            for member in group.live:
                member.fail(error)
            raise
        finally:
            self._runs.end(group.asker)
            with self._changed:
                if group.is_long:
                    self._long -= Counter([group.client])  # without clients of none
                self._changed.notify_all()

    def _answer_together(self, members: list[Pending], asker: Asker) -> None:
        """Answers requests by one call; where that fails, each by its own, so that none fails another."""
        live = [member for member in members if not member.future.done()]
        if not live:
            return
        budget = GroupBudget(self._engine.max_memory, call="the request", members=tuple(live))
        try:
            with (
                within_budget(budget),
                sharing_runs(self._runs.sharing(asker)),
                silence_warnings(DegenerateMapWarning),
            ):
                answers = ask_together(self._engine, [member.question for member in live])
        except Exception as error:
            if len(live) == 1:
                live[0].fail(error)
                return
            for member in live:
                self._answer_together([member], asker)
            return
        images = sum(member.question.images for member in live)
        self._observer.passes(
            answers[0].passes if isinstance(answers[0], Explanation) else PassCounts(full=images)
        )
        for member, answer in zip(live, answers, strict=True):
            member.give(answer)
