"""The process that files are tried in: reads jobs, a line of JSON each, and writes what it does and finds.

    {"seed": 1, "index": 7}                       a file of a number
    {"file": "model.onnx", "index": 7}            a file as it is, asked what that number says

Each answer is {"step": ...} before a step begins, and {"outcome": ...} at the end.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO


def serve(jobs: TextIO, answers: TextIO, settings: dict[str, Any]) -> None:
    """Tries files until there are no more jobs."""
    from fuzz.files import make_file, write_file
    from fuzz.memory import limit_addresses
    from fuzz.trying import Limits, Trial

    def say(**told: Any) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    limits = Limits(**settings["limits"])
    with tempfile.TemporaryDirectory(prefix="camrt-fuzz-") as folder:
        if settings["addresses"]:
            limit_addresses(settings["addresses"])
        say(step="ready")
        for line in jobs:
            job = json.loads(line)
            said: dict[str, Any] = {}
            if "file" in job:
                data = Path(job["file"]).read_bytes()
            else:
                made = make_file(job["seed"], job["index"])
                data = made.data
                said = {"kind": made.kind, "from": made.seed, "changes": made.changes}
            path = write_file(data, Path(folder))
            outcome = Trial(path, job["index"], limits, lambda step: say(step=step)).run()
            say(outcome=outcome.as_json(), **said)


def main() -> None:
    """Keeps the two pipes for itself, and lets libraries write where nobody reads."""
    jobs = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    faulthandler.enable()
    serve(jobs, answers, json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
