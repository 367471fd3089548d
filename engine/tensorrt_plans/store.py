"""A folder of plans, which says what they were built of, by and for."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

import camrt
from camrt.engine.tensorrt_plans.bindings import Bindings
from camrt.engine.tensorrt_plans.build import BuildOptions
from camrt.errors import BackendError
from camrt.export.io.atomic_files import write_atomic
from camrt.export.io.text_files import read_text_file

__all__ = ["PlanStore", "graph_hash"]

FORMAT = "camrt.plans/1"
MANIFEST = "plans.json"


def graph_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of a graph."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


@dataclass
class PlanStore:
    """Plans by the graphs they were built of.

    Attributes:
        path: The folder.
        model: SHA-256 of the model's file.
        built_with: What built them: flavour, version and card of TensorRT, the version of camrt, precision,
            batches and the images' size.
        plans: Graph's hash -> label, file, SHA-256 of the file.
    """

    path: Path
    model: str
    built_with: dict[str, Any]
    plans: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def new(
        cls, path: Path, model: str, trt: Bindings, recipe: BuildOptions, size: tuple[int, int]
    ) -> PlanStore:
        """A folder to put plans in; nothing is written yet."""
        chosen = {"precision": recipe.precision, "batches": list(recipe.batches), "size": list(size)}
        return cls(path, model, build_environment(trt) | chosen)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], model: str, trt: Bindings, precision: str | None = None
    ) -> PlanStore:
        """A folder that `save` wrote, if its plans are of this model and can run here.

        Args:
            path: The folder.
            model: SHA-256 of the model's file.
            trt: The TensorRT that is to run them.
            precision: What they must compute in; None takes any.

        Raises:
            BackendError: It is no such folder, or stale, or foreign.
        """
        path = Path(path)
        try:
            content = json.loads(read_text_file(path / MANIFEST))
        except OSError as error:
            raise BackendError(
                f"{str(path)!r} is no folder of plans ({error}): build one with camrt export MODEL --to "
                f"{trt.flavour} --out FOLDER"
            ) from error
        except (ValueError, RecursionError) as error:
            raise BackendError(f"{str(path / MANIFEST)!r} is damaged: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BackendError(
                f"{str(path / MANIFEST)!r} is no list of plans that this camrt reads ({FORMAT})"
            )
        try:
            folder = cls(path, content["model"], dict(content["built"]), dict(content["plans"]))
            folder._refuse(model, trt, precision)
        except (KeyError, TypeError, ValueError) as error:
            raise BackendError(f"{str(path / MANIFEST)!r} is damaged: {error!r}") from error
        return folder

    def add(self, model: onnx.ModelProto, label: str, plan: bytes) -> None:
        """Writes the plan of a graph."""
        own = graph_hash(model)
        name = f"{own[:16]}.plan"
        write_atomic(self.path / name, plan)
        self.plans[own] = {"label": label, "file": name, "sha256": hashlib.sha256(plan).hexdigest()}

    def save(self) -> None:
        """Writes the list of plans, without which the folder is none; last of all."""
        content = {"format": FORMAT, "model": self.model, "built": self.built_with, "plans": self.plans}
        write_atomic(self.path / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())

    def read_plan(self, model: onnx.ModelProto, label: str) -> bytes:
        """The plan of a graph.

        Raises:
            BackendError: There is none, or its file is damaged.
        """
        entry = self.plans.get(graph_hash(model))
        if entry is None:
            listed = ", ".join(sorted({known["label"] for known in self.plans.values()})) or "nothing"
            raise BackendError(
                f"{str(self.path)!r} has no plan of this {label}, only of: {listed}. It was built without "
                "gradients, for another target, or by another camrt: build it again with camrt export"
            )
        file = self.path / entry["file"]
        try:
            plan = file.read_bytes()
        except OSError as error:
            raise BackendError(f"the plan of the {label} cannot be read: {error}") from error
        if hashlib.sha256(plan).hexdigest() != entry["sha256"]:
            raise BackendError(f"{str(file)!r} is damaged: it is not what camrt export wrote")
        return plan

    def _refuse(self, model: str, trt: Bindings, precision: str | None) -> None:
        again = "build the plans again with camrt export, here"
        if self.model != model:
            raise BackendError(
                f"the plans in {str(self.path)!r} are of another model (SHA-256 {self.model[:12]}…, not "
                f"{model[:12]}…): {again}"
            )
        here = build_environment(trt)
        for name, what in (("flavour", "TensorRT"), ("version", "version of TensorRT"), ("card", "card"),
                           ("camrt", "version of camrt")):  # fmt: skip
            if self.built_with[name] != here[name]:
                raise BackendError(
                    f"the plans in {str(self.path)!r} were built for another {what} "
                    f"({self.built_with[name]}, "
                    f"here {here[name]}): {again}"
                )
        if precision is not None and self.built_with["precision"] != precision:
            raise BackendError(
                f"the plans in {str(self.path)!r} compute in {self.built_with['precision']}, not in "
                f"{precision}: "
                f"{again}"
            )


def build_environment(trt: Bindings) -> dict[str, str | None]:
    """What plans depend on: TensorRT flavour and version, GPU, camrt version."""
    return {
        "flavour": trt.flavour,
        "version": trt.version,
        "card": None if trt.cuda_device is None else str(trt.cuda_device),
        "camrt": camrt.__version__,
    }
