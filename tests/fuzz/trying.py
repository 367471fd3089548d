"""One file given to camrt: what it says of it, and whether an answer is the one that plain onnxruntime gives.

An outcome is a word that says how it went, and for what must not be where it was:

    refused, answered                          a camrt error when loaded; or an engine whose answers hold
    raw, wrong, late, memory, crash, hang      what must not be
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

import camrt
from camrt.engine.engine import Engine
from camrt.errors import CamrtError, CamrtWarning
from fuzz.comparing import Wrong, apart, compare, same
from fuzz.memory import peak_bytes, reset_peak, resident_bytes

__all__ = ["CLEAN", "Limits", "Outcome", "Trial", "place_of"]

Array = np.ndarray[Any, Any]

CLEAN = ("refused", "answered")
METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pixab", {}),
    ("gradcam", {}),
    ("ablation", {}),
    ("opticam", {"steps": 3}),
    ("score", {}),
    ("rise", {"passes": 3}),
    ("kernelshap", {"passes": 3, "cells": 2}),
    ("sscam", {"draws": 2}),
    ("occlusion", {}),
    ("eigen", {}),
    ("cam", {}),
    ("layercam", {}),
    ("gradient", {}),
    ("guided-gradcam", {}),
    ("integrated", {"steps": 3}),
    ("activation", {}),
    ("pixab", {"boxes": ((1, 1), (3, 3))}),
    ("smoothgrad", {"draws": 3}),
    ("xgradcam", {}),
    ("hirescam", {}),
    ("gradcam++", {}),
    ("calm", {}),
    ("deeplift", {}),
    ("lrp", {"rule": "composite"}),
    ("rollout", {}),
    ("legrad", {}),
    ("vit-recipro", {}),
    ("guided-integrated", {"steps": 2}),
    ("eigengradcam", {}),
    ("smoothgradcam++", {"draws": 2}),
    ("shapley", {}),
    ("lift", {}),
    ("fullgrad", {}),
    ("recipro", {"gaussian": True}),
    ("kpca", {}),
    ("fem", {}),
)


@dataclass(frozen=True)
class Limits:
    """What a file may take, and what runs it.

    Attributes:
        seconds: For loading, and for each call; given to camrt as deadlines.
        grace: Seconds that may pass beyond them until a call is called late.
        memory: Bytes that a call may allocate at once; given to camrt.
        spare: Bytes by which the process may grow beyond them.
        backend: The runtime.
    """

    seconds: float = 5.0
    grace: float = 5.0
    memory: int = 1 << 30
    spare: int = 1 << 29
    backend: str = "onnxruntime"


@dataclass(frozen=True)
class Outcome:
    """What came of a file.

    Attributes:
        word: See above.
        where: The error's type, or the phase and the place of what must not be.
        text: The message, or what differed.
        seconds: What the slowest phase took.
        grown: Bytes by which the process grew at most.
    """

    word: str
    where: str = ""
    text: str = ""
    seconds: float = 0.0
    grown: int = 0

    @property
    def key(self) -> str:
        """What two files that fail in the same way have in common."""
        return f"{self.word} {self.where}"

    @property
    def clean(self) -> bool:
        """Whether camrt did as it promises."""
        return self.word in CLEAN

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@dataclass
class Trial:
    """One file, tried in steps.

    Attributes:
        path: The file.
        number: Chooses the methods and the options.
        limits: What it may take.
        announce: Called with the name of each step before it begins.
    """

    path: Path
    number: int
    limits: Limits
    announce: Callable[[str], None] = lambda _step: None
    step: str = "load"
    slowest: float = 0.0
    peak: int = 0

    def run(self) -> Outcome:
        """Loads the file and asks what the number says of it."""
        reset_peak()
        before = resident_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", CamrtWarning)
            outcome = self._outcome()
        grown = max(self.peak - before, 0)
        word, where = outcome.word, outcome.where
        if outcome.clean and grown > self.limits.memory + self.limits.spare:
            word, where = "memory", self.step
        elif outcome.clean and self.slowest > self.limits.seconds + self.limits.grace:
            word, where = "late", self.step
        return Outcome(word, where, outcome.text[:300], round(self.slowest, 3), grown)

    def _outcome(self) -> Outcome:
        try:
            engine = self._timed("load", self._load)
        except CamrtError as error:
            return Outcome("refused", type(error).__name__, str(error))
        except Exception as error:
            return raw(error)
        try:
            refused = self._asked(engine)
        except Wrong as wrong:
            return Outcome("wrong", self.step, str(wrong))
        except Exception as error:
            return raw(error)
        return Outcome("answered", refused)

    def _load(self) -> Engine:
        return camrt.load(
            self.path,
            backend=self.limits.backend,
            threads=1,
            batch_size=4,
            load_deadline=self.limits.seconds,
            call_deadline=self.limits.seconds,
            max_memory=self.limits.memory,
            verify=(True, True, False, "thorough")[self.number % 4],
        )

    def _asked(self, engine: Engine) -> str:
        """Asks an engine; returns the types of the errors with which it refused."""
        images = images_for(engine, self.number)
        refused = []
        found: Array | None = None
        try:
            found = self._timed("predict", lambda: engine.predict(images))
            if not same(engine.predict(images), found):
                return "another answer each time"  # an output that no node of a subgraph makes, for one
        except CamrtError as error:
            refused.append(type(error).__name__)
        for name, options in self._methods():
            try:
                explained = self._timed(
                    f"explain {name}",
                    lambda name=name, options=options: engine.explain(images, name, **options),
                )
            except CamrtError as error:
                refused.append(type(error).__name__)
                continue
            check_maps(explained.maps, images)
            if found is not None and not same(explained.logits, found):
                raise Wrong(
                    f"logits of explain differ from those of predict by {apart(explained.logits, found)}"
                )
        for step, ask in self._further(engine, images):
            try:
                self._timed(step, ask)
            except CamrtError as error:
                refused.append(type(error).__name__)
        engine.targets()
        if found is not None:
            self.step = "compare"
            self.announce("oracle")
            compare(self.path, engine, images, found)
        return " ".join(sorted(set(refused)))

    def _further(self, engine: Engine, images: Array) -> list[tuple[str, Callable[[], Any]]]:
        """What else is asked: a description of every file, and of some what few callers ask."""
        last = engine.num_classes - 1
        weighting = np.ones((len(images), engine.num_classes), np.float32)
        rare: list[tuple[str, Callable[[], Any]]] = [
            ("explain all", lambda: engine.explain_all(images, ["cam", "eigen"], targets=last, size="map")),
            ("input gradients", lambda: engine.input_gradients(images, weighting)),
            ("channel weights", lambda: engine.channel_weights(images, "ablation", targets=0)),
        ]
        return [("describe", engine.describe), *rare[self.number % 4 : self.number % 4 + 1]]

    def _methods(self) -> Sequence[tuple[str, dict[str, Any]]]:
        count = len(METHODS)
        first, second = self.number % count, (self.number // count) % count
        return [METHODS[place] for place in dict.fromkeys((first, second))]

    def _timed(self, step: str, ask: Callable[[], Any]) -> Any:
        self.step = step
        self.announce(step)
        started = time.monotonic()
        try:
            return ask()
        finally:
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.peak = peak_bytes()


def raw(error: BaseException) -> Outcome:
    """An exception that is none of camrt's."""
    word = "memory" if isinstance(error, MemoryError) else "raw"
    return Outcome(word, f"{type(error).__name__} at {place_of(error)}", str(error))


def place_of(error: BaseException) -> str:
    """The last function of camrt that an exception came through: its file and its name."""
    place = "nowhere"
    for frame, _line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("camrt"):
            place = f"{module.removeprefix('camrt.')}:{frame.f_code.co_name}"
    return place


def images_for(engine: Engine, number: int) -> Array:
    """Two images of noise, as an engine takes them."""
    form = engine.interface
    height, width = form.height or 8, form.width or 8
    if engine.preprocessing is not None:
        height, width = (
            form.height or engine.preprocessing.size[0],
            form.width or engine.preprocessing.size[1],
        )
    shape = (min(form.batch or 2, 4), form.channels, height, width)
    if int(np.prod(shape, dtype=object)) > 1 << 22:
        shape = (1, *shape[1:])
    rng = np.random.default_rng(number)
    if np.issubdtype(helper.tensor_dtype_to_np_dtype(form.element), np.integer):
        return rng.integers(0, 100, shape).astype(np.float32)
    return rng.standard_normal(shape, np.float32)


def check_maps(maps: Array, images: Array) -> None:
    """Raises `Wrong` for maps that are not numbers from 0 to 1, one an image and of its size."""
    wanted = (len(images), *images.shape[2:])
    if maps.shape != wanted:
        raise Wrong(f"maps have shape {maps.shape}, not {wanted}")
    if maps.dtype != np.float32 or not np.isfinite(maps).all() or maps.min() < 0 or maps.max() > 1:
        raise Wrong(f"maps are no float32 in [0, 1]: {maps.dtype}, {maps.min()} to {maps.max()}")
