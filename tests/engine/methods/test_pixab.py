from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import camrt
from camrt.engine.methods.boxes import count_boxes, place_boxes
from camrt.engine.methods.pixab import PixabCAM
from camrt.errors import MemoryLimitError
from camrt.export.budget import Budget, within_budget
from helpers.oracles import postprocess
from helpers.oracles.cam import class_map
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.oracles.head_scores import HeadScores
from helpers.oracles.pixab import distinct_boxes, pixab_cam
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
FOUR_BOXES = ((1, 1), (1, 2), (2, 1), (2, 2))
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "N1": {"denominators": "N1"},
    "N2": {"denominators": "N2"},
    "N3": {"denominators": "N3"},
    "anchor": {"assignment": "anchor"},
    "same": {"assignment": "same"},
    "deletion": {"perspectives": "deletion"},
    "preservation": {"perspectives": "preservation"},
    "one-cell": {"boxes": ((1, 1),)},
    "3x3": {"boxes": ((3, 3),)},
    "3x3-same": {"boxes": ((3, 3), (1, 2)), "assignment": "same"},
    "3x3-anchor": {"boxes": ((3, 3), (1, 2)), "assignment": "anchor"},
    "beyond-the-map": {"boxes": ((9, 2), (1, 8), (9, 9))},
    "logit": {"score": "logit"},
    "logit-anchor-N3": {"score": "logit", "denominators": "N3", "assignment": "anchor"},
    "logit-N1-preservation": {"score": "logit", "denominators": "N1", "perspectives": "preservation"},
    "logit-N2": {"score": "logit", "denominators": "N2"},
}


def reference(options: dict[str, Any]) -> dict[str, Any]:
    """The oracle's arguments for a method's options."""
    kind = options.get("score", "probability")
    return {
        "denominators": options.get("denominators", "N2" if kind == "probability" else "N3"),
        "probability": kind == "probability",
        **{key: options[key] for key in ("assignment", "boxes", "perspectives") if key in options},
    }


def mapped(method: PixabCAM, activation: np.ndarray, score: Callable[[np.ndarray], Any]) -> np.ndarray:
    """Raw maps (C, h, w) of one activation under any score."""
    raw, _ = method.raw(HeadScores(activation, lambda values: np.atleast_1d(score(values))))
    return raw[0]


# ---------------------------------------------------------------- the engine


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("head", HEADS)
def test_against_the_oracle(engine_of: EngineOf, head: str, options: dict[str, Any]) -> None:
    small = classifier(head, cells=(3, 5), scale=0.3, trunk="convolve")
    images = np.random.default_rng(11).normal(size=(2, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "pixab", targets=[[0, 3], [1, 2]], **options)
    scores = small.scores(options.get("score", "probability"))
    raw = np.array(
        [
            [pixab_cam(scores, small.activation(x), c, **reference(options)) for c in row]
            for x, row in zip(images, found.targets, strict=True)
        ]
    )
    # Every term is a difference of two float32 scores over one of them: it loses what they share.
    for one, expected in zip(found.raw.reshape(-1, 3, 5), raw.reshape(-1, 3, 5), strict=True):
        assert_close(one, expected, factor=10)
    size = small.image[1:]
    for one, low in zip(found.maps.reshape(-1, *size), found.raw.reshape(-1, 3, 5), strict=True):
        assert_close(one, postprocess.native(low, size, minmax=True))


@pytest.mark.parametrize("ending", ["softmax", "sigmoid"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("channels", "cells"), [(2, (1, 2)), (5, (4, 5)), (3, (5, 1))], ids=str)
def test_odd_sizes(
    engine_of: EngineOf, head: str, ending: str, channels: int, cells: tuple[int, int]
) -> None:
    small = classifier(head, cells=cells, channels=channels, trunk="keep", scale=1.0, ending=ending)
    images = np.random.default_rng(12).normal(size=(2, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "pixab", targets=1, postprocess="library", size=(7, 6))
    scores = small.scores("probability")
    raw = np.array([pixab_cam(scores, small.activation(x), 1, denominators="N2") for x in images])
    for one, expected in zip(found.raw, raw, strict=True):
        assert_close(one, expected, factor=5)
    assert_close(found.scores, [scores(small.activation(x))[1] for x in images], factor=4)
    assert_close(found.maps, [postprocess.library(one, (7, 6)) for one in found.raw])


@pytest.mark.parametrize("trunk", ["rectify", "keep"])
def test_one_cell_boxes_of_the_logit_are_cam(engine_of: EngineOf, trunk: str) -> None:
    """On a linear head what a cell takes away, and what it brings, is its share of the class map."""
    small = classifier("pooled-linear", cells=(4, 5), trunk=trunk)
    images = np.random.default_rng(13).normal(size=(3, *small.image)).astype(np.float32)
    found = engine_of(small).explain(
        images, "pixab", targets=[[0, 1, 2, 3]] * 3, score="logit", boxes=((1, 1),)
    )
    assert small.weight is not None
    for x, row in zip(images, found.raw, strict=True):
        for c in range(4):
            cam = class_map(small.activation(x), small.weight, np.zeros(4), c)
            # p = 2 · (f_ij / hw) / |Y − Y₀|, and Y − Y₀ is the mean of f.
            assert_close(row[c], 2 * cam / cam.size / abs(cam.mean()), factor=5)


def test_cells_cancel_out_to_the_whole(engine_of: EngineOf) -> None:
    """Σ over cells of Y − Y_−cell is Y − Y₀ for a linear score."""
    small = classifier("flattened-linear", cells=(4, 5), trunk="keep")
    images = np.random.default_rng(14).normal(size=(2, *small.image)).astype(np.float32)
    options = {"score": "logit", "denominators": "N3", "boxes": ((1, 1),), "perspectives": "deletion"}
    found = engine_of(small).explain(images, "pixab", targets=2, **options)
    score = small.scores("logit")
    falls = [score(x)[2] - score(np.zeros(x.shape))[2] for x in images]
    assert_close(found.raw.sum(axis=(1, 2)), np.sign(falls), factor=5)


@pytest.mark.parametrize("head", ["pooled-network", "flattened-network", "generic"])
@pytest.mark.parametrize("perspectives", ["both", "deletion", "preservation"])
def test_no_distinct_box_is_run_twice(engine_of: EngineOf, head: str, perspectives: str) -> None:
    small = classifier(head, cells=(3, 4))
    engine = engine_of(small)
    images = np.random.default_rng(15).random((2, *small.image)).astype(np.float32) + 0.5
    found = engine.explain(images, "pixab", targets=[[0, 1]] * 2, perspectives=perspectives)
    boxes = len(distinct_boxes(FOUR_BOXES, (3, 4), "coverage"))
    sides = 2 if perspectives == "both" else 1
    # Beside the boxes only the empty activation is run, a few times at most.
    assert 0 <= found.passes.head - 2 * sides * boxes <= 2
    assert found.passes.trunk == 2
    assert found.passes.full == 0


def test_a_tiny_probability_says_nothing(engine_of: EngineOf) -> None:
    weight = np.array([[40.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    engine = engine_of(pooled_linear(weight, np.zeros(2), (2, 2)))
    image = np.random.default_rng(0).random((1, 3, 2, 2)).astype(np.float32) + 1
    found = engine.explain(image, "pixab", targets=[[0, 1]])
    assert found.scores[0, 1] < 1e-12
    assert found.flags.tolist() == [[0, 1]]
    assert not found.raw[0, 1].any()
    assert not found.maps[0, 1].any()


def test_a_tiny_empty_score_is_not_divided_by(engine_of: EngineOf) -> None:
    small = pooled_linear(np.array([[90.0, 0, 0], [0, 1, 0]]), np.array([-40.0, 0.0]), (2, 2))
    image = np.random.default_rng(0).random((1, 3, 2, 2)).astype(np.float32) + 0.1
    found = engine_of(small).explain(image, "pixab", targets=0)
    scores = small.scores("probability")
    assert scores(np.zeros((3, 2, 2)))[0] < 1e-12
    raw = pixab_cam(scores, image[0], 0, denominators="N2")
    # Probabilities near 1e-17 are exponentials of float32 logits of magnitude 40, good to 40 epsilons.
    assert_close(found.raw[0], raw, factor=5)


# ---------------------------------------------------------------- the method alone


def square(values: np.ndarray) -> float:
    """The specification's score, 1 + (Σ A)²: not linear, and 1 of nothing."""
    return float(1 + values.sum() ** 2)


def eight(maps: Any) -> Any:
    """Normalised as Equation 8 says."""
    raw = np.asarray(maps, np.float64)
    return postprocess.native(raw, raw.shape, minmax=True)


@pytest.mark.parametrize("read", ["oracle", "method"])
@pytest.mark.parametrize(
    ("options", "raw", "normalised"),
    [
        ({"boxes": ((1, 1),), "perspectives": "deletion"}, [0.8, 0.5, 0], None),
        ({"boxes": ((1, 1),), "perspectives": "preservation"}, [4, 1, 0], None),
        ({"boxes": ((1, 1),)}, [4.8, 1.5, 0], [1, 0.3125, 0]),
        ({"boxes": ((1, 1),), "denominators": "N1"}, [1.2, 0.6, 0], [1, 0.5, 0]),
        ({"boxes": ((1, 1),), "denominators": "N3"}, [12 / 9, 6 / 9, 0], [1, 0.5, 0]),
        ({"boxes": ((1, 2),), "perspectives": "deletion"}, [0.85, 0.7, 0.25], None),
        ({"boxes": ((1, 2),), "perspectives": "preservation"}, [6.5, 5, 0.5], None),
        ({"boxes": ((1, 1), (1, 2)), "perspectives": "deletion"}, [0.825, 0.6, 0.125], None),
        ({"boxes": ((1, 1), (1, 2)), "perspectives": "preservation"}, [5.25, 3, 0.25], None),
        ({"boxes": ((1, 1), (1, 2))}, [6.075, 3.6, 0.375], [1, 0.5658, 0]),
        (
            {"boxes": ((1, 2),), "assignment": "anchor", "perspectives": "deletion"},
            [0.9, 0.5, 0],
            None,
        ),
        (
            {"boxes": ((1, 2),), "assignment": "anchor", "perspectives": "preservation"},
            [9, 1, 0],
            None,
        ),
        ({"boxes": ((1, 2),), "assignment": "same", "perspectives": "deletion"}, [0.9, 0.7, 0.25], None),
        ({"boxes": ((1, 2),), "assignment": "same", "perspectives": "preservation"}, [9, 5, 0.5], None),
        ({"boxes": ((1, 2),), "assignment": "same"}, [9.9, 5.7, 0.75], [1, 165 / 305, 0]),
        ({"boxes": ((1, 1), (1, 2)), "assignment": "anchor"}, [7.35, 1.5, 0], [1, 0.2041, 0]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_vectors_of_the_specification(
    read: str, options: dict[str, Any], raw: list[float], normalised: list[float] | None
) -> None:
    """A = [2, 1, 0] with the score 1 + (Σ A)²: Y = 10 and Y₀ = 1."""
    activation = np.array([[[2.0, 1.0, 0.0]]])
    if read == "oracle":
        found = pixab_cam(lambda values: np.array([square(values)]), activation, 0, **reference(options))
    else:
        found = mapped(PixabCAM(**options), activation, square)[0]
    assert_close(found, [raw], dtype=np.float32)
    if normalised is not None:
        assert np.abs(eight(found) - normalised).max() < 5e-5  # printed to four digits


@pytest.mark.parametrize(
    ("cells", "naive", "anchored", "distinct"),
    [((8, 8), 578, 512, 450), ((7, 7), 450, 392, 338), ((14, 14), 1682, 1568, 1458)],
    ids=["8x8", "7x7", "14x14"],
)
def test_pass_counts_of_the_specification(
    cells: tuple[int, int], naive: int, anchored: int, distinct: int
) -> None:
    h, w = cells
    covering = place_boxes(FOUR_BOXES, cells, "coverage")
    anchors = place_boxes(FOUR_BOXES, cells, "anchor")
    assert 2 * sum(grid.index.size for grid in covering.grids) == naive
    same = place_boxes(FOUR_BOXES, cells, "same")
    assert 2 * sum(grid.index.size for grid in anchors.grids) == anchored
    assert 2 * sum((grid.index >= 0).sum() for grid in same.grids) == anchored
    assert distinct == 2 * (h * w + h * (w - 1) + (h - 1) * w + (h - 1) * (w - 1))
    for placements in (covering, anchors, same):
        assert 2 * len(placements.distinct) == distinct
    answers = HeadScores(np.ones((1, h, w)), lambda values: np.atleast_1d(square(values)))
    PixabCAM().raw(answers)
    assert answers.asked_boxes == distinct


def test_boxes_of_a_large_map_are_counted_without_being_listed() -> None:
    h, w = 6, 100_000
    with within_budget(Budget(max_memory=1 << 20)):
        counted = count_boxes(FOUR_BOXES, (h, w), "coverage")
        with pytest.raises(MemoryLimitError):
            place_boxes(FOUR_BOXES, (h, w), "coverage")
    assert counted == h * w + h * (w - 1) + (h - 1) * w + (h - 1) * (w - 1)


shapes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3, unique=True)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(deadline=None)
@given(boxes=shapes, cells=sizes, assignment=st.sampled_from(["coverage", "same", "anchor"]))
def test_placements_are_each_box_once(
    boxes: list[tuple[int, int]], cells: tuple[int, int], assignment: Any
) -> None:
    placed = [tuple(box) for box in place_boxes(tuple(boxes), cells, assignment).distinct.tolist()]
    assert len(set(placed)) == len(placed)
    assert set(placed) == distinct_boxes(boxes, cells, assignment)
    assert count_boxes(tuple(boxes), cells, assignment) == len(placed)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    boxes=shapes,
    cells=sizes,
    assignment=st.sampled_from(["coverage", "same", "anchor"]),
    denominators=st.sampled_from(["N1", "N2", "N3"]),
    perspectives=st.sampled_from(["both", "deletion", "preservation"]),
    kind=st.sampled_from(["logit", "probability"]),
)
def test_any_score_any_boxes(
    seed: int,
    boxes: list[tuple[int, int]],
    cells: tuple[int, int],
    assignment: Any,
    denominators: Any,
    perspectives: Any,
    kind: Any,
) -> None:
    draw = np.random.default_rng(seed)
    activation, weight = draw.normal(size=(2, *cells)), draw.normal(size=(3, 2 * cells[0] * cells[1]))

    def score(values: np.ndarray) -> np.ndarray:
        logits = np.tanh(weight @ values.reshape(-1)) + 0.25
        return logits if kind == "logit" else np.exp(logits) / np.exp(logits).sum()

    options = {"denominators": denominators, "assignment": assignment, "perspectives": perspectives}
    method = PixabCAM(score=kind, boxes=tuple(boxes), **options)
    expected = [
        pixab_cam(score, activation, c, boxes=boxes, probability=kind == "probability", **options)
        for c in range(3)
    ]
    assert_close(mapped(method, activation, score), expected)


def flips(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return draw.random((2, 3, 4)), draw.normal(size=(2, 3, 4))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), axis=st.sampled_from([1, 2]))
def test_coverage_commutes_with_flips_and_the_others_do_not(seed: int, axis: int) -> None:
    activation, weight = flips(np.random.default_rng(seed))

    def score(values: np.ndarray) -> float:
        return float(1 + np.square((weight * values).sum()))

    def score_of_flipped(values: np.ndarray) -> float:
        return score(np.flip(values, axis))

    for assignment in ("coverage", "same", "anchor"):
        method = PixabCAM(assignment=assignment)
        straight = mapped(method, activation, score)[0]
        flipped = np.flip(mapped(method, np.flip(activation, axis), score_of_flipped)[0], axis - 1)
        if assignment == "coverage":
            assert_close(flipped, straight)
        else:
            assert np.abs(flipped - straight).max() > 1e-3 * np.abs(straight).max()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), boxes=shapes, assignment=st.sampled_from(["coverage", "same", "anchor"]))
def test_a_linear_score_has_one_perspective(seed: int, boxes: list[tuple[int, int]], assignment: Any) -> None:
    """Y − Y_−b = Y_+b − Y₀ for every box: with equal denominators both terms are the same."""
    activation, weight = flips(np.random.default_rng(seed))

    def score(values: np.ndarray) -> float:
        return float((weight * values).sum() - 0.5)

    maps = {
        perspectives: mapped(
            PixabCAM(score="logit", boxes=tuple(boxes), assignment=assignment, perspectives=perspectives),
            activation,
            score,
        )[0]
        for perspectives in ("deletion", "preservation", "both")
    }
    assert_close(maps["deletion"], maps["preservation"])
    assert_close(maps["both"], 2 * maps["deletion"])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_n1_and_n3_are_one_map_where_the_activation_helps(seed: int) -> None:
    activation, weight = flips(np.random.default_rng(seed))

    def score(values: np.ndarray) -> float:
        return float(0.1 + np.square((weight * values).sum()))  # never below its value of nothing

    one, three = (mapped(PixabCAM(denominators=name), activation, score)[0] for name in ("N1", "N3"))
    assert_close(eight(one), eight(three), dtype=np.float32)
