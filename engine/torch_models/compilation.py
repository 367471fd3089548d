"""What a runner computes, traced into graphs of torch's operators that run without the module's Python.

The first run of a shape traces the runner's computation, hooks and calls that are left out included, on noise
of that shape. Later runs of the shape execute the graph: neither the module's code nor any hook is called.
The graph reads the module's own parameters and buffers, so it computes with the numbers they hold when it
runs. When one of them, a submodule or a hook has been replaced, it is traced again. Everything else is fixed
by tracing: attributes that are numbers, and code that depends on the shapes of tensors.

Code that looks at the numbers in tensors is refused. So is a module whose results differ when traced: that is
how chance, and state that changes from pass to pass, show.

`torch.compile` compiles what was traced, and does not trace it: its front end refuses what runners do, which
is to set hooks, to take gradients and to hook nodes of autograd. `ModuleState` stands for that front end's
guards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from camrt.engine.torch_models.cut import LOGIT_TOLERANCES
from camrt.engine.torch_models.model import TorchModel, parse_device
from camrt.errors import BackendError, InputError
from camrt.export.adjoint import BIAS_MAP, CURVATURE, GRADIENT, RISE
from camrt.kernels.fork_safety import ForkSafeLock

__all__ = ["Compiler", "CudaGraphRunner", "GraphCache", "choose_compiler"]

Tensor = torch.Tensor
Run = Callable[[Mapping[str, Tensor], tuple[str, ...]], dict[str, Tensor]]
Graph = Callable[..., Sequence[Tensor]]

MAX_GRAPHS = 8
"""Graphs that a runner keeps; what has not been run for longest is dropped."""
DERIVED = frozenset({GRADIENT, CURVATURE, RISE, BIAS_MAP})
"""Outputs that are derivatives, or made of them."""
GRADIENT_TOLERANCE = 0.1
"""Largest relative difference of gradients, in norm, or ten times that of logits where this is more: a ReLU
whose input is all but zero may pass in one run and not in another."""
WARM_UPS = 3
"""Runs before one is captured: libraries choose algorithms and take memory in them."""
VALUE_READS = {
    getattr(torch.Tensor, name)
    for name in (
        "item", "tolist", "numpy", "is_nonzero",
        "__array__", "__bool__", "__complex__", "__float__", "__index__", "__int__",
    )
}  # fmt: skip

COPYING = (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.copy)
INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)

# Tracing puts functions of its own in place of torch.nn.Module's, and a device takes one capture at a time.
_PREPARING = ForkSafeLock()


@dataclass(frozen=True)
class Compiler:
    """What is done to a graph after tracing.

    Attributes:
        requested: What was passed as compile=, for messages.
        backend: The backend of torch.compile that is given the graph, as torch.compile takes it; None for
            none.
        mode: Its mode.
        uses_cuda_graphs: Whether runs are captured in CUDA graphs.
    """

    requested: bool | str
    backend: str | Callable[..., Any] | None = "inductor"
    mode: str | None = None
    uses_cuda_graphs: bool = False


def choose_compiler(compile: bool | str | None, device: str) -> Compiler | None:  # noqa: A002  # an option's name
    """What `compile=` asks for; None for nothing.

    "default" (also True), "reduce-overhead" and "max-autotune" mean what they mean to torch.compile. The
    CUDA graphs of the last two are captured here: those of torch.compile itself belong to one thread. On the
    CPU there are none. "cudagraphs" captures the graph as it was traced.

    Args:
        compile: None, a truth value, or one of these words.
        device: Where the module is.

    Raises:
        InputError: It is none of them.
        BackendError: "cudagraphs" without a GPU, or a GPU without Triton.
    """
    if compile is None or compile is False:
        return None
    place = parse_device(device)
    gpu = place.type == "cuda"
    known = {
        True: Compiler(compile),
        "default": Compiler(compile),
        "reduce-overhead": Compiler(compile, uses_cuda_graphs=gpu),
        "max-autotune": Compiler(compile, mode="max-autotune-no-cudagraphs", uses_cuda_graphs=gpu),
        "cudagraphs": Compiler(compile, None, uses_cuda_graphs=True),
    }
    if not isinstance(compile, (bool, str)) or compile not in known:
        listing = ", ".join(repr(word) for word in known if word is not True)
        raise InputError(f"compile={compile!r} must be None, True, or one of {listing}")
    found = known[compile]
    if found.uses_cuda_graphs and not gpu:
        raise BackendError(
            f"compile='cudagraphs' needs a GPU, and device={device!r} was asked for: bring the module to one "
            "and pass device='cuda', or leave compile=None"
        )
    if gpu and found.backend == "inductor" and find_spec("triton") is None:
        raise BackendError(
            f"compile={compile!r} needs Triton on a GPU, and it is missing: pip install 'camrt[gpu]'"
        )
    return found


class GraphCache:
    """A runner's computation as graphs, one for each shape of what it is fed and set of outputs.

    Args:
        model: The module.
        compiler: What is done to graphs.
        gradients: Whether the computation needs a backward pass.
    """

    def __init__(self, model: TorchModel, compiler: Compiler, *, gradients: bool) -> None:
        self._model = model
        self._compiler = compiler
        self._gradients = gradients
        self._parts: ModuleState | None = None
        self._graphs: OrderedDict[tuple[Any, ...], Graph] = OrderedDict()

    def __call__(self, run: Run, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """What `run(feeds, names)` gives; the module's lock is held.

        Raises:
            BackendError: The module failed, cannot be traced or compiled, or gives something else then.
            AdjointError: There is no way back through it.
        """
        given = {name: to_contiguous(values.detach()) for name, values in feeds.items()}
        with self._model.lock:
            if self._parts is None or self._parts.has_changed():
                self._graphs.clear()
                self._parts = ModuleState(self._model.module)
            key = self._key(given, names)
            graph = self._graphs.get(key)
            if graph is None:
                while len(self._graphs) >= MAX_GRAPHS:
                    self._graphs.popitem(last=False)
                graph = self._prepare(run, given, names)
                self._graphs[key] = graph
            self._graphs.move_to_end(key)
            with self._refusing("was compiled, and failed"):
                return dict(zip(names, run_graph(graph, given), strict=True))

    def _key(self, given: Mapping[str, Tensor], names: tuple[str, ...]) -> tuple[Any, ...]:
        kind = next(iter(given.values())).device.type
        shapes = ((name, one.shape, one.stride(), one.dtype, one.device) for name, one in given.items())
        return (names, *shapes, torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind))

    def _prepare(self, run: Run, given: Mapping[str, Tensor], names: tuple[str, ...]) -> Graph:
        """The computation as a graph that was seen to give what the module gives."""
        with self._model.evaluation_mode(gradients=self._gradients), _PREPARING:
            # Sizes that the cut has not seen are tried here, and what the module makes on first use is made.
            found = run(given, names)
            expected = {name: found[name].detach() for name in names}
            with self._refusing("cannot be traced"):
                graph = self._trace(run, given, names)
                before = self._random_states()
                traced = dict(zip(names, run_graph(graph, given), strict=True))
            drawn = not all(map(torch.equal, before, self._random_states()))
            if drawn or not self._agree(traced, expected):
                self._differ(
                    "traced: a pass must not depend on chance or on passes before it, and what is computed "
                    "must not depend on numbers in tensors"
                )
            with self._refusing("was traced, but not compiled"):
                ready = self._compile(graph, given)
                compiled = dict(zip(names, run_graph(ready, given), strict=True))
            if not self._agree(compiled, expected):
                self._differ(
                    "compiled, and not when traced: the compiler rounds too coarsely for it, or errs"
                )
        return ready

    def _trace(self, run: Run, given: Mapping[str, Tensor], names: tuple[str, ...]) -> torch.fx.GraphModule:
        """Traces the computation on noise; the check on the real inputs finds values that tracing fixed."""

        def computation(*values: Tensor) -> tuple[Tensor, ...]:
            with ValueReadGuard():
                found = run(dict(zip(given, values, strict=True)), names)
            return tuple(found[name] for name in names)

        with torch.autograd.set_multithreading_enabled(False):
            graph = make_fx(computation, tracing_mode="real")(*map(noise, given.values()))
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph

    def _compile(self, graph: torch.fx.GraphModule, given: Mapping[str, Tensor]) -> Graph:
        ready: Graph = graph
        if self._compiler.backend is not None:
            ready = torch.compile(
                graph,
                backend=self._compiler.backend,
                mode=self._compiler.mode,
                fullgraph=True,
                dynamic=False,
            )
        if self._compiler.uses_cuda_graphs:
            waiting = next(filter(needs_sync, graph.graph.nodes), None)
            if waiting is not None:
                raise BackendError(
                    f"{waiting.target} waits for the device or copies from another one, and no CUDA graph can"
                )
            with torch.inference_mode(False), torch.no_grad(), disable_autocast():
                return CudaGraphRunner(ready, list(given.values()))
        return ready

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Turns whatever is raised into a refusal, but a lack of memory: fewer rows may fit."""
        try:
            yield
        except Exception as error:
            chained = list(exception_chain(error))
            short = next((one for one in chained if isinstance(one, torch.OutOfMemoryError)), None)
            if short is not None:
                raise short from None
            cause = error.__cause__ if isinstance(error, BackendError) and error.__cause__ else error
            hint = ""
            if any(type(one).__name__ == "InvalidCxxCompiler" for one in chained):
                hint = " On the CPU torch.compile needs a C++ compiler: apt-get install g++."
            raise BackendError(
                f"{self._model.name} {what} (compile={self._compiler.requested!r}): "
                f"{first_paragraph(cause)}.{hint} "
                "compile=None runs it as it is"
            ) from error

    def _agree(self, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
        """Whether outputs are those expected, but for rounding."""
        kinds = (self._model.device_and_dtype()[1], *autocast_dtypes(expected))
        near = max(LOGIT_TOLERANCES.get(kind, 1e-4) for kind in kinds)
        least = max(torch.finfo(kind).tiny for kind in kinds)
        return all(
            is_close_in_norm(values, expected[name], max(GRADIENT_TOLERANCE, 10 * near), least)
            if name in DERIVED
            else is_close(values, expected[name], near)
            for name, values in found.items()
        )

    def _differ(self, how: str) -> NoReturn:
        raise BackendError(
            f"{self._model.name} gives something else (compile={self._compiler.requested!r}) when {how}. "
            "compile=None runs it as it is"
        )

    def _random_states(self) -> list[Tensor]:
        device, _ = self._model.device_and_dtype()
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


class CudaGraphRunner:
    """A function of tensors on a GPU, captured in a CUDA graph: one call queues all of its kernels.

    What is given is copied in, and what it gives is copied out: a later call does not overwrite it. Calls
    from several streams wait for each other there, not on the host. `torch.cuda.make_graphed_callables` has
    neither, and its capture fails when another thread allocates memory meanwhile.

    Args:
        function: Takes tensors and gives tensors, waiting for nothing.
        inputs: Tensors as it will be given.
    """

    def __init__(self, function: Graph, inputs: Sequence[Tensor]) -> None:
        self._device = inputs[0].device
        self._inputs = [values.clone() for values in inputs]
        self._graph = torch.cuda.CUDAGraph()
        self._free = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        with torch.cuda.device(self._device):
            side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # likewise
            here = torch.cuda.current_stream()
            side.wait_stream(here)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    function(*self._inputs)
            here.wait_stream(side)
            # Other threads may go on using the GPU.
            with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
                self._outputs = list(function(*self._inputs))

    def __call__(self, *given: Tensor) -> list[Tensor]:
        """What the function gives."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._free)
            for held, values in zip(self._inputs, given, strict=True):
                held.copy_(values)
                held.record_stream(stream)
            self._graph.replay()
            found = [values.clone() for values in self._outputs]
            self._free.record(stream)
        return found


class ModuleState:
    """Identities and addresses of the parameters, buffers, submodules and hooks that a graph depends on.

    Args:
        module: The module.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        every = list(module.modules())
        self._own = [vars(part) for part in every]
        self._held: list[dict[Any, Any]] = [
            held
            for part in every
            for held in (
                part._modules,
                part._parameters,
                part._buffers,
                part._forward_hooks,
                part._forward_pre_hooks,
                part._backward_hooks,
                part._backward_pre_hooks,
            )
        ]
        self._objects = self._now()  # kept, so that their identities are not given to others
        self._names = list(map(id, self._objects))
        self._tensors = [one for one in self._objects if isinstance(one, torch.Tensor)]
        self._places = self._memory()

    def has_changed(self) -> bool:
        """Whether any of it is another object now, or lies elsewhere in memory."""
        return list(map(id, self._now())) != self._names or self._memory() != self._places

    def _now(self) -> list[Any]:
        held = chain.from_iterable(map(dict.values, self._held))
        return [*held, *(own.get("forward") for own in self._own)]

    def _memory(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self._tensors]


class ValueReadGuard(TorchFunctionMode):
    """Refuses what brings the numbers in a tensor to Python: they would be fixed by tracing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch."""
        if func in VALUE_READS:
            refuse_value_read(func.__name__)
        return func(*args, **(kwargs or {}))


def refuse_value_read(name: str) -> NoReturn:
    raise BackendError(f"its code looks at the numbers in a tensor (Tensor.{name})")


def needs_sync(node: torch.fx.Node) -> bool:
    """Whether a node waits for a GPU: a copy between devices, or an output shape that depends on data."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    packet = node.target.overloadpacket
    values = [one.meta.get("val") for one in (*node.all_input_nodes, node)]
    tensors = [one for one in values if isinstance(one, torch.Tensor)]
    if packet in COPYING:
        return len({tensor.device for tensor in tensors}) > 1
    if packet in INDEXING:
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:-1])
    return torch.Tag.dynamic_output_shape in node.target.tags


def run_graph(graph: Graph, given: Mapping[str, Tensor]) -> Sequence[Tensor]:
    """What a graph gives, whatever the caller's modes."""
    with torch.inference_mode(False), torch.no_grad(), disable_autocast():
        return graph(*given.values())


@contextmanager
def disable_autocast() -> Iterator[None]:
    """Without the casts of `torch.autocast`: a graph holds those that were in force when it was traced."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def autocast_dtypes(tensors: Mapping[str, Tensor]) -> list[torch.dtype]:
    """The type that `torch.autocast` casts to where some tensors are, if it does."""
    kinds = {tensor.device.type for tensor in tensors.values()}
    return [torch.get_autocast_dtype(kind) for kind in kinds if torch.is_autocast_enabled(kind)]


def to_contiguous(values: Tensor) -> Tensor:
    """A tensor without gaps and repetitions, its axes in either of the usual orders."""
    last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return values if last else values.contiguous()


def noise(template: Tensor) -> Tensor:
    """Numbers of a tensor's shape, type, order and place."""
    numbers = np.random.default_rng(0).standard_normal(tuple(template.shape), np.float32)
    return torch.empty_like(template).copy_(torch.from_numpy(numbers))


def is_close(found: Tensor, expected: Tensor, near: float) -> bool:
    """Whether numbers are near those expected, where these are finite."""
    if found.shape != expected.shape:
        return False
    finite = expected.isfinite()
    wanted = expected.where(finite, 0)
    allowed = near * float(wanted.abs().max()) if wanted.numel() else 0.0
    return bool((((found - wanted).abs() <= allowed) | ~finite).all())


def is_close_in_norm(found: Tensor, expected: Tensor, near: float, least: float) -> bool:
    """Likewise, by the length of the difference; what is below `least` may have been lost."""
    if found.shape != expected.shape:
        return False
    finite = expected.isfinite()
    wanted = expected.where(finite, 0)
    difference = float((found.where(finite, 0) - wanted).norm())
    return difference <= near * float(wanted.norm()) + least * float(wanted.numel() ** 0.5)


def first_paragraph(error: BaseException) -> str:
    """The first paragraph of an error's message, in one line."""
    text = " ".join(str(error).strip().split("\n\n")[0].split())
    return (text or type(error).__name__).rstrip(".")


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
