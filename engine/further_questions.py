"""What else an engine answers: gradients of the input, weights of channels, and concepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from camrt.engine.array_types import ArrayT, DLPackArray, NumPyArray, NumPyBatch
from camrt.engine.arrays import concat, to_float32
from camrt.engine.batch import MapSize, check_real_numbers, resolve_map_size
from camrt.engine.call_limits import with_call_limits
from camrt.engine.concepts import Concepts, Factorisation, check_factoring, find_concepts
from camrt.engine.methods import ChannelMethod, Method, make_method
from camrt.engine.nan_rows import fill_nan_rows, find_nan_rows
from camrt.engine.passes import PassCounts
from camrt.errors import (
    InputError,
    MethodError,
)
from camrt.export.adjoint import GRADIENT, WEIGHTING
from camrt.export.rewrites.interface import LOGITS
from camrt.kernels.float_errors import ignore_float_errors

if TYPE_CHECKING:
    pass


from camrt.engine.loaded_model import LoadedModel

__all__ = ["FurtherQuestions"]

SEVERAL_CUTS = "the model is cut at several targets: load it with the one whose channels are meant"
Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Weighting = NumPyArray | DLPackArray | Sequence[Any]  # of logits


class FurtherQuestions(LoadedModel):
    """Questions that give something else than explanations."""

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
