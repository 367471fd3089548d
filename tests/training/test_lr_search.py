"""The search for a learning rate: what is drawn, chosen and kept, and going on where it was cut off."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.labelled_images import coloured_squares

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from camrt.errors import DataError, DivergenceError, InputError, StorageError, TrainingError  # noqa: E402
from camrt.evaluation.datasets import Dataset  # noqa: E402
from camrt.training import lr_search, runs  # noqa: E402
from camrt.training.localisation import measure_localisation, select_annotated  # noqa: E402
from camrt.training.lr_search import Draw, Search, find_best, search  # noqa: E402
from camrt.training.recipe import Recipe  # noqa: E402
from camrt.training.splits import Split, split_folder  # noqa: E402
from camrt.training.tensor_files import read_tensors  # noqa: E402
from camrt.training.trainer import fit  # noqa: E402
from helpers.oracles.box_accuracy import accuracy, overlaps_at_thresholds  # noqa: E402
from helpers.oracles.pixel_precision import average_precision  # noqa: E402

SETTINGS = {"backbone": "tiny", "size": 32, "canvas": 40, "epochs": 2, "batch_size": 8, "workers": 0}
RECIPE = Recipe.from_settings({**SETTINGS, "head": "calm-ml", "seed": 7})
TWO = Search(draws=2, lowest=1e-3, highest=0.1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured_squares(tmp_path_factory.mktemp("data") / "squares", each=6, boxed=True)


@pytest.fixture(scope="module")
def data(root: Path) -> tuple[Split, Split]:
    return split_folder(root, 0.2, 0)


@pytest.fixture(scope="module")
def objects(root: Path, data: tuple[Split, Split]) -> Dataset:
    return select_annotated(root, data[1], None)


def searched(
    data: tuple[Split, Split], folder: Path, asked: Search = TWO, recipe: Recipe = RECIPE, **options: Any
) -> tuple[runs.RunDescription, tuple[Draw, ...]]:
    return search(recipe, asked, *data, folder, accelerator="cpu", progress=False, **options)


@pytest.fixture(scope="module")
def whole(
    data: tuple[Split, Split], objects: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[Draw, ...]]:
    """A search of two draws from the beginning to the end."""
    folder = tmp_path_factory.mktemp("whole") / "search"
    return folder, searched(data, folder, objects=objects)[1]


def content(folder: Path) -> dict[str, bytes]:
    """All files, but for the logs, of which each start has its own, and the journals that name them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "logs" not in path.parts and path.name != "written.jsonl"
    }


def test_learning_rates_are_log_uniform() -> None:
    asked = Search(draws=30)
    assert (asked.lowest, asked.highest) == (5e-5, 5e-1)
    rates = [asked.draw_lr(seed, number) for seed in range(100) for number in range(1, 31)]
    logs = sorted((math.log10(rate) - math.log10(5e-5)) / 4 for rate in rates)
    assert 0 <= logs[0] < 0.005
    assert 0.995 < logs[-1] <= 1.00001
    # Kolmogorov's distance of 3000 uniform numbers is below 1.63 / sqrt(3000) in 99 of 100 draws.
    assert max(abs(log - (i + 0.5) / len(logs)) for i, log in enumerate(logs)) < 0.03
    assert all(float(f"{rate:.4g}") == rate for rate in rates)
    assert [asked.draw_lr(7, number) for number in (1, 2)] == [Search(draws=2).draw_lr(7, n) for n in (1, 2)]
    assert len({asked.draw_lr(7, number) for number in range(1, 31)}) == 30


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"draws": 0}, "draws=0 must be a whole number >= 1"),
        ({"lowest": 0.0}, "two positive numbers, the smaller first: not 0.0 and 0.5"),
        ({"lowest": 0.1, "highest": 0.1}, "the smaller first"),
        ({"highest": math.inf}, "two positive numbers"),
        ({"by": "luck"}, "by='luck' must be one of maxboxaccv2, pxap, val_top1, val_loss"),
    ],
)
def test_a_search_that_makes_no_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Search(**settings)


def test_the_best_draw_is_the_first_of_the_best() -> None:
    draws = [
        Draw(1, 0.1, {}, "its loss was not finite"),
        Draw(2, 0.2, {"val_loss": 0.5, "val_top1": 0.5, "maxboxaccv2": 40.0}),
        Draw(3, 0.3, {"val_loss": 0.4, "val_top1": 0.9, "maxboxaccv2": 40.0}),
        Draw(4, 0.4, {"val_loss": 0.3, "val_top1": 0.9, "maxboxaccv2": 10.0}),
    ]
    found = {by: find_best(draws, by) for by in lr_search.MEASURES}
    numbers = {by: None if draw is None else draw.number for by, draw in found.items()}
    assert numbers == {"maxboxaccv2": 2, "pxap": None, "val_top1": 3, "val_loss": 4}


def test_the_best_localising_draws_last_weights_are_kept(
    data: tuple[Split, Split], whole: tuple[Path, tuple[Draw, ...]], tmp_path: Path
) -> None:
    """The kept model is, bit for bit, that of a plain run with the draw's learning rate."""
    folder, draws = whole
    assert [draw.lr for draw in draws] == [TWO.draw_lr(7, number) for number in (1, 2)]
    best = max(draws, key=lambda draw: draw.figures["maxboxaccv2"])
    plain = replace(RECIPE, lr=best.lr, keep="last")
    fit(plain, *data, tmp_path / "plain", accelerator="cpu", progress=False)
    expected, found = (read_tensors(place / runs.WEIGHTS)[0] for place in (tmp_path / "plain", folder))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    provenance = runs.load_run(folder)[1].provenance
    assert provenance["search"] == {
        "draw": best.number,
        "by": "maxboxaccv2",
        "value": best.figures["maxboxaccv2"],
    }
    assert provenance["recipe"]["lr"] == best.lr
    assert provenance["epochs_trained"] == 2
    assert best.figures["val_loss"] == provenance["val_loss"]
    written = json.loads((folder / lr_search.RESULTS).read_text())
    assert [Draw(**draw) for draw in written["draws"]] == list(draws)
    assert written["best"] == best.number
    table = (folder / lr_search.TABLE).read_text().splitlines()
    rows = [line for line in table if line.startswith("| ") and line[2].isdigit()]
    rates = [float(row.split("|")[2]) for row in rows]
    assert rates == sorted(draw.lr for draw in draws)
    assert [row.split("|")[1].strip() for row in rows if "the best" in row] == [str(best.number)]
    left = {path.name for path in (folder / "draws" / "001").iterdir()}
    assert left == {"recipe.yaml", "data.json", "run.json", "written.jsonl", "logs"}


def maps_by_hand(run: Path, split: Split) -> list[np.ndarray]:
    """The maps of the true classes, enlarged and stretched, from the network's own outputs."""
    classifier, description = runs.load_run(run)
    found = []
    for path, label in zip(split.files, split.classes, strict=True):
        with Image.open(path) as image:
            pixels = description.preprocessing.array(description.preprocessing.view(image))
        with torch.no_grad():
            maps = classifier.maps(torch.from_numpy(pixels)[None])[:, label, None]
        maps = maps.exp() if description.head == "calm" else maps
        large = torch.nn.functional.interpolate(maps, (32, 32), mode="bilinear", align_corners=False)[0, 0]
        low, high = large.min(), large.max()
        found.append(((large - low) / (high - low)).numpy())
    return found


@pytest.mark.parametrize("head", ["calm-ml", "cam"])
def test_localisation_by_hand(
    root: Path, data: tuple[Split, Split], objects: Dataset, tmp_path: Path, head: str
) -> None:
    """Against maps made of the network's outputs, and the slow count of MaxBoxAccV2, on two images."""
    fit(replace(RECIPE, head=head, lr=0.05), *data, tmp_path / "run", accelerator="cpu", progress=False)
    two = replace(objects, samples=objects.samples[1:3])
    found = measure_localisation(tmp_path / "run", two, ["maxboxaccv2"], 4, "cpu")
    boxes = {}
    for line in (root / "boxes.csv").read_text().splitlines()[1:]:
        name, _, *edges = line.split(",")
        boxes[root / name] = [int(int(edge) * 32 / 40) for edge in edges]
    places = [data[1].files.index(sample.path) for sample in two.samples]
    split = data[1].subset(places)
    best = [
        overlaps_at_thresholds((255 * map_).astype(np.uint8).tolist(), [boxes[path]])
        for map_, path in zip(maps_by_hand(tmp_path / "run", split), split.files, strict=True)
    ]
    expected = 100 * accuracy(best, (0.3, 0.5, 0.7))
    assert abs(found["maxboxaccv2"] - expected) < 1e-9


def test_masks_are_measured_by_pxap(data: tuple[Split, Split], root: Path, tmp_path: Path) -> None:
    """Against average precision in exact fractions."""
    for path in data[1].files:
        mask = np.zeros((40, 40), np.uint8)
        mask[5:20, 10:30] = 255
        place = tmp_path / "masks" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(place)
    objects = select_annotated(root, data[1], tmp_path / "masks")
    two = replace(objects, samples=objects.samples[:2])
    fit(replace(RECIPE, epochs=1, lr=0.05), *data, tmp_path / "run", accelerator="cpu", progress=False)
    found = measure_localisation(tmp_path / "run", two, ["pxap"], 4, "cpu")
    split = data[1].subset([data[1].files.index(sample.path) for sample in two.samples])
    small = np.asarray(Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST)) > 0
    scores = np.concatenate([map_.ravel() for map_ in maps_by_hand(tmp_path / "run", split)])
    expected = average_precision(scores.tolist(), [int(mark) for mark in small.ravel()] * 2)
    assert abs(found["pxap"] - 100 * float(expected)) < 0.01
    assert lr_search.available_measures(objects) == ("pxap", "val_top1", "val_loss")


class CutOffError(Exception):
    pass


@pytest.mark.parametrize(
    "cut", ["while a draw is trained", "before it is judged", "before its model is kept"]
)
def test_a_search_that_is_cut_off_goes_on(
    data: tuple[Split, Split],
    objects: Dataset,
    whole: tuple[Path, tuple[Draw, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cut: str,
) -> None:
    folder = tmp_path / "search"
    places = {
        "while a draw is trained": (runs, "save_run"),
        "before it is judged": (lr_search, "measure_localisation"),
        "before its model is kept": (lr_search, "keep_best"),
    }
    module, name = places[cut]
    ordinary, calls = getattr(module, name), 0

    def failing(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise CutOffError
        return ordinary(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        with pytest.raises(CutOffError):
            searched(data, folder, objects=objects)
    with pytest.raises(InputError, match="holds results already: go on with them"):
        searched(data, folder, objects=objects)
    searched(data, folder, objects=objects, resume=True)
    assert content(folder) == content(whole[0])


def test_a_search_may_be_given_more_draws(
    data: tuple[Split, Split], objects: Dataset, whole: tuple[Path, tuple[Draw, ...]], tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    told: list[int] = []
    searched(data, folder, replace(TWO, draws=1), objects=objects)
    searched(data, folder, objects=objects, resume=True, on_draw=lambda draw: told.append(draw.number))
    assert told == [2]
    assert content(folder) == content(whole[0])
    with pytest.raises(TrainingError, match="has 2 draws already, and 1 were asked for"):
        searched(data, folder, replace(TWO, draws=1), objects=objects, resume=True)
    with pytest.raises(InputError, match="holds another search, which differs in chosen by, seed"):
        searched(
            data, folder, replace(TWO, by="val_loss"), replace(RECIPE, seed=8), objects=objects, resume=True
        )
    with pytest.raises(InputError, match=r"holds another kind of run \(search\)"):
        fit(RECIPE, *data, folder, accelerator="cpu", progress=False, overwrite=True)
    (folder / "draws" / "002" / "mine.txt").write_text("mine")
    (folder / "mine.txt").write_text("mine")
    searched(data, folder, replace(TWO, draws=1, by="val_top1"), overwrite=True)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in names if "logs" not in name} == {
        *("mine.txt", "draws/002/mine.txt", "run.json", "written.jsonl", "search.json", "table.md"),
        *("model.safetensors", "model.json", "recipe.yaml"),
        *(f"draws/001/{name}" for name in ("recipe.yaml", "data.json", "run.json", "written.jsonl")),
    }


class Given(Search):
    """Draws what diverges first, and then what does not."""

    def draw_lr(self, seed: int, number: int) -> float:
        return (1e30, 0.01)[number - 1]


def test_draws_that_diverge_are_failures_and_no_errors(data: tuple[Split, Split], tmp_path: Path) -> None:
    _, draws = searched(data, tmp_path / "some", Given(draws=2, by="val_loss"))
    assert [(draw.lr, draw.why) for draw in draws] == [(1e30, "its loss was not finite"), (0.01, "")]
    assert "its loss was not finite" in (tmp_path / "some" / "table.md").read_text()
    with pytest.raises(TrainingError, match="none of 1 draws can be chosen by validation loss: its loss was"):
        searched(data, tmp_path / "none", Given(draws=1, by="val_loss"))
    with pytest.raises(DivergenceError):
        fit(replace(RECIPE, lr=1e30), *data, tmp_path / "one", accelerator="cpu", progress=False)


def test_what_cannot_be_searched(data: tuple[Split, Split], root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chosen by MaxBoxAccV2: the validation images have no boxes"):
        searched(data, tmp_path / "a")
    with pytest.raises(TrainingError, match="holds no search to go on with"):
        searched(data, tmp_path / "a", Search(draws=1, by="val_loss"), resume=True)
    assert not (tmp_path / "a").exists()
    (tmp_path / "boxes.csv").write_text("file,label,x0,y0,x1,y1\n")
    with pytest.raises(DataError, match=r"none of 3 validation images has boxes or masks in .*boxes\.csv"):
        select_annotated(root, data[1], tmp_path / "boxes.csv")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.json").write_text("mine")
    with pytest.raises(StorageError, match=r"model\.json is there already"):
        searched(data, tmp_path / "b", Search(draws=1, by="val_loss"))


def test_a_journal_that_was_tampered_with(data: tuple[Split, Split], tmp_path: Path) -> None:
    one = Search(draws=1, by="val_loss")
    searched(data, tmp_path / "search", one, replace(RECIPE, epochs=1))
    with (tmp_path / "search" / "written.jsonl").open("a") as file:
        file.write('{"finished": {"number": 2, "lr": "fast"}}\n')
    with pytest.raises(TrainingError, match="has a draw that was noted as"):
        searched(data, tmp_path / "search", one, replace(RECIPE, epochs=1), resume=True)


def test_the_last_epochs_weights(data: tuple[Split, Split], tmp_path: Path) -> None:
    """Not those of the epoch with the smallest validation loss, where that came before."""
    settings = replace(RECIPE, lr=0.9, epochs=3, schedule="constant", warmup=0)
    epochs = {}
    for keep in ("best", "last"):
        own = replace(settings, keep=keep)
        epochs[keep] = fit(own, *data, tmp_path / keep, accelerator="cpu", progress=False).provenance
    assert epochs["best"]["epochs_trained"] < 3
    assert epochs["last"]["epochs_trained"] == 3
    assert epochs["best"]["val_loss"] < epochs["last"]["val_loss"]
