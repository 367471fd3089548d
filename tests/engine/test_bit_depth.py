"""Depths and bands of images, against files written byte by byte and arithmetic by hand."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camrt.engine.images.read import read_image
from camrt.errors import ImageError, InputRangeWarning

TWELVE_BITS = (np.arange(64 * 64, dtype=np.uint16) % 4096).reshape(64, 64)
SIXTEEN_BITS = (np.arange(64 * 64, dtype=np.uint16) * 16 + 15).reshape(64, 64)


def scaled(values: np.ndarray, most: int) -> np.ndarray:
    """Levels 0 to 255 of numbers 0 to `most`, halves upwards."""
    return np.floor(values.astype(np.float64) * 255 / most + 0.5).astype(np.uint8)


def level(image: Image.Image) -> np.ndarray:
    """The grey levels of an image that is grey in RGB."""
    pixels = np.asarray(image)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def write_png(path: Path, values: np.ndarray, kind: int, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of 16 bits a band; `kind` is its colour type."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in body))
    return path


def write_tiff(path: Path, values: np.ndarray, kind: int, order: str = "<", **more: list[int]) -> Path:
    """An uncompressed TIFF of one strip; `kind` is its PhotometricInterpretation."""
    height, width, bands = values.shape if values.ndim == 3 else (*values.shape, 1)
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags: dict[int, list[int]] = {
        256: [width],
        257: [height],
        258: [8 * values.itemsize] * bands,
        259: [1],
        262: [kind],
        273: [8],
        277: [bands],
        278: [height],
        279: [len(data)],
    }
    tags |= {{"most": 281, "extra": 338}[name]: numbers for name, numbers in more.items()}
    entries, beyond = b"", b""
    start = 8 + len(data)
    after = start + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        wide = tag in (273, 279)
        packed = struct.pack(f"{order}{len(numbers)}{'I' if wide else 'H'}", *numbers)
        if len(packed) > 4:
            place, beyond = struct.pack(f"{order}I", after + len(beyond)), beyond + packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, 4 if wide else 3, len(numbers)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    path.write_bytes(
        head + data + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + beyond
    )
    return path


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_than_a_png_is_stored_in_are_found_and_told(bits: int, tmp_path: Path) -> None:
    most = (1 << bits) - 1
    values = np.linspace(0, most, 64 * 64).astype(np.uint16).reshape(64, 64)
    path = write_png(tmp_path / "a.png", values, 0)
    with pytest.warns(InputRangeWarning, match=f"is taken to hold {bits} bits") as given:
        found = read_image(path)
    assert [Path(warning.filename).name for warning in given] == [Path(__file__).name]
    assert np.array_equal(level(found), scaled(values, most))
    assert len(np.unique(level(found))) == 256


def test_a_full_range_says_nothing(tmp_path: Path) -> None:
    found = level(read_image(write_png(tmp_path / "a.png", SIXTEEN_BITS, 0)))
    assert np.array_equal(found, scaled(SIXTEEN_BITS, 65535))


@pytest.mark.parametrize(
    ("order", "white"), [("<", 1), (">", 1), ("<", 0)], ids=["little-endian", "big-endian", "0-is-white"]
)
def test_a_tiff_declares_its_range(order: str, white: int, tmp_path: Path) -> None:
    dark = TWELVE_BITS // 8
    path = write_tiff(tmp_path / "a.tif", dark, white, order, most=[4095])
    expected = scaled(dark, 4095)
    assert np.array_equal(level(read_image(path)), expected if white else 255 - expected)


def test_a_netpbm_file_declares_its_range(tmp_path: Path) -> None:
    dark = TWELVE_BITS // 8
    (tmp_path / "a.pgm").write_bytes(b"P5 64 64 4095\n" + dark.astype(">u2").tobytes())
    found = level(read_image(tmp_path / "a.pgm"))
    assert np.abs(found.astype(int) - scaled(dark, 4095)).max() <= 1  # Pillow goes by way of 16 bits


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_whole_numbers_of_32_bits_are_scaled(dtype: Any) -> None:
    values = np.array([[0, 1000, 70000, (1 << 24) - 1]], dtype)
    with pytest.warns(InputRangeWarning, match="hold 24 bits"):
        found = level(read_image(Image.fromarray(values)))
    assert np.array_equal(found, scaled(values, (1 << 24) - 1))


def test_black_is_black_without_a_word() -> None:
    assert not level(read_image(Image.fromarray(np.zeros((3, 4), np.int32)))).any()


def test_clear_grey_of_16_bits_is_over_white(tmp_path: Path) -> None:
    values = SIXTEEN_BITS.copy()
    path = write_png(tmp_path / "a.png", values, 0, (b"tRNS", struct.pack(">H", int(values[3, 5]))))
    expected = scaled(values, 65535)
    expected[3, 5] = 255
    assert np.array_equal(level(read_image(path)), expected)


@pytest.mark.parametrize(("kind", "bands"), [(2, 3), (6, 4), (4, 2)], ids=["RGB", "RGBA", "LA"])
def test_colours_of_few_bits_in_sixteen_are_refused(kind: int, bands: int, tmp_path: Path) -> None:
    values = np.stack([TWELVE_BITS] * bands, axis=-1)
    if bands != 3:
        values[..., -1] = 65535
    with pytest.raises(ImageError, match=r"only the upper 8 can be read.*pass an array"):
        read_image(write_png(tmp_path / "a.png", values, kind))


def test_colours_of_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    values = np.stack([SIXTEEN_BITS, SIXTEEN_BITS[::-1], SIXTEEN_BITS.T], axis=-1)
    found = np.asarray(read_image(write_png(tmp_path / "a.png", values, 2)))
    assert np.array_equal(found, values >> 8)


@pytest.mark.parametrize(
    ("bands", "extra"), [(4, None), (4, [0]), (5, [0, 0]), (5, [2, 0])], ids=lambda value: str(value)
)
def test_a_band_that_is_no_colour_is_refused(bands: int, extra: list[int] | None, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 7, bands), np.uint8)
    more = {} if extra is None else {"extra": extra}
    path = write_tiff(tmp_path / "a.tif", values, 2, **more)
    with pytest.raises(ImageError, match=rf"a\.tif: has {bands} bands, of which 3 are colours.*an array"):
        read_image(path)


def test_a_band_that_is_declared_transparent_is_over_white(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 7, 4), np.uint8)
    found = np.asarray(read_image(write_tiff(tmp_path / "a.tif", values, 2, extra=[2])), np.float64)
    share = values[..., 3:] / 255.0
    assert np.abs(found - (values[..., :3] * share + 255 * (1 - share))).max() <= 1


def test_cmyk_of_a_jpeg_is_read_as_adobe_writes_it(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan: red
    ink.save(tmp_path / "a.jpg", quality=95)
    red = np.asarray(read_image(tmp_path / "a.jpg"), np.int64).mean(axis=(0, 1))
    assert np.abs(red - [255, 0, 0]).max() < 4


def test_the_first_frame_and_one_bit(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(read_image(tmp_path / "a.gif"))[0, 0].tolist() == [250, 0, 0]
    dots = np.array([[True, False, True]])
    Image.fromarray(dots).save(tmp_path / "a.png")
    assert level(read_image(tmp_path / "a.png")).tolist() == [[255, 0, 255]]


def test_a_warning_may_be_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputRangeWarning)
        with pytest.raises(InputRangeWarning):
            read_image(Image.fromarray(TWELVE_BITS.astype(np.int32)))
    assert read_image(Image.new("RGB", (2, 2))).size == (2, 2)  # the lock was given back
