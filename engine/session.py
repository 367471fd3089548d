"""The engine: a loaded classifier that predicts and explains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from camrt.engine.arrays import host, joined, single
from camrt.engine.backends import Runner
from camrt.engine.backends.halving import Halving
from camrt.engine.bounded import bounded
from camrt.engine.callers import warn_caller
from camrt.engine.cuts import Cut
from camrt.engine.describing import describe
from camrt.engine.explanation import Explanation, Passes
from camrt.engine.framing import Framing
from camrt.engine.fusing import Fusion, saliency_maps
from camrt.engine.heads import Head
from camrt.engine.heads.comparison import Comparison
from camrt.engine.inputs import Batch, Pictures, Size, map_size, prepare, real_numbers
from camrt.engine.matching import levels_of
from camrt.engine.methods import ChannelMethod, MapShape, Method, build, meant
from camrt.engine.operations import operations
from camrt.engine.origins import Origin, loaded_again, state_of
from camrt.engine.passes import PassCounter
from camrt.engine.places import HOST, Place
from camrt.engine.preprocessing import Preprocessing
from camrt.engine.questions import NO_PROBABILITIES, Questions, lost, spoiled
from camrt.engine.scores import probabilities
from camrt.engine.targets import Chooser, chooser
from camrt.errors import (
    DeadlineError,
    DegenerateMapWarning,
    InputError,
    MethodError,
    PickleError,
    TargetError,
)
from camrt.export.adjoint import GRADIENT, WEIGHTING, ReluRule
from camrt.export.budget import allowed_memory
from camrt.export.cutting import ACTIVATION, JOINT, TargetTensor
from camrt.export.front import Front
from camrt.export.interface import LOGITS, Interface
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.saliency import MapFlag

__all__ = ["Engine"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass
class _Block:
    """Some pictures' explanations, before they are maps of the picture's size.

    Attributes:
        logits: (n, C).
        classes: (n, T).
        several: Whether the caller thinks of them as (n, T) rather than (n,).
        answers: For each method scores (n, T), and each layer's raw maps (n, T, h, w).
        passes: What each method ran.
        seconds: What each method took; the first, with the pass that all share.
    """

    logits: Array
    classes: Array
    several: bool
    answers: list[tuple[Array, ...]]
    passes: list[PassCounter]
    seconds: list[float]


class Engine:
    """A loaded classifier; made by `camrt.load`. Safe to use from several threads at once.

    Batches are arrays of NumPy, tensors of torch, arrays of any library that speaks DLPack, or pictures. What
    is given back are arrays of the same kind, in the same place. On a GPU nothing is copied between the batch
    and the maps when a tensor there is given, and what is given back may not have been computed yet, as with
    torch's own operations.

    A pickled engine is how it was loaded, and is loaded again where it is unpickled; see
    `camrt.engine.origins`. Copies, deep ones too, share what was made ready.

    Attributes:
        path: The model file.
        sha256: Hash of the file and of its external data.
        interface: What the model takes and gives.
        labels: Class names, when known.
        preprocessing: How pictures become the model's input, when known.
        batch_size: Rows run at once, the bound on memory.
        threads: Threads of the native kernels; None lets them choose.
        call_deadline: Seconds that a call may take; may be set.
        notes: What loading changed or could not change, in sentences.
        verification: What was compared with the model's own answers when it was loaded, and how they agreed.
        place: Where the engine computes.
        runtime: What runs the model: the name of its backend.
        front: What the file does to its pictures by itself, before its first layer.
        origin: How it was loaded; None of a torch model.
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
        verification: tuple[Comparison, ...] = (),
        place: Place = HOST,
        runtime: str = "onnxruntime",
        front: Front = Front(),  # noqa: B008  # immutable
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
        self.place = place
        self.runtime = runtime
        self.front = front
        self.origin: Origin | None = None
        self._levels = levels_of(interface, front) if preprocessing is None else preprocessing.levels
        self._model = model
        self._cuts = cuts
        self._candidates = candidates
        self._adjoints = adjoints
        here = operations(place.put(np.zeros(1, np.float32)))
        self._halving = Halving("batch", here.short_of_memory, here.free)

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

    def targets(self) -> list[TargetTensor]:
        """Every activation (K, h, w) the model could be cut at, in graph order."""
        chosen = {cut.target.name for cut in self._cuts}
        return [replace(item, chosen=item.name in chosen) for item in self._candidates]

    @bounded("describing")
    def describe(self) -> str:
        """What was found in the file, and what every method will cost in passes, and why."""
        return describe(self)

    @bounded("predicting")
    @ignore_float_errors
    def predict(self, batch: Pictures) -> Array:
        """Logits of a batch.

        Args:
            batch: float32 (N, C, H, W) as the model takes it, of NumPy, torch or any library that speaks
                DLPack; or a list of pictures (paths, Pillow images, uint8 arrays (H, W, 3), the bytes of
                files, open files), or a single one, when the preprocessing is known. Whole numbers are taken
                where the file is made for pixels as they are.

        Returns:
            (N, classes) float32; of a CALM model log p(y|x). `engine.probabilities` turns them into
            probabilities.

        Raises:
            InputError: A batch this model cannot take.
            PictureError: A picture cannot be read.
            DeadlineError: The call took longer than `call_deadline`.
            MemoryLimitError: It needs more than `max_memory` at once.
        """
        given = self._prepared(batch)
        return given.give(
            joined(
                [
                    self._model(given.pictures[start : start + self.batch_size], [LOGITS])[0]
                    for start in range(0, len(given.pictures), self.batch_size)
                ]
            )
        )

    def _chooser(self, given: Batch, targets: Any, top_k: int | None) -> Chooser:
        """What chooses the classes to explain."""
        count, place = len(given.pictures), self.place
        return chooser(targets, count, self.num_classes, place, given.give, self.labels, top_k)

    def _prepared(self, batch: Pictures) -> Batch:
        """A batch as the model takes it, where the engine computes."""
        return prepare(batch, self.interface, self.preprocessing, self.place, self._levels)

    @ignore_float_errors
    def probabilities(self, logits: Array) -> Array:
        """Probabilities of logits (..., classes) after this model's softmax or sigmoid.

        Raises:
            InputError: The model gives plain numbers, which have none; or these are no logits of it.
        """
        if self.interface.activation == "none":
            raise InputError(NO_PROBABILITIES)
        logits = real_numbers(logits, "the logits", self.num_classes)
        return probabilities(logits, self.interface.inverse_link)

    @bounded("explaining")
    @ignore_float_errors
    def explain(
        self,
        batch: Pictures,
        method: str | Method = "pixab",
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: Size = "image",
        fuse: Fusion = "mean",
        **options: Any,
    ) -> Explanation:
        """Saliency maps of a batch.

        Args:
            batch: float32 (N, C, H, W) as the model takes it, of NumPy, torch or any library that speaks
                DLPack; or a list of pictures (paths, Pillow images, uint8 arrays (H, W, 3), the bytes of
                files, open files), or a single one, when the preprocessing is known. What lies on a GPU is
                not looked at: a picture there with NaN or infinity in it gets a map of zeros, and the flag
                that says so.
            method: A method's name (`camrt.methods()` lists them; case, hyphens and a closing "cam" do not
                matter), or a method object.
            targets: Classes to explain: None for the predicted one, one class for all pictures, (N,), or
                (N, T) for several each; any number costs the passes of one. Classes are indices or, where
                `labels` are known, names in any capitals. Or a function that is given the logits (n, classes)
                of some pictures at a time and answers (n,) or (n, T).
            top_k: Explain so many of the most probable classes of each picture instead, (N, top_k).
            size: "image" for maps as large as the model's input, "map" for the activation's own grid (the
                finest of several), "original" for maps as large as the pictures, zero where the preprocessing
                cut them off (pictures of one size; see also `Explanation.on_original`), or (H, W) for the
                model's input in that size.
            fuse: How the maps of several layers become one, when the model was loaded with several targets:
                "mean" or "max" of their saliency.
            **options: The method's options.

        Returns:
            The explanation, of arrays of the batch's kind; `.maps` has shape targets.shape + (H, W), float32
            in [0, 1].

        Raises:
            MethodError: Unknown method or option, or one this model's head does not admit.
            AdjointError: The method needs a gradient, and an operator on the way has none, or no rule.
            InputError: A batch this model cannot take.
            TargetError: Classes out of range or of the wrong shape.
            PictureError: A picture cannot be read.
            DeadlineError: The call took longer than `call_deadline`.
            MemoryLimitError: It needs more than `max_memory` at once.
        """
        return self._explain(batch, (build(method, options),), targets, top_k, size, fuse)[0]

    @bounded("explaining")
    @ignore_float_errors
    def explain_all(
        self,
        batch: Pictures,
        methods: Sequence[str | Method],
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: Size = "image",
        fuse: Fusion = "mean",
        **unknown: Any,
    ) -> tuple[Explanation, ...]:
        """Saliency maps of a batch by several methods, which share the pass through the trunk.

        The arguments and errors are those of `explain`, but for methods' options, which go into methods that
        are objects: `camrt.methods()["score"](definition="grad-cam")`.

        Returns:
            One explanation a method, in their order. The shared pass is counted in the first.
        """
        if unknown:
            names = ", ".join(map(repr, unknown))
            raise MethodError(
                f"explain_all has no argument {names}{meant(list(unknown), ())}; options go into a method "
                "that is an object: camrt.methods()[name](...)"
            )
        if isinstance(methods, str | Method | Mapping) or not isinstance(methods, Iterable):
            raise InputError(f"methods={methods!r} must be a list of one or more methods")
        chosen = tuple(build(method, {}) for method in methods)
        if not chosen:
            raise InputError("methods= must be a list of one or more methods: it is empty")
        return self._explain(batch, chosen, targets, top_k, size, fuse)

    @bounded("computing gradients")
    @ignore_float_errors
    def input_gradients(
        self, batch: Array, weighting: Array | Callable[[Array], Array]
    ) -> tuple[Array, Array]:
        """The gradient of a weighting of the logits with respect to the model's input.

        Args:
            batch: What `predict` takes.
            weighting: w, float (N, classes); or a function from logits (n, classes) to it, for which each
                picture is run once more.

        Returns:
            Logits (N, classes), and d(Σ_c w_c · logit_c)/dx, (N, C, H, W); NaN for pictures whose logits are
            not finite.

        Raises:
            AdjointError: An operator of the model has no derivative, or camrt has no rule for it.
            InputError: A batch this model cannot take, or a weighting of another shape.
        """
        given = self._prepared(batch)
        if not callable(weighting):
            weighting = self._weighting(weighting, len(given.pictures))
        logits, gradients = [], []
        for start in range(0, len(given.pictures), self.batch_size):
            block = given.pictures[start : start + self.batch_size]
            if callable(weighting):
                wanted = self._weighting(weighting(given.give(self._model(block, [LOGITS])[0])), len(block))
            else:
                wanted = weighting[start : start + self.batch_size]
            found, gradient = self._adjoints["plain"](
                block, [LOGITS, GRADIENT], {WEIGHTING: single(self.place.put(wanted))}
            )
            logits.append(found)
            gradients.append(spoiled(gradient, lost(found)))
        return given.give(joined(logits)), given.give(joined(gradients))

    def _weighting(self, given: Any, count: int) -> Array:
        """A weighting of the logits, one row a picture."""
        found = real_numbers(given, "the weighting", self.num_classes)
        if tuple(found.shape) != (count, self.num_classes):
            raise InputError(
                f"a weighting of the logits has shape ({count}, {self.num_classes}) for as many "
                f"pictures, not {tuple(found.shape)}"
            )
        return found

    @bounded("computing weights")
    @ignore_float_errors
    def channel_weights(
        self,
        batch: Pictures,
        method: str | Method = "gradcam",
        *,
        targets: Any = None,
        top_k: int | None = None,
        **options: Any,
    ) -> tuple[Array, Array]:
        """The weights that a method gives the activation's channels.

        The arguments and errors are those of `explain`.

        Returns:
            Weights targets.shape + (K,), and the activation (N, K, h, w) that their sum is of.

        Raises:
            MethodError: Maps of the method are no weighted sum of channels.
            InputError: The model is cut at several targets.
        """
        chosen = build(method, options)
        if not isinstance(chosen, ChannelMethod):
            raise MethodError(f"{chosen.name} does not weight channels as wholes")
        if len(self._cuts) > 1:
            raise InputError(
                "the model is cut at several targets: load it with the one whose channels are meant"
            )
        given = self._prepared(batch)
        choose = self._chooser(given, targets, top_k)
        kept = []
        for start in range(0, len(given.pictures), self.batch_size):
            block = given.pictures[start : start + self.batch_size]
            outputs = self._model_outputs(block, (chosen,))
            classes, several = choose(slice(start, start + self.batch_size), outputs[LOGITS])
            asked = self._questions(block, self._fetched(chosen)[0], classes, outputs, PassCounter())
            kept.append((chosen.weights(asked)[0], asked.activations))
        weights, activations = (given.give(joined(parts)) for parts in zip(*kept, strict=True))
        return (weights if several else weights[:, 0]), activations

    def evaluate(self, data: Any, methods: Any = ("pixab", "gradcam", "ablation"), **settings: Any) -> Any:
        """Which explanation to trust: metrics of methods on annotated pictures.

        The arguments, the answer and the errors are those of `camrt.evaluation.suite.evaluate`, which is
        imported here and no earlier: explaining does not need it.

        Args:
            data: A folder of pictures with their annotations, or a data set.
            methods: Names of methods, with options if need be, or method objects.
            **settings: `metrics`, `settings`, `dead`, `out`, `resume`, `progress`.
        """
        from camrt.evaluation.suite import evaluate

        return evaluate(self, data, methods, **settings)

    def _explain(
        self,
        batch: Pictures,
        methods: tuple[Method, ...],
        targets: Any,
        top_k: int | None,
        size: Size,
        fuse: Fusion,
    ) -> tuple[Explanation, ...]:
        started = time.perf_counter()
        given = self._prepared(batch)
        pictures = given.pictures
        map_size(size, (1, 1), (1, 1), given.framings)  # refuses nonsense before anything is run
        if fuse not in get_args(Fusion):
            raise InputError(f"fuse={fuse!r} must be one of {', '.join(map(repr, get_args(Fusion)))}")
        choose = self._chooser(given, targets, top_k)
        seconds = [time.perf_counter() - started, *(0.0 for _ in methods[1:])]

        done = 0  # pictures

        def explained(start: int, end: int) -> _Block:
            nonlocal done
            begun, some = time.perf_counter(), slice(start, end)
            outputs = self._model_outputs(pictures[some], methods)
            classes, several = choose(some, outputs[LOGITS])
            block = _Block(outputs[LOGITS], classes, several, [], [PassCounter() for _ in methods], [])
            block.passes[0].trunk += end - start
            for method, passes in zip(methods, block.passes, strict=True):
                block.answers.append(self._explain_block(given, some, method, classes, outputs, passes))
                block.seconds.append(time.perf_counter() - begun)
                begun = time.perf_counter()
            done = end
            return block

        try:
            blocks = self._halving.pieces(len(pictures), explained, most=self.batch_size)
        except DeadlineError as late:
            raise DeadlineError(
                f"{late}. {done} of {len(pictures)} pictures were done: pass fewer at once"
            ) from late
        if len({block.classes.shape[1] for block in blocks}) > 1:
            raise TargetError("the function that chooses targets gave a different number of them each time")
        logits, classes = joined([one.logits for one in blocks]), joined([one.classes for one in blocks])
        shape = tuple(classes.shape) if blocks[0].several else (len(classes),)
        answers = []
        for number, method in enumerate(methods):
            started = time.perf_counter()
            scores, *raws = (
                joined(parts) for parts in zip(*(one.answers[number] for one in blocks), strict=True)
            )
            found = list(raws)
            grid = max((tuple(raw.shape[2:]) for raw in found), key=lambda cells: cells[0] * cells[1])
            image = (pictures.shape[2], pictures.shape[3])
            final = map_size(size, image, grid, given.framings)
            seen = self.framing(image, method)
            shown = Framing.whole(image)  # which part of the input the maps show
            if isinstance(size, str) and size == "map":
                shown = seen
            elif isinstance(size, str) and size == "original" and given.framings is not None:
                shown = given.framings[0].turned(image)
            within = shown.turned(final).of(seen)
            maps, flags, raw = saliency_maps(found, method, within, fuse, self.threads)
            warn_of_broken(flags)
            explanation = Explanation(
                method=repr(method),
                maps=given.give(maps.reshape(*shape, *final)),
                raw=given.give(raw.reshape(*shape, *raw.shape[2:])),
                targets=given.give(classes.reshape(shape)),
                scores=given.give(scores.reshape(shape)),
                logits=given.give(logits),
                probabilities=given.give(probabilities(logits, self.interface.inverse_link)),
                flags=given.give(flags.reshape(shape)),
                passes=sum((Passes(**asdict(one.passes[number])) for one in blocks), start=Passes()),
                seconds=seconds[number] + sum(one.seconds[number] for one in blocks),
                labels=self.labels,
                views=given.views,
                framings=given.framings,
                shown=shown,
            )
            last = time.perf_counter() - started
            answers.append(replace(explanation, seconds=explanation.seconds + last))
        return tuple(answers)

    def _fetched(self, method: Method) -> list[tuple[Cut, dict[str, str], list[str]]]:
        """For each cut a method looks at: the tensors by their role, and the model's own outputs."""
        cuts = self._cuts[:1] if method.explains_pixels or method.asks_joint else self._cuts
        own = [JOINT] if method.asks_joint and self.interface.joint is not None else []
        return [(cut, cut.fetched(method), own) for cut in cuts]

    def _model_outputs(self, pictures: Array, methods: tuple[Method, ...]) -> dict[str, Array]:
        """Everything that some methods need of one pass, by name."""
        fetched = dict.fromkeys([LOGITS])
        for method in methods:
            for _, tapped, own in self._fetched(method):
                fetched |= dict.fromkeys([*own, *tapped.values()])
        return dict(zip(fetched, self._model(pictures, list(fetched)), strict=True))

    def _explain_block(
        self,
        given: Batch,
        some: slice,
        method: Method,
        classes: Array,
        outputs: Mapping[str, Array],
        passes: PassCounter,
    ) -> tuple[Array, ...]:
        """Scores (n, T) of some pictures, and each layer's raw maps (n, T, h, w)."""
        raws = []
        for fetched in self._fetched(method):
            questions = self._questions(given.pictures[some], fetched, classes, outputs, passes)
            raw, scores = method.raw(questions)
            raws.append(raw if given.broken is None else spoiled(raw, given.broken[some]))
        return scores, *raws

    def _questions(
        self,
        pictures: Array,
        fetched: tuple[Cut, dict[str, str], list[str]],
        classes: Array,
        outputs: Mapping[str, Array],
        passes: PassCounter,
    ) -> Questions:
        """What a method may ask about a block at a cut."""
        cut, tapped, own = fetched
        extras = {role: outputs[name] for role, name in tapped.items()}
        extras |= {name: outputs[name] for name in own}
        return Questions(
            pictures=pictures,
            activations=extras.pop(ACTIVATION),
            logits=outputs[LOGITS],
            targets=classes,
            activation=self.interface.inverse_link,
            has_logits=self.interface.joint is None,
            head=cut.head,
            model=self._model,
            logits_output=LOGITS,
            adjoints=self._adjoints,
            batch_size=self.batch_size,
            threads=self.threads,
            passes=passes,
            extras=extras,
            framing=self.framing((pictures.shape[2], pictures.shape[3])),
        )

    def framing(self, size: tuple[int, int], method: Method | None = None) -> Framing:
        """The part of the model's input (H, W) that raw maps show, of a method or of any on activations."""
        if method is not None and method.explains_pixels:
            return Framing.whole(size)
        # Activations of mirrored pictures were turned back at the cut: see `TargetTensor.mirrored`.
        return Framing(size, self.front.region(size).upright)

    @property
    def map_shape(self) -> MapShape:
        """Size (K, h, w) of the activation at the cut."""
        return MapShape(*self.target.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise PickleError(
                f"the engine of {self.path.name} cannot be pickled: only one that camrt.load made of an ONNX "
                "file can be loaded again elsewhere. Call camrt.load in each process, such as in a worker's "
                "initializer, or start processes by fork"
            )
        return loaded_again, (self.origin, state_of(self))

    def __copy__(self) -> Engine:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
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


def warn_of_broken(flags: Array) -> None:
    """Warns of maps that are not finite, where that is known without waiting for a device."""
    if not operations(flags).sees_values:
        return
    broken = int((host(flags) == MapFlag.NOT_FINITE).sum())
    if broken:
        warn_caller(
            f"{broken} of {host(flags).size} maps were not finite and are "
            "all zeros (explanation.flags says which): the model gave NaN or infinity for them",
            DegenerateMapWarning,
        )
