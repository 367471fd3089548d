"""A loaded model: what it is, and how batches, classes and runs of it are made ready."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from camrt.engine.arrays import out_of_memory_errors, release_memory
from camrt.engine.attention import NO_ATTENTION
from camrt.engine.batch import PreparedBatch, prepare_batch
from camrt.engine.call_limits import with_call_limits
from camrt.engine.cuts import Cut
from camrt.engine.device import NUMPY_DEVICE, Device
from camrt.engine.heads import Head
from camrt.engine.heads.comparison import Comparison
from camrt.engine.images.framing import Framing
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.methods import MapShape, Method
from camrt.engine.model_run import ModelRun
from camrt.engine.origin import Origin, mutable_state, reload_engine
from camrt.engine.preprocess_adaptation import expected_levels
from camrt.engine.runtime import Runner
from camrt.engine.runtime.batch_splitting import OomSplitter
from camrt.engine.targets import TargetChooser, make_target_chooser
from camrt.errors import (
    MethodError,
    PickleError,
)
from camrt.export.adjoint import BackwardRule
from camrt.export.budget import allowed_memory
from camrt.export.geometry.builtin_preprocessing import BuiltinPreprocessing
from camrt.export.heads.cut import TargetTensor
from camrt.export.rewrites.interface import Interface
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["LoadedModel"]


class LoadedModel:
    """What an engine holds and how it is copied; see `camrt.Engine` for its attributes."""

    def __init__(
        self,
        *,
        path: Path,
        sha256: str,
        interface: Interface,
        model: Runner,
        cuts: tuple[Cut, ...],
        candidates: tuple[TargetTensor, ...],
        adjoints: Mapping[BackwardRule, Runner],
        labels: tuple[str, ...] | None,
        preprocessing: Preprocessing | None,
        batch_size: int,
        threads: int | None,
        notes: tuple[str, ...],
        verification: tuple[Comparison, ...] = (),
        device: Device = NUMPY_DEVICE,
        runtime: str = "onnxruntime",
        front: BuiltinPreprocessing = BuiltinPreprocessing(),  # noqa: B008  # immutable
    ) -> None:
        self.path = path
        self.sha256 = sha256
        self.interface = interface
        self.labels = labels
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.threads = threads
        self.notes = notes
        self._max_memory = allowed_memory()
        self.call_deadline = 600.0
        self.verification = verification
        self.device = device
        self.runtime = runtime
        self.front = front
        self.origin: Origin | None = None
        self._model = model
        self._cuts = cuts
        self._candidates = candidates
        self._adjoints = adjoints
        here = device.put(np.zeros(1, np.float32))
        self._splitter = OomSplitter("batch", out_of_memory_errors(here), partial(release_memory, here))

    @property
    def max_memory(self) -> int:
        """Bytes that a call may allocate at once, as the engine was loaded with; see `camrt.load`."""
        return self._max_memory

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.interface.num_classes

    @property
    def target(self) -> TargetTensor:
        """The tensor the model is cut at; the first of several."""
        return self._cuts[0].target

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Where the model is cut: one for each target it was loaded with."""
        return self._cuts

    @property
    def head(self) -> Head:
        """What follows the cut; the first of several."""
        return self._cuts[0].head

    @property
    def has_joint(self) -> bool:
        """Whether the model holds p(y,z|x), as CALM models do."""
        return self.interface.joint is not None

    def targets(self) -> list[TargetTensor]:
        """Every activation (K, h, w) the model could be cut at, in graph order."""
        chosen = {cut.target.name for cut in self._cuts}
        return [replace(item, chosen=item.name in chosen) for item in self._candidates]

    def _chooser(self, given: PreparedBatch, targets: Any, top_k: int | None) -> TargetChooser:
        """What chooses the classes to explain."""
        count = len(given.images)
        return make_target_chooser(
            targets, count, self.num_classes, self.device, given.to_caller, self.labels, top_k
        )

    @with_call_limits("preparing")
    @ignore_float_errors
    def prepare(self, batch: Any) -> PreparedBatch:
        """A batch read, checked and put where the engine computes, for one or more later questions about it.

        Args:
            batch: What `predict` and `explain` take; of this engine, they take what comes back in its place.

        Raises:
            InputError: A batch this model cannot take.
            ImageError: An image cannot be read.
            DeadlineError: It took longer than `call_deadline`.
            MemoryLimitError: It needs more than `max_memory` at once.

        Example:
            prepared = engine.prepare(["cat.jpg", "dog.jpg"])
            logits, explanation = engine.predict(prepared), engine.explain(prepared, "pixab")
        """
        return self._prepared(batch)

    def _prepared(self, batch: Any) -> PreparedBatch:
        """A batch as the model takes it, where the engine computes."""
        return prepare_batch(batch, self.interface, self.preprocessing, self.device, self._expected_levels())

    def _expected_levels(self) -> tuple[float, float] | None:
        """The range of numbers that the model is made for, where that is known."""
        if self.preprocessing is None:
            return expected_levels(self.interface, self.front)
        return self.preprocessing.levels

    def _make_run(self) -> ModelRun:
        """What runs the model, as it is set now."""
        return ModelRun(
            self._model,
            self._cuts,
            self._adjoints,
            self.interface,
            self.front,
            self.batch_size,
            self.threads,
        )

    def framing(self, size: tuple[int, int], method: Method | None = None) -> Framing:
        """The part of the model's input (H, W) that raw maps show, of a method or of any on activations."""
        return self._make_run().framing(size, method)

    def with_preprocessing(self, preprocessing: Preprocessing) -> Self:
        """The same model with another preprocessing, sharing what was made ready; this one keeps its own.

        Args:
            preprocessing: How images become the model's input.

        Example:
            engine.with_preprocessing(camrt.Preprocessing.named("imagenet", (224, 224)))
        """
        other = copy(self)
        other.preprocessing = preprocessing
        return other

    def check_attention(self) -> None:
        """Refuses a model whose attention weights cannot be read.

        Raises:
            MethodError: It is no vision transformer, or a torch module.
        """
        attention = self._cuts[0].attention
        if attention is None or not attention.layers:
            raise MethodError(NO_ATTENTION)

    @property
    def map_shape(self) -> MapShape:
        """Size (K, h, w) of the activation at the cut, and of the model's input."""
        height, width = self.interface.height, self.interface.width
        return MapShape(*self.target.shape, image=(height, width) if height and width else None)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise PickleError(
                f"the engine of {self.path.name} cannot be pickled: only one that camrt.load made of an ONNX "
                "file can be loaded again elsewhere. Call camrt.load in each process, such as in a worker's "
                "initializer, or start processes by fork"
            )
        return reload_engine, (self.origin, mutable_state(self))

    def __copy__(self) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if not self.sha256:
            raise PickleError(
                f"the engine of {self.path.name} cannot be copied with its module: copy the module, and call "
                "camrt.load on that; copy.copy(engine) explains the same module"
            )
        return copy(self)

    def __repr__(self) -> str:
        return (
            f"<camrt.Engine {self.path.name}: {self.num_classes} classes, "
            f"cut at {self.target.name!r}, {self.head.kind}>"
        )
