"""The engine: a loaded classifier that predicts and explains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, overload

import numpy as np
from numpy.typing import NDArray

from camrt.engine.array_types import ArrayT, DLPackArray, NumPyArray, NumPyBatch
from camrt.engine.arrays import concat, out_of_memory_errors, release_memory, to_float32
from camrt.engine.attention import NO_ATTENTION
from camrt.engine.batch import MapSize, PreparedBatch, check_real_numbers, prepare_batch, resolve_map_size
from camrt.engine.call_limits import with_call_limits
from camrt.engine.concepts import Concepts, Factorisation, check_factoring, find_concepts
from camrt.engine.cuts import Cut
from camrt.engine.description import describe_engine
from camrt.engine.device import NUMPY_DEVICE, Device
from camrt.engine.evaluation_types import EvaluationResult, EvaluationSettings
from camrt.engine.explain_prepared import explain_prepared
from camrt.engine.explanation import Explanation
from camrt.engine.fusion import Fusion
from camrt.engine.heads import Head
from camrt.engine.heads.comparison import Comparison
from camrt.engine.images.framing import Framing
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.map_output import MapType, check_map_output
from camrt.engine.methods import ChannelMethod, MapShape, Method, make_method, suggest_options
from camrt.engine.model_run import ModelRun
from camrt.engine.origin import Origin, mutable_state, reload_engine
from camrt.engine.passes import PassCounts
from camrt.engine.preprocess_adaptation import expected_levels
from camrt.engine.queries import NO_PROBABILITIES, fill_nan_rows, find_nan_rows
from camrt.engine.runtime import Runner
from camrt.engine.runtime.batch_splitting import OomSplitter
from camrt.engine.scores import probabilities
from camrt.engine.targets import TargetChooser, make_target_chooser
from camrt.errors import (
    BackendError,
    InputError,
    MethodError,
    PickleError,
)
from camrt.export.adjoint import GRADIENT, WEIGHTING, BackwardRule
from camrt.export.budget import allowed_memory
from camrt.export.geometry.builtin_preprocessing import BuiltinPreprocessing
from camrt.export.heads.cut import TargetTensor
from camrt.export.rewrites.interface import LOGITS, Interface
from camrt.kernels.float_errors import ignore_float_errors

if TYPE_CHECKING:
    from camrt.engine.runs.sources import Source
    from camrt.engine.runs.stream import StreamedImage

__all__ = ["Engine"]

SEVERAL_CUTS = "the model is cut at several targets: load it with the one whose channels are meant"
EVALUATION = "camrt.evaluation"  # the group of entry points that `Engine.evaluate` looks into

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Weighting = NumPyArray | DLPackArray | Sequence[Any]  # of logits


class Engine:
    """A loaded classifier; made by `camrt.load`. Safe to use from several threads at once.

    Batches are arrays of NumPy, tensors of torch, arrays of any library that speaks DLPack, or images. What
    is given back are arrays of the same kind, in the same place. On a GPU nothing is copied between the batch
    and the maps when a tensor there is given, and what is given back may not have been computed yet, as with
    torch's own operations.

    A pickled engine is how it was loaded, and is loaded again where it is unpickled; see
    `camrt.engine.origin`. Copies, deep ones too, share what was made ready.

    Attributes:
        path: The model file.
        sha256: Hash of the file and of its external data.
        interface: What the model takes and gives.
        labels: Class names, when known.
        preprocessing: How images become the model's input, when known.
        batch_size: Rows run at once, the bound on memory.
        threads: Threads of the native kernels; None lets them choose.
        call_deadline: Seconds that a call may take; may be set.
        notes: What loading changed or could not change, in sentences.
        verification: What was compared with the model's own answers when it was loaded, and how they agreed.
        device: Where the engine computes.
        runtime: What runs the model: the name of its backend.
        front: What the file does to its images by itself, before its first layer.
        origin: How it was loaded; None of a torch model.
    """

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

    @with_call_limits("describing")
    def describe(self) -> str:
        """What was found in the file, and what every method will cost in passes, and why."""
        return describe_engine(self)

    @overload
    def predict(self, batch: NumPyBatch) -> NumPyArray: ...

    @overload
    def predict(self, batch: ArrayT) -> ArrayT: ...

    @with_call_limits("predicting")
    @ignore_float_errors
    def predict(self, batch: Any) -> Array:
        """Logits of a batch.

        Args:
            batch: float32 (N, C, H, W) as the model takes it, of NumPy, torch or any library that speaks
                DLPack; or a list of images (paths, Pillow images, uint8 arrays (H, W, 3), the bytes of
                files, open files), or a single one, when the preprocessing is known. Whole numbers are taken
                where the file is made for pixels as they are.

        Returns:
            (N, classes) float32; of a CALM model log p(y|x). `engine.probabilities` turns them into
            probabilities.

        Raises:
            InputError: A batch this model cannot take.
            ImageError: An image cannot be read.
            DeadlineError: The call took longer than `call_deadline`.
            MemoryLimitError: It needs more than `max_memory` at once.

        Example:
            engine.probabilities(engine.predict(["cat.jpg", "dog.jpg"]))
        """
        given = self._prepared(batch)
        return given.to_caller(
            concat(
                [
                    self._model(given.images[start : start + self.batch_size], [LOGITS])[0]
                    for start in range(0, len(given.images), self.batch_size)
                ]
            )
        )

    def _chooser(self, given: PreparedBatch, targets: Any, top_k: int | None) -> TargetChooser:
        """What chooses the classes to explain."""
        count = len(given.images)
        return make_target_chooser(
            targets, count, self.num_classes, self.device, given.to_caller, self.labels, top_k
        )

    def _prepared(self, batch: Any) -> PreparedBatch:
        """A batch as the model takes it, where the engine computes."""
        return prepare_batch(batch, self.interface, self.preprocessing, self.device, self._expected_levels())

    def _expected_levels(self) -> tuple[float, float] | None:
        """The range of numbers that the model is made for, where that is known."""
        if self.preprocessing is None:
            return expected_levels(self.interface, self.front)
        return self.preprocessing.levels

    @overload
    def probabilities(self, logits: NumPyArray | Sequence[Any]) -> NumPyArray: ...

    @overload
    def probabilities(self, logits: ArrayT) -> ArrayT: ...

    @ignore_float_errors
    def probabilities(self, logits: Array) -> Array:
        """Probabilities of logits (..., classes) after this model's softmax or sigmoid.

        Raises:
            InputError: The model gives plain numbers, which have none; or these are no logits of it.
        """
        if self.interface.activation == "none":
            raise InputError(NO_PROBABILITIES)
        logits = check_real_numbers(logits, "the logits", self.num_classes)
        return probabilities(logits, self.interface.inverse_link)

    @overload
    def explain(
        self,
        batch: NumPyBatch,
        method: str | Method = "pixab",
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: MapSize = "image",
        fuse: Fusion = "mean",
        dtype: MapType | None = None,
        out: Any = None,
        **options: Any,
    ) -> Explanation[NumPyArray]: ...

    @overload
    def explain(
        self,
        batch: ArrayT,
        method: str | Method = "pixab",
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: MapSize = "image",
        fuse: Fusion = "mean",
        dtype: MapType | None = None,
        out: Any = None,
        **options: Any,
    ) -> Explanation[ArrayT]: ...

    @with_call_limits("explaining")
    @ignore_float_errors
    def explain(
        self,
        batch: Any,
        method: str | Method = "pixab",
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: MapSize = "image",
        fuse: Fusion = "mean",
        dtype: MapType | None = None,
        out: Any = None,
        **options: Any,
    ) -> Explanation[Any]:
        """Saliency maps of a batch.

        Args:
            batch: float32 (N, C, H, W) as the model takes it, of NumPy, torch or any library that speaks
                DLPack; or a list of images (paths, Pillow images, uint8 arrays (H, W, 3), the bytes of
                files, open files), or a single one, when the preprocessing is known. What lies on a GPU is
                not looked at: an image there with NaN or infinity in it gets a map of zeros, and the flag
                that says so.
            method: A method's name (`camrt.methods()` lists them; case, hyphens and "cam" do not
                matter), or a method object.
            targets: Classes to explain: None for the predicted one, one class for all images, (N,), or
                (N, T) for several each; any number costs the passes of one. Classes are indices or, where
                `labels` are known, names in any capitals. Or a function that is given the logits (n, classes)
                of some images at a time and answers (n,) or (n, T).
            top_k: Explain so many of the most probable classes of each image instead, (N, top_k).
            size: "image" for maps as large as the model's input, "map" for the activation's own grid (the
                finest of several), "original" for maps as large as the images, zero where the preprocessing
                cut them off (images of one size; see also `Explanation.on_original`), or (H, W) for the
                model's input in that size.
            fuse: How the maps of several layers become one, when the model was loaded with several targets:
                "mean", "max" or "product" of their saliency (RefineCAM is the product of Grad-CAM++'s).
            dtype: The type of `.maps`, "float32" or "float16"; None for that of `out`, or float32. Everything
                is computed in float32 and rounded when a map is written.
            out: An array that `.maps` is written into and then is, contiguous, of the batch's kind and on its
                device, (N, H, W) or (N, T, H, W), float32 or float16: one for all calls of a server, say.
            **options: The method's options.

        Returns:
            The explanation, of arrays of the batch's kind; `.maps` has shape targets.shape + (H, W), in
            [0, 1].

        Raises:
            MethodError: Unknown method or option, or one this model's head does not admit.
            AdjointError: The method needs a gradient, and an operator on the way has none, or no rule.
            InputError: A batch this model cannot take.
            TargetError: Classes out of range or of the wrong shape.
            ImageError: An image cannot be read.
            DeadlineError: The call took longer than `call_deadline`.
            MemoryLimitError: It needs more than `max_memory` at once.

        Example:
            found = engine.explain(["cat.jpg"], "pixab", targets="tabby")
            found.maps[0]  # (H, W) in [0, 1]
            found.overlay(0).save("overlay.png")
        """
        chosen = (make_method(method, options),)
        return self._explain(batch, chosen, targets, top_k, size, fuse, dtype, out)[0]

    @overload
    def explain_all(
        self,
        batch: NumPyBatch,
        methods: Sequence[str | Method],
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: MapSize = "image",
        fuse: Fusion = "mean",
        dtype: MapType | None = None,
    ) -> tuple[Explanation[NumPyArray], ...]: ...

    @overload
    def explain_all(
        self,
        batch: ArrayT,
        methods: Sequence[str | Method],
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: MapSize = "image",
        fuse: Fusion = "mean",
        dtype: MapType | None = None,
    ) -> tuple[Explanation[ArrayT], ...]: ...

    @with_call_limits("explaining")
    @ignore_float_errors
    def explain_all(
        self,
        batch: Any,
        methods: Sequence[str | Method],
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: MapSize = "image",
        fuse: Fusion = "mean",
        dtype: MapType | None = None,
        **unknown: Any,
    ) -> tuple[Explanation[Any], ...]:
        """Saliency maps of a batch by several methods, which share the pass through the trunk.

        The arguments and errors are those of `explain`, but for methods' options, which go into methods that
        are objects: `camrt.methods()["score"](definition="grad-cam")`.

        Returns:
            One explanation a method, in their order. The shared pass is counted in the first.

        Example:
            cam, pixab = engine.explain_all(["cat.jpg"], ["gradcam", "pixab"])
        """
        if unknown:
            names = ", ".join(map(repr, unknown))
            raise MethodError(
                f"explain_all has no argument {names}{suggest_options(list(unknown), ())}; options go into "
                "a method that is an object: camrt.methods()[name](...)"
            )
        if isinstance(methods, str | Method | Mapping) or not isinstance(methods, Iterable):
            raise InputError(f"methods={methods!r} must be a list of one or more methods")
        chosen = tuple(make_method(method, {}) for method in methods)
        if not chosen:
            raise InputError("methods= must be a list of one or more methods: it is empty")
        return self._explain(batch, chosen, targets, top_k, size, fuse, dtype)

    def explain_stream(
        self,
        source: Source | Iterable[Source],
        method: str | Method = "pixab",
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: MapSize = "image",
        fuse: Fusion = "mean",
        dtype: MapType | None = None,
        column: str | None = None,
        decode_threads: int | None = None,
        jpeg_scaling: bool = False,
        **options: Any,
    ) -> Iterator[StreamedImage]:
        """Explanations of any number of images, one after the other, in their order.

        While the model runs, the next images are read and decoded by other threads. Memory does not grow with
        the number of images.

        Args:
            source: A file, folder, pattern (`photos/*.jpg`), list of paths (.txt, .csv, .parquet), tar
                archive, or an address of fsspec (`s3://bucket/folder`); or several of them.
            method: See `explain`.
            targets: A class for all images, several of them for each, or a function of logits.
            top_k: See `explain`.
            size: See `explain`.
            fuse: See `explain`.
            dtype: See `explain`.
            column: The column of paths in tables; "path", or the only one, when left out.
            decode_threads: Threads that read and decode; as many as processors when left out.
            jpeg_scaling: Whether a JPEG far larger than the model's input is decoded at a part of its size,
                which is quicker and changes the pixels that the model sees a little.
            **options: The method's options.

        Yields:
            The address of an image, and its explanation or why it could not be read.

        Raises:
            InputError: The model's preprocessing is not known, or a list or an archive is none.
            CamrtError: What `explain` raises.

        Example:
            for image in engine.explain_stream("photos", "pixab"):
                if image.explanation is not None:
                    image.explanation.maps[0]  # (H, W)
        """
        # What archives, tables and threads need is imported where somebody has many images: it would make
        # the way from a new process to a first map longer.
        from camrt.engine.runs.decoding import Decoding
        from camrt.engine.runs.sources import find_items
        from camrt.engine.runs.stream import Question, explain_items

        question = Question(
            engine=self,
            method=make_method(method, options),
            targets=targets,
            top_k=top_k,
            size=size,
            fuse=fuse,
            dtype=dtype,
        )
        decoding = Decoding.of(self.preprocessing, decode_threads, jpeg_scaling=jpeg_scaling)
        return explain_items(find_items(source, column=column), question, decoding, self.batch_size)

    @overload
    def input_gradients(
        self, batch: NumPyBatch, weighting: Weighting | Callable[[NumPyArray], Weighting]
    ) -> tuple[NumPyArray, NumPyArray]: ...

    @overload
    def input_gradients(
        self, batch: ArrayT, weighting: Weighting | Callable[[ArrayT], Weighting]
    ) -> tuple[ArrayT, ArrayT]: ...

    @with_call_limits("computing gradients")
    @ignore_float_errors
    def input_gradients(
        self, batch: Array, weighting: Array | Callable[[Array], Array]
    ) -> tuple[Array, Array]:
        """The gradient of a weighting of the logits with respect to the model's input.

        Args:
            batch: What `predict` takes.
            weighting: w, float (N, classes); or a function from logits (n, classes) to it, for which each
                image is run once more.

        Returns:
            Logits (N, classes), and d(Σ_c w_c · logit_c)/dx, (N, C, H, W); NaN for images whose logits are
            not finite.

        Raises:
            AdjointError: An operator of the model has no derivative, or camrt has no rule for it.
            InputError: A batch this model cannot take, or a weighting of another shape.
        """
        given = self._prepared(batch)
        if not callable(weighting):
            weighting = self._weighting(weighting, len(given.images))
        logits, gradients = [], []
        for start in range(0, len(given.images), self.batch_size):
            block = given.images[start : start + self.batch_size]
            if callable(weighting):
                wanted = self._weighting(
                    weighting(given.to_caller(self._model(block, [LOGITS])[0])), len(block)
                )
            else:
                wanted = weighting[start : start + self.batch_size]
            found, gradient = self._adjoints["plain"](
                block, [LOGITS, GRADIENT], {WEIGHTING: to_float32(self.device.put(wanted))}
            )
            logits.append(found)
            gradients.append(fill_nan_rows(gradient, find_nan_rows(found)))
        return given.to_caller(concat(logits)), given.to_caller(concat(gradients))

    def _weighting(self, given: Any, count: int) -> Array:
        """A weighting of the logits, one row an image."""
        found = check_real_numbers(given, "the weighting", self.num_classes)
        if tuple(found.shape) != (count, self.num_classes):
            raise InputError(
                f"a weighting of the logits has shape ({count}, {self.num_classes}) for as many "
                f"images, not {tuple(found.shape)}"
            )
        return found

    @overload
    def channel_weights(
        self,
        batch: NumPyBatch,
        method: str | Method = "gradcam",
        *,
        targets: Any = None,
        top_k: int | None = None,
        **options: Any,
    ) -> tuple[NumPyArray, NumPyArray]: ...

    @overload
    def channel_weights(
        self,
        batch: ArrayT,
        method: str | Method = "gradcam",
        *,
        targets: Any = None,
        top_k: int | None = None,
        **options: Any,
    ) -> tuple[ArrayT, ArrayT]: ...

    @with_call_limits("computing weights")
    @ignore_float_errors
    def channel_weights(
        self,
        batch: Any,
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
        chosen = make_method(method, options)
        if not isinstance(chosen, ChannelMethod):
            raise MethodError(f"{chosen.name} does not weight channels as wholes")
        if len(self._cuts) > 1:
            raise InputError(SEVERAL_CUTS)
        given = self._prepared(batch)
        choose, run = self._chooser(given, targets, top_k), self._make_run()
        kept = []
        for start in range(0, len(given.images), self.batch_size):
            block = given.images[start : start + self.batch_size]
            outputs = run.run_trunk(block, (chosen,))
            classes, several = choose(slice(start, start + self.batch_size), outputs[LOGITS])
            queries = run.make_queries(block, run.find_fetched(chosen)[0], classes, outputs, PassCounts())
            kept.append((chosen.weights(queries)[0], queries.activations))
        weights, activations = (given.to_caller(concat(parts)) for parts in zip(*kept, strict=True))
        return (weights if several else weights[:, 0]), activations

    @overload
    def concepts(
        self,
        batch: NumPyBatch,
        n: int = 5,
        *,
        definition: Factorisation = "paper",
        seed: int = 0,
        iterations: int = 200,
        size: MapSize = "image",
    ) -> Concepts[NumPyArray]: ...

    @overload
    def concepts(
        self,
        batch: ArrayT,
        n: int = 5,
        *,
        definition: Factorisation = "paper",
        seed: int = 0,
        iterations: int = 200,
        size: MapSize = "image",
    ) -> Concepts[ArrayT]: ...

    @with_call_limits("factoring")
    @ignore_float_errors
    def concepts(
        self,
        batch: Any,
        n: int = 5,
        *,
        definition: Factorisation = "paper",
        seed: int = 0,
        iterations: int = 200,
        size: MapSize = "image",
    ) -> Concepts[Any]:
        """Which few patterns the activation of some images is made of, where they lie, and what they mean.

        Deep feature factorisation (Collins et al., ECCV 2018); see `camrt.engine.concepts`. All images are
        factored together, and share their concepts. It costs a pass through the trunk an image.

        Args:
            batch: What `explain` takes; no image may have an activation that is not finite.
            n: How many concepts.
            definition: "paper", which factors activations that are nowhere negative, such as behind a ReLU;
                or "pytorch-grad-cam", which moves each channel up by its minimum first, begins with random
                factors, and brings each map to its own range.
            seed: Of the factors that it begins with.
            iterations: How many at most.
            size: Of the maps; see `explain`.

        Returns:
            The concepts, those that the activations are made of most coming first, in arrays of the batch's
            kind.

        Raises:
            InputError: A batch this model cannot take, activations that cannot be factored so, or a model cut
                at several targets.
            MissingExtraError: scikit-learn is not installed.
            ImageError: An image cannot be read.
            DeadlineError: The call took longer than `call_deadline`.
            MemoryLimitError: It needs more than `max_memory` at once.

        Example:
            found = engine.concepts(["cat.jpg", "dog.jpg"], 4)
            found.maps[0, 2]  # (H, W), where the third concept lies in the first image
            found.label(2)  # "tabby 0.812, tiger cat 0.071"
            found.sheet(0).save("concepts.png")
        """
        check_factoring(n, definition, seed, iterations)
        if len(self._cuts) > 1:
            raise InputError(SEVERAL_CUTS)
        given = self._prepared(batch)
        resolve_map_size(size, (1, 1), (1, 1), given.framings)  # refuses nonsense before anything is run
        return find_concepts(
            self._make_run(),
            self._cuts[0],
            given,
            self.device.put,
            n,
            definition=definition,
            seed=seed,
            iterations=iterations,
            size=size,
            labels=self.labels,
        )

    def evaluate(
        self,
        data: Any,
        methods: str | Method | Sequence[str | Method] | Mapping[str, str | Method] = (
            "pixab",
            "gradcam",
            "ablation",
        ),
        metrics: str | Sequence[str] = "all",
        *,
        settings: EvaluationSettings | None = None,
        dead: NDArray[np.bool_] | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        progress: Callable[[float, int], None] | None = None,
    ) -> EvaluationResult:
        """Which explanation to trust: metrics of methods on annotated images.

        This is `camrt.evaluation.evaluate`, found by the package's entry point: explaining imports nothing of
        evaluation.

        Args:
            data: A folder of images with their annotations, or a `camrt.evaluation.datasets.Dataset`.
            methods: Names of methods, with options if need be ("pixab:denominators=N1"), or method objects;
                "all" for all methods but products with guided back-propagation.
            metrics: Names of metrics, or "all": then those that cannot be measured, or cost many explanations
                more, are left out, and the results say why.
            settings: How, and on how many images: `camrt.evaluation.Settings(limit=100)`.
            dead: bool (H, W), pixels of the model's input that cannot influence it, for μ.
            out: Folder for results.json, tables and a report; None keeps all in memory.
            resume: Go on with a run in that folder, if there is one.
            overwrite: Replace a run in that folder.
            progress: Called with how many images are done, as a fraction, and how many there are.

        Returns:
            A `camrt.evaluation.Evaluation`: its `.figures` are by method and metric.

        Raises:
            InputError: Metrics that the images do not allow, a preprocessing that is not known, a folder that
                holds another run or is being written by one, or an argument of another type.
            MethodError: An unknown method, or one that this model does not admit.
            DataError: No images.
            StorageError: Results cannot be written; what was measured before is kept.
            BackendError: camrt's entry points are not installed.

        Example:
            found = engine.evaluate("images", ["pixab", "gradcam"], ["drop", "deletion"])
            found.figures["pixab"]["deletion"]["value"]
        """
        found = entry_points(group=EVALUATION, name="evaluate")
        if not found:
            raise BackendError(
                "camrt was installed without its entry points, as by a tool that bundles applications: call "
                "camrt.evaluation.evaluate(engine, data, methods), or install camrt anew"
            )
        result: EvaluationResult = next(iter(found)).load()(
            self,
            data,
            methods,
            metrics,
            settings=settings,
            dead=dead,
            out=out,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
        return result

    def _explain(
        self,
        batch: Any,
        methods: tuple[Method, ...],
        targets: Any,
        top_k: int | None,
        size: MapSize,
        fuse: Fusion,
        dtype: MapType | None,
        out: Any = None,
    ) -> tuple[Explanation[Any], ...]:
        started = time.perf_counter()
        given = self._prepared(batch)
        resolve_map_size(size, (1, 1), (1, 1), given.framings)  # refuses nonsense before anything is run
        if fuse not in get_args(Fusion):
            raise InputError(f"fuse={fuse!r} must be one of {', '.join(map(repr, get_args(Fusion)))}")
        output = check_map_output(dtype, out, batch, len(given.images), self.device)
        return explain_prepared(
            self._make_run(),
            self._splitter,
            given,
            methods,
            self._chooser(given, targets, top_k),
            size=size,
            fuse=fuse,
            output=output,
            labels=self.labels,
            seconds=time.perf_counter() - started,
        )

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

    def with_preprocessing(self, preprocessing: Preprocessing) -> Engine:
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
