"""Maps on the images they are about, where preprocessing or the file crops and resizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

import camrt
from camrt import Explanation, Preprocessing
from camrt.engine.images.framing import Framing, uncrop_maps
from camrt.errors import InputError
from camrt.export.geometry.region import Region
from helpers.oracles.postprocess import upsampled
from helpers.preprocessing_models import pixel_model
from helpers.tolerances import assert_close
from helpers.zoo import Net, model_of, save

FLOAT = TensorProto.FLOAT
# A convolution, a method and a resizing.
WHOLE = 32.0


def bright(folder: Path, size: tuple[int, int], *, stride: int = 4) -> Path:
    """A file whose class 0 is how bright an image is, cell by cell of stride × stride pixels."""
    net = Net(np.random.default_rng(0))
    kernel = net.constant(np.ones((1, 3, stride, stride)) / (3 * stride**2))
    net.add("Relu", net.add("Conv", "images", kernel, strides=[stride] * 2), name="A")
    pooled = net.add("Flatten", net.add("GlobalAveragePool", "A"))
    net.add("Gemm", pooled, net.constant([[1.0], [-1.0]]), transB=1, name="logits")
    return Path(save(model_of(net.nodes, net.initializers, ["N", 3, *size], ["N", 2]), folder / "m.onnx"))


def dotted(size: tuple[int, int], at: tuple[int, int]) -> Image.Image:
    """A black image (H, W) with a white square of 9 pixels around one."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[at[0] - 4 : at[0] + 5, at[1] - 4 : at[1] + 5] = 255
    return Image.fromarray(pixels)


def middle(weights: np.ndarray) -> tuple[float, float]:
    """The mean row and column of some weights (H, W)."""
    rows, columns = np.indices(weights.shape)
    return float((rows * weights).sum() / weights.sum()), float((columns * weights).sum() / weights.sum())


PLAIN: Any = {"fade": 0, "outside": "none"}  # what is not salient stays as it was


def changed(drawn: Image.Image, image: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(drawn, np.float64) - np.asarray(image, np.float64)).sum(-1)


IMAGES = [((100, 300), (50, 140)), ((300, 100), (120, 60)), ((97, 131), (40, 71)), ((500, 40), (255, 20))]


@pytest.mark.parametrize(("size", "at"), IMAGES, ids=str)
@pytest.mark.parametrize("crop", [None, 0.875, 0.5])
def test_the_peak_is_where_it_was_in_the_image(
    size: tuple[int, int], at: tuple[int, int], crop: float | None, tmp_path: Path
) -> None:
    steps: Any = {"resize": "crop", "crop_fraction": crop} if crop else "unit"
    engine = camrt.load(bright(tmp_path, (64, 48)), preprocessing=steps)
    image = dotted(size, at)
    found = engine.explain([image], "activation")
    assert found.framings is not None
    region = found.framings[0].region
    # Half a cell of 4 pixels of the input, in the image's pixels, and one for rounding.
    slack = (2 * (region.lower - region.upper) / 64 + 1, 2 * (region.right - region.left) / 48 + 1)
    maps = {
        "on_original": found.on_original(0),
        "size": engine.explain([image], "activation", size="original").maps[0],
        "drawn": changed(found.overlay(0, image=image, **PLAIN), image),
    }
    for where in maps.values():
        assert where.shape == size
        assert np.all(np.abs(np.subtract(middle(where**4), at)) <= slack)
        rows, columns = np.indices(size) + 0.5
        beyond = (rows < region.upper) | (rows > region.lower)
        assert not where[beyond | (columns < region.left) | (columns > region.right)].any()


def test_a_drawing_in_another_size_and_of_files(tmp_path: Path) -> None:
    engine = camrt.load(bright(tmp_path, (64, 64)), preprocessing={"resize": "crop"})
    image = dotted((100, 300), (50, 130))
    found = engine.explain([image], "activation")
    large = image.resize((901, 300))  # the long side a pixel off
    drawn = changed(found.overlay(0, image=large, **PLAIN), large)
    assert np.abs(np.subtract(middle(drawn**4), (150, 391))).max() < 9
    turned = Image.Exif()
    turned[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=turned)
    assert np.array_equal(
        found.overlay(0, image=tmp_path / "a.png"), found.overlay(0, image=np.asarray(image))
    )
    view = found.views[0] if found.views else image
    assert np.array_equal(found.overlay(0, image=view), found.overlay(0, on="view"))
    assert np.array_equal(found.overlay(0, image=image), found.overlay(0))
    assert np.array_equal(found.overlay(0, image=image), found.overlay(0, on="original"))
    with pytest.raises(InputError, match="300×300 is neither that of 100×300 which was explained, in any"):
        found.overlay(0, image=image.resize((300, 300)))
    whole = engine.explain([image], "activation", size="original")
    both = (middle(changed(each.overlay(0, on="view", **PLAIN), view) ** 4) for each in (whole, found))
    assert np.abs(np.subtract(*both)).max() < 1
    paths = found.save(tmp_path / "out", "a", images=[image])
    with np.load(paths[-1], allow_pickle=False) as archive:
        # 64/0.875 = 73: of 73×219 rows 4 to 68 and columns 78 to 142.
        edges = (78 * 300 / 219, 400 / 73, 142 * 300 / 219, 6800 / 73)
        assert archive["framings"][0] == pytest.approx((100, 300, *edges))
    with Image.open(paths[0]) as drawing:
        assert drawing.size == (300, 100)
    with pytest.raises(InputError, match="expected 1 images to draw on, one an image, got 2"):
        found.save(tmp_path / "out", "a", images=[image] * 2)


def test_per_image_of_the_input_s_own_size_that_was_cropped(tmp_path: Path) -> None:
    """What is given is the image, not the view, though both are 64×64."""
    engine = camrt.load(bright(tmp_path, (64, 64)), preprocessing={"resize": "crop"})
    image = dotted((64, 64), (20, 44))
    found = engine.explain([image], "activation")
    drawn = changed(found.overlay(0, image=image, **PLAIN), image)
    assert np.abs(np.subtract(middle(drawn**4), (20, 44))).max() < 3
    assert not drawn[:4].any()


def test_sizes_that_cannot_be_meant(tmp_path: Path) -> None:
    engine = camrt.load(bright(tmp_path, (64, 64)), preprocessing={"resize": "crop"})
    with pytest.raises(InputError, match="size='original' is for images: a batch of numbers"):
        engine.explain(np.zeros((1, 3, 64, 64), np.float32), "activation", size="original")
    several = [dotted((100, 300), (50, 130)), dotted((90, 80), (50, 30))]
    with pytest.raises(InputError, match=r"of one size, and these have 90×80, 100×300: .*on_original"):
        engine.explain(several, "activation", size="original")
    found = engine.explain(several, "activation")
    assert [found.on_original(i).shape for i in range(2)] == [(100, 300), (90, 80)]
    with pytest.raises(InputError, match="given as numbers"):
        engine.explain(np.ones((1, 3, 64, 64), np.float32), "activation").on_original(0)


def test_boxes_go_there_and_back() -> None:
    steps = Preprocessing((224, 224), resize="crop")
    region = steps.framing((100, 300)).region
    assert region == Region(106.25, 6.25, 193.75, 93.75)
    there = region.of(Region(112.0, 56.0, 224.0, 168.0), (224, 224))
    assert there == Region(150.0, 28.125, 193.75, 71.875)
    assert region.to_region(np.array([there.box]), (224, 224)).tolist() == [[112.0, 56.0, 224.0, 168.0]]


# ---------------------------------------------------------------- files that crop


def sliced(net: Net, name: str) -> str:
    ends = [net.constant(value, np.int64) for value in ([4, 16], [28, 48], [2, 3])]
    return net.add("Slice", name, *ends)


def letterboxed(net: Net, name: str) -> str:
    return net.add("Pad", name, net.constant([0, 0, 8, 4, 0, 0, 8, 4], np.int64))


# The front, the size it leaves of images (32, 64), what that does to a batch, and the way back of maps.
FRONTS: dict[str, Any] = {
    "sliced": (
        sliced,
        (24, 32),
        lambda x: x[:, :, 4:28, 16:48],
        lambda m: np.pad(m, ((0, 0), (4, 4), (16, 16))),
    ),
    "letterboxed": (
        letterboxed,
        (48, 72),
        lambda x: np.pad(x, ((0, 0), (0, 0), (8, 8), (4, 4))),
        lambda m: m[:, 8:40, 4:68],
    ),
}
METHODS = [
    ("pixab", {}),
    ("ablation", {}),
    ("cam", {}),
    ("score", {}),
    ("score", {"definition": "grad-cam"}),
    ("score", {"definition": "torchcam"}),
    ("eigen", {}),
    ("activation", {}),
    ("gradcam", {}),
    ("gradcam++", {}),
    ("layercam", {}),
    ("opticam", {"steps": 3}),
    ("guided-gradcam", {"blur": 1}),
    ("guided-pixab", {"blur": 1}),
    ("gradient", {"blur": 1}),
    ("gradcam", {"absolute": True}),
    ("layercam", {"smooth": "augment"}),
]


@pytest.mark.parametrize("kind", FRONTS)
@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
def test_a_file_that_crops_is_the_file_behind_the_crop(
    kind: str, method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    front, inner, forth, back = FRONTS[kind]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = pixel_model(tmp_path / "a", front, element=FLOAT, shape=("N", 3, 32, 64), stride=4)
    behind = pixel_model(
        tmp_path / "b", lambda _, name: name, element=FLOAT, shape=("N", 3, *inner), stride=4
    )
    batch = np.random.default_rng(1).standard_normal((2, 3, 32, 64), np.float32)
    found = camrt.load(whole).explain(batch, method, **options)
    expected = camrt.load(behind).explain(np.ascontiguousarray(forth(batch)), method, **options)
    assert_close(found.logits, expected.logits, factor=WHOLE)
    if method in ("gradient", "guided-gradcam", "guided-pixab"):
        # Brought to [0, 1] by their largest pixel, of the image as it was given.
        raw = back(expected.raw)
        assert_close(found.raw, raw, factor=10 * WHOLE)
    else:
        if "smooth" not in options:  # whose raw maps are as large as the image
            assert_close(found.raw, expected.raw, factor=10 * WHOLE)
        assert_close(found.maps, back(expected.maps), factor=10 * WHOLE)


def test_the_peak_behind_a_crop_by_hand(tmp_path: Path) -> None:
    """Rows 4 to 28 and columns 16 to 48 of 32×64 are seen by 6×8 cells of 4 pixels."""
    net = Net(np.random.default_rng(0))
    kernel = net.constant(np.ones((1, 3, 4, 4)) / 48)
    net.add("Relu", net.add("Conv", sliced(net, "images"), kernel, strides=[4, 4]), name="A")
    pooled = net.add("Flatten", net.add("GlobalAveragePool", "A"))
    net.add("Gemm", pooled, net.constant([[1.0], [-1.0]]), transB=1, name="logits")
    model = model_of(net.nodes, net.initializers, ["N", 3, 32, 64], ["N", 2])
    engine = camrt.load(save(model, tmp_path / "m.onnx"), preprocessing={"size": (32, 64)})
    assert "shows rows 4 to 28 and columns 16 to 48" in engine.describe()
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[12:16, 20:24] = 255  # the cell in row 2 and column 1
    for size, at in (("image", (13.5, 21.5)), ((64, 128), (27.5, 43.5)), ("original", (13.5, 21.5))):
        found = engine.explain([pixels], "activation", size=size)
        assert np.abs(np.subtract(middle(found.maps[0]), at)).max() < 1e-3
    cells = engine.explain([pixels], "activation", size="map")
    assert cells.maps.shape == (1, 6, 8)
    assert middle(cells.maps[0]) == (2, 1)
    black = Image.new("RGB", (64, 32))
    for given in (None, Image.fromarray(pixels)):
        on = Image.fromarray(pixels) if given is None else given
        drawn = changed(cells.overlay(0, image=given, **PLAIN), on)
        assert drawn[13, 21] > 0
        assert not drawn[:8].any()
        assert not drawn[:, 28:].any()
    assert np.abs(np.subtract(middle(cells.on_original(0)), (13.5, 21.5))).max() < 1e-3
    assert black.size == (64, 32)


def test_crop_by_preprocessing_and_by_the_file(tmp_path: Path) -> None:
    """Half of the image's middle is resized to the input, and of that the file takes a part."""
    front, _, _, _ = FRONTS["sliced"]
    path = pixel_model(tmp_path, front, element=FLOAT, shape=("N", 3, 32, 64), stride=4)
    steps = Preprocessing((32, 64), resize="crop", crop_fraction=0.5)
    engine = camrt.load(path, preprocessing=steps)
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    # 64×128 goes to 64×128, of which rows 16 to 48 and columns 32 to 96 are the input.
    found = engine.explain([image], "gradcam")
    assert np.abs(found.on_original(0) - np.pad(found.maps[0], ((16, 16), (32, 32)))).max() < 1e-6
    whole = engine.explain([image], "gradcam", size="original").maps[0]
    assert np.abs(whole - np.pad(found.maps[0], ((16, 16), (32, 32)))).max() < 1e-6
    assert not whole[:20].any()
    assert not whole[:, :48].any()


# ---------------------------------------------------------------- laying


@pytest.mark.parametrize("size", [(7, 5), (16, 9)])
@pytest.mark.parametrize("aligned", [False, True])
def test_laid_on_pixels_is_upsampling_and_a_frame(size: tuple[int, int], aligned: bool) -> None:
    values = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    framing = Framing((20, 30), Region(6, 2, 6 + size[1], 2 + size[0]))
    found = uncrop_maps(values, framing, align_corners=aligned)
    for one, expected in zip(found, values, strict=True):
        inside = upsampled(expected, size, aligned=aligned)
        assert_close(one, np.pad(inside, ((2, 18 - size[0]), (6, 24 - size[1]))), factor=4)
    turned = Framing((20, 30), Region(6 + size[1], 2, 6, 2 + size[0]))
    assert_close(uncrop_maps(values[..., ::-1].copy(), turned, align_corners=aligned), found, factor=4)
    edges = uncrop_maps(values, framing, beyond="edge", align_corners=aligned)
    assert np.array_equal(edges[:, 0, 0], values[:, 0, 0])
    assert np.array_equal(edges[:, -1, -1], values[:, -1, -1])


def test_laid_with_torch_is_laid_with_numpy() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    framing = Framing((20, 30), Region(6.3, -2.1, 22.2, 15.7))
    assert np.array_equal(
        uncrop_maps(torch.from_numpy(values), framing).numpy(), uncrop_maps(values, framing)
    )


def test_framings_within_framings_and_back() -> None:
    outer = Framing((100, 300), Region(100, 0, 200, 100))
    inner = Framing((50, 50), Region(10, 20, 30, 40))
    assert outer.compose(inner) == Framing((100, 300), Region(120, 40, 160, 80))
    assert outer.resized_to((50, 150)) == Framing((50, 150), Region(50, 0, 100, 50))
    assert outer.inverse((50, 50)) == Framing((50, 50), Region(-50, 0, 100, 50))
    assert Framing.whole((3, 7)).is_whole
    assert outer.compose(outer.inverse((50, 50))).is_whole
    assert not outer.is_whole


def test_an_explanation_of_other_framings_than_images_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    engine = camrt.load(bright(tmp_path, (64, 64)), preprocessing={"resize": "crop"})
    found: Explanation = engine.explain([dotted((64, 64), (20, 44))], "activation")
    with pytest.raises(ValueError, match="0 framings of 1 images"):
        replace(found, framings=())
