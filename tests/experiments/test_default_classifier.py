"""Making the embedded classifier: what is published is what was trained, whichever head it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import torch

import camrt
from camrt.errors import ModelFileError
from camrt.training.small_network import SmallNetwork
from experiments import default_classifier
from experiments.default_classifier import measure_and_export
from experiments.scene_training import SceneTrainingSettings
from experiments.tiny_imagenet import LabelledImages


@pytest.fixture(scope="module")
def held_out() -> LabelledImages:
    pixels = torch.randint(
        0, 256, (12, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    boxes = tuple(np.array([[0, 0, 64, 32]], np.int64) for _ in range(12))
    return LabelledImages(pixels, np.arange(12, dtype=np.int64) % 4, boxes, ("a", "ä", "c", "d"))


@pytest.mark.parametrize("head", ["cam", "calm"])
def test_the_file_is_the_network(tmp_path: Path, held_out: LabelledImages, head: Any) -> None:
    torch.manual_seed(0)
    network = SmallNetwork(4, head)
    network(torch.randn(8, 3, 64, 64))
    figures = measure_and_export(
        network.eval(), SceneTrainingSettings(canvas=64, head=head), held_out, tmp_path / "model.onnx"
    )
    assert set(figures) == {"top1", "top5", "scene_top1", "scene_recall"}
    engine = camrt.load(tmp_path / "model.onnx")
    assert engine.labels == held_out.labels
    assert engine.has_joint == (head == "calm")
    batch = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(batch)).numpy()
    assert np.abs(engine.predict(batch) - expected).max() < 1e-4
    model = onnx.load(tmp_path / "model.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds
    provenance = next(
        json.loads(entry.value) for entry in model.metadata_props if entry.key == "camrt.provenance"
    )
    assert provenance["accuracy"] == figures
    assert provenance["settings"]["head"] == head


def test_a_file_that_is_too_large_is_named(
    tmp_path: Path, held_out: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_classifier, "MAX_BYTES", 1000)
    monkeypatch.setattr(default_classifier, "to_onnx", lambda _, __, out, **___: out.write_bytes(bytes(1001)))
    with pytest.raises(ModelFileError, match="more than 1000"):
        measure_and_export(
            SmallNetwork(4, "cam").eval(), SceneTrainingSettings(canvas=64), held_out, tmp_path / "model.onnx"
        )
