from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camrt.engine.explanation import FLAG_NAMES, Explanation
from camrt.engine.passes import PassCounts
from camrt.engine.targets import find_class
from camrt.errors import InputError, TargetError

LABELS = ("tench, Tinca tinca", "crane", "tabby, tabby cat", "crane", "CON/..\\ été", "猫")


def explanation(shape: tuple[int, ...] = (2, 3), images: bool = True, **changes: Any) -> Explanation:
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "method": "PixabCAM(box=1)",
        "maps": rng.random((*shape, 7, 5), np.float32),
        "raw": rng.normal(size=(*shape, 3, 2)).astype(np.float32),
        "targets": (np.arange(np.prod(shape)).reshape(shape) % 6).astype(np.int64),
        "scores": rng.random(shape, np.float32),
        "logits": rng.random((shape[0], 6), np.float32),
        "probabilities": rng.random((shape[0], 6), np.float32),
        "flags": np.zeros(shape, np.uint8),
        "passes": PassCounts(trunk=shape[0], head=49, full=1),
        "seconds": 0.25,
        "labels": LABELS,
        "views": tuple(Image.new("RGB", (5, 7), "gray") for _ in range(shape[0])) if images else None,
    }
    return Explanation(**{**fields, **changes})


def test_passes_add() -> None:
    assert PassCounts(1, 2, 3) + PassCounts(head=5) == PassCounts(1, 7, 3)


def test_lengths() -> None:
    assert (len(explanation((2, 3))), explanation((2, 3)).targets_per_image) == (2, 3)
    assert (len(explanation((2,))), explanation((2,)).targets_per_image) == (2, 1)
    assert len(explanation((0, 3))) == 0


def test_repr_says_what_it_is() -> None:
    assert repr(explanation()) == (
        "<Explanation PixabCAM(box=1); 2 images; 3 targets each; maps 7x5; "
        "passes: 2 trunk, 49 head, 1 full; 125.0 ms an image>"
    )
    one = explanation((1,), flags=np.uint8([1]))
    assert "1 image; 1 target each; maps 7x5; 1 degenerate; " in repr(one)
    assert "250.0 ms" in repr(explanation((0,)))


def test_labels() -> None:
    many = explanation((2, 3))
    assert many.label(0) == many.label(0, 0) == "tench, Tinca tinca"
    assert many.label(0, 2) == "tabby, tabby cat"
    assert explanation((2,)).label(1) == explanation((2,)).label(1, 0) == "crane"
    assert explanation(labels=None).label(0, 2) == "class 2"
    assert explanation(labels=("a",)).label(0, 2) == "class 2"


def test_no_such_image_or_target() -> None:
    with pytest.raises(IndexError, match="there is no image 2: the explanation has 2"):
        explanation((2, 3)).label(2)
    with pytest.raises(IndexError, match="there is no target of an image 3: the explanation has 3"):
        explanation((2, 3)).overlay(0, 3)
    with pytest.raises(IndexError, match="there is no target of an image 1: the explanation has 1"):
        explanation((2,)).overlay(0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": np.zeros((2, 3, 1), np.int64)}, r"targets must be \(N,\) or \(N, T\), got \(2, 3, 1\)"),
        ({"maps": np.zeros((2, 7, 5), np.float32)}, r"maps has shape \(2, 7, 5\), the targets \(2, 3\)"),
        ({"raw": np.zeros((3, 2, 7, 5), np.float32)}, "raw has shape"),
        ({"scores": np.zeros(2)}, "scores has shape"),
        ({"flags": np.zeros((2, 4), np.uint8)}, "flags has shape"),
        ({"views": (Image.new("RGB", (5, 7)),)}, "1 views of 2 images"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_shapes_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explanation(**changes)


def test_overlay_needs_per_image() -> None:
    numbers = explanation(images=False)
    with pytest.raises(InputError, match=r"no image to draw on.*explain images instead"):
        numbers.overlay(0)
    assert numbers.overlay(0, 1, image=Image.new("RGB", (20, 30))).size == (20, 30)
    assert explanation().overlay(1, 2, opacity=0.9).size == (5, 7)
    assert np.array_equal(np.asarray(explanation().overlay(0, opacity=0, fade=0)), np.full((7, 5, 3), 128))


def test_each_overlay_shows_its_own_map() -> None:
    drawn = {explanation().overlay(i, t).tobytes() for i in range(2) for t in range(3)}
    assert len(drawn) == 6


def test_sheet() -> None:
    assert explanation((2, 3)).sheet(0).width == 4 * (5 + 6) + 6
    assert explanation((2,)).sheet(1, columns=1).width == 5 + 12


def test_save(tmp_path: Path) -> None:
    many = explanation((2, 3))
    written = many.save(tmp_path / "new" / "folder", ["a/b", ".."])
    assert [path.name for path in written] == [
        "a_b_1_0-tench-Tinca-tinca.png",
        "a_b_2_1-crane.png",
        "a_b_3_2-tabby-tabby-cat.png",
        "image_1_3-crane.png",
        "image_2_4-CON-ete.png",
        "image_3_5.png",
        "explanation.npz",
    ]
    assert sorted(written) == sorted((tmp_path / "new" / "folder").iterdir())  # nothing unfinished is left
    with Image.open(written[4]) as image:
        assert np.array_equal(np.asarray(image), np.asarray(many.overlay(1, 1)))


def test_the_uncertainty_goes_where_the_raw_maps_go(tmp_path: Path) -> None:
    raw = explanation().raw
    known = explanation(uncertainty=np.abs(raw))
    assert explanation().numpy().uncertainty is None
    assert np.array_equal(known.numpy().uncertainty, np.abs(raw))
    for made in (known, explanation()):
        *_, path = made.save(tmp_path)
        with np.load(path, allow_pickle=False) as archive:
            assert ("uncertainty" in archive) == (made is known)
            assert made is not known or np.array_equal(archive["uncertainty"], np.abs(raw))
    with pytest.raises(ValueError, match=r"uncertainty has shape \(2, 3\), the raw maps \(2, 3, 3, 2\)"):
        explanation(uncertainty=np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(2, 3), (2,), (1, 1), (0, 2)], ids=str)
@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "no-labels"])
def test_the_archive_holds_everything(
    tmp_path: Path, shape: tuple[int, ...], labels: tuple[str, ...] | None
) -> None:
    saved = explanation(shape, images=False, labels=labels)
    (path,) = saved.save(tmp_path, name="mine")
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    assert path.name == "mine.npz"
    for name in ("maps", "raw", "targets", "scores", "logits", "probabilities", "flags"):
        assert np.array_equal(arrays[name], getattr(saved, name))
        assert arrays[name].dtype == getattr(saved, name).dtype
    assert str(arrays["method"]) == saved.method
    assert arrays["passes"].tolist() == [shape[0], 49, 1, 0, 0]
    assert float(arrays["seconds"]) == 0.25
    assert arrays["stems"].tolist() == [f"{i:04d}" for i in range(shape[0])]
    assert (tuple(arrays["labels"]) if "labels" in arrays else None) == labels


def test_saving_again_overwrites(tmp_path: Path) -> None:
    one = explanation((1,), labels=None)
    assert one.save(tmp_path, "cat") == one.save(tmp_path, "cat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat_1_0.png", "explanation.npz"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    explanation((1,)).save(tmp_path, "cat")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space left"):
        explanation((1,)).save(tmp_path, "cat")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_save_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected 2 stems, one an image, got 1"):
        explanation().save(tmp_path, "cat")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        explanation().save(tmp_path / "file")


def test_equal_stems_are_told_apart(tmp_path: Path) -> None:
    written = explanation((3,), labels=None).save(tmp_path, ["Cat", "cat", "cat-2"])
    assert [path.name for path in written[:3]] == ["Cat_1_0.png", "cat-2_1_1.png", "cat-2-2_1_2.png"]


@pytest.mark.parametrize(
    ("name", "index"),
    [("tabby, tabby cat", 2), ("Tabby Cat", 2), (" tench", 0), ("TINCA TINCA", 0), ("猫", 5)],
)
def test_find_class(name: str, index: int) -> None:
    assert find_class(name, LABELS) == index


def test_a_whole_label_goes_before_a_synonym() -> None:
    assert find_class("cat", ("lynx, cat", "cat")) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crane", "classes 1, 3 bear that name; give an index"),
        ("taby", "no class of that name; did you mean 'tabby'"),
        ("zzzzzz", "no class of that name$"),
    ],
)
def test_find_class_errors(name: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        find_class(name, LABELS)


def test_it_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(explanation()))
    assert np.array_equal(again.maps, explanation().maps)
    assert again.views[0].size == (5, 7)


def test_flag_names() -> None:
    assert FLAG_NAMES == ("ok", "constant", "nothing positive", "not finite")


@pytest.mark.parametrize("name", ["tabby", "taby", "tiger-cat"])
def test_names_behind_wordnet_numbers_are_offered(name: str) -> None:
    labels = ["n02123045 tabby, tabby cat", "n02123159 tiger cat"]
    with pytest.raises(TargetError, match=r"did you mean .*'n0212"):
        find_class(name, labels)
