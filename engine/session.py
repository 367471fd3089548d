"""The engine: a loaded classifier that predicts and explains."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.engine.backends import Runner
from camrt.engine.describing import describe
from camrt.engine.explanation import Explanation, Passes
from camrt.engine.heads import Head
from camrt.engine.inputs import Pictures, map_size, prepare, target_classes
from camrt.engine.methods import MapShape, Method, build
from camrt.engine.passes import PassCounter
from camrt.engine.preprocessing import Preprocessing
from camrt.engine.questions import Questions
from camrt.engine.scores import probabilities
from camrt.errors import DegenerateMapWarning
from camrt.export.cutting import ACTIVATION, CELLS, PHI, TargetTensor
from camrt.export.interface import LOGITS, Interface
from camrt.kernels.saliency import MapFlag, saliency

__all__ = ["Cut", "Engine"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cut:
    """Where a model was cut, and what it became.

    Attributes:
        target: The tensor.
        candidates: Every tensor it could have been.
        head: What follows the cut.
        reads_phi: Whether the trunk pass also gives φ(A).
        gives_cells: Whether it can give the cells' contributions to the head's first layer.
    """

    target: TargetTensor
    candidates: tuple[TargetTensor, ...]
    head: Head
    reads_phi: bool
    gives_cells: bool


class Engine:
    """A loaded classifier; made by `camrt.load`. Safe to use from several threads at once.

    Attributes:
        path: The model file.
        sha256: Hash of the file and of its external data.
        interface: What the model takes and gives.
        labels: Class names, when known.
        preprocessing: How pictures become the model's input, when known.
        batch_size: Rows run at once, the bound on memory.
        threads: Threads of the native kernels; None lets them choose.
        notes: What loading changed or could not change, in sentences.
    """

    def __init__(
        self,
        path: Path,
        sha256: str,
        interface: Interface,
        model: Runner,
        cut: Cut,
        *,
        labels: tuple[str, ...] | None,
        preprocessing: Preprocessing | None,
        batch_size: int,
        threads: int | None,
        notes: tuple[str, ...],
    ) -> None:
        self.path = path
        self.sha256 = sha256
        self.interface = interface
        self.labels = labels
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.threads = threads
        self.notes = notes
        self._model = model
        self._cut = cut

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.interface.num_classes

    @property
    def target(self) -> TargetTensor:
        """The tensor the model is cut at."""
        return self._cut.target

    @property
    def head(self) -> Head:
        """What follows the cut."""
        return self._cut.head

    def targets(self) -> list[TargetTensor]:
        """Every activation (K, h, w) the model could be cut at, in graph order."""
        return [replace(item, chosen=item.name == self.target.name) for item in self._cut.candidates]

    def describe(self) -> str:
        """What was found in the file, and what every method will cost in passes, and why."""
        return describe(self)

    def predict(self, batch: Pictures) -> Array:
        """Logits of a batch.

        Args:
            batch: float32 (N, C, H, W) as the model takes it, or a list of pictures (paths, Pillow images,
                uint8 arrays (H, W, 3)) when the preprocessing is known.

        Returns:
            (N, classes) float32. `engine.probabilities` turns them into probabilities.

        Raises:
            InputError: A batch this model cannot take.
            PictureError: A picture cannot be read.
            DeadlineError: A run took longer than the deadline.
        """
        pictures, _ = prepare(batch, self.interface, self.preprocessing)
        return np.concatenate(
            [
                self._model(pictures[start : start + self.batch_size], [LOGITS])[0]
                for start in range(0, len(pictures), self.batch_size)
            ]
        )

    def probabilities(self, logits: Array) -> Array:
        """Probabilities of logits (..., classes) after this model's softmax or sigmoid."""
        return probabilities(logits, self.interface.activation)

    def explain(
        self,
        batch: Pictures,
        method: str | Method = "pixab",
        *,
        targets: Any = None,
        size: Literal["image", "map"] | tuple[int, int] = "image",
        **options: Any,
    ) -> Explanation:
        """Saliency maps of a batch.

        Args:
            batch: float32 (N, C, H, W) as the model takes it, or a list of pictures (paths, Pillow images,
                uint8 arrays (H, W, 3)) when the preprocessing is known.
            method: A method's name (`camrt.methods()` lists them; case, hyphens and a closing "cam" do not
                matter), or a method object.
            targets: Classes to explain: None for the predicted one, one class for all pictures, (N,), or
                (N, T) for several each; any number costs the passes of one.
            size: "image" for maps as large as the model's input, "map" for the activation's own grid, or
                (H, W).
            **options: The method's options.

        Returns:
            The explanation; `.maps` has shape targets.shape + (H, W), float32 in [0, 1].

        Raises:
            MethodError: Unknown method or option, or one this model's head does not admit.
            InputError: A batch this model cannot take.
            TargetError: Classes out of range or of the wrong shape.
            PictureError: A picture cannot be read.
            DeadlineError: A run took longer than the deadline.
        """
        started = time.perf_counter()
        chosen = build(method, options)
        pictures, views = prepare(batch, self.interface, self.preprocessing)
        map_size(size, (1, 1), (1, 1))  # refuses nonsense before anything is run
        passes = PassCounter()
        blocks = []
        wanted = None if targets is None else target_classes(targets, self._placeholder(len(pictures)))
        for start in range(0, len(pictures), self.batch_size):
            block = slice(start, start + self.batch_size)
            classes = None if wanted is None else wanted[0][block]
            blocks.append(self._explain_block(pictures[block], chosen, classes, passes))
        raw, scores, logits, classes = (
            np.concatenate([block[part] for block in blocks]) for part in range(4)
        )
        height, width = raw.shape[2:]
        final = map_size(size, (pictures.shape[2], pictures.shape[3]), (height, width))
        maps, flags = saliency(
            np.ascontiguousarray(raw.reshape(-1, height, width), dtype=np.float32),
            final,
            mode=chosen.postprocess,
            normalisation=chosen.normalisation,
            relu=chosen.rectified,
            threads=self.threads,
        )
        if (flags == MapFlag.NOT_FINITE).any():
            warnings.warn(
                f"{int((flags == MapFlag.NOT_FINITE).sum())} of {len(flags)} maps were not finite and are "
                "all zeros (explanation.flags says which): the model gave NaN or infinity for them",
                DegenerateMapWarning,
                stacklevel=2,
            )
        shape = classes.shape if wanted is not None and wanted[1] else classes.shape[:1]
        return Explanation(
            method=repr(chosen),
            maps=maps.reshape(*shape, *final),
            raw=raw.reshape(*shape, height, width),
            targets=classes.reshape(shape),
            scores=scores.reshape(shape),
            logits=logits,
            probabilities=self.probabilities(logits),
            flags=flags.reshape(shape),
            passes=Passes(passes.trunk, passes.head, passes.full),
            seconds=time.perf_counter() - started,
            labels=self.labels,
            views=views,
        )

    def _explain_block(
        self, pictures: Array, method: Method, classes: Array | None, passes: PassCounter
    ) -> tuple[Array, Array, Array, Array]:
        """Raw maps (n, T, h, w), scores (n, T), logits (n, C) and classes (n, T) of one block."""
        fetched = [LOGITS, ACTIVATION]
        if self._cut.reads_phi:
            fetched.append(PHI)
        if self._cut.gives_cells and method.asks_boxes:
            fetched.append(CELLS)
        outputs = dict(zip(fetched, self._model(pictures, fetched), strict=True))
        passes.trunk += len(pictures)
        logits = outputs.pop(LOGITS)
        if classes is None:
            classes = target_classes(None, logits)[0]
        questions = Questions(
            pictures=pictures,
            activations=outputs.pop(ACTIVATION),
            logits=logits,
            targets=classes,
            activation=self.interface.activation,
            head=self.head,
            model=self._model,
            logits_output=LOGITS,
            batch_size=self.batch_size,
            threads=self.threads,
            passes=passes,
            extras=outputs,
        )
        # What is not finite becomes a zero map with a flag; NumPy need not say so as well.
        with np.errstate(invalid="ignore", over="ignore"):
            raw, scores = method.raw(questions)
        return raw, scores, logits, classes

    def _placeholder(self, count: int) -> Array:
        """Something of the logits' shape, to check targets against before anything is run."""
        return np.broadcast_to(np.float32(0), (count, self.num_classes))

    @property
    def map_shape(self) -> MapShape:
        """Size (K, h, w) of the activation at the cut."""
        return MapShape(*self.target.shape)

    def __repr__(self) -> str:
        return (
            f"<camrt.Engine {self.path.name}: {self.num_classes} classes, "
            f"cut at {self.target.name!r}, {self.head.kind}>"
        )
