"""Adversarial patches: the attack against a slow oracle, gradients, and what an example must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import camrt
from camrt.engine.engine import Engine
from camrt.engine.images.preprocess import Preprocessing
from camrt.errors import DataError, InputError, TargetError
from camrt.evaluation.adversarial_patches.attack import (
    attack_patches,
    engine_gradient,
    input_range,
)
from camrt.evaluation.adversarial_patches.builders import (
    MOST_PATCHES,
    AttackOptions,
    PatchPlan,
    build_ae1,
    build_ae2,
)
from camrt.evaluation.adversarial_patches.examples import AdversarialExamples
from helpers.oracles import patches as oracle
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, Classifier, classifier, save

SIDE, CLASSES = 24, 12
WIDE = Preprocessing(size=(SIDE, SIDE), mean=(0.5, 0.4, 0.6), std=(0.005,) * 3)
"""A range so wide that a patch on a twentieth of a pooled map can win."""


def softmax64(logits: Any) -> Any:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def linear(weight: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """logit_c = Σ weight_c · x, with its exact gradient, in float64."""

    def gradient(images: Any, targets: Any) -> tuple[Any, Any]:
        shares = softmax64(np.einsum("nchw,kchw->nk", images.astype(np.float64), weight))
        return shares, np.einsum("nk,kchw->nchw", shares - np.eye(len(weight))[targets], weight)

    return gradient


@pytest.fixture(scope="module")
def small() -> Classifier:
    part = HEADS["gap-flatten-gemm"].make(np.random.default_rng(0), 16, SIDE // 2, SIDE // 2, CLASSES)
    return classifier(part, np.random.default_rng(1))


@pytest.fixture(scope="module")
def engine(small: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = save(small.model, tmp_path_factory.mktemp("patches") / "small.onnx")
    return camrt.load(path, preprocessing=WIDE, batch_size=8)


@pytest.fixture(scope="module")
def scenes() -> Any:
    return np.random.default_rng(5).uniform(-50, 50, (2, 3, SIDE, SIDE)).astype(np.float32)


# ---------------------------------------------------------------- the attack


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(2, 7),
    width=st.integers(2, 7),
    channels=st.integers(1, 3),
    count=st.integers(1, 4),
    steps=st.integers(1, 30),
    confidence=st.sampled_from([0.3, 0.6, 0.9, 0.999]),
    sharpness=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_a_slow_attack_ends_in_the_same_image(
    seed: int,
    height: int,
    width: int,
    channels: int,
    count: int,
    steps: int,
    confidence: float,
    sharpness: float,
) -> None:
    rng = np.random.default_rng(seed)
    gradient = linear(sharpness * rng.standard_normal((4, channels, height, width)))
    starts = np.stack([rng.integers(0, height, count), rng.integers(0, width, count)], axis=1)
    ends = np.stack([rng.integers(starts[:, 0], height), rng.integers(starts[:, 1], width)], axis=1) + 1
    boxes, targets = np.concatenate([starts, ends], axis=1), rng.integers(0, 4, count)
    low, high = -rng.random(channels), rng.random(channels) + 0.1
    found = attack_patches(
        gradient,
        (height, width),
        channels,
        boxes,
        targets,
        low=low,
        high=high,
        eta=0.07,
        steps=steps,
        confidence=confidence,
    )
    for index in range(count):
        image, reached, taken, probability = oracle.attack(
            lambda x, t=targets[index]: tuple(part[0] for part in gradient(x[None], np.array([t]))),
            (channels, height, width),
            boxes[index],
            int(targets[index]),
            low,
            high,
            eta=0.07,
            steps=steps,
            confidence=confidence,
        )
        assert (found.reached[index], found.steps[index]) == (reached, taken)
        # Every step is rounded to float32 once, and the logits multiply that by the sharpness.
        assert_close(found.images[index], image, "float32", factor=4)
        assert abs(found.probabilities[index] - probability) < 1e-4


def test_one_step_by_hand() -> None:
    """Slopes of one sign move the patch by η times the range, its own in each channel, and nothing else."""
    weight = np.zeros((2, 2, 3, 3))
    weight[0, 0], weight[0, 1] = 1.0, -1.0
    found = attack_patches(
        linear(weight), (3, 3), 2, [[0, 1, 2, 3]], [0], low=[-1, -2], high=[1, 4], eta=0.1, steps=1
    )
    expected = np.zeros((2, 3, 3))
    expected[0, :2, 1:], expected[1, :2, 1:] = 0.2, -0.6
    assert_close(found.images[0], expected, "float32")
    assert_close(found.probabilities, [1 / (1 + np.exp(-(0.8 + 2.4)))], "float32")
    assert found.reached.tolist() == [True]
    assert found.steps.tolist() == [1]


def test_each_patch_is_attacked_as_if_alone_and_no_longer_than_needed() -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((5, 1, 6, 6))
    boxes, targets = np.array([[0, 0, 2, 2], [1, 1, 6, 6], [0, 3, 6, 5]]), np.array([1, 2, 3])
    asked: list[int] = []

    def counted(images: Any, wanted: Any) -> tuple[Any, Any]:
        asked.append(len(images))
        return linear(weight)(images, wanted)

    together = attack_patches(counted, (6, 6), 1, boxes, targets, low=-1, high=1)
    assert sum(asked) == (together.steps + 1).sum()
    for index in range(3):
        alone = attack_patches(
            linear(weight), (6, 6), 1, boxes[index : index + 1], targets[index : index + 1], low=-1, high=1
        )
        assert alone.images[0].tobytes() == together.images[index].tobytes()
        assert alone.steps[0] == together.steps[index]


def test_a_patch_that_cannot_move_any_more_is_given_up() -> None:
    """Two classes of one logit tie for ever: four quarters reach the end, and the fifth moves nothing."""
    weight = np.zeros((3, 1, 2, 2))
    weight[:2] = 0.01
    found = attack_patches(linear(weight), (2, 2), 1, [[0, 0, 1, 1]], [1], low=-1, high=1, eta=0.125)
    assert found.images[0, 0].tolist() == [[1, 0], [0, 0]]
    assert not found.reached[0]
    assert found.steps[0] == 4
    flat = attack_patches(linear(np.zeros((3, 1, 2, 2))), (2, 2), 1, [[0, 0, 1, 1]], [1], low=-1, high=1)
    assert flat.steps[0] == 0
    assert not flat.images.any()


@pytest.mark.parametrize("broken", ["probabilities", "slopes"])
def test_what_is_not_finite_is_a_failure_of_that_patch_alone(broken: str) -> None:
    weight = np.random.default_rng(4).standard_normal((3, 1, 4, 4))

    def gradient(images: Any, targets: Any) -> tuple[Any, Any]:
        shares, slopes = linear(weight)(images, targets)
        spoiled = (targets == 0) & images.any(axis=(1, 2, 3))  # after the first step
        (shares if broken == "probabilities" else slopes)[spoiled] = np.nan
        return shares, slopes

    boxes = [[0, 0, 3, 3], [0, 0, 4, 4]]
    found = attack_patches(gradient, (4, 4), 1, boxes, [0, 1], low=-1, high=1, confidence=0.99)
    assert found.reached.tolist() == [False, True]
    assert found.steps[0] == 1
    assert np.isfinite(found.images).all()
    assert np.isnan(found.probabilities[0]) == (broken == "probabilities")


def test_the_first_class_must_be_the_target_however_low_the_confidence() -> None:
    weight = np.zeros((3, 1, 2, 2))
    weight[1], weight[2] = 1.0, -1.0
    found = attack_patches(
        linear(weight), (2, 2), 1, [[0, 0, 2, 2]], [2], low=-1, high=1, confidence=0.1, eta=0.01
    )
    assert found.steps[0] == 1  # at zero all three are equal, and the first of them is class 0
    assert found.reached[0]


def test_nothing_to_attack() -> None:
    found = attack_patches(
        linear(np.zeros((2, 1, 4, 4))), (4, 4), 1, np.zeros((0, 4), int), np.zeros(0, int), low=-1, high=1
    )
    assert found.images.shape == (0, 1, 4, 4)
    assert len(found.reached) == len(found.steps) == len(found.probabilities) == 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"low": 0.5}, InputError, "must hold zero"),
        ({"high": [1.0, 1.0]}, InputError, "one for each of 1 channels"),
        ({"high": np.nan}, InputError, "high must be a number"),
        ({"eta": 0}, InputError, "eta=0"),
        ({"steps": 0}, InputError, "steps=0"),
        ({"confidence": 1.5}, InputError, "confidence=1.5"),
        ({"patches": [0, 0, 2, 2]}, InputError, r"must be \(P, 4\)"),
        ({"patches": [[0, 0, 5, 2]]}, InputError, "outside a map of 4×4"),
        ({"targets": [2], "gradient": lambda x, t: (np.ones((1, 2)), x)}, TargetError, "class 2 is out"),
        ({"targets": [-1]}, TargetError, "as many targets"),
        ({"targets": [0, 1]}, TargetError, "as many targets"),
        ({"gradient": lambda x, t: (np.ones((1, 2)), x[0])}, InputError, "gradient gave"),
    ],
)
def test_an_attack_refuses(change: dict[str, Any], error: type[Exception], words: str) -> None:
    given: dict[str, Any] = {
        "gradient": linear(np.ones((2, 1, 4, 4))),
        "size": (4, 4),
        "channels": 1,
        "patches": [[0, 0, 2, 2]],
        "targets": [0],
        "low": -1,
        "high": 1,
    }
    given |= change
    with pytest.raises(error, match=words):
        attack_patches(**given)


# ---------------------------------------------------------------- gradients and ranges


def test_the_engine_gives_the_gradient_of_the_cross_entropy(tmp_path: Path) -> None:
    part = HEADS["gap-flatten-gemm"].make(np.random.default_rng(2), 4, 3, 3, 5)
    whole = classifier(part, np.random.default_rng(3))
    engine = camrt.load(save(whole.model, tmp_path / "tiny.onnx"), batch_size=2)
    images = np.random.default_rng(4).standard_normal((5, 3, 6, 6)).astype(np.float32)
    targets = np.array([0, 1, 2, 3, 4])
    shares, slopes = engine_gradient(engine)(images, targets)
    assert_close(shares, softmax64(whole.logits64(images)), "float32")
    for n in range(5):
        expected = oracle.cross_entropy_slope(
            lambda x: whole.logits64(x[None])[0], images[n], int(targets[n]), 1e-6
        )
        # Central differences of a float64 loss keep about ten digits, fewer than the graph's float32 loses.
        assert_close(slopes[n], expected, "float32", factor=4)
    with pytest.raises(TargetError, match="class 5 is out of range"):
        engine_gradient(engine)(images[:1], np.array([5]))


def test_torch_gives_the_same() -> None:
    torch_nets = pytest.importorskip("helpers.torch_nets")
    import torch

    net = torch_nets.build_net(torch_nets.Modular, seed=1)
    images, targets = torch_nets.random_images(2, 7, 6), np.array([1, 4])
    gradient = engine_gradient(camrt.load(net, example=images[:1]))
    shares, slopes = gradient(images, targets)
    twin = torch_nets.build_net(torch_nets.Modular, seed=1).double()

    def logits(image: Any) -> Any:
        with torch.no_grad():
            return twin(torch.from_numpy(image)[None]).numpy()[0]

    for n in range(2):
        assert_close(shares[n], softmax64(logits(images[n].astype(np.float64))), "float32")
        expected = oracle.cross_entropy_slope(logits, images[n], int(targets[n]), 1e-6)
        assert_close(slopes[n], expected, "float32", factor=4)  # a deeper network in float32
    assert all(parameter.grad is None for parameter in net.parameters())
    with pytest.raises(TargetError, match="class 5 is out of range"):
        gradient(images, np.array([0, 5]))


@pytest.mark.parametrize(
    "steps",
    [
        WIDE,
        Preprocessing.named("imagenet", (5, 5)),
        Preprocessing.named("tf", (5, 5)),
        Preprocessing(size=(5, 5), mean=(104.0, 117.0, 123.0), scale=1.0, colours="BGR"),
    ],
)
def test_the_range_is_that_of_black_and_white_images(steps: Preprocessing) -> None:
    from PIL import Image

    for limit, colour in zip(input_range(steps), ("black", "white"), strict=True):
        seen = steps.array(steps.view(Image.new("RGB", (5, 5), colour)))
        np.testing.assert_array_equal(seen.max(axis=(1, 2)), limit)


# ---------------------------------------------------------------- examples


def single(examples: AdversarialExamples, n: int, k: int) -> Any:
    """Patch k of image n on zeros."""
    r0, c0, r1, c1 = examples.boxes[n][k]
    alone = np.zeros_like(examples.images[n])
    alone[:, r0:r1, c0:c1] = examples.images[n][:, r0:r1, c0:c1]
    return alone


def check_patches(examples: AdversarialExamples, small: Classifier) -> None:
    low, high = input_range(WIDE)
    for n in range(len(examples)):
        boxes, classes = examples.boxes[n], examples.classes[n]
        assert len(set(classes.tolist())) == len(classes)
        cells = {(int(r0) * 3 // SIDE, int(c0) * 3 // SIDE) for r0, c0, _, _ in boxes}
        assert len(cells) == len(boxes)
        for k, (r0, c0, r1, c1) in enumerate(boxes):
            assert (r1 - 1) * 3 // SIDE == r0 * 3 // SIDE
            assert (c1 - 1) * 3 // SIDE == c0 * 3 // SIDE
            assert all(round(0.15 * SIDE) <= side <= round(0.2 * SIDE) for side in (r1 - r0, c1 - c0))
            alone = single(examples, n, k)
            assert (alone <= high[:, None, None]).all()
            assert (alone >= low[:, None, None]).all()
            shares = softmax64(small.logits64(alone[None]))[0]
            assert abs(shares[classes[k]] - examples.alone[n][k]) < 1e-4
            assert (shares.argmax() == classes[k] and shares[classes[k]] > 0.8999) == examples.succeeded[n][k]
        assert examples.succeeded[n][examples.chosen[n]]
    together = softmax64(small.logits64(examples.images))[np.arange(len(examples)), examples.targets]
    np.testing.assert_allclose(examples.probabilities, together, atol=1e-4)
    np.testing.assert_array_equal(
        [own[0] for own in examples.target_boxes],
        [own[k] for own, k in zip(examples.boxes, examples.chosen, strict=True)],
    )


def test_ae2_is_patches_on_zeros_each_seen_as_its_class(engine: Engine, small: Classifier) -> None:
    examples = build_ae2(engine, 4, patches=2, seed=1, options=AttackOptions(tries=30))
    assert (examples.kind, len(examples), examples.left_out) == ("ae2", 4, 0)
    assert examples.images.dtype == np.float32
    assert examples.model == engine.sha256
    assert examples.scenes.tolist() == [-1] * 4
    check_patches(examples, small)
    for n in range(4):
        total = sum(single(examples, n, k) for k in range(2))
        np.testing.assert_array_equal(examples.images[n], total)
    assert all(own.all() for own in examples.succeeded)
    assert examples.attempts - examples.failures == 8
    assert examples.failures > 0  # some places and classes are out of reach, and are tried again


def test_ae1_is_per_image_with_its_pixels_under_patches_replaced(
    engine: Engine, small: Classifier, scenes: Any
) -> None:
    labels = np.array([3, 7])
    examples = build_ae1(engine, scenes, 3, labels=labels, patches=2, seed=2)
    assert examples.kind == "ae1"
    assert examples.scenes.tolist() == [0, 1, 0]
    check_patches(examples, small)
    for n, scene in enumerate(examples.scenes):
        outside = np.ones((SIDE, SIDE), bool)
        for r0, c0, r1, c1 in examples.boxes[n]:
            outside[r0:r1, c0:c1] = False
        np.testing.assert_array_equal(examples.images[n][:, outside], scenes[scene][:, outside])
        assert labels[scene] not in examples.classes[n]


def test_a_fresh_network_sees_the_class_in_each_patch_of_a_file(
    engine: Engine, small: Classifier, scenes: Any, tmp_path: Path
) -> None:
    """AE1 as it is saved, read with NumPy alone and shown to ONNX Runtime alone: patches on zeros (E3)."""
    labels = np.array([3, 7])
    build_ae1(engine, scenes, 2, labels=labels, patches=3, seed=8).save(tmp_path / "ae1.npz")
    fresh = onnxruntime.InferenceSession(save(small.model, tmp_path / "fresh.onnx"))
    with np.load(tmp_path / "ae1.npz") as archive:
        found = dict(archive)
    assert len(found["images"]) == 2
    first, seen = 0, 0
    for n, (image, patches) in enumerate(zip(found["images"], found["each"], strict=True)):
        own = slice(first, first + patches)
        first += patches
        boxes, classes, succeeded = (found[name][own] for name in ("boxes", "classes", "succeeded"))
        alone = np.zeros((patches, *image.shape), np.float32)
        for k, (r0, c0, r1, c1) in enumerate(boxes):
            alone[k, :, r0:r1, c0:c1] = image[:, r0:r1, c0:c1]
        (logits,) = fresh.run(None, {"images": alone})
        shares = softmax64(logits.astype(np.float64))
        sees = (shares.argmax(axis=1) == classes) & (shares[range(patches), classes] > 0.8999)
        np.testing.assert_array_equal(sees, succeeded)
        assert sees[found["chosen"][n]]
        seen += int(sees.sum())
    assert seen > 2
    (logits,) = fresh.run(None, {"images": np.zeros((1, 3, SIDE, SIDE), np.float32)})
    assert softmax64(logits.astype(np.float64)).max() < 0.5  # it is the patches that are seen


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(engine: Engine) -> None:
    one, two, other = (build_ae2(engine, 2, patches=2, seed=seed) for seed in (4, 4, 5))
    assert one.images.tobytes() == two.images.tobytes()
    assert one.chosen.tolist() == two.chosen.tolist()
    assert one.images.tobytes() != other.images.tobytes()


def test_per_image_depends_on_its_number_and_not_on_the_others(engine: Engine) -> None:
    many = build_ae2(engine, 3, patches=2, seed=4)
    few = build_ae2(engine, 1, patches=2, seed=4, options=AttackOptions(batch_size=1))
    np.testing.assert_array_equal(few.boxes[0], many.boxes[0])
    np.testing.assert_array_equal(few.classes[0], many.classes[0])
    np.testing.assert_allclose(few.images[0], many.images[0], rtol=1e-6)


def test_the_attack_may_go_through_torch(
    engine: Engine, small: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any gradient will do; that a patch has succeeded is the engine's word."""

    def refused(*_: Any) -> Any:
        raise AssertionError("the engine's gradient was asked for")

    through = engine_gradient(engine)
    examples = build_ae2(engine, 1, patches=1, gradient=lambda x, t: through(x, t))
    monkeypatch.setattr(engine, "input_gradients", refused)
    assert len(examples) == 1
    sure = np.eye(CLASSES)

    def boasting(images: Any, targets: Any) -> tuple[Any, Any]:
        return sure[targets], np.zeros_like(images)

    # A gradient that says every target is reached at once: the engine sees zeros, the same class for all.
    empty = np.zeros((1, 3, SIDE, SIDE), np.float32)
    seen = int(engine.predict(empty).argmax())
    with pytest.raises(DataError, match="none of 6 attacks"):
        build_ae1(
            engine,
            empty,
            1,
            labels=[seen],
            patches=2,
            gradient=boasting,
            options=AttackOptions(tries=3),
        )


def test_failures_are_counted_and_stay_visible(tmp_path: Path) -> None:
    part = HEADS["gap-flatten-gemm"].make(np.random.default_rng(2), 16, SIDE // 2, SIDE // 2, CLASSES)
    path = save(classifier(part, np.random.default_rng(3)).model, tmp_path / "hard.onnx")
    hard = camrt.load(path, preprocessing=replace(WIDE, std=(0.02,) * 3))
    options = AttackOptions(tries=6, steps=60)
    examples = build_ae2(hard, 6, patches=3, options=options)
    won = sum(int(own.sum()) for own in examples.succeeded)
    lost = sum(int((~own).sum()) for own in examples.succeeded)
    assert len(examples) + examples.left_out == 6
    assert examples.left_out > 0
    assert lost > 0
    assert examples.attempts - examples.failures == won
    assert examples.failures >= 6 * (lost + 3 * examples.left_out)
    assert all(own[k] for own, k in zip(examples.succeeded, examples.chosen, strict=True))
    with pytest.raises(DataError, match=r"none of 6 attacks reached its class with p >= 0\.9"):
        build_ae2(hard, 2, patches=3, options=AttackOptions(tries=1, steps=1))


def test_what_is_drawn_is_drawn_evenly() -> None:
    plans = [PatchPlan.draw(0, number, None, 20, None) for number in range(1800)]
    counts = np.bincount([len(plan.cells) for plan in plans], minlength=MOST_PATCHES + 1)
    assert counts[0] == 0
    assert counts[1:].min() > 140  # 200 expected, standard deviation 13
    cells = np.bincount(np.concatenate([plan.cells for plan in plans]), minlength=MOST_PATCHES)
    assert cells.min() > 0.93 * cells.mean()
    first = np.bincount(
        [plan.choose_explained([True] * 9) or 0 for plan in plans if len(plan.cells) == 9], minlength=9
    )
    assert first.min() > 5
    boxes = np.array([plan.draw_trial(0, 0, (200, 100))[1] for plan in plans])
    heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (heights.min(), heights.max(), widths.min(), widths.max()) == (30, 40, 15, 20)
    assert abs(heights.mean() - 35) < 0.3
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.1


def test_later_tries_of_two_patches_never_meet_in_one_class() -> None:
    plan = PatchPlan.draw(3, 0, 4, 10, 6)
    tried = [{plan.draw_trial(patch, attempt, (60, 60))[0] for attempt in range(12)} for patch in range(4)]
    assert sum(map(len, tried)) == 9
    assert set().union(*tried) == set(range(10)) - {6}


def test_saved_and_read_again(engine: Engine, tmp_path: Path) -> None:
    examples = build_ae2(engine, 3, patches=2, seed=6)
    # Images with different numbers of patches.
    examples = replace(
        examples,
        **{name: (getattr(examples, name)[0][:1], *getattr(examples, name)[1:]) for name in RAGGED},
        chosen=np.array([0, 1, 0]),
    )
    path = examples.save(tmp_path / "set.npz")
    assert [item.name for item in tmp_path.iterdir()] == ["set.npz"]
    again = AdversarialExamples.load(path)
    for name in ("images", "chosen", "probabilities", "scenes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(examples, name))
    for name in RAGGED:
        for one, other in zip(getattr(again, name), getattr(examples, name), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    for name in ("kind", "attempts", "failures", "left_out", "model"):
        assert getattr(again, name) == getattr(examples, name)
        assert type(getattr(again, name)) is type(getattr(examples, name))


RAGGED = ("boxes", "classes", "alone", "succeeded")


def test_wrong_files_are_said_to_be(engine: Engine, tmp_path: Path) -> None:
    path = build_ae2(engine, 1, patches=1).save(tmp_path / "set.npz")
    whole = path.read_bytes()
    with np.load(path) as archive:
        arrays = dict(archive)
    files = {
        "text.npz": b"not an archive",
        "empty.npz": b"",
        "cut.npz": whole[: len(whole) // 2],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "other.npz", maps=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "later.npz", **{**arrays, "format": "camrt.adversarial_examples/9"})
    np.savez(tmp_path / "short.npz", **{**arrays, "chosen": np.zeros(2, np.int64)})
    np.savez(tmp_path / "outside.npz", **{**arrays, "chosen": np.array([4])})
    np.savez(tmp_path / "pickled.npz", **{**arrays, "kind": np.array([{}], object)})
    names = (*files, "other.npz", "array.npy", "pickled.npz", "missing.npz")
    for name in names:
        with pytest.raises(DataError, match="is not a file of adversarial examples"):
            AdversarialExamples.load(tmp_path / name)
    with pytest.raises(DataError, match="/9"):
        AdversarialExamples.load(tmp_path / "later.npz")
    with pytest.raises(DataError, match="does not belong to 1 images"):
        AdversarialExamples.load(tmp_path / "short.npz")
    with pytest.raises(DataError, match="patch 4 of 1"):
        AdversarialExamples.load(tmp_path / "outside.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "count=0"),
        ({"seed": -1}, "seed=-1"),
        ({"patches": 10}, "patches=10 must be a whole number from 1 to 9"),
        ({"images": np.zeros((1, 3, 5, 5), np.float32)}, r"images must be \(M, 3, 24, 24\)"),
        ({"images": np.zeros((1, 3, 24, 24), int)}, "finite floats"),
        ({"images": np.full((1, 3, 24, 24), np.nan)}, "finite floats"),
        ({"labels": [1, 2]}, "labels must be 1 classes"),
    ],
)
def test_builders_refuse(engine: Engine, change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"images": np.zeros((1, 3, SIDE, SIDE), np.float32), "count": 1, "patches": 1}
    with pytest.raises(InputError, match=words):
        build_ae1(engine, **(given | change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eta": -0.1}, "eta=-0.1"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"confidence": 0}, "confidence=0"),
        ({"tries": 0}, "tries=0"),
        ({"batch_size": True}, "batch_size=True"),
    ],
)
def test_options_refuse(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        AttackOptions(**change)


def test_a_model_with_too_few_classes_or_no_range_is_refused(tmp_path: Path, small: Classifier) -> None:
    part = HEADS["gap-flatten-gemm"].make(np.random.default_rng(0), 4, 3, 3, 3)
    path = save(classifier(part, np.random.default_rng(1)).model, tmp_path / "few.onnx")
    few = camrt.load(path, preprocessing=Preprocessing(size=(6, 6)))
    with pytest.raises(InputError, match="more than the 3 classes"):
        build_ae2(few, 1)
    with pytest.raises(InputError, match="more than the 3 classes"):
        build_ae2(few, 1, patches=4)
    with pytest.raises(InputError, match="range of the model's input is not known"):
        build_ae2(camrt.load(path), 1, patches=1)
