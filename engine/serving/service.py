"""The service: models behind an HTTP and a gRPC server, until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from kserve.model_repository import ModelRepository

from camrt.engine.serving.admission import Admission
from camrt.engine.serving.front import Front
from camrt.engine.serving.grpc_server import GrpcServer
from camrt.engine.serving.http_server import HttpServer
from camrt.engine.serving.kserve_model import KServeModel
from camrt.engine.serving.limits import ServingLimits
from camrt.engine.serving.listening import listen
from camrt.engine.serving.served_model import ServedModel
from camrt.kernels.processors import usable_processors

__all__ = ["ModelControl", "Place", "run_service"]

log = logging.getLogger("camrt.serving")

ModelControl = Literal["none", "poll", "explicit"]
"""Who has models loaded again: nobody, the service when a file has changed, or clients (Triton's words)."""
POLL_SECONDS = 2.0
CLOSING_SECONDS = 2.0  # for answers that are made to be written


@dataclass(frozen=True)
class Place:
    """Where the service listens.

    Attributes:
        host: A name or address of this machine.
        port: For HTTP; 0 for any that is free.
        grpc_port: For gRPC, likewise; None for no gRPC.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = 8081


def run_service(
    models: Sequence[ServedModel],
    place: Place,
    limits: ServingLimits,
    *,
    control: ModelControl = "none",
    grace: float = 30.0,
    begun: Callable[[int, int | None], None],
    stopping: Callable[[int], None],
) -> int:
    """Serves models until SIGTERM or SIGINT, and then ends what was begun; a second signal ends it at once.

    Args:
        models: The models, loaded.
        place: Where to listen.
        limits: What requests may be.
        control: Who has models loaded again.
        grace: Seconds that requests have to end in once a signal came.
        begun: Called with the ports when requests are taken.
        stopping: Called with the number of requests under way when a signal came.

    Returns:
        How many requests were cut off.

    Raises:
        InputError: Nobody can listen there.
    """
    listening = listen(place.host, place.port)
    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="camrt-codec") as workers:
        service = Service(models, place, limits, workers, listening, control, grace)
        return asyncio.run(service.run(begun, stopping))


class Service:
    """What `run_service` runs."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        place: Place,
        limits: ServingLimits,
        workers: ThreadPoolExecutor,
        listening: socket.socket,
        control: ModelControl,
        grace: float,
    ) -> None:
        self._models = models
        self._place = place
        self._listening = listening
        self._control = control
        self._grace = grace
        self._admission = Admission(limits)
        repository = ModelRepository()
        for served in models:
            repository.update(KServeModel(served, limits, workers))
        self._front = Front(repository, limits, self._admission, workers, controlled=control == "explicit")
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()

    async def run(self, begun: Callable[[int, int | None], None], stopping: Callable[[int], None]) -> int:
        """Serves; see `run_service`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._on_signal))
        http, grpc = HttpServer(self._front, self._listening, CLOSING_SECONDS), None
        if self._place.grpc_port is not None:
            host = f"[{self._place.host}]" if ":" in self._place.host else self._place.host
            grpc = GrpcServer(self._front, f"{host}:{self._place.grpc_port}")
        servers = [asyncio.create_task(http.start())]
        if grpc is not None:
            servers.append(asyncio.create_task(grpc.start()))
        polling = asyncio.create_task(self._poll()) if self._control == "poll" else None
        begun(self._listening.getsockname()[1], None if grpc is None else grpc.port)
        ended = asyncio.create_task(self._stop.wait())
        await asyncio.wait({ended, *servers}, return_when=asyncio.FIRST_COMPLETED)
        stopping(self._admission.count)
        if polling is not None:
            polling.cancel()
        cut_off = await self._drain()
        http.stop()
        if grpc is not None:
            await grpc.stop(CLOSING_SECONDS)
        await asyncio.gather(*servers)
        return cut_off

    async def _drain(self) -> int:
        """Takes no further requests, and waits for those under way; how many had to be cut off."""
        self._admission.close()
        until = time.monotonic() + self._grace
        while self._admission.count and time.monotonic() < until and not self._stop_now.is_set():
            await asyncio.sleep(0.02)
        cut_off = self._admission.count
        for served in self._models:
            await asyncio.to_thread(served.stop, 0.0)
        return cut_off

    def _on_signal(self) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()

    async def _poll(self) -> None:
        """Loads files again that have changed."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for served in self._models:
                await asyncio.to_thread(served.reload_if_changed)
