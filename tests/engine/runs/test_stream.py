"""Images explained as they come: what `engine.explain` gives, in order, a bounded number ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import camrt
from camrt.engine.images.read import decode_image, read_image
from camrt.engine.runs.decoding import Decoding, read_ahead
from camrt.engine.runs.sources import find_items
from camrt.errors import InputError, TargetError
from helpers.annotated_images import COLOURS, PREPROCESSING, SIDE, colour_model, draw_square
from helpers.tolerances import assert_close


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> camrt.Engine:
    path = colour_model(tmp_path_factory.mktemp("model") / "colours.onnx")
    return camrt.load(path, preprocessing=PREPROCESSING, labels=COLOURS, batch_size=3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for number in range(7):
        image = Image.fromarray(draw_square(rng, number % 3)[0])
        image.resize((SIDE + number, SIDE)).save(tmp_path / f"{number}.png")
    (tmp_path / "4b.png").write_text("no image")
    return tmp_path


def test_a_stream_gives_what_explaining_gives(engine: camrt.Engine, photos: Path) -> None:
    found = list(engine.explain_stream(photos, "gradcam", top_k=2))
    names = [Path(one.address).name for one in found]
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png", "4b.png", "5.png", "6.png"]
    broken = found.pop(5)
    assert broken.explanation is None
    assert broken.error == f"{photos / '4b.png'}: not an image that Pillow can read"
    together = engine.explain([one.address for one in found], "gradcam", top_k=2)
    for number, one in enumerate(found):
        assert one.error is None
        explanation = one.explanation
        assert explanation is not None
        assert len(explanation) == 1
        assert_close(explanation.maps[0], together.maps[number], "float32")
        assert explanation.targets.tolist() == [together.targets[number].tolist()]
        assert explanation.label(0) == together.label(number)
        assert explanation.overlay(0).tobytes() == together.overlay(number).tobytes()
        assert explanation.on_original(0).shape == (SIDE, SIDE + number)


def test_classes_sizes_and_options(engine: camrt.Engine, photos: Path) -> None:
    one = next(engine.explain_stream(photos, "pixab", targets="green", size="map", score="logit"))
    assert one.explanation is not None
    assert one.explanation.targets.tolist() == [1]
    assert one.explanation.maps.shape == (1, 8, 8)
    two = next(engine.explain_stream(photos, "gradcam", targets=["blue", 0], dtype="float16"))
    assert two.explanation is not None
    assert two.explanation.targets.tolist() == [[2, 0]]
    assert two.explanation.maps.dtype == np.float16
    with pytest.raises(TargetError):
        next(engine.explain_stream(photos, targets="mauve"))
    with pytest.raises(InputError, match="decode_threads=0"):
        engine.explain_stream(photos, decode_threads=0)
    plain = camrt.load(engine.path)
    with pytest.raises(InputError, match="preprocessing is not known"):
        plain.explain_stream(photos)


def test_degenerate_maps_are_told_by_their_flags(engine: camrt.Engine, tmp_path: Path) -> None:
    Image.new("RGB", (SIDE, SIDE), (128, 128, 128)).save(tmp_path / "grey.png")
    (one,) = engine.explain_stream(tmp_path, "gradcam")
    assert one.explanation is not None
    assert one.explanation.flags[0] != 0


def test_an_explanation_of_some_images(engine: camrt.Engine, photos: Path) -> None:
    paths = sorted(photos.glob("?.png"))
    whole = engine.explain(paths, "gradcam", top_k=2)
    last, some = whole[-1], whole[1:3]
    assert (len(last), len(some), len(list(whole))) == (1, 2, 7)
    assert np.array_equal(last.maps[0], whole.maps[6])
    assert some.overlay(1).tobytes() == whole.overlay(2).tobytes()
    with pytest.raises(IndexError, match="there is no image 7"):
        whole[7]
    assert whole.passes == last.passes


def test_no_more_is_read_than_is_waited_for(engine: camrt.Engine) -> None:
    """A source without an end is read a few batches ahead; the rest is left when the stream is closed."""
    taken: list[int] = []

    def source() -> Iterator[Callable[[], int]]:
        number = 0
        while True:
            taken.append(number)
            yield lambda number=number: number
            number += 1

    with read_ahead(source(), threads=2, ahead=4) as reading:
        elements = iter(reading)
        assert [next(elements) for _ in range(3)] == [0, 1, 2]
        until = time.monotonic() + 30
        while len(taken) < 7 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(taken) <= 3 + 4 + 2  # used, waiting, and one that is put
    before = threading.active_count()
    stream = engine.explain_stream([__file__] * 100, "gradcam")
    assert next(stream).error is not None
    stream.close()
    assert threading.active_count() <= before


def test_what_a_source_raises_is_raised_in_its_place(
    engine: camrt.Engine, photos: Path, tmp_path: Path
) -> None:
    stream = engine.explain_stream([photos / "0.png", tmp_path / "list.csv"], "gradcam")
    (tmp_path / "list.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="no column 'path'"):
        list(stream)


def test_large_jpegs_at_a_part_of_their_size(tmp_path: Path) -> None:
    """What is reduced is known to be so: the model's part of the image keeps its place on the whole."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).resize((1200, 800))
    image.save(tmp_path / "large.jpg", quality=95)
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(tmp_path / "turned.jpg", quality=95, exif=turned)
    image.save(tmp_path / "large.png")
    reduced = decode_image(tmp_path / "large.jpg", (128, 64))
    assert reduced.image.size == (150, 100) or reduced.image.size == (300, 200)
    assert min(reduced.image.size[::-1]) >= 64
    assert reduced.full_size == (800, 1200)
    upright = decode_image(tmp_path / "turned.jpg", (64, 128))
    assert upright.full_size == (1200, 800)
    assert upright.image.height > upright.image.width
    assert decode_image(tmp_path / "large.png", (64, 64)).image.size == (1200, 800)
    assert decode_image(tmp_path / "large.jpg").full_size == read_image(tmp_path / "large.jpg").size[::-1]
    (item, *_) = find_items(tmp_path / "large.jpg")
    whole, part = (
        Decoding.of(PREPROCESSING, 1, jpeg_scaling=scaling).decode(item).seen for scaling in (False, True)
    )
    assert whole is not None
    assert part is not None
    assert part.framing == whole.framing
    assert 0 < np.abs(part.array - whole.array).max() < 0.5


def test_streams_on_a_busy_machine_keep_their_order(photos: Path) -> None:
    def slowly(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number

    def source() -> Iterator[Any]:
        for number in range(30):
            yield lambda number=number: slowly(number)

    with read_ahead(source(), threads=4, ahead=8) as reading:
        assert list(reading) == list(range(30))
