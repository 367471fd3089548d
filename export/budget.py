"""Limits on the memory and the time of one call.

A file says how large its tensors are and how often its loops run, and a file is a stranger's. So `load` and
every method of an engine work within a `Budget`: whoever is about to allocate something whose size a file or
a caller decides asks first (`reserve`), and whoever goes through a graph looks at the clock on the way
(`check_deadline`). The budget of the call at hand is found without being passed along:

    with within_budget(Budget(max_memory=1 << 30, seconds=10.0, call="loading")):
        reserve(math.prod(shape) * 4, "noise to try the model with")
        zeros = np.zeros(shape, np.float32)
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from camrt.errors import DeadlineError, MemoryLimitError
from camrt.export.limits import human_bytes
from camrt.kernels.memory import free_memory

__all__ = [
    "DEFAULT_MAX_MEMORY",
    "Budget",
    "allowed_memory",
    "check_deadline",
    "default_max_memory",
    "memory_limit_error",
    "prefer_deadline_error",
    "reserve",
    "reserve_array",
    "seconds_left",
    "with_deadline",
    "within_budget",
]

T = TypeVar("T")

# So many things are gone through between two looks at the clock: a look costs about as much as one.
CHECK_EVERY = 32

DEFAULT_MAX_MEMORY = 8 << 30
MIN_DEFAULT_MEMORY = 512 << 20


def default_max_memory() -> int:
    """Bytes that a call may allocate at once where nobody says: half of what is free, and 8 GiB at most.

    Free is what the machine has left, and what control groups (a container's limit) still grant. It is never
    less than 512 MiB, since what is free changes all the time.
    """
    free = free_memory()
    return DEFAULT_MAX_MEMORY if free is None else max(min(DEFAULT_MAX_MEMORY, free // 2), MIN_DEFAULT_MEMORY)


@dataclass(frozen=True)
class Budget:
    """What a call may take.

    Attributes:
        max_memory: Bytes that the call may allocate at once, beside the model's own weights.
        seconds: It may take; infinity for no bound.
        call: What the call does, for messages: "loading", "explaining".
        option: The argument that sets `seconds`, for messages.
        started: When the call began, by `time.monotonic`.
    """

    max_memory: int = DEFAULT_MAX_MEMORY
    seconds: float = math.inf
    call: str = "the call"
    option: str = "deadline"
    started: float = field(default_factory=time.monotonic)

    @property
    def end_time(self) -> float:
        """When the call must have ended, by `time.monotonic`."""
        return self.started + self.seconds

    def deadline_error(self) -> DeadlineError:
        """The error that says that the call has taken too long."""
        return DeadlineError(
            f"{self.call} was stopped after its deadline of {self.seconds:g} s; {self.option}= sets another"
        )

    def memory_error(self, needed: str) -> MemoryLimitError:
        """The error that says that the call may not allocate what it needs."""
        return MemoryLimitError(
            f"{self.call} needs {needed}; max_memory={self.max_memory} allows "
            f"{human_bytes(self.max_memory)}. Raise it if you trust the file"
        )


_CURRENT: ContextVar[tuple[Budget, ...]] = ContextVar("camrt_budget", default=())


@contextmanager
def within_budget(budget: Budget) -> Iterator[None]:
    """Limits memory and time of the block; budgets of enclosing blocks hold as well.

    Raises:
        MemoryLimitError: The system had less memory than the budget allows, and none left.
    """
    token = _CURRENT.set((*_CURRENT.get(), budget))
    try:
        yield
    except MemoryLimitError:
        raise
    except MemoryError as error:
        raise MemoryLimitError(f"{budget.call} needs more memory than the system gives: {error}") from error
    finally:
        _CURRENT.reset(token)


def memory_budgets() -> tuple[Budget, ...]:
    """The budgets in force; outside any call, one with the default limit of memory."""
    return _CURRENT.get() or (Budget(),)


def allowed_memory() -> int:
    """Bytes that the call at hand may allocate at once."""
    return min(budget.max_memory for budget in memory_budgets())


def reserve(count: float, what: str) -> None:
    """Checks that bytes may be allocated, before they are.

    Args:
        count: How many.
        what: What they are for, for the message.

    Raises:
        MemoryLimitError: More than the call at hand may take at once.
    """
    for budget in memory_budgets():
        if count > budget.max_memory:
            raise budget.memory_error(f"{human_bytes(int(count))} at once for {what}")


def memory_limit_error(purpose: str) -> MemoryLimitError:
    """The error that says that the call at hand may not allocate enough.

    Args:
        purpose: What more was needed for: "for a run of the model".
    """
    tightest = min(memory_budgets(), key=lambda budget: budget.max_memory)
    return tightest.memory_error(f"more memory than it may take {purpose}")


def reserve_array(shape: Sequence[int], what: str, *, itemsize: int = 4) -> None:
    """Checks that an array may be allocated, before it is.

    Args:
        shape: Its shape.
        what: What it is, for the message.
        itemsize: Bytes of an element.

    Raises:
        MemoryLimitError: More than the call at hand may take at once.
    """
    reserve(math.prod(int(size) for size in shape) * itemsize, f"{what} {tuple(shape)}")


def seconds_left() -> float:
    """Seconds until the call at hand must have ended; infinity where nothing bounds it.

    Raises:
        DeadlineError: There are none left.
    """
    check_deadline()
    now = time.monotonic()
    return min((budget.end_time - now for budget in _CURRENT.get()), default=math.inf)


def check_deadline() -> None:
    """Raises once the call at hand is over its deadline; to be called often in any loop that may be long.

    Raises:
        DeadlineError: The call at hand has taken too long.
    """
    now = time.monotonic()
    for budget in _CURRENT.get():
        if now >= budget.end_time:
            raise budget.deadline_error()


@contextmanager
def prefer_deadline_error() -> Iterator[None]:
    """Raises `DeadlineError` in place of whatever the block raises once the deadline has passed.

    Raises:
        DeadlineError: The block failed, and the call at hand has taken too long.
    """
    try:
        yield
    except Exception as error:
        try:
            check_deadline()
        except DeadlineError as late:
            raise late from error
        raise


def with_deadline(items: Iterable[T]) -> Iterator[T]:
    """Yields the items, calling `check_deadline` once every `CHECK_EVERY` of them.

    Raises:
        DeadlineError: The call at hand has taken too long.
    """
    left = iter(items)
    while some := tuple(islice(left, CHECK_EVERY)):
        check_deadline()
        yield from some
