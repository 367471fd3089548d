"""Infidelity: which squares are drawn, the definition, its best scale, and captum's figures."""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import camrt
from camrt.errors import InputError
from camrt.evaluation.datasets import read_dataset
from camrt.evaluation.metrics import draw_squares, infidelity, square_sums
from camrt.evaluation.suite import Settings, evaluate
from camrt.evaluation.suite.prepared_sample import prepare_sample
from helpers.annotated_images import COLOURS, PREPROCESSING, SIDE, boxed_squares, colour_model
from helpers.oracles import perturbations as oracle
from helpers.peer_libraries import import_peer

ROWS = arrays(np.float64, 6, elements=st.sampled_from([0.0, 1.0, -0.5, 0.25, 3.0, 1e-6]))


def test_squares_are_drawn_evenly_from_all() -> None:
    """In 6 × 9 pixels there are squares of one pixel and of two: 54 and 40."""
    squares = draw_squares((6, 9), 94_000, np.random.default_rng(0))
    counts = Counter(map(tuple, squares.tolist()))
    every = {(r, c, r + s, c + s) for s in (1, 2) for r in range(7 - s) for c in range(10 - s)}
    assert set(counts) == every
    assert len(every) == 94
    assert max(abs(count - 1000) for count in counts.values()) < 6 * 1000**0.5
    again = draw_squares((6, 9), 10, np.random.default_rng(0))
    assert again.shape == (10, 4)
    assert draw_squares((1, 1), 3, np.random.default_rng(0)).tolist() == [[0, 0, 1, 1]] * 3


def test_sums_over_squares() -> None:
    maps = np.random.default_rng(1).random((2, 6, 9))
    squares = draw_squares((6, 9), 20, np.random.default_rng(2))
    expected = [[one[r0:r1, c0:c1].sum() for r0, c0, r1, c1 in squares] for one in maps]
    assert square_sums(maps, squares) == pytest.approx(np.array(expected), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, st.sampled_from([1.0, 1e-200, 1e200]))
def test_the_definition_and_its_best_scale(said: Any, happened: Any, factor: float) -> None:
    plain = infidelity(said[None], happened[None], scaled=False)[0]
    assert plain == pytest.approx(oracle.mean_squared_infidelity(said, happened))
    expected = oracle.best_scaled_infidelity(said, happened)
    assert infidelity(factor * said[None], happened[None])[0] == pytest.approx(expected, abs=1e-12)


def test_a_map_of_zeros_has_the_worst_and_a_true_one_none() -> None:
    happened = np.array([[0.5, -0.1, 0.2]])
    assert infidelity(np.zeros((1, 3)), happened)[0] == pytest.approx(0.1)
    assert infidelity(3 * happened, happened)[0] == pytest.approx(0, abs=1e-15)
    assert np.isnan(infidelity(np.array([[np.nan, 1, 1]]), happened)[0])
    assert np.isnan(infidelity(happened, np.array([[0.5, np.nan, 1]]))[0])


@pytest.mark.parametrize(("said", "happened"), [((3,), (3,)), ((2, 3), (2, 4)), ((2, 0), (2, 0))])
def test_bad_arguments(said: Any, happened: Any) -> None:
    with pytest.raises(InputError, match=r"two arrays \(N, n\)"):
        infidelity(np.zeros(said), np.zeros(happened))


def test_an_evaluation_has_it(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = colour_model(tmp_path / "colours.onnx", hidden=True)
    engine = camrt.load(path, preprocessing=PREPROCESSING, labels=COLOURS, batch_size=5)
    data = read_dataset(boxed_squares(tmp_path / "squares", 3), labels=engine.labels, num_classes=3)
    asked = Settings(infidelity_squares=12, seed=4)
    found = evaluate(engine, data, ["gradcam", "eigen"], ["infidelity"], settings=asked)
    items = [prepare_sample(sample, PREPROCESSING, masks=False) for sample in data.samples]
    values: dict[str, list[float]] = {"gradcam": [], "eigen": []}
    for item in items:
        seed = (4, zlib.crc32(item.name.encode()))
        squares = draw_squares((SIDE, SIDE), 12, np.random.default_rng(seed))
        rows = np.repeat(item.pixels[None], 13, axis=0)
        for row, (r0, c0, r1, c1) in zip(rows[1:], squares, strict=True):
            row[:, r0:r1, c0:c1] = 0
        logits = engine.predict(rows)
        chances = engine.probabilities(logits)[:, logits[0].argmax()].astype(np.float64)
        for name, own in values.items():
            saliency = engine.explain(item.pixels[None], name).maps[0].astype(np.float64)
            said = [saliency[r0:r1, c0:c1].sum() for r0, c0, r1, c1 in squares]
            own.append(oracle.best_scaled_infidelity(said, chances[0] - chances[1:]))
    for name, own in values.items():
        assert found.figures[name]["infidelity"]["value"] == pytest.approx(np.mean(own), rel=1e-3, abs=1e-9)
    # an image and its squares, once for both methods
    assert found.results["passes"] <= 3 * (1 + 12) + 1
    assert found.results["further_explanations"] == 0


@pytest.mark.peers
@pytest.mark.parametrize("scaled", [False, True])
def test_the_same_as_captum(scaled: bool) -> None:
    """With the same squares, over one channel, since captum sums an explanation's channels as well."""
    import_peer("captum")
    import torch
    from captum.metrics import infidelity as theirs

    rng = np.random.default_rng(6)
    images, maps = rng.standard_normal((2, 1, 8, 9)), rng.random((2, 8, 9))
    squares = draw_squares((8, 9), 15, rng)
    weight = torch.from_numpy(rng.standard_normal((72, 3)))

    def model(batch: Any) -> Any:
        return torch.softmax(torch.tanh(batch.reshape(len(batch), -1) @ weight), dim=1)

    inside = np.zeros((15, 8, 9))
    for mask, (r0, c0, r1, c1) in zip(inside, squares, strict=True):
        mask[r0:r1, c0:c1] = 1

    def perturb(batch: Any) -> Any:
        masks = torch.from_numpy(inside).repeat(2, 1, 1)[:, None]  # each image's copies lie together
        return masks, batch * (1 - masks)

    given = torch.from_numpy(images)
    expected = theirs(
        model,
        perturb,
        given,
        torch.from_numpy(maps)[:, None],
        target=1,
        n_perturb_samples=15,
        normalize=scaled,
    )
    before = model(given)[:, 1].numpy()
    after = np.stack([model(given * torch.from_numpy(1 - mask))[:, 1].numpy() for mask in inside], axis=1)
    found = infidelity(square_sums(maps, squares), before[:, None] - after, scaled=scaled)
    assert found == pytest.approx(expected.numpy(), rel=1e-9)
