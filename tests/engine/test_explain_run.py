"""`camrt explain` into folders: one file for each image, and runs that go on or are replaced."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.engine.engine import Engine
from camrt.engine.images.read import list_class_folders
from camrt.engine.run_folder import JOURNAL_FILE, lock_folder
from camrt.evaluation.datasets import read_dataset
from helpers.annotated_images import COLOURS, PREPROCESSING, colour_model, draw_square


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("model")
    (folder / "steps.json").write_text(PREPROCESSING.to_json())
    (folder / "labels.txt").write_text("\n".join(COLOURS))
    model = colour_model(folder / "colours.onnx")
    return [
        str(model),
        *("--preprocessing", str(folder / "steps.json"), "--labels", str(folder / "labels.txt")),
        *("-m", "gradcam", "--batch-size", "2", "--block-size", "2"),
    ]


def images(folder: Path, names: list[str]) -> Path:
    rng = np.random.default_rng(3)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_square(rng, number % 3)[0]).save(folder / name, format="PNG")
    return folder


def run(shared: list[str], data: Path, out: Path, *more: str) -> Any:
    return CliRunner().invoke(app, ["explain", *shared, str(data), "-o", str(out), *more])


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same, but for the seconds that explaining took."""
    names = {path.name for path in one.iterdir()}
    if names != {path.name for path in other.iterdir()}:
        return False
    for name in names:
        if name.endswith(".npz"):
            with np.load(one / name) as first, np.load(other / name) as second:
                for key in {*first, *second} - {"seconds"}:
                    if first[key].tobytes() != second[key].tobytes():
                        return False
        elif (one / name).read_bytes() != (other / name).read_bytes():
            return False
    return True


NAMES = ["a.png", "b/a.png", "b/c.png", "c/a.jpg", "d.png"]


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the engine explains."""
    counts: list[int] = []
    original = Engine.explain

    def counting(self: Engine, batch: Any, *given: Any, **named: Any) -> Any:
        counts.append(len(batch))
        return original(self, batch, *given, **named)

    monkeypatch.setattr(Engine, "explain", counting)
    return counts


def test_long_names_in_different_batches_keep_their_overlays(shared: list[str], tmp_path: Path) -> None:
    long = "x" * 150
    data = images(tmp_path / "data", [f"{number}/{long}{number}.png" for number in range(5)])
    done = run(shared, data, tmp_path / "out")
    assert done.exit_code == 0, done.output
    overlays = sorted((tmp_path / "out").glob("*.png"))
    assert len(overlays) == 5
    printed = [line.rpartition(", ")[2] for line in done.stdout.splitlines()[:5]]
    assert sorted(printed) == [str(path) for path in overlays]


ANY_NAME = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["é", "e\u0301", "A", "a", "con", "a...", "x" * 140, "x" * 141]) | ANY_NAME,
        max_size=7,
    ),
    st.integers(1, 4),
)
def test_each_image_has_a_file_of_its_own(shared: list[str], names: list[str], size: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = images(folder / "data", [f"{i}/{name[:50]}.png" for i, name in enumerate(names)])
        given = sorted(files.rglob("*.png")) if names else []
        if not given:
            return
        done = CliRunner().invoke(
            app, ["explain", *shared, "--batch-size", str(size), *map(str, given), "-o", str(folder / "out")]
        )
        assert done.exit_code == 0, done.output
        overlays = {path.name for path in (folder / "out").glob("*.png")}
        assert len({name.casefold() for name in overlays}) == len(given)
        stems = []
        for path in (folder / "out").glob("*.npz"):
            with np.load(path) as archive:
                stems += archive["stems"].tolist()
        assert {name.rsplit("_", 2)[0] for name in overlays} == set(stems)
        assert all(name in done.stdout.replace("\n", "") for name in overlays)


def test_a_folder_with_results_is_left_alone(shared: list[str], tmp_path: Path) -> None:
    data = images(tmp_path / "data", NAMES)
    assert run(shared, data, tmp_path / "out").exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    again = run(shared, data, tmp_path / "out")
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    assert "--overwrite" in again.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_replacing_takes_away_what_the_earlier_run_wrote(shared: list[str], tmp_path: Path) -> None:
    data, out = images(tmp_path / "data", NAMES), tmp_path / "out"
    assert run(shared, data, out).exit_code == 0
    (out / "notes.txt").write_text("mine")
    (data / "d.png").unlink()
    assert run(shared, data, out, "--overwrite", "-k", "2").exit_code == 0
    assert run(shared, data, tmp_path / "whole", "-k", "2").exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert same(out, tmp_path / "whole")


def test_going_on_explains_only_what_is_not_done(
    shared: list[str], tmp_path: Path, explained: list[int]
) -> None:
    data, out = images(tmp_path / "data", NAMES), tmp_path / "out"
    (data / "b" / "bad.png").write_text("no image")
    assert run(shared, data, tmp_path / "whole").exit_code == 1
    assert run(shared, data, out).exit_code == 1
    lines = (out / JOURNAL_FILE).read_text().splitlines(keepends=True)
    written = next(number for number, line in enumerate(lines) if "explanation-0002.npz" in line)
    # as if killed while the second of three blocks was written
    (out / JOURNAL_FILE).write_text("".join(lines[: written + 1]))
    (out / "explanation-0002.npz").write_bytes(b"torn")
    (out / "explanation-0003.npz").unlink()
    (out / "results.csv").unlink()
    for path in (*out.glob("d_*.png"), *out.glob("a-3_*.png")):
        path.unlink()
    explained.clear()
    done = run(shared, data, out, "--resume")
    assert done.exit_code == 1
    assert explained == [1, 2]
    assert "2 explained before, 1 skipped" in done.stdout
    assert same(out, tmp_path / "whole")
    explained.clear()
    again = run(shared, data, out, "--resume")
    assert again.exit_code == 1
    assert "bad.png" in again.stderr
    assert explained == []
    assert same(out, tmp_path / "whole")


def test_other_contents_under_the_same_names_are_explained_again(
    shared: list[str], tmp_path: Path, explained: list[int]
) -> None:
    data, out = images(tmp_path / "data", NAMES), tmp_path / "out"
    assert run(shared, data, out).exit_code == 0
    Image.fromarray(draw_square(np.random.default_rng(9), 2)[0]).save(data / "b" / "c.png")
    explained.clear()
    assert run(shared, data, out, "--resume").exit_code == 0
    assert explained == [2]
    assert run(shared, data, tmp_path / "whole").exit_code == 0
    (out / JOURNAL_FILE).unlink()
    (tmp_path / "whole" / JOURNAL_FILE).unlink()
    assert same(out, tmp_path / "whole")


@pytest.mark.parametrize("change", ["added", "removed", "readable"])
def test_images_that_come_and_go(shared: list[str], tmp_path: Path, change: str) -> None:
    """What is there in the end is what a run over those images would have written."""
    data, out = images(tmp_path / "data", NAMES), tmp_path / "out"
    if change == "readable":
        whole = (data / "a.png").read_bytes()
        (data / "a.png").write_text("no image")
    assert run(shared, data, out).exit_code == (change == "readable")
    if change == "added":
        images(data, ["a.jpg", "b/b.png"])
    elif change == "removed":
        (data / "a.png").unlink()
    else:
        (data / "a.png").write_bytes(whole)
    assert run(shared, data, out, "--resume").exit_code == 0
    assert run(shared, data, tmp_path / "whole").exit_code == 0
    (out / JOURNAL_FILE).unlink()
    (tmp_path / "whole" / JOURNAL_FILE).unlink()
    assert same(out, tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-m", "eigen"], "which differs in method"),
        (["-k", "2"], "which differs in targets"),
        (["--on", "view"], "which differs in settings"),
        (["--activation", "sigmoid"], "which differs in model, settings"),
    ],
)
def test_other_settings_do_not_mix(shared: list[str], tmp_path: Path, more: list[str], words: str) -> None:
    data, out = images(tmp_path / "data", NAMES[:2]), tmp_path / "out"
    assert run(shared, data, out).exit_code == 0
    refused = run(shared, data, out, "--resume", *more)
    assert refused.exit_code == 2
    assert words in refused.stderr


def test_two_runs_do_not_share_a_folder(shared: list[str], tmp_path: Path) -> None:
    data = images(tmp_path / "data", NAMES[:1])
    with lock_folder(tmp_path / "out"):
        refused = run(shared, data, tmp_path / "out")
    assert refused.exit_code == 2
    assert "being written by another run" in refused.stderr


def test_a_refused_method_leaves_no_folder(shared: list[str], tmp_path: Path) -> None:
    data = images(tmp_path / "data", NAMES[:1])
    assert run(shared, data, tmp_path / "out", "-m", "calm").exit_code == 2
    assert not (tmp_path / "out").exists()


def test_saving_batches_by_hand(tmp_path: Path, shared: list[str]) -> None:
    """Stems that are safe and differ are kept, whatever batch they are in."""
    engine = camrt.load(shared[0], preprocessing=PREPROCESSING, labels=COLOURS)
    found = engine.explain(np.zeros((1, 3, 32, 32), np.float32), "gradcam")
    stems = ["x" * 120, "x" * 118 + "-2"]
    for number, stem in enumerate(stems):
        found.save(tmp_path, [stem], name=f"part-{number}")
        with np.load(tmp_path / f"part-{number}.npz") as archive:
            assert archive["stems"].tolist() == [stem]


@pytest.mark.parametrize("inside", [".", "maps", "deep/maps"])
def test_results_among_the_images_are_not_explained(
    shared: list[str], tmp_path: Path, explained: list[int], inside: str
) -> None:
    data = images(tmp_path / "data", NAMES)
    out = data / inside
    for more in ([], ["--overwrite"], ["--resume"]):
        done = run(shared, data, out, *more)
        assert done.exit_code == 0, done.output
        assert len(list(out.glob("*_*.png"))) == len(NAMES)
    assert sum(explained) == 2 * len(NAMES)  # nothing was left for the run that goes on
    explained.clear()
    done = run(shared, data, tmp_path / "elsewhere")
    assert sum(explained) == len(NAMES), done.output
    assert f"{out.resolve()}: 5 images left out, which camrt wrote as results" in done.stderr
    overlay = next(out.glob("*_*.png"))
    assert run(shared, overlay, tmp_path / "named").exit_code == 0  # a file that is named itself counts


def test_results_alone_are_no_images(shared: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(shared, images(tmp_path / "data", NAMES), out).exit_code == 0
    done = run(shared, out, tmp_path / "again")
    assert done.exit_code == 1
    assert f"{out}: no image in this folder but 5 that camrt wrote as results" in done.stderr


def test_run_files_of_other_programs_hide_no_image(shared: list[str], tmp_path: Path) -> None:
    data = images(tmp_path / "data", NAMES)
    (data / "run.json").write_text('{"run": "a marathon"}')
    (data / JOURNAL_FILE).write_text('{"writes": ["a.png"]}\n')
    (data / "b" / "run.json").write_text('{"run": "explanation", "made of": {}}')
    (data / "b" / JOURNAL_FILE).write_text("not ours\n")
    done = run(shared, data, tmp_path / "out")
    assert f"{len(NAMES)} images" in done.stdout, done.output


def test_folders_of_results_are_no_classes(shared: list[str], tmp_path: Path) -> None:
    data = images(tmp_path / "data", ["red/a.png", "red/b.png", "blue/a.png", "blue/b.png"])
    assert run(shared, data, data / "camrt-out").exit_code == 0
    assert run(shared, data / "red", data / "red").exit_code == 0  # among a class's own images
    assert list_class_folders(data) == ["blue", "red"]
    found = read_dataset(data, labels=COLOURS, num_classes=len(COLOURS))
    assert [sample.name for sample in found.samples] == ["blue/a.png", "blue/b.png", "red/a.png", "red/b.png"]
    assert not found.problems
    assert [note.partition(": ")[2] for note in found.notes] == [
        "4 images left out, which camrt wrote as results",
        "2 images left out, which camrt wrote as results",
    ]


def test_a_sheet_shows_whole_images_where_they_are_drawn_on(shared: list[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (640, 320), "red").save(tmp_path / "data" / "wide.png")
    done = run(shared, tmp_path / "data", tmp_path / "out", "-k", "2")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "out" / "wide_sheet.png") as sheet:
        assert sheet.width == 3 * (512 + 6) + 6  # the image and two overlays
        assert sheet.height < 256 + 6 * 20  # of their proportions
    assert "(the logit is explained)" in done.stdout
