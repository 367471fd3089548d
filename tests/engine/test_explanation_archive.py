"""Explanations that are kept and read again, and archives by strangers."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import camrt
from camrt.errors import InputError, MemoryLimitError


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("photos") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return camrt.load("default").explain([path, path], "rise", passes=16, top_k=2)


def test_what_is_read_is_what_was_saved(found: Any, tmp_path: Path) -> None:
    (path,) = found.save(tmp_path / "one.npz")
    assert [one.name for one in tmp_path.iterdir()] == ["one.npz"]
    folder = tmp_path / "all"
    found.save(folder, ["a", "b"])
    for place in (path, folder, str(folder / "explanation.npz")):
        again = camrt.Explanation.load(place)
        for name in ("maps", "raw", "targets", "scores", "logits", "probabilities", "flags", "uncertainty"):
            np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
        assert (again.method, again.labels, again.seconds) == (found.method, found.labels, found.seconds)
        assert (again.passes, again.framings, again.map_framing) == (
            found.passes,
            found.framings,
            found.map_framing,
        )
        assert again.sources is None  # a stranger's archive names no file of ours
        assert again.overlay(1, 1).tobytes() == found.overlay(1, 1, on="view").tobytes()
        photo = found.sources[0]
        assert again.overlay(0, image=photo).tobytes() == found.overlay(0).tobytes()
    with np.load(path, allow_pickle=False) as archive:
        manifest = json.loads(str(archive["manifest"]))
    assert manifest["kind"] == "camrt explanation"
    assert manifest["images"] == [str(one) for one in found.sources]


@pytest.mark.parametrize("shape", ["one target", "numbers", "no images"])
def test_other_shapes_are_read_again(found: Any, tmp_path: Path, shape: str) -> None:
    if shape == "numbers":
        kept = camrt.load("default").explain(np.zeros((2, 3, 128, 128), np.float32), "gradcam")
    else:
        kept = found.one_target(1, 0) if shape == "one target" else found[:0]
    kept.save(tmp_path / "one.npz")
    again = camrt.Explanation.load(tmp_path / "one.npz")
    np.testing.assert_array_equal(again.maps, kept.maps)
    assert repr(again) == repr(kept)


def test_one_target_alone(found: Any) -> None:
    one = found.one_target(1, 1)
    assert one.targets.tolist() == [found.targets[1, 1]]
    assert one.overlay(0).tobytes() == found.overlay(1, 1).tobytes()
    assert one.uncertainty.shape == (1, *found.raw.shape[2:])


def rewritten(path: Path, change: Any) -> Path:
    """The archive with its members changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def claim(members: dict[str, bytes]) -> None:
    members["maps.npy"] = members["maps.npy"].replace(b"(2, 2, 128, 128)", b"(2, 9, 999, 128)", 1)


def put(name: str, array: Any) -> Any:
    """Puts another array in the place of one."""
    return lambda members: members.update({f"{name}.npy": npy(array)})


BAD: dict[str, tuple[Any, str]] = {
    "no manifest": (lambda members: members.pop("manifest.npy"), "no manifest"),
    "another's manifest": (put("manifest", np.array("[1]")), "not that of an explanation"),
    "deep manifest": (put("manifest", np.array("[" * 100000)), "damaged"),
    "a later version": (
        put("manifest", np.array('{"kind": "camrt explanation", "version": 2}')),
        "version 2 of the format",
    ),
    "objects": (put("labels", np.array([{}], object)), "holds objects"),
    "a claim": (claim, "another size than its header says"),
    "no maps": (lambda members: members.pop("maps.npy"), "damaged"),
    "text for maps": (put("maps", np.full((2, 2, 128, 128), "a")), "maps are of <U1"),
    "other shapes": (put("raw", np.zeros((2, 3, 8, 8), np.float32)), "raw has shape"),
    "no classes": (put("targets", np.full((2, 2), 99)), "targets that are no classes"),
    "fewer logits": (put("logits", np.zeros((1, 33), np.float32)), "logits"),
    "edges that are no numbers": (put("framings", np.full((2, 6), np.nan)), "damaged"),
    "sizes of nothing": (put("framings", np.zeros((2, 6))), "damaged"),
    "framings of nothing": (put("framings", np.array([[9.0, 9, 1, 1, 1, 5]] * 2)), "damaged"),
    "views of strings": (put("views", np.array(["a", "b"])), "views are images"),
    "views of no pixel": (put("views", np.zeros((2, 0, 4, 3), np.uint8)), "views are images"),
    "other views": (put("views", np.zeros((3, 4, 4, 3), np.uint8)), "3 views of 2 images"),
    "many members": (lambda members: members.update({f"{n}.npy": b"" for n in range(99)}), "members"),
    "no array": (lambda members: members.update({"labels.npy": b"hello"}), "damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_archives_by_strangers_are_refused(found: Any, tmp_path: Path, name: str) -> None:
    change, message = BAD[name]
    (path,) = found.save(tmp_path / "one.npz")
    with pytest.raises(InputError, match=message):
        camrt.Explanation.load(rewritten(path, change))


def test_what_is_no_archive(tmp_path: Path, found: Any) -> None:
    for content in (b"", b"hello", b"PK"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(InputError, match="no archive of arrays, or a damaged one"):
            camrt.Explanation.load(tmp_path / "bad.npz")
    (path,) = found.save(tmp_path / "one.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="damaged"):
        camrt.Explanation.load(path)
    with pytest.raises(InputError, match="no explanation is there"):
        camrt.Explanation.load(tmp_path)
    with pytest.raises(InputError, match="is read from a path, not from 7"):
        camrt.Explanation.load(7)  # type: ignore[arg-type]


def test_a_bomb_is_refused_before_it_is_unpacked(
    found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = found.save(tmp_path / "one.npz")
    monkeypatch.setattr("camrt.engine.explanation_archive.default_max_memory", lambda: 1 << 20)
    packed = rewritten(path, lambda members: members.update({"views.npy": bytes(1 << 22)}))
    with pytest.raises(MemoryLimitError, match="the arrays of an explanation"):
        camrt.Explanation.load(packed)


def test_the_dataset_of_xarray(found: Any) -> None:
    pytest.importorskip("xarray")
    dataset = found.to_xarray()
    assert dict(dataset.sizes) == {
        "image": 2,
        "target": 2,
        "y": 128,
        "x": 128,
        "class_index": 33,
        **dict(zip(("row", "column"), found.raw.shape[2:], strict=True)),
    }
    np.testing.assert_array_equal(dataset["map"].sel(image=1, target=0), found.maps[1, 0])
    assert dataset["class"].dtype == np.int64
    assert str(dataset["label"].values[found.targets[0, 0]]) == found.label(0, 0)
    assert "uncertainty" in dataset
    single = found.one_target(0, 0)
    assert dict(single.to_xarray().sizes)["target"] == 1
