"""Small classifiers to mutate: each loads as it is, in milliseconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import endings
import hostile
import numpy as np
import onnx
from blocked_nets import network
from calm_models import calm_model
from foreign import residual
from raw_pixels import pixel_model
from zoo import HEADS, classifier

from camrt.default import model_file
from fuzz import nets

__all__ = ["SEEDS", "seed_bytes"]


def of_the_zoo(name: str) -> onnx.ModelProto:
    """A head of the zoo behind a convolution."""
    rng = np.random.default_rng(5)
    part = HEADS[name].make(rng, 6, 4, 4, 3)
    return classifier(part, rng, batch=("N", 1, 2)[len(name) % 3]).model


def of_an_ending(name: str) -> onnx.ModelProto:
    """A classifier that does not end in logits."""
    model: onnx.ModelProto = endings.built(ENDINGS[name])[0]
    return model


def written(write: Callable[[Path], Path]) -> onnx.ModelProto:
    """A file that another module of the tests writes."""
    with tempfile.TemporaryDirectory() as folder:
        return onnx.load(write(Path(folder) / "model.onnx"))


def of_pixels() -> onnx.ModelProto:
    """A file of whole numbers (N, H, W, C) that are prepared in the graph."""
    with tempfile.TemporaryDirectory() as folder:
        return onnx.load(pixel_model(Path(folder)))


def embedded() -> onnx.ModelProto:
    """The classifier that comes with camrt, as its exporter wrote it, with few of its weights."""
    return nets.thinned(onnx.load(model_file("default")), 4)


ENDINGS = {**endings.PLAIN, **endings.BY_NUMBERS}
Maker = Callable[[], onnx.ModelProto]

SEEDS: dict[str, Maker] = {
    **{f"zoo-{name}": partial(of_the_zoo, name) for name in HEADS},
    **{f"ending-{name}": partial(of_an_ending, name) for name in ENDINGS},
    **{f"net-{name}": make for name, make in nets.NETS.items()},
    "residual": residual,
    "residual-softmax": partial(residual, 4, 8, ends="Softmax", opset=13, batch=2),
    "residual-old": partial(residual, 4, 8, opset=9),
    "blocked": lambda: network(8, 8).models()[1],
    "calm": lambda: written(calm_model().save),
    "pixels": of_pixels,
    "plain": hostile.classifier_model,
    "loop-that-ends-not": lambda: written(partial(hostile.endless_loop, above=1e30)),
    "embedded": embedded,
}


@cache
def seed_bytes(name: str) -> bytes:
    """The file of a seed."""
    return SEEDS[name]().SerializeToString(deterministic=True)
