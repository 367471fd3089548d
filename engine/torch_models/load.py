"""From a torch module, or a file of `torch.export`, to an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from camrt.engine.cuts import Cut
from camrt.engine.device import TorchDevice
from camrt.engine.engine import Engine
from camrt.engine.head_making import vector_batch_size
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.options import Verify, check_pair, list_targets, resolve_labels
from camrt.engine.preprocess_adaptation import adapt_preprocessing
from camrt.engine.tensorrt_plans.build import check_precision
from camrt.engine.torch_models.calls import record_calls
from camrt.engine.torch_models.calm_head import find_calm_head
from camrt.engine.torch_models.compilation import choose_compiler
from camrt.engine.torch_models.cut import HookedCut
from camrt.engine.torch_models.flattened_linear import find_flattened_linear
from camrt.engine.torch_models.flow import trace_autograd
from camrt.engine.torch_models.heads import FlattenedHead, HookedHead, LinearHead
from camrt.engine.torch_models.model import TorchModel, parse_device
from camrt.engine.torch_models.pooled_linear import find_pooled_linear
from camrt.engine.torch_models.runners import ModuleBackward, ModuleForward
from camrt.engine.torch_models.skipped_calls import PROBE_BATCH_SIZES, probe_batch
from camrt.engine.torch_models.sources import ModuleSource, apply_example, read_source
from camrt.engine.torch_models.targets import Candidate, choose_candidates, find_candidates
from camrt.engine.torch_models.verification import verify_module
from camrt.errors import BackendError, InputError
from camrt.export.adjoint import BIAS_EPSILONS
from camrt.export.geometry.builtin_preprocessing import BuiltinPreprocessing
from camrt.export.heads.cut import ACTIVATION
from camrt.export.io.torch_archive import TorchArchive
from camrt.export.outputs.output_form import Activation
from camrt.export.rewrites.input_form import InputLayout
from camrt.export.rewrites.interface import Interface, probe_size

__all__ = ["load_module"]

RGB_CHANNELS = 3

Exploration = tuple[list[Candidate], list[tuple[Candidate, int]], int, str | None]
"""Candidates, those to cut at with the number of their calls, the classes, and the path of a CALM head."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_module(
    source: torch.nn.Module | TorchArchive,
    *,
    backend: str | None = None,
    device: str = "cpu",
    target: str | Sequence[str] | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    labels: Sequence[str] | Mapping[int, str] | str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
    output: int | str | None = None,
    activation: Activation | None = None,
    example: Any = None,
    layout: InputLayout | None = None,
    size: tuple[int, int] | None = None,
    grid: tuple[int, int] | None = None,
    precision: str | None = None,
    compile: bool | str | None = None,  # noqa: A002  # the field's name for it
    verify: Verify = True,
) -> Engine:
    """Prepares a torch module, or a file written by `torch.export.save`, for explanations where it is.

    Hooks are set for each call and taken away after it; the module runs in evaluation mode and is then as it
    was. It is not copied: what is explained are its weights at that moment.

    Args:
        source: A module, or a .pt2 file that the caller vouches for (`camrt.export.io.torch_archive`): when
            `torch.export.load` reads it, what it holds that runs is run.
        backend: None or "torch".
        device: Where the module is. It is not moved; what a file holds is brought there.
        target: Path of a submodule, or several; None finds one, see `camrt.engine.torch_models.targets`.
        batch_size: Rows run at once, images or altered activations: the bound on memory.
        threads: Threads of the native kernels; torch's own are torch's (`torch.set_num_threads`).
        labels: Class names, or a text file with one a line.
        preprocessing: How images become the module's input; a name stands for images of `size`.
        output: Which output holds the class scores, when several could: a mapping's key, a field, or the
            position in a tuple.
        activation: "softmax" or "sigmoid", whatever the module ends in; "none" takes its answers as plain
            numbers; None takes that of the module's last operation, then softmax (sigmoid for one logit).
        example: A batch as the module takes it, when the number of its colours cannot be read off its first
            convolution, or they are its last axis; only its shape is looked at.
        layout: "NCHW" or "NHWC": the order of the axes of what the module takes; None reads it off the
            example's shape (`camrt.engine.torch_models.sources`). Batches are (N, C, H, W) whatever it is.
        size: (H, W) of the images the module is tried on; None takes the example's, the preprocessing's, or
            224×224.
        grid: (h, w) of the patches of a vision transformer, when its tokens do not tell.
        precision: "fp32", "fp16" or "bf16": what the module computes in. A module must be of that type
            already; what a file holds is made so. None takes it as it is.
        compile: None, True, a mode of `torch.compile`, or "cudagraphs"; see
            `camrt.engine.torch_models.compilation`.
        verify: Whether what heads answer is compared with the module on noise; see `camrt.load`.

    Raises:
        ModelFileError: torch cannot read the file.
        UnsupportedModelError: It is not a single-input classifier with an (N, C) output.
        CutError: There is no such submodule, or it gives no map.
        BackendError: Another backend or device, or the module failed.
        InputError: A wrong option.
    """
    if backend not in (None, "torch"):
        raise BackendError(
            f"a torch module runs on backend 'torch', not {backend!r}; export it to ONNX first"
        )
    kind = None if precision is None else DTYPES[check_precision(precision)]
    given = read_source(source, layout)
    if given.sha256:
        given.module.to(parse_device(device), kind)
    sides = check_pair("size", size)
    given, sides = apply_example(example, given, layout, sides)
    steps = Preprocessing.coerce(preprocessing, probe_size(given.height, given.width, sides))
    if sides is None and steps is not None:
        sides = steps.size
    sides = probe_size(given.height, given.width, sides)
    model = TorchModel(
        given.module, given.name, device, given.batch, choose_compiler(compile, device), layout=given.layout
    )
    if kind is not None and model.device_and_dtype()[1] != kind:
        raise InputError(
            f"precision={precision!r} was asked for, and the parameters of {given.name} are "
            f"{model.device_and_dtype()[1]}: convert it with module.to({kind})"
        )
    wanted = None if output is None else str(output)
    cells = check_pair("grid", grid)
    channels, (listed, found, classes, joint) = try_channel_counts(
        model,
        given,
        lambda channels: explore_module(model, channels, sides, target, wanted, cells, activation),
    )
    notes = list(model.notes)
    if isinstance(source, TorchArchive):
        notes.append(f"opened as trusted, and so this of the file was run: {'; '.join(source.runs)}")
    if given.batch is not None:
        notes.append(f"the batch axis is fixed at {given.batch} in the file")
    hooked = []
    with model.evaluation_mode(gradients=False):
        for candidate, calls in found:
            cut = HookedCut(model, candidate, calls, channels, sides)
            hooked.append((candidate, cut, build_head(cut, channels, sides, batch_size, threads)))
    cuts = []
    for number, (candidate, cut, head) in enumerate(hooked):
        roles = (ACTIVATION, *cut.extra_inputs)
        taps = {role: role if number == 0 else f"{role}_{number}" for role in roles}
        cuts.append(Cut(candidate.to_target_tensor(), head, taps))
    tapped = [(cut, dict(made.taps)) for (_, cut, _), made in zip(hooked, cuts, strict=True)]
    interface = Interface(
        channels=channels,
        height=given.height,
        width=given.width,
        batch=given.batch,
        num_classes=classes,
        activation=model.activation,
        recognised=model.ending,
        layout=given.layout,
        joint=joint,
        reading=model.reading,
        is_distribution=activation is None and model.reading == "log",
        notes=model.notes,
    )
    steps, changed = adapt_preprocessing(steps, interface, BuiltinPreprocessing())
    runner, place = ModuleForward(model, tapped, joint), TorchDevice(model.device_and_dtype()[0])
    checked = verify_module(
        runner,
        cuts,
        [cut for _, cut, _ in hooked],
        interface,
        sides,
        place,
        model.device_and_dtype()[1],
        batch_size=batch_size,
        threads=threads,
        level=verify,
    )
    return Engine(
        path=given.path,
        sha256=given.sha256,
        interface=interface,
        model=runner,
        cuts=checked.cuts,
        candidates=tuple(item.to_target_tensor() for item in listed),
        adjoints={
            "plain": ModuleBackward(model, "plain"),
            "guided": ModuleBackward(model, "guided"),
            **{scaling: ModuleBackward(model, "plain", scaling) for scaling in BIAS_EPSILONS},
        },
        labels=resolve_labels(labels, {}, classes),
        preprocessing=steps,
        batch_size=checked.batch_size,
        threads=threads,
        notes=(*notes, *changed, *checked.notes),
        verification=checked.comparisons,
        device=place,
        runtime="torch",
    )


def try_channel_counts(
    model: TorchModel, given: ModuleSource, explore: Callable[[int], Exploration]
) -> tuple[int, Exploration]:
    """The number of colours the module takes, and what was found with them.

    Where it is a guess and images of so many fail, those of three colours are tried.
    """
    assert given.channels is not None
    try:
        return given.channels, explore(given.channels)
    except BackendError:
        if not given.guessed or given.channels == RGB_CHANNELS:
            raise
        try:
            return RGB_CHANNELS, explore(RGB_CHANNELS)
        except BackendError:
            pass
        raise


def explore_module(
    model: TorchModel,
    channels: int,
    size: tuple[int, int],
    target: str | Sequence[str] | None,
    output: str | None,
    grid: tuple[int, int] | None,
    activation: Activation | None,
) -> Exploration:
    """One pass on a probe: candidates, those to cut at with their calls, the classes, and a CALM head."""
    with model.evaluation_mode(gradients=True):
        leaf = model.to_tensor(
            probe_batch(model.batch or PROBE_BATCH_SIZES[0], channels, size)
        ).requires_grad_()
        try:
            with record_calls(model.module) as calls:
                logits = model.pick_logits(leaf.clone(), output, activation)
        except BackendError as error:
            raise BackendError(
                f"{error}. If the module takes other images, say size=(H, W), or pass a batch as example="
            ) from error
        trace = trace_autograd(logits, leaf)
        listed = find_candidates(calls, trace, tuple(leaf.shape), grid)
        classes = logits.shape[1]
        joint = find_calm_head(model, leaf.detach())
        chosen = [
            item
            for wanted in list_targets(target)
            for item in choose_candidates(listed, calls, trace, model.module, wanted, grid, joint)
        ]
        found = [(item, sum(call.path == item.path for call in calls)) for item in chosen]
    return listed, found, classes, joint


def build_head(
    cut: HookedCut, channels: int, size: tuple[int, int], batch_size: int, threads: int | None
) -> HookedHead:
    """The head of a cut in its cheapest form, within `TorchModel.evaluation_mode`."""
    linear = find_pooled_linear(cut, size)
    if linear is not None:
        return LinearHead(cut, linear, batch_size, threads)
    flattened = find_flattened_linear(cut, channels, size)
    if flattened is not None:
        vectors = vector_batch_size(batch_size, channels * size[0] * size[1], flattened.layer.out_features)
        return FlattenedHead(cut, flattened, batch_size, vectors, threads)
    return HookedHead(cut, batch_size, threads)
