"""What came of each file, a line of JSON each: a run goes on from it, and tables are made of it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from camrt.errors import InputError
from fuzz.trying import Outcome

__all__ = ["Journal", "table"]

WORDS = ("refused", "answered", "raw", "wrong", "crash", "late", "hang", "memory")


class Journal:
    """The lines of a run.

    Args:
        path: The file.
        settings: What decides which files a run makes and what they may take: the first line.
        resume: Whether a file that is there is gone on from.

    Attributes:
        done: The numbers that have a line.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self.done: set[int] = set()
        self._lock = threading.Lock()
        if path.exists():
            if not resume:
                raise InputError(f"{path} is there already: give --resume to go on, or another --out")
            self._mend(settings)
        else:
            path.write_text(json.dumps(settings) + "\n", encoding="utf-8")

    def _mend(self, settings: dict[str, Any]) -> None:
        """Reads what is there; a last line that was not finished goes."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self.path.write_bytes(whole)
        first, *lines = whole.decode().splitlines() or [""]
        if first != json.dumps(settings):
            raise InputError(f"{self.path} is of a run with other settings: {first}")
        self.done = {json.loads(line)["index"] for line in lines}

    def add(self, index: int, kind: str, outcome: Outcome) -> None:
        """Adds a line."""
        line = json.dumps({"index": index, "kind": kind, **outcome.as_json()})
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            self.done.add(index)

    def lines(self) -> list[dict[str, Any]]:
        """Every line but the first."""
        with self.path.open(encoding="utf-8") as file:
            next(file)
            return [json.loads(line) for line in file]


def table(lines: Iterable[dict[str, Any]]) -> str:
    """Files by kind of change and by what came of them, and what was not clean, most frequent first."""
    by_kind: dict[str, Counter[str]] = {}
    errors: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for line in lines:
        by_kind.setdefault(line["kind"], Counter())[line["word"]] += 1
        if line["word"] == "refused":
            errors[line["where"]] += 1
        elif line["word"] != "answered":
            faults[f"{line['word']} {line['where']}"] += 1
    rows = ["| kind | files | " + " | ".join(WORDS) + " |", "| --- |" + " ---: |" * (len(WORDS) + 1)]
    total: Counter[str] = sum(by_kind.values(), Counter())
    for kind, counts in [*sorted(by_kind.items()), ("all", total)]:
        rows.append(
            f"| {kind} | {counts.total()} | " + " | ".join(str(counts[word]) for word in WORDS) + " |"
        )
    rows += ["", "Refused: " + ", ".join(f"{name} {count}" for name, count in errors.most_common()) + "."]
    rows += ["", *(f"- {count} × {fault}" for fault, count in faults.most_common())]
    return "\n".join(rows) + "\n"
