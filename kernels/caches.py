"""Caches that hold a number of bytes at most: what was asked for longest ago goes first."""

from __future__ import annotations

import functools
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from camrt.kernels.fork_safety import renew_after_fork

__all__ = ["ByteCache", "bytes_of", "cache_by_bytes"]

T = TypeVar("T")
Given = ParamSpec("Given")

MAX_BYTES = 64 << 20
ENTRY_OVERHEAD = 256  # bytes of Python's own objects for an entry, about


class ByteCache(Generic[T]):
    """What was made before, by key; safe to use from several threads at once.

    Something larger than all that the cache may hold is made, and not kept.

    Args:
        max_bytes: Bytes that it holds at most.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._found: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Starts anew in a forked child, see `camrt.kernels.fork_safety`."""
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T], size: int | None = None) -> T:
        """What is kept under a key; else it is made, which other threads do not wait for.

        Args:
            key: The key.
            make: Makes it.
            size: Its bytes, the key's included; None counts the arrays in both.
        """
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key][0]
        made = make()
        taken = bytes_of(key) + bytes_of(made) + ENTRY_OVERHEAD if size is None else size
        if taken > self.max_bytes:
            return made
        with self._lock:
            if key in self._found:  # another thread was quicker
                return self._found[key][0]
            self._found[key] = made, taken
            self.used_bytes += taken
            while self.used_bytes > self.max_bytes:
                self.used_bytes -= self._found.popitem(last=False)[1][1]
        return made

    def clear(self) -> None:
        """Lets go of everything."""
        with self._lock:
            self._found.clear()
            self.used_bytes = 0

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._found)


def bytes_of(value: Any) -> int:
    """Bytes that a value takes, about: of arrays and tensors their numbers, of collections their members."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, (str, bytes, int, float)) or value is None:
        return sys.getsizeof(value)
    if is_dataclass(value) and not isinstance(value, type):
        return sum(bytes_of(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return sum(bytes_of(one) for pair in value.items() for one in pair)
    if isinstance(value, (tuple, list, set, frozenset)):
        return sys.getsizeof(value) + sum(map(bytes_of, value))
    return sys.getsizeof(value)


def cache_by_bytes(max_bytes: int = MAX_BYTES) -> Callable[[Callable[Given, T]], Callable[Given, T]]:
    """Decorates a function whose answers are kept, as many as fit in so many bytes.

    Args:
        max_bytes: Bytes.
    """

    def decorate(function: Callable[Given, T]) -> Callable[Given, T]:
        cache: ByteCache[T] = ByteCache(max_bytes)

        @functools.wraps(function)
        def run(*given: Given.args, **named: Given.kwargs) -> T:
            key = (given, tuple(sorted(named.items())))
            return cache.get(key, lambda: function(*given, **named))

        run.cache = cache  # type: ignore[attr-defined]
        return run

    return decorate
