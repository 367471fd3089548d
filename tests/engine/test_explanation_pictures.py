"""What is drawn of explanations: comparisons, figures, and what a notebook shows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import camrt
from camrt.engine.comparison import draw_comparison
from camrt.errors import ImageError, InputError

METHODS = ["gradcam", "pixab"]


@pytest.fixture(scope="module")
def engine() -> Any:
    return camrt.load("default")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).resize((300, 200)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_the_photograph_is_drawn_on_at_its_own_size(engine: Any, photo: Path) -> None:
    found = engine.explain([photo], "gradcam")
    assert found.sources == (photo,)
    assert found.overlay().size == found.overlay(on="original").size == (300, 200)
    assert found.overlay(on="view").size == (128, 128)
    with photo.open("rb") as file:
        opened = engine.explain([file], "gradcam")
    assert opened.overlay().size == (128, 128)  # the file is closed
    with pytest.raises(InputError, match="the image as it was given is not known"):
        opened.overlay(on="original")
    with pytest.raises(InputError, match="on='whole' must be one of 'original', 'view'"):
        found.overlay(on="whole")
    held = engine.explain([photo.read_bytes(), np.asarray(Image.open(photo)), Image.open(photo)], "gradcam")
    assert {held.overlay(i).tobytes() for i in range(3)} == {found.overlay().tobytes()}
    photo.unlink()
    with pytest.raises(ImageError, match="no such file"):
        found.overlay()


def test_a_comparison_has_a_row_a_method_and_a_column_a_class(engine: Any, photo: Path) -> None:
    first, second = engine.explain_all([photo], METHODS, top_k=3)
    one = draw_comparison([first], width=800)
    both = draw_comparison([first, second], width=800, title="A title")
    assert one.width == both.width
    assert 790 < both.width <= 800
    assert both.height > 1.5 * one.height
    fewer = draw_comparison([first], width=800, most_targets=1)
    assert fewer.height > one.height  # two columns are wider than four
    assert draw_comparison([first], width=100).width > 600  # or nothing would be seen
    numbers = engine.explain(np.zeros((1, 3, 128, 128), np.float32), "gradcam", top_k=2)
    assert draw_comparison([numbers], width=400).width > 390
    with pytest.raises(InputError, match="at least one explanation"):
        draw_comparison([])
    with pytest.raises(InputError, match="of the same images are compared, these are of 1, 2"):
        draw_comparison([first, engine.explain([photo] * 2, "gradcam")])


def test_methods_with_one_class_each_stand_side_by_side(engine: Any, photo: Path) -> None:
    first, second = engine.explain_all([photo], METHODS)
    one = draw_comparison([first], width=1200)
    both = draw_comparison([first, second], width=1200)
    assert one.height > 1.2 * both.height  # three columns are narrower than two
    four = draw_comparison([first, second, first, second], width=1200)
    assert 790 < four.width <= 1200
    assert four.height < 2.5 * draw_comparison([first, second, first], width=1200).height


def test_boxes_are_in_the_photographs_pixels_at_every_size(engine: Any, photo: Path) -> None:
    found = engine.explain([photo], "gradcam")
    plain, boxed = (
        np.asarray(draw_comparison([found], width=1240, opacity=0, boxes=boxes), np.int16)
        for boxes in ([], [[0, 0, 150, 200]])
    )
    rows, columns = np.nonzero(np.abs(plain - boxed).sum(-1))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert width == pytest.approx(600 / 2, abs=8)
    assert height == pytest.approx(400, abs=8)


def test_a_notebook_shows_the_images_and_their_maps(engine: Any, photo: Path) -> None:
    found = engine.explain([photo] * 8, "gradcam", top_k=2)
    html = found._repr_html_()
    assert html.count("data:image/jpeg;base64,") == 6
    assert "and 2 more images" in html
    assert "&lt;Explanation GradCAM(" in html
    with Image.open(io.BytesIO(found._repr_png_())) as png:
        assert png.width > 600
    photo.unlink()
    assert "no such file" in found[0]._repr_html_()
    assert found[:0]._repr_png_() is None
    numbers = engine.explain(np.zeros((1, 3, 128, 128), np.float32), "gradcam")
    assert numbers._repr_html_().count("<img") == 1


def test_a_figure_has_titles_and_a_colour_bar(engine: Any, photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first, second = engine.explain_all([photo], METHODS, top_k=2)
    figure = first.plot(second, mode="contour")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "image"
    assert titles[1] == f"{first.label(0, 0)} {first.answer(0, 0)}\nGradCAM"
    assert titles[5].endswith("PixabCAM")
    assert figure.axes[-1].get_ylabel() == "saliency"
    for suffix in ("pdf", "svg", "png"):
        figure.savefig(tmp_path / f"figure.{suffix}")
    assert figure._repr_png_().startswith(b"\x89PNG")
    numbers = engine.explain(np.zeros((1, 3, 128, 128), np.float32), "gradcam")
    assert len(numbers.plot().axes) == 2


@pytest.mark.parametrize(
    ("given", "start"), [("jpeg", b"\xff\xd8"), ("webp", b"RIFF"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_drawings_in_other_formats(
    engine: Any, photo: Path, tmp_path: Path, given: Any, start: bytes
) -> None:
    if given in ("svg", "pdf"):
        pytest.importorskip("matplotlib")
    found = engine.explain([photo], "gradcam", top_k=2)
    *drawings, archive = found.save(tmp_path / "out", photo, format=given)
    assert [path.suffix for path in drawings] == [f".{given}"] * 2
    assert all(path.read_bytes().startswith(start) for path in drawings)
    assert archive.name == "explanation.npz"
    with pytest.raises(InputError, match="format='gif' must be one of 'png', 'jpeg'"):
        found.save(tmp_path / "out", format="gif")


def test_two_methods_with_the_same_name_show_their_options(engine: Any, photo: Path) -> None:
    from camrt.engine.comparison import arrange

    plain, other = (engine.explain([photo], "gradcam", normalisation=kind) for kind in ("max", "minmax"))
    assert [row.method.partition("(")[1] for row in arrange([plain, other], 0)] == ["(", "("]
    assert arrange([plain], 0)[0].method == "GradCAM"
