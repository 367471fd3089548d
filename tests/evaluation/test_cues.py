"""Cue localisation: the specification's vectors, slow oracles, and a small folder laid out as CUB's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import camrt
from camrt.errors import DataError, InputError
from camrt.evaluation.datasets.cub import CubDataset
from camrt.evaluation.metrics import cues
from camrt.evaluation.metrics.cues import (
    LOG_EDGES,
    PARTS,
    CueLocalisation,
    CuePair,
    PairPrecision,
    PixelPool,
    attribute_parts,
    cue_localisation,
    cue_mask,
    cue_pairs,
    difference_map,
    nearest_point,
    part_points,
)
from camrt.evaluation.metrics.pixel_precision import EDGES
from helpers.calm_models import calm_model
from helpers.oracles import cues as oracle
from helpers.tolerances import assert_close

HEAD = CuePair(0, 1, ("head",))
BACK_AND_LEG = CuePair(0, 2, ("back", "leg"))


def random_maps(paths: Sequence[Path], label: int) -> Any:
    """Maps (n, 4, 3) that depend on the file's name and the class alone."""
    return np.stack(
        [np.random.default_rng([label, *path.name.encode()]).random((4, 3)) ** 8 for path in paths]
    )


# ---------------------------------------------------------------- pairs


def test_parts_of_attributes() -> None:
    assert attribute_parts("has_eye_color::red") == ("head",)
    assert attribute_parts("has_shape::long-legged-like") == ("leg",)
    assert attribute_parts("has_upper_tail_color::buff") == ("tail",)
    assert attribute_parts("has_bill_length::shorter_than_head") == ("head",)
    assert attribute_parts("the back of the wing") == ("back", "wing")
    for name in ("has_primary_color::red", "has_upperparts_color::red", "has_size::small_(5_-_9_in)"):
        assert attribute_parts(name) == ()


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(0, 7), seed=st.integers(0, 999))
def test_pairs_agree_with_loops(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"has_{part}::x" for part in ("nape", *PARTS[1:], "primary_color", "throat and wing")]
    shares = rng.choice([0.0, 49.99, 50.0, 100.0], (classes, len(names)), p=[0.7, 0.1, 0.1, 0.1])
    found = cue_pairs(shares, names)
    expected = []
    for count in (1, 2, 3):
        for one in range(classes):
            for other in range(one + 1, classes):
                parts = oracle.differing_parts(shares[one], shares[other], names)
                if len(parts) == count:
                    expected.append(CuePair(one, other, tuple(part for part in PARTS if part in parts)))
    assert found == tuple(expected)


def test_half_of_the_answers_are_enough() -> None:
    names = ["has_wing_color::red"]
    assert cue_pairs(np.array([[0.0], [50.0]]), names) == (CuePair(0, 1, ("wing",)),)
    assert cue_pairs(np.array([[0.0], [49.9]]), names) == ()
    assert cue_pairs(np.array([[0.0], [50.0]]), names, counts=(2,)) == ()


def test_cub_itself_must_have_its_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are CUB's 200 classes and 312 attributes there are 31, 64 and 96 pairs."""
    assert cues.CUB_PAIR_COUNTS == {1: 31, 2: 64, 3: 96}
    shares, names = np.zeros((200, 312)), ["has_wing_color::red"] * 312
    shares[0, 5] = 100
    with pytest.raises(DataError, match=r"\{1: 199, 2: 0, 3: 0\} pairs .* CUB has \{1: 31"):
        cue_pairs(shares, names)
    with pytest.raises(DataError, match=r"\{1: 199\} pairs"):
        cue_pairs(shares, names, counts=(1,))
    assert cue_pairs(shares, names, counts=(4,)) == ()
    assert len(cue_pairs(shares[:, :311], names[:311])) == 199
    monkeypatch.setattr(cues, "CUB_PAIR_COUNTS", {1: 199, 2: 0, 3: 0})
    assert len(cue_pairs(shares, names)) == 199


def attribute_folder(folder: Path) -> Path:
    """Classes and attributes in CUB's own layout and size; 31, 64 and 96 pairs differ in few parts.

    Four kinds of bird differ in all seven parts. Of one kind there are two groups, of 31 and 1, that differ
    in the head alone; of the next 8 and 8, in back and belly; of the third 12 and 8, in breast, tail and leg.
    What belongs to no part tells all classes apart, and counts for nothing.
    """
    names = [f"has_{part}_color::{kind}" for kind in range(4) for part in ("crown", *PARTS[1:])]
    names += [f"has_{part}_pattern::own" for part in ("throat", *PARTS[1:6])]
    names += [f"has_primary_color::{number}" for number in range(312 - len(names))]
    shares = np.full((200, 312), 49.9)
    first = 0
    for kind, (one, other, places) in enumerate(
        ((31, 1, [0]), (8, 8, [1, 2]), (12, 8, [3, 4, 5]), (132, 0, []))
    ):
        shares[first : first + one + other, 7 * kind : 7 * kind + 7] = 50
        for place in places:
            shares[first + one : first + one + other, 28 + place] = 100
        first += one + other
    shares[range(200), 34 + np.arange(200)] = 88.5
    texts = {
        "images.txt": ["1 001.Bird/a.jpg"],
        "classes.txt": [f"{n + 1} {n + 1:03d}.Bird" for n in range(200)],
        "attributes/attributes.txt": [f"{n + 1} {name}" for n, name in enumerate(names)],
        "attributes/class_attribute_labels_continuous.txt": [" ".join(map(str, row)) for row in shares],
    }
    (folder / "attributes").mkdir(parents=True)
    for name, lines in texts.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


def grouped_pairs(folder: Path) -> dict[int, int]:
    birds = CubDataset(folder)
    pairs = cue_pairs(birds.class_attributes, birds.attribute_names)
    return {count: sum(len(pair.parts) == count for pair in pairs) for count in (1, 2, 3)}


def test_the_pairs_of_a_file_of_cubs_size(tmp_path: Path) -> None:
    folder = attribute_folder(tmp_path / "birds")
    assert grouped_pairs(folder) == {1: 31, 2: 64, 3: 96}
    file = folder / "attributes" / "class_attribute_labels_continuous.txt"
    rows = file.read_text().splitlines()
    rows[-1] = rows[0]  # one more class of the first group
    file.write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"\{1: 32\} pairs differ in so many parts where CUB has"):
        grouped_pairs(folder)


@pytest.mark.skipif(
    "CAMRT_CUB" not in os.environ, reason="CAMRT_CUB names no folder of CUB-200-2011 with its attributes"
)
def test_cub_has_31_64_and_96_pairs() -> None:
    assert grouped_pairs(Path(os.environ["CAMRT_CUB"])) == {1: 31, 2: 64, 3: 96}


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        (np.zeros((2, 3)), r"must be \(C, 2\)"),
        (np.zeros(2), "must be"),
        (np.full((2, 2), 101.0), "from 0 to 100"),
        (np.full((2, 2), np.nan), "from 0 to 100"),
        (np.ones((2, 2), bool), "from 0 to 100"),
        (np.full((2, 2), 0.5), "not shares from 0 to 1"),
    ],
)
def test_what_is_no_table_of_percentages(shares: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        cue_pairs(shares, ["has_wing_color::red", "has_leg_color::red"])


# ---------------------------------------------------------------- geometry


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    height=st.integers(5, 500),
    width=st.integers(5, 500),
    side=st.integers(1, 20),
    share=st.floats(0, 1),
)
def test_geometry_agrees_with_loops(seed: int, height: int, width: int, side: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    places = np.round(rng.random((15, 2)) * [width, height], 1)
    places[rng.random(15) > share] = np.nan
    visible = {
        name: tuple(place)
        for name, place in zip(oracle.KEYPOINTS, places.tolist(), strict=True)
        if place[0] == place[0]
    }
    found, labels = part_points(places, oracle.KEYPOINTS, (height, width), side)
    expected = oracle.points(visible, (height, width), side)
    assert list(labels) == [part for part, _, _ in expected]
    # the mean of seven numbers may round across a whole one in another order of summation
    head = 1 if labels[:1] == ("head",) else 0
    assert found[head:].tolist() == [[x, y] for _, x, y in expected[head:]]
    for point, (_, x, y) in zip(found[:head], expected, strict=False):
        assert np.abs(point - [x, y]).sum() <= 1
    bird = rng.random((side, side)) < 0.7
    parts = set(rng.choice(PARTS, 2, replace=False).tolist())
    exact = [(label, *place) for label, place in zip(labels, found.tolist(), strict=True)]
    wanted = oracle.mask(exact, parts, bird)
    got = cue_mask(found, labels, tuple(parts), bird)
    assert (got is None) == (wanted is None)
    if wanted is not None:
        np.testing.assert_array_equal(got, wanted)


def test_a_head_is_the_mean_of_what_is_seen_of_it() -> None:
    places = np.full((15, 2), np.nan)
    places[oracle.KEYPOINTS.index("beak")] = (10, 40)
    places[oracle.KEYPOINTS.index("nape")] = (15, 20)
    places[oracle.KEYPOINTS.index("right leg")] = (99.9, 0)
    found, labels = part_points(places, oracle.KEYPOINTS, (50, 100), 224)
    assert labels == ("head", "leg")
    assert found.tolist() == [[28, 134], [223, 0]]  # 12.5 · 2.24, 30 · 4.48, 99.9 · 2.24


def test_of_equally_near_points_the_first_counts() -> None:
    found = nearest_point(np.array([[0, 1], [2, 1]]), 3)
    assert found.tolist() == [[0, 0, 1]] * 3
    assert nearest_point(np.array([[2, 1], [0, 1]]), 3).tolist() == [[1, 0, 0]] * 3


def test_the_mask_is_the_birds() -> None:
    bird = np.array([[True, False], [True, True]])
    points = np.array([[0, 0], [1, 0]])
    np.testing.assert_array_equal(cue_mask(points, ("head", "tail"), ("tail",), bird), [[0, 0], [0, 1]])
    assert cue_mask(points, ("head", "tail"), ("wing",), bird) is None
    assert cue_mask(np.zeros((0, 2), np.int64), (), ("wing",), bird) is None


def test_geometry_that_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"must be \(15, 2\)"):
        part_points(np.zeros((14, 2)), oracle.KEYPOINTS, (9, 9))
    with pytest.raises(InputError, match="no keypoint is called tail"):
        part_points(np.zeros((15, 2)), [name.replace("tail", "end") for name in oracle.KEYPOINTS], (9, 9))
    with pytest.raises(InputError, match="n >= 1"):
        nearest_point(np.zeros((0, 2), np.int64))
    with pytest.raises(InputError, match="a square"):
        cue_mask(np.zeros((1, 2), np.int64), ("head",), ("head",), np.ones((2, 3), bool))


# ---------------------------------------------------------------- differences


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    order=st.sampled_from(["after", "before"]),
    kind=st.sampled_from(["calm", "minmax"]),
)
def test_differences_agree_with_loops(
    seed: int, height: int, width: int, size: tuple[int, int], order: Any, kind: Any
) -> None:
    one, other = np.random.default_rng(seed).standard_normal((2, 3, height, width))
    found = difference_map(one, other, size=size, order=order, kind=kind)
    expected = np.stack([oracle.difference(a, b, size, order, kind) for a, b in zip(one, other, strict=True)])
    assert_close(found, expected, "float64", factor=100)  # a stretch of what is nearly constant
    assert found.min() >= 0
    assert found.max() <= 1
    assert_close(found, difference_map(other, one, size=size, order=order, kind=kind), factor=100)


def test_the_order_matters_only_where_maps_are_stretched() -> None:
    one, other = np.random.default_rng(0).random((2, 2, 3, 3))
    size = (6, 6)
    assert_close(
        difference_map(one, other, size=size),
        difference_map(one, other, size=size, order="before"),
        factor=10,
    )
    after, before = (
        difference_map(one, 5 * other, size=size, order=order, kind="minmax") for order in ("after", "before")
    )
    assert np.abs(after - before).max() > 0.1
    assert_close(before, difference_map(one, other, size=size, order="before", kind="minmax"), factor=10)


def test_equal_maps_do_not_differ() -> None:
    one = np.random.default_rng(0).random((2, 3, 3)).astype(np.float32)
    for kind in ("calm", "minmax"):
        assert not difference_map(one, one, size=(5, 5), kind=kind).any()
        assert not difference_map(one, one, size=(5, 5), kind=kind, order="before").any()


@pytest.mark.parametrize(
    ("maps", "options", "words"),
    [
        ((np.zeros((1, 2, 2)), np.zeros((1, 2, 3))), {}, r"must both be \(N, h, w\)"),
        ((np.zeros((2, 2)), np.zeros((2, 2))), {}, "must both be"),
        ((np.full((1, 2, 2), np.nan), np.zeros((1, 2, 2))), {}, "must be finite"),
        ((np.zeros((1, 2, 2)), np.full((1, 2, 2), -np.inf)), {}, "must be finite"),
        ((np.zeros((1, 2, 2)),) * 2, {"kind": "max"}, "'calm' or 'minmax'"),
        ((np.zeros((1, 2, 2)),) * 2, {"order": "first"}, "'after' or 'before'"),
    ],
)
def test_differences_of_what_has_none(maps: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        difference_map(*maps, **options)


# ---------------------------------------------------------------- pooling


def test_the_vector() -> None:
    """Specification C1: bins by logarithm give 100, every score 62.5."""
    scores = np.array([1e-2, 1e-9, 0, 1e-3, 1e-9, 0, 0, 0])
    positives = np.array([True] * 3 + [False] * 5)
    by_log, exact = PixelPool(LOG_EDGES), PixelPool(None)
    for pool in (by_log, exact):
        pool.add(scores[:5], positives[:5])
        pool.add(scores[5:], positives[5:])
    assert by_log.precision() == 1
    assert abs(exact.precision() - 0.625) < 1e-15


def test_the_bins() -> None:
    assert len(LOG_EDGES) == 1002
    assert abs(LOG_EDGES[0] / 10**-6.993 - 1) < 1e-12
    assert LOG_EDGES[-3:].tolist() == [1, 2, 3]
    assert (np.diff(LOG_EDGES) > 0).all()
    assert_close(np.diff(np.log10(LOG_EDGES[:-2])), np.full(999, 0.007), factor=1e4)


@pytest.mark.parametrize("edges", [None, EDGES, LOG_EDGES], ids=["exact", "even", "log"])
def test_pools_agree_with_loops(edges: Any) -> None:
    rng = np.random.default_rng(3)
    pool = PixelPool(edges)
    assert np.isnan(pool.precision())
    scores, positives = rng.random(300) ** 30, rng.random(300) < 0.3
    scores[rng.random(300) < 0.2] = 0
    scores[:3] = 1
    pool.add(scores[:100], np.zeros(100, bool))
    assert np.isnan(pool.precision())
    positives[:100] = False
    pool.add(scores[100:], positives[100:])
    assert abs(pool.precision() - oracle.ranked_precision(scores, positives, edges)) < 1e-12


def test_means_are_weighted_by_pairs() -> None:
    """Table 1: 30.4, 33.3 and 36.3 of 31, 64 and 96 pairs make 34.3."""
    found = CueLocalisation(
        tuple(
            PairPrecision(CuePair(0, 1, PARTS[:count]), value, 60, 1, 0)
            for count, pairs, value in ((1, 31, 0.304), (2, 64, 0.333), (3, 96, 0.363))
            for _ in range(pairs)
        )
    )
    assert_close(list(found.groups.values()), [0.304, 0.333, 0.363], "float64", factor=10)
    assert round(found.mean, 3) == 0.343
    assert found.hidden == 191
    assert found.undefined == 0


def test_pairs_without_a_value_are_left_out_and_counted() -> None:
    values = (0.5, float("nan"), 0.25)
    found = CueLocalisation(tuple(PairPrecision(HEAD, value, 1, 0, 0) for value in values))
    assert found.groups == {1: 0.375}
    assert found.mean == 0.375
    assert found.undefined == 1
    nothing = CueLocalisation((PairPrecision(HEAD, float("nan"), 0, 2, 0),))
    assert np.isnan(nothing.mean)
    assert np.isnan(nothing.groups[1])


# ---------------------------------------------------------------- the whole


def expected_pixels(
    cub: CubDataset, held: dict[str, Any], pair: CuePair, side: int, **options: Any
) -> tuple[Any, Any, int]:
    """Scores and marks of all pixels, and how many images were skipped, by loops."""
    scores, marks, hidden = [], [], 0
    for label in (pair.first, pair.second):
        for index in (3 * label + 1, 3 * label + 2):
            found = oracle.points(held["visible"][index], held["sizes"][index], side)
            inside = oracle.mask(found, set(pair.parts), cub.segmentation(index, side))
            if inside is None:
                hidden += 1
                continue
            one, other = (random_maps([cub.image(index)], label)[0] for label in (pair.first, pair.second))
            scores.append(oracle.difference(one, other, (side, side), **options))
            marks.append(inside)
    return np.array(scores), np.array(marks), hidden


@pytest.mark.parametrize("kind", ["calm", "minmax"])
@pytest.mark.parametrize("order", ["after", "before"])
def test_the_driver_agrees_with_loops(tmp_path: Path, order: Any, kind: Any) -> None:
    held = oracle.small_cub(tmp_path / "cub")
    cub = CubDataset(tmp_path / "cub")
    pairs = cue_pairs(cub.class_attributes, cub.attribute_names)
    assert pairs == (
        HEAD, CuePair(1, 3, ("head",)), BACK_AND_LEG, CuePair(2, 3, ("back", "leg")),
        CuePair(1, 2, ("head", "back", "leg")),
    )  # fmt: skip
    for thresholds, edges in (("exact", None), ("even", EDGES), ("log", LOG_EDGES)):
        found = cue_localisation(
            random_maps, cub, pairs, kind=kind, order=order, thresholds=thresholds, side=12, batch_size=3
        )
        assert [one.pair for one in found.pairs] == list(pairs)
        for one in found.pairs:
            scores, marks, hidden = expected_pixels(cub, held, one.pair, 12, order=order, kind=kind)
            assert (one.images, one.hidden) == (len(scores), hidden)
            assert one.outside == sum(not mark.any() for mark in marks)
            assert abs(one.value - oracle.ranked_precision(scores, marks, edges)) < 1e-9
    assert found.hidden >= 1  # the image of class 2 without a head


def test_an_engine_explains(tmp_path: Path) -> None:
    """The differences of a CALM model's joint probabilities, on files."""
    oracle.small_cub(tmp_path / "cub")
    cub = CubDataset(tmp_path / "cub")
    path = calm_model().save(tmp_path / "calm.onnx")
    engine = camrt.load(path, preprocessing=camrt.Preprocessing.named("imagenet-squash", (16, 16)))

    def explain(files: Sequence[Path], label: int) -> Any:
        return engine.explain(files, "calm", targets=label, size="map").raw

    (found,) = cue_localisation(explain, cub, (HEAD,), side=16).pairs
    files = [cub.image(index) for index in (1, 2, 3 + 2)]  # image 4 shows no head
    joint = [explain(files, label).astype(float) for label in (0, 1)]
    marks = []
    for index in (1, 2, 5):
        points, labels = part_points(cub.keypoints[index], cub.part_names, cub.size(index), 16)
        marks.append(cue_mask(points, labels, ("head",), cub.segmentation(index, 16)))
    scores = [oracle.difference(a, b, (16, 16), "after", "calm") for a, b in zip(*joint, strict=True)]
    assert (found.images, found.hidden) == (3, 1)
    assert abs(found.value - oracle.ranked_precision(scores, marks)) < 1e-9


def test_bins_that_are_never_emptied(tmp_path: Path) -> None:
    held = oracle.small_cub(tmp_path / "cub")
    cub = CubDataset(tmp_path / "cub")
    pairs = (HEAD, BACK_AND_LEG)
    found = cue_localisation(
        random_maps, cub, pairs, thresholds="even", accumulate="reference", side=12, batch_size=3
    )
    parts = [expected_pixels(cub, held, pair, 12, order="after", kind="calm")[:2] for pair in pairs]
    first = oracle.ranked_precision(*parts[0], EDGES)
    both = oracle.ranked_precision(*(np.concatenate(each) for each in zip(*parts, strict=True)), EDGES)
    assert_close([one.value for one in found.pairs], [first, both], "float64", factor=1000)
    alone = cue_localisation(random_maps, cub, pairs, thresholds="even", side=12)
    assert alone.pairs[0].value == found.pairs[0].value
    assert alone.pairs[1].value != found.pairs[1].value


def test_batches_make_no_difference(tmp_path: Path) -> None:
    oracle.small_cub(tmp_path / "cub")
    cub = CubDataset(tmp_path / "cub")
    found = [cue_localisation(random_maps, cub, (HEAD,), side=10, batch_size=size) for size in (1, 2, 64)]
    assert found[0] == found[1] == found[2]


def test_maps_of_the_cue_itself_are_perfect_and_constant_ones_give_the_share(tmp_path: Path) -> None:
    oracle.small_cub(tmp_path / "cub")
    cub = CubDataset(tmp_path / "cub")
    side, share = 10, []

    def perfect(paths: Sequence[Path], label: int) -> Any:
        maps = []
        for path in paths:
            index = cub.names.index(f"{path.parent.name}/{path.name}")
            points, labels = part_points(cub.keypoints[index], cub.part_names, cub.size(index), side)
            inside = cue_mask(points, labels, HEAD.parts, cub.segmentation(index, side))
            assert inside is not None
            share.append(inside.mean())
            maps.append(inside * (label == HEAD.first))
        return np.array(maps, float)

    assert cue_localisation(perfect, cub, (HEAD,), side=side).mean == 1
    same = cue_localisation(lambda paths, _: np.ones((len(paths), 2, 2)), cub, (HEAD,), side=side)
    assert abs(same.mean - np.mean(share)) < 1e-12


def test_a_pair_whose_images_show_nothing_has_no_value(tmp_path: Path) -> None:
    oracle.small_cub(tmp_path / "cub")
    path = tmp_path / "cub" / "parts" / "part_locs.txt"
    lines = [" ".join([*line.split()[:2], "0.0 0.0 0"]) for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    (found,) = cue_localisation(random_maps, CubDataset(tmp_path / "cub"), (HEAD,), side=10).pairs
    assert np.isnan(found.value)
    assert (found.images, found.hidden) == (0, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thresholds": "fine"}, "'exact', 'even' or 'log'"),
        ({"accumulate": "never"}, "'reset' or 'reference'"),
        ({"accumulate": "reference"}, "needs thresholds="),
        ({"batch_size": 0}, "must be at least 1"),
        ({"side": 0}, "must be at least 1"),
        ({"kind": "max"}, "'calm' or 'minmax'"),
        ({"pairs": (CuePair(0, 9, ("head",)),)}, "0 and 9 must be below 4"),
        ({"explain": lambda paths, _: np.zeros((1, 2, 2))}, r"gave \(1, 2, 2\) for . images"),
        ({"explain": lambda paths, _: np.full((len(paths), 2, 2), np.nan)}, "must be finite"),
    ],
)
def test_what_cannot_be_measured(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    oracle.small_cub(tmp_path / "cub")
    arguments = {
        "explain": random_maps,
        "cub": CubDataset(tmp_path / "cub"),
        "pairs": (HEAD,),
        "side": 10,
        **options,
    }
    with pytest.raises(InputError, match=words):
        cue_localisation(**arguments)
