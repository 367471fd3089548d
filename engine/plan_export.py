"""From a model's file to a folder of plans."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camrt.default import resolve_model_path
from camrt.engine.build import build_engine
from camrt.engine.plan_recorder import GraphRecorder, run_every_graph
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.engine.tensorrt_plans.bindings import import_bindings
from camrt.engine.tensorrt_plans.build import BuildOptions, PlanBuilder, Precision
from camrt.engine.tensorrt_plans.store import MANIFEST, PlanStore, graph_hash
from camrt.errors import InputError
from camrt.export.io.atomic_files import write_atomic
from camrt.export.io.model_file import read_model

__all__ = ["PlanExport", "export_plans"]

TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class PlanExport:
    """What was built.

    Attributes:
        folder: The folder.
        plans: Label of each graph, and bytes of its plan.
    """

    folder: PlanStore
    plans: tuple[tuple[str, int], ...]


def export_plans(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str = "tensorrt",
    precision: Precision = "fp32",
    batches: tuple[int, int, int] = (1, 8, 32),
    size: tuple[int, int] | None = None,
    target: str | Sequence[str] | None = None,
    gradients: bool = True,
    progress: Callable[[str], None] = lambda label: None,
    **options: Any,
) -> PlanExport:
    """Builds a TensorRT plan of every graph that camrt runs of a model.

    The model is loaded and explained once on the CPU, which shows what graphs there are. `camrt.load(path,
    backend=to, device="cuda", plans=out)` then runs them.

    Args:
        path: An ONNX file, or the word "default".
        out: Folder to put the plans in; it may hold an earlier export, whose timing cache is used again.
        to: "tensorrt", or "tensorrt-rtx", which needs no card to build.
        precision: What plans compute in, see `BuildOptions`.
        batches: The least, usual and most rows of a run.
        size: (H, W) of the images, when the model takes any.
        target: As in `camrt.load`.
        gradients: Whether graphs of gradients are built too.
        progress: Is told what is built next.
        **options: Of `camrt.load`.

    Raises:
        BackendError: TensorRT is missing, or there is no card, or it refuses a graph.
        InputError: A wrong option, or a size is missing.
        CamrtError: As `camrt.load`.
    """
    recipe = BuildOptions(precision, batches)
    trt = import_bindings(to, running=False)
    recorder = GraphRecorder()
    engine = build_engine(
        read_model(resolve_model_path(path)), recorder, OnnxRuntime(), target=target, **options
    )
    interface = engine.interface
    sides = (interface.height, interface.width) if interface.fixed_size else size
    if sides is None or sides[0] is None or sides[1] is None:
        raise InputError(
            "this model takes images of any size, and plans are of one: pass size=(height, width)"
        )
    run_every_graph(engine, (sides[0], sides[1]), gradients=gradients)
    folder = PlanStore.new(Path(out), engine.sha256, trt, recipe, (sides[0], sides[1]))
    cache = folder.path / TIMING_CACHE
    (folder.path / MANIFEST).unlink(missing_ok=True)  # an unfinished export is none
    builder = PlanBuilder(trt, recipe, cache.read_bytes() if cache.is_file() else b"")
    built = []
    for ran in recorder.graphs:
        if graph_hash(ran.model) in folder.plans:
            continue
        progress(ran.label)
        plan = builder.build(ran.model, label=ran.label, shapes=ran.shapes, batch=ran.batch)
        folder.add(ran.model, ran.label, plan)
        built.append((ran.label, len(plan)))
    if builder.cache:
        write_atomic(cache, builder.cache)
    folder.save()
    kept = {entry["file"] for entry in folder.plans.values()}
    for old in folder.path.glob("*.plan"):
        if old.name not in kept:  # of an earlier export
            old.unlink()
    return PlanExport(folder, tuple(built))
