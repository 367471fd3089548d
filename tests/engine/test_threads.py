"""The `threads` of `camrt.load` reach the native kernels behind every kind of head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import camrt
from camrt.engine import cuts
from camrt.engine.heads import factored, generic
from camrt.export.heads.factoring import Unfactored
from helpers import hostile_models

BATCH = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)


def spied(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[int | None]:
    kernel, seen = getattr(module, name), []

    def spy(*arguments, threads=None, **options):
        seen.append(threads)
        return kernel(*arguments, threads=threads, **options)

    monkeypatch.setattr(module, name, spy)
    return seen


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ("box_probabilities_pair", {"score": "probability"}),
        ("box_probabilities", {"perspectives": "deletion"}),
        ("box_sums", {"score": "logit"}),
    ],
)
def test_a_factored_head_passes_them_on(kernel, options, tmp_path: Path, monkeypatch):
    engine = camrt.load(hostile_models.classifier(tmp_path / "model.onnx"), threads=1)
    seen = spied(monkeypatch, factored, kernel)
    engine.explain(BATCH, "pixab", **options)
    assert set(seen) == {1}


@pytest.mark.parametrize(("kernel", "method"), [("ablate_channels", "ablation"), ("ablate_boxes", "pixab")])
def test_a_generic_head_passes_them_on(kernel, method, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cuts, "factor_head", lambda *_: Unfactored("asked for by a test"))
    engine = camrt.load(hostile_models.classifier(tmp_path / "model.onnx"), threads=1)
    seen = spied(monkeypatch, generic, kernel)
    engine.explain(BATCH, method)
    assert set(seen) == {1}
