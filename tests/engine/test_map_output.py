"""Maps in float16, and in an array of the caller's."""

from __future__ import annotations

import numpy as np
import pytest

import camrt
from camrt.errors import InputError
from camrt.kernels.saliency import saliency
from helpers.oracles.classifiers import classifier
from helpers.zoo import save

IMAGE = (3, 9, 7)
BATCH = np.random.default_rng(0).standard_normal((3, *IMAGE), np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    made = classifier("pooled-network", cells=(5, 4), trunk="convolve")
    return save(made.model, tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture(scope="module")
def engine(path):
    return camrt.load(path)


@pytest.mark.parametrize("mode", ["native", "library"])
def test_a_map_in_float16_is_the_one_in_float32_rounded(mode):
    raw = np.random.default_rng(1).standard_normal((40, 5, 4), np.float32)
    raw[3], raw[4, 0, 0] = 1.0, np.nan
    raw[5] = -1.0 - np.abs(raw[5])
    out = np.full((40, 224, 220), 7, np.float16)
    maps, flags = saliency(raw, (224, 220), mode=mode, out=out)
    wide, expected = saliency(raw, (224, 220), mode=mode)
    assert maps is out
    np.testing.assert_array_equal(maps, wide.astype(np.float16))
    np.testing.assert_array_equal(flags, expected)
    assert set(flags[:6]) >= {0, 1, 3}


def test_every_number_that_a_map_may_hold_is_rounded_as_numpy_does():
    numbers = np.concatenate(
        [
            np.arange(0x3C00, dtype=np.uint16).view(np.float16).astype(np.float32),
            np.nextafter(np.geomspace(1e-9, 1, 3000, dtype=np.float32), 0),
            (np.arange(1, 2000, dtype=np.float32) - 0.5) * np.float32(2.0**-24),  # halfway between two
        ]
    )
    raw = np.append(numbers, np.float32(1.0)).reshape(1, 1, -1)
    out = np.empty(raw.shape, np.float16)
    saliency(raw, raw.shape[1:], out=out)
    np.testing.assert_array_equal(out[0, 0], raw[0, 0].astype(np.float16))


@pytest.mark.parametrize("kind", ["float32", "float16", np.float16])
@pytest.mark.parametrize("method", ["pixab", "gradcam", "gradient"])
def test_what_is_written_into_ones_own_array_is_what_comes_back(engine, method, kind):
    plain = engine.explain(BATCH, method)
    same = engine.explain(BATCH, method, dtype=kind).maps
    assert same.dtype == np.dtype(kind)
    np.testing.assert_array_equal(same, plain.maps.astype(kind))
    out = np.full((3, *IMAGE[1:]), np.nan, kind)
    found = engine.explain(BATCH, method, out=out)
    assert found.maps is out
    np.testing.assert_array_equal(out, same)
    several = np.empty((3, 2, *IMAGE[1:]), kind)
    assert engine.explain(BATCH, method, targets=[[0, 1]] * 3, out=several, dtype=kind).maps is several
    (first,) = engine.explain_all(BATCH, [method], dtype=kind)
    np.testing.assert_array_equal(first.maps, same)


def test_several_layers_and_parts_of_images_too(path):
    both = camrt.load(path, target=["activation", camrt.load(path).targets()[0].name])
    out = np.empty((3, *IMAGE[1:]), np.float16)
    expected = both.explain(BATCH, "gradcam").maps.astype(np.float16)
    np.testing.assert_array_equal(both.explain(BATCH, "gradcam", out=out).maps, expected)


def test_tensors_get_tensors(engine):
    torch = pytest.importorskip("torch", reason="tensors are torch's")
    batch = torch.from_numpy(BATCH)
    out = torch.empty((3, *IMAGE[1:]), dtype=torch.float16)
    found = engine.explain(batch, "pixab", out=out)
    assert found.maps is out
    assert torch.equal(out, engine.explain(batch, "pixab").maps.to(torch.float16))
    assert engine.explain(batch, "pixab", dtype=torch.float16).maps.dtype == torch.float16
    with pytest.raises(InputError, match="out= must be a tensor of torch"):
        engine.explain(batch, "pixab", out=np.empty((3, *IMAGE[1:]), np.float32))


def test_results_in_float16_are_drawn_and_kept(engine, tmp_path):
    found = engine.explain(BATCH, "pixab", dtype="float16")
    found.save(tmp_path)
    with np.load(tmp_path / "explanation.npz") as kept:
        np.testing.assert_array_equal(kept["maps"], found.maps)
    image = np.random.default_rng(2).integers(256, size=(90, 70, 3), dtype=np.uint8)
    wide = np.asarray(engine.explain(BATCH, "pixab").overlay(0, image=image), int)
    assert np.abs(wide - np.asarray(found.overlay(0, image=image), int)).max() <= 2


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((3, 9, 7), np.float64), "out= must be float32 or float16, and is float64"),
        (np.empty((2, 9, 7), np.float32), r"out= must be \(3, H, W\) or \(3, T, H, W\), not \(2, 9, 7\)"),
        (np.empty((3, 9, 8), np.float32), r"out= must have shape \(3, 9, 7\), the maps' own"),
        (np.empty((3, 7, 9), np.float32).transpose(0, 2, 1), "out= must be contiguous"),
        ([[0.0]], "out= must be an array of NumPy"),
    ],
)
def test_an_array_that_cannot_take_the_maps_is_refused(engine, out, message):
    with pytest.raises(InputError, match=message):
        engine.explain(BATCH, "pixab", out=out)


def test_a_type_that_maps_do_not_have_is_refused(engine):
    with pytest.raises(InputError, match="dtype='int8' must be one of 'float32', 'float16'"):
        engine.explain(BATCH, "pixab", dtype="int8")
    with pytest.raises(InputError, match="out= must be float16, and is float32"):
        engine.explain(BATCH, "pixab", dtype="float16", out=np.empty((3, 9, 7), np.float32))
