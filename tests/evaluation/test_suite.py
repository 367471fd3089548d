"""The evaluation as a whole: figures against definitions, the same bytes twice, and runs that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.engine.methods.gradients import GradCAM
from camrt.engine.methods.pixab import PixabCAM
from camrt.engine.run_folder import JOURNAL_FILE, lock_folder
from camrt.errors import BackendError, DataError, InputError, MethodError
from camrt.evaluation.datasets import read_dataset
from camrt.evaluation.metrics.box_accuracy import max_box_accuracy
from camrt.evaluation.metrics.curves import ranks_of
from camrt.evaluation.metrics.imputed_removal import road
from camrt.evaluation.metrics.localisation import energy_in_boxes, pointing_game
from camrt.evaluation.metrics.pixel_precision import pxap
from camrt.evaluation.suite import METRICS, Metric, Settings, evaluate
from camrt.evaluation.suite.measurement import CENTRE_BASELINE, centre_gaussian, min_max_normalise
from camrt.evaluation.suite.prepared_sample import prepare_sample
from camrt.evaluation.suite.report.table import describe_counts, to_markdown
from camrt.evaluation.suite.settings import format_method, parse_methods
from camrt.evaluation.suite.summary import is_clearly_behind
from helpers.annotated_images import COLOURS, PREPROCESSING, SIDE, boxed_squares, colour_model, masked_squares

pytest.importorskip("pyarrow")
METHODS = ("pixab", "gradcam", "eigen")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = colour_model(tmp_path_factory.mktemp("model") / "colours.onnx")
    return camrt.load(path, preprocessing=PREPROCESSING, labels=COLOURS, batch_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxed_squares(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def found(engine: Any, folder: Path) -> Any:
    return engine.evaluate(folder, METHODS, settings=Settings(step=100))


def prepared(engine: Any, folder: Path) -> list[Any]:
    data = read_dataset(folder, labels=engine.labels, num_classes=3)
    return [prepare_sample(sample, PREPROCESSING, masks=True) for sample in data.samples]


def test_the_model_knows_its_colours(found: Any) -> None:
    assert found.results["images"]["accuracy"] == 1.0
    assert found.results["images"]["measured"] == 12


def test_figures_are_what_their_definitions_say(engine: Any, folder: Path, found: Any) -> None:
    items = prepared(engine, folder)
    images = np.stack([item.pixels for item in items])
    labels = np.array([item.label for item in items])
    for name in METHODS:
        explained = engine.explain(images, name)
        assert (explained.targets == labels).all()
        maps, figures = explained.maps, found.figures[name]
        before = explained.probabilities[np.arange(12), labels].astype(float)

        def of_class(altered: Any) -> Any:
            answers = engine.probabilities(engine.predict(np.asarray(altered, np.float32)))
            return answers[np.arange(12), labels].astype(float)

        after = of_class(images * maps[:, None])
        drop = np.mean(np.maximum(0, before - after) / before) * 100
        assert figures["drop"]["value"] == pytest.approx(drop, abs=1e-4)
        assert figures["increase"]["value"] == pytest.approx(100 * np.mean(after > before))
        ranks = ranks_of(maps).reshape(12, 1, SIDE, SIDE)
        counts = [*range(0, SIDE * SIDE, 100), SIDE * SIDE]
        curve = np.stack([of_class(np.where(ranks < count, 0, images)) for count in counts])
        assert figures["deletion"]["curve"] == pytest.approx(curve.mean(axis=1).tolist(), abs=1e-5)
        area = (curve.sum(axis=0) - (curve[0] + curve[-1]) / 2) / (len(counts) - 1)
        assert figures["deletion"]["value"] == pytest.approx(area.mean(), abs=1e-5)
        removed = [
            road(
                lambda rows: engine.probabilities(engine.predict(np.asarray(rows, np.float32))),
                images[i : i + 1],
                labels[i : i + 1],
                maps[i : i + 1],
                seed=(0, zlib.crc32(item.name.encode())),
            )
            for i, item in enumerate(items)
        ]
        most, least = (np.concatenate([getattr(one, side) for one in removed]) for side in ("most", "least"))
        assert figures["roadmorf"]["curve"] == pytest.approx(most.mean(axis=0).tolist(), abs=1e-5)
        assert figures["roadlerf"]["curve"] == pytest.approx(least.mean(axis=0).tolist(), abs=1e-5)
        assert figures["roadmorf"]["value"] == pytest.approx(most.mean(), abs=1e-5)
        assert figures["roadlerf"]["value"] == pytest.approx(least.mean(), abs=1e-5)
        assert figures["road"]["value"] == pytest.approx((least.mean() - most.mean()) / 2, abs=1e-5)
        small = engine.explain(images, name, size="map").maps
        assert figures["compactness"]["value"] == pytest.approx(small.sum(axis=(1, 2)).mean(), rel=1e-5)
        boxes = [item.targets[0].boxes for item in items]
        assert figures["pointing"]["value"] == pytest.approx(100 * pointing_game(maps, boxes).mean())
        assert figures["energy"]["value"] == pytest.approx(100 * energy_in_boxes(maps, boxes).mean())
        drawn = [item.targets[0].wsol_boxes for item in items]
        flat = np.stack([min_max_normalise(one) for one in maps])
        assert figures["maxboxaccv2"]["value"] == pytest.approx(100 * max_box_accuracy(flat, drawn).value)
        first = max_box_accuracy(flat, drawn, (0.5,), contours="largest")
        assert figures["maxboxacc"]["value"] == pytest.approx(100 * first.value)


def test_methods_are_compared_image_by_image(found: Any) -> None:
    for metric in ("deletion", "energy"):
        own = {
            name: {
                row["image"]: row[metric]
                for row in found.measured.maps
                if row["method"] == name and row.get(metric) is not None
            }
            for name in METHODS
        }
        sign, scale = (-1, 1) if metric == "deletion" else (1, 100)
        means = {name: sign * np.mean(list(values.values())) for name, values in own.items()}
        best = max(means, key=lambda name: means[name])
        for name in METHODS:
            gaps = np.array([sign * scale * (own[best][p] - own[name][p]) for p in own[best]])
            behind = found.figures[name][metric]["behind"]
            assert behind["best"] == best
            assert behind["value"] == pytest.approx(gaps.mean(), abs=1e-9)
            assert behind["error"] == pytest.approx(gaps.std(ddof=1) / np.sqrt(len(gaps)), abs=1e-9)
    eigen = found.figures["eigen"]["energy"]
    assert is_clearly_behind(eigen) == (eigen["behind"]["value"] > 2 * eigen["behind"]["error"])


def test_insertion_begins_blurred_and_ends_whole(found: Any) -> None:
    for name in METHODS:
        curve = found.figures[name]["insertion"]["curve"]
        whole = [row["probability"] for row in found.measured.images]
        assert curve[-1] == pytest.approx(np.mean(whole))
        assert found.figures[name]["deletion"]["curve"][0] == pytest.approx(np.mean(whole))


def test_random_pixels_are_the_same_for_every_method(found: Any) -> None:
    shares = [found.figures[name]["removal"]["shares"] for name in METHODS]
    for own in shares:
        assert [entry["random"] for entry in own] == [entry["random"] for entry in shares[0]]
        for entry in own:
            assert entry["ratio"] == (entry["accuracy"] / entry["random"] if entry["random"] else None)


def test_methods_that_find_the_square_are_better_than_the_middle(found: Any) -> None:
    figures = found.figures
    assert figures["pixab"]["pointing"]["value"] == 100
    assert figures["pixab"]["energy"]["value"] > figures[CENTRE_BASELINE]["energy"]["value"] + 20
    assert figures["pixab"]["deletion"]["value"] < figures["pixab"]["insertion"]["value"]
    assert set(figures[CENTRE_BASELINE]) == {
        name for name in found.plan.metrics if METRICS[name].of == "objects"
    }


def test_what_cannot_be_measured_is_left_out_with_its_reason(engine: Any, folder: Path, found: Any) -> None:
    assert set(found.results["left_out"]) == {"pxap", "mu", "sensitivity"}
    assert "masks" in found.results["left_out"]["pxap"]
    with pytest.raises(InputError, match="pxap cannot be measured: no image has masks"):
        evaluate(engine, folder, "pixab", ["pxap"])


def test_all_methods_are_those_that_a_model_admits_at_a_bearable_cost(
    engine: Any, folder: Path, tmp_path: Path
) -> None:
    found = evaluate(engine, folder, "all", ["compactness"], settings=Settings(limit=1), out=tmp_path / "out")
    assert {"pixab", "cam", "gradcam", "score", "deeplift"} <= set(found.plan.methods)
    left_out = found.results["left_out"]
    assert {"calm", "rollout", "rise"} <= set(left_out)
    assert "rise: not measured: takes 4000 passes an image" in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(MethodError, match="CALM model"):
        evaluate(engine, folder, ["pixab", "calm"], ["compactness"], settings=Settings(limit=1))


def test_masks_and_a_dead_zone(engine: Any, tmp_path: Path) -> None:
    data = masked_squares(tmp_path / "masked")
    dead = np.zeros((SIDE, SIDE), np.bool_)
    dead[24:] = True
    both = evaluate(engine, read(data, engine), METHODS, ["pxap", "mu", "energy"], dead=dead)
    binned = evaluate(engine, read(data, engine), METHODS, ["pxap"], settings=Settings(pxap="reference"))
    items = [prepare_sample(s, PREPROCESSING, masks=True) for s in read(data, engine).samples]
    images = np.stack([item.pixels for item in items])
    masks = np.stack([item.targets[0].mask for item in items])
    for name in METHODS:
        maps = engine.explain(images, name).maps
        flat = np.stack([min_max_normalise(one) for one in maps])
        assert both.figures[name]["pxap"]["value"] == pytest.approx(pxap(flat, masks).value, abs=1e-9)
        expected = pxap(flat, masks, definition="reference").value
        assert binned.figures[name]["pxap"]["value"] == pytest.approx(expected, abs=1e-9)
        share = np.linalg.norm(maps[:, 24:], axis=(1, 2)) / np.linalg.norm(maps, axis=(1, 2))
        assert both.figures[name]["mu"]["value"] == pytest.approx(share.mean(), abs=1e-6)
        assert both.figures[name]["mu"]["deviation"] == pytest.approx(share.std(ddof=1), abs=1e-6)
        assert both.figures[name]["mu"]["error"] == pytest.approx(
            share.std(ddof=1) / len(share) ** 0.5, abs=1e-6
        )
        assert f"(deviation {share.std(ddof=1):.3f})" in to_markdown(both.results)
    middle = pxap(np.repeat(centre_gaussian((SIDE, SIDE))[None], len(items), 0), masks).value
    assert both.figures[CENTRE_BASELINE]["pxap"]["value"] == pytest.approx(middle, abs=0.5)


def test_maps_of_a_file_that_crops_are_judged_where_they_lie(tmp_path: Path) -> None:
    """Its maps are those of the same file behind the crop, rows 4 to 28 and columns 8 to the last."""
    inner = onnx.load(colour_model(tmp_path / "colours.onnx"))
    inner.graph.node[0].input[0] = "cropped"
    for name, values in {"starts": [4, 8], "ends": [28, SIDE], "axes": [2, 3]}.items():
        inner.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
    inner.graph.node.insert(0, helper.make_node("Slice", ["input", "starts", "ends", "axes"], ["cropped"]))
    onnx.save(inner, tmp_path / "cropping.onnx")
    engine = camrt.load(tmp_path / "cropping.onnx", preprocessing=PREPROCESSING, labels=COLOURS)
    del inner.graph.node[0]
    inner.graph.node[0].input[0] = "input"
    for axis, length in ((2, 24), (3, SIDE - 8)):
        inner.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
    onnx.save(inner, tmp_path / "behind.onnx")
    behind = camrt.load(tmp_path / "behind.onnx")
    data = masked_squares(tmp_path / "masked")
    found = evaluate(engine, read(data, engine), ["gradcam"], ["pxap", "energy"])
    items = [prepare_sample(s, PREPROCESSING, masks=True) for s in read(data, engine).samples]
    cropped = np.stack([item.pixels[:, 4:28, 8:] for item in items])
    labels = np.array([item.targets[0].label for item in items])
    maps = np.pad(behind.explain(cropped, "gradcam", targets=labels).maps, ((0, 0), (4, SIDE - 28), (8, 0)))
    flat = np.stack([min_max_normalise(one) for one in maps])
    masks = np.stack([item.targets[0].mask for item in items])
    assert found.figures["gradcam"]["pxap"]["value"] == pytest.approx(pxap(flat, masks).value, abs=1e-3)


def read(data: Path, engine: Any) -> Any:
    return read_dataset(data, kind="masks", labels=engine.labels, num_classes=3)


def test_nothing_is_run_twice(engine: Any, folder: Path) -> None:
    """Two names for one method cost the passes of one, beside its own maps; metrics share."""
    one = evaluate(engine, folder, ["gradcam"], ["deletion", "drop"], settings=Settings(step=100))
    two = evaluate(
        engine, folder, {"a": GradCAM(), "b": GradCAM()}, ["deletion", "drop"], settings=Settings(step=100)
    )
    assert two.results["passes"] == one.results["passes"]
    assert two.results["alike"] == [["a", "b"]]
    assert one.results["alike"] == []
    # a trunk pass and 10 partial deletions and one masked image each; the image of zeros once for all
    assert one.results["passes"] == 12 * (1 + 10 + 1) + 1


def test_a_method_that_the_model_refuses_is_named(tmp_path: Path, folder: Path) -> None:
    path = colour_model(tmp_path / "hidden.onnx", hidden=True)
    hidden = camrt.load(path, preprocessing=PREPROCESSING, labels=COLOURS)
    with pytest.raises(MethodError, match=r"does not admit cam: .*; calm: "):
        evaluate(hidden, folder, ["cam", "pixab", "calm"], "drop")


def test_methods_by_text_and_by_value() -> None:
    built = parse_methods(["pixab:denominators=N1:boxes=[[1,1],[1,2]]", "score"])
    assert next(iter(built.values())) == PixabCAM(denominators="N1", boxes=((1, 1), (1, 2)))
    assert format_method(next(iter(built.values()))) == "pixab:denominators=N1:boxes=[[1,1],[1,2]]"
    assert parse_methods([format_method(PixabCAM(denominators="N1"))]) == {
        "pixab:denominators=N1": PixabCAM(denominators="N1")
    }
    assert parse_methods("gradcam", "library")["gradcam"].postprocess == "library"
    with pytest.raises(MethodError, match="did you mean 'pixab'"):
        parse_methods(["pixap"])
    with pytest.raises(InputError, match="two methods are called"):
        parse_methods(["score", "score"])
    with pytest.raises(InputError, match="no method"):
        parse_methods([])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("step", 0),
        ("limit", 0),
        ("seed", -1),
        ("shares", (1.5,)),
        ("infidelity_squares", 0),
        ("sensitivity_draws", 0),
        ("sensitivity_radius", -1),
        ("road", ()),
        ("road", (0.2, 1)),
        ("base", "grey"),
        ("pxap", "fine"),
    ],
)
def test_settings_are_checked(setting: str, value: Any) -> None:
    with pytest.raises(InputError, match=setting):
        Settings(**{setting: value})


def test_unknown_metrics_and_empty_folders(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown metric 'aopc'"):
        evaluate(engine, tmp_path, "pixab", "aopc")
    with pytest.raises(DataError):
        evaluate(engine, tmp_path, "pixab")


def test_broken_images_are_listed_and_the_rest_is_measured(engine: Any, tmp_path: Path) -> None:
    data = boxed_squares(tmp_path / "squares", 4)
    whole = (data / "001.png").read_bytes()
    (data / "001.png").write_bytes(whole[: len(whole) // 2])
    with (data / "boxes.csv").open("a") as file:
        file.write("002.png,mauve,1,1,5,5\n")
    found = evaluate(engine, data, "pixab", ["drop", "pointing"])
    assert found.results["images"]["measured"] == 3
    assert found.figures["pixab"]["drop"]["counted"] == 3
    problems = "\n".join(found.results["problems"])
    assert "001.png: not measured" in problems
    assert "boxes.csv:6" in problems


def test_the_same_seed_gives_the_same_bytes(engine: Any, folder: Path, tmp_path: Path) -> None:
    settings = Settings(step=200, limit=9, seed=3)
    for name in ("one", "two"):
        evaluate(engine, folder, METHODS, settings=settings, out=tmp_path / name)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes(), path.name
    tables = {"maps.parquet", "objects.parquet", "images.parquet"}
    written = {path.name for path in (tmp_path / "one").iterdir()}
    notes = {"run.json", "written.jsonl"}
    texts = {"report.html", "results.json", "table.md", "table.csv", "table.tex", "figures"}
    assert written == tables | notes | texts
    figures = {path.name for path in (tmp_path / "one" / "figures").iterdir()}
    assert {"deletion.pdf", "insertion.pdf", "maps.pdf"} <= figures
    results = json.loads((tmp_path / "one" / "results.json").read_text())
    assert results["images"]["drawn"] == 9
    assert results["model"]["sha256"] == engine.sha256


SCRIPT = """
import sys
import camrt
from helpers.annotated_images import COLOURS, PREPROCESSING
from camrt.evaluation.suite import Settings, evaluate
engine = camrt.load(sys.argv[1], preprocessing=PREPROCESSING, labels=COLOURS, batch_size=2)
def told(done, total):
    if sys.argv[4] and done >= float(sys.argv[4]):
        open(sys.argv[3] + ".reached", "w").close()
        import time; time.sleep(60)
evaluate(engine, sys.argv[2], ["pixab", "gradcam"], settings=Settings(step=150), out=sys.argv[3],
         resume="resume" in sys.argv, progress=told)
"""


def test_a_run_that_is_killed_goes_on_and_ends_the_same(engine: Any, folder: Path, tmp_path: Path) -> None:
    model, killed = engine.path, tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, str(model), str(folder), str(killed)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path])}
    process = subprocess.Popen([*command, "5"], env=environment)
    reached = tmp_path / "killed.reached"
    try:
        deadline = time.monotonic() + 100
        while not reached.exists():
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "results.json").exists()
    kept = sorted((killed / "parts").glob("*-note.json"))
    assert len(kept) == 2  # blocks of two images; the third was being measured
    stamps = [path.stat().st_mtime_ns for path in kept]
    with pytest.raises(InputError, match="--resume"):
        evaluate(engine, folder, ["pixab", "gradcam"], settings=Settings(step=150), out=killed)
    whole = tmp_path / "whole"
    subprocess.run([*command[:-1], str(whole), ""], env=environment, check=True)
    # One more block half written: a part that is not noted as finished does not count.
    (killed / "parts" / "000002-maps.parquet").write_bytes(b"torn")
    with (killed / JOURNAL_FILE).open("a") as file:
        names = ("images.parquet", "objects.parquet", "maps.parquet", "note.json")
        file.write(json.dumps({"writes": [f"parts/000002-{name}" for name in names]}) + "\n")
    loaded = camrt.load(model, preprocessing=PREPROCESSING, labels=COLOURS, batch_size=2)
    seen: list[float] = []

    def told(done: float, total: int) -> None:
        seen.append(done)
        if done < 6:
            assert [path.stat().st_mtime_ns for path in kept] == stamps

    evaluate(
        loaded,
        folder,
        ["pixab", "gradcam"],
        settings=Settings(step=150),
        out=killed,
        resume=True,
        progress=told,
    )
    for path in sorted(whole.rglob("*.*")):
        assert path.read_bytes() == (killed / path.relative_to(whole)).read_bytes(), path.name
    assert not (killed / "parts").exists()
    again = evaluate(
        loaded, folder, ["pixab", "gradcam"], settings=Settings(step=150), out=killed, resume=True
    )
    assert again.results == json.loads((whole / "results.json").read_text())
    with pytest.raises(InputError, match="another evaluation, which differs in settings"):
        evaluate(loaded, folder, ["pixab", "gradcam"], settings=Settings(step=151), out=killed, resume=True)


def read_files(folder: Path) -> dict[Path, bytes]:
    """The files of a folder and its sub-folders, by their paths in it."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_contents_of_equal_names_and_sizes_are_not_mixed(engine: Any, tmp_path: Path) -> None:
    """Of bitmaps, whose sizes follow from their sides: in a run that was stopped, and in one that ended."""
    data = masked_squares(tmp_path / "masked")
    one, mask = data / "blue" / "002.bmp", data / "masks" / "blue" / "002.png"
    for path in list(data.glob("*/*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    asked: dict[str, Any] = {"metrics": ["pxap"], "out": tmp_path / "out"}
    evaluate(engine, read(data, engine), "pixab", **asked)
    before = read_files(tmp_path / "out")
    evaluate(engine, read(data, engine), "pixab", **asked, resume=True)
    for changed in (one, mask):
        whole = changed.read_bytes()
        Image.fromarray(255 - np.asarray(Image.open(changed))).save(changed)
        with pytest.raises(InputError, match=rf"{changed.parent.name}/{changed.name} has changed since"):
            evaluate(engine, read(data, engine), "pixab", **asked, resume=True)
        changed.write_bytes(whole)
    assert read_files(tmp_path / "out") == before
    (tmp_path / "out" / "results.json").unlink()
    Image.fromarray(255 - np.asarray(Image.open(one))).save(one)
    with pytest.raises(InputError, match="has changed since"):
        evaluate(engine, read(data, engine), "pixab", **asked, resume=True)
    evaluate(engine, read(data, engine), "pixab", **asked, overwrite=True)
    evaluate(engine, read(data, engine), "pixab", metrics=["pxap"], out=tmp_path / "whole")
    for name, content in read_files(tmp_path / "whole").items():
        assert content == (tmp_path / "out" / name).read_bytes(), name


def test_the_engine_finds_the_evaluation_by_its_entry_point(
    engine: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = entry_points(group="camrt.evaluation")
    assert entry.name == "evaluate"
    assert entry.load() is evaluate is camrt.evaluation.evaluate
    assert engine.evaluate(folder, ["gradcam"], metrics=["drop"]).figures["gradcam"].keys() == {"drop"}
    monkeypatch.setattr("camrt.engine.engine.entry_points", lambda **asked: ())
    with pytest.raises(BackendError, match=r"without its entry points.*or install camrt anew"):
        engine.evaluate(folder, ["gradcam"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"settings": {"limit": 2}}, r"settings=.* must be camrt.evaluation.Settings\(limit=...\)$"),
        ({"settings": 5}, "must be camrt.evaluation.Settings"),
        ({"metrics": 5}, "metrics=5 must be names of metrics"),
        ({"metrics": None}, "metrics=None must be names of metrics"),
        ({"methods": 5}, "methods=5 must be names of methods"),
        ({"methods": [5]}, "5 is no method: give a name"),
        ({"methods": {"mine": None}}, "None is no method: give a name"),
        ({"data": 5}, "data=5 must be a folder"),
        ({"out": 5}, "out=5 must be a folder"),
        ({"resume": True}, "name it by out="),
        ({"overwrite": True}, "name it by out="),
        ({"dead": [[True]]}, rf"bool array \({SIDE}, {SIDE}\), as the model's input, got list"),
        ({"dead": np.ones((3, 3), bool)}, r"got bool \(3, 3\)"),
        ({"dead": np.ones((SIDE, SIDE))}, "got float64"),
    ],
)
def test_arguments_of_other_types_are_refused(
    engine: Any, folder: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        engine.evaluate(**{"data": folder, "methods": ["cam"], "metrics": ["drop"], **wrong})


def test_a_metric_of_maps_is_one_entry(
    engine: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[str, Any] = {
        "better": "higher",
        "source": "this test",
        "explanation": "It says a thing.",
        "values": "number",
    }
    highest = Metric(title="highest", of="predicted", measure=lambda saliency, _: saliency.max(), **shared)
    outside = Metric(
        title="outside, %",
        of="objects",
        needs="objects",
        percent=True,
        measure=lambda saliency, inside: saliency[~inside].sum() / saliency.sum(),
        **shared,
    )
    monkeypatch.setitem(METRICS, "highest", highest)
    monkeypatch.setitem(METRICS, "outside", outside)
    asked = ["highest", "outside", "energy"]
    found = evaluate(engine, folder, METHODS, asked, out=tmp_path / "once")
    for method in METHODS:
        figures = found.figures[method]
        assert 0.5 < figures["highest"]["value"] <= 1
        assert figures["outside"]["value"] == pytest.approx(100 - figures["energy"]["value"])
        assert figures["outside"]["counted"] == figures["energy"]["counted"] > 0
    assert "It says a thing." in (tmp_path / "once" / "report.html").read_text()
    again = evaluate(engine, folder, METHODS, asked, out=tmp_path / "once", resume=True)
    assert again.figures == found.figures


def test_two_evaluations_do_not_share_a_folder(engine: Any, folder: Path, tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(InputError, match="being written by another run"):
        evaluate(engine, folder, "pixab", "drop", out=tmp_path)


def test_images_that_were_not_drawn_are_counted(engine: Any, folder: Path) -> None:
    found = engine.evaluate(folder, ["cam"], ["drop"], settings=Settings(limit=2))
    there = found.results["images"]["found"]
    assert describe_counts(found.results["images"]) == (
        f"2 of 2 images measured, drawn from the {there} that there are"
    )
    assert f"drawn from the {there} that there are (" in to_markdown(found.results)


def test_the_command_line_writes_a_report(engine: Any, folder: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps.json"
    steps.write_text(PREPROCESSING.to_json())
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(COLOURS))
    out = tmp_path / "out"
    shared = ["--preprocessing", str(steps), "--labels", str(labels)]
    asked = ["--methods", "pixab,gradcam:score=probability", "--step", "200", "--examples", "3"]
    run = CliRunner().invoke(
        app, ["evaluate", str(engine.path), str(folder), *asked, *shared, "-o", str(out)]
    )
    assert run.exit_code == 0, run.output
    assert "gradcam:score=probability" in run.output
    assert "images measured" in run.output
    assert "pixab, gradcam:score=probability on 12 images: all metrics that the" in run.output
    assert "not measured: pxap: no image has masks" in run.output
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 5
    assert page.count("data:image/jpeg;base64,") == 3 * (1 + 2 * 2)
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "**" in (out / "table.md").read_text()
    again = CliRunner().invoke(
        app, ["evaluate", str(engine.path), str(folder), *asked, *shared, "-o", str(out)]
    )
    assert again.exit_code == 2
    assert "--resume" in again.output


def test_the_command_line_draws_layers_anew(engine: Any, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    steps = tmp_path / "steps.json"
    steps.write_text(PREPROCESSING.to_json())
    asked = ["--methods", "eigen,gradcam", "--stages", "2", "--limit", "4", "--preprocessing", str(steps)]
    run = CliRunner().invoke(app, ["evaluate", "sanity", str(engine.path), str(folder), *asked])
    assert run.exit_code == 0, run.output
    first = next(line for line in run.output.splitlines() if "1 of 2" in line)
    assert "1.00, 1.00" in first  # eigen does not see the head, which is drawn first
    assert "means over 4 images" in run.output

    into = [str(engine.path), str(folder), *asked, "-o", str(tmp_path / "drawn")]
    kept = CliRunner().invoke(app, ["evaluate", "sanity", *into])
    assert (kept.exit_code, kept.output) == (0, run.output)
    results = json.loads((tmp_path / "drawn" / "results.json").read_text())
    assert np.shape(results["spearman"]) == (2, 2, 4)
    for options, code, said in (
        ([], 2, "--resume"),
        (["--resume"], 0, "means over 4 images"),
        (["--resume", "--seed", "1"], 2, "which differs in images, settings"),
        (["--overwrite", "--seed", "1"], 0, "means over 4 images"),
    ):
        again = CliRunner().invoke(app, ["evaluate", "sanity", *into, *options])
        assert again.exit_code == code, again.output
        assert said in again.output
    axioms = CliRunner().invoke(
        app,
        ["evaluate", "axioms", *into[:2], "--limit", "2", "--batch-size", "1", "--threads", "1", *asked[-2:]],
    )
    assert "Axioms on 2 images" in axioms.output
    by_itself = CliRunner().invoke(
        app, ["evaluate", "sanity", *into[:2], *asked[:2], "--limit", "1", *asked[-2:]]
    )
    assert by_itself.exit_code == 0, by_itself.output  # fewer layers than stages would be by default
    assert "2 of 2" in by_itself.output
    nowhere = CliRunner().invoke(app, ["evaluate", "sanity", *into[:-2], "--resume"])
    assert nowhere.exit_code == 2
    assert "--out" in nowhere.output


def test_the_command_line_finds_walls(engine: Any, folder: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps.json"
    steps.write_text(PREPROCESSING.to_json())
    shared = [str(engine.path), str(folder), "--preprocessing", str(steps), "--methods", "gradcam,hirescam"]
    seeing = CliRunner().invoke(app, ["evaluate", "walls", *shared, "-o", str(tmp_path / "none")])
    assert seeing.exit_code == 0, seeing.output
    assert "every pixel can influence the model" in seeing.output
    given = CliRunner().invoke(
        app, ["evaluate", "walls", *shared, "--dead-rows", "8", "-o", str(tmp_path / "given")]
    )
    assert given.exit_code == 0, given.output
    assert "μ of a map that is the same everywhere" in given.output
    assert "μ" in given.output
