"""What a service answers when something is wrong: an HTTP status and gRPC's name of it for every error."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from camrt.errors import (
    AdjointError,
    CamrtError,
    ClosedError,
    DeadlineError,
    ImageError,
    InputError,
    MemoryLimitError,
    MethodError,
    QueueFullError,
    TargetError,
)

__all__ = [
    "MOST_LETTERS",
    "NotReadyError",
    "Status",
    "TooLargeError",
    "UnknownModelError",
    "describe_error",
    "name_field",
    "status_of",
]


class TooLargeError(InputError):
    """A request, a picture or an answer that is larger than the service allows."""


class UnknownModelError(InputError):
    """The service has no model of that name, or no such version of it."""


class NotReadyError(CamrtError, RuntimeError):
    """The model could not be loaded, or was taken out of service."""


@dataclass(frozen=True)
class Status:
    """How an error is told.

    Attributes:
        http: HTTP's status.
        grpc: The name of gRPC's status.
    """

    http: int
    grpc: str


log = logging.getLogger("camrt.serving")

MOST_LETTERS = 1000  # of a message, which may repeat what a request says
_BAD_REQUEST = Status(400, "INVALID_ARGUMENT")
STATUSES: tuple[tuple[type[BaseException], Status], ...] = (
    (UnknownModelError, Status(404, "NOT_FOUND")),
    (TooLargeError, Status(413, "INVALID_ARGUMENT")),
    (MemoryLimitError, Status(413, "INVALID_ARGUMENT")),
    (QueueFullError, Status(429, "RESOURCE_EXHAUSTED")),
    (NotReadyError, Status(503, "UNAVAILABLE")),
    (ClosedError, Status(503, "UNAVAILABLE")),
    (DeadlineError, Status(504, "DEADLINE_EXCEEDED")),
    *((kind, _BAD_REQUEST) for kind in (InputError, MethodError, TargetError, ImageError, AdjointError)),
)
"""The statuses of errors; the first class that fits counts."""


def status_of(error: BaseException) -> Status:
    """How an error is told: what a caller can put right is 4xx, all that is not known here is internal."""
    found = (status for kind, status in STATUSES if isinstance(error, kind))
    return next(found, Status(500, "INTERNAL"))


def describe_error(error: BaseException, request_id: str) -> str:
    """What a client is told of an error: of one inside the service, which is logged, no more than that."""
    if status_of(error).http == 500:
        log.error("internal error", exc_info=error, extra={"request_id": request_id})
        return f"internal error; the service's log has it under request {request_id}"
    return str(error)[:MOST_LETTERS]


def name_field(field: str, error: CamrtError) -> CamrtError:
    """The same error, its text beginning with the part of the request that it is about."""
    return type(error)(f"{field}: {error}")
