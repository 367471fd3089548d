"""The engine: a loaded classifier that predicts and explains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from camrt.engine.array_types import ArrayT, DLPackArray, NumPyArray, NumPyBatch
from camrt.engine.arrays import concat
from camrt.engine.batch import MapSize, PreparedBatch, check_real_numbers, resolve_map_size
from camrt.engine.call_limits import with_call_limits
from camrt.engine.description import describe_engine
from camrt.engine.evaluation_types import EvaluationResult, EvaluationSettings
from camrt.engine.explain_prepared import explain_prepared
from camrt.engine.explanation import Explanation
from camrt.engine.further_questions import FurtherQuestions
from camrt.engine.fusion import Fusion, check_fusion
from camrt.engine.map_output import MapType, check_map_output
from camrt.engine.methods import Method, make_method, suggest_options
from camrt.engine.queries import NO_PROBABILITIES
from camrt.engine.scores import probabilities
from camrt.errors import (
    BackendError,
    InputError,
    MethodError,
)
from camrt.export.rewrites.interface import LOGITS
from camrt.kernels.float_errors import ignore_float_errors

if TYPE_CHECKING:
    from camrt.engine.runs.sources import Source
    from camrt.engine.runs.stream import StreamedImage

__all__ = ["Engine"]

EVALUATION = "camrt.evaluation"  # the group of entry points that `Engine.evaluate` looks into

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Weighting = NumPyArray | DLPackArray | Sequence[Any]  # of logits


class Engine(FurtherQuestions):
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

    @with_call_limits("describing")
    def describe(self, costs: bool = True) -> str:
        """What was found in the file, and what every method will cost in passes, and why.

        Args:
            costs: Whether to list the methods.
        """
        return describe_engine(self, costs)

    @overload
    def predict(self, batch: NumPyBatch) -> NumPyArray: ...

    @overload
    def predict(self, batch: PreparedBatch) -> Any: ...

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
        batch: PreparedBatch,
        method: str | Method = "pixab",
        *,
        targets: Any = None,
        top_k: int | None = None,
        size: MapSize = "image",
        fuse: Fusion = "mean",
        dtype: MapType | None = None,
        out: Any = None,
        **options: Any,
    ) -> Explanation[Any]: ...

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

        if size == "original":
            raise InputError(
                "size='original' is for images of one size together: of a stream, "
                "image.explanation.on_original(0) of each"
            )
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
        check_fusion(fuse)
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
