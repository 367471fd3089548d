"""Altered pictures: each question run once, in full batches, and each row what it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.errors import InputError
from camrt.evaluation.alterations import PICTURE, ZERO, Alterations
from camrt.evaluation.curves import area_under, counts_of_steps, ranks_of
from camrt.evaluation.removal import top_pixels

PIXELS = 30


@pytest.fixture
def pictures() -> Any:
    return np.random.default_rng(2).standard_normal((3, 2, 5, 6)).astype(np.float32)


class Model:
    """Remembers what it was shown, and answers something that tells pictures apart."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def __call__(self, rows: Any) -> Any:
        self.batches.append(rows.copy())
        flat = rows.reshape(len(rows), -1).astype(float)
        places = np.arange(1, flat.shape[1] + 1)
        return np.stack([np.sin(flat @ places), np.cos(flat @ places), flat.sum(axis=1)], axis=1)


def same(logits: Any) -> Any:
    return logits


def asked(model: Model, pictures: Any, **more: Any) -> Alterations:
    classes = np.array([[0, 1], [2, 0], [1, 1]])
    return Alterations(pictures, Model()(pictures), classes, **more)


def test_every_row_is_what_it_should_be(pictures: Any) -> None:
    rng = np.random.default_rng(0)
    model, blurred = Model(), pictures + 1
    altered = asked(model, pictures, sheets={"blurred": blurred}, empty=Model()(pictures[:1] * 0)[0])
    expected = {}
    for i in range(3):
        ranks, saliency = rng.permutation(PIXELS), rng.random((5, 6)).astype(np.float32)
        counts = [0, 1, 7, PIXELS]
        places = altered.ranked(i, ranks, counts, ZERO, PICTURE)
        places += altered.ranked(i, ranks, counts, PICTURE, "blurred")
        gone = [ranks.reshape(5, 6) < count for count in counts]
        rows = [np.where(mask, 0, pictures[i]) for mask in gone]
        rows += [np.where(mask, pictures[i], blurred[i]) for mask in gone]
        places.append(altered.masked(i, saliency))
        rows.append(pictures[i] * saliency)
        for place, row in zip(places, rows, strict=True):
            expected[place] = (i, row)
    found = altered.answer(model, same, batch_size=4)
    for place, (i, row) in expected.items():
        logits = Model()(row[None])[0]
        assert found.probabilities[place] == pytest.approx(logits[altered.classes[i]], abs=1e-5)
        assert found.predicted[place] == logits.argmax()
    assert max(len(batch) for batch in model.batches) == 4
    assert sum(len(batch) for batch in model.batches) == found.passes
    # of the eight curve points of each picture two are the picture, one is zeros and one its blurred copy
    assert found.passes == 3 * (2 + 2 + 1 + 1)


def test_equal_questions_are_run_once(pictures: Any) -> None:
    model, told = Model(), []
    altered = asked(model, pictures)
    ranks = np.arange(PIXELS)
    first = altered.ranked(0, ranks, [3, 9], ZERO, PICTURE)
    assert altered.ranked(0, ranks.copy(), [9, 3, 3], ZERO, PICTURE) == [first[1], first[0], first[0]]
    assert altered.ranked(1, ranks, [3], ZERO, PICTURE)[0] not in first
    mask = np.ones((5, 6), np.float32)
    assert altered.masked(0, mask) == altered.masked(0, mask.copy())
    assert altered.masked(0, mask) != altered.masked(1, mask)
    assert len(altered) == 5
    found = altered.answer(model, same, 2, told.append)
    assert found.passes == sum(len(batch) for batch in model.batches) == sum(told) == 5


def test_pictures_as_they_are_and_zeros_are_known(pictures: Any) -> None:
    model = Model()
    known = asked(model, pictures, empty=np.array([7.0, 8.0, 9.0]))
    places = known.ranked(1, np.arange(PIXELS), [0, PIXELS], ZERO, PICTURE)
    found = known.answer(model, same, 8)
    assert found.passes == 0
    assert not model.batches
    assert found.probabilities[places[0]] == pytest.approx(Model()(pictures)[1][[2, 0]])
    assert found.probabilities[places[1]].tolist() == [9.0, 7.0]
    assert found.predicted[places[1]] == 2
    unknown = asked(model, pictures)
    unknown.ranked(1, np.arange(PIXELS), [PIXELS], ZERO, PICTURE)
    assert unknown.answer(model, same, 8).passes == 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), batch_size=st.integers(1, 12), known=st.booleans())
def test_any_questions_in_any_order(seed: int, batch_size: int, known: bool) -> None:
    """Each row that is run is, to the bit, the picture that NumPy makes; none is run twice.

    Two rankings hardly ever begin with the same seven pixels, as they may with the same one.
    """
    rng = np.random.default_rng(seed)
    pictures = rng.standard_normal((3, 2, 5, 6)).astype(np.float32)
    sheets = {name: rng.standard_normal(pictures.shape).astype(np.float32) for name in ("blurred", "noise")}
    every = {PICTURE: pictures, ZERO: np.zeros_like(pictures), **sheets}
    model = Model()
    empty = Model()(np.zeros_like(pictures[:1]))[0] if known else None
    altered = asked(model, pictures, sheets=sheets, empty=empty)
    rankings = [rng.permutation(PIXELS) for _ in range(2)]
    masks = [rng.random((5, 6)).astype(np.float32) for _ in range(2)]
    wanted = []
    for _ in range(rng.integers(1, 25)):
        i = int(rng.integers(3))
        if rng.random() < 0.3:
            mask = masks[rng.integers(2)]
            wanted.append((altered.masked(i, mask), i, pictures[i] * mask))
            continue
        first, rest = rng.choice(list(every), 2)
        ranks, counts = rankings[rng.integers(2)], rng.choice([0, 7, 13, PIXELS], 2)
        for place, count in zip(altered.ranked(i, ranks, counts, first, rest), counts, strict=True):
            taken = (ranks < count).reshape(5, 6)
            wanted.append((place, i, np.where(taken, every[first][i], every[rest][i])))
    found = altered.answer(model, same, batch_size)
    shown = [row for batch in model.batches for row in batch]
    assert all(len(batch) <= batch_size for batch in model.batches)
    assert all(len(batch) == batch_size for batch in model.batches[:-1])
    assert found.passes == len(shown) <= len(altered)
    assert set(map(bytes, shown)) <= {row.tobytes() for _, _, row in wanted}
    assert not {row.tobytes() for row in shown} & {row.tobytes() for row in pictures}
    assert not (known and any(not row.any() for row in shown))
    dark = sum(not row.any() for row in shown)  # zeros, which each picture asks for by itself
    assert len({row.tobytes() for row in shown}) == len(shown) - max(dark - 1, 0)
    for place, i, row in wanted:
        logits = Model()(row[None])[0]
        assert found.probabilities[place] == pytest.approx(logits[altered.classes[i]], abs=1e-5)
        assert found.predicted[place] == logits.argmax()


def test_batches_of_several_kinds_are_in_order(pictures: Any) -> None:
    model = Model()
    altered = asked(model, pictures, sheets={"blurred": pictures + 1})
    ranks, mask = np.arange(PIXELS), np.full((5, 6), 0.5, np.float32)
    places = [
        *altered.ranked(0, ranks, [0], PICTURE, "blurred"),
        altered.masked(1, mask),
        *altered.ranked(2, ranks, [4], ZERO, PICTURE),
        altered.masked(0, mask),
        *altered.ranked(1, ranks, [PIXELS], "blurred", ZERO),
        *altered.ranked(0, ranks, [9], PICTURE, "blurred"),
    ]
    rows = [pictures[0] + 1, pictures[1] / 2, pictures[2].copy(), pictures[0] / 2, pictures[1] + 1]
    rows.append(np.where((ranks < 9).reshape(5, 6), pictures[0], pictures[0] + 1))
    rows[2].reshape(2, -1)[:, :4] = 0
    for batch_size in (1, 2, 4, 5, 64):
        found = altered.answer(model, same, batch_size)
        for place, row, i in zip(places, rows, (0, 1, 2, 0, 1, 0), strict=True):
            assert found.probabilities[place] == pytest.approx(Model()(row[None])[0][altered.classes[i]])


def test_probabilities_are_of_the_logits_and_classes_of_the_largest(pictures: Any) -> None:
    altered = asked(Model(), pictures)
    place = altered.masked(1, np.zeros((5, 6), np.float32))
    found = altered.answer(lambda rows: np.tile([1.0, 2.0, 4.0], (len(rows), 1)), lambda x: x / 8, 3)
    assert found.probabilities[place].tolist() == [0.5, 0.125]  # classes 2 and 0
    assert found.predicted[place] == 2


def test_a_constant_score_is_the_area_under_its_curves(pictures: Any) -> None:
    score = np.array([0.25, 0.75, 0.0])

    def predict(rows: Any) -> Any:
        return np.tile(score, (len(rows), 1))

    altered = Alterations(pictures, predict(pictures), np.array([[0, 1]] * 3), {"blurred": pictures * 0.5})
    ranks = ranks_of(np.random.default_rng(4).random((3, 5, 6)))
    counts = counts_of_steps(PIXELS, 7)
    deletion = [altered.ranked(i, ranks[i], counts, ZERO, PICTURE) for i in range(3)]
    insertion = [altered.ranked(i, ranks[i], counts, PICTURE, "blurred") for i in range(3)]
    found = altered.answer(predict, same, 8)
    for curve in deletion + insertion:
        assert area_under(found.probabilities[curve].T) == pytest.approx([0.25, 0.75])


def test_removal_of_a_share_is_that_of_remove_and_classify(pictures: Any) -> None:
    model = Model()
    maps = np.random.default_rng(5).integers(0, 4, (3, 5, 6)).astype(float)  # ties
    altered = asked(model, pictures, sheets={"blurred": pictures + 1})
    ranks = ranks_of(maps)
    places = [altered.ranked(i, ranks[i], [int(0.3 * PIXELS)], "blurred", PICTURE)[0] for i in range(3)]
    altered.answer(model, same, 8)
    order = np.argsort(-maps.reshape(3, -1), axis=1, kind="stable")
    erased = top_pixels(order, 0.3, (5, 6))[:, None]
    np.testing.assert_array_equal(model.batches[0][places], np.where(erased, pictures + 1, pictures))


def test_zeros_are_zeros_whatever_the_pictures_hold(pictures: Any) -> None:
    pictures[0, 0, 0, 0], pictures[0, 1, 2, 3] = np.inf, np.nan
    model = Model()
    altered = Alterations(pictures, np.zeros((3, 3)), np.zeros((3, 1), int))
    altered.ranked(1, np.arange(PIXELS), [PIXELS], ZERO, PICTURE)
    altered.answer(model, same, 4)
    np.testing.assert_array_equal(model.batches[0], np.zeros((1, 2, 5, 6)))


def test_no_questions(pictures: Any) -> None:
    found = asked(Model(), pictures).answer(Model(), same, 4)
    assert found.probabilities.shape == (0, 2)
    assert found.passes == 0


def test_sheets_must_fit(pictures: Any) -> None:
    with pytest.raises(InputError, match="shape"):
        asked(Model(), pictures, sheets={"blurred": pictures[:, :1]})


def test_sheets_and_maps_are_checked(pictures: Any) -> None:
    with pytest.raises(InputError, match="there already"):
        asked(Model(), pictures, sheets={PICTURE: pictures})
    altered = asked(Model(), pictures)
    with pytest.raises(InputError, match="no sheet 'grey'"):
        altered.ranked(0, np.arange(PIXELS), [3], "grey", PICTURE)
    with pytest.raises(InputError, match="a map of"):
        altered.masked(0, np.ones(6, np.float32))
