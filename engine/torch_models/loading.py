"""From a torch module, or a file of `torch.export`, to an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from camrt.engine.cuts import Cut, vectors_at_once
from camrt.engine.load_options import checked_pair, labels_of, wanted_targets
from camrt.engine.matching import matched
from camrt.engine.places import OnDevice
from camrt.engine.plans.building import checked_precision
from camrt.engine.preprocessing import Preprocessing
from camrt.engine.session import Engine
from camrt.engine.torch_models.calls import recording
from camrt.engine.torch_models.choosing import Candidate, candidates, choose
from camrt.engine.torch_models.compiling import compiler_of
from camrt.engine.torch_models.cutting import HookedCut
from camrt.engine.torch_models.flattened import flattened_linear
from camrt.engine.torch_models.flow import recorded
from camrt.engine.torch_models.heads import FlattenedHead, HookedHead, LinearHead
from camrt.engine.torch_models.linear import pooled_linear
from camrt.engine.torch_models.own_heads import calm_head
from camrt.engine.torch_models.runners import ModuleBack, ModuleForth
from camrt.engine.torch_models.shortcut import BATCHES, probe
from camrt.engine.torch_models.sources import Source, read_source, shown_by
from camrt.engine.torch_models.subject import Subject, device_of
from camrt.engine.torch_models.verified import verified_module
from camrt.engine.verification import Verify
from camrt.errors import BackendError, InputError
from camrt.export.cutting import ACTIVATION
from camrt.export.endings import Activation
from camrt.export.front import Front
from camrt.export.input_form import Layout
from camrt.export.interface import Interface, probe_size
from camrt.export.torch_archive import TorchArchive

__all__ = ["load_module"]

COLOURS = 3

Explored = tuple[list[Candidate], list[tuple[Candidate, int]], int, str | None]
"""Candidates, those to cut at with the number of their calls, the classes, and the path of a CALM head."""

KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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
    layout: Layout | None = None,
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
        source: A module, or a .pt2 file that the caller vouches for (`camrt.export.torch_archive`): when
            `torch.export.load` reads it, what it holds that runs is run.
        backend: None or "torch".
        device: Where the module is. It is not moved; what a file holds is brought there.
        target: Path of a submodule, or several; None finds one, see `camrt.engine.torch_models.choosing`.
        batch_size: Rows run at once, pictures or altered activations: the bound on memory.
        threads: Threads of the native kernels; torch's own are torch's (`torch.set_num_threads`).
        labels: Class names, or a text file with one a line.
        preprocessing: How pictures become the module's input; a name stands for pictures of `size`.
        output: Which output holds the class scores, when several could: a mapping's key, a field, or the
            position in a tuple.
        activation: "softmax" or "sigmoid", whatever the module ends in; "none" takes its answers as plain
            numbers; None takes that of the module's last operation, then softmax (sigmoid for one logit).
        example: A batch as the module takes it, when the number of its colours cannot be read off its first
            convolution, or they are its last axis; only its shape is looked at.
        layout: "NCHW" or "NHWC": the order of the axes of what the module takes; None reads it off the
            example's shape (`camrt.engine.torch_models.sources`). Batches are (N, C, H, W) whatever it is.
        size: (H, W) of the pictures the module is tried on; None takes the example's, the preprocessing's, or
            224×224.
        grid: (h, w) of the patches of a vision transformer, when its tokens do not tell.
        precision: "fp32", "fp16" or "bf16": what the module computes in. A module must be of that type
            already; what a file holds is made so. None takes it as it is.
        compile: None, True, a mode of `torch.compile`, or "cudagraphs"; see
            `camrt.engine.torch_models.compiling`.
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
    kind = None if precision is None else KINDS[checked_precision(precision)]
    given = read_source(source, layout)
    if given.sha256:
        given.module.to(device_of(device), kind)
    sides = checked_pair("size", size)
    given, sides = shown_by(example, given, layout, sides)
    steps = Preprocessing.coerce(preprocessing, probe_size(given.height, given.width, sides))
    if sides is None and steps is not None:
        sides = steps.size
    sides = probe_size(given.height, given.width, sides)
    subject = Subject(
        given.module, given.name, device, given.batch, compiler_of(compile, device), layout=given.layout
    )
    if kind is not None and subject.place()[1] != kind:
        raise InputError(
            f"precision={precision!r} was asked for, and the parameters of {given.name} are "
            f"{subject.place()[1]}: convert it with module.to({kind})"
        )
    wanted = None if output is None else str(output)
    cells = checked_pair("grid", grid)
    channels, (listed, found, classes, joint) = first_taken(
        subject,
        given,
        lambda channels: explored(subject, channels, sides, target, wanted, cells, activation),
    )
    notes = list(subject.notes)
    if isinstance(source, TorchArchive):
        notes.append(f"opened as trusted, and so this of the file was run: {'; '.join(source.runs)}")
    if given.batch is not None:
        notes.append(f"the batch axis is fixed at {given.batch} in the file")
    hooked = []
    with subject.running(gradients=False):
        for candidate, calls in found:
            cut = HookedCut(subject, candidate, calls, channels, sides)
            hooked.append((candidate, cut, head_of(cut, channels, sides, batch_size, threads)))
    cuts = []
    for number, (candidate, cut, head) in enumerate(hooked):
        roles = (ACTIVATION, *cut.beside)
        taps = {role: role if number == 0 else f"{role}_{number}" for role in roles}
        head.has_joint = joint is not None
        cuts.append(Cut(candidate.tensor(), head, taps))
    tapped = [(cut, dict(made.taps)) for (_, cut, _), made in zip(hooked, cuts, strict=True)]
    interface = Interface(
        channels,
        given.height,
        given.width,
        given.batch,
        classes,
        subject.activation,
        subject.ending,
        given.layout,
        joint,
        reading=subject.reading,
        is_distribution=activation is None and subject.reading == "log",
        notes=subject.notes,
    )
    steps, changed = matched(steps, interface, Front())
    runner, place = ModuleForth(subject, tapped, joint), OnDevice(subject.place()[0])
    checked = verified_module(
        runner,
        cuts,
        [cut for _, cut, _ in hooked],
        interface,
        sides,
        place,
        subject.place()[1],
        batch_size=batch_size,
        threads=threads,
        level=verify,
    )
    return Engine(
        given.path,
        given.sha256,
        interface,
        runner,
        checked.cuts,
        tuple(item.tensor() for item in listed),
        {"plain": ModuleBack(subject, "plain"), "guided": ModuleBack(subject, "guided")},
        labels=labels_of(labels, {}, classes),
        preprocessing=steps,
        batch_size=checked.batch_size,
        threads=threads,
        notes=(*notes, *changed, *checked.notes),
        verification=checked.comparisons,
        place=place,
        runtime="torch",
    )


def first_taken(subject: Subject, given: Source, explore: Callable[[int], Explored]) -> tuple[int, Explored]:
    """The number of colours the module takes, and what was found with them.

    Where it is a guess and pictures of so many fail, those of three colours are tried.
    """
    assert given.channels is not None
    try:
        return given.channels, explore(given.channels)
    except BackendError:
        if not given.guessed or given.channels == COLOURS:
            raise
        try:
            return COLOURS, explore(COLOURS)
        except BackendError:
            pass
        raise


def explored(
    subject: Subject,
    channels: int,
    size: tuple[int, int],
    target: str | Sequence[str] | None,
    output: str | None,
    grid: tuple[int, int] | None,
    activation: Activation | None,
) -> Explored:
    """One pass on a probe: candidates, those to cut at with their calls, the classes, and a CALM head."""
    with subject.running(gradients=True):
        leaf = subject.tensor(probe(subject.batch or BATCHES[0], channels, size)).requires_grad_()
        try:
            with recording(subject.module) as calls:
                logits = subject.pick_logits(leaf.clone(), output, activation)
        except BackendError as error:
            raise BackendError(
                f"{error}. If the module takes other pictures, say size=(H, W), or pass a batch as example="
            ) from error
        trace = recorded(logits, leaf)
        listed = candidates(calls, trace, tuple(leaf.shape), grid)
        classes = logits.shape[1]
        joint = calm_head(subject, leaf.detach())
        chosen = [
            item
            for wanted in wanted_targets(target)
            for item in choose(listed, calls, trace, subject.module, wanted, grid, joint)
        ]
        found = [(item, sum(call.path == item.path for call in calls)) for item in chosen]
    return listed, found, classes, joint


def head_of(
    cut: HookedCut, channels: int, size: tuple[int, int], batch_size: int, threads: int | None
) -> HookedHead:
    """The head of a cut in its cheapest form, within `Subject.running`."""
    linear = pooled_linear(cut, size)
    if linear is not None:
        return LinearHead(cut, linear, batch_size, threads)
    flattened = flattened_linear(cut, channels, size)
    if flattened is not None:
        vectors = vectors_at_once(batch_size, channels * size[0] * size[1], flattened.layer.out_features)
        return FlattenedHead(cut, flattened, batch_size, vectors, threads)
    return HookedHead(cut, batch_size, threads)
