import numpy as np
import pytest

from camrt.errors import InputError

pytest.importorskip("torch")

import torch

from experiments.scene_training import MEAN, STD, SceneTrainingSettings, normalise, train
from experiments.tiny_imagenet import LabelledImages


def noise(number=8):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, 3, 64, 64), dtype=torch.uint8, generator=generator)
    boxes = tuple(np.zeros((0, 4), np.int64) for _ in range(number))
    return LabelledImages(pixels, np.arange(number, dtype=np.int64) % 4, boxes, ("a", "b", "c", "d"))


def test_two_runs_of_one_seed_agree_and_report_every_epoch():
    told = []
    settings = SceneTrainingSettings(seed=3, epochs=2, batch=4, canvas=64)
    first, second = (
        train(noise(), settings, lambda epoch, loss, network: told.append((epoch, loss))) for _ in range(2)
    )
    assert [epoch for epoch, _ in told] == [0, 1, 0, 1]
    assert told[:2] == told[2:]
    assert np.isfinite([loss for _, loss in told]).all()
    assert not first.training
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_the_canvas_grows():
    recipes = [SceneTrainingSettings().recipe(epoch) for epoch in range(SceneTrainingSettings.epochs)]
    sides = [recipe.canvas for recipe in recipes]
    assert sides == sorted(sides)
    assert sorted(set(sides)) == [64, 96, 128]
    assert recipes[0].counts == (1.0, 0.0, 0.0, 0.0)


def test_normalised_by_hand():
    canvases = torch.zeros(1, 3, 1, 2)
    canvases[..., 1] = 255
    expected = [[(0 - mean) / std, (1 - mean) / std] for mean, std in zip(MEAN, STD, strict=True)]
    np.testing.assert_allclose(normalise(canvases)[0, :, 0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 1}, {"rate": 0.0}, {"memory": 1.0}, {"canvas": 32}, {"canvas": 100}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_cannot_train_are_named(wrong):
    with pytest.raises(InputError):
        SceneTrainingSettings(**wrong)


def test_too_few_images_are_named():
    with pytest.raises(InputError, match="one batch of 64"):
        train(noise(8), SceneTrainingSettings(), lambda epoch, loss, network: None)
