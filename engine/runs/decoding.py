"""Images decoded beside the model: by threads, a bounded number ahead, in their order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.engine.batch import require_preprocessing
from camrt.engine.images.framing import Framing
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.images.read import decode_image
from camrt.engine.runs.items import ImageItem
from camrt.errors import ImageError, InputError
from camrt.kernels.processors import usable_processors

__all__ = ["AHEAD", "DecodedImage", "Decoding", "ModelImage", "decode_ahead", "decode_item", "read_ahead"]

FEEDER_SECONDS = 1.0  # that a source on a network, which cannot be interrupted, is waited for at the end
REDUCED = 2  # a reduced JPEG has at least so many times the pixels a side that the model's input has


@dataclass(frozen=True)
class ModelImage:
    """An image as the model takes it.

    Attributes:
        array: (C, H, W) float32.
        view: What the model sees.
        framing: Which part of the image that is.
        warning: What had to be guessed, if anything.
    """

    array: NDArray[np.float32]
    view: Image.Image
    framing: Framing
    warning: str | None


@dataclass(frozen=True)
class DecodedImage:
    """An image that was read, or why it could not be.

    Attributes:
        item: Where it is.
        seen: The image; None where there is an error.
        error: Why there is none.
    """

    item: ImageItem
    seen: ModelImage | None
    error: str | None = None


@dataclass(frozen=True)
class Decoding:
    """How images become the model's input.

    Attributes:
        preprocessing: The model's.
        threads: Threads that decode.
        jpeg_scaling: Whether a JPEG that is far larger than the model's input is decoded at 1/2, 1/4 or 1/8
            of its size, by its own transform, and not in full. The model then sees pixels that were averaged
            otherwise: its answers change a little.
    """

    preprocessing: Preprocessing
    threads: int
    jpeg_scaling: bool = False

    @classmethod
    def of(
        cls, preprocessing: Preprocessing | None, threads: int | None = None, *, jpeg_scaling: bool = False
    ) -> Decoding:
        """What a caller asks for; as many threads as processors where nothing is said.

        Raises:
            InputError: The preprocessing is not known, or there are no threads.
        """
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise InputError(f"decode_threads={threads!r} must be a whole number >= 1")
        return cls(require_preprocessing(preprocessing), threads or usable_processors(), jpeg_scaling)

    def decode(self, item: ImageItem) -> DecodedImage:
        """An item as the model takes it; what cannot be read has an error."""
        if item.error is not None:
            return DecodedImage(item, None, item.error)
        try:
            return DecodedImage(item, decode_item(item, self.preprocessing, jpeg_scaling=self.jpeg_scaling))
        except ImageError as error:
            text = str(error)
            # bytes have no name of their own
            told = (
                text
                if text.startswith(item.address)
                else f"{item.address}: {text.removeprefix('the image: ')}"
            )
            return DecodedImage(item, None, told)


def decode_item(item: ImageItem, preprocessing: Preprocessing, *, jpeg_scaling: bool = False) -> ModelImage:
    """Reads an item as the model takes it.

    Raises:
        ImageError: It cannot be read.
    """
    H, W = preprocessing.size
    least = (REDUCED * H, REDUCED * W) if jpeg_scaling else None
    decoded = decode_image(item.read(), least)
    view = preprocessing.view(decoded.image)
    return ModelImage(
        preprocessing.array(view), view, preprocessing.framing(decoded.full_size), decoded.guessed
    )


Element = TypeVar("Element")
AHEAD = 2  # batches that are decoded ahead: one that waits, and one that is being made


class Reading(Generic[Element]):
    """What is read ahead, in order; the time that was spent waiting for it is counted.

    Attributes:
        waited: Seconds.
    """

    def __init__(self, elements: queue.Queue[Future[Element] | Element | BaseException | None]) -> None:
        self._elements = elements
        self.waited = 0.0

    def __iter__(self) -> Iterator[Element]:
        while True:
            started = time.perf_counter()
            found = self._elements.get()
            element = found.result() if isinstance(found, Future) else found
            self.waited += time.perf_counter() - started
            if element is None:
                return
            if isinstance(element, BaseException):
                raise element
            yield element


@contextmanager
def read_ahead(
    source: Iterator[Element | Callable[[], Element]], threads: int, ahead: int
) -> Iterator[Reading[Element]]:
    """Goes through a source in a thread of its own, and calls what is to be called in others.

    At most `ahead` elements wait, so that memory does not grow with the source. Where the block ends early,
    nothing more is taken of the source.

    Args:
        source: Elements, and functions that give elements and are called by the threads.
        threads: How many.
        ahead: How many elements wait at most, those that are being made among them.

    Yields:
        The elements, in the source's order. What the source or a function raises is raised here in its place.
    """
    waiting: queue.Queue[Future[Element] | Element | BaseException | None] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(element: Future[Element] | Element | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                waiting.put(element, timeout=0.1)
            except queue.Full:
                continue
            return

    def feed() -> None:
        try:
            for element in source:
                if stopped.is_set():
                    return
                put(pool.submit(element) if callable(element) else element)
        except BaseException as error:
            put(error)
        else:
            put(None)

    with ThreadPoolExecutor(threads, "camrt-decode") as pool:
        feeder = threading.Thread(target=feed, name="camrt-source", daemon=True)
        feeder.start()
        try:
            yield Reading(waiting)
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            feeder.join(FEEDER_SECONDS)


def decode_ahead(
    items: Iterable[ImageItem], decoding: Decoding, batch_size: int
) -> AbstractContextManager[Reading[DecodedImage]]:
    """Decodes images ahead of a model that takes them in batches; see `read_ahead`."""
    calls: Iterator[DecodedImage | Callable[[], DecodedImage]] = (
        partial(decoding.decode, item) for item in items
    )
    return read_ahead(calls, decoding.threads, AHEAD * batch_size)
