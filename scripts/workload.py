"""Random engines and calls, reproducible from a seed, for soak.py and sanitizers/engine_calls.py.

A call is determined by its engine and its seed alone, so it can be made again, and answers compared.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import camrt
from camrt.default import scene_path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers import zoo

__all__ = [
    "METHODS",
    "Answer",
    "Call",
    "draw_call",
    "make_images",
    "real_models",
    "run_call",
    "write_zoo_models",
]

METHODS: dict[str, dict[str, Any]] = {
    "pixab": {},
    "recipro": {},
    "ablation": {},
    "cam": {},
    "calm": {},
    "score": {},
    "eigen": {},
    "activation": {},
    "gradcam": {},
    "gradcam++": {},
    "xgradcam": {},
    "hirescam": {},
    "layercam": {},
    "gradcam-elementwise": {},
    "smoothgradcam++": {"draws": 2},
    "shapley": {},
    "lift": {},
    "relevance": {},
    "eigengradcam": {},
    "segeigen": {},
    "kpca": {},
    "fem": {},
    "random": {},
    "opticam": {"steps": 2},
    "rise": {"passes": 5},
    "lime": {"passes": 5},
    "kernelshap": {"passes": 5},
    "sscam": {"draws": 2},
    "iscam": {"draws": 2},
    "occlusion": {},
    "gradient": {"blur": 5},
    "integrated": {"steps": 2, "blur": 5},
    "smoothgrad": {"draws": 2, "blur": 5},
    "fullgrad": {},
    "guided": {"blur": 5},
    "guided-pixab": {"blur": 5},
}
"""Every family of methods, with the options that keep its calls short."""

SHAPES = [(6, 5, 4, 3), (8, 7, 7, 10), (16, 4, 6, 40), (5, 3, 3, 2), (12, 8, 5, 100)]
"""(K, h, w, C) of the zoo's models."""


def write_zoo_models(folder: Path, seed: int = 0) -> list[Path]:
    """Writes a classifier with each head of the tests' zoo; of those that allow it, images of any size.

    Args:
        folder: Where the files go.
        seed: Of their weights and sizes.
    """
    paths = []
    for number, (name, head) in enumerate(sorted(zoo.HEADS.items())):
        rng = np.random.default_rng([seed, number])
        part = head.make(rng, *SHAPES[int(rng.integers(len(SHAPES)))])
        opened = head.any_size and bool(rng.integers(2))
        made = zoo.classifier(part, rng, size=("H", "W") if opened else None)
        paths.append(zoo.save(made.model, folder / f"{number:03d}-{name}.onnx"))
    return paths


def real_models(data: Path) -> list[Path]:
    """The trained classifiers of the folder that the tests call `CAMRT_DATA`."""
    return sorted((data / "models").glob("*.onnx"))


def make_images(folder: Path) -> list[Any]:
    """Images as people give them: files of several formats, Pillow's own and arrays."""
    with Image.open(scene_path()) as scene:
        small = scene.convert("RGB").resize((190, 130))
    made: list[Any] = [scene_path(), small, np.asarray(small), np.asarray(small)[..., 0].copy()]
    for name in ("one.png", "two.jpg", "three.webp", "four.bmp", "five.gif"):
        small.save(folder / name)
        made.append(folder / name)
    return made


@dataclass(frozen=True)
class Call:
    """What is asked of an engine.

    Attributes:
        batch: What is explained.
        method: By which method.
        options: The method's, `targets` and `size` among them.
    """

    batch: Any
    method: str
    options: dict[str, Any]


def draw_call(
    engine: camrt.Engine, seed: Sequence[int], shown: Sequence[Any], methods: Sequence[str] = tuple(METHODS)
) -> Call:
    """Draws a call: images, their number and size, method, targets and size of the maps.

    Args:
        engine: Whom it is put to.
        seed: What it is drawn from.
        shown: Images for engines that know their preprocessing.
        methods: Names of `METHODS` to choose from.
    """
    rng = np.random.default_rng(list(seed))
    method = methods[int(rng.integers(len(methods)))]
    face = engine.interface
    count = int(rng.integers(1, 9))
    batch: Any
    if engine.preprocessing is not None and rng.integers(2):
        count = min(count, 3)
        batch = [shown[int(i)] for i in rng.integers(len(shown), size=count)]
    else:
        height, width = (
            int(2 * rng.integers(4, 14)) if side is None else side for side in (face.height, face.width)
        )
        if height * width > 100 * 100:
            count = min(count, 2)
        batch = rng.standard_normal((count, face.channels, height, width), np.float32)
    classes = engine.num_classes
    several = int(rng.integers(1, 4))
    targets = (
        None,
        int(rng.integers(classes)),
        rng.integers(classes, size=count),
        rng.integers(classes, size=(count, several)),
        lambda logits: logits.argmin(axis=1),
    )[int(rng.integers(5))]
    size = ("image", "image", "map", (int(rng.integers(1, 40)), int(rng.integers(1, 40))))[
        int(rng.integers(4))
    ]
    return Call(batch, method, {"targets": targets, "size": size, **METHODS[method]})


@dataclass(frozen=True)
class Answer:
    """What came of a call.

    Attributes:
        digest: A hash of every bit of it, or the error that the method does not suit the model.
        refused: Whether it is that error.
    """

    digest: str
    refused: bool


def run_call(engine: camrt.Engine, call: Call) -> Answer:
    """Makes a call.

    Raises:
        Exception: Whatever it raises, unless the method does not suit the model.
    """
    try:
        found = engine.explain(call.batch, call.method, **call.options)
    except (camrt.errors.MethodError, camrt.errors.AdjointError) as error:
        return Answer(f"{type(error).__name__}: {error}", True)
    digest = hashlib.sha256()
    for name in ("maps", "raw", "targets", "scores", "logits", "probabilities", "flags"):
        values = np.ascontiguousarray(getattr(found, name))
        digest.update(f"{name}{values.dtype}{values.shape}".encode())
        digest.update(values.tobytes())
    return Answer(digest.hexdigest(), False)
