from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camrt.engine.images.preprocess import NAMES, Preprocessing
from camrt.errors import InputError


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


numbers = st.floats(-10, 10, allow_subnormal=False)


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    colours = draw(st.sampled_from(["RGB", "BGR", "L"]))
    channels = 1 if colours == "L" else 3
    return Preprocessing(
        size=draw(st.tuples(st.integers(1, 40), st.integers(1, 40))),
        mean=tuple(draw(st.lists(numbers, min_size=channels, max_size=channels))),
        std=tuple(draw(st.lists(st.floats(0.01, 10), min_size=channels, max_size=channels))),
        scale=draw(st.floats(1e-3, 10)),
        colours=colours,
        resize=draw(st.sampled_from(["squash", "crop"])),
        crop_fraction=draw(st.floats(0.01, 1)),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic", "nearest"])),
    )


@given(preprocessings())
def test_json_round_trip(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing
    assert set(json.loads(preprocessing.to_json())) == set(asdict(preprocessing))


@given(preprocessings(), st.integers(1, 50), st.integers(1, 50))
@settings(deadline=None)
def test_view_has_the_size_and_array_the_shape(preprocessing: Preprocessing, height: int, width: int) -> None:
    view = preprocessing.view(noise(height, width))
    array = preprocessing.array(view)
    assert view.mode == "RGB"
    assert view.size == preprocessing.size[::-1]
    assert array.shape == (preprocessing.channels, *preprocessing.size)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous


@given(preprocessings())
@settings(deadline=None)
def test_image_inverts_array(preprocessing: Preprocessing) -> None:
    view = preprocessing.view(noise(13, 9))
    back = preprocessing.image(preprocessing.array(view))
    assert np.array_equal(np.asarray(back), np.asarray(view))


def test_imagenet_is_torchvisions_evaluation_transform() -> None:
    image = noise(300, 451)
    preprocessing = Preprocessing.named("imagenet", (224, 224))
    resized = image.resize((int(256 * 451 / 300), 256), Image.Resampling.BILINEAR)
    left, upper = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = np.asarray(resized.crop((left, upper, left + 224, upper + 224)), np.int16)
    view = preprocessing.view(image)
    # One level of 255: the box is resized directly, and its corners are float32 inside Pillow.
    assert np.abs(np.asarray(view, np.int16) - expected).max() <= 1
    pixels = np.asarray(view, np.float64).transpose(2, 0, 1) / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    want = (pixels - mean[:, None, None]) / std[:, None, None]
    assert np.array_equal(preprocessing.array(view), want.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [("tf", -1.0, 1.0), ("unit", 0.0, 1.0), ("imagenet-squash", -0.485 / 0.229, (1 - 0.485) / 0.229)],
)
def test_ranges_of_the_named(name: str, black: float, white: float) -> None:
    preprocessing = Preprocessing.named(name, (1, 2))
    array = preprocessing.array(Image.fromarray(np.uint8([[[0] * 3, [255] * 3]])))
    np.testing.assert_allclose(array[0, 0], [black, white], rtol=1e-6, atol=1e-7)
    assert preprocessing.resize == "squash"


def test_squash_takes_the_whole_image_and_crop_its_centre() -> None:
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, 15:25] = 255
    image = Image.fromarray(pixels)
    squashed = np.asarray(Preprocessing((10, 10)).view(image))
    cropped = np.asarray(Preprocessing((10, 10), resize="crop", crop_fraction=1.0).view(image))
    assert squashed[:, 0].max() == 0
    assert cropped.min() == 255


def test_crop_of_a_very_long_image_stays_small() -> None:
    preprocessing = Preprocessing.named("imagenet", (224, 224))
    assert preprocessing.view(Image.new("RGB", (60_000, 1), "red")).getpixel((0, 0)) == (255, 0, 0)


def test_bgr_turns_the_channels_round() -> None:
    view = Image.new("RGB", (1, 1), (10, 20, 30))
    array = Preprocessing((1, 1), colours="BGR", scale=1.0, mean=(1.0, 2.0, 3.0)).array(view)
    assert array.ravel().tolist() == [29.0, 18.0, 7.0]


def test_grey_view_shows_grey() -> None:
    preprocessing = Preprocessing((4, 5), colours="L")
    view = np.asarray(preprocessing.view(noise(9, 7)))
    assert preprocessing.mean == (0.0,)
    assert (view[..., 0] == view[..., 1]).all()
    assert (view[..., 0] == view[..., 2]).all()


def test_view_reads_other_modes_over_white() -> None:
    assert Preprocessing((1, 1)).view(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255,) * 3


def test_one_number_serves_all_channels() -> None:
    assert Preprocessing((1, 1), mean=(0.5,), std=[2]) == Preprocessing(  # type: ignore[arg-type]  # a list
        (1, 1), mean=(0.5, 0.5, 0.5), std=(2.0, 2.0, 2.0)
    )


def test_missing_keys_take_defaults_and_size_may_come_from_the_model() -> None:
    assert Preprocessing.from_json('{"size": [7, 5]}') == Preprocessing((7, 5))
    assert Preprocessing.from_json("{}", (7, 5)) == Preprocessing((7, 5))
    assert Preprocessing.from_json('{"size": [3, 3]}', (7, 5)).size == (3, 3)


def test_coerce() -> None:
    given_one = Preprocessing((3, 3))
    assert Preprocessing.coerce(None, (7, 5)) is None
    assert Preprocessing.coerce(given_one, (7, 5)) is given_one
    assert Preprocessing.coerce({"colours": "BGR"}, (7, 5)) == Preprocessing((7, 5), colours="BGR")
    for name in NAMES:
        assert Preprocessing.coerce(name, (7, 5)) == Preprocessing.named(name, (7, 5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (0, 5)}, r"each side of size must be in \[1, 16384\], got \(0, 5\)"),
        ({"size": (5, 10**9)}, r"each side of size"),
        ({"size": (5,)}, r"size must be two whole numbers \(H, W\)"),
        ({"size": (True, 5)}, r"size must be two whole numbers"),
        ({"size": (5.0, 5)}, r"size must be two whole numbers"),
        ({"size": "55"}, r"size must be two whole numbers"),
        ({"size": None}, r"size must be two whole numbers"),
        ({"mean": (1, 2)}, r"mean must hold 1 or 3 numbers, got 2"),
        (
            {"mean": (1, 2, 3), "colours": "L"},
            r"mean must hold 1 number, got 3",
        ),
        ({"mean": "abc"}, r"mean must be a list of numbers, got 'abc'"),
        ({"mean": 0.5}, r"mean must be a list of numbers, got 0\.5"),
        ({"mean": (1, 2, float("nan"))}, r"mean must be a finite number, got nan"),
        ({"mean": (1, 2, 10**400)}, r"mean must be a finite number"),
        ({"mean": ()}, r"mean must hold 1 or 3 numbers, got 0"),
        ({"std": (1, 0, 1)}, r"std must be positive"),
        ({"std": (1, True, 1)}, r"std must be a finite number, got True"),
        ({"scale": 0}, r"scale must be positive, got 0"),
        ({"scale": float("inf")}, r"scale must be a finite number, got inf"),
        ({"scale": "1"}, r"scale must be a finite number, got '1'"),
        ({"colours": "HSV"}, r"colours must be one of RGB, BGR, L, got 'HSV'"),
        ({"resize": ["crop"]}, r"resize must be one of squash, crop"),
        ({"interpolation": None}, r"interpolation must be one of bilinear, bicubic, nearest, got None"),
        ({"crop_fraction": 1.5}, r"crop_fraction must be in \[0\.01, 1\], got 1\.5"),
        ({"crop_fraction": 0}, r"crop_fraction must be in"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_fields_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing(**{"size": (5, 5), **fields})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"sise": [1, 1]}', "unknown key 'sise'; known keys: size, mean"),
        ("{}", "stated neither here nor by the model"),
        ('{"size": "1x1"}', "size must be two whole numbers"),
        ('{"size": [1, 1], "std": [NaN]}', "std must be a finite number"),
        ('{"size": [1, 1], "mean": {"r": 1}}', "mean must be a list of numbers"),
    ],
    ids=["truncated", "deep", "array", "unknown", "no-size", "size-type", "nan", "mean-type"],
)
def test_json_errors(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing.from_json(text)


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(
        InputError, match="unknown name 'vgg'; known names: imagenet, imagenet-squash, tf, unit"
    ):
        Preprocessing.named("vgg", (5, 5))
    with pytest.raises(InputError, match="unknown name"):
        Preprocessing.coerce("vgg", None)
    with pytest.raises(InputError, match="stated neither here nor by the model"):
        Preprocessing.coerce("unit", None)
    with pytest.raises(InputError, match="expected a Preprocessing, a name, a mapping or None, got int"):
        Preprocessing.coerce(3, (5, 5))  # type: ignore[arg-type]  # wrong on purpose


def test_arrays_and_views_of_another_shape() -> None:
    preprocessing = Preprocessing((7, 5))
    with pytest.raises(InputError, match=r"the view is 5x7 \(HxW\), expected 7x5"):
        preprocessing.array(Image.new("RGB", (7, 5)))
    with pytest.raises(InputError, match=r"expected \(3, H, W\), got \(1, 7, 5\)"):
        preprocessing.image(np.zeros((1, 7, 5), np.float32))
    with pytest.raises(InputError, match="not finite"):
        preprocessing.image(np.full((3, 7, 5), np.nan, np.float32))


def test_image_clips() -> None:
    image = Preprocessing((1, 2)).image(np.float32([[[-3, 7]]] * 3))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 255]
