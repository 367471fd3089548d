"""Cascading parameter randomisation: does a map change when what the model has learned is taken from it?

"Sanity Checks for Saliency Maps" (Adebayo et al., NeurIPS 2018, arXiv:1810.03292), section 3, as "Attend
Pixel, not Channel" (Pixab-CAM) shows it in a figure (specification E11). Weights are drawn anew layer by
layer, from the last towards the first, each stage keeping what the ones before it drew; the maps of the class
that the original predicts are compared with the original's. A map that stays alike does not depend on those
layers.

Which layers there are, and how they are drawn, is in `camrt.evaluation.metrics.weight_layers`.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import camrt
from camrt.default import resolve_model_path
from camrt.engine.digests import combined_digest, file_digest
from camrt.engine.engine import Engine
from camrt.engine.extras import import_extra
from camrt.engine.identity import model_identity, package_versions
from camrt.engine.methods import Method, make_method
from camrt.engine.run_folder import RunFolder, lock_folder
from camrt.errors import CutError, InputError
from camrt.evaluation.escaping import to_json_bytes
from camrt.evaluation.metrics.weight_layers import Draw, find_weight_layers, randomise_layers
from camrt.export.io.atomic_files import write_atomic
from camrt.export.io.model_file import read_model
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.saliency import MapFlag

__all__ = ["RandomisationResult", "cascading_randomisation", "compare_maps", "stage_counts"]

Array = npt.NDArray[Any]
SSIM_WINDOW = 7
RESULTS = "results.json"


@dataclass(frozen=True, eq=False)
class RandomisationResult:
    """How alike the maps of a model and of its randomised copies are.

    Attributes:
        methods: The M methods.
        layers: Names of all layers, from the last to the first.
        stages: How many of them, from the last on, each of the S stages draws anew.
        targets: (N,) the class explained of each image.
        spearman: Rank correlation of a map with the original's, float64 (S, M, N) in [−1, 1]; NaN where one
            of the two is constant.
        ssim: Structural similarity, float64 (S, M, N) in [−1, 1]; NaN where a map has a side below three
            cells, or the model gave no finite map.
    """

    methods: tuple[str, ...]
    layers: tuple[str, ...]
    stages: tuple[int, ...]
    targets: npt.NDArray[np.int64]
    spearman: npt.NDArray[np.float64]
    ssim: npt.NDArray[np.float64]

    @property
    def mean_spearman(self) -> npt.NDArray[np.float64]:
        """(S, M), over the images that have a value; NaN where none has."""
        return mean_over_images(self.spearman)

    @property
    def mean_ssim(self) -> npt.NDArray[np.float64]:
        """(S, M), over the images that have a value; NaN where none has."""
        return mean_over_images(self.ssim)

    @property
    def undefined_spearman(self) -> npt.NDArray[np.int64]:
        """(S, M) how many images the mean leaves out."""
        return np.asarray(np.isnan(self.spearman).sum(axis=2), np.int64)

    @property
    def undefined_ssim(self) -> npt.NDArray[np.int64]:
        """(S, M) how many images the mean leaves out."""
        return np.asarray(np.isnan(self.ssim).sum(axis=2), np.int64)


@ignore_float_errors
def cascading_randomisation(
    model: str | os.PathLike[str],
    images: Any,
    methods: Sequence[str | Method],
    *,
    stages: int | Sequence[int] | None = None,
    targets: Any = None,
    target: str | None = None,
    seed: int = 0,
    draw: Draw = "normal",
    preprocessing: Any = None,
    batch_size: int = 32,
    load_options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> RandomisationResult:
    """Compares maps of an ONNX file with those of copies that are randomised from the last layer on.

    Args:
        model: The file, or the word "default".
        images: What `Engine.explain` takes.
        methods: Their names, or methods.
        stages: Numbers of layers, from the last on, that the stages draw anew; or how many stages: the first
            draws the last layer, the last all of them, the others lie evenly between. A single one draws all.
            None makes a stage of every layer.
        targets: The class to explain of each image, (N,) or one for all; None for the one the original
            predicts. It is the same in all stages.
        target: The tensor to explain at, see `camrt.load`.
        seed: Of the draws.
        draw: See `randomise_layers`.
        preprocessing: See `camrt.load`.
        batch_size: Rows run at once.
        load_options: Further arguments of `camrt.load`.
        out: Folder for results.json, which is the same for the same settings; None keeps all in memory.
        resume: Go on with a run in that folder, if there is one: its stages are not measured again.
        overwrite: Replace a run in that folder.

    Returns:
        The similarities, on the maps' own grid.

    Raises:
        InputError: No methods, several targets an image, stages that the model does not have, or a folder
            that holds another run or is being written by one.
        MissingExtraError: scipy or scikit-image is not installed.
        CutError: A randomised copy can no longer be cut at the original's target.
        StorageError: Results cannot be written; what was measured before is kept.
        CamrtError: What loading, explaining and randomising raise.
    """
    import_extra("scipy.stats")
    import_extra("skimage.metrics")
    if isinstance(methods, str | Method) or not methods:
        raise InputError(f"methods={methods!r} must be a list of one or more methods")
    chosen = tuple(make_method(method, {}) for method in methods)
    file = resolve_model_path(model)
    whole = read_model(file).model
    layers = find_weight_layers(whole)
    counts = stage_counts(stages, len(layers))
    options = {"preprocessing": preprocessing, "batch_size": batch_size, **(load_options or {})}
    original = camrt.load(file, target=target, **options)
    names = tuple(repr(method) for method in chosen)
    listed = tuple(layer.name for layer in layers)

    before, classes = explain_maps(original, images, chosen, targets)

    def measured(folder: RunFolder | None) -> RandomisationResult:
        noted = {} if folder is None else {note["layers"]: note for note in folder.finished}
        similar = np.empty((2, len(counts), len(chosen), len(classes)))
        for stage, count in enumerate(counts):
            if count in noted:
                similar[:, stage] = [from_json(noted[count][name]) for name in ("spearman", "ssim")]
                continue
            copy = randomise_layers(whole, layers[:count], seed, draw)
            after = _maps_of_copy(copy, count, original, options, images, chosen, classes)
            similar[:, stage] = _compare_all_maps(before, after, names, count)
            if folder is not None:
                folder.claim([])
                spearman, ssim = map(to_json, similar[:, stage])
                folder.finish({"layers": count, "spearman": spearman, "ssim": ssim})
        return RandomisationResult(names, listed, counts, classes, *similar)

    if out is None:
        return measured(None)
    place = Path(out)
    identity = {
        "versions": package_versions(("numpy", "onnxruntime", "scipy", "scikit-image")),
        "model": model_identity(original, original.preprocessing),
        "images": images_digest(images),
        "methods": list(names),
        "settings": {"stages": counts, "targets": classes.tolist(), "seed": seed, "draw": draw},
    }
    with lock_folder(place):
        folder = RunFolder(place, "randomisation", identity, resume=resume, overwrite=overwrite)
        folder.check([RESULTS])
        found = measured(folder)
        folder.claim([RESULTS])
        write_atomic(place / RESULTS, to_json_bytes(as_json(found)))
    return found


def _maps_of_copy(
    copy: onnx.ModelProto,
    count: int,
    original: Engine,
    options: Mapping[str, Any],
    images: Any,
    methods: Sequence[Method],
    classes: npt.NDArray[np.int64],
) -> list[Array]:
    """Maps of a copy with `count` layers drawn anew, cut where the original is; see `explain_maps`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{count}.onnx"
        onnx.save(copy, path)
        try:
            engine = camrt.load(path, target=original.target.name, **options)
        except CutError as error:
            raise CutError(
                f"with {count} layers randomised the model can no longer be cut at "
                f"{original.target.name}: {error}"
            ) from error
        return explain_maps(engine, images, methods, classes)[0]


def _compare_all_maps(
    before: Sequence[Array], after: Sequence[Array], methods: Sequence[str], count: int
) -> npt.NDArray[np.float64]:
    """(2, M, N): how alike the maps of each method and image are, see `compare_maps`."""
    similar = np.empty((2, len(before), len(before[0])))
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.shape != new.shape:
            raise CutError(
                f"with {count} layers randomised the maps of {methods[number]} are "
                f"{new.shape[1:]}, the original's {old.shape[1:]}"
            )
        for image, pair in enumerate(zip(old, new, strict=True)):
            similar[:, number, image] = compare_maps(*pair)
    return similar


def images_digest(images: Any) -> str:
    """A hash of images' contents, by which a run knows them again.

    Raises:
        InputError: They are neither files nor numbers.
    """
    if isinstance(images, np.ndarray):
        return combined_digest([images.shape, images.dtype, images.tobytes().hex()])
    if isinstance(images, list | tuple) and all(isinstance(one, str | os.PathLike) for one in images):
        return combined_digest(file_digest(Path(one)) for one in images)
    raise InputError("with out=, images are an array or a list of files, which a run can know again")


def as_json(found: RandomisationResult) -> dict[str, Any]:
    """What `results.json` holds: lists of numbers, null where there is none."""
    arrays = {name: getattr(found, name) for name in ("spearman", "ssim", "mean_spearman", "mean_ssim")}
    return {
        "methods": list(found.methods),
        "layers": list(found.layers),
        "stages": list(found.stages),
        "targets": found.targets.tolist(),
        **{name: to_json(values) for name, values in arrays.items()},
    }


def to_json(values: npt.NDArray[np.float64]) -> Any:
    """Numbers as lists, null where one is not finite."""
    kept = values.astype(object)
    kept[~np.isfinite(values)] = None
    return kept.tolist()


def from_json(values: Any) -> npt.NDArray[np.float64]:
    """Numbers of lists, NaN for null."""
    return np.array(values, np.float64)


@ignore_float_errors
def compare_maps(one: Array, other: Array) -> tuple[float, float]:
    """Spearman's rank correlation and the structural similarity of two maps (h, w) in [0, 1].

    The structural similarity (Wang et al. 2004) has a square window of seven cells, or the largest odd number
    that fits on the map.

    Returns:
        Both in [−1, 1]. NaN for both where a map holds NaN; for the correlation where one is constant; for
        the similarity where a side has fewer than three cells.

    Raises:
        InputError: Maps of different shapes.
        MissingExtraError: scipy or scikit-image is not installed.
    """
    if one.ndim != 2 or one.shape != other.shape:
        raise InputError(f"the maps {one.shape} and {other.shape} must both be (h, w)")
    one, other = one.astype(np.float64), other.astype(np.float64)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.nan, math.nan
    correlation = similarity = math.nan
    if np.ptp(one) > 0 and np.ptp(other) > 0:
        correlation = float(import_extra("scipy.stats").spearmanr(one.ravel(), other.ravel()).statistic)
    window = min(SSIM_WINDOW, *(side - 1 + side % 2 for side in one.shape))
    if window >= 3:
        measure = import_extra("skimage.metrics").structural_similarity
        similarity = float(measure(one, other, data_range=1, win_size=window))
    return correlation, similarity


def explain_maps(
    engine: Engine, images: Any, methods: Sequence[Method], targets: Any
) -> tuple[list[Array], npt.NDArray[np.int64]]:
    """Maps (N, h, w) of each method on their own grid, NaN where not finite; and the classes (N,)."""
    maps = []
    for method in methods:
        found = engine.explain(images, method, targets=targets, size="map")
        if found.targets.ndim != 1:
            raise InputError(f"one class an image is needed, not targets of shape {found.targets.shape}")
        own = found.maps.copy()
        own[found.flags == MapFlag.NOT_FINITE] = np.nan
        maps.append(own)
    return maps, found.targets


@ignore_float_errors
def stage_counts(stages: int | Sequence[int] | None, layers: int) -> tuple[int, ...]:
    """How many layers each stage draws anew."""
    if not layers:
        raise InputError("the model has no layers with weights to randomise")
    if stages is None:
        return tuple(range(1, layers + 1))
    if isinstance(stages, bool) or (isinstance(stages, int) and not 1 <= stages <= layers):
        raise InputError(
            f"stages={stages!r} must be from 1 to {layers}, how many layers with weights the model has"
        )
    if isinstance(stages, int):
        return (
            (layers,) if stages == 1 else tuple(np.rint(np.linspace(1, layers, stages)).astype(int).tolist())
        )
    counts = tuple(stages)
    rising = all(low < high for low, high in itertools.pairwise(counts))
    if not counts or not rising or min(counts) < 0 or max(counts) > layers:
        raise InputError(f"stages={counts} must be rising numbers of layers from 0 to {layers}")
    return counts


def mean_over_images(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means (S, M) of (S, M, N) without what is NaN; NaN where all are."""
    known = ~np.isnan(values)
    count = known.sum(axis=2)
    total = np.where(known, values, 0).sum(axis=2)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
