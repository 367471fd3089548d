"""Any of timm's classifiers in one table: how each is cut, and what a prediction and some methods cost.

    pip install '.[torch,backbones]'
    python examples/timm_zoo.py resnet18 convnext_tiny vit_small_patch16_224 --pretrained
    python examples/timm_zoo.py resnet18 mobilenetv3_small_100 --size 96 --methods gradcam,score:passes=64

Weights are random without --pretrained, which costs nothing to try: the times are the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import timm
import typer
from rich.console import Console
from rich.table import Table

import camrt
from camrt.engine.option_text import parse_options, split_method


def milliseconds(times: int, call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The median of so many calls after one that is not counted; a dash where the model admits none."""
    try:
        call(*arguments, **options)
    except camrt.errors.CamrtError:
        return "–"
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call(*arguments, **options)
        taken.append(1000 * (time.perf_counter() - begun))
    return f"{statistics.median(taken):.1f}"


def main(
    names: list[str],
    methods: str = "pixab,gradcam,ablation",
    pretrained: bool = False,
    size: int = 224,
    times: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Load each of NAMES, and time methods on one image of noise."""
    chosen = [split_method(text) for text in methods.split(",")]
    table = Table("model", "cut at", "cells", "predict, ms", *(f"{name}, ms" for name, *_ in chosen))
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype("float32")
    for name in names:
        engine = camrt.load(timm.create_model(name, pretrained=pretrained).eval(), size=(size, size))
        target = next(found for found in engine.targets() if found.chosen)
        costs = [milliseconds(times, engine.predict, image)]
        for method, *options in chosen:
            costs.append(milliseconds(times, engine.explain, image, method, **parse_options(options)))
        table.add_row(name, target.name, "×".join(map(str, target.shape)), *costs)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
