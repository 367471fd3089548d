"""Concepts: factors against another factorisation, class scores on every head, a peer's, and drawings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.engine.concepts import factor_activations
from camrt.engine.extras import MissingExtraError
from camrt.errors import ImageError, InputError, NoSuchImageError
from helpers import zoo
from helpers.annotated_images import COLOURS, PREPROCESSING, SIDE, colour_model
from helpers.oracles.factorisation import factor
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close

pytest.importorskip("sklearn")


def patterns(count: int = 3) -> tuple[Any, Any, Any]:
    """Activations (4, 6, 5, 6) of patterns apart in cells and channels: factors differ in scale alone."""
    rng = np.random.default_rng(2)
    where = np.zeros((4, count, 5, 6))
    for cell, pattern in np.ndenumerate(rng.integers(0, count, (4, 5, 6))):
        where[cell[0], pattern, cell[1], cell[2]] = rng.uniform(0.2, 1)
    vectors = np.kron(np.diag(np.arange(count, 0, -1.0)), [0.4, 1.0])
    return np.einsum("nphw,pk->nkhw", where, vectors).astype(np.float32), where, vectors


@pytest.mark.parametrize("definition", ["paper", "pytorch-grad-cam"])
def test_patterns_that_lie_apart_are_found(definition: Any) -> None:
    activations, where, vectors = patterns()
    weights, found, error, steps = factor_activations(activations, 3, definition, 0, 2000)
    assert weights.min() >= 0
    assert error < 1e-3
    assert 0 < steps <= 2000
    for p in range(3):
        scores = [np.corrcoef(weights[:, c].ravel(), where[:, p].ravel())[0, 1] for c in range(3)]
        c = int(np.argmax(scores))
        assert scores[c] > 0.999
        assert np.corrcoef(found[c], vectors[p])[0, 1] > 0.999
    if definition == "paper":
        assert weights.max(axis=(0, 2, 3)) == pytest.approx(1)
        assert found.min() >= 0
    sizes = [np.linalg.norm(weights[:, c]) * np.linalg.norm(found[c]) for c in range(3)]
    assert definition != "paper" or sizes == sorted(sizes, reverse=True)


def test_the_error_is_that_of_the_factors_and_as_small_as_another_rule_finds() -> None:
    rng = np.random.default_rng(6)
    activations = (rng.random((3, 8, 4, 5)) * rng.random((1, 8, 1, 1))).astype(np.float32)
    table = activations.transpose(0, 2, 3, 1).reshape(-1, 8).astype(np.float64)
    weights, vectors, error, _ = factor_activations(activations, 4, "paper", 0, 3000)
    made = weights.transpose(0, 2, 3, 1).reshape(-1, 4).astype(np.float64) @ vectors
    assert error == pytest.approx(np.linalg.norm(table - made) / np.linalg.norm(table), rel=1e-4)
    best = min(
        np.linalg.norm(table - left @ right) / np.linalg.norm(table)
        for left, right in (factor(table, 4, seed=seed) for seed in range(4))
    )
    assert error < 1.05 * best  # each rule ends in a minimum of its own


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in zoo.HEADS.items()])
def test_class_scores_are_those_of_the_concept_on_every_cell(case: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    part = case.make(rng, 6, 4, 4, 4)
    whole = zoo.classifier(part, rng)
    engine = camrt.load(zoo.save(whole.model, tmp_path / "model.onnx"), target="A", threads=1, verify=False)
    images = np.random.default_rng(5).standard_normal((2, *whole.size)).astype(np.float32)
    found = engine.concepts(images, 3)
    assert found.weights.shape == (2, 3, 4, 4)
    assert found.maps.shape == (2, 3, 8, 8)
    assert found.vectors.shape == (3, 6)
    assert found.passes.trunk == 2
    made = np.einsum("nchw,ck->nkhw", found.weights.astype(np.float64), found.vectors)
    activations = whole.activations64(images)
    error = np.linalg.norm(activations - made) / np.linalg.norm(activations)
    assert found.error == pytest.approx(error, rel=1e-3)
    assert found.class_scores is not None
    everywhere = np.repeat(found.vectors[:, :, None], 16, axis=2).reshape(3, 6, 4, 4)
    assert_close(found.class_scores, part.logits64(everywhere.astype(np.float64)), factor=4)  # sums of cells
    expected = engine.probabilities(found.class_scores)
    assert np.array_equal(found.class_probabilities, expected)


def test_a_batch_is_run_in_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    whole = zoo.classifier(zoo.HEADS["gap-flatten-gemm"].make(rng, 6, 4, 4, 4), rng)
    path = zoo.save(whole.model, tmp_path / "model.onnx")
    images = np.random.default_rng(5).standard_normal((5, *whole.size)).astype(np.float32)
    one, two = (camrt.load(path, batch_size=size, threads=1).concepts(images, 2, seed=3) for size in (5, 2))
    assert_close(one.maps, two.maps, factor=100)  # iterations carry a convolution's rounding on
    assert one.passes.trunk == two.passes.trunk == 5


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = colour_model(tmp_path_factory.mktemp("model") / "colours.onnx")
    return camrt.load(path, preprocessing=PREPROCESSING, labels=COLOURS, threads=1)


def squares() -> list[Image.Image]:
    """A red and a green square on grey."""
    found = []
    for colour in ((250, 20, 20), (20, 250, 20)):
        image = Image.new("RGB", (40, 48), (120, 120, 120))
        image.paste(colour, (8, 8, 24, 24))
        found.append(image)
    return found


def test_concepts_of_images_are_named_and_drawn(engine: Any) -> None:
    found = engine.concepts(squares(), 2, size="original")
    assert len(found) == 2
    assert found.maps.shape == (2, 2, 48, 40)
    said = {found.label(concept, top=1).split()[0] for concept in range(2)}
    assert said == {"red", "green"}
    assert found.label(0).count(", ") == 1
    red = next(c for c in range(2) if found.label(c).startswith("red"))
    assert found.maps[0, red, 16, 16] > 0.5 > found.maps[1, red, 16, 16]
    assert found.overlay(0, red).size == (40, 48)
    assert found.overlay(0, red, on="view").size == found.views[0].size
    assert found.overlay(0, red, image=squares()[0].resize((80, 96))).size == (80, 96)
    sheet = found.sheet(0)
    assert sheet.width > 3 * found.views[0].width
    assert repr(found).startswith("<Concepts 2 of 2 images; maps 48x40; error 0.")
    with pytest.raises(NoSuchImageError, match="there is no concept 2: there are 2, counted from 0"):
        found.overlay(0, 2)
    with pytest.raises(NoSuchImageError, match="no image 5"):
        found.sheet(5)


def test_concepts_are_kept(engine: Any, tmp_path: Path) -> None:
    found = engine.concepts(squares(), 2)
    written = found.save(tmp_path / "kept", [Path("a/one.jpg"), "one"])
    assert [path.name for path in written] == ["one.png", "one-2.png", "concepts.npz"]
    with Image.open(written[0]) as sheet:
        assert sheet.size == found.sheet(0).size
    with np.load(written[2], allow_pickle=False) as kept:
        assert set(kept) == {
            "class_probabilities", "class_scores", "concept_labels", "maps", "vectors", "weights",
        }  # fmt: skip
        assert np.array_equal(kept["maps"], found.maps)
        assert kept["concept_labels"].tolist() == [found.label(0), found.label(1)]
    numbers = engine.concepts(np.zeros((1, 3, SIDE, SIDE), np.float32) + 1, 2)
    assert [path.name for path in numbers.save(tmp_path / "numbers", name="all")] == ["all.npz"]
    with pytest.raises(InputError, match="expected 2 stems"):
        found.save(tmp_path, ["one"])


def test_the_command(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, image in zip(("red", "green"), squares(), strict=True):
        image.save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "steps.json").write_text(PREPROCESSING.to_json())
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS))
    asked = ["concepts", str(engine.path), str(tmp_path / "images"), "-n", "2", "-o", str(tmp_path / "out")]
    asked += ["--preprocessing", str(tmp_path / "steps.json"), "--labels", str(tmp_path / "labels.txt")]
    run = CliRunner().invoke(app, asked)
    assert run.exit_code == 0, run.output
    assert "2 concepts of 2 images" in run.output
    assert "% of the activations are in none of them" in run.output
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"red.png", "green.png", "concepts.npz"} <= written
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    fewer = CliRunner().invoke(app, [*asked, "--overwrite", "--limit", "1"])
    assert fewer.exit_code == 0, fewer.output
    assert len([path for path in (tmp_path / "out").iterdir() if path.suffix == ".png"]) == 1


def test_sizes(engine: Any) -> None:
    images = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    assert engine.concepts(images, 2, size="map").maps.shape == (1, 2, 8, 8)
    found = engine.concepts(images, 2, size=(7, 9))
    assert found.maps.shape == (1, 2, 7, 9)
    assert np.array_equal(engine.concepts(images, 2, size="map").maps, found.weights)
    with pytest.raises(InputError, match="no image to draw on"):
        found.overlay(0)


def test_tensors_come_back_as_tensors(engine: Any) -> None:
    torch = pytest.importorskip("torch")
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE), np.float32))
    found = engine.concepts(images, 3)
    for name in ("maps", "weights", "vectors", "class_scores", "class_probabilities"):
        assert torch.is_tensor(getattr(found, name)), name
    assert found.label(0).split()[0] in COLOURS


def test_torch_modules(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from helpers.torch_nets import Modular, Residual, build_net, random_images

    module = build_net(Modular)
    engine = camrt.load(module, target="last", size=(12, 16))
    with pytest.raises(InputError, match=r"negative values.*definition='pytorch-grad-cam'"):
        engine.concepts(random_images(2), 2)
    assert engine.concepts(random_images(2), 2, definition="pytorch-grad-cam").class_scores is not None
    around = camrt.load(build_net(Residual), target="body", size=(12, 16))
    found = around.concepts(random_images(2), 2, definition="pytorch-grad-cam")
    assert found.class_scores is None  # the logits depend on what goes around the activation
    assert found.class_probabilities is None
    assert found.label(1) == "concept 1"
    behind = camrt.load(module, target="relu", size=(12, 16)).concepts(random_images(2), 3)
    assert behind.vectors.shape == (3, 7)
    rows = torch.from_numpy(behind.vectors)
    assert behind.class_scores == pytest.approx(module.head(rows).detach().numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n=0 must be a whole number >= 1"),
        ({"n": 2.5}, r"n=2.5 must be a whole number"),
        ({"n": 9}, "n=9: 8 channels on 64 cells have at most 8 concepts"),
        ({"seed": -1}, "seed=-1"),
        ({"iterations": 0}, "iterations=0"),
        ({"definition": "nmf"}, "definition='nmf' must be one of 'paper', 'pytorch-grad-cam'"),
        ({"size": "small"}, "size="),
    ],
)
def test_bad_arguments(engine: Any, change: dict[str, Any], message: str) -> None:
    images = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    with pytest.raises(InputError, match=message):
        engine.concepts(images, **{"n": 2, **change})


def test_what_cannot_be_factored() -> None:
    activations = patterns()[0]
    broken = activations.copy()
    broken[2, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="activation of image 2 is not finite"):
        factor_activations(broken, 2, "paper", 0, 10)
    nothing = factor_activations(np.zeros((2, 3, 4, 5), np.float32), 2, "paper", 0, 10)
    assert not nothing[0].any()
    assert np.isnan(nothing[2])
    few = factor_activations(
        activations, 2, "paper", 0, 1
    )  # stopped while it was changing, without a warning
    assert few[3] == 1


def test_images_that_cannot_be_read_and_several_targets(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        engine.concepts([tmp_path / "none.png"], 2)
    names = [item.name for item in engine.targets()][:2]
    assert len(names) == 2
    several = camrt.load(engine.path, target=names)
    with pytest.raises(InputError, match="cut at several targets"):
        several.concepts(np.zeros((1, 3, SIDE, SIDE), np.float32), 2)


def test_scikit_learn_is_asked_for_by_name(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"sklearn is not installed.*pip install 'camrt\[concepts\]'"):
        engine.concepts(np.zeros((1, 3, SIDE, SIDE), np.float32), 2)


@pytest.mark.peers
def test_the_same_as_pytorch_grad_cam() -> None:
    import_peer("pytorch_grad_cam")
    torch = pytest.importorskip("torch")
    from pytorch_grad_cam import DeepFeatureFactorization

    torch.manual_seed(1)
    features, rectify = torch.nn.Conv2d(3, 9, 3, 2, 1), torch.nn.ReLU()
    last = torch.nn.Linear(9, 4)
    pooling = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    module = torch.nn.Sequential(features, rectify, *pooling, last).eval()
    images = np.random.default_rng(1).standard_normal((3, 3, 10, 14)).astype(np.float32)
    engine = camrt.load(module, target="1", size=(10, 14))
    found = engine.concepts(images, 4, definition="pytorch-grad-cam")
    peer = DeepFeatureFactorization(module, rectify, computation_on_concepts=last)
    vectors, maps, outputs = peer(torch.from_numpy(images), 4)
    order = [int(np.abs(found.vectors - vectors[:, c]).sum(axis=1).argmin()) for c in range(4)]
    assert sorted(order) == [0, 1, 2, 3]
    # two hundred iterations from one beginning, on activations of two runtimes
    assert found.vectors[order] == pytest.approx(vectors.T, abs=1e-3)
    assert found.maps[:, order] == pytest.approx(np.array(maps), abs=1e-2)
    assert found.class_scores[order] == pytest.approx(outputs, abs=1e-3)
