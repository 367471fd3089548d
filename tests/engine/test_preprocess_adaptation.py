"""Files that normalise images themselves: what they are given, and what is told."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

import camrt
from camrt import Preprocessing
from camrt.errors import InputError, InputRangeWarning
from helpers.few_passes import OF_SPECIAL_MODELS, short
from helpers.preprocessing_models import (
    MEAN,
    SIZE,
    STD,
    imagenet_front,
    numpy_dtype,
    pixel_model,
    random_pixels,
    run_onnxruntime,
)
from helpers.tolerances import assert_close
from helpers.zoo import Net

# A division by 255, a mean, a convolution, a pool and a linear layer.
WHOLE = 8.0
UINT8, FLOAT, INT32 = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT32


@pytest.fixture(params=[UINT8, INT32, FLOAT], ids=TensorProto.DataType.Name)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """A file that takes raw pixels (N, H, W, 3), and the type of its numbers."""
    return pixel_model(tmp_path, element=request.param), numpy_dtype(request.param)


@pytest.mark.parametrize("name", [None, "imagenet-squash", "tf", "unit", "raw"])
def test_images_are_given_as_raw_pixels(file: tuple[Path, Any], name: str | None) -> None:
    path, kind = file
    given = random_pixels()
    engine = camrt.load(path, preprocessing=name)
    expected = run_onnxruntime(path, given.astype(kind))
    assert_close(engine.predict(list(given)), expected, factor=WHOLE)
    found = engine.explain(list(given), "gradcam")
    assert_close(found.logits, expected, factor=WHOLE)
    note = f"{name!r} is taken for its resizing" if name else "no preprocessing was given"
    assert any(note in each for each in engine.notes) is (name != "raw")
    assert "front   the file itself: (x − (123.7, 116.3, 103.5)) / (58.4, 57.12, 57.37)" in engine.describe()
    assert "made for numbers from 0 to 255" in engine.describe()
    assert "numbers from 0 to 255" in engine.describe().split("preprocessing known", 1)[1]


def test_a_named_preprocessing_keeps_its_geometry(file: tuple[Path, Any]) -> None:
    path, kind = file
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8))
    height, width = SIZE
    short = round(width / 0.875)
    resized = image.resize((short, short * 40 // 30), Image.Resampling.BILINEAR)
    left, upper = round((resized.width - width) / 2), round((resized.height - height) / 2)
    crop = np.asarray(resized.crop((left, upper, left + width, upper + height)))
    found = camrt.load(path, preprocessing="imagenet").predict([image])
    expected = run_onnxruntime(path, crop[None].astype(kind))
    # One level of the resizing, 1/58 of a deviation, at most: the crop is resized without the whole.
    assert np.abs(found - expected).max() < 0.1
    assert found.argmax() == expected.argmax()


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "int64"])
def test_whole_numbers_are_taken(file: tuple[Path, Any], kind: str) -> None:
    path, own = file
    given = random_pixels()
    found = camrt.load(path).predict(given.transpose(0, 3, 1, 2).astype(kind))
    assert found.dtype == np.float32
    assert_close(found, run_onnxruntime(path, given.astype(own)), factor=WHOLE)


def test_whole_numbers_of_torch_are_taken(file: tuple[Path, Any]) -> None:
    torch = pytest.importorskip("torch")
    path, own = file
    given = random_pixels()
    batch = torch.from_numpy(given.transpose(0, 3, 1, 2).copy())
    assert_close(
        camrt.load(path).predict(batch).numpy(), run_onnxruntime(path, given.astype(own)), factor=WHOLE
    )
    with pytest.raises(InputError, match="holds float32 model inputs"):
        camrt.load(path).predict(batch.bool())


def test_whole_numbers_are_refused_where_the_file_normalises_nothing(tmp_path: Path) -> None:
    path = pixel_model(tmp_path, lambda _, name: name, element=FLOAT, shape=("N", 3, *SIZE))
    with pytest.raises(InputError, match="holds float32 model inputs, this one uint8"):
        camrt.load(path, preprocessing="imagenet").predict(random_pixels().transpose(0, 3, 1, 2))
    raw = Preprocessing(SIZE, scale=1)  # says that the model takes pixels as they are
    expected = run_onnxruntime(path, random_pixels().transpose(0, 3, 1, 2).astype(np.float32))
    engine = camrt.load(path, preprocessing=raw)
    assert_close(engine.predict(random_pixels().transpose(0, 3, 1, 2)), expected, factor=WHOLE)


def spelt_out(**fields: Any) -> Preprocessing:
    return Preprocessing(SIZE, **fields)


@pytest.mark.parametrize(
    "steps",
    [spelt_out(mean=(0.5,), std=(0.25,)), spelt_out(scale=2.0), spelt_out(scale=1.0, mean=(128.0,))],
    ids=["normalised", "beyond-255", "below-0"],
)
def test_numbers_that_a_file_cannot_hold_are_refused(steps: Preprocessing, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"whole numbers of type UINT8, 0 to 255: say how .*scale=1"):
        camrt.load(pixel_model(tmp_path), preprocessing=steps)


def test_a_preprocessing_unlike_the_file_s_own_is_warned_of(tmp_path: Path) -> None:
    path = pixel_model(tmp_path, element=FLOAT)
    with pytest.warns(InputRangeWarning, match="it seems to normalise images itself") as given:
        camrt.load(path, preprocessing=spelt_out(mean=(0.5,), std=(0.25,)))
    assert [Path(each.filename).name for each in given] == [Path(__file__).name]


def halved(net: Net, name: str) -> str:
    """Signed 8 bits, as quantised files take them: (x + 128)/255."""
    raised = net.add("Add", name, net.constant(128.0))
    return net.add("Transpose", net.add("Div", raised, net.constant(255.0)), perm=[0, 3, 1, 2])


def test_signed_bytes_are_pixels_less_128(tmp_path: Path) -> None:
    path = pixel_model(tmp_path, halved, element=TensorProto.INT8)
    given = random_pixels()
    engine = camrt.load(path, preprocessing="imagenet-squash")
    expected = run_onnxruntime(path, (given.astype(int) - 128).astype(np.int8))
    assert_close(engine.predict(list(given)), expected, factor=WHOLE)


@pytest.mark.parametrize("element", [TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16])
def test_types_that_do_not_tell_their_range_need_it_said(element: int, tmp_path: Path) -> None:
    def turned(net: Net, name: str) -> str:
        return net.add("Transpose", name, perm=[0, 3, 1, 2])

    path = pixel_model(tmp_path, turned, element=element)
    with pytest.raises(InputError, match=rf"whole numbers of type {TensorProto.DataType.Name(element)}"):
        camrt.load(path, preprocessing="imagenet")
    given = random_pixels() // 2
    engine = camrt.load(path, preprocessing=spelt_out(scale=0.5))
    expected = run_onnxruntime(path, given.astype(numpy_dtype(element)))
    assert_close(engine.predict(list(given * 2)), expected, factor=WHOLE)
    assert_close(engine.predict(given.transpose(0, 3, 1, 2)), expected, factor=WHOLE)


@pytest.mark.parametrize("name", ["imagenet", "unit", "tf"])
def test_one_channel_gets_grey(name: str, tmp_path: Path) -> None:
    path = pixel_model(tmp_path, lambda _, name: name, element=FLOAT, shape=("N", 1, *SIZE), channels=1)
    image = Image.fromarray(random_pixels(1)[0])
    grey = np.asarray(image.convert("L"), np.float64)
    mean, std = {"imagenet": (np.mean(MEAN), np.mean(STD)), "unit": (0, 1), "tf": (0.5, 0.5)}[name]
    engine = camrt.load(path, preprocessing="imagenet-squash" if name == "imagenet" else name)
    expected = run_onnxruntime(path, ((grey / 255 - mean) / std)[None, None].astype(np.float32))
    assert_close(engine.predict([image]), expected, factor=WHOLE)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_other_channels_are_told_at_once(channels: int, tmp_path: Path) -> None:
    path = pixel_model(
        tmp_path, lambda _, name: name, element=FLOAT, shape=("N", channels, *SIZE), channels=channels
    )
    with pytest.raises(InputError, match=rf"3 colour channels .* takes {channels}: leave preprocessing= out"):
        camrt.load(path, preprocessing="imagenet")
    assert camrt.load(path).interface.channels == channels


# ---------------------------------------------------------------- ranges


def plain(folder: Path) -> Path:
    return pixel_model(folder, lambda _, name: name, element=FLOAT, shape=("N", 3, 32, 32))


def warned(engine: camrt.Engine, batch: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        engine.predict(batch)
        engine.explain(batch, "gradcam")
    assert all(Path(each.filename).name == Path(__file__).name for each in given)
    assert len(given) in (0, 2)  # once a call
    return [str(each.message) for each in given]


@pytest.mark.parametrize("name", ["imagenet", "imagenet-squash", "tf", "unit"])
def test_pixels_given_to_a_model_of_normalised_numbers_are_warned_of(name: str, tmp_path: Path) -> None:
    engine = camrt.load(plain(tmp_path), preprocessing=name)
    raw = random_pixels(3, (32, 32)).transpose(0, 3, 1, 2).astype(np.float32)
    assert warned(engine, raw)[0].startswith(
        "the batch holds numbers from 0 to 255, and the model is made for"
    )
    mixed = np.random.default_rng(0).standard_normal(raw.shape).astype(np.float32)
    assert not warned(engine, mixed)
    mixed[1] = raw[1]  # one image of several
    assert warned(engine, mixed)
    assert not warned(engine, list(random_pixels(3, (32, 32))))


@pytest.mark.parametrize("form", ["unit", "tf", "imagenet"])
def test_normalised_numbers_given_to_a_model_of_pixels_are_warned_of(
    form: str, file: tuple[Path, Any]
) -> None:
    engine = camrt.load(file[0])
    steps = Preprocessing.named(form, SIZE)
    batch = np.stack([steps.array(Image.fromarray(each)) for each in random_pixels(8)])
    assert warned(engine, batch)[0].endswith("pixels are to be given as they are")
    assert not warned(engine, np.zeros_like(batch))  # black
    assert not warned(engine, random_pixels(8).transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_standard_normal_noise_is_never_warned_of(seed: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(seed).standard_normal((4, 3, 32, 32), np.float32)
    for name in (None, "imagenet", "tf", "unit", "raw"):
        assert not warned(camrt.load(plain(tmp_path), preprocessing=name), noise)
    raw = camrt.load(pixel_model(tmp_path, element=FLOAT))
    for count in (1, 2, 40):
        small = np.random.default_rng(seed).standard_normal((count, 3, *SIZE), np.float32)
        assert not warned(raw, small)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("element", [UINT8, INT32], ids=TensorProto.DataType.Name)
def test_gradients_pass_the_rounding_as_if_it_were_none(element: int, opset: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = pixel_model(tmp_path, element=element, opset=opset)
    given = random_pixels().transpose(0, 3, 1, 2).astype(np.float32)
    given[0, :, 0, :3] = (0, 255, 128)  # the ends of the range are within it
    weighting = np.random.default_rng(2).standard_normal((2, 4)).astype(np.float32)
    logits, found = camrt.load(path).input_gradients(given, weighting)
    net = {name: torch.tensor(value, dtype=torch.float64) for name, value in constants(path).items()}
    x = torch.tensor(given, dtype=torch.float64, requires_grad=True)
    mean, std = (torch.tensor(value, dtype=torch.float64)[:, None, None] for value in (MEAN, STD))
    maps = torch.relu(torch.conv2d((x / 255 - mean) / std, net["conv"], net["bias"], padding=1))
    expected = maps.mean((2, 3)) @ net["matrix"].T
    (expected * torch.tensor(weighting)).sum().backward()
    assert_close(logits, expected.detach().numpy(), factor=WHOLE)
    assert_close(found, x.grad.numpy(), factor=WHOLE)
    assert np.abs(found[0, :, 0, :3]).min() > 0


def test_what_is_cut_off_has_no_gradient(tmp_path: Path) -> None:
    given = random_pixels().transpose(0, 3, 1, 2).astype(np.float32)
    given[:, :, 2, 3], given[:, :, 4, 5] = -30.0, 300.0
    _, found = camrt.load(pixel_model(tmp_path)).input_gradients(given, np.ones((2, 4), np.float32))
    assert not found[:, :, 2, 3].any()
    assert not found[:, :, 4, 5].any()
    assert found[:, :, 6, 6].all()


def cropped_whole(net: Net, name: str) -> str:
    """The front behind whole numbers that are turned, cut and shifted before they are cast."""
    whole = net.nodes.pop()  # the Cast, which comes last here
    turned = net.add("Transpose", "images", perm=[0, 3, 1, 2])
    ends = [net.constant(value, np.int64) for value in ([1, 2], [11, 14], [2, 3])]
    cut = net.add("Slice", net.add("Cast", turned, to=INT32), *ends)
    lower = net.add("Sub", cut, net.constant(100, np.int32))
    net.add("Cast", lower, to=FLOAT, name=whole.output[0])
    return net.add("Div", name, net.constant(58.0))


def test_gradients_pass_whole_numbers_that_are_moved_and_added_to(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = pixel_model(tmp_path, cropped_whole)
    given = random_pixels().transpose(0, 3, 1, 2).astype(np.float32)
    logits, found = camrt.load(path).input_gradients(given, np.eye(4, dtype=np.float32)[[1, 2]])
    net = {name: torch.tensor(value, dtype=torch.float64) for name, value in constants(path).items()}
    x = torch.tensor(given, dtype=torch.float64, requires_grad=True)
    cut = (x[:, :, 1:11, 2:14] - 100) / 58
    maps = torch.relu(torch.conv2d(cut, net["conv"], net["bias"], padding=1))
    expected = maps.mean((2, 3)) @ net["matrix"].T
    (expected[0, 1] + expected[1, 2]).backward()
    assert_close(logits, expected.detach().numpy(), factor=WHOLE)
    assert_close(found, x.grad.numpy(), factor=WHOLE)


def constants(path: Path) -> dict[str, np.ndarray]:
    """The weights of the convolution and of the linear layer of a file of `pixel_model`."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    conv, gemm = (next(n for n in graph.node if n.op_type == kind) for kind in ("Conv", "Gemm"))
    return {"conv": held[conv.input[1]], "bias": held[conv.input[2]], "matrix": held[gemm.input[1]]}


def test_every_method_runs_on_raw_pixels(tmp_path: Path) -> None:
    engine = camrt.load(pixel_model(tmp_path, imagenet_front))
    for name in camrt.methods():
        if name not in OF_SPECIAL_MODELS:
            assert engine.explain(list(random_pixels()), short(name)).maps.shape == (2, *SIZE)
