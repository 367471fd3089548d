"""Altered images: each question run once, in full batches, and each row what it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.errors import InputError
from camrt.evaluation.metrics.curves import area_under_curve, ranks_of, step_pixel_counts
from camrt.evaluation.metrics.removal import top_pixels_mask
from camrt.evaluation.perturbation import IMAGE, ZERO, PerturbationQueries

PIXELS = 30


@pytest.fixture
def images() -> Any:
    return np.random.default_rng(2).standard_normal((3, 2, 5, 6)).astype(np.float32)


class Model:
    """Remembers what it was shown, and answers something that tells images apart."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def __call__(self, rows: Any) -> Any:
        self.batches.append(rows.copy())
        flat = rows.reshape(len(rows), -1).astype(float)
        places = np.arange(1, flat.shape[1] + 1)
        return np.stack([np.sin(flat @ places), np.cos(flat @ places), flat.sum(axis=1)], axis=1)


def same(logits: Any) -> Any:
    return logits


def asked(model: Model, images: Any, **more: Any) -> PerturbationQueries:
    classes = np.array([[0, 1], [2, 0], [1, 1]])
    return PerturbationQueries(images, Model()(images), classes, **more)


def test_every_row_is_what_it_should_be(images: Any) -> None:
    rng = np.random.default_rng(0)
    model, blurred = Model(), images + 1
    altered = asked(model, images, sheets={"blurred": blurred}, empty=Model()(images[:1] * 0)[0])
    expected = {}
    for i in range(3):
        ranks, saliency = rng.permutation(PIXELS), rng.random((5, 6)).astype(np.float32)
        counts = [0, 1, 7, PIXELS]
        places = altered.add_ranked(i, ranks, counts, ZERO, IMAGE)
        places += altered.add_ranked(i, ranks, counts, IMAGE, "blurred")
        gone = [ranks.reshape(5, 6) < count for count in counts]
        rows = [np.where(mask, 0, images[i]) for mask in gone]
        rows += [np.where(mask, images[i], blurred[i]) for mask in gone]
        places.append(altered.add_masked(i, saliency))
        rows.append(images[i] * saliency)
        for place, row in zip(places, rows, strict=True):
            expected[place] = (i, row)
    found = altered.run(model, same, batch_size=4)
    for place, (i, row) in expected.items():
        logits = Model()(row[None])[0]
        assert found.probabilities[place] == pytest.approx(logits[altered.classes[i]], abs=1e-5)
        assert found.predicted[place] == logits.argmax()
    assert max(len(batch) for batch in model.batches) == 4
    assert sum(len(batch) for batch in model.batches) == found.passes
    # of the eight curve points of each image two are the image, one is zeros and one its blurred copy
    assert found.passes == 3 * (2 + 2 + 1 + 1)


def test_boxes_are_zero_and_what_is_known_is_not_run(images: Any) -> None:
    model = Model()
    altered = PerturbationQueries(images, None, np.array([[0], [1], [2]]))
    box = altered.add_without_box(1, [0, 2, 3, 4])
    saliency = np.full((5, 6), 0.5, np.float32)
    masked = altered.add_masked(2, saliency, np.array([0.25, 0.5, 7.0]))
    assert altered.add_without_box(1, (0, 2, 3, 4)) == box
    found = altered.run(model, same, batch_size=4)
    expected = images[1].copy()
    expected[:, 0:3, 2:4] = 0
    assert len(model.batches) == 1
    assert np.array_equal(model.batches[0], expected[None])
    assert found.probabilities[box, 0] == Model()(expected[None])[0, 1]
    assert found.probabilities[masked, 0] == 7
    assert found.passes == 1


def test_equal_questions_are_run_once(images: Any) -> None:
    model, told = Model(), []
    altered = asked(model, images)
    ranks = np.arange(PIXELS)
    first = altered.add_ranked(0, ranks, [3, 9], ZERO, IMAGE)
    assert altered.add_ranked(0, ranks.copy(), [9, 3, 3], ZERO, IMAGE) == [first[1], first[0], first[0]]
    assert altered.add_ranked(1, ranks, [3], ZERO, IMAGE)[0] not in first
    mask = np.ones((5, 6), np.float32)
    assert altered.add_masked(0, mask) == altered.add_masked(0, mask.copy())
    assert altered.add_masked(0, mask) != altered.add_masked(1, mask)
    assert len(altered) == 5
    found = altered.run(model, same, 2, told.append)
    assert found.passes == sum(len(batch) for batch in model.batches) == sum(told) == 5


def test_images_as_they_are_and_zeros_are_known(images: Any) -> None:
    model = Model()
    known = asked(model, images, empty=np.array([7.0, 8.0, 9.0]))
    places = known.add_ranked(1, np.arange(PIXELS), [0, PIXELS], ZERO, IMAGE)
    found = known.run(model, same, 8)
    assert found.passes == 0
    assert not model.batches
    assert found.probabilities[places[0]] == pytest.approx(Model()(images)[1][[2, 0]])
    assert found.probabilities[places[1]].tolist() == [9.0, 7.0]
    assert found.predicted[places[1]] == 2
    unknown = asked(model, images)
    unknown.add_ranked(1, np.arange(PIXELS), [PIXELS], ZERO, IMAGE)
    assert unknown.run(model, same, 8).passes == 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), batch_size=st.integers(1, 12), known=st.booleans())
def test_any_questions_in_any_order(seed: int, batch_size: int, known: bool) -> None:
    """Each row that is run is, to the bit, the image that NumPy makes; none is run twice.

    Two rankings hardly ever begin with the same seven pixels, as they may with the same one.
    """
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((3, 2, 5, 6)).astype(np.float32)
    sheets = {name: rng.standard_normal(images.shape).astype(np.float32) for name in ("blurred", "noise")}
    every = {IMAGE: images, ZERO: np.zeros_like(images), **sheets}
    model = Model()
    empty = Model()(np.zeros_like(images[:1]))[0] if known else None
    altered = asked(model, images, sheets=sheets, empty=empty)
    rankings = [rng.permutation(PIXELS) for _ in range(2)]
    masks = [rng.random((5, 6)).astype(np.float32) for _ in range(2)]
    wanted = []
    for _ in range(rng.integers(1, 25)):
        i = int(rng.integers(3))
        if rng.random() < 0.3:
            mask = masks[rng.integers(2)]
            wanted.append((altered.add_masked(i, mask), i, images[i] * mask))
            continue
        first, rest = rng.choice(list(every), 2)
        ranks, counts = rankings[rng.integers(2)], rng.choice([0, 7, 13, PIXELS], 2)
        for place, count in zip(altered.add_ranked(i, ranks, counts, first, rest), counts, strict=True):
            taken = (ranks < count).reshape(5, 6)
            wanted.append((place, i, np.where(taken, every[first][i], every[rest][i])))
    found = altered.run(model, same, batch_size)
    shown = [row for batch in model.batches for row in batch]
    assert all(len(batch) <= batch_size for batch in model.batches)
    assert all(len(batch) == batch_size for batch in model.batches[:-1])
    assert found.passes == len(shown) <= len(altered)
    assert set(map(bytes, shown)) <= {row.tobytes() for _, _, row in wanted}
    assert not {row.tobytes() for row in shown} & {row.tobytes() for row in images}
    assert not (known and any(not row.any() for row in shown))
    dark = sum(not row.any() for row in shown)  # zeros, which each image asks for by itself
    assert len({row.tobytes() for row in shown}) == len(shown) - max(dark - 1, 0)
    for place, i, row in wanted:
        logits = Model()(row[None])[0]
        assert found.probabilities[place] == pytest.approx(logits[altered.classes[i]], abs=1e-5)
        assert found.predicted[place] == logits.argmax()


def test_batches_of_several_kinds_are_in_order(images: Any) -> None:
    model = Model()
    altered = asked(model, images, sheets={"blurred": images + 1})
    ranks, mask = np.arange(PIXELS), np.full((5, 6), 0.5, np.float32)
    places = [
        *altered.add_ranked(0, ranks, [0], IMAGE, "blurred"),
        altered.add_masked(1, mask),
        *altered.add_ranked(2, ranks, [4], ZERO, IMAGE),
        altered.add_masked(0, mask),
        *altered.add_ranked(1, ranks, [PIXELS], "blurred", ZERO),
        *altered.add_ranked(0, ranks, [9], IMAGE, "blurred"),
    ]
    rows = [images[0] + 1, images[1] / 2, images[2].copy(), images[0] / 2, images[1] + 1]
    rows.append(np.where((ranks < 9).reshape(5, 6), images[0], images[0] + 1))
    rows[2].reshape(2, -1)[:, :4] = 0
    for batch_size in (1, 2, 4, 5, 64):
        found = altered.run(model, same, batch_size)
        for place, row, i in zip(places, rows, (0, 1, 2, 0, 1, 0), strict=True):
            assert found.probabilities[place] == pytest.approx(Model()(row[None])[0][altered.classes[i]])


def test_probabilities_are_of_the_logits_and_classes_of_the_largest(images: Any) -> None:
    altered = asked(Model(), images)
    place = altered.add_masked(1, np.zeros((5, 6), np.float32))
    found = altered.run(lambda rows: np.tile([1.0, 2.0, 4.0], (len(rows), 1)), lambda x: x / 8, 3)
    assert found.probabilities[place].tolist() == [0.5, 0.125]  # classes 2 and 0
    assert found.predicted[place] == 2


def test_a_constant_score_is_the_area_under_its_curves(images: Any) -> None:
    score = np.array([0.25, 0.75, 0.0])

    def predict(rows: Any) -> Any:
        return np.tile(score, (len(rows), 1))

    altered = PerturbationQueries(images, predict(images), np.array([[0, 1]] * 3), {"blurred": images * 0.5})
    ranks = ranks_of(np.random.default_rng(4).random((3, 5, 6)))
    counts = step_pixel_counts(PIXELS, 7)
    deletion = [altered.add_ranked(i, ranks[i], counts, ZERO, IMAGE) for i in range(3)]
    insertion = [altered.add_ranked(i, ranks[i], counts, IMAGE, "blurred") for i in range(3)]
    found = altered.run(predict, same, 8)
    for curve in deletion + insertion:
        assert area_under_curve(found.probabilities[curve].T) == pytest.approx([0.25, 0.75])


def test_removal_of_a_share_is_that_of_remove_and_classify(images: Any) -> None:
    model = Model()
    maps = np.random.default_rng(5).integers(0, 4, (3, 5, 6)).astype(float)  # ties
    altered = asked(model, images, sheets={"blurred": images + 1})
    ranks = ranks_of(maps)
    places = [altered.add_ranked(i, ranks[i], [int(0.3 * PIXELS)], "blurred", IMAGE)[0] for i in range(3)]
    altered.run(model, same, 8)
    order = np.argsort(-maps.reshape(3, -1), axis=1, kind="stable")
    erased = top_pixels_mask(order, 0.3, (5, 6))[:, None]
    np.testing.assert_array_equal(model.batches[0][places], np.where(erased, images + 1, images))


def test_zeros_are_zeros_whatever_the_images_hold(images: Any) -> None:
    images[0, 0, 0, 0], images[0, 1, 2, 3] = np.inf, np.nan
    model = Model()
    altered = PerturbationQueries(images, np.zeros((3, 3)), np.zeros((3, 1), int))
    altered.add_ranked(1, np.arange(PIXELS), [PIXELS], ZERO, IMAGE)
    altered.run(model, same, 4)
    np.testing.assert_array_equal(model.batches[0], np.zeros((1, 2, 5, 6)))


def test_no_questions(images: Any) -> None:
    found = asked(Model(), images).run(Model(), same, 4)
    assert found.probabilities.shape == (0, 2)
    assert found.passes == 0


def test_sheets_must_fit(images: Any) -> None:
    with pytest.raises(InputError, match="shape"):
        asked(Model(), images, sheets={"blurred": images[:, :1]})


def test_sheets_and_maps_are_checked(images: Any) -> None:
    with pytest.raises(InputError, match="there already"):
        asked(Model(), images, sheets={IMAGE: images})
    altered = asked(Model(), images)
    with pytest.raises(InputError, match="no sheet 'grey'"):
        altered.add_ranked(0, np.arange(PIXELS), [3], "grey", IMAGE)
    with pytest.raises(InputError, match="a map of"):
        altered.add_masked(0, np.ones(6, np.float32))
