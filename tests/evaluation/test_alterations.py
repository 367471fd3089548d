"""Altered pictures: each question run once, in full batches, and each row what it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camrt.errors import InputError
from camrt.evaluation.alterations import PICTURE, ZERO, Alterations

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


def test_sheets_must_fit(pictures: Any) -> None:
    with pytest.raises(InputError, match="shape"):
        asked(Model(), pictures, sheets={"blurred": pictures[:, :1]})
