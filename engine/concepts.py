"""Deep feature factorisation: which few patterns an activation of some images is made of, and where they lie.

"Deep Feature Factorization For Concept Discovery" (Collins, Achanta and Süsstrunk, ECCV 2018,
arXiv:1806.10206), section 3: with A (N·h·w, K) the activations of all cells of all images, a row a cell,
nowhere negative,

    A ≈ H W        H (N·h·w, n) ≥ 0        W (n, K) ≥ 0        ‖A − H W‖² as small as may be

Row c of W is a concept, and column c of H, folded back into (N, h, w), says where it is: images factored
together share their concepts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Unpack, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.engine.array_types import ArrayT_co
from camrt.engine.arrays import arange_like, library, repeat, to_numpy, zeros
from camrt.engine.batch import MapSize, PreparedBatch
from camrt.engine.cuts import Cut
from camrt.engine.extras import import_extra
from camrt.engine.file_names import FileNames
from camrt.engine.heads.base import QueryContext
from camrt.engine.images.framing import Framing, uncrop_maps
from camrt.engine.images.read import ImageSource
from camrt.engine.images.style import StyleOptions
from camrt.engine.map_placement import DrawnOn, MapPlacement, check_index, place_maps
from camrt.engine.model_run import ModelRun
from camrt.engine.passes import PassCounts
from camrt.engine.queries import Need
from camrt.engine.save_arguments import check_file_name, check_result_folder, one_per_image, stem_of
from camrt.engine.scores import ScoreReader, probabilities
from camrt.errors import InputError
from camrt.export.budget import reserve_array
from camrt.export.heads.cut import ACTIVATION, FIRST_LAYER
from camrt.export.io.atomic_files import open_atomic

__all__ = ["Concepts", "Factorisation", "check_factoring", "factor_activations", "find_concepts"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Factorisation = Literal["paper", "pytorch-grad-cam"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Concepts(Generic[ArrayT_co]):
    """The n concepts of N images, those that the activations are made of most coming first.

    Args:
        maps: (N, n, H, W) float32 in [0, 1], where each concept lies.
        weights: (N, n, h, w), H on the target tensor's grid.
        vectors: (n, K), W: what each concept looks like in channels.
        class_scores: (n, C) logits of an activation that is the concept's vector on every cell; None where
            what follows the activation looks at the image in other ways too.
        class_probabilities: (n, C) of these; None where there are none, or the model has none.
        error: ‖A − H W‖ / ‖A‖; NaN of an activation that is all zeros.
        iterations: How many were run; as many as were allowed where the factors were still changing.
        passes: What was run for it.
        labels: The names of the C classes, if known.
        views: The N images as the model saw them, if images were given.
        framings: Which part of each image that is, if images were given.
        map_framing: Which part of the model's input the maps show.
        sources: The N images as they were given, see `Explanation`.
    """

    maps: ArrayT_co
    weights: ArrayT_co
    vectors: ArrayT_co
    class_scores: ArrayT_co | None
    class_probabilities: ArrayT_co | None
    error: float
    iterations: int
    passes: PassCounts
    labels: tuple[str, ...] | None
    views: tuple[Image.Image, ...] | None
    framings: tuple[Framing, ...] | None
    map_framing: Framing | None
    sources: tuple[ImageSource | None, ...] | None = None

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    def __repr__(self) -> str:
        count, _, height, width = self.maps.shape
        return (
            f"<Concepts {len(self)} of {count} image{'s' * (count != 1)}; maps {height}x{width}; "
            f"error {self.error:.3f}; {self.iterations} iterations; passes: {self.passes}>"
        )

    def label(self, concept: int, top: int = 2) -> str:
        """The classes that a concept speaks for most, each with its probability or score.

        Args:
            concept: Which one.
            top: How many classes.

        Raises:
            NoSuchImageError: There is no such concept.
        """
        number = check_index(concept, len(self), "concept", "there are")
        if self.class_scores is None:
            return f"concept {number}"
        scores = to_numpy(self.class_scores)[number]
        shares = None if self.class_probabilities is None else to_numpy(self.class_probabilities)[number]
        best = np.argsort(-scores, kind="stable")[: max(top, 1)].tolist()
        names = [f"class {place}" if self.labels is None else self.labels[place] for place in best]
        told = [f"{scores[place]:.4g}" if shares is None else f"{shares[place]:.3f}" for place in best]
        return ", ".join(f"{name} {value}" for name, value in zip(names, told, strict=True))

    def overlay(
        self,
        i: int,
        concept: int = 0,
        *,
        image: ImageSource | None = None,
        on: DrawnOn | None = None,
        **style: Unpack[StyleOptions],
    ) -> Image.Image:
        """An image with a concept's map drawn over it; the arguments are those of `Explanation.overlay`.

        Raises:
            InputError: There is no image to draw on, it has other proportions, or the style means nothing.
            ImageError: The image cannot be read.
            NoSuchImageError: No such image or concept.
        """
        at = self._image(i), check_index(concept, len(self), "concept", "there are")
        return self._placement.overlay(at[0], self.maps[at], image, on, style)

    def sheet(
        self,
        i: int,
        columns: int = 4,
        *,
        image: ImageSource | None = None,
        on: DrawnOn | None = None,
        **style: Unpack[StyleOptions],
    ) -> Image.Image:
        """An image and the overlays of all concepts on one sheet, each with its label.

        Args:
            i: Which image.
            columns: Images a row.
            image: What to draw on, see `Explanation.overlay`.
            on: See there.
            **style: See there.

        Raises:
            InputError: There is no image to draw on, or columns below 1.
            ImageError: The image cannot be read.
            NoSuchImageError: No such image.
        """
        own, captions = self._image(i), [self.label(concept) for concept in range(len(self))]
        return self._placement.sheet(own, list(self.maps[own]), captions, columns, image, on, style)

    def save(
        self,
        folder: str | os.PathLike[str],
        stem: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        *,
        name: str = "concepts",
    ) -> list[Path]:
        """Write each image's sheet as STEM.png, if images were given, and all arrays as one NumPy archive.

        The archive holds `maps`, `weights` and `vectors`, `class_scores` and `class_probabilities` where
        there are any, and each concept's `concept_labels`. Each file appears complete or not at all.

        Args:
            folder: Made if missing.
            stem: How the images' files begin; see `Explanation.save`.
            name: The archive's name, without ".npz".

        Returns:
            What was written: the sheets, then the archive.

        Raises:
            InputError: Another number of stems than of images; or a folder or a name that is none.
            StorageError: The folder or a file cannot be written.
        """
        place = check_result_folder(folder)
        *sheets, archive = self.file_names(stem, name=name)
        for i, sheet in enumerate(sheets):
            with open_atomic(place / sheet) as file:
                self.sheet(i).save(file, format="PNG")
        names = ("maps", "weights", "vectors", "class_scores", "class_probabilities")
        known = {field: values for field in names if (values := getattr(self, field)) is not None}
        arrays: dict[str, Any] = {field: to_numpy(values) for field, values in known.items()}
        arrays["concept_labels"] = np.array([self.label(concept) for concept in range(len(self))], np.str_)
        with open_atomic(place / archive) as file:
            np.savez(file, **arrays)
        return [place / one for one in (*sheets, archive)]

    def file_names(
        self,
        stem: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        *,
        name: str = "concepts",
    ) -> list[str]:
        """What `save` calls its files, the archive last; the arguments and errors are its own."""
        check_file_name("name", name)
        count, naming = int(self.maps.shape[0]), FileNames()
        given = (f"{i:04d}" for i in range(count)) if stem is None else stem
        stems = [naming.unique_stem(stem_of(one)) for one in one_per_image("stems", given, count)]
        return [*(f"{one}.png" for one in stems if self.views is not None), f"{name}.npz"]

    @property
    def _placement(self) -> MapPlacement:
        return MapPlacement(self.views, self.framings, self.map_framing, self.sources)

    def _image(self, i: int) -> int:
        return check_index(i, int(self.maps.shape[0]), "image", "there are")


def check_factoring(n: object, definition: object, seed: object, iterations: object) -> None:
    """Refuses arguments that mean nothing.

    Raises:
        InputError: There is one.
    """
    for name, value, least in (("n", n, 1), ("seed", seed, 0), ("iterations", iterations, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}={value!r:.80} must be a whole number >= {least}")
    if definition not in get_args(Factorisation):
        known = ", ".join(map(repr, get_args(Factorisation)))
        raise InputError(f"definition={definition!r:.80} must be one of {known}")


def find_concepts(
    run: ModelRun,
    cut: Cut,
    given: PreparedBatch,
    put: Callable[[NDArray[Any]], Array],
    n: int,
    *,
    definition: Factorisation,
    seed: int,
    iterations: int,
    size: MapSize,
    labels: tuple[str, ...] | None,
) -> Concepts[Any]:
    """The concepts of a batch at a cut; see `camrt.Engine.concepts`."""
    import_extra("sklearn.decomposition", "concepts")  # missing, it is told before anything is run
    taps = {
        role: name
        for role, name in cut.required_taps(frozenset({Need.ALTERATIONS})).items()
        if role != FIRST_LAYER
    }
    passes, blocks = PassCounts(), []
    for start in range(0, len(given.images), run.batch_size):
        images = given.images[start : start + run.batch_size]
        found = dict(zip(taps, run.model(images, list(taps.values())), strict=True))
        activation = found.pop(ACTIVATION)
        reserve_array((len(given.images), *activation.shape[1:]), "activations of all images", itemsize=4)
        blocks.append(np.asarray(to_numpy(activation), np.float32))
        passes.trunk += len(images)
    activations = np.concatenate(blocks)
    weights, vectors, error, steps = factor_activations(activations, n, definition, seed, iterations)
    image, grid = tuple(given.images.shape[2:]), tuple(weights.shape[2:])
    seen = run.framing(image)
    placed, shown = place_maps(size, image, grid, given.framings, seen)
    scores = score_vectors(run, cut, put(vectors), grid, found)
    shares = None if scores is None or run.interface.activation == "none" else run.interface.inverse_link
    return Concepts(
        maps=given.to_caller(
            uncrop_maps(scale_weights(weights, definition), placed.compose(seen)).clip(0, 1)
        ),
        weights=given.to_caller(weights),
        vectors=given.to_caller(vectors),
        class_scores=None if scores is None else given.to_caller(scores),
        class_probabilities=None if shares is None else given.to_caller(probabilities(scores, shares)),
        error=error,
        iterations=steps,
        passes=passes,
        labels=labels,
        views=given.views,
        framings=given.framings,
        map_framing=shown,
        sources=given.sources,
    )


def factor_activations(
    activations: NDArray[np.float32], n: int, definition: Factorisation, seed: int, iterations: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], float, int]:
    """Factors activations (N, K, h, w) by scikit-learn's NMF.

    Args:
        activations: Of all images.
        n: How many concepts.
        definition: "paper" takes activations that are nowhere negative as they are, begins with their
            singular vectors, and brings each concept's largest weight to 1; "pytorch-grad-cam" takes each
            channel's minimum out of it and puts it back into the vectors, and begins with random factors.
        seed: What is drawn is drawn with it.
        iterations: How many at most.

    Returns:
        Weights (N, n, h, w), vectors (n, K), the relative error, and how many iterations were run.

    Raises:
        InputError: Activations that are not finite, or negative where they may not be, or more concepts than
            they can have.
        MissingExtraError: scikit-learn is not installed.
    """
    decomposition = import_extra("sklearn.decomposition", "concepts")
    finite = np.isfinite(activations).all(axis=(1, 2, 3))
    if not finite.all():
        raise InputError(
            f"the activation of image {int(finite.argmin())} is not finite: leave it out, or choose another "
            "target="
        )
    count, channels, height, width = activations.shape
    table = activations.transpose(1, 0, 2, 3).reshape(channels, -1)
    if n > min(table.shape):
        most = min(table.shape)
        raise InputError(f"n={n}: {channels} channels on {table.shape[1]} cells have at most {most} concepts")
    offset = np.zeros(channels, np.float32)
    if definition == "pytorch-grad-cam":
        offset = table.min(axis=1)
        table = table - offset[:, None]
    elif table.min() < 0:
        raise InputError(
            "the activation has negative values, which factors that are nowhere negative cannot make: cut "
            "the model behind a ReLU (target=), or take definition='pytorch-grad-cam', which moves each "
            "channel up"
        )
    if not table.any():
        empty = np.zeros((count, n, height, width), np.float32)
        return empty, np.repeat(offset[None], n, axis=0), float("nan"), 0
    model = decomposition.NMF(
        n_components=n,
        init="random" if definition == "pytorch-grad-cam" else "nndsvda",
        random_state=seed,
        max_iter=iterations,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", import_extra("sklearn.exceptions", "concepts").ConvergenceWarning)
        vectors = model.fit_transform(table)
    parts = model.components_
    if definition == "paper":
        peaks = parts.max(axis=1)
        peaks[peaks == 0] = 1
        parts, vectors = parts / peaks[:, None], vectors * peaks
    share = np.linalg.norm(parts.astype(np.float64), axis=1) * np.linalg.norm(vectors, axis=0)
    order = np.argsort(-share, kind="stable")
    weights = parts[order].reshape(n, count, height, width).swapaxes(0, 1)
    error = float(model.reconstruction_err_ / np.linalg.norm(table.astype(np.float64)))
    return (
        np.ascontiguousarray(weights, np.float32),
        (vectors[:, order].T + offset).astype(np.float32),
        error,
        int(model.n_iter_),
    )


def scale_weights(weights: NDArray[np.float32], definition: Factorisation) -> NDArray[np.float32]:
    """Weights (N, n, h, w) in [0, 1]: as they are, or by each image's range, as pytorch-grad-cam has it."""
    if definition == "paper":
        return weights
    lifted = weights - weights.min(axis=(2, 3), keepdims=True)
    return np.asarray(lifted / (lifted.max(axis=(2, 3), keepdims=True) + np.float32(1e-7)))


def score_vectors(
    run: ModelRun, cut: Cut, vectors: Array, grid: Sequence[int], beside: Mapping[str, Array]
) -> Array | None:
    """Logits (n, C) of activations that are one vector on every cell; None where the head looks at more.

    They are the scores of such an activation with all of it kept, which every head answers in its own way.

    Args:
        run: What runs the model.
        cut: Where it is cut.
        vectors: (n, K), where the engine computes.
        grid: (h, w).
        beside: What the head looks at beside the activation, of some images; with numbers in it, and not its
            shape alone, there is no activation that is a vector whatever the image.
    """
    placed = zeros((*vectors.shape, *grid), vectors) + vectors[:, :, None, None]
    extras = cut.head.extras_of(placed)
    for role, tensor in beside.items():
        if role not in extras:
            if 0 not in tensor.shape:
                return None
            extras[role] = repeat(tensor[:1], len(vectors), axis=0)
    xp, classes = library(vectors), run.interface.num_classes
    joint = run.interface.joint is not None
    reader = ScoreReader(
        repeat(arange_like(classes, vectors)[None], len(vectors), axis=0),
        "probability" if joint else "logit",
        run.interface.inverse_link,
    )
    context = QueryContext(placed, zeros((len(vectors), classes), vectors), reader, PassCounts(), extras)
    whole = np.array([[0, 0, *grid]], np.int64)
    _, kept = cut.head.scores_with_boxes(context, whole, delete=False, keep=True)
    assert kept is not None
    return xp.log(kept[:, 0]) if joint else kept[:, 0]
