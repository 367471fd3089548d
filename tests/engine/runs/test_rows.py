"""The rows of a run: what they hold, who can open them, and that they do not depend on how they were made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.engine.images.read import read_image
from camrt.engine.run_folder import JOURNAL_FILE
from camrt.engine.runs import block_writer
from camrt.errors import ImageError, InputError, NoSuchImageError, StorageError
from helpers.annotated_images import COLOURS, PREPROCESSING, SIDE, colour_model, draw_square


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "steps.json").write_text(PREPROCESSING.to_json())
    (folder / "labels.txt").write_text("\n".join(COLOURS))
    return colour_model(folder / "colours.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    for number, name in enumerate(("a.png", "b/a.png", "b/c.png", "c/a.jpg", "d.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_square(rng, number % 3)[0]).resize((SIDE + 8, SIDE)).save(path, format="PNG")
    (tmp_path / "photos" / "b" / "bad.png").write_text("no image")
    return tmp_path / "photos"


def run(model: Path, data: Path | list[Path], out: Path, *more: str, method: str = "gradcam") -> Any:
    steps, labels = (str(model.with_name(name)) for name in ("steps.json", "labels.txt"))
    sources = [str(one) for one in (data if isinstance(data, list) else [data])]
    asked = ["--preprocessing", steps, "--labels", labels, "-m", method, "--write", "maps", "-o", str(out)]
    return CliRunner().invoke(app, ["explain", str(model), *sources, *asked, *more])


def test_rows_are_what_explaining_gives(model: Path, photos: Path, tmp_path: Path) -> None:
    done = run(model, photos, tmp_path / "out", "-k", "2", "--block-size", "4", "--batch-size", "3")
    assert done.exit_code == 1, done.output
    found = camrt.open_run(tmp_path / "out")
    assert found.table["map"].type == pa.fixed_shape_tensor(pa.float16(), [SIDE, SIDE])
    assert found.table["raw"].type == pa.fixed_shape_tensor(pa.float32(), [8, 8])
    rows = found.table.to_pylist()
    paths = [str(photos / name) for name in ("a.png", "b/a.png", "b/bad.png", "b/c.png", "c/a.jpg", "d.png")]
    assert [row["path"] for row in rows] == [
        path for path in paths for _ in range(1 if path.endswith("bad.png") else 2)
    ]
    engine = camrt.load(model, preprocessing=PREPROCESSING, labels=COLOURS)
    readable = [path for path in paths if not path.endswith("bad.png")]
    expected = engine.explain(readable, "gradcam", top_k=2)
    assert len(found) == 11
    assert {(row["path"], row["status"], row["error"]) for row in rows if row["status"] != "ok"} == {
        (paths[2], "failed", f"{paths[2]}: not an image that Pillow can read")
    }
    assert all(value is None for name, value in rows[4].items() if name not in ("path", "status", "error"))
    kept = [number for number, row in enumerate(rows) if row["status"] == "ok"]
    for place, number in enumerate(kept):
        i, t = divmod(place, 2)
        row = rows[number]
        assert (row["class"], row["label"], row["rank"]) == (
            expected.targets[i, t],
            expected.label(i, t),
            t + 1,
        )
        target = row["class"]
        assert row["probability"] == pytest.approx(expected.probabilities[i, target], rel=1e-5)
        assert row["logit"] == pytest.approx(expected.logits[i, target], rel=1e-5)
        assert row["score"] == pytest.approx(expected.scores[i, t], rel=1e-5)
        assert row["flag"] == camrt.engine.explanation.FLAG_NAMES[expected.flags[i, t]]
        assert (row["height"], row["width"]) == (SIDE, SIDE + 8)
        assert np.allclose(np.asarray(row["map"]).reshape(SIDE, SIDE), expected.maps[i, t], atol=1e-3)
        assert np.allclose(np.asarray(row["raw"]).reshape(8, 8), expected.raw[i, t], rtol=1e-5)
        drawn = found[number]
        assert drawn.label(0) == expected.label(i, t)
        assert drawn.overlay(0).size == expected.overlay(i, t).size
        difference = np.abs(
            np.asarray(drawn.overlay(0)).astype(int) - np.asarray(expected.overlay(i, t)).astype(int)
        )
        assert difference.max() <= 3  # float16
        assert drawn.on_original(0).shape == (SIDE, SIDE + 8)
        assert np.isnan(np.delete(drawn.probabilities[0], target)).all()
    assert len(list(found)) == 10
    with pytest.raises(ImageError, match="not an image that Pillow can read"):
        found[4]
    with pytest.raises(NoSuchImageError):
        found[11]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["made of"]["model"]["sha256"] == engine.sha256
    assert manifest["made of"]["method"]["name"] == "gradcam"
    assert manifest["maps"] == {"map": [SIDE, SIDE], "raw": [8, 8], "has_uncertainty": False}


def test_rows_do_not_depend_on_how_they_were_made(model: Path, photos: Path, tmp_path: Path) -> None:
    """Batches, threads and a stop in the middle change nothing; what changes rows is refused by name."""
    sizes = ["--block-size", "2"]
    assert run(model, photos, tmp_path / "whole", *sizes).exit_code == 1
    other = [*sizes, "--batch-size", "1", "--threads", "1", "--decode-threads", "3"]
    assert run(model, photos, tmp_path / "out", *other).exit_code == 1
    journal = tmp_path / "out" / JOURNAL_FILE
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:4]))  # killed in the second block, which is claimed and not there
    for name in ("000002", "000003"):
        (tmp_path / "out" / "maps" / f"{name}.parquet").unlink()
    assert len(camrt.open_run(tmp_path / "out")) == 2
    done = run(model, photos, tmp_path / "out", *sizes, "--batch-size", "3", "--resume")
    assert "2 explained before" in done.stdout, done.output
    whole, again = (camrt.open_run(tmp_path / name).table for name in ("whole", "out"))
    assert whole.equals(again)
    for more, words in (
        (["--map-size", "map"], "differs in settings (map_size was 'image' and is 'map')"),
        (["--jpeg-scaling"], "differs in settings"),
        (["--block-size", "3"], "differs in settings"),
        (["-O", "score=logit"], "differs in method"),
    ):
        refused = run(model, photos, tmp_path / "out", *sizes, *more, "--resume")
        assert refused.exit_code == 2
        assert words in refused.stderr


def test_a_run_that_is_finished_reads_no_image_again(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(model, photos, tmp_path / "out").exit_code == 1

    def refuse(*given: Any) -> None:
        raise AssertionError("an image is read")

    monkeypatch.setattr("camrt.engine.runs.decoding.decode_item", refuse)
    done = run(model, photos, tmp_path / "out", "--resume")
    assert done.exit_code == 1
    assert "bad.png" in done.stderr
    assert "5 explained before, 1 skipped" in done.stdout


def test_no_image_at_all_can_be_read(model: Path, photos: Path, tmp_path: Path) -> None:
    """Rows of failures alone have the same columns."""
    done = run(model, [photos / "b" / "bad.png", photos / "gone.png"], tmp_path / "none")
    assert done.exit_code == 1, done.output
    assert run(model, photos / "a.png", tmp_path / "some").exit_code == 0
    none, some = (camrt.open_run(tmp_path / name).table for name in ("none", "some"))
    assert none.schema.equals(some.schema)
    assert none["status"].to_pylist() == ["failed", "failed"]
    assert none["map"].null_count == 2


def test_two_images_of_one_name_keep_apart(model: Path, photos: Path, tmp_path: Path) -> None:
    done = run(model, photos, tmp_path / "out", "--write", "overlays,maps")
    assert done.exit_code == 1
    paths = camrt.open_run(tmp_path / "out").table["path"].to_pylist()
    assert len(set(paths)) == 6
    assert len(list((tmp_path / "out").glob("a*_1_*.png"))) == 3


def test_error_bars_have_a_column(model: Path, photos: Path, tmp_path: Path) -> None:
    done = run(model, photos / "a.png", tmp_path / "out", "-O", "passes=16", method="rise")
    assert done.exit_code == 0, done.output
    found = camrt.open_run(tmp_path / "out")
    expected = camrt.load(model, preprocessing=PREPROCESSING).explain([photos / "a.png"], "rise", passes=16)
    uncertainty = found[0].uncertainty
    assert uncertainty is not None
    assert expected.uncertainty is not None
    assert np.allclose(uncertainty, expected.uncertainty, rtol=1e-4)


def test_others_open_the_rows(model: Path, photos: Path, tmp_path: Path) -> None:
    """Arrow by itself, pandas, and Hugging Face's datasets."""
    datasets = pytest.importorskip("datasets")
    assert run(model, photos, tmp_path / "out", "--block-size", "2").exit_code == 1
    whole = camrt.open_run(tmp_path / "out").table
    files = sorted(map(str, (tmp_path / "out" / "maps").glob("*.parquet")))
    plain = pq.read_table(tmp_path / "out" / "maps")
    assert plain.num_rows == 6
    found = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert found["path"][:] == whole["path"].to_pylist()
    assert np.array(found[0]["map"]).shape == (SIDE, SIDE)
    assert np.allclose(np.array(found[0]["map"]), whole["map"][0].to_numpy())
    table = plain.to_pandas()
    assert np.stack(table["map"][0]).shape == (SIDE, SIDE)
    assert table["map"][2] is None


def test_rows_as_a_zarr_group(model: Path, photos: Path, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    assert run(model, photos, tmp_path / "out", "--block-size", "2", "-k", "2").exit_code == 1
    found = camrt.open_run(tmp_path / "out")
    found.to_zarr(tmp_path / "rows.zarr")
    group = zarr.open_group(tmp_path / "rows.zarr", mode="r")
    assert dict(group.arrays()).keys() == set(found.table.column_names)
    rows = found.table.to_pylist()
    assert group["path"][:].tolist() == [row["path"] for row in rows]
    assert group["map"].metadata.dimension_names == ("row", "y", "x")
    assert group["map"].dtype == np.float16
    for number, row in enumerate(rows):
        if row["status"] == "failed":
            assert np.isnan(group["map"][number]).all()
            assert np.isnan(group["probability"][number])
            assert group["class"][number] == -1
            continue
        assert np.array_equal(group["map"][number], found.table["map"][number].to_numpy())
        assert np.array_equal(group["raw"][number], found.table["raw"][number].to_numpy())
        assert group["probability"][number] == row["probability"]
        assert (group["class"][number], group["label"][number]) == (row["class"], row["label"])
    with pytest.raises(StorageError, match="exists"):
        found.to_zarr(tmp_path / "rows.zarr")
    max((tmp_path / "out" / "maps").iterdir()).write_bytes(b"no table")
    with pytest.raises(InputError, match="no whole Parquet file"):
        camrt.open_run(tmp_path / "out").to_zarr(tmp_path / "other.zarr")
    assert not [p.name for p in tmp_path.iterdir() if "zarr" in p.name and p.name != "rows.zarr"]


def test_names_that_are_no_text(model: Path, photos: Path, tmp_path: Path) -> None:
    odd = os.fsencode(photos) + b"/bad\xff.png"
    try:
        (photos / "a.png").rename(os.fsdecode(odd))
    except OSError:
        pytest.skip("the file system takes text alone")
    assert run(model, photos, tmp_path / "out").exit_code == 1
    paths = camrt.open_run(tmp_path / "out").table["path"].to_pylist()
    assert f"{photos}/bad\\xff.png" in paths
    assert len(paths) == 6


def test_an_image_that_goes_before_it_is_drawn_on(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(source: Any) -> Any:
        if Path(source).name == "d.png":
            raise ImageError(f"{source}: no such file")
        return read_image(source)

    monkeypatch.setattr(block_writer, "read_image", vanish)
    done = run(model, photos, tmp_path / "out", "--write", "overlays,maps")
    assert done.exit_code == 1, done.output
    assert "d.png: explained, and not drawn on" in done.stderr
    assert len(camrt.open_run(tmp_path / "out")) == 6
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
    again = run(model, photos, tmp_path / "out", "--write", "overlays,maps", "--resume")
    assert "explained before" in again.stdout


def test_rows_find_their_images_from_anywhere(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    assert run(model, Path("a.png"), tmp_path / "out").exit_code == 0
    monkeypatch.chdir(tmp_path)
    found = camrt.open_run("out")
    assert found[0].overlay(0).size == (SIDE + 8, SIDE)
    assert found[0].overlay(0, on="view").size == (SIDE, SIDE)
    assert repr(found) == "<camrt.OpenedRun out: gradcam, 1 files of rows>"
    for wrong in ("a", None, 1.0, True, slice(0, 1)):
        with pytest.raises(NoSuchImageError):
            found[wrong]  # type: ignore[index]  # which is the point


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run with maps here"):
        camrt.open_run(tmp_path)
    for content in (
        "",
        "[]",
        "{}",
        '{"maps": {}}',
        '{"maps": {"map": [1, 2], "raw": ["a", 2]}}',
        "[" * 100000,
    ):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(InputError, match="damaged"):
            camrt.open_run(tmp_path)


def test_a_damaged_file_of_rows_is_named(model: Path, photos: Path, tmp_path: Path) -> None:
    assert run(model, photos / "a.png", tmp_path / "out").exit_code == 0
    (tmp_path / "out" / "maps" / "000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"000001\.parquet: no whole Parquet file"):
        len(camrt.open_run(tmp_path / "out"))


def test_unknown_kinds_of_results(model: Path, photos: Path, tmp_path: Path) -> None:
    refused = run(model, photos, tmp_path / "out", "--write", "maps,films")
    assert refused.exit_code == 2
    assert "nothing to write by the name of films" in refused.stderr
    refused = run(model, photos, tmp_path / "out", "--map-size", "large")
    assert refused.exit_code == 2
    assert "--map-size" in refused.stderr
