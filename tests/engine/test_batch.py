from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import camrt
from camrt.engine.arrays import to_numpy
from camrt.engine.batch import join_batches, resolve_map_size
from camrt.engine.device import NUMPY_DEVICE
from camrt.engine.targets import make_target_chooser, parse_targets
from camrt.errors import CamrtError, InputError, TargetError
from helpers.few_passes import OF_SPECIAL_MODELS, short
from helpers.oracles.classifiers import classifier


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> camrt.Engine:
    """Three colours, 5×9 pixels, four classes."""
    small = classifier("pooled-network", cells=(3, 5), trunk="convolve")
    return camrt.load(small.save(tmp_path_factory.mktemp("inputs")), target="activation", threads=1)


@pytest.fixture(scope="module")
def imaged(tmp_path_factory: pytest.TempPathFactory) -> camrt.Engine:
    """The same, with a known preprocessing."""
    small = classifier("pooled-network", cells=(3, 5), trunk="convolve")
    path = small.save(tmp_path_factory.mktemp("imaged"))
    return camrt.load(path, target="activation", threads=1, preprocessing="unit")


def good(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 5, 9)).astype(np.float32)


def with_value(value: float, *images: int, count: int = 3) -> np.ndarray:
    batch = good(count)
    batch[list(images), 1, 2, 3] = value
    return batch


def with_infinities(image: int) -> np.ndarray:
    """Both signs, which a sum would make NaN of."""
    batch = with_value(np.inf, image)
    batch[image, 0] = -np.inf
    return batch


BATCHES: dict[str, tuple[Any, str]] = {
    "empty": (good()[:0], r"the batch is empty: its shape is \(0, 3, 5, 9\)"),
    "no-images": ([], "the batch is empty: it has no images"),
    "one-image": (
        good()[0],
        r"a batch has shape \(N, 3, 5, 9\), this one \(3, 5, 9\); one image is a batch of one",
    ),
    "five-axes": (good()[None], r"a batch has shape \(N, 3, 5, 9\), this one \(1, 2, 3, 5, 9\)$"),
    "a-number": (np.float32(1), r"a batch has shape \(N, 3, 5, 9\), this one \(1,\)$"),
    "one-colour": (
        good()[:, :1],
        r"takes 3 colour channels, this batch has 1: its shape \(2, 1, 5, 9\) should be \(N, 3, 5, 9\)",
    ),
    "no-colour": (good()[:, :0], "takes 3 colour channels, this batch has 0"),
    "last-axis-colours": (good().transpose(0, 2, 3, 1), "takes 3 colour channels, this batch has 5"),
    "height": (
        good()[:, :, :4],
        r"takes images of height 5, this batch has 4: its shape \(2, 3, 4, 9\) should be \(N, 3, 5, 9\)",
    ),
    "width": (good().repeat(2, axis=3), "takes images of width 9, this batch has 18"),
    "no-height": (good()[:, :, :0], "takes images of height 5, this batch has 0"),
    "nan": (with_value(np.nan, 1), "the batch holds NaN or infinity in image 1$"),
    "infinity": (with_value(np.inf, 0, 2), "the batch holds NaN or infinity in images 0, 2$"),
    "both-infinities": (with_infinities(2), "the batch holds NaN or infinity in image 2$"),
    "many": (
        with_value(np.nan, *range(12), count=12),
        "NaN or infinity in images 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …$",
    ),
    "beyond-float32": (with_value(1, 0).astype(np.float64) * 1e300, "NaN or infinity in images 0, 1, 2$"),
    "integers": (
        np.ones((2, 3, 5, 9), np.uint8),
        "holds float32 model inputs, this one uint8; for raw pixels pass a list of images",
    ),
    "booleans": (np.ones((2, 3, 5, 9), bool), "holds float32 model inputs, this one bool"),
    "complex": (good().astype(np.complex64), "holds float32 model inputs, this one complex64"),
    "objects": (good().astype(object), "holds float32 model inputs, this one object"),
    "nothing": (None, r"a float32 array \(N, C, H, W\) or a list of images, not NoneType"),
    "iterator": (iter(good()), "or a list of images, not "),
    "images": (
        [np.zeros((5, 9, 3), np.uint8)],
        r"preprocessing is not known.*pass preprocessing= to camrt.load.*or pass a float32 array",
    ),
    "path": ("image.png", "preprocessing is not known"),
    "pillow": (Image.new("RGB", (9, 5)), "preprocessing is not known"),
}


@pytest.mark.parametrize(("batch", "text"), BATCHES.values(), ids=BATCHES)
def test_bad_batches(engine: camrt.Engine, batch: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        engine.explain(batch, "activation")
    if not hasattr(batch, "__next__"):
        with pytest.raises(InputError, match=text):
            engine.predict(batch)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_of_any_width(engine: camrt.Engine, dtype: str) -> None:
    batch = np.round(good() * 64) / 64  # exact in all of them
    expected = engine.predict(batch.astype(np.float32))
    assert np.array_equal(engine.predict(batch.astype(dtype)), expected)


def test_any_strides(engine: camrt.Engine) -> None:
    batch = good(4)
    expected = engine.predict(batch[::-2])
    assert np.array_equal(engine.predict(np.ascontiguousarray(batch[::-2])), expected)
    channels_last = np.ascontiguousarray(batch[::-2].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.array_equal(engine.predict(channels_last), expected)


def test_the_caller_s_batch_is_left_alone(engine: camrt.Engine) -> None:
    batch = good()
    batch.flags.writeable = False
    for name in camrt.methods():
        if name not in ("cam", "guided-cam", *OF_SPECIAL_MODELS):
            engine.explain(batch, short(name))
    assert np.array_equal(batch, good())


def test_images(imaged: camrt.Engine, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    batch = (pixels.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    expected = imaged.predict(batch)
    for given in (str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(pixels), [pixels]):
        assert np.abs(imaged.predict(given) - expected).max() < 1e-5
    found = imaged.explain([pixels, tmp_path / "a.png"], "activation")
    assert found.views is not None
    assert [view.size for view in found.views] == [(9, 5)] * 2
    assert imaged.explain(batch, "activation").views is None
    with pytest.raises(CamrtError, match=r"missing\.png"):
        imaged.predict([tmp_path / "missing.png"])


TARGETS: dict[str, tuple[Any, str]] = {
    "float": (1.0, r"class indices \(whole numbers\), these are float64"),
    "floats": ([0.0, 1.0], "these are float64"),
    "text": ("tabby", r"the class names are not known"),
    "boolean": (True, "these are bool"),
    "booleans": ([True, False], "these are bool"),
    "nothing": ([], "these are float64"),
    "objects": ([None, 1], "these are object"),
    "negative": (-1, "class -1 is out of range: the model has classes 0 to 3"),
    "one-negative": ([2, -3], "class -3 is out of range"),
    "too-large": (4, "class 4 is out of range: the model has classes 0 to 3"),
    "one-too-large": ([[0, 1], [9, 2]], "class 9 is out of range"),
    "huge": (np.array([2**63, 0], np.uint64), "class 9223372036854775808 is out of range"),
    "short": ([1], r"targets have shape \(1,\); for a batch of 2 give None, one class, \(2,\) or \(2, T\)"),
    "long": ([0, 1, 2], r"targets have shape \(3,\); for a batch of 2"),
    "short-rows": ([[0, 1, 2, 3]], r"targets have shape \(1, 4\); for a batch of 2"),
    "transposed": (np.zeros((3, 2), int), r"targets have shape \(3, 2\); for a batch of 2"),
    "no-columns": (np.zeros((2, 0), int), r"targets have shape \(2, 0\); for a batch of 2"),
    "no-rows": (np.zeros((0,), int), r"targets have shape \(0,\); for a batch of 2"),
    "three-axes": (np.zeros((2, 1, 1), int), r"targets have shape \(2, 1, 1\); for a batch of 2"),
}


@pytest.mark.parametrize(("targets", "text"), TARGETS.values(), ids=TARGETS)
def test_bad_targets(engine: camrt.Engine, targets: Any, text: str) -> None:
    with pytest.raises(TargetError, match=text):
        engine.explain(good(), "activation", targets=targets)


def test_ragged_targets(engine: camrt.Engine) -> None:
    with pytest.raises(TargetError, match="targets have rows of different lengths"):
        engine.explain(good(), "activation", targets=[[0, 1], [2]])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64", ">i2"])
def test_targets_of_any_width(dtype: str) -> None:
    found, several = parse_targets(np.array([3, 0], dtype), 2, 4)
    assert found.dtype == np.int64
    assert found.tolist() == [[3], [0]]
    assert not several


def test_forms_of_targets() -> None:
    logits = np.array([[0, 2, 2], [5, 1, 1]], np.float32)
    found, are_several = make_target_chooser(None, 2, 3, NUMPY_DEVICE, to_numpy)(slice(None), logits)
    assert (found.tolist(), are_several) == ([[1], [0]], False)  # the first of equal ones
    for targets, expected, several in [
        (2, [[2], [2]], False),
        (np.int64(2), [[2], [2]], False),
        ([2, 0], [[2], [0]], False),
        ((2, 0), [[2], [0]], False),
        ([[2], [0]], [[2], [0]], True),
        ([[2, 2], [0, 1]], [[2, 2], [0, 1]], True),
    ]:
        found, are_several = parse_targets(targets, 2, 3)
        assert found.tolist() == expected
        assert are_several == several


SIZES: dict[str, Any] = {
    "text": "large",
    "digits": "12",
    "empty": "",
    "number": 12,
    "nothing": None,
    "one-side": (12,),
    "three-sides": (3, 12, 12),
    "zero": (0, 12),
    "negative": (12, -1),
    "too-large": (16385, 12),
    "beyond-any-integer": (12, 10**30),
    "fraction": (12.5, 12),
    "float": (12.0, 12.0),
    "texts": ("12", "12"),
    "floats": np.array([12.0, 12.0]),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_bad_sizes(engine: camrt.Engine, size: Any) -> None:
    with pytest.raises(
        InputError, match=r"size=.* must be 'image', 'map', 'original' or \(height, width\) in pixels"
    ):
        engine.explain(good(), "activation", size=size)


@pytest.mark.parametrize("size", [(4, 6), [4, 6], np.array([4, 6]), (np.int32(4), np.uint8(6))], ids=repr)
def test_sizes(size: Any) -> None:
    assert resolve_map_size(size, (1, 2), (3, 4)) == (4, 6)
    assert resolve_map_size("image", (1, 2), (3, 4)) == (1, 2)
    assert resolve_map_size("map", (1, 2), (3, 4)) == (3, 4)


def test_nothing_is_run_for_a_wrong_question(engine: camrt.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(engine, "_model", never)
    for wrong in ({"size": "large"}, {"targets": 9}, {"method": "nonsense"}, {"definition": "nonsense"}):
        with pytest.raises(CamrtError):
            engine.explain(good(), **{"method": "score", **wrong})


# ---------------------------------------------------------------- prepared batches


def test_a_prepared_batch_answers_as_the_batch_does(imaged: camrt.Engine) -> None:
    picture = Image.fromarray(np.arange(135, dtype=np.uint8).reshape(5, 9, 3))
    for given in (good(), [picture, picture]):
        prepared = imaged.prepare(given)
        assert np.array_equal(imaged.predict(prepared), imaged.predict(given))
        found, expected = imaged.explain(prepared, "pixab"), imaged.explain(given, "pixab")
        assert np.array_equal(found.maps, expected.maps)
        assert (found.views is None) == (expected.views is None)


def test_what_cannot_be_prepared(engine: camrt.Engine) -> None:
    with pytest.raises(InputError, match="NaN or infinity in image 1"):
        engine.prepare(with_value(np.nan, 1))
    other = replace(engine.prepare(good()), images=good()[:, :, :4])
    with pytest.raises(InputError, match="images of height 5"):
        engine.predict(other)


def test_prepared_batches_are_joined(imaged: camrt.Engine) -> None:
    picture = Image.fromarray(np.arange(135, dtype=np.uint8).reshape(5, 9, 3))
    joined = join_batches([imaged.prepare(picture), imaged.prepare([picture, picture])])
    for item in fields(joined):
        held = getattr(joined, item.name)
        assert item.name in {"to_caller", "nan_rows"} or len(held) == 3, item.name
    assert join_batches([imaged.prepare(good()), imaged.prepare(good(1))]).views is None


def test_a_single_image_is_a_batch_of_one(imaged: camrt.Engine, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (10, 18, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    expected = imaged.explain([path], "gradcam")
    for one in (path, str(path), path.read_bytes(), Image.fromarray(pixels), pixels):
        found = imaged.explain(one, "gradcam")
        assert np.array_equal(found.maps, expected.maps)
        assert np.array_equal(imaged.predict(one), expected.logits)
    grey = imaged.explain(pixels[..., 0], "gradcam")
    assert np.array_equal(grey.maps, imaged.explain([pixels[..., 0]], "gradcam").maps)
    with pytest.raises(InputError, match=r"one image is a batch of one: image\[None\]"):
        imaged.explain(pixels.astype(float), "gradcam")
