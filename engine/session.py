"""The engine: a loaded classifier that predicts and explains."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from camrt.engine.backends import Runner
from camrt.engine.cuts import Cut
from camrt.engine.describing import describe
from camrt.engine.explanation import Explanation, Passes
from camrt.engine.fusing import Fusion, saliency_maps
from camrt.engine.heads import Head
from camrt.engine.inputs import Pictures, map_size, prepare, target_classes
from camrt.engine.methods import MapShape, Method, build
from camrt.engine.passes import PassCounter
from camrt.engine.preprocessing import Preprocessing
from camrt.engine.questions import Questions
from camrt.engine.scores import probabilities
from camrt.errors import DegenerateMapWarning, InputError
from camrt.export.adjoint import ReluRule
from camrt.export.cutting import ACTIVATION, JOINT, TargetTensor
from camrt.export.interface import LOGITS, Interface
from camrt.kernels.saliency import MapFlag

__all__ = ["Engine"]

Array = npt.NDArray[Any]


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
        cuts: tuple[Cut, ...],
        candidates: tuple[TargetTensor, ...],
        adjoints: Mapping[ReluRule, Runner],
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
        self._cuts = cuts
        self._candidates = candidates
        self._adjoints = adjoints

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

    def targets(self) -> list[TargetTensor]:
        """Every activation (K, h, w) the model could be cut at, in graph order."""
        chosen = {cut.target.name for cut in self._cuts}
        return [replace(item, chosen=item.name in chosen) for item in self._candidates]

    def describe(self) -> str:
        """What was found in the file, and what every method will cost in passes, and why."""
        return describe(self)

    def predict(self, batch: Pictures) -> Array:
        """Logits of a batch.

        Args:
            batch: float32 (N, C, H, W) as the model takes it, or a list of pictures (paths, Pillow images,
                uint8 arrays (H, W, 3)) when the preprocessing is known.

        Returns:
            (N, classes) float32; of a CALM model log p(y|x). `engine.probabilities` turns them into
            probabilities.

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
        fuse: Fusion = "mean",
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
            size: "image" for maps as large as the model's input, "map" for the activation's own grid (the
                finest of several), or (H, W).
            fuse: How the maps of several layers become one, when the model was loaded with several targets:
                "mean" or "max" of their saliency.
            **options: The method's options.

        Returns:
            The explanation; `.maps` has shape targets.shape + (H, W), float32 in [0, 1].

        Raises:
            MethodError: Unknown method or option, or one this model's head does not admit.
            AdjointError: The method needs a gradient, and an operator on the way has none, or no rule.
            InputError: A batch this model cannot take.
            TargetError: Classes out of range or of the wrong shape.
            PictureError: A picture cannot be read.
            DeadlineError: A run took longer than the deadline.
        """
        started = time.perf_counter()
        chosen = build(method, options)
        pictures, views = prepare(batch, self.interface, self.preprocessing)
        map_size(size, (1, 1), (1, 1))  # refuses nonsense before anything is run
        if fuse not in get_args(Fusion):
            raise InputError(f"fuse={fuse!r} must be one of {', '.join(map(repr, get_args(Fusion)))}")
        passes = PassCounter()
        blocks = []
        wanted = None if targets is None else target_classes(targets, self._placeholder(len(pictures)))
        for start in range(0, len(pictures), self.batch_size):
            block = slice(start, start + self.batch_size)
            classes = None if wanted is None else wanted[0][block]
            blocks.append(self._explain_block(pictures[block], chosen, classes, passes))
        scores, logits, classes, *raws = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        grid = max((raw.shape[2:] for raw in raws), key=lambda cells: cells[0] * cells[1])
        final = map_size(size, (pictures.shape[2], pictures.shape[3]), grid)
        maps, flags, raw = saliency_maps(raws, chosen, final, fuse, self.threads)
        broken = int((flags == MapFlag.NOT_FINITE).sum())
        if broken:
            warnings.warn(
                f"{broken} of {flags.size} maps were not finite and are "
                "all zeros (explanation.flags says which): the model gave NaN or infinity for them",
                DegenerateMapWarning,
                stacklevel=2,
            )
        shape = classes.shape if wanted is not None and wanted[1] else classes.shape[:1]
        return Explanation(
            method=repr(chosen),
            maps=maps.reshape(*shape, *final),
            raw=raw.reshape(*shape, *raw.shape[2:]),
            targets=classes.reshape(shape),
            scores=scores.reshape(shape),
            logits=logits,
            probabilities=self.probabilities(logits),
            flags=flags.reshape(shape),
            passes=Passes(**asdict(passes)),
            seconds=time.perf_counter() - started,
            labels=self.labels,
            views=views,
        )

    def _explain_block(
        self, pictures: Array, method: Method, classes: Array | None, passes: PassCounter
    ) -> tuple[Array, ...]:
        """Scores (n, T), logits (n, C), classes (n, T) of a block, and each layer's raw maps (n, T, h, w)."""
        cuts = self._cuts[:1] if method.explains_pixels or method.asks_joint else self._cuts
        taps = [cut.fetched(method) for cut in cuts]
        own = [JOINT] if method.asks_joint and self.interface.joint is not None else []
        fetched = [LOGITS, *own, *(name for tapped in taps for name in tapped.values())]
        outputs = dict(zip(fetched, self._model(pictures, fetched), strict=True))
        passes.trunk += len(pictures)
        logits = outputs[LOGITS]
        if classes is None:
            classes = target_classes(None, logits)[0]
        raws = []
        for cut, tapped in zip(cuts, taps, strict=True):
            extras = {role: outputs[name] for role, name in tapped.items()} | {
                name: outputs[name] for name in own
            }
            questions = Questions(
                pictures=pictures,
                activations=extras.pop(ACTIVATION),
                logits=logits,
                targets=classes,
                activation=self.interface.activation,
                has_logits=self.interface.joint is None,
                head=cut.head,
                model=self._model,
                logits_output=LOGITS,
                adjoints=self._adjoints,
                batch_size=self.batch_size,
                threads=self.threads,
                passes=passes,
                extras=extras,
            )
            # What is not finite becomes a zero map with a flag; NumPy need not say so as well.
            with np.errstate(invalid="ignore", over="ignore"):
                raw, scores = method.raw(questions)
            raws.append(raw)
        return scores, logits, classes, *raws

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
