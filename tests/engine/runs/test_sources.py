"""Where images come from: each kind of source, in order, and what is wrong with it in its place."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from camrt.engine.images.read import read_image
from camrt.engine.runs import items as items_module
from camrt.engine.runs import sources as sources_module
from camrt.engine.runs.sources import find_address, find_items, list_ahead, lists_quickly
from camrt.errors import ImageError, InputError

fsspec = pytest.importorskip("fsspec")


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def shades(source: object, **options: str) -> list[object]:
    """Of each item its image's shade, or its error."""
    return [
        item.error or int(np.asarray(read_image(item.read()))[0, 0, 0])
        for item in find_items(source, **options)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("b.png", "a/c.png", "a/d.png")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(png(number))
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path


def write_tar(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            content = png(number) if name.endswith(".png") else b"3"
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_files_folders_and_patterns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert shades("photos") == [1, 2, 0]
    assert shades(["photos/b.png", Path("photos/a")]) == [0, 1, 2]
    assert shades("photos/**/*.png") == [1, 2, 0]
    assert shades("photos/[ab].png") == [0]
    assert [item.address for item in find_items("photos/a")] == ["photos/a/c.png", "photos/a/d.png"]
    for sources, quickly in (["photos"], True), (["s3://bucket"], False), (["photos", "list.txt"], False):
        assert lists_quickly(sources) == quickly


def test_listing_ahead_lists_once_and_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    listed: list[str] = []
    scan = os.scandir

    def scandir(place: Any = ".") -> Any:
        listed.append(str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", scandir)
    totals: list[int] = []
    with list_ahead(["photos", "gone.png"], on_total=totals.append) as found:
        items = list(found)
    assert totals == [4]
    assert sorted(listed) == ["photos", "photos/a"]
    assert [item.address for item in items[:3]] == [item.address for item in find_items("photos")]
    assert items[3].error == "gone.png: no such file or folder"


def test_listing_ahead_ends_with_its_block(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "MOST_LISTED", 1)
    totals: list[int] = []
    with list_ahead(folder / "photos", on_total=totals.append) as found:
        assert next(found).address.endswith("c.png")
    assert totals == []
    with (
        pytest.raises(InputError, match="the list of them is empty"),
        list_ahead([], on_total=totals.append) as found,
    ):
        next(found)


def test_a_file_whose_name_is_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").write_bytes(png(7))
    assert shades(tmp_path / "a[1].png") == [7]


def test_what_is_missing_stands_in_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    found = shades(["photos/b.png", "gone.png", "no*.png", "empty", "photos/a/c.png"])
    assert found == [
        0,
        "gone.png: no such file or folder",
        "no*.png: no file has such a name",
        "empty: no image in this folder",
        1,
    ]


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_lists_count_from_their_own_folder(folder: Path, kind: str) -> None:
    paths = ["photos/a/d.png", str(folder / "photos" / "b.png")]
    listed = folder / f"list.{kind}"
    if kind == "txt":
        listed.write_text("\ufeff" + "\n".join([paths[0], "", paths[1]]) + "\n", encoding="utf-8")
    elif kind == "csv":
        listed.write_text("label,path\nx," + "\ny,".join(paths) + "\n")
    else:
        pq.write_table(pa.table({"label": ["x", "y"], "path": paths}), listed)
    assert shades(listed) == [2, 0]
    if kind != "txt":
        assert all(
            "no file" in str(error) or "no such" in str(error) for error in shades(listed, column="label")
        )
        with pytest.raises(InputError, match="no column 'image' among 'label', 'path'"):
            list(find_items(listed, column="image"))


def test_comments_in_a_list(folder: Path) -> None:
    (folder / "photos" / "a" / "d.png").rename(folder / "# d.png")
    (folder / "#e.png").write_bytes((folder / "# d.png").read_bytes())
    listed = folder / "list.txt"
    listed.write_text("# those of May\n#\n  # indented\nphotos/b.png\n./# d.png\n#e.png\n# d.png\n")
    assert shades(listed) == [0, 2, 2]


def test_lists_that_are_none(tmp_path: Path) -> None:
    for name, content, words in (
        ("a.csv", b"", "no column 'path'"),
        ("b.parquet", b"PAR1", "no Parquet table"),
        ("c.txt", b"\xff\xfe\x00", "cannot be read as a list of paths"),
        ("e.txt", b"x" * 70000, "is no path"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words):
            list(find_items(tmp_path / name))
    pq.write_table(pa.table({"path": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match="the column 'path' holds int64, and paths are text"):
        list(find_items(tmp_path / "numbers.parquet"))
    for source in ("", 5, None, b"x", [], ["a.png", 3]):
        with pytest.raises(InputError, match="source of images"):
            list(find_items(source))  # type: ignore[arg-type]  # which is the point
    with pytest.raises(InputError, match="file systems within each other"):
        list(find_items("zip://*.jpg::file:///x.zip"))


def test_entries_that_are_no_paths_stand_in_their_place(folder: Path) -> None:
    good = "photos/b.png"
    (folder / "a.txt").write_bytes(b"photos/b.png\na\0b\n")
    assert shades(folder / "a.txt") == [0, f"{folder / 'a.txt'}: entry 2 is no path: 'a\\x00b'"]
    pq.write_table(pa.table({"path": [good, None, good]}), folder / "b.parquet")
    assert shades(folder / "b.parquet") == [0, f"{folder / 'b.parquet'}: entry 2 is no path: ''", 0]
    (folder / "c.csv").write_text("label,path\nx\ny,photos/b.png\n")
    assert shades(folder / "c.csv") == [f"{folder / 'c.csv'}: entry 1 is no path: ''", 0]
    (folder / "d.txt").write_text("x.tar.gz\nnothing://x\nd.txt\n  photos/b.png  \n")
    (folder / "x.tar.gz").write_bytes(b"")
    *errors, last = shades(folder / "d.txt")
    assert last == 0
    assert ["a compressed archive" in str(errors[0]), "fsspec knows" in str(errors[1])] == [True, True]
    for name, content in (("e.txt", b""), ("f.csv", b"path\n")):
        (folder / name).write_bytes(content)
        assert shades(folder / name) == [f"{folder / name}: no path in this list"]


def test_tar_archives(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "shard.tar", ["000.png", "000.cls", "deep/001.png"])
    assert shades(shard) == [0, 2]
    addresses = [item.address for item in find_items(shard)]
    assert addresses == [f"{shard}#000.png", f"{shard}#deep/001.png"]
    assert read_image(find_address(addresses[1]).read()).size == (4, 3)
    with pytest.raises(ImageError, match="is not there any more"):
        find_address(f"{shard}#002.png")
    assert shades(write_tar(tmp_path / "none.tar", ["a.cls"])) == [
        f"{tmp_path / 'none.tar'}: no image in this archive"
    ]
    whole = shard.read_bytes()
    for size in (600, 1024, 1200, 2048, 3000):
        (tmp_path / "torn.tar").write_bytes(whole[:size])
        assert any("torn.tar" in error for error in torn(tmp_path / "torn.tar")), size
    (tmp_path / "shard.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match="a compressed archive"):
        list(find_items(tmp_path / "shard.tar.gz"))


def test_what_stands_in_archives_beside_plain_files(tmp_path: Path) -> None:
    """Two of one name have addresses of their own; links, and what follows another archive, are told."""
    path = tmp_path / "mixed.tar"
    with tarfile.open(path, "w") as archive:
        for shade in (3, 9):
            member = tarfile.TarInfo("a.png")
            member.size = len(png(shade))
            archive.addfile(member, io.BytesIO(png(shade)))
        for kind, name in ((tarfile.LNKTYPE, "hard.png"), (tarfile.SYMTYPE, "soft.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.png"
            archive.addfile(link)
        hidden = tarfile.TarInfo("__MACOSX/._a.png")
        archive.addfile(hidden)
    first, second, *links = find_items(path)
    assert [first.address, second.address] == [f"{path}#a.png", f"{path}#a.png#2"]
    assert shades(path)[:2] == [3, 9]
    assert np.asarray(read_image(find_address(second.address).read()))[0, 0, 0] == 9
    assert [str(link.error).partition(": ")[2] for link in links] == [
        "a link in an archive, which is not followed"
    ] * 2
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    assert "another archive follows" in str(shades(path)[-1])
    odd = write_tar(tmp_path / "o#d.tar", ["x.tar#y.png"])
    (item,) = find_items(odd)
    assert find_address(item.address).address == item.address


def test_a_link_that_leads_in_a_circle_hides_nothing(folder: Path) -> None:
    (folder / "photos" / "me").symlink_to("me")
    assert shades(folder / "photos") == [1, 2, 0]


def torn(path: Path) -> list[str]:
    """The errors of an archive that ends too soon, met when it is listed or when an image is read."""
    errors = []
    for item in find_items(path):
        if item.error is not None:
            errors.append(item.error)
            continue
        try:
            item.read()
        except ImageError as error:
            errors.append(str(error))
    return errors


def test_addresses_of_fsspec(folder: Path) -> None:
    files = fsspec.filesystem("memory")
    try:
        for name in ("photos/b.png", "photos/a/c.png", "photos/notes.md"):
            files.pipe(f"/{name}", png(len(name)))
        files.pipe("/list.csv", b"path\nphotos/b.png\nmemory://photos/a/c.png\n")
        files.pipe("/shard.tar", write_tar(folder / "s.tar", ["x.png", "y.png"]).read_bytes())
        assert shades("memory://photos") == [14, 12]
        assert shades("memory://photos/*.png") == [12]
        assert shades("memory://photos/b.png") == [12]
        assert shades("memory://list.csv") == [12, 14]
        assert shades("memory://shard.tar") == [0, 1]
        (gone,) = shades("memory://photos/gone.png")
        assert "memory://photos/gone.png: cannot be listed: FileNotFoundError" in str(gone)
        (item,) = find_items("memory://photos/b.png")
        assert item.version is not None
        files.rm("/photos/b.png")
        with pytest.raises(ImageError, match="cannot be read"):
            item.read()
    finally:
        files.store.clear()
    with pytest.raises(InputError, match="fsspec knows"):
        list(find_items("nothing://x"))


def test_files_that_are_too_large_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tar_archives", "addresses"):
        monkeypatch.setattr(f"camrt.engine.runs.{module}.MAX_IMAGE_BYTES", 10)
    assert items_module.MAX_IMAGE_BYTES >= 1 << 20
    (error,) = shades(write_tar(folder / "large.tar", ["a.png"]))
    assert "larger than 10 bytes" in str(error)
    files = fsspec.filesystem("memory")
    files.pipe("/large.png", png(0))
    try:
        assert "larger than 10 bytes" in str(shades("memory://large.png")[0])
    finally:
        files.store.clear()


def test_a_version_changes_with_the_file(folder: Path) -> None:
    path = folder / "photos" / "b.png"
    (before,) = find_items(path)
    path.write_bytes(png(0) + b"more")
    (after,) = find_items(path)
    assert before.version != after.version
