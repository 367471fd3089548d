"""The arithmetic of the report, with an engine that knows the answer."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from experiments.accuracy import canvases_to_uint8, measure_accuracy, squash_images
from experiments.evaluate_default import MethodResult, evaluate_baselines, evaluate_method, format_markdown
from experiments.scenes import held_out_scenes, object_boxes
from experiments.tiny_imagenet import LabelledImages


@pytest.fixture(scope="module")
def images():
    """Twelve flat images of four classes; the left half of each is its object's box."""
    pixels = torch.full((12, 3, 64, 64), 90, dtype=torch.uint8)
    boxes = tuple(np.array([[0, 0, 64, 32]], np.int64) for _ in range(12))
    return LabelledImages(pixels, np.arange(12, dtype=np.int64) % 4, boxes, tuple("abcd"))


@pytest.fixture(scope="module")
def scenes(images):
    return held_out_scenes(images, 21, 64, seed=0)


class Oracle:
    """Answers with the boxes themselves, or with their complement."""

    def __init__(self, scenes, images, right):
        self.scenes, self.images, self.right = scenes, images, right

    def explain(self, batch, method, targets):
        assert method == "cam"
        maps = np.zeros((*targets.shape, 64, 64), np.float32)
        for index, image in enumerate(batch):
            scene = int(image[0, 0, 0])
            for column, target in enumerate(targets[index]):
                slot = self.scenes.classes[scene].tolist().index(target)
                ((r0, c0, r1, c1),) = object_boxes(self.scenes, self.images, scene, slot)
                maps[index, column, r0:r1, c0:c1] = 1
        return SimpleNamespace(maps=maps if self.right else 1 - maps)


@pytest.mark.parametrize("right", [True, False], ids=["knows", "knows better"])
def test_an_oracle_is_recognised(scenes, images, right):
    batch = np.arange(21, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 64, 64), np.float32)
    row = evaluate_method(Oracle(scenes, images, right), batch, scenes, images, "cam", size=2)
    shares = [row.pointing, row.energy, row.pointing_several, row.energy_several]
    assert shares == [float(right)] * 4
    assert row.seconds >= 0


def test_baselines_by_hand(scenes, images):
    chance, centre = evaluate_baselines(scenes, images)
    shares, hits = [], []
    for scene, slot in zip(*np.nonzero(scenes.classes >= 0), strict=True):
        ((r0, c0, r1, c1),) = object_boxes(scenes, images, scene, slot)
        shares.append((r1 - r0) * (c1 - c0) / 64**2)
        hits.append(r0 <= 32 < r1 and c0 <= 32 < c1)
    assert chance.pointing == chance.energy == pytest.approx(np.mean(shares))
    assert centre.pointing == pytest.approx(np.mean(hits))


def test_accuracy_of_a_classifier_that_always_ranks_alike(scenes, images):
    def predict(canvases):
        assert canvases.dtype == np.uint8
        assert canvases.shape[1:] == (64, 64, 3)
        return np.tile(np.array([4.0, 3, 2, 1], np.float32), (len(canvases), 1))

    figures = measure_accuracy(predict, images, scenes)
    assert figures["top1"] == pytest.approx(0.25)
    assert figures["top5"] == 1
    assert figures["scene_top1"] == pytest.approx((scenes.classes == 0).any(1).mean(), abs=1e-4)


def test_canvases_are_pixels(scenes, images):
    assert canvases_to_uint8(scenes).shape == (21, 64, 64, 3)
    assert (squash_images(images, 96) == 90).all()


def test_the_report_has_a_line_for_everything():
    text = format_markdown(
        {"top1": 0.5},
        [MethodResult("chance", 0.1, 0.1, 0.05, 0.05), MethodResult("cam", 0.9, 0.5, 0.8, 0.4, 0.001)],
        3,
        7,
    )
    assert "3 scenes, 7 targets." in text
    assert "| top1 | 50.0 % |" in text
    assert "| cam | 90.0 % | 50.0 % | 80.0 % | 40.0 % | 1.00 |" in text
    assert "| chance | 10.0 % | 10.0 % | 5.0 % | 5.0 % |  |" in text
