"""What the runtimes on the host have in common: rows in pieces, threads of callers, and forks.

A process that was forked has none of the threads of its parent's sessions, and a session that another thread
was running may hold locks that are never let go of there. So a child runs none of those: what has made them
makes them anew there when they are next needed, of the same graph. They have one thread then, as the workers
of torch's DataLoader have: threads that wait for work by turning in circles, times the number of children,
are slower than none. What a child can use is kept, and shares its memory with the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import concat, pad_rows
from camrt.engine.runtime.batch_splitting import OomSplitter
from camrt.engine.runtime.run_sharing import shareable
from camrt.errors import MemoryLimitError, UnsupportedModelError
from camrt.export.budget import reserve_array
from camrt.kernels.fork_safety import ForkSafeLock, never_free, renew_after_fork

__all__ = ["HostRunner", "HostSession", "check_same_shape"]

Array = npt.NDArray[Any]


class HostSession(Protocol):
    """A graph that a runtime has made ready.

    Attributes:
        input: Name of its first input.
        outputs: Names of its outputs.
    """

    input: str
    outputs: tuple[str, ...]

    @property
    def survives_fork(self) -> bool:
        """Whether a child that is forked now can go on with it."""
        ...

    def run(self, feeds: Mapping[str, Array], names: list[str]) -> list[Array]:
        """Runs some rows.

        Args:
            feeds: Its inputs by name.
            names: Of the outputs that are returned.

        Raises:
            DeadlineError: The call at hand has taken too long.
            MemoryLimitError: It needs more than it may.
            BackendError: The runtime failed.
        """
        ...

    def release_unused(self) -> None:
        """Gives back what no run is using."""
        ...


Session = TypeVar("Session", bound=HostSession)


class HostRunner(Generic[Session]):
    """One graph; safe to call from several threads at once, and in processes that are forked.

    Args:
        make: Makes its session, given its threads: at once, and in a child that cannot use its parent's.
        label: What the graph is, for error messages.
        batch: Fixed batch size of the graph; None when it is open.
        threads: Threads within an operator; None lets the runtime choose.
    """

    def __init__(
        self, make: Callable[[int | None], Session], label: str, batch: int | None, threads: int | None
    ) -> None:
        self._make = make
        self._threads = threads
        self._made: Session | None = make(threads)
        self._making = ForkSafeLock()
        self._halving = OomSplitter(label, (MemoryLimitError,), self._empty)
        self._label = label
        self._batch = batch
        self._input = self._made.input
        self.outputs = self._made.outputs
        renew_after_fork(self)

    def renew(self) -> None:
        """Starts anew in a forked child, see `camrt.kernels.fork_safety`."""
        made = self._made
        if made is not None and not made.survives_fork:
            never_free(made)  # what was being run cannot be freed either
            self._made = None
        self._threads = 1

    def _ready(self) -> Session:
        made = self._made
        if made is None:
            with self._making:
                if self._made is None:
                    self._made = self._make(self._threads)
                made = self._made
        return made

    def _empty(self) -> None:
        self._ready().release_unused()

    def allocate_rows(self, shape: tuple[int, ...]) -> Array:
        """Allocates a buffer for rows that this runner is given."""
        reserve_array(shape, f"rows of the {self._label}")
        return np.empty(shape, np.float32)

    @shareable
    def __call__(
        self,
        batch: Array,
        fetch: Sequence[str] | None = None,
        extra_inputs: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        """Runs a batch; a graph with a fixed batch size is run in pieces, the last one padded.

        One with an open batch size is run in pieces where memory does not hold the whole batch.

        Raises:
            DeadlineError: The call at hand has taken too long (`camrt.export.budget`).
            MemoryLimitError: It needs more than it may for a single row.
            BackendError: The runtime failed.
        """
        names = list(fetch) if fetch is not None else list(self.outputs)
        feeds = {self._input: batch, **(extra_inputs or {})}
        if self._batch is None:
            if len(batch) == 0:
                return self._run(feeds, names)
            parts = self._halving.run_in_pieces(
                len(batch),
                lambda start, end: self._run(
                    {name: values[start:end] for name, values in feeds.items()}, names
                ),
            )
            return [concat(check_same_shape(outputs, self._label)) for outputs in zip(*parts, strict=True)]
        pieces = []
        for start in range(0, len(batch), self._batch):
            piece = {
                name: pad_rows(values[start : start + self._batch], self._batch)
                for name, values in feeds.items()
            }
            count = min(self._batch, len(batch) - start)
            pieces.append([output[:count] for output in self._run(piece, names)])
        return [
            np.concatenate(check_same_shape(outputs, self._label)) for outputs in zip(*pieces, strict=True)
        ]

    def _run(self, feeds: Mapping[str, Array], names: list[str]) -> list[Array]:
        try:
            return self._ready().run(feeds, names)
        except MemoryLimitError:  # perhaps for what runs of other sizes left behind
            self._empty()
            return self._ready().run(feeds, names)


def check_same_shape(parts: Sequence[Any], label: str) -> list[Any]:
    """An output of several runs, for so many rows each.

    Raises:
        UnsupportedModelError: It has no rows, or another shape from run to run, as what counts numbers has.
    """
    if len(parts) == 1 and not isinstance(parts[0], np.ndarray):
        return list(parts)  # a sequence or a map, which is no tensor: who reads answers says so
    shapes = {part.shape[1:] if isinstance(part, np.ndarray) and part.ndim else None for part in parts}
    if len(shapes) > 1 or None in shapes:
        raise UnsupportedModelError(
            f"what the {label} gives has another shape for other images ({len(shapes)} shapes), or no "
            "batch axis: no (N, C) class scores come of that"
        )
    return list(parts)
