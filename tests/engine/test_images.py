from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camrt.engine.images.read import find_images, is_image_name, read_image
from camrt.errors import ImageError

RED = (200, 10, 20)


def png(path: Path, size: tuple[int, int] = (5, 3), colour: tuple[int, int, int] = RED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LA", "La", "PA", "RGBa", "HSV"]
)
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("RGB", (5, 3), (255, 255, 255))
    if mode == "La":
        image = grey.convert("L").convert("LA").convert("La")
    elif mode == "RGBa":
        image = grey.convert("RGBA").convert("RGBa")
    elif mode in {"PA", "LA"}:
        image = grey.convert("L").convert("LA").convert(mode)
    else:
        image = grey.convert(mode)
    assert image.mode == mode
    read = read_image(image)
    assert read.mode == "RGB"
    assert read.size == (5, 3)
    assert np.asarray(read).min() >= 254  # YCbCr may lose one level


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "webp", "ppm"])
def test_files(tmp_path: Path, suffix: str) -> None:
    read = read_image(png(tmp_path / f"an image.{suffix}"))
    assert read.size == (5, 3)
    assert np.abs(np.asarray(read, np.int16) - RED).max() < 12  # JPEG and WebP lose some
    assert read_image(str(tmp_path / f"an image.{suffix}")).mode == "RGB"


def test_transparency_is_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    image.save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0].tolist() == [[255, 255, 255], [255, 127, 127]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=b"\x00\xff")  # bytes: Pillow would warn about it
    assert np.asarray(read_image(tmp_path / "p.png"))[0].tolist() == [[255, 255, 255], [255, 0, 0]]


def test_sixteen_bits_and_floats(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535, 32768]], np.uint16)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        read = np.asarray(read_image(tmp_path / f"a.{suffix}"))[0, :, 0]
        assert read.tolist() == [0, 1, 255, 128]
    assert np.asarray(read_image(Image.fromarray(values.astype(np.int32))))[0, :, 1].tolist() == [
        0,
        1,
        255,
        128,
    ]
    assert np.asarray(read_image(Image.fromarray(np.float32([[0, 0.5, 1]]))))[0, :, 0].tolist() == [
        0,
        128,
        255,
    ]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.float32([[0, 1.5]]), r"the image: floating-point pixels outside \[0, 1\]"),
        (np.float32([[np.nan]]), "floating-point pixels below 0, or not finite"),
        (np.float32([[-1]]), "floating-point pixels below 0.*pass an array"),
        (np.float32([[np.inf]]), "not finite"),
        (np.float32([[2**40]]), "pixels of up to 1099511627776"),
        (np.int32([[-1]]), "pixels below 0.*pass an array"),
    ],
)
def test_pixels_without_a_range(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(Image.fromarray(array))


def test_modes_that_this_pillow_cannot_convert(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("conversion from LAB to RGB not supported")

    image = Image.new("LAB", (2, 2))
    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(ImageError, match="the image: pixels of mode LAB have no RGB form"):
        read_image(image)


def test_arrays() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    assert np.array_equal(np.asarray(read_image(colours)), colours)
    assert np.array_equal(np.asarray(read_image(colours[:, ::-1])), colours[:, ::-1])
    assert np.array_equal(np.asarray(read_image(colours[..., 0]))[..., 2], colours[..., 0])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 4), np.uint8), r"must be uint8 \(H, W, 3\) or \(H, W\), got uint8 \(2, 2, 4\)"),
        (np.zeros((2, 2, 3), np.float32), "got float32"),
        (np.zeros(4, np.uint8), r"got uint8 \(4,\)"),
        (np.zeros((0, 2, 3), np.uint8), r"has no pixels: \(0, 2, 3\)"),
    ],
)
def test_array_errors(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read)[..., 0], upright)
    assert np.array_equal(np.asarray(read_image(read)), np.asarray(read))  # not turned twice


def test_damaged_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x01")
    assert read_image(tmp_path / "a.jpg").size == (8, 8)


def test_a_given_image_stays_open_and_as_it_is(tmp_path: Path) -> None:
    with Image.open(png(tmp_path / "a.png")) as image:
        read = read_image(image)
        read.putpixel((0, 0), (0, 0, 0))
        assert image.getpixel((0, 0)) == RED


def open_files() -> int:
    folder = Path("/proc/self/fd")  # Linux; elsewhere pytest's ResourceWarning has to do
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


def test_files_are_closed(tmp_path: Path) -> None:
    good, bad = png(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:40])
    before = open_files()
    read_image(good)
    with pytest.raises(ImageError):
        read_image(bad)
    assert open_files() == before


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) // 4):
        path.write_bytes(whole[:size])
        with pytest.raises(ImageError, match=rf"cut\.{suffix}: (truncated or damaged|not an image)"):
            read_image(path)


def test_every_prefix_and_flipped_byte_fails_cleanly(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png")
    whole = path.read_bytes()
    for at in range(len(whole)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(data)
            with suppress(ImageError):
                assert read_image(path).mode == "RGB"


def test_not_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder, not an image"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ImageError, match=r"text\.png: not an image that Pillow can read"):
        read_image(tmp_path / "text.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: empty, it holds not a single byte"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(ImageError, match="cannot be read: "):
        read_image("x" * 5000)
    with pytest.raises(
        ImageError,
        match="its bytes, a Pillow image or a uint8 array as image, got int",
    ):
        read_image(3)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ImageError, match="has no pixels"):
        read_image(Image.new("RGB", (0, 4)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX thing")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_postscript_is_not_run(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    assert not is_image_name("a.eps")
    with pytest.raises(ImageError, match="not an image that Pillow can read"):
        read_image(tmp_path / "a.eps")


@pytest.mark.parametrize("side", [11_000, 30_000], ids=["warning", "error"])
def test_decompression_bomb(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
    with pytest.raises(
        ImageError, match=r"bomb\.png: more than \d+ pixels, which might be a decompression bomb"
    ):
        read_image(tmp_path / "bomb.png")


def test_names() -> None:
    assert is_image_name("a.JPG")
    assert is_image_name(Path("b/c.webp"))
    assert not any(map(is_image_name, ["model.onnx", "a.pdf", "a.h5", "jpg", "", "default"]))


def test_find_walks_in_order(tmp_path: Path) -> None:
    names = ["b/2.png", "b/a/1.JPG", "a.png", "c.jpeg", "b/10.png"]
    for name in names:
        png(tmp_path / name)
    for name in ("notes.txt", ".hidden.png", "b/._2.png"):
        (tmp_path / name).touch()
    png(tmp_path / ".cache" / "d.png")
    found = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path])]
    assert found == [str(Path(name)) for name in ["a.png", "b/10.png", "b/2.png", "b/a/1.JPG", "c.jpeg"]]


def test_find_yields_given_files_whatever_their_name(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    given = [tmp_path / "image", png(tmp_path / "b.png"), tmp_path / "image"]
    assert list(find_images(given)) == given


def test_find_streams(tmp_path: Path) -> None:
    first = png(tmp_path / "a.png")
    found = find_images([first, tmp_path / "gone"])
    assert next(found) == first
    with pytest.raises(ImageError, match="gone: no such file or folder"):
        next(found)


def test_find_in_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "notes.txt").touch()
    with pytest.raises(ImageError, match="no image in this folder"):
        list(find_images([tmp_path]))


def test_find_goes_on_after_errors(tmp_path: Path) -> None:
    good, errors = png(tmp_path / "a" / "a.png"), []
    (tmp_path / "b").mkdir()
    found = find_images(
        [tmp_path / "gone", tmp_path / "b", "y" * 5000, tmp_path / "a"], on_error=errors.append
    )
    assert list(found) == [good]
    assert [str(error).partition(": ")[2].partition(":")[0] for error in errors] == [
        "no such file or folder",
        "no image in this folder",
        "cannot be read",
    ]


def test_find_does_not_follow_links_to_folders(tmp_path: Path) -> None:
    good = png(tmp_path / "a" / "a.png")
    (tmp_path / "a" / "loop.png").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a" / "link.png").symlink_to(good)
    assert [path.name for path in find_images([tmp_path / "a"])] == ["a.png", "link.png"]
