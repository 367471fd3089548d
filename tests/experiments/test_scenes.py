import numpy as np
import pytest

from camrt.errors import InputError

pytest.importorskip("torch")

import torch

from experiments.augmentation import jitter_colours, random_backgrounds, random_crop
from experiments.scenes import SceneRecipe, held_out_scenes, object_boxes, training_scenes
from experiments.tiny_imagenet import LabelledImages


def plain_images(number=24, classes=6):
    """Images of one flat colour each, whose red is 10 times their index; a quarter of each is its box."""
    pixels = torch.zeros(number, 3, 64, 64, dtype=torch.uint8)
    pixels[:, 0] = 10 * torch.arange(number, dtype=torch.uint8)[:, None, None]
    pixels[:, 2] = 255
    boxes = tuple(np.array([[0, 0, 32, 32]], np.int64) for _ in range(number))
    labels = tuple(f"class {index}" for index in range(classes))
    return LabelledImages(pixels, np.arange(number, dtype=np.int64) % classes, boxes, labels)


def test_held_out_scenes_hold_what_they_say_where_they_say():
    images = plain_images()
    scenes = held_out_scenes(images, 40, 96, seed=1)
    assert scenes.canvases.shape == (40, 3, 96, 96)
    for scene in range(40):
        used = scenes.sources[scene] >= 0
        assert used.sum() == scene % 4 + 1
        assert len(set(scenes.classes[scene][used])) == used.sum(), "classes differ within a scene"
        assert (scenes.classes[scene] == np.where(used, images.classes[scenes.sources[scene]], -1)).all()
        for source, (r0, c0, r1, c1) in zip(
            scenes.sources[scene][used], scenes.frames[scene][used], strict=True
        ):
            painted = scenes.canvases[scene, :, r0:r1, c0:c1]
            expected = images.pixels[source, :, 0, 0].float()[:, None, None].expand_as(painted)
            torch.testing.assert_close(painted, expected, rtol=0, atol=1e-3)


def test_object_boxes_are_carried_to_the_canvas():
    images = plain_images()
    scenes = held_out_scenes(images, 8, 128, seed=3)
    for scene, slot in zip(*np.nonzero(scenes.sources >= 0), strict=True):
        r0, c0, r1, c1 = scenes.frames[scene, slot]
        box = object_boxes(scenes, images, scene, slot)
        expected = [r0, c0, int(np.ceil((r0 + r1) / 2)), int(np.ceil((c0 + c1) / 2))]
        assert box.tolist() == [expected]


def test_held_out_scenes_repeat_by_seed():
    images = plain_images()
    first, again, other = (held_out_scenes(images, 8, 64, seed) for seed in (7, 7, 8))
    assert torch.equal(first.canvases, again.canvases)
    assert not torch.equal(first.canvases, other.canvases)


def test_an_epoch_leads_with_every_image_once():
    images = plain_images()
    batches = list(training_scenes(images, SceneRecipe(canvas=64), 8, np.random.default_rng(0)))
    assert len(batches) == 3
    leaders = np.concatenate([scenes.sources[:, 0] for scenes in batches])
    assert sorted(leaders) == list(range(24))
    for scenes in batches:
        assert scenes.canvases.dtype == torch.float32
        assert scenes.canvases.min() >= 0
        assert scenes.canvases.max() <= 255
        assert ((scenes.frames[..., 2] > scenes.frames[..., 0]) == (scenes.sources >= 0)).all()


def test_training_scenes_repeat_by_seed():
    images = plain_images()
    first, again = (
        next(training_scenes(images, SceneRecipe(), 8, np.random.default_rng(4))) for _ in range(2)
    )
    assert torch.equal(first.canvases, again.canvases)
    assert (first.frames == again.frames).all()


def test_the_counts_follow_the_recipe():
    images = plain_images()
    recipe = SceneRecipe(canvas=48, counts=(0.0, 0.0, 1.0, 0.0))
    scenes = next(training_scenes(images, recipe, 16, np.random.default_rng(2)))
    assert ((scenes.sources >= 0).sum(1) == 3).all()


def test_crops_are_parts_and_colours_keep_shape():
    rng = np.random.default_rng(0)
    image = torch.arange(64.0).expand(3, 64, 64)
    for _ in range(50):
        part = random_crop(image, rng)
        steps = part[0, 0].diff()
        assert part.shape[0] == 3
        assert 0.2 * 64 * 64 <= part.shape[1] * part.shape[2] <= 64 * 64
        assert (steps == 1).all() or (steps == -1).all(), "neighbours stay neighbours, mirrored at most"
    varied = jitter_colours(torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255, rng)
    assert varied.shape == (5, 3, 16, 16)
    assert varied.isfinite().all()


def test_backgrounds_are_soft():
    pixels = torch.randint(
        0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    drawn = random_backgrounds(6, 64, pixels, np.random.default_rng(0))
    assert drawn.shape == (6, 3, 64, 64)
    assert drawn.diff(dim=-1).abs().max() < 20


def test_bad_recipes_and_collections_are_named():
    with pytest.raises(InputError, match="sum to one"):
        SceneRecipe(counts=(0.5, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="chances"):
        SceneRecipe(whole=2.0)
    with pytest.raises(InputError, match="at least 4"):
        held_out_scenes(plain_images(classes=3), 4, 64, seed=0)
