"""An engine's methods within what its caller allows them: bytes and seconds, see `camrt.export.budget`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from camrt.errors import InputError
from camrt.export.budget import Budget, within_budget

__all__ = ["HasCallLimits", "check_deadline_option", "check_memory", "with_call_limits"]

Call = TypeVar("Call", bound=Callable[..., Any])


class HasCallLimits(Protocol):
    """What says how much its calls may take.

    Attributes:
        call_deadline: Seconds that a call may take.
    """

    call_deadline: float

    @property
    def max_memory(self) -> int:
        """Bytes that a call may allocate at once."""
        ...


def with_call_limits(call: str) -> Callable[[Call], Call]:
    """Decorates a method of something `HasCallLimits`, which may take as much as its object says.

    Args:
        call: What it does, for messages: "explaining".
    """

    def decorate(method: Call) -> Call:
        @functools.wraps(method)
        def run(self: HasCallLimits, *args: Any, **options: Any) -> Any:
            with within_budget(Budget(self.max_memory, self.call_deadline, call, "call_deadline")):
                return method(self, *args, **options)

        return cast("Call", run)

    return decorate


def check_memory(count: int) -> int:
    """A number of bytes as given, refused where it makes no sense."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"max_memory={count!r} must be a whole number of bytes, 1 or more")
    return count


def check_deadline_option(name: str, seconds: float) -> float:
    """Seconds as given, refused where they make no sense."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise InputError(f"{name}={seconds!r} must be seconds above zero; {math.inf} for no bound")
    return float(seconds)
