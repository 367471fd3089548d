"""What a request may be, and how many there may be at once."""

from __future__ import annotations

from dataclasses import dataclass

from camrt.engine.serving.errors import TooLargeError
from camrt.export.limits import human_bytes

__all__ = ["ServingLimits"]


@dataclass(frozen=True)
class ServingLimits:
    """Bounds that hold before anything of a request is decoded or run.

    Attributes:
        payload: Bytes of a request.
        answer: Bytes of the arrays and drawings of an answer.
        images: Images a request.
        pixels: Pixels of an encoded picture.
        requests: Requests that are in the service at once, from the first byte read to the last one written.
        client_requests: The same, of one client's address; None for no bound of its own.
        deadline: Seconds that a request may take; it may ask for fewer.
    """

    payload: int = 32 << 20
    answer: int = 128 << 20
    images: int = 64
    pixels: int = 25_000_000
    requests: int = 256
    client_requests: int | None = None
    deadline: float = 30.0

    def check_payload(self, count: int) -> None:
        """Refuses a request of more bytes than are read.

        Raises:
            TooLargeError: It is.
        """
        if count > self.payload:
            raise TooLargeError(
                f"the request has more than {human_bytes(self.payload)}: send fewer images at once, or "
                "encoded pictures in place of tensors (camrt serve --max-payload sets the limit)"
            )

    def check_images(self, count: int) -> None:
        """Refuses a request of more images than are explained at once.

        Raises:
            TooLargeError: It is.
        """
        if count > self.images:
            raise TooLargeError(f"inputs.images: {count} images, at most {self.images} go in one request")

    def check_answer(self, field: str, count: int, item_bytes: int) -> None:
        """Refuses to make more than an answer holds.

        Args:
            field: The part of the request that asks for it.
            count: How many numbers it would be.
            item_bytes: Bytes of each.

        Raises:
            TooLargeError: It is more.
        """
        if count * item_bytes > self.answer:
            raise TooLargeError(
                f"{field}: {human_bytes(count * item_bytes)} of answers are more than "
                f"{human_bytes(self.answer)}, the most that is answered at once: ask for fewer images, fewer "
                "classes or smaller maps"
            )
