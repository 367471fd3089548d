"""The same question from several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["ask_from_threads"]


def ask_from_threads(ask: Callable[[Any], Any], given: Sequence[Any], times: int) -> list[list[Any]]:
    """What `ask` answers about each of the things given, so many times, each in a thread of its own."""
    found: list[list[Any]] = [[] for _ in given]

    def work(number: int) -> None:
        for _ in range(times):
            found[number].append(ask(given[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
