"""Views and batches follow from the seed, the epoch and the image alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.labelled_images import coloured_squares

torch = pytest.importorskip("torch")

from camrt.engine.images.preprocess import Preprocessing  # noqa: E402
from camrt.errors import ImageError  # noqa: E402
from camrt.training.dataset import EpochBatchSampler, ImageDataset, collate  # noqa: E402
from camrt.training.splits import Split, read_class_folders  # noqa: E402

STEPS = Preprocessing.named("imagenet-squash", (24, 24))


def views(folder: Path, canvas: tuple[int, int] | None = (30, 32), seed: int = 0) -> ImageDataset:
    return ImageDataset(read_class_folders(folder), STEPS, canvas, seed)


def test_views_are_parts_of_the_squashed_image(tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "data", each=2)
    mine = views(folder)
    whole = np.asarray(
        Image.open(mine.split.files[1]).convert("RGB").resize((32, 30), Image.Resampling.BILINEAR)
    )
    places = set()
    for epoch in range(60):
        found = mine[epoch, 1]
        assert not isinstance(found, ImageError)
        pixels = np.asarray(STEPS.image(found[0].numpy()))
        for mirrored in (False, True):
            shown = pixels[:, ::-1] if mirrored else pixels
            for top in range(7):
                for left in range(9):
                    if np.array_equal(shown, whole[top : top + 24, left : left + 24]):
                        places.add((top, left, mirrored))
        assert found[1] == 0
    assert len(places) > 30
    assert {mirrored for *_, mirrored in places} == {False, True}
    assert {top for top, *_ in places} == set(range(7))
    assert {left for _, left, _ in places} == set(range(9))


def test_views_repeat_and_differ(tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "data", each=2)
    mine = views(folder)
    torch.testing.assert_close(mine[3, 1][0], views(folder)[3, 1][0])
    assert not torch.equal(mine[3, 1][0], mine[4, 1][0])
    assert not torch.equal(mine[3, 1][0], views(folder, seed=1)[3, 1][0])


def test_images_to_validate_on_are_shown_as_they_will_be_used(tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "data", each=2)
    mine = views(folder, canvas=None)
    expected = STEPS.array(STEPS.view(Image.open(mine.split.files[2])))
    np.testing.assert_array_equal(mine[0, 2][0].numpy(), expected)
    np.testing.assert_array_equal(mine[9, 2][0].numpy(), expected)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "data", each=2)
    broken = folder / "red" / "01.png"
    broken.write_bytes(broken.read_bytes()[:200])
    mine = views(folder)
    batch = collate([mine[0, 0], mine[0, 5], mine[0, 1]])
    assert isinstance(batch, ImageError)
    assert "red/01.png: truncated" in str(batch)
    good = collate([mine[0, 0], mine[0, 4]])
    assert not isinstance(good, ImageError)
    assert good[0].shape == (2, 3, 24, 24)
    assert good[1].tolist() == [0, 2]


@given(
    count=st.integers(1, 50),
    size=st.integers(1, 9),
    world=st.integers(1, 3),
    epoch=st.integers(0, 4),
    seed=st.integers(0, 3),
)
def test_every_image_once_and_never_twice(count: int, size: int, world: int, epoch: int, seed: int) -> None:
    shares = []
    for rank in range(world):
        batches = EpochBatchSampler(count, size, seed, shuffled=True, rank=rank, world=world)
        batches.epoch = epoch
        shares.append(list(batches))
    seen = [key for share in shares for batch in share for key in batch]
    assert len(seen) == len(set(seen))
    assert all(key[0] == epoch for key in seen)
    full = count // (size * world) * size * world
    assert len(seen) == (full if full else count)
    if full:
        assert all(
            len(share) == len(batches) and all(len(batch) == size for batch in share) for share in shares
        )


@given(count=st.integers(1, 40), size=st.integers(1, 9), done=st.integers(0, 6))
def test_an_epoch_goes_on_where_it_was(count: int, size: int, done: int) -> None:
    whole = EpochBatchSampler(count, size, 5, shuffled=True)
    rest = EpochBatchSampler(count, size, 5, shuffled=True)
    rest.done = done
    assert list(rest) == list(whole)[done:]


@given(count=st.integers(1, 40), size=st.integers(1, 9), world=st.integers(1, 3))
def test_images_to_validate_on_all_come_in_order(count: int, size: int, world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        batches = EpochBatchSampler(count, size, 0, shuffled=False, rank=rank, world=world)
        seen += [index for batch in batches for _, index in batch]
    assert sorted(seen) == list(range(count))


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = set()
    for epoch in range(3):
        for seed in range(3):
            batches = EpochBatchSampler(20, 20, seed, shuffled=True)
            batches.epoch = epoch
            orders.add(tuple(index for batch in batches for _, index in batch))
    assert len(orders) == 9


def test_the_split_is_what_it_says() -> None:
    split = Split((Path("a"), Path("b")), np.array([1, 0]), ("x", "y"))
    taken = split.subset([1])
    assert (taken.files, taken.classes.tolist(), taken.labels) == ((Path("b"),), [0], ("x", "y"))
