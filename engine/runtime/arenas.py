"""Memory of ONNX Runtime's sessions on the CPU: an arena each, of a bounded size.

ONNX Runtime allocates the tensors of a run in an arena, and fails where that would grow above its limit. So
the bound holds as well for graphs whose tensors' sizes are known only when they run. A session takes the
arena that is registered with the process when it is made. The next one that is registered takes its place,
and the one before stays with its sessions.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from camrt.export.budget import allowed_memory, check_deadline
from camrt.export.graph.index import names_read
from camrt.export.limits import element_bits
from camrt.export.onnx_sessions import open_session
from camrt.kernels.fork_safety import ForkSafeLock, renew_after_fork
from camrt.kernels.memory import resident_memory, trim_memory

__all__ = [
    "OUT_OF_MEMORY",
    "Arena",
    "count_folded_results",
    "limit_constant_folding",
    "register_arena",
    "weight_bytes",
]

OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory|Available memory of \d+ is smaller than requested|bad_alloc|bad allocation"
    r"|out of memory|STATUS_ALLOC_FAILED|DEVICE_ALLOCATION_FAILED"
)
"""What is said by onnxruntime's arena, by the same with a limit, by C++, by CUDA, and by cuBLAS and cuDNN."""
EXTEND_BY_REQUEST = (
    1  # an arena grows by what is asked for: by powers of two it would be full when half is used
)
FEW_DEAD_BYTES = 1 << 20
SHRINK_DIVISOR = 8  # an arena is emptied once runs made the process grow by its limit over this
POLL_SECONDS = 0.05  # seconds between two looks at the clock
EMPTY_MODEL = helper.make_model(
    helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "nothing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    ),
    opset_imports=[helper.make_opsetid("", 17)],
    ir_version=8,
).SerializeToString()


class Arena:
    """What sessions allocate their tensors in; made by `register_arena`.

    Attributes:
        runs: How many go on in it.

    Args:
        limit: Bytes that it may hold.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.runs = 0
        self._counting = ForkSafeLock()
        self._grown = 0
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.add_to_options(options)
        self._emptier = open_session(EMPTY_MODEL, options)

    def add_to_options(self, options: ort.SessionOptions) -> None:
        """Has a session that is made with these options take its memory here; its weights lie elsewhere."""
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")

    @contextmanager
    def watch_memory(self) -> Iterator[None]:
        """To be held around a run: memory is given back after it where runs took much."""
        before = resident_memory()
        try:
            yield
        finally:
            self._grown += max(resident_memory() - before, 0)
            if self._grown > self.limit // SHRINK_DIVISOR:
                self.release_unused()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Context manager around each run, in its thread: counts the runs that use the arena."""
        with self._counting:
            self.runs += 1
        try:
            yield
        finally:
            with self._counting:
                self.runs -= 1

    def release_unused(self) -> None:
        """Gives back what no run is using."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with self.in_use():
            self._emptier.run(None, {"x": np.zeros(1, np.float32)}, options)
        trim_memory()
        self._grown = 0


class _Registry:
    """The arena that is registered with the process, and how many sessions are being made in it."""

    def __init__(self) -> None:
        self.arena: Arena | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self.changed, self.making = threading.Condition(), 0


_REGISTRY = _Registry()


@contextmanager
def register_arena(limit: int) -> Iterator[Arena]:
    """Sessions that are made in the block with an arena's options take their memory there.

    Each block has an arena of its own, but where another thread is making sessions with the same limit: those
    share one. Blocks of other limits wait for each other.

    Args:
        limit: Bytes that the arena may hold.

    Raises:
        DeadlineError: The call at hand has taken too long.
    """
    with _REGISTRY.changed:
        while _REGISTRY.making and (_REGISTRY.arena is None or _REGISTRY.arena.limit != limit):
            check_deadline()
            _REGISTRY.changed.wait(POLL_SECONDS)
        if not _REGISTRY.making:
            ort.create_and_register_allocator(
                ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
                ort.OrtArenaCfg(
                    {
                        "max_mem": limit,
                        "arena_extend_strategy": EXTEND_BY_REQUEST,
                        "max_dead_bytes_per_chunk": FEW_DEAD_BYTES,
                    }
                ),
            )
            _REGISTRY.arena = Arena(limit)
        arena = _REGISTRY.arena
        assert arena is not None
        _REGISTRY.making += 1
    try:
        yield arena
    finally:
        with _REGISTRY.changed:
            _REGISTRY.making -= 1
            if not _REGISTRY.making:
                _REGISTRY.arena = None  # its sessions keep it
            _REGISTRY.changed.notify_all()


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of a graph's weights."""
    return sum(
        math.prod(tensor.dims) * (element_bits(tensor.data_type) or 0) // 8
        for tensor in model.graph.initializer
    )


def count_folded_results(model: onnx.ModelProto) -> int:
    """How many results of a graph's are made of constants alone, at most."""
    constant = {tensor.name for tensor in model.graph.initializer}
    made = 0
    for node in model.graph.node:
        if node.op_type in ("Shape", "Size") or all(name in constant for name in names_read(node)):
            constant.update(node.output)
            made += 1
    return made


def limit_constant_folding(options: ort.SessionOptions, results: int) -> None:
    """Has a session compute beforehand no more than half of what the call at hand may allocate.

    What a graph makes of constants is computed when a session is made, outside of its arena; each result may
    have its share of that half. Larger ones are computed when the graph is run.

    Args:
        options: Of the session.
        results: How many a graph makes of constants, see `count_folded_results`.
    """
    share = allowed_memory() // 2 // max(results, 1)
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(share))
