"""Heads of the zoo in files, and engines that are cut right before them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import camrt
from helpers import zoo

__all__ = ["SIZE", "make"]

SIZE = (3, 2, 3)


def make(head: str, folder: Path) -> tuple[zoo.HeadGraph, camrt.Engine, np.ndarray]:
    """A head of the zoo, an engine that is cut before it, and images."""
    part = zoo.HEADS[head].make(np.random.default_rng(4), *SIZE, 3)
    whole = zoo.classifier(part, np.random.default_rng(5))
    path = zoo.save(whole.model, folder / "model.onnx")
    engine = camrt.load(path, target="A", threads=1, verify=False, cache=False)
    return part, engine, np.random.default_rng(7).normal(size=(2, *whole.size)).astype(np.float32)
