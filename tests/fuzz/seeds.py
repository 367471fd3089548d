"""Small classifiers to mutate: each loads as it is, in milliseconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx

from camrt.default import resolve_model_path
from fuzz import nets
from helpers import hostile_models, output_endings
from helpers.calm_models import calm_model
from helpers.nchwc_nets import build_network_pair
from helpers.preprocessing_models import pixel_model
from helpers.third_party_models import residual_model
from helpers.zoo import HEADS, classifier

__all__ = ["SEEDS", "seed_bytes"]


def of_the_zoo(name: str) -> onnx.ModelProto:
    """A head of the zoo behind a convolution."""
    rng = np.random.default_rng(5)
    part = HEADS[name].make(rng, 6, 4, 4, 3)
    return classifier(part, rng, batch=("N", 1, 2)[len(name) % 3]).model


def of_an_ending(name: str) -> onnx.ModelProto:
    """A classifier that does not end in logits."""
    model: onnx.ModelProto = output_endings.build_model(ENDINGS[name])[0]
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
    return nets.thinned(onnx.load(resolve_model_path("default")), 4)


ENDINGS = {**output_endings.PLAIN, **output_endings.BY_NUMBERS}
Maker = Callable[[], onnx.ModelProto]

SEEDS: dict[str, Maker] = {
    **{f"zoo-{name}": partial(of_the_zoo, name) for name in HEADS},
    **{f"ending-{name}": partial(of_an_ending, name) for name in ENDINGS},
    **{f"net-{name}": make for name, make in nets.NETS.items()},
    "residual": residual_model,
    "residual-softmax": partial(residual_model, 4, 8, ends="Softmax", opset=13, batch=2),
    "residual-old": partial(residual_model, 4, 8, opset=9),
    "blocked": lambda: build_network_pair(8, 8).models()[1],
    "calm": lambda: written(calm_model().save),
    "pixels": of_pixels,
    "plain": hostile_models.classifier_model,
    "loop-that-ends-not": lambda: written(partial(hostile_models.endless_loop, above=1e30)),
    "embedded": embedded,
}


@cache
def seed_bytes(name: str) -> bytes:
    """The file of a seed."""
    return SEEDS[name]().SerializeToString(deterministic=True)
