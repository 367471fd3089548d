"""Splits a batch in halves until it fits in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from camrt.engine.arrays import out_of_memory_errors, release_memory
from camrt.engine.caller_warnings import warn_caller
from camrt.errors import BackendError, MemoryLimitError, SmallerBatchWarning
from camrt.export.budget import check_deadline

__all__ = ["OomSplitter", "allocate_buffer"]

T = TypeVar("T")


class OomSplitter:
    """Runs rows in pieces, each half as large as one that memory did not hold.

    What has been run is kept, and the size that fits is kept for later calls.

    Args:
        label: What is run, for messages.
        too_large: The exceptions that say that memory was short.
        freed: Called before rows are run again.
    """

    def __init__(
        self,
        label: str,
        too_large: tuple[type[Exception], ...],
        freed: Callable[[], None] = lambda: None,
    ) -> None:
        self._label = label
        self._too_large = too_large
        self._freed = freed
        self._most: int | None = None

    def run_in_pieces(self, count: int, run: Callable[[int, int], T], *, most: int | None = None) -> list[T]:
        """What `run` gives for the rows from a start to before an end, piece after piece.

        Args:
            count: Rows.
            run: Runs some of them.
            most: No more than these at once, whatever memory holds.

        Raises:
            BackendError: A single row does not fit on a device.
            MemoryLimitError: A single row needs more than a call may take.
            DeadlineError: The call at hand has taken too long.
        """
        found: list[T] = []
        start = 0
        while start < count:
            check_deadline()
            size = min(size for size in (count - start, self._most, most) if size is not None)
            try:
                found.append(run(start, start + size))
            except self._too_large as error:
                smaller = halve_batch(size, f"row of the {self._label}", error)
                if self._most is None or smaller < self._most:
                    warn_smaller_batch(size, smaller, self._label, error)
                    self._most = smaller
                self._freed()
            else:
                start += size
        return found


def allocate_buffer(
    rows: Callable[[tuple[int, ...]], Any], size: int, shape: tuple[int, ...], array: Any
) -> Any:
    """Memory for so many rows of a shape, or for half as many, and so on, until there is enough.

    Args:
        rows: Makes it, given a shape.
        size: Rows.
        shape: Of a row.
        array: An array that lies there.

    Raises:
        BackendError: A single row does not fit on a device.
        MemoryLimitError: A single row needs more than a call may take.
    """
    while True:
        try:
            return rows((size, *shape))
        except out_of_memory_errors(array) as error:
            smaller = halve_batch(size, "altered row", error)
            warn_smaller_batch(size, smaller, "altered model's input", error)
            size = smaller
            release_memory(array)


def halve_batch(size: int, row: str, error: Exception) -> int:
    """Half as many rows.

    Args:
        size: How many were too many.
        row: What a row is.
        error: What said so.

    Raises:
        BackendError: A single row does not fit on a device.
        MemoryLimitError: A single row needs more than a call may take.
    """
    if size > 1:
        return (size + 1) // 2
    if isinstance(error, MemoryLimitError):
        raise error
    raise BackendError(f"the device's memory does not hold a single {row}: {error}") from error


def warn_smaller_batch(size: int, smaller: int, label: str, error: Exception) -> None:
    """Says that fewer rows are run at once, and for what error."""
    short = isinstance(error, MemoryLimitError)
    does_not = "max_memory= does not allow" if short else "the device's memory does not hold"
    warn_caller(
        f"{does_not} {size} rows of the {label}: {smaller} are run at once from now "
        "on (batch_size= sets how many are tried)",
        SmallerBatchWarning,
    )
