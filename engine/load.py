"""`camrt.load`: from a file to an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy.typing as npt

from camrt.default import resolve_model_path
from camrt.engine.analysis import find_store
from camrt.engine.call_limits import check_deadline_option, check_memory
from camrt.engine.engine import Engine
from camrt.engine.extras import find_imported
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.options import Verify, check_pair, resolve_threads
from camrt.engine.origin import record_origin
from camrt.engine.restoring import restore_engine
from camrt.engine.runtime import make_onnx_runtime, make_runtime
from camrt.errors import BackendError, InputError
from camrt.export.budget import Budget, default_max_memory, within_budget
from camrt.export.internal_errors import report_internal_errors
from camrt.export.io.model_bytes import read_bytes
from camrt.export.io.torch_archive import SUFFIX, open_archive
from camrt.export.outputs.output_form import Activation
from camrt.export.rewrites.input_form import InputLayout
from camrt.kernels.float_errors import ignore_float_errors

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load"]

Array = npt.NDArray[Any]


@ignore_float_errors
def load(
    path: str | os.PathLike[str] | nn.Module,
    *,
    backend: str | None = None,
    device: str = "cpu",
    target: str | Sequence[str] | None = None,
    grid: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    example: Any = None,
    batch_size: int = 32,
    threads: int | None = None,
    labels: Sequence[str] | Mapping[int, str] | str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
    output: int | str | None = None,
    activation: Activation | None = None,
    layout: InputLayout | None = None,
    load_deadline: float = 180.0,
    call_deadline: float = 600.0,
    max_memory: int | None = None,
    plans: str | os.PathLike[str] | None = None,
    precision: str | None = None,
    compile: bool | str | None = None,  # noqa: A002  # the field's name for it
    verify: Verify = True,
    trusted: bool = False,
    cache: bool = True,
) -> Engine:
    """Loads an image classifier and cuts it into trunk and head.

    Args:
        path: An ONNX file with a single image input, opset 7 or later, or the word "default" for the
            embedded classifier (a file of that name is Path("default")); or a torch module, or a file that
            `torch.export.save` wrote (.pt2, see `trusted`), which run in torch by hooks. Those must return
            logits.
        backend: The runtime; never another one in its place. "onnxruntime" for a file, which on a GPU is its
            CUDA provider; "openvino"; "onnxruntime-xnnpack", "onnxruntime-coreml", "onnxruntime-directml" or
            "onnxruntime-tensorrt" for other providers of ONNX Runtime; "tensorrt" or "tensorrt-rtx" for plans
            that were built of the file; "torch" for a torch model. None for "onnxruntime" or "torch".
        device: "cpu", "cuda" or "cuda:N"; of OpenVINO also its names of other devices, such as "GPU". A torch
            module must be there already.
        target: Name of the tensor, or of the node that makes it, to explain at; None finds the last
            activation with two spatial axes before they are pooled or flattened
            (`camrt.export.heads.target_rules`), of a network with two branches one in each. Several are
            explained in one call, and their maps fused. In a torch model, the path of a module.
        grid: (h, w) of the cells that the tokens of a vision transformer stand for; None finds it.
        size: (H, W) of the images to look at a torch model with; None takes that of the example, of the
            preprocessing, or 224×224.
        example: A batch that a torch model takes, when it cannot be guessed.
        batch_size: Rows run at once, images or altered activations: the bound on memory.
        threads: Threads of the runtime and of the native kernels; None takes the number in the environment
            variable `CAMRT_THREADS`, or as many as the process may use processors.
        labels: Class names in order, or by their indices ({0: "cat", 1: "dog"}), or a text file with one a
            line, or a JSON file of either; None takes those in the file's metadata.
        preprocessing: How images become the model's input: a `camrt.Preprocessing`, one of its names, or
            its fields; None takes the one in the file's metadata. What the file does by itself is not done
            again; see `camrt.engine.preprocess_adaptation`.
        output: Name of the output that holds class scores, when several could, or of a tensor inside a file's
            graph; of a torch model's outputs also the position.
        activation: How logits become probabilities, whatever the model ends in: "softmax", "sigmoid", or
            "none" where its answers are plain numbers (a regression), which have no probabilities. None reads
            it off the model, and takes softmax when that ends in logits (sigmoid when there is only one).
        layout: "NCHW" or "NHWC": the order of the axes of a model's input; None reads it off the graph, and
            of a torch model off the example. Batches are (N, C, H, W) whatever it is.
        load_deadline: Seconds that loading may take in all; infinity for no bound. On the CPU an operator
            that has begun is left to end by itself; on a GPU, and in torch, the call waits for it.
        call_deadline: Seconds that each later call of the engine may take in all, likewise.
        max_memory: Bytes that loading, or a later call, may allocate at once in the host's memory, beside the
            model's weights; where a batch needs more, fewer rows are run at once. None for half of what the
            machine and control groups (a container's limit) leave, 8 GiB at most.
        plans: Folder of TensorRT plans, as `camrt export MODEL --to tensorrt` writes it; for
            "onnxruntime-tensorrt" the folder it keeps those in that it builds.
        precision: "fp32", "fp16" or "bf16": what a file's graphs are made to compute in on a GPU and by
            OpenVINO (gradients stay in float32), and what plans and torch modules must compute in; None takes
            them as they are. Half precision rounds each layer to 11 or 8 bits: logits are then off by
            hundredths of the largest one, and close classes may change places.
        compile: Of torch models, which then run without their Python: True or a mode of `torch.compile`
            ("default", "reduce-overhead", "max-autotune"), or "cudagraphs". Each shape of batch is traced
            when it is first run; code that looks at numbers is refused.
        verify: Whether the engine's answers are compared with the model's on four images of noise, and what
            does not agree is not used (`engine.notes` says so); at the cost of about three forward passes.
            "thorough" compares every question on more noise (`engine.verification` has the errors), False
            nothing. What OpenVINO, or another provider of ONNX Runtime on the host, answers first by each
            graph is compared with ONNX Runtime's answer on the CPU (`camrt.engine.runtime.first_run`).
        trusted: Whether a .pt2 file may be opened, which runs code that is in it (see
            `camrt.export.io.torch_archive`): only where you trust its author as that of a program. Nothing in
            an ONNX file runs, so there it changes nothing, and lifts no limit.
        cache: Whether what is found out about an ONNX file that runs on the CPU is kept in the user's cache
            folder, and taken from there the next time (`camrt.export.io.cache_folder`). The environment
            variable CAMRT_CACHE names another folder, or is "off".

    Raises:
        ModelFileError: The file is missing, not ONNX, damaged, or lacks external data.
        UnsafeModelError: The file asks for something no model should, or is a .pt2 file and not `trusted`;
            nothing of it was run.
        UnsupportedModelError: It is not a single-input classifier with an (N, C) output.
        CutError: It has no such target, or cannot be cut there.
        WrongAnswerError: The runtime answers something else than ONNX Runtime on the CPU; the engine's calls
            may raise it too.
        BackendError: Unknown backend or device, or the runtime refuses the model, or is missing, or plans are
            stale or foreign.
        DeadlineError: It took longer than `load_deadline`.
        MemoryLimitError: The file asks for more than `max_memory` at once.
        InputError: A wrong option.

    Example:
        engine = camrt.load("resnet50.onnx", preprocessing="imagenet", labels="classes.txt")
        print(engine.describe())
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={batch_size!r} must be a whole number >= 1")
    threads = resolve_threads(threads)
    if activation not in (None, "softmax", "sigmoid", "none"):
        raise InputError(f"activation={activation!r} must be None, 'softmax', 'sigmoid' or 'none'")
    if verify not in (True, False, "thorough"):
        raise InputError(f"verify={verify!r} must be True, False or 'thorough'")
    if not isinstance(trusted, bool):
        raise InputError(f"trusted={trusted!r} must be True or False")
    if not isinstance(cache, bool):
        raise InputError(f"cache={cache!r} must be True or False")
    if not isinstance(device, str):
        raise InputError(f"device={device!r:.80} must be 'cpu', 'cuda' or 'cuda:N'")
    check_pair("grid", grid)
    memory = default_max_memory() if max_memory is None else check_memory(max_memory)
    check_deadline_option("load_deadline", load_deadline)
    check_deadline_option("call_deadline", call_deadline)
    common: dict[str, Any] = {
        "target": target,
        "grid": grid,
        "batch_size": batch_size,
        "threads": threads,
        "labels": labels,
        "preprocessing": preprocessing,
        "output": output,
        "activation": activation,
        "layout": layout,
        "verify": verify,
    }
    with within_budget(Budget(memory, load_deadline, "loading", "load_deadline")):
        if is_torch_model(path):
            if plans is not None:
                raise InputError("plans= is TensorRT's, and means nothing to a torch model")
            source = open_archive(path, trusted=trusted) if isinstance(path, (str, os.PathLike)) else path
            engine = import_torch_loader()(
                source,
                backend=backend,
                device=device,
                example=example,
                size=size,
                precision=precision,
                compile=compile,
                **common,
            )
        else:
            if size is not None or example is not None:
                raise InputError("size= and example= are for torch models: an ONNX file says what it takes")
            if compile is not None:
                raise InputError("compile= is for torch models: a file's runtime compiles it in any case")
            if not isinstance(path, (str, os.PathLike)):
                raise InputError(f"path={path!r:.80} must be the path of a file, or a torch module")
            if not os.fspath(path):
                raise InputError("path='' must be the path of a file, or a torch module")
            if output is not None and not isinstance(output, str):
                raise InputError(f"output={output!r} must be the name of an output")
            raw = read_bytes(resolve_model_path(path))
            runtime = make_runtime(
                backend or "onnxruntime",
                device=device,
                threads=threads,
                plans=plans,
                precision=precision,
                model=raw.sha256,
            )
            analyst = make_onnx_runtime(threads=threads, few_runs=True)
            further = {
                "backend": backend,
                "device": device,
                "load_deadline": load_deadline,
                "call_deadline": call_deadline,
                "max_memory": max_memory,
                "plans": plans,
                "precision": precision,
                "cache": cache,
            }
            store = None
            if cache and type(runtime) is type(analyst) and runtime.first_run_tolerance is None:
                depends = {name: value for name, value in common.items() if name != "labels"}
                store = find_store(raw, {**depends, "max_memory": max_memory})
            kept = None if store is None else store.read(raw.data)
            if kept is not None:
                with report_internal_errors(f"{raw.path}: the graph"):
                    engine = restore_engine(
                        raw.path,
                        raw.sha256,
                        kept,
                        runtime,
                        analyst,
                        batch_size=batch_size,
                        threads=threads,
                        labels=labels,
                    )
            else:
                engine = import_builder()(raw, runtime, analyst, store=store, **common)
            if grid is not None and all(one.layout != "tokens" for one in engine.targets()):
                raise InputError(
                    f"grid={grid} says which cells tokens stand for, and no tensor of this model holds so "
                    "many: leave grid= out"
                )
            record_origin(engine, load, path, {**common, **further})
    engine.call_deadline = float(call_deadline)
    return engine


def is_torch_model(path: Any) -> TypeGuard[nn.Module | str | os.PathLike[str]]:
    """Whether this is a torch module, or a file of one; torch is not imported to find out."""
    module = find_imported("torch.nn", "Module")
    if module is not None and isinstance(path, module):
        return True
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).endswith(SUFFIX)


def import_torch_loader() -> Callable[..., Engine]:
    """`camrt.engine.torch_models.load.load_module`.

    Raises:
        BackendError: torch is not installed.
    """
    try:
        from camrt.engine.torch_models.load import load_module
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BackendError(
            f"a {SUFFIX} file runs in torch, which is missing: pip install 'camrt[torch]'"
        ) from error
    return load_module


def import_builder() -> Callable[..., Engine]:
    """`camrt.engine.build.read_and_build`: all of the analysis, which is slow to import where it was kept."""
    from camrt.engine.build import read_and_build

    return read_and_build
