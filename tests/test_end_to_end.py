"""As a user would: the embedded classifier, the command line, and real models on real images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.default import model_path, scene_path
from camrt.evaluation.metrics.localisation import pointing_game
from helpers.real_images import box_share, find_validation_images

METHODS = ("calm", "activation", "eigen", "score", "ablation", "pixab")


@pytest.fixture(scope="module")
def engine() -> camrt.Engine:
    return camrt.load(model_path())


def test_the_embedded_classifier_is_small_and_says_what_it_is(engine):
    assert model_path().stat().st_size <= 2_000_000
    assert engine.labels is not None
    assert engine.preprocessing is not None
    assert engine.head.kind == "calm"


def test_it_names_what_is_in_the_bundled_scene(engine):
    explanation = engine.explain(scene_path(), "calm")
    best = np.argsort(explanation.probabilities[0])[::-1][:3]
    names = [engine.labels[index] for index in best]
    assert names[:2] == ["car", "bus"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_the_bundled_scene(engine, method):
    explanation = engine.explain(scene_path(), method, targets=[[0, 1, 2]])
    assert explanation.maps.shape == (1, 3, engine.interface.height, engine.interface.width)
    assert explanation.maps.dtype == np.float32
    assert (explanation.maps >= 0).all()
    assert (explanation.maps <= 1).all()
    assert explanation.overlay(0, 2, on="view").size == explanation.views[0].size
    assert explanation.overlay(0, 2).size == explanation.framings[0].size[::-1]


def test_explain_without_arguments_writes_an_overlay(tmp_path: Path):
    result = CliRunner().invoke(app, ["explain", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    images = list(tmp_path.glob("*.png"))
    assert len(images) == 1
    with Image.open(images[0]) as overlay:
        assert overlay.size[0] > 64
    assert "passes" in result.output


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("CAMRT_DATA")
    if not folder:
        pytest.skip("CAMRT_DATA names no folder of real models and images")
    return Path(folder)


REAL = [
    ("squeezenet1_0.onnx", {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, 0.6),
    ("mobilenet_v2.onnx", "tf", 0.65),
    ("mobilenet_v3_small.onnx", "tf", 0.6),
]


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "preprocessing", "accuracy"), REAL, ids=lambda value: str(value)[:16])
def test_real_models_see_and_point_at_real_objects(data, name, preprocessing, accuracy):
    engine = camrt.load(data / "models" / name, preprocessing=preprocessing)
    images, labels, boxes = find_validation_images(data, 48)
    logits = engine.predict(images)
    assert (logits.argmax(axis=1) == labels).mean() >= accuracy
    height = engine.interface.height
    scaled = [np.round(np.asarray(each) * height / 227).astype(int) for each in boxes]
    chance = np.mean([box_share(each, height) for each in scaled])
    for method in ("pixab", "ablation"):
        explanation = engine.explain(images, method, targets=labels)
        assert pointing_game(explanation.maps, scaled).mean() > chance + 0.15
