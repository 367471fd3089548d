"""Counts what a sanitizer has reported: what is camrt's, and what is left out because others did it.

    python scripts/sanitizers/reports.py REPORT [--not-ours scripts/sanitizers/not_ours.txt]

ThreadSanitizer's own suppressions would leave out any report with a frame of a library somewhere in it, even
of a race between that library and a kernel. Here one is left out only when both accesses were the library's.
The number of reports that count is printed first; on a line of its own, what was left out.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

__all__ = ["count", "libraries"]

START = re.compile(r"(WARNING|ERROR|FATAL): (Thread|Address)Sanitizer: |: runtime error: ")
RACE = "WARNING: ThreadSanitizer: data race"
ACCESS = re.compile(r"^  (previous )?(atomic )?(read|write) of size \d+", re.IGNORECASE | re.MULTILINE)
ALLOCATED = re.compile(r"^  Location is heap block .* allocated by ", re.MULTILINE)
FRAME = re.compile(r"^    #\d+ .*\((?P<library>[^()]+?)(\+0x[0-9a-f]+)?\)$", re.MULTILINE)
NEUTRAL = ("libtsan.", "libstdc++.", "libc.")
"""Those that work for whoever calls them."""
FREED_LOCALS = re.compile(r"^    #\d+ \S*dl_deallocate_tls .*\(ld-linux-\S+\)$", re.MULTILINE)
FINISHED = re.compile(r"^  Thread T\d+ \(tid=\d+, finished\) created by ", re.MULTILINE)
LOCALS_OF_ENDED_THREADS = "locals of threads that had ended, freed by glibc"
"""The loader frees a thread's local variables when the thread has ended, under a lock that a sanitizer does
not see: what was written last into one of them, and by whom, says nothing."""


def libraries(text: str) -> list[str]:
    """The beginnings of names in a list of libraries."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def accessors(report: str) -> set[str]:
    """The libraries that made the two accesses of a data race: of each stack the first but neutral ones.

    Where the sanitizer has forgotten a stack, it is the library that allocated the memory.
    """
    found = set()
    owners = ["an unknown library"]
    forgotten = False
    for stack in report.split("\n\n"):
        names = [match["library"].rsplit("/", 1)[-1] for match in FRAME.finditer(stack)]
        own = [name for name in names if not name.startswith(NEUTRAL)][:1]
        if ALLOCATED.search(stack):
            owners = own or owners
        elif ACCESS.search(stack):
            found.update(own)
            forgotten = forgotten or not names
    return found | set(owners if forgotten else [])


def count(text: str, others: Sequence[str] = ()) -> tuple[int, Counter[str]]:
    """How many reports count, and how many are left out for each library.

    Args:
        text: What a process under a sanitizer has printed.
        others: Beginnings of the names of libraries whose races with themselves are left out.
    """
    ours, left_out = 0, Counter[str]()
    begins = [match.start() for match in START.finditer(text)]
    for begin, end in pairwise([*begins, len(text)]):
        report = text[begin:end].split("\n==================\n")[0]
        found = accessors(report) if report.startswith(RACE) else set()
        names = [other for other in others if found and all(name.startswith(other) for name in found)]
        if others and found and FREED_LOCALS.search(report) and FINISHED.search(report):
            names = [LOCALS_OF_ENDED_THREADS]
        if names:
            left_out[names[0]] += 1
        else:
            ours += 1
    return ours, left_out


def main() -> None:
    """Prints both."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("report", type=Path)
    options.add_argument("--not-ours", type=Path)
    chosen = options.parse_args()
    others = libraries(chosen.not_ours.read_text("utf-8")) if chosen.not_ours else []
    ours, left_out = count(chosen.report.read_text("utf-8", "replace"), others)
    print(ours)
    print(", ".join(f"{number} of {name}" for name, number in sorted(left_out.items())))


if __name__ == "__main__":
    main()
