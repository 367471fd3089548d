"""CALM's attributions on a file, against the paper's formulas in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import camrt
from camrt.engine.class_sets import class_sets
from camrt.engine.heads.base import QueryContext
from camrt.engine.heads.calm import CalmHead
from camrt.engine.passes import PassCounts
from camrt.engine.scores import ScoreReader
from camrt.errors import MethodError, ModelFileError, TargetError
from camrt.export.heads.cut import JOINT
from helpers.calm_models import CalmModel, calm_model
from helpers.tolerances import assert_close

MODEL = calm_model()
KINDS = ("joint", "conditional", "posterior", "saliency", "subset", "counterfactual")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> camrt.Engine:
    return camrt.load(MODEL.save(tmp_path_factory.mktemp("calm") / "calm.onnx"), threads=1)


def images(count: int = 3, height: int = 8, width: int = 6, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, 3, height, width)).astype(np.float32)


def expected_maps(p: Any, kind: str, y: Any, members: Any, other: Any) -> Any:
    """Specification B2 and B3, by their formulas; p is p(y,z|x), (N, C, h, w)."""
    rows = np.arange(len(p))
    if kind == "joint":
        return p[rows, y]
    if kind == "conditional":
        return p[rows, y] / p.sum(axis=1)
    if kind == "posterior":
        return p[rows, y] / p[rows, y].sum(axis=(1, 2), keepdims=True)
    if kind == "saliency":
        return p.sum(axis=1)
    if kind == "subset":
        return p[:, members].sum(axis=1)
    return p[rows, y] - p[rows, other]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(1, 4),
    height=st.sampled_from([2, 4, 10]),
    width=st.sampled_from([2, 6, 8]),
    seed=st.integers(0, 99),
)
def test_attributions_are_the_papers(
    engine: camrt.Engine, kind: str, count: int, height: int, width: int, seed: int
) -> None:
    batch = images(count, height, width, seed)
    y = np.random.default_rng(seed).integers(0, 4, count)
    options = {"subset": {"classes": [0, 2]}, "counterfactual": {"against": 1}}.get(kind, {})
    found = engine.explain(batch, "calm", kind=kind, targets=y, **options)
    p = MODEL.joint(batch)
    expected = expected_maps(p, kind, y, [0, 2], np.full(count, 1))
    assert_close(found.raw, expected, factor=8)
    score = (
        p.sum(axis=(2, 3))[np.arange(count), y]
        if kind in ("conditional", "posterior")
        else expected.sum(axis=(1, 2))
    )
    assert_close(found.scores, score, factor=8)
    assert_close(found.probabilities, p.sum(axis=(2, 3)), factor=8)


def test_maps_add_up_to_the_probability(engine: camrt.Engine) -> None:
    """Completeness, within 1e-5, for every class at once."""
    batch = images(5)
    targets = np.tile(np.arange(4), (5, 1))
    found = engine.explain(batch, "calm", targets=targets)
    sums = found.raw.sum(axis=(2, 3))
    assert np.abs(sums - found.probabilities).max() < 1e-5
    assert np.abs(sums.sum(axis=1) - 1).max() < 1e-5
    assert np.abs(found.scores - found.probabilities).max() < 1e-6
    places = engine.explain(batch, "calm", kind="saliency").raw
    everything = engine.explain(batch, "calm", kind="subset", classes="all").raw
    assert_close(everything, places, factor=4)
    assert_close(found.raw.sum(axis=1), places, factor=4)
    posterior = engine.explain(batch, "calm", kind="posterior", targets=targets)
    assert np.abs(posterior.raw.sum(axis=(2, 3)) - 1).max() < 1e-5


def test_subsets(engine: camrt.Engine) -> None:
    batch = images()
    alone = engine.explain(batch, "calm", targets=2).raw
    assert_close(engine.explain(batch, "calm", kind="subset", targets=2).raw, alone)
    assert_close(engine.explain(batch, "calm", kind="subset", classes=2).raw, alone)
    both = engine.explain(batch, "calm", kind="subset", classes=(1, 2)).raw
    mean = engine.explain(batch, "calm", kind="subset", classes=(1, 2), average=True).raw
    assert_close(mean, both / 2)
    assert_close(both, alone + engine.explain(batch, "calm", targets=1).raw, factor=4)


def test_a_counterfactual_is_held_against_the_most_probable_other_class(engine: camrt.Engine) -> None:
    batch = images()
    p = MODEL.joint(batch)
    order = np.argsort(-p.sum(axis=(2, 3)), axis=1)
    found = engine.explain(batch, "calm", kind="counterfactual")
    rows = np.arange(len(batch))
    assert_close(found.raw, p[rows, order[:, 0]] - p[rows, order[:, 1]], factor=8)
    last = engine.explain(batch, "calm", kind="counterfactual", targets=order[:, 3])
    assert_close(last.raw, p[rows, order[:, 3]] - p[rows, order[:, 0]], factor=8)
    assert (last.scores < 0).all()


def test_the_vector() -> None:
    """Specification A4: the joint, and the counterfactual of class 0 against class 1."""
    g, h = np.array([[0.9, 0.5, 0.2], [0.1, 0.5, 0.8]]), np.array([0.5, 0.3, 0.2])
    p = (g * h).reshape(1, 2, 1, 3)
    np.testing.assert_allclose(expected_maps(p, "joint", [0], None, None).ravel(), [0.45, 0.15, 0.04])
    np.testing.assert_allclose(
        expected_maps(p, "posterior", [0], None, None).ravel(), [0.703125, 0.234375, 0.0625]
    )
    found = expected_maps(p, "counterfactual", [0], None, np.array([1])).ravel()
    np.testing.assert_allclose(found, [0.40, 0, -0.12], atol=1e-12)


def test_only_one_pass_is_made(engine: camrt.Engine) -> None:
    found = engine.explain(images(), "calm", targets=np.tile(np.arange(4), (3, 1)))
    assert (found.passes.trunk, found.passes.head, found.passes.full) == (3, 0, 0)
    assert found.maps.shape == (3, 4, 8, 6)
    assert found.maps.min() >= 0
    assert found.maps.max() <= 1


def test_the_cut_lies_before_both_branches(engine: camrt.Engine) -> None:
    assert engine.target.name == "A"
    assert engine.has_joint
    text = engine.describe()
    assert "4 classes, CALM: p(y,z|x) of every class and cell" in text
    assert "calm                     0     0" in text


def test_calm_is_the_same_wherever_the_model_is_cut(tmp_path: Path, engine: camrt.Engine) -> None:
    path = MODEL.save(tmp_path / "calm.onnx")
    expected = engine.explain(images(), "calm").raw
    for target in ("convolved", ["convolved", "A"], "log_joint"):
        assert_close(camrt.load(path, target=target).explain(images(), "calm").raw, expected)


def altered(model: CalmModel, batch: Any, change: Any) -> Any:
    """p(y|x), (N, C), with the activation changed."""
    activation = model.activation(batch).copy()
    change(activation)
    return model.joint_of(activation).sum(axis=(2, 3))


def test_other_methods_explain_the_probability(engine: camrt.Engine) -> None:
    """Cut before both branches, their score is p(y|x) whatever they are asked."""
    batch = images()
    p = MODEL.joint(batch).sum(axis=(2, 3))
    for method in ("gradcam", "ablation", "pixab", "score", "gradient", "activation"):
        found = engine.explain(batch, method, targets=1)
        assert_close(found.scores, p[:, 1], factor=8)
    activation = MODEL.activation(batch)
    slope = np.zeros_like(activation)
    step = 1e-6
    for k in range(5):
        for i in range(4):
            for j in range(3):
                for sign in (1, -1):
                    moved = activation.copy()
                    moved[:, k, i, j] += sign * step
                    slope[:, k, i, j] += sign * MODEL.joint_of(moved).sum(axis=(2, 3))[:, 1] / (2 * step)
    hires = engine.explain(batch, "hirescam", targets=1).raw
    expected = (slope * activation).sum(axis=1)
    assert np.abs(hires - expected).max() <= 1e-4 * np.abs(expected).max()
    weights = np.zeros((3, 5))
    for k in range(5):
        without = altered(MODEL, batch, lambda a, k=k: a[:, k].fill(0))[:, 1]
        weights[:, k] = (p[:, 1] - without) / p[:, 1]
    ablation = engine.explain(batch, "ablation", targets=1).raw
    assert_close(ablation, np.einsum("nk,nkhw->nhw", weights, activation), "float32", factor=100)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
)
def test_boxes_are_answered_by_sums_of_cells(
    engine: camrt.Engine, height: int, width: int, seed: int, scale: float
) -> None:
    """Every box, deleted and kept, against the definition on the altered activation."""
    batch = scale * images(2, 2 * height, 2 * width, seed)
    boxes = np.array(
        [
            (r0, c0, r1, c1)
            for r0 in range(height)
            for c0 in range(width)
            for r1 in range(r0 + 1, height + 1)
            for c1 in range(c0 + 1, width + 1)
        ]
    )
    activation = MODEL.activation(batch)
    targets = np.array([[0, 3], [2, 1]])
    passes = PassCounts()
    asked = QueryContext(
        activation.astype(np.float32),
        np.zeros((2, 4), np.float32),
        ScoreReader(targets, "probability", "softmax"),
        passes,
        {},
    )
    assert isinstance(engine.head, CalmHead)
    deleted, kept = engine.head.scores_with_boxes(asked, boxes, delete=True, keep=True)
    assert passes.head == 2
    for number, (r0, c0, r1, c1) in enumerate(boxes):
        without, alone = activation.copy(), np.zeros_like(activation)
        without[:, :, r0:r1, c0:c1] = 0
        alone[:, :, r0:r1, c0:c1] = activation[:, :, r0:r1, c0:c1]
        for found, altered_activation in ((deleted, without), (kept, alone)):
            p = MODEL.joint_of(altered_activation).sum(axis=(2, 3))
            assert np.abs(found[:, number] - np.take_along_axis(p, targets, axis=1)).max() < 2e-6


def test_one_class_s_probability_against_another_s(engine: camrt.Engine) -> None:
    """Of what is linear in the score, here always a probability."""
    batch = images()
    for method in ("gradcam", "score"):
        every = engine.explain(batch, method, targets=[[0, 1, 2]] * 3)
        found = engine.explain(batch, method, targets=0, contrast=(1, 2), strength=0.5)
        for name in ("raw", "scores"):
            parts = getattr(every, name)
            expected = parts[:, 0] - 0.25 * (parts[:, 1] + parts[:, 2])
            assert_close(getattr(found, name), expected, factor=8)
    pixab = engine.explain(batch, "pixab", targets=0, contrast="similar", denominators="N3")
    assert np.array_equal(pixab.raw, engine.explain(batch, "pixab", targets=0, contrast="similar").raw)
    assert pixab.passes.head == 3
    with pytest.raises(MethodError, match="these scores are probabilities"):
        engine.explain(batch, "gradcam", contrast="similar-weighted")
    with pytest.raises(MethodError, match=r"contrast=3 is not for it: kind='counterfactual' with against="):
        engine.explain(batch, "calm", contrast=3)


def test_pixab_needs_one_pass_through_the_head(engine: camrt.Engine) -> None:
    found = engine.explain(images(), "pixab")
    assert (found.passes.trunk, found.passes.head, found.passes.full) == (3, 3, 0)


def test_a_cut_that_leaves_a_convolution_is_answered_by_the_head_itself(tmp_path: Path) -> None:
    """Behind the image's own grid the head is no function of each cell alone; the answers are the same."""
    engine = camrt.load(MODEL.save(tmp_path / "calm.onnx"), target="log_g")
    assert engine.head.kind == "generic"
    assert engine.explain(images(), "calm").raw.shape == (3, 4, 3)


def test_classes_and_options_that_are_not_there(engine: camrt.Engine) -> None:
    batch = images()
    for options, words in (
        ({"kind": "subset", "classes": [4]}, r"class 4 in classes= is out of range"),
        ({"kind": "subset", "classes": "imagenet"}, "for ImageNet's 1000 classes; this model has 4"),
        ({"kind": "subset", "classes": "nonesuch"}, "there is no set of classes 'nonesuch'"),
        ({"kind": "counterfactual", "against": 9}, "against=9 is out of range"),
    ):
        with pytest.raises(TargetError, match=words):
            engine.explain(batch, "calm", **options)
    for options, words in (
        ({"kind": "sum"}, "kind='sum' is not understood"),
        ({"classes": [1]}, "classes is for kind='subset'"),
        ({"kind": "subset", "classes": []}, "must be class indices"),
        ({"kind": "subset", "classes": [True]}, "must be class indices"),
        ({"against": 1}, "against is for kind='counterfactual'"),
        ({"kind": "counterfactual", "against": 1.5}, "must be a class index"),
        ({"average": True}, "average is for kind='subset'"),
    ):
        with pytest.raises(MethodError, match=words):
            engine.explain(batch, "calm", **options)


def test_a_model_that_is_not_calm(tmp_path: Path) -> None:
    plain = camrt.load(MODEL.save(tmp_path / "plain.onnx", metadata={}), target="A")
    with pytest.raises(MethodError, match="needs a CALM model"):
        plain.explain(images(), "calm")
    assert "needs a CALM model" in plain.describe()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps({"kind": "cake"}), "cannot be read"),
        (json.dumps({"kind": "calm"}), "cannot be read"),
        (
            json.dumps(
                {
                    "kind": "calm",
                    "probabilities": "probabilities",
                    "log_joint": "f",
                    "place_probabilities": "x",
                }
            ),
            "names 'f' for its log_joint",
        ),
        (
            json.dumps(
                {
                    "kind": "calm",
                    "probabilities": "probabilities",
                    "log_joint": "place_probabilities",
                    "place_probabilities": "log_joint",
                }
            ),
            r"no \(N, C, h, w\)",
        ),
    ],
)
def test_files_that_say_what_they_are_not(tmp_path: Path, said: str, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        camrt.load(MODEL.save(tmp_path / "calm.onnx", metadata={"camrt.head": said}))


def test_a_file_whose_probabilities_do_not_add_up(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="do not add up"):
        camrt.load(MODEL.save(tmp_path / "calm.onnx", scale=1.1))


def test_what_is_not_finite_is_no_map(engine: camrt.Engine) -> None:
    batch = images()
    batch[1] = np.nan
    with pytest.raises(camrt.errors.InputError):
        engine.explain(batch, "calm")


def test_the_joint_is_fetched_for_calm_alone(engine: camrt.Engine) -> None:
    names: list[list[str]] = []
    run = engine._model

    def watch(batch: Any, fetch: Any = None, beside: Any = None) -> Any:
        names.append(list(fetch))
        return run(batch, fetch, beside)

    engine._model = watch  # type: ignore[assignment]
    try:
        engine.explain(images(), "activation")
        engine.explain(images(), "calm")
    finally:
        engine._model = run
    assert [JOINT in fetched for fetched in names] == [False, True]


def test_a_set_is_a_partition() -> None:
    for name in ("imagenet", "imagenet-outermost"):
        numbers = class_sets(name, 1000)
        assert set(numbers) == set(range(numbers.max() + 1))
    np.testing.assert_array_equal(class_sets("all", 7), np.zeros(7))
