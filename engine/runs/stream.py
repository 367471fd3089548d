"""Explanations of a source's images as they come: decoding and the model at once, memory flat."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from camrt.engine.caller_warnings import silence_warnings, warn_caller
from camrt.engine.explanation import Explanation
from camrt.engine.images.framing import Framing
from camrt.engine.methods import Method, make_method
from camrt.engine.runs.decoding import DecodedImage, Decoding, ModelImage, decode_ahead
from camrt.engine.runs.items import ImageItem
from camrt.errors import DegenerateMapWarning, InputRangeWarning

if TYPE_CHECKING:
    from camrt.engine.batch import MapSize
    from camrt.engine.engine import Engine
    from camrt.engine.fusion import Fusion
    from camrt.engine.images.preprocess import Preprocessing
    from camrt.engine.map_output import MapType

__all__ = [
    "ExplainedBatch",
    "MapShapes",
    "Question",
    "StreamedImage",
    "Timing",
    "batches",
    "explain_items",
]

FAILURES = 8  # batches' worth of images that cannot be read, of which no more are kept


@dataclass(frozen=True)
class StreamedImage:
    """An image of a source and its explanation.

    Attributes:
        address: Where it is: a path, an address, or ARCHIVE.tar#MEMBER.
        explanation: Of this one image; None where it could not be read.
        error: Why not.
    """

    address: str
    explanation: Explanation[Any] | None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of an engine about every image.

    Attributes:
        engine: The model.
        method: The method, or its name.
        options: Of the method, where that is a name.
        targets: A class for all images, several of them for each, a function of logits, or None: see
            `camrt.Engine.explain`.
        top_k: Explain so many of the most probable classes instead.
        size: Of the maps.
        fuse: How the maps of several layers become one.
        dtype: Of the maps.
        others: Further methods, which explain the same images and classes beside it.
    """

    engine: Engine
    method: str | Method = "pixab"
    options: Mapping[str, Any] = field(default_factory=dict)
    targets: Any = None
    top_k: int | None = None
    size: MapSize = "image"
    fuse: Fusion = "mean"
    dtype: MapType | None = None
    others: tuple[Method, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The methods' names; with their options where two would be the same."""
        methods = (self.method, *self.others)
        short = [one if isinstance(one, str) else one.name for one in methods]
        if len(set(short)) == len(short):
            return tuple(short)
        return repr(make_method(self.method, dict(self.options))), *map(repr, self.others)

    def explain(self, images: Sequence[ModelImage]) -> Explanation[Any]:
        """The explanation of some images together; degenerate maps are told by their flags alone."""
        return self.explain_all(images)[0]

    def explain_all(self, images: Sequence[ModelImage]) -> tuple[Explanation[Any], ...]:
        """What each method says of some images together; see `explain`."""
        several = isinstance(self.targets, Iterable) and not isinstance(self.targets, str)
        targets = [list(self.targets)] * len(images) if several else self.targets
        batch = np.stack([image.array for image in images])
        asked: dict[str, Any] = {
            "targets": targets,
            "top_k": self.top_k,
            "size": self.size,
            "fuse": self.fuse,
            "dtype": self.dtype,
        }
        found: tuple[Explanation[Any], ...]
        with silence_warnings(DegenerateMapWarning):
            if self.others:
                methods = [make_method(self.method, dict(self.options)), *self.others]
                found = self.engine.explain_all(batch, methods, **asked)
            else:
                found = (self.engine.explain(batch, self.method, **asked, **self.options),)
        views, framings = (
            tuple(image.view for image in images),
            tuple(image.framing for image in images),
        )
        return tuple(replace(one, views=views, framings=framings) for one in found)

    def find_shapes(self, preprocessing: Preprocessing) -> MapShapes:
        """The sizes of what `explain` gives, by an image of zeros."""
        empty = np.zeros((preprocessing.channels, *preprocessing.size), np.float32)
        view = Image.new("RGB", preprocessing.size[::-1])
        return MapShapes.of(self.explain([ModelImage(empty, view, Framing.whole(preprocessing.size), None)]))


@dataclass(frozen=True)
class MapShapes:
    """Sizes of maps.

    Attributes:
        map: (H, W) of the saliency maps.
        raw: (h, w) of the raw maps.
        has_uncertainty: Whether the method gives raw maps an error bar.
    """

    map: tuple[int, int]
    raw: tuple[int, int]
    has_uncertainty: bool

    @classmethod
    def of(cls, explanation: Explanation[Any]) -> MapShapes:
        """Those of an explanation."""
        height, width = explanation.maps.shape[-2:]
        rows, columns = explanation.raw.shape[-2:]
        return cls((height, width), (rows, columns), explanation.uncertainty is not None)


@dataclass
class Timing:
    """Where the time of a run goes.

    Attributes:
        decoding: Seconds in which the model waited for images.
        explaining: Seconds in which it did not.
    """

    decoding: float = 0.0
    explaining: float = 0.0

    @property
    def bound(self) -> str:
        """What the run waits for."""
        return "decode-bound" if self.decoding > self.explaining else "model-bound"


@dataclass(frozen=True)
class ExplainedBatch:
    """Images that were come to together.

    Attributes:
        images: In their order, those that could not be read among them.
        explanation: Of the others; None where there is none.
        others: The same by the question's other methods.
    """

    images: list[DecodedImage]
    explanation: Explanation[Any] | None
    others: tuple[Explanation[Any], ...] = ()

    @property
    def explanations(self) -> tuple[Explanation[Any], ...]:
        """What each method says."""
        return () if self.explanation is None else (self.explanation, *self.others)


def explain_items(
    items: Iterable[ImageItem], question: Question, decoding: Decoding, batch_size: int
) -> Iterator[StreamedImage]:
    """Explains images one after the other, in their order; see `camrt.Engine.explain_stream`."""
    with decode_ahead(items, decoding, batch_size) as found:
        for batch in batches(found, question, batch_size, Timing()):
            explained = iter(() if batch.explanation is None else batch.explanation)
            for image in batch.images:
                if image.error is not None:
                    yield StreamedImage(image.item.address, None, image.error)
                else:
                    yield StreamedImage(image.item.address, next(explained))


def batches(
    images: Iterable[DecodedImage], question: Question, batch_size: int, timing: Timing
) -> Iterator[ExplainedBatch]:
    """Explains images in batches of those that could be read; what is read is given at once at the end."""
    seen: list[DecodedImage] = []
    readable = 0
    started = time.perf_counter()
    for image in images:
        timing.decoding += time.perf_counter() - started
        seen.append(image)
        readable += image.seen is not None
        if image.seen is not None and image.seen.warning is not None:
            warn_caller(image.seen.warning, InputRangeWarning)
        if readable == batch_size or len(seen) == FAILURES * batch_size:
            yield explain_batch(seen, question, timing)
            seen, readable = [], 0
        started = time.perf_counter()
    if seen:
        yield explain_batch(seen, question, timing)


def explain_batch(images: list[DecodedImage], question: Question, timing: Timing) -> ExplainedBatch:
    """Explains those of some images that could be read."""
    started = time.perf_counter()
    readable = [image.seen for image in images if image.seen is not None]
    found = question.explain_all(readable) if readable else ()
    files = tuple(image.item.path for image in images if image.seen is not None)
    explanations = tuple(replace(one, sources=files) for one in found)
    timing.explaining += time.perf_counter() - started
    return ExplainedBatch(images, next(iter(explanations), None), explanations[1:])
