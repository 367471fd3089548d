"""What is run for an explanation, counted: sessions, rows and numbers fetched, by the part of the model.

A time would say the same of one machine only. The activation is 6 channels of 5×4 cells, the classes are 50,
the images 3; a batch has 32 rows.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.runtime.ort_cpu import ArenaSession
from helpers.zoo import HEADS, classifier, save

CHANNELS, HEIGHT, WIDTH, CLASSES, IMAGES = 6, 5, 4, 50, 3
ACTIVATION = CHANNELS * HEIGHT * WIDTH  # numbers an image
BOXES = 374  # distinct and not all zero, of both perspectives and all images

PREDICT = {"model": (1, IMAGES, IMAGES * CLASSES)}
TRUNK = {"model": (1, IMAGES, IMAGES * (CLASSES + ACTIVATION))}


def trunk(*, first_layer: int) -> dict[str, tuple[int, int, int]]:
    """A pass through the trunk that gives the head's first layer's answer of some units too."""
    return {"model": (1, IMAGES, IMAGES * (CLASSES + ACTIVATION + first_layer))}


COUNTS: dict[str, dict[str, dict[str, tuple[int, int, int]]]] = {
    # A linear layer behind the pool: the trunk's pass alone, and each class's share of each cell where a
    # probability of every altered image needs those of all classes.
    "gap-flatten-gemm": {
        **dict.fromkeys(
            ("eigen", "activation", "cam", "gradcam", "gradcam++", "layercam", "ablation", "pixab:logit"),
            TRUNK,
        ),
        "pixab": {
            **TRUNK,
            "first layer of the head, by cell": (1, IMAGES, IMAGES * HEIGHT * WIDTH * CLASSES),
        },
    },
    # As many numbers as there are weights: no part of a flattened head is run at all.
    "flatten-gemm": dict.fromkeys(("gradcam", "ablation", "pixab", "pixab:logit"), TRUNK),
    # Two layers: between them is a ReLU, which a kernel has, and a logit reads one row of the last.
    "gemm-relu-gemm": {
        **dict.fromkeys(
            ("eigen", "activation"), TRUNK
        ),  # who asks nothing of the head is given nothing for it
        "gradcam": {**trunk(first_layer=6), "head's adjoint": (1, IMAGES, IMAGES * 6)},
        "ablation": trunk(first_layer=6),
        "pixab:logit": trunk(first_layer=6),
        "pixab": {
            **trunk(first_layer=6),
            "head behind its first layer": (2, BOXES, BOXES * 6),
            "last layer of the head": (2, BOXES, BOXES * CLASSES),
        },
    },
    "gemm-hard-swish-gemm": {
        "gradcam": {**trunk(first_layer=6), "head's adjoint": (1, IMAGES, IMAGES * 6)},
        "ablation": trunk(first_layer=6),
        "pixab:logit": {
            **trunk(first_layer=6),
            "first layer of the head, by cell": (1, IMAGES, IMAGES * HEIGHT * WIDTH * 6),
        },
    },
    # A linear layer behind the head's own graph: that of the classes asked for.
    "sum-over-rows-of-means": {
        "gradcam": {**TRUNK, "head's adjoint": (1, IMAGES, IMAGES * ACTIVATION)},
        "ablation": {**TRUNK, "head": (1, IMAGES * CHANNELS, IMAGES * CHANNELS * 6)},
        "pixab:logit": {**TRUNK, "head": (12, BOXES, BOXES * 6)},
        "pixab": {**TRUNK, "head": (12, BOXES, BOXES * 6), "last layer of the head": (12, BOXES, BOXES * 50)},
    },
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int, int]]:
    """By label, the runs of sessions, their rows, and the numbers that they gave."""
    found: dict[str, tuple[int, int, int]] = {}
    plain = ArenaSession.run

    def run(self: ArenaSession, feeds: Any, names: list[str]) -> list[Any]:
        outputs = plain(self, feeds, names)
        runs, rows, numbers = found.get(self._label, (0, 0, 0))
        given = sum(prod(output.shape) for output in outputs)
        found[self._label] = (runs + 1, rows + len(next(iter(feeds.values()))), numbers + given)
        return outputs

    monkeypatch.setattr(ArenaSession, "run", run)
    return found


@pytest.mark.parametrize("net", COUNTS)
def test_an_explanation_runs_no_more_than_it_needs(
    net: str, tmp_path: Path, counted: dict[str, tuple[int, int, int]]
) -> None:
    part = HEADS[net].make(np.random.default_rng(0), CHANNELS, HEIGHT, WIDTH, CLASSES)
    whole = classifier(part, np.random.default_rng(1))
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    batch = np.random.default_rng(2).standard_normal((IMAGES, *whole.size), np.float32)
    engine.predict(batch)
    counted.clear()
    engine.predict(batch)
    assert counted == PREDICT
    for asked, expected in COUNTS[net].items():
        method, _, score = asked.partition(":")
        options = {"score": score} if score else {}
        engine.explain(batch, method, **options)  # an empty activation is asked about once
        counted.clear()
        engine.explain(batch, method, **options)
        assert counted == expected, asked


def test_several_classes_share_what_is_run(tmp_path: Path, counted: dict[str, tuple[int, int, int]]) -> None:
    part = HEADS["gemm-relu-gemm"].make(np.random.default_rng(0), CHANNELS, HEIGHT, WIDTH, CLASSES)
    whole = classifier(part, np.random.default_rng(1))
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    batch = np.random.default_rng(2).standard_normal((IMAGES, *whole.size), np.float32)
    for method in ("ablation", "pixab"):
        engine.explain(batch, method)
        counted.clear()
        engine.explain(batch, method)
        one = dict(counted)
        counted.clear()
        engine.explain(batch, method, top_k=5)
        assert counted == one, method
