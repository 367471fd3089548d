from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.explanation import Explanation
from camrt.engine.methods import methods, single_methods
from camrt.engine.methods.pixab import PixabCAM
from camrt.engine.passes import PassCounts
from camrt.errors import MethodError
from helpers.few_passes import FEW_PASSES, OF_SPECIAL_MODELS, PRODUCTS, short
from helpers.oracles.classifiers import HEADS, SmallClassifier, classifier
from helpers.tolerances import assert_close

CELLS = (3, 5)
IMAGE = (3, 5, 9)
# Every method that each head admits; of products with guided back-propagation all on one head, one on others.
PAIRS = [
    (head, name)
    for head in HEADS
    for name in methods()
    if name not in OF_SPECIAL_MODELS
    and (head == HEADS[0] or name not in {"cam", *PRODUCTS} - {"guided-pixab"})
]
IDS = [f"{head}-{name}" for head, name in PAIRS]
EngineOf = Callable[..., camrt.Engine]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="module")
def engine_of(folder: Path) -> EngineOf:
    """Loads a small classifier by its head; each engine once."""
    loaded: dict[tuple[Any, ...], camrt.Engine] = {}

    def load(head: str, **options: Any) -> camrt.Engine:
        key = (head, *sorted(options.items()))
        if key not in loaded:
            loaded[key] = camrt.load(small(head).save(folder), target="activation", threads=1, **options)
        return loaded[key]

    return load


def small(head: str) -> SmallClassifier:
    return classifier(head, cells=CELLS, scale=1.0, trunk="convolve")


def batch(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *IMAGE)).astype(np.float32)


def close(found: Explanation, expected: Explanation) -> None:
    """Agreement of everything an image's neighbours must not change."""
    assert np.array_equal(found.targets, expected.targets)
    assert np.array_equal(found.flags, expected.flags)
    for name in ("logits", "probabilities", "scores"):
        assert_close(getattr(found, name), getattr(expected, name))
    # Differences of scores, which rounded otherwise in another batch.
    assert_close(found.raw, expected.raw, factor=4)
    assert_close(found.maps, expected.maps, factor=4)


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("targets", "shape"),
    [
        (None, (3,)),
        (2, (3,)),
        ([0, 3, 1], (3,)),
        ([[0], [3], [1]], (3, 1)),
        ([[0, 1, 1, 2, 3]] * 3, (3, 5)),
    ],
    ids=["predicted", "one-class", "N", "N-by-1", "N-by-5"],
)
@pytest.mark.parametrize(
    ("size", "pixels"), [("image", IMAGE[1:]), ("map", CELLS), ((2, 13), (2, 13))], ids=str
)
def test_shapes(
    engine_of: EngineOf, targets: Any, shape: tuple[int, ...], size: Any, pixels: tuple[int, int]
) -> None:
    engine = engine_of("pooled-network")
    found = engine.explain(batch(3), "ablation", targets=targets, size=size)
    assert found.maps.shape == (*shape, *pixels)
    assert found.raw.shape == (*shape, *CELLS)
    assert found.targets.shape == found.scores.shape == found.flags.shape == shape
    assert found.logits.shape == found.probabilities.shape == (3, 4)
    assert found.maps.dtype == found.raw.dtype == found.scores.dtype == np.float32
    assert found.targets.dtype == np.int64
    assert found.flags.dtype == np.uint8
    assert found.maps.min() >= 0
    assert found.maps.max() <= 1
    expected = engine.predict(batch(3)).argmax(axis=1) if targets is None else np.broadcast_to(targets, shape)
    assert np.array_equal(found.targets, expected)
    assert found.seconds > 0
    assert found.views is None
    assert found.labels is None
    assert found.method.startswith("AblationCAM(")


def test_each_target_has_its_own_map(engine_of: EngineOf) -> None:
    engine = engine_of("flattened-network")
    together = engine.explain(batch(2), "pixab", targets=[[3, 0, 3], [1, 2, 0]])
    for t in range(3):
        alone = engine.explain(batch(2), "pixab", targets=together.targets[:, t])
        assert_close(together.maps[:, t], alone.maps, factor=4)
        assert_close(together.scores[:, t], alone.scores)
    assert_close(together.maps[0, 0], together.maps[0, 2])


def test_size_map_and_image_hold_the_same_raw_map(engine_of: EngineOf) -> None:
    engine = engine_of("generic")
    image, cells = (engine.explain(batch(2), "pixab", size=size) for size in ("image", "map"))
    assert np.array_equal(image.raw, cells.raw)


# ---------------------------------------------------------------- what it costs


@pytest.mark.parametrize(("head", "name"), PAIRS, ids=IDS)
def test_several_targets_cost_the_passes_of_one(engine_of: EngineOf, head: str, name: str) -> None:
    engine = engine_of(head)
    engine.explain(batch(1), short(name))  # an engine may keep what it learns of the empty activation
    one = engine.explain(batch(2), short(name), targets=1)
    several = engine.explain(batch(2), short(name), targets=[[0, 1, 2, 3]] * 2).passes
    # only the ways back are one a target
    back = ("head_adjoint", "full_adjoint")
    if name == "aise":  # a search of each target's own
        assert several.full == 4 * one.passes.full
        return
    assert [getattr(several, part) for part in back] == [4 * getattr(one.passes, part) for part in back]
    assert replace(several, head_adjoint=0, full_adjoint=0) == replace(
        one.passes, head_adjoint=0, full_adjoint=0
    )
    assert one.passes.trunk == 2


@pytest.mark.parametrize(("head", "name"), PAIRS, ids=IDS)
def test_costs_are_upper_bounds(engine_of: EngineOf, head: str, name: str) -> None:
    engine = engine_of(head)
    cost = short(name).cost(engine.head, engine.map_shape)
    found = engine.explain(batch(3), short(name))
    assert found.passes.trunk == 3
    # What is run for the empty activation, or the empty image, is run once for the whole batch.
    assert found.passes.head <= 3 * cost.head
    assert found.passes.full <= 3 * cost.full
    assert (found.passes.head == 0) == (cost.head == 0)
    assert (found.passes.full == 0) == (cost.full == 0)
    assert found.passes.head_adjoint == 3 * cost.head_adjoint
    assert found.passes.full_adjoint == 3 * cost.full_adjoint


def test_linear_heads_cost_the_trunk_alone(engine_of: EngineOf) -> None:
    for head in ("pooled-linear", "flattened-linear"):
        for name in ("activation", "eigen", "ablation", "pixab", "gradcam", "hirescam"):
            assert engine_of(head).explain(batch(2), name).passes == PassCounts(trunk=2)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("head", "name"), PAIRS, ids=IDS)
def test_a_batch_is_its_images(engine_of: EngineOf, head: str, name: str) -> None:
    engine, images = engine_of(head), batch(4)
    targets = np.array([[0, 1], [3, 2], [2, 2], [1, 0]])
    together = engine.explain(images, short(name), targets=targets)
    for i in range(4):
        alone = engine.explain(images[i : i + 1], short(name), targets=targets[i : i + 1])
        assert_close(alone.logits[0], together.logits[i])
        assert_close(alone.scores[0], together.scores[i])
        assert_close(alone.raw[0], together.raw[i], factor=4)
        assert_close(alone.maps[0], together.maps[i], factor=4)
        assert np.array_equal(alone.flags[0], together.flags[i])


@pytest.mark.parametrize(("head", "name"), PAIRS, ids=IDS)
def test_batch_sizes(engine_of: EngineOf, head: str, name: str) -> None:
    images = batch(7)
    targets = np.arange(14).reshape(7, 2) % 4
    expected = engine_of(head).explain(images, short(name), targets=targets)
    for batch_size in (1, 3):
        engine = engine_of(head, batch_size=batch_size)
        close(engine.explain(images, short(name), targets=targets), expected)
        assert_close(engine.predict(images), expected.logits)


@pytest.mark.parametrize(("head", "name"), PAIRS, ids=IDS)
def test_threads_do_not_disturb_each_other(folder: Path, head: str, name: str) -> None:
    """A fresh engine, so that both threads also meet what is made ready on first use."""
    engine = camrt.load(small(head).save(folder), target="activation", threads=1)
    batches = [batch(3, seed) for seed in range(4)]
    start = threading.Barrier(2)

    def explain(pair: int) -> list[np.ndarray]:
        start.wait()
        return [engine.explain(images, short(name), targets=1).maps for images in batches[pair : pair + 2]]

    with ThreadPoolExecutor(2) as pool:
        found = [maps for both in pool.map(explain, (0, 2)) for maps in both]
    for maps, images in zip(found, batches, strict=True):
        assert np.array_equal(maps, engine.explain(images, short(name), targets=1).maps)


def test_the_same_question_has_the_same_answer(engine_of: EngineOf) -> None:
    engine = engine_of("generic")
    first, second = (engine.explain(batch(3), "pixab") for _ in range(2))
    assert np.array_equal(first.maps, second.maps)
    assert np.array_equal(first.raw, second.raw)


# ---------------------------------------------------------------- logits and probabilities


@pytest.mark.parametrize("ending", [None, "softmax", "sigmoid"], ids=["logits", "softmax", "sigmoid"])
@pytest.mark.parametrize("head", HEADS)
def test_logits_are_logits_and_probabilities_probabilities(
    tmp_path: Path, head: str, ending: str | None
) -> None:
    made = classifier(head, cells=CELLS, scale=1.0, trunk="convolve", ending=ending)
    engine = camrt.load(made.save(tmp_path), target="activation", threads=1)
    images = batch(3)
    logits = np.array([made.logits(x) for x in images])
    probabilities = np.array([made.scores_of_image("probability")(x) for x in images])
    assert_close(engine.predict(images), logits)
    assert_close(engine.probabilities(engine.predict(images)), probabilities, factor=4)
    for name in (name for pair, name in PAIRS if pair == head):
        # methods whose score depends on the model have None
        asked = name == "ablation" or getattr(methods()[name](), "score", "none") is None
        for kind in ("logit", "probability") if asked else (None,):
            options = FEW_PASSES.get(name, {}) | ({} if kind is None else {"score": kind})
            found = engine.explain(images, name, targets=2, **options)
            assert_close(found.logits, logits)
            assert_close(found.probabilities, probabilities, factor=4)
            expected = (probabilities if kind == "probability" else logits)[:, 2]
            assert_close(found.scores, expected, factor=4)
    own = {"score": probabilities, "ablation": logits, "pixab": probabilities}
    for name, scores in own.items():
        assert_close(engine.explain(images, name, targets=2).scores, scores[:, 2], factor=4)


def test_an_ending_changes_no_map_of_the_logit(tmp_path: Path) -> None:
    maps = []
    for ending in (None, "softmax", "sigmoid"):
        made = classifier("pooled-network", cells=CELLS, trunk="convolve", ending=ending)
        engine = camrt.load(made.save(tmp_path), target="activation", threads=1)
        maps.append(engine.explain(batch(2), "ablation", targets=1).maps)
    assert_close(maps[1], maps[0])
    assert_close(maps[2], maps[0])


@pytest.mark.parametrize("given", ["softmax", "sigmoid"])
def test_the_activation_can_be_said(tmp_path: Path, given: Any) -> None:
    engine = camrt.load(small("generic").save(tmp_path), target="activation", threads=1, activation=given)
    logits = engine.predict(batch(2)).astype(np.float64)
    raised = np.exp(logits)
    expected = raised / raised.sum(axis=1, keepdims=True) if given == "softmax" else raised / (1 + raised)
    assert_close(engine.probabilities(logits), expected, factor=4)


@pytest.mark.parametrize("name", ["score", "ablation", "pixab"])
def test_a_single_logit_is_a_sigmoid_s(tmp_path: Path, name: str) -> None:
    made = classifier("flattened-network", cells=CELLS, classes=1, trunk="convolve")
    engine = camrt.load(made.save(tmp_path), target="activation", threads=1)
    found = engine.explain(batch(3), name, score="probability")
    logits = np.array([made.logits(x) for x in batch(3)])
    assert_close(found.probabilities, 1 / (1 + np.exp(-logits)), factor=4)
    assert_close(found.scores, 1 / (1 + np.exp(-logits[:, 0])), factor=4)
    assert found.targets.tolist() == [0, 0, 0]
    assert found.maps.any()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_probabilities_of_extreme_logits(tmp_path: Path, kind: Any) -> None:
    engine = camrt.load(small("generic").save(tmp_path), target="activation", threads=1, activation=kind)
    logits = np.array([[3e38, -3e38, 0, 1], [-1e4, -1e4, -1e4, -2e4]], np.float32)
    expected = {
        "softmax": [[1, 0, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0]],
        "sigmoid": [[1, 0, 0.5, 1 / (1 + np.exp(-1))], [0, 0, 0, 0]],
    }[kind]
    assert_close(engine.probabilities(logits), expected)


# ---------------------------------------------------------------- the call


def test_a_method_object_or_its_name(engine_of: EngineOf) -> None:
    engine = engine_of("pooled-network")
    by_name = engine.explain(batch(2), "Pixab-CAM", boxes=[[1, 1]], score="logit", targets=1)
    method = PixabCAM(boxes=((1, 1),), score="logit")
    by_object = engine.explain(batch(2), method, targets=1)
    assert np.array_equal(by_name.maps, by_object.maps)
    assert by_name.method == by_object.method == repr(method)
    with pytest.raises(MethodError, match="go into the method itself"):
        engine.explain(batch(2), method, score="logit")
    with pytest.raises(MethodError, match="pixab has no option 'box'"):
        engine.explain(batch(2), box=1)
    with pytest.raises(MethodError, match="did you mean 'ablation'"):
        engine.explain(batch(2), "ablatoin")


def test_the_default_is_pixab(engine_of: EngineOf) -> None:
    found = engine_of("generic").explain(batch(1))
    assert found.method == repr(PixabCAM())


def test_labels_and_description(tmp_path: Path) -> None:
    engine = camrt.load(
        small("pooled-linear").save(tmp_path), target="activation", threads=1, labels=["a", "b", "c", "d"]
    )
    found = engine.explain(batch(2), "cam", targets=[2, 0])
    assert [found.label(i) for i in range(2)] == ["c", "a"]
    text = engine.describe()
    for name in single_methods():
        assert f"\n  {name} " in text
    assert "pooled-linear" in repr(engine)
    assert engine.map_shape.channels == 3
