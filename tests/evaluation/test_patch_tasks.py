"""DAP, DOA and COP against slow oracles, the specification's vector, and the table of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import camrt
from camrt.engine.engine import Engine
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.methods import Method
from camrt.errors import DataError, InputError, MethodError
from camrt.evaluation.adversarial_patches.builders import AttackOptions, build_ae1, build_ae2
from camrt.evaluation.adversarial_patches.examples import AdversarialExamples
from camrt.evaluation.metrics.channel_overlap import (
    measure_channel_overlap,
    scaled_top_channels,
)
from camrt.evaluation.metrics.patch_tasks import (
    ActivationDependence,
    cosine_distance,
    measure_activation_dependence,
    measure_patch_localisation,
)
from camrt.evaluation.papers import PUBLISHED
from camrt.evaluation.papers.box_ablation import box_table
from helpers.oracles import ablation as slow_ablation
from helpers.oracles import patches as oracle
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, save

SIDE = 24
LEVELS = (0.27183, 0.61803)  # no sum of few fractions of a side lies on them


@dataclass(frozen=True, kw_only=True)
class Silent(Method):
    """Maps of zeros for even classes, and of the channels' mean for odd ones."""

    name: ClassVar[str] = "silent"

    def raw(self, ask: Any) -> Any:
        odd = (ask.targets % 2).astype(np.float32)
        return odd[:, :, None, None] * ask.activations.mean(axis=1)[:, None], ask.scores("logit")

    def cost(self, head: Any, shape: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    part = HEADS["gap-flatten-gemm"].make(np.random.default_rng(0), 16, SIDE // 2, SIDE // 2, 12)
    path = tmp_path_factory.mktemp("patches") / "small.onnx"
    save(classifier(part, np.random.default_rng(1)).model, path)
    steps = Preprocessing(size=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.005,) * 3)
    return camrt.load(path, preprocessing=steps, batch_size=4)


@pytest.fixture(scope="module")
def examples(engine: Engine) -> AdversarialExamples:
    return build_ae2(engine, 6, patches=3, seed=1, options=AttackOptions(tries=30))


# ---------------------------------------------------------------- DAP


@pytest.mark.parametrize("kind", ["ae1", "ae2"])
def test_dap_is_the_same_by_loops(engine: Engine, examples: AdversarialExamples, kind: str) -> None:
    if kind == "ae1":
        scenes = np.random.default_rng(2).uniform(-20, 20, (3, 3, SIDE, SIDE)).astype(np.float32)
        examples = build_ae1(engine, scenes, 5, patches=2, options=AttackOptions(tries=30))
    methods: Sequence[str | Method] = ("gradcam", "activation", camrt.methods()["pixab"](boxes=((2, 1),)))
    task = measure_patch_localisation(engine, examples, methods)
    targets = [own[k] for own, k in zip(examples.classes, examples.chosen, strict=True)]
    boxes = [own[k] for own, k in zip(examples.boxes, examples.chosen, strict=True)]
    for method, result in zip(methods, task.results, strict=True):
        maps = engine.explain(examples.images, method, targets=np.array(targets)).maps
        expected = [oracle.pointing_and_share(maps[n], boxes[n]) for n in range(len(examples))]
        assert result.hits.tolist() == [hit for hit, _ in expected]
        np.testing.assert_allclose(result.shares, [share for _, share in expected], atol=1e-9)
        assert result.pointing == sum(hit for hit, _ in expected) / len(examples)
        assert abs(result.proportion - sum(share for _, share in expected) / len(examples)) < 1e-9
        assert result.empty == 0
    names = [result.method for result in task.results]
    assert names[0].startswith("GradCAM(")
    assert "boxes=((2, 1),)" in names[2]
    areas = [(r1 - r0) * (c1 - c0) / SIDE**2 for r0, c0, r1, c1 in boxes]
    assert abs(task.chance - sum(areas) / len(areas)) < 1e-12
    assert 0.15**2 * 0.6 < task.chance < 0.2**2 * 1.4


def test_every_patch_may_be_explained(engine: Engine, examples: AdversarialExamples) -> None:
    chances = engine.probabilities(engine.predict(examples.images))
    every = examples.repeat_per_patch(chances)
    assert len(every) == sum(int(own.sum()) for own in examples.succeeded) > len(examples)
    seen = 0
    for n, own in enumerate(examples.succeeded):
        for patch in np.flatnonzero(own):
            assert np.array_equal(every.images[seen], examples.images[n])
            assert every.targets[seen] == examples.classes[n][patch]
            assert np.array_equal(every.target_boxes[seen][0], examples.boxes[n][patch])
            assert every.probabilities[seen] == chances[n, every.targets[seen]]
            seen += 1
    drawn = measure_patch_localisation(engine, examples, ["gradcam"]).results[0].shares
    shares = measure_patch_localisation(engine, every, ["gradcam"]).results[0].shares
    starts = np.cumsum([0, *(int(own.sum()) for own in examples.succeeded)])
    places = [starts[n] + int(own[: examples.chosen[n]].sum()) for n, own in enumerate(examples.succeeded)]
    assert shares[places] == pytest.approx(drawn)
    with pytest.raises(DataError, match="probabilities of"):
        examples.repeat_per_patch(chances[1:])


def test_maps_of_classes_find_their_patches_and_the_activation_finds_none_in_particular(
    engine: Engine, examples: AdversarialExamples
) -> None:
    """What the patches are for: class maps lie on the class's patch far more often than chance."""
    found, plain = measure_patch_localisation(engine, examples, ["cam", "activation"]).results
    assert found.pointing >= 0.8
    assert found.proportion > 1.5 * plain.proportion


def test_maps_of_zeros_miss(engine: Engine, examples: AdversarialExamples) -> None:
    (result,) = measure_patch_localisation(engine, examples, [Silent()]).results
    silent = examples.targets % 2 == 0
    assert 0 < silent.sum() < len(examples)
    assert result.empty == silent.sum()
    assert not result.hits[silent].any()
    assert not result.shares[silent].any()
    assert (result.shares[~silent] > 0).all()


def test_the_task_refuses_another_model_and_no_methods(engine: Engine, examples: AdversarialExamples) -> None:
    for measured in (measure_patch_localisation, measure_activation_dependence):
        with pytest.raises(InputError, match="made with another model"):
            measured(engine, replace(examples, model="0" * 64), ["cam"])
        for methods in ([], "cam"):
            with pytest.raises(InputError, match="must be a list of one or more methods"):
                measured(engine, examples, methods)
        with pytest.raises(MethodError, match="unknown method"):
            measured(engine, examples, ["nothing"])
    assert measure_patch_localisation(engine, replace(examples, model=""), ["cam"]).results


# ---------------------------------------------------------------- DOA


def test_the_vector() -> None:
    """Specification E7: [1, 0] against [1, 1]."""
    found = cosine_distance(np.array([[[1.0, 0]]]), np.array([[[1.0, 1]]]))
    assert_close(found, [1 - 1 / np.sqrt(2)], "float64")
    assert abs(found[0] - 0.29289) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 4),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    scale=st.sampled_from([1e-200, 1.0, 1e200]),
)
def test_the_cosine_by_loops(seed: int, count: int, height: int, width: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    one, other = (rng.random((count, height, width)) * rng.integers(0, 2, (count, 1, 1)) for _ in range(2))
    expected = np.array([oracle.cosine_distance(a, b) for a, b in zip(one, other, strict=True)])
    np.testing.assert_allclose(cosine_distance(scale * one, other), expected, atol=1e-12)
    same = cosine_distance(one, scale * one)
    assert (np.isnan(same) == ~one.any(axis=(1, 2))).all()
    assert (same[~np.isnan(same)] < 1e-12).all()


def test_dependence_is_measured_on_the_map_itself(engine: Engine, examples: AdversarialExamples) -> None:
    gradcam, silent, plain = measure_activation_dependence(
        engine, examples, ["gradcam", Silent(), "activation"]
    )
    maps, sums = (
        engine.explain(examples.images, name, targets=examples.targets, size="map").maps
        for name in ("gradcam", "activation")
    )
    expected = [oracle.cosine_distance(a, b) for a, b in zip(maps, sums, strict=True)]
    assert_close(gradcam.distances, expected, "float64", factor=1e3)  # 1 − cos loses what cos has
    assert gradcam.undefined == 0
    assert abs(gradcam.mean - float(np.mean(expected))) < 1e-9
    even = examples.targets % 2 == 0
    np.testing.assert_array_equal(np.isnan(silent.distances), even)
    assert silent.undefined == even.sum()
    assert abs(silent.mean) < 1e-6  # the mean of the channels is their sum, but for a factor
    assert abs(plain.mean) < 1e-12
    assert np.isnan(ActivationDependence("none", np.array([np.nan])).mean)


def test_maps_on_pixels_cannot_be_compared(engine: Engine, examples: AdversarialExamples) -> None:
    with pytest.raises(InputError, match=r"maps of gradient have \(24, 24\) cells"):
        measure_activation_dependence(engine, examples, ["gradient"])


@pytest.mark.parametrize(
    ("maps", "others", "words"),
    [
        (np.ones((2, 3, 3)), np.ones((2, 3, 4)), "must both be"),
        (np.ones((3, 3)), np.ones((3, 3)), "must both be"),
        (np.full((1, 2, 2), np.nan), np.ones((1, 2, 2)), "must be finite"),
    ],
)
def test_the_cosine_refuses(maps: Any, others: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        cosine_distance(maps, others)


# ---------------------------------------------------------------- COP


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 6),
    cells=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    patches=st.integers(2, 4),
    cover=st.sampled_from([0.0, 0.5, 0.8]),
    data=st.data(),
)
def test_cop_by_loops(
    seed: int,
    channels: int,
    cells: tuple[int, int],
    size: tuple[int, int],
    patches: int,
    cover: float,
    data: Any,
) -> None:
    rng = np.random.default_rng(seed)
    top = data.draw(st.integers(1, channels))
    weights = rng.integers(-2, 3, (2, channels)) / 2  # ties
    activations = rng.random((2, channels, *cells)) ** 0.2 * rng.integers(0, 3, (2, channels, 1, 1))
    starts = np.stack([rng.integers(0, side, (2, patches)) for side in size], axis=2)
    ends = np.minimum(starts + rng.integers(1, 4, (2, patches, 2)), size)
    boxes = list(np.concatenate([starts, ends], axis=2))
    chosen = rng.integers(0, patches, 2)
    found = measure_channel_overlap(
        weights, activations, size, boxes, chosen, top=top, cover=cover, thresholds=LEVELS
    )
    for row, level in enumerate(LEVELS):
        expected = [
            oracle.overlap(
                weights[n], activations[n], size, boxes[n].tolist(), int(chosen[n]), top, cover, level
            )
            for n in range(2)
        ]
        assert found.counts[row].tolist() == expected
        assert found.means[row] == sum(expected) / 2
    assert found.thresholds == LEVELS
    assert found.undefined == 0


def test_overlap_by_hand() -> None:
    """Channels that see: the target alone, another alone, both, all but the target; one is constant."""
    activations = np.zeros((1, 5, 2, 2))
    activations[0, 0, 0, 0] = 1
    activations[0, 1, 1, 1] = 1
    activations[0, 2, [0, 1], [0, 1]] = 1
    activations[0, 3] = [[0, 1], [1, 1]]
    activations[0, 4] = 1
    corners = [np.array([[0, 0, 1, 1], [0, 1, 1, 2], [1, 1, 2, 2]])]
    counts = [
        measure_channel_overlap([[5, 4, 3, 2, 1]], activations, (2, 2), corners, [chosen], top=top)
        .counts[:, 0]
        .tolist()
        for chosen, top in ((0, 5), (0, 2), (1, 5), (2, 5))
    ]
    assert counts == [[1] * 3, [0] * 3, [1] * 3, [2] * 3]


@pytest.mark.parametrize(
    ("channels", "top"), [(2048, 100), (1024, 50), (512, 25), (256, 12), (1000, 49), (16, 1), (1, 1)]
)
def test_the_top_channels_scale_with_their_number(channels: int, top: int) -> None:
    assert scaled_top_channels(channels) == top
    rng = np.random.default_rng(channels)
    weights, activations = rng.random((1, channels)), rng.random((1, channels, 1, 2))
    boxes = [np.array([[0, 0, 1, 1], [0, 1, 1, 2]])]
    found, same = (
        measure_channel_overlap(weights, activations, (1, 2), boxes, [0], top=one) for one in ("scaled", top)
    )
    assert (found.top, found.counts.tolist()) == (top, same.counts.tolist())


def test_cop_of_2048_channels_by_a_slow_count(tmp_path: Path) -> None:
    """Table 1 from the image on, in float64: weights of the linear layer, and by ablating channels."""
    part = HEADS["gap-flatten-gemm"].make(np.random.default_rng(0), 2048, 6, 6, 5)
    whole = classifier(part, np.random.default_rng(1))
    engine = camrt.load(save(whole.model, tmp_path / "wide.onnx"), batch_size=2)
    rng = np.random.default_rng(2)
    images = np.zeros((2, 3, 12, 12), np.float32)
    boxes = [np.array([[1, 1, 3, 3], [1, 7, 4, 9], [8, 2, 10, 4], [8, 8, 9, 10]]) for _ in range(2)]
    for image, own_boxes in zip(images, boxes, strict=True):
        for r0, c0, r1, c1 in own_boxes:  # of nearly one colour, so that many channels see several
            image[:, r0:r1, c0:c1] = 1 + 0.3 * rng.standard_normal((3, r1 - r0, c1 - c0))
    chosen, targets = np.array([1, 3]), np.array([4, 2])
    wide = whole.activations64(images)
    (linear,) = [numpy_helper.to_array(one) for one in part.initializers if 2048 in one.dims]
    rows = linear if linear.shape[1] == 2048 else linear.T
    own = {
        "gradcam": rows[targets].astype(np.float64) / 36,
        "ablation": np.stack(
            [
                slow_ablation.weights(lambda one: part.logits64(one[None])[0], wide[n], targets[n])
                for n in range(2)
            ]
        ),
    }
    for method, weights in own.items():
        given, activations = engine.channel_weights(images, method, targets=targets)
        assert given.shape == (2, 2048)
        found = measure_channel_overlap(given, activations, (12, 12), boxes, chosen, thresholds=LEVELS)
        assert found.top == 100
        for row, level in enumerate(LEVELS):
            expected = [
                oracle.overlap(
                    weights[n], wide[n], (12, 12), boxes[n].tolist(), int(chosen[n]), 100, 0.8, level
                )
                for n in range(2)
            ]
            assert found.counts[row].tolist() == expected
        assert found.counts.min() > 0
        assert found.counts.max() < 100
        assert len(set(found.counts.ravel())) > 1


def test_a_pixel_at_the_threshold_is_not_active() -> None:
    corners = [np.array([[0, 0, 1, 1], [0, 1, 1, 2]])]
    found = measure_channel_overlap([[1.0]], [[[[2.0, 1.0], [0.0, 0.0]]]], (2, 2), corners, [0], top=1)
    assert found.counts[:, 0].tolist() == [1, 0, 0]


def test_per_image_of_one_patch_has_no_overlap_and_is_left_out() -> None:
    activations = np.zeros((2, 1, 2, 2))
    activations[:, 0, 0, 0] = 1
    boxes = [np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 1], [0, 0, 1, 1]])]
    found = measure_channel_overlap(np.ones((2, 1)), activations, (2, 2), boxes, [0, 0], top=1)
    assert np.isnan(found.counts[:, 0]).all()
    assert found.means == (1.0, 1.0, 1.0)
    assert found.undefined == 1
    alone = measure_channel_overlap(np.ones((1, 1)), activations[:1], (2, 2), boxes[:1], [0], top=1)
    assert np.isnan(alone.means).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "top=100 must be a number of channels from 1 to 3"),
        ({"top": 0}, "top=0"),
        ({"top": "all"}, "top='all'"),
        ({"weights": np.ones((2, 3))}, r"must be \(N, K\)"),
        ({"chosen": [0, 0]}, r"\(2,\) chosen ones"),
        ({"chosen": [0.0]}, "whole numbers"),
        ({"chosen": [2], "top": 1}, "patch 2 is chosen, of an image that has 2"),
        ({"weights": np.full((1, 3), np.nan)}, "must be finite"),
        ({"activations": np.full((1, 3, 2, 2), np.inf)}, "must be finite"),
        ({"thresholds": (1.0,), "top": 1}, "must be shares below 1"),
        ({"cover": 1.0, "top": 1}, "must be shares below 1"),
        ({"size": (1, 2), "top": 1}, "outside a map of 1×2"),
    ],
)
def test_overlap_refuses(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {
        "weights": np.ones((1, 3)),
        "activations": np.ones((1, 3, 2, 2)),
        "size": (2, 2),
        "boxes": [np.array([[0, 0, 1, 1], [1, 1, 2, 2]])],
        "chosen": [0],
    }
    with pytest.raises(InputError, match=words):
        measure_channel_overlap(**(given | change))


# ---------------------------------------------------------------- E12


def test_the_table_of_boxes_has_every_setting_once_in_every_reading() -> None:
    table = box_table()
    assert len(table) == 24 * 9
    assert len({(row.name, row.reading, row.assignment) for row in table}) == len(table)
    assert len({row.method for row in table}) == len(table)
    for row in table:
        method = row.method
        assert (method.boxes, method.perspectives) == (row.boxes, row.perspectives)
        assert (method.denominators, method.assignment) == (row.reading, row.assignment)
        assert method.score == "probability"
    pixab = camrt.methods()["pixab"]
    few = {row.name: row for row in box_table(("N2",), ("coverage",))}
    assert len(few) == 24
    assert few["2x1 preservation"].boxes == ((2, 1),)
    assert few["1x1+1x2+2x1+2x2 both"].method == pixab(score="probability", denominators="N2")


def test_what_is_published_of_boxes() -> None:
    found = {
        row.key: tuple(number for numbers in row.figures.values() for number in numbers)
        for name in ("pixab-6", "pixab-7", "pixab-8", "pixab-9", "pixab-10")
        for row in PUBLISHED[name].rows
    }
    for row in box_table(("N2",), ("coverage",)):
        assert (found[row.name] == ()) == any(3 in shape for shape in row.boxes)
    assert found["1x1 deletion"] == (52.6, 44.3, 51.9, 44.8)
    assert found["2x1 preservation"] == (51.7, 44.3, 51.9, 43.9)
    assert found["1x1+2x1 both"] == (54.1, 47.5, 53.3, 48.0)
    assert found["1x1+1x2+2x1+2x2 both"] == found["pixab"]


@pytest.mark.parametrize("name", ["pixab-1", "pixab-2", "pixab-6"])
def test_what_is_published_is_of_methods_that_exist(name: str) -> None:
    assert {row.key for row in PUBLISHED[name].rows} <= set(camrt.methods())


def test_with_one_perspective_the_readings_are_one_map(
    engine: Engine, examples: AdversarialExamples, tmp_path: Path
) -> None:
    rows = [row for row in box_table(assignments=("coverage",)) if row.name in ("2x2 deletion", "2x2 both")]
    results = measure_patch_localisation(engine, examples, [row.method for row in rows]).results
    shares = {(row.name, row.reading): result.shares for row, result in zip(rows, results, strict=True)}
    for reading in ("N1", "N3"):
        np.testing.assert_allclose(
            shares["2x2 deletion", reading], shares["2x2 deletion", "N2"], rtol=1e-4, atol=1e-6
        )
    assert np.abs(shares["2x2 both", "N1"] - shares["2x2 both", "N2"]).max() > 1e-3
