"""How many requests are in the service at once, of all clients and of each."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from camrt.engine.serving.limits import ServingLimits
from camrt.errors import ClosedError, QueueFullError

__all__ = ["Admission"]

RETRY_SECONDS = 1.0


class Admission:
    """Lets requests in before they are read, and knows how many have not left.

    Args:
        limits: How many there may be.
    """

    def __init__(self, limits: ServingLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._clients: Counter[str] = Counter()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no further requests are let in."""
        return self._closed

    @property
    def count(self) -> int:
        """Requests that are in the service."""
        return self._clients.total()

    @contextmanager
    def admit(self, client: str) -> Iterator[None]:
        """Counts a request while the block runs.

        Args:
            client: Whose it is.

        Raises:
            QueueFullError: There are too many.
            ClosedError: The service is about to stop.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("the service is about to stop and takes no further requests")
            if self._clients.total() >= self._limits.requests:
                raise QueueFullError(
                    f"the service has {self._limits.requests} requests under way, the most it takes",
                    RETRY_SECONDS,
                )
            most = self._limits.client_requests
            if most is not None and self._clients[client] >= most:
                raise QueueFullError(
                    f"this client has {most} requests under way, the most it may have", RETRY_SECONDS
                )
            self._clients[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]

    def close(self) -> None:
        """Lets no further requests in."""
        with self._lock:
            self._closed = True
