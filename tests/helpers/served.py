"""A service in a process of its own, on free ports of this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTING_SECONDS = 240  # a busy machine
LISTENING = re.compile(
    r"listening: http://(?P<http>127\.0\.0\.1:\d+)( and gRPC on (?P<grpc>127\.0\.0\.1:\d+))?"
)


@dataclass
class Answer:
    """What HTTP answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A running service.

    Attributes:
        process: It.
        http: Where it listens, HOST:PORT.
        grpc: The same for gRPC.
        log: The file of what it writes to stderr.
    """

    process: subprocess.Popen[str]
    http: str
    grpc: str
    log: Path

    def ask(self, address: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Posts JSON, or bytes, or without a body gets an address."""
        content = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.http}{address}", content, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=200) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def log_lines(self, message: str) -> list[dict[str, Any]]:
        """The log's lines with that message."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == message]

    def metric(self, text: str) -> float:
        """The value of a metric that is called so, its labels among it; 0 where there is none yet."""
        page = self.ask("/metrics").body.decode()
        found = re.search(rf"^{re.escape(text)} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, and waits for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)


@contextmanager
def serve(folder: Path, *arguments: str) -> Iterator[Served]:
    """`camrt serve` with these arguments, on free ports, until the block ends."""
    log, out = folder / "log", folder / "out"
    command = [sys.executable, "-m", "camrt", "serve", *arguments, "--port", "0", "--grpc-port", "0"]
    with log.open("w") as errors, out.open("w") as printed:
        process = subprocess.Popen(
            command, stdout=printed, stderr=errors, text=True, env=os.environ | {"CAMRT_THREADS": "1"}
        )
    try:
        until = time.monotonic() + STARTING_SECONDS
        while (found := LISTENING.search(out.read_text())) is None:
            assert process.poll() is None, f"it ended: {out.read_text()}{log.read_text()}"
            assert time.monotonic() < until, f"it did not begin: {out.read_text()}{log.read_text()}"
            time.sleep(0.05)
        yield Served(process, found["http"], found["grpc"] or "", log)
    finally:
        process.kill()
        process.wait()
