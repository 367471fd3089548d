"""The gradient methods on real models: a file and its torch twin, and whether the maps lie on the objects."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

import camrt
from camrt.evaluation.metrics.localisation import pointing_game
from helpers.real_images import box_share, find_validation_images
from helpers.tolerances import assert_close

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif("CAMRT_DATA" not in os.environ, reason="CAMRT_DATA does not name a folder"),
]

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
MODELS = {
    "squeezenet1_0": ("squeezenet1_0_deepcompression", IMAGENET, 227),
    "mobilenet_v2": ("mobilenet_v2_tf", "tf", 224),
    "mobilenet_v3_small": ("mobilenet_v3_small_tf", "tf", 224),
}
AT_THE_LAYER = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam")
AT_THE_PIXELS = {
    "gradient": {},
    "integrated": {"steps": 3},
    "integrated-textbook": {"steps": 3},
    "smoothgrad": {"draws": 3},
    "vargrad": {"draws": 3},
    "gradient-times-input": {},
    "expected-gradients": {"draws": 3},
    "blur-integrated": {"steps": 3},
    "guided-integrated": {"steps": 3},
    "guided": {},
    "guided-gradcam": {},
    "guided-pixab": {},
}
# Two runtimes, a layer that multiplies matrices and a division or two behind it.
FACTOR = 32


@pytest.fixture(scope="module", params=MODELS)
def files(request):
    """A model's file as an engine, and images with what they show and where it is."""
    data = Path(os.environ["CAMRT_DATA"])
    _, preprocessing, _ = MODELS[request.param]
    engine = camrt.load(data / "models" / f"{request.param}.onnx", preprocessing=preprocessing)
    return request.param, engine, find_validation_images(data, 24)


def test_maps_of_the_family_lie_on_the_objects(files):
    name, engine, (images, labels, boxes) = files
    height = engine.interface.height
    scaled = [np.round(np.asarray(each) * height / 227).astype(int) for each in boxes]
    chance = np.mean([box_share(each, height) for each in scaled])
    for method in AT_THE_LAYER:
        explanation = engine.explain(images, method, targets=labels)
        assert not explanation.flags.any()
        assert pointing_game(explanation.maps, scaled).mean() > chance + 0.15, (name, method)


@pytest.fixture(scope="module")
def twin(files):
    """The model as a torch module."""
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    name, _, _ = files
    weights, preprocessing, size = MODELS[name]
    folder = Path(os.environ["CAMRT_DATA"]) / "models"
    spec = importlib.util.spec_from_file_location("real_models", folder / "models.py")
    definitions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(definitions)
    return camrt.load(definitions.load(weights), preprocessing=preprocessing, size=(size, size))


@pytest.mark.parametrize("method", AT_THE_LAYER)
def test_a_module_and_its_file_give_the_same_maps(files, twin, method):
    _, engine, (images, labels, _) = files
    found, expected = (one.explain(images[:4], method, targets=labels[:4]) for one in (twin, engine))
    assert_close(found.raw, expected.raw, factor=FACTOR)
    assert_close(found.maps, expected.maps, factor=FACTOR)


@pytest.mark.parametrize("method", AT_THE_PIXELS)
def test_and_the_same_gradients_of_the_image(files, twin, method):
    """But for a few pixels: among a million ReLUs some are nearer to zero than two runtimes agree."""
    _, engine, (images, labels, _) = files
    options = {"targets": labels[:2], **AT_THE_PIXELS[method]}
    found, expected = (one.explain(images[:2], method, **options) for one in (twin, engine))
    apart, whole = np.linalg.norm(found.raw - expected.raw), np.linalg.norm(expected.raw)
    if method == "guided-integrated":  # which pixels move first goes by the order of their gradients
        assert apart < 0.2 * whole
        return
    assert apart < 0.01 * whole
    assert np.median(np.abs(found.maps - expected.maps)) < 1e-3
