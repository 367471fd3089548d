"""The command: starts a service, sends it changed requests, and looks at its answers and its memory."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from fuzz.requests.seeds import MODEL, SIDE
from fuzz.requests.sending import resident, send_many
from helpers.calm_models import calm_model
from helpers.served import serve

__all__ = ["main"]

GROWTH = (
    96 << 20
)  # bytes that may be added after the first fifth, in which everything was imported and met once
PARTS = 5


def main() -> int:
    """Runs the command; 1 where something is wrong."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--count", type=int, default=100_000, help="requests that are sent")
    reader.add_argument("--seed", type=int, default=0, help="of the changes")
    given = reader.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = calm_model(classes=3).save(folder / f"{MODEL}.onnx", side=SIDE)
        options = ["--preprocessing", "unit", "--deadline", "2", "--no-request-log", "--max-answer", "16MiB"]
        with serve(folder, str(model), *options) as served:
            held = []
            wrong = []
            for part in range(PARTS):
                found = send_many(
                    served.http, served.grpc, given.count // PARTS, seed=given.seed * PARTS + part
                )
                held.append(resident(served.process.pid))
                wrong += found.wrong
                print(dict(sorted(found.statuses.items())), f"{held[-1] >> 20} MiB", flush=True)
            for request, answer in wrong:
                print(request, "->", answer)
            is_alive = served.ask("/v2/health/ready").status == 200 and served.process.poll() is None
            for traceback in {line["traceback"] for line in served.log_lines("internal error")}:
                print(traceback)
    grown = (held[-1] - held[0]) >> 20
    print(f"{len(wrong)} internal errors; {grown} MiB more than after the first fifth; alive: {is_alive}")
    return int(bool(wrong) or grown > GROWTH or not is_alive)
