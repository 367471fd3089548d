"""From a file's bytes to an engine: the file is checked and analysed, and the engine compared with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from camrt.engine.analysis import Analysis, AnalysisStore
from camrt.engine.arrays import to_numpy
from camrt.engine.batch_axis import resolve_batch_axis
from camrt.engine.device import Device
from camrt.engine.engine import Engine
from camrt.engine.head_making import ModelToCut
from camrt.engine.heads.calm import is_joint_distribution
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.noise import normal_noise
from camrt.engine.options import Verify, list_targets, resolve_labels, resolve_preprocessing
from camrt.engine.output_probe import make_output_prober
from camrt.engine.preprocess_adaptation import adapt_preprocessing
from camrt.engine.restoring import make_engine
from camrt.engine.runtime import Backend, Runner
from camrt.engine.runtime.first_run import FirstRunChecked
from camrt.engine.shape_probe import make_shape_observer
from camrt.engine.verification import VerifiedCuts, make_verified_cuts
from camrt.errors import ModelFileError
from camrt.export.adjoint import find_straight_through
from camrt.export.geometry.builtin_preprocessing import find_builtin_preprocessing
from camrt.export.geometry.map_formats import insert_map
from camrt.export.graph.held_weights import hold_weights
from camrt.export.graph.index import Graph
from camrt.export.heads.cut import JOINT, choose_targets, describe_resampling, find_candidates
from camrt.export.internal_errors import report_internal_errors
from camrt.export.io.model_bytes import ModelBytes
from camrt.export.io.model_file import ModelFile, parse_model
from camrt.export.outputs.declared_maps import remove_maps
from camrt.export.outputs.output_form import Activation
from camrt.export.rewrites.input_form import InputLayout, read_input_form
from camrt.export.rewrites.interface import LOGITS, Interface, standardise

__all__ = ["AnalysedFile", "analyse_file", "build_engine", "read_and_build"]

Array = npt.NDArray[Any]


def read_and_build(raw: ModelBytes, runtime: Backend, analyst: Backend, **options: Any) -> Engine:
    """An engine of a file's bytes.

    Args:
        raw: They.
        runtime: What runs the engine's graphs.
        analyst: What runs the model while it is looked at.
        **options: See `build_engine`.

    Raises:
        CamrtError: See `camrt.load`.
    """
    with report_internal_errors(f"{raw.given}: the file"):
        file = parse_model(raw)
    with report_internal_errors(f"{file.path}: the graph"):
        return build_engine(file, runtime, analyst, **options)


@dataclass(frozen=True, kw_only=True)
class AnalysedFile:
    """What was found out about a file, and what that is needed for.

    Attributes:
        found: What is kept for the next process.
        graph: The index of its graph.
        checked: The model's runner and cuts, compared with the model.
        labels: Class names, when known.
    """

    found: Analysis
    graph: Graph
    checked: VerifiedCuts
    labels: tuple[str, ...] | None

    def make_engine(
        self, file: ModelFile, runtime: Backend, *, batch_size: int = 32, threads: int | None = None
    ) -> Engine:
        """The engine of the file; see `build_engine`."""
        return make_engine(
            file.path,
            file.sha256,
            self.found,
            self.graph,
            self.checked.runner,
            self.checked.cuts,
            runtime,
            self.labels,
            batch_size=batch_size,
            threads=threads,
        )


def build_engine(
    file: ModelFile,
    runtime: Backend,
    analyst: Backend,
    *,
    batch_size: int = 32,
    threads: int | None = None,
    verify: Verify = True,
    **options: Any,
) -> Engine:
    """An engine of a file that was read; see `load`.

    Args:
        file: The file; its model is changed.
        runtime: What runs the engine's graphs.
        analyst: What runs the model while it is looked at.
        batch_size: See `load`.
        threads: See `load`.
        verify: See `load`.
        **options: See `analyse_file`.
    """
    if verify is not False and runtime.first_run_tolerance is not None:
        runtime = FirstRunChecked(runtime, analyst, runtime.first_run_tolerance)
    analysed = analyse_file(
        file, runtime, analyst, batch_size=batch_size, threads=threads, verify=verify, **options
    )
    return analysed.make_engine(file, runtime, batch_size=batch_size, threads=threads)


def analyse_file(
    file: ModelFile,
    runtime: Backend,
    analyst: Backend,
    *,
    target: str | Sequence[str] | None = None,
    grid: tuple[int, int] | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    labels: Sequence[str] | Mapping[int, str] | str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
    output: str | None = None,
    activation: Activation | None = None,
    layout: InputLayout | None = None,
    verify: Verify = True,
    store: AnalysisStore | None = None,
) -> AnalysedFile:
    """What is found out about a file that was read, see `load`.

    Args:
        file: The file; its model is changed.
        runtime: What runs the engine's graphs.
        analyst: What runs the model while it is looked at.
        target: See `load`, as the others.
        grid: See `load`.
        batch_size: See `load`.
        threads: See `load`.
        labels: See `load`.
        preprocessing: See `load`.
        output: See `load`.
        activation: See `load`.
        layout: See `load`.
        verify: See `load`.
        store: Where what was found out is kept; None where it is not.
    """
    watch = make_shape_observer(analyst)
    model = file.model
    held = remove_maps(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    steps = resolve_preprocessing(preprocessing, metadata, read_input_form(model, layout))
    interface = standardise(
        model,
        output=output,
        activation=activation,
        layout=layout,
        expected_size=None if steps is None else steps.size,
        observer=watch,
        prober=make_output_prober(analyst),
    )
    names = resolve_labels(labels, metadata, interface.num_classes)
    weights: list[Array] = []
    if type(runtime) is type(analyst):
        model, weights = hold_weights(model)
    interface, graph, notes = resolve_batch_axis(model, interface, analyst, steps, watch)
    notes = [*file.notes, *([] if held is None else [held.describe()]), *interface.notes, *notes]
    graph.observe(LOGITS)
    front = find_builtin_preprocessing(graph, interface.element)
    steps, changed = adapt_preprocessing(steps, interface, front)
    notes += changed
    listed = tuple(find_candidates(graph, grid))
    found = [
        chosen
        for wanted in list_targets(target)
        for chosen in choose_targets(graph, wanted, grid, interface.joint)
    ]
    notes += dict.fromkeys(note for chosen in found for note in describe_resampling(graph, chosen.name))
    tensors = []
    for number, chosen in enumerate(found):
        tensors.append(
            insert_map(
                model, graph, chosen.name, chosen.layout, chosen.prefix, chosen.shape, number, chosen.mirrored
            )
        )
        if chosen.layout != "map" or chosen.mirrored:
            graph = Graph(model, graph.input_shape, watch)
            graph.observe(LOGITS)
    size = None if steps is None else steps.size
    checked = make_verified_cuts(
        ModelToCut(model=model, graph=graph, interface=interface, batch_size=batch_size, threads=threads),
        found,
        tensors,
        runtime=runtime,
        analyst=analyst,
        size=size,
        levels=front.levels,
        level=verify,
    )
    interface = checked.interface
    rounded = find_straight_through(graph)
    if rounded:
        listing = ", ".join(map(repr, rounded[:3])) + (", ..." if len(rounded) > 3 else "")
        notes.append(f"gradients take roundings that quantise for the identity ({len(rounded)}: {listing})")
    if interface.joint is not None:
        check_calm(checked.runner, interface, size, runtime.device)
    found_out = Analysis(
        model=model,
        input_shape=graph.input_shape,
        shapes=graph.shapes,
        types=graph.types,
        interface=interface,
        preprocessing=steps,
        front=front,
        candidates=listed,
        targets=tuple(found),
        tensors=tuple(tensors),
        unfactored=checked.unfactored,
        notes=(*notes, *checked.notes),
        comparisons=checked.comparisons,
        weights=tuple(weights),
    )
    if store is not None:
        store.write(found_out, file.path, file.sha256)
    return AnalysedFile(found=found_out, graph=graph, checked=checked, labels=names)


def check_calm(runner: Runner, interface: Interface, size: tuple[int, int] | None, device: Device) -> None:
    """Tries a CALM file's outputs on two images of noise.

    Raises:
        ModelFileError: They are not the distribution that the file says they are.
    """
    images = normal_noise(interface.probe_shape(2, size))
    logits, joint = (to_numpy(found) for found in runner(device.put(images), [LOGITS, JOINT]))
    if not is_joint_distribution(joint, logits):
        raise ModelFileError(
            "the file says it is CALM, but its probabilities do not add up: p(y,z|x) must sum to one, and "
            "over places to p(y|x)"
        )
