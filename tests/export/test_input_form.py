"""The axes and the type of a file's image input, against plain ONNX Runtime on the file as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import camrt
from camrt.errors import InputError
from helpers.preprocessing_models import SIZE, numpy_dtype, pixel_model, run_onnxruntime
from helpers.tolerances import assert_close
from helpers.zoo import Net

WHOLE = 8.0  # a convolution, a pool and a linear layer
FLOAT = TensorProto.FLOAT


def turned(net: Net, name: str) -> str:
    return net.add("Transpose", name, perm=[0, 3, 1, 2])


def scaled_and_turned(net: Net, name: str) -> str:
    return turned(net, net.add("Mul", net.add("Clip", name), net.constant(0.5)))


def batch_of(channels: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Numbers (N, H, W, C)."""
    return np.random.default_rng(3).standard_normal((2, *size, channels), np.float32)


@pytest.mark.parametrize("channels", [2, 3, 6, 8, 13])
@pytest.mark.parametrize("front", [turned, scaled_and_turned])
@pytest.mark.parametrize("sides", ["fixed", "open"])
def test_channels_last_are_read_off_the_transpose(
    channels: int, front: Any, sides: str, tmp_path: Path
) -> None:
    size = SIZE if sides == "fixed" else ("height", "width")
    path = pixel_model(tmp_path, front, element=FLOAT, shape=("N", *size, channels), channels=channels)
    engine = camrt.load(path)
    assert (engine.interface.layout, engine.interface.channels) == ("NHWC", channels)
    given = batch_of(channels)
    assert_close(engine.predict(given.transpose(0, 3, 1, 2)), run_onnxruntime(path, given), factor=WHOLE)
    assert engine.explain(given.transpose(0, 3, 1, 2), "gradcam").maps.shape == (2, *SIZE)
    with pytest.raises(InputError, match=r"these are last: batch\.transpose\(0, 3, 1, 2\) brings them there"):
        engine.predict(given)


def test_open_channels_are_taken_from_the_convolution_behind_the_transpose(tmp_path: Path) -> None:
    path = pixel_model(tmp_path, turned, element=FLOAT, shape=("N", "h", "w", "bands"), channels=8)
    engine = camrt.load(path)
    assert (engine.interface.layout, engine.interface.channels) == ("NHWC", 8)


@pytest.mark.parametrize("channels", [2, 8, 13])
def test_channels_first_stay_first(channels: int, tmp_path: Path) -> None:
    """Also where the last axis has an image's number of channels."""
    path = pixel_model(
        tmp_path, lambda _, name: name, element=FLOAT, shape=("N", channels, 9, 4), channels=channels
    )
    engine = camrt.load(path)
    assert (engine.interface.layout, engine.interface.channels) == ("NCHW", channels)
    given = batch_of(channels, (9, 4)).transpose(0, 3, 1, 2)
    assert_close(engine.predict(given), run_onnxruntime(path, given), factor=WHOLE)


def by_hand(net: Net, name: str) -> str:
    """Channels last, by operators that do not tell: one Gather a channel."""
    parts = [net.add("Gather", name, net.constant([k], np.int64), axis=3) for k in range(5)]
    flat = [net.add("Reshape", part, net.constant([0, 1, *SIZE], np.int64)) for part in parts]
    return net.add("Concat", *flat, axis=1)


def test_a_layout_can_be_said(tmp_path: Path) -> None:
    path = pixel_model(tmp_path, by_hand, element=FLOAT, shape=("N", *SIZE, 5), channels=5)
    engine = camrt.load(path, layout="NHWC")
    given = batch_of(5)
    assert_close(engine.predict(given.transpose(0, 3, 1, 2)), run_onnxruntime(path, given), factor=WHOLE)
    with pytest.raises(InputError, match=r"layout='CHWN' must be 'NCHW' \(channels first\) or 'NHWC'"):
        camrt.load(path, layout="CHWN")  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    "element", [TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32], ids=TensorProto.DataType.Name
)
def test_whole_numbers_of_any_width(element: int, tmp_path: Path) -> None:
    path = pixel_model(tmp_path, turned, element=element, shape=("N", *SIZE, 8), channels=8)
    given = np.random.default_rng(0).integers(0, 1500, (2, *SIZE, 8)).astype(numpy_dtype(element))
    engine = camrt.load(path)
    assert f"of type {TensorProto.DataType.Name(element).lower()}" in engine.describe()
    expected = run_onnxruntime(path, given)
    for kind in (np.float32, given.dtype):
        found = engine.predict(given.transpose(0, 3, 1, 2).astype(kind))
        assert_close(found, expected, factor=WHOLE)
