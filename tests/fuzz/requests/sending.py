"""Sends changed requests to a service, and says which of them were answered by an error of its own."""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from fuzz.requests.changes import change_bytes, change_request
from fuzz.requests.seeds import Request, grpc_seeds, http_seeds

__all__ = ["Found", "resident", "send_many"]

METHOD = "/inference.GRPCInferenceService/ModelInfer"
DEADLINE = 504  # the request asked for little time, or for more work than the service's deadline allows
WRONG = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
}


@dataclass
class Found:
    """What came back.

    Attributes:
        statuses: How many answers had each status.
        wrong: Requests that were answered by an internal error, and the answers, of each kind a few.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[Any, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, status: str, is_wrong: bool, request: Any, answer: str) -> None:
        with self.lock:
            self.statuses[status] += 1
            if is_wrong and len(self.wrong) < 20:
                self.wrong.append((request, answer))


def send_many(http_address: str, grpc_address: str, count: int, *, seed: int, threads: int = 8) -> Found:
    """Sends changed requests, two in three over HTTP.

    Args:
        http_address: HOST:PORT.
        grpc_address: The same for gRPC.
        count: How many.
        seed: Of the changes.
        threads: That send at once.
    """
    found, over_http, over_grpc = Found(), http_seeds(), grpc_seeds()
    each = -(-count // threads)

    def work(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        options = [("grpc.use_local_subchannel_pool", 1)]
        with (
            closing(HttpSender(http_address)) as send,
            grpc.insecure_channel(grpc_address, options=options) as channel,
        ):
            call = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
            for _ in range(each):
                if rng.random() < 2 / 3:
                    send(change_request(rng, rng.choice(over_http)), found)
                else:
                    send_message(call, change_bytes(rng, rng.choice(over_grpc)), found)

    run_all([threading.Thread(target=work, args=(number,)) for number in range(threads)])
    return found


def run_all(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class HttpSender:
    """Sends over a connection that is kept."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=100)

    def close(self) -> None:
        self.connection.close()

    def __call__(self, request: Request, found: Found) -> None:
        address = request.address.encode("ascii", "replace").decode()
        headers = {name: value.encode().decode("latin-1") for name, value in request.headers.items()}
        try:
            self.connection.request("POST", address, request.body, headers)
            answer = self.connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            found.note(f"HTTP {type(error).__name__}", True, request, str(error))
            return
        is_wrong = answer.status >= 500 and answer.status != DEADLINE
        found.note(f"HTTP {answer.status}", is_wrong, request, body[:2000].decode("utf-8", "replace"))


def send_message(call: Callable[..., Any], message: bytes, found: Found) -> None:
    try:
        call(message, timeout=100)
        found.note("gRPC OK", False, message, "")
    except grpc.RpcError as error:
        found.note(f"gRPC {error.code().name}", error.code().name in WRONG, message, error.details() or "")


def resident(process: int) -> int:
    """Bytes of a process that are in memory; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
