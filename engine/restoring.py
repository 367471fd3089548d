"""From what was found out about a file to its engine: just now, or when it was loaded before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from camrt.engine.analysis import Analysis
from camrt.engine.cuts import Cut, check_output_shapes, make_cuts, make_image_adjoints
from camrt.engine.engine import Engine
from camrt.engine.head_making import ModelToCut
from camrt.engine.options import resolve_labels
from camrt.engine.runtime import Backend, Runner
from camrt.engine.shape_probe import make_shape_observer
from camrt.export.graph.index import Graph

__all__ = ["make_engine", "restore_engine"]


def restore_engine(
    path: Path,
    sha256: str,
    kept: Analysis,
    runtime: Backend,
    analyst: Backend,
    *,
    batch_size: int,
    threads: int | None,
    labels: Sequence[str] | Mapping[int, str] | str | os.PathLike[str] | None,
) -> Engine:
    """An engine of a file whose analysis was kept: nothing is run but what answers later.

    Args:
        path: The file.
        sha256: Of it.
        kept: The analysis, with the same options.
        runtime: What runs the engine's graphs.
        analyst: What runs the model where it must be looked at again.
        batch_size: See `load`, as the others.
        threads: See `load`.
        labels: See `load`.
    """
    metadata = {entry.key: entry.value for entry in kept.model.metadata_props}
    names = resolve_labels(labels, metadata, kept.interface.num_classes)
    graph = kept.index(make_shape_observer(analyst))
    whole = ModelToCut(
        model=kept.model, graph=graph, interface=kept.interface, batch_size=batch_size, threads=threads
    )
    tapped, cuts, _ = make_cuts(whole, list(kept.targets), list(kept.tensors), runtime, kept.unfactored)
    runner = runtime.make_runner(tapped, label="model", batch=kept.interface.batch)
    runner = check_output_shapes(runner, kept.interface, cuts)
    return make_engine(
        path, sha256, kept, graph, runner, cuts, runtime, names, batch_size=batch_size, threads=threads
    )


def make_engine(
    path: Path,
    sha256: str,
    found: Analysis,
    graph: Graph,
    runner: Runner,
    cuts: tuple[Cut, ...],
    runtime: Backend,
    labels: tuple[str, ...] | None,
    *,
    batch_size: int,
    threads: int | None,
) -> Engine:
    """The engine of an analysed file.

    Args:
        path: The file.
        sha256: Of it.
        found: What was found out about it.
        graph: Its graph's index.
        runner: The whole model with the cuts' further outputs.
        cuts: Its cuts.
        runtime: What runs the engine's graphs.
        labels: Class names, when known.
        batch_size: See `load`.
        threads: See `load`.
    """
    return Engine(
        path=path,
        sha256=sha256,
        interface=found.interface,
        model=runner,
        cuts=cuts,
        candidates=found.candidates,
        adjoints=make_image_adjoints(found.model, graph, found.interface, runtime),
        labels=labels,
        preprocessing=found.preprocessing,
        batch_size=batch_size,
        threads=threads,
        notes=found.notes,
        verification=found.comparisons,
        device=runtime.device,
        runtime=runtime.name,
        front=found.front,
    )
