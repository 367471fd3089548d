"""Runs on Ray: the rows of a run on one machine, whatever happens to an actor, and shares that fit."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.engine.run_folder import JOURNAL_FILE
from camrt.engine.runs.actors import Cluster, Share, find_share
from camrt.errors import InputError
from helpers.annotated_images import PREPROCESSING, colour_model, draw_square

IMAGES = 90

pytestmark = [  # Ray warns of itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*use_push_based_shuffle:DeprecationWarning"),
]


@pytest.mark.parametrize(
    ("asked", "resources", "share"),
    [
        ({}, {"CPU": 2.0}, Share(1, 1.0, 0.0, 2)),
        ({}, {"CPU": 1.0}, Share(1, 0.5, 0.0, 1)),
        ({}, {"CPU": 64.0}, Share(63, 1.0, 0.0, 1)),
        ({"actors": 2}, {"CPU": 64.0}, Share(2, 1.0, 0.0, 32)),
        ({"actors": 2}, {"CPU": 2.0}, Share(2, 0.75, 0.0, 1)),
        ({"actors": 2, "cpus": 0.5}, {"CPU": 2.0}, Share(2, 0.5, 0.0, 1)),
        ({"cpus": 8}, {"CPU": 64.0}, Share(7, 8, 0.0, 8)),
        ({"gpus": 1}, {"CPU": 64.0, "GPU": 8.0}, Share(8, 1.0, 1, 8)),
        ({"gpus": 0.5, "cpus": 4}, {"CPU": 16.0, "GPU": 8.0}, Share(3, 4, 0.5, 4)),
    ],
)
def test_actors_leave_ray_its_share(asked: dict[str, Any], resources: dict[str, float], share: Share) -> None:
    assert find_share(Cluster(address="local", **asked), resources) == share


@pytest.mark.parametrize(
    ("asked", "resources", "words"),
    [
        ({"actors": 2, "cpus": 1}, {"CPU": 2.0}, "2 actors of 1 processors do not fit the cluster's 2"),
        ({"cpus": 2}, {"CPU": 2.0}, "1 actors of 2 processors do not fit"),
        ({"gpus": 1}, {"CPU": 2.0}, "--gpus-per-actor 1: the cluster has 0 GPUs"),
    ],
)
def test_actors_that_would_wait_for_ever(
    asked: dict[str, Any], resources: dict[str, float], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        find_share(Cluster(address="local", **asked), resources)


def test_an_address_where_nothing_answers(model: Path, photos: Path, tmp_path: Path) -> None:
    refused = run(model, photos, tmp_path / "out", "--ray", "127.0.0.1:1")
    assert refused.exit_code == 2
    assert "no Ray cluster at '127.0.0.1:1'" in refused.stderr


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray on this machine, once for all tests: to start it takes seconds."""
    if sys.platform != "linux":
        pytest.skip("finds Ray's processes in /proc")
    module = pytest.importorskip("ray")
    module.init(
        address="local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False
    )
    yield module
    module.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for number in range(IMAGES):
        Image.fromarray(draw_square(rng, number % 3)[0]).save(folder / f"{number:03d}.png")
    (folder / "050b.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "steps.json").write_text(PREPROCESSING.to_json())
    return colour_model(folder / "colours.onnx")


def run(model: Path, data: Path, out: Path, *more: str) -> Any:
    asked = ["--preprocessing", str(model.with_name("steps.json")), "-m", "gradcam", "-k", "2"]
    asked += ["--write", "maps", "--block-size", "4", "-o", str(out)]
    return CliRunner().invoke(app, ["explain", str(model), str(data), *asked, *more])


def actor_processes() -> list[int]:
    """The processes of Ray Data's actors."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if words.startswith(b"ray::MapWorker"):
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray")
def test_the_rows_are_those_of_one_machine(model: Path, photos: Path, tmp_path: Path) -> None:
    assert run(model, photos, tmp_path / "here").exit_code == 1
    done = run(model, photos, tmp_path / "there", "--ray", "local")
    assert done.exit_code == 1, done.output
    assert "050b.png" in done.stderr
    assert f"{IMAGES} images, 1 skipped" in done.stdout
    here, there = (camrt.open_run(tmp_path / name).table for name in ("here", "there"))
    assert there.equals(here)
    assert len(here) == 2 * IMAGES + 1
    journal = tmp_path / "there" / JOURNAL_FILE
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: len(lines) - 8]))
    again = run(model, photos, tmp_path / "there", "--ray", "local", "--resume", "--actors", "1")
    assert "explained before" in again.stdout
    assert camrt.open_run(tmp_path / "there").table.equals(here)
    home = run(model, photos, tmp_path / "there", "--resume")
    assert f"{IMAGES} explained before" in home.stdout


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray")
def test_an_actor_that_is_killed_is_replaced(model: Path, photos: Path, tmp_path: Path) -> None:
    assert run(model, photos, tmp_path / "here").exit_code == 1
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.is_set():
            if len(list((tmp_path / "there" / "maps").glob("*.parquet"))) >= 3:
                for process in actor_processes():
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        done = run(model, photos, tmp_path / "there", "--ray", "local")
    finally:
        ended.set()
        thread.join()
    assert killed
    assert done.exit_code == 1, done.output
    here, there = (camrt.open_run(tmp_path / name).table for name in ("here", "there"))
    assert there.equals(here)
    assert not list((tmp_path / "there").rglob(".camrt-*.part*"))


@pytest.mark.usefixtures("ray")
def test_what_an_actor_meets_is_told(model: Path, photos: Path, tmp_path: Path) -> None:
    refused = run(model, photos, tmp_path / "out", "--ray", "local", "-m", "calm")
    assert refused.exit_code == 2
    assert "'calm' needs a CALM model" in refused.stderr
    refused = run(model, photos, tmp_path / "out", "--ray", "local", "--write", "overlays")
    assert refused.exit_code == 2
    assert "rows with maps are all that is written" in refused.stderr


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray")
def test_an_evaluation_has_the_same_bytes(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    rng = np.random.default_rng(4)
    for number in range(21):
        place = data / f"class {number % 3}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_square(rng, number % 3)[0]).save(place)
    (data / "class 0" / "broken.png").write_text("no image")

    def evaluate(out: str, *more: str) -> dict[str, bytes]:
        asked = [
            "--preprocessing",
            str(model.with_name("steps.json")),
            "--methods",
            "gradcam,pixab,rise:passes=20",
        ]
        asked += [
            "--metrics",
            "drop,deletion,removal,compactness",
            "--step",
            "40",
            "--out",
            str(tmp_path / out),
        ]
        done = CliRunner().invoke(app, ["evaluate", str(model), str(data), *asked, *more])
        assert done.exit_code == 0, done.output
        names = (
            "results.json",
            "report.html",
            "table.md",
            "images.parquet",
            "maps.parquet",
            "objects.parquet",
        )
        return {name: (tmp_path / out / name).read_bytes() for name in names}

    here = evaluate("here")
    assert evaluate("there", "--ray", "local") == here
    assert evaluate("two", "--ray", "local", "--actors", "2") == here
    assert b"broken.png" in here["results.json"]
    refused = CliRunner().invoke(app, ["evaluate", str(model), str(data), "--actors", "2"])
    assert refused.exit_code == 2
    assert "give --ray too" in refused.stderr
