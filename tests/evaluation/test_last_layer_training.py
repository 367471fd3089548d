"""A last layer trained anew, and Figure 12 of Pixab-CAM on a small twin of VGG-16."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.errors import DataError, InputError, ModelFileError
from camrt.evaluation.papers import pixab_brain
from camrt.evaluation.papers.checkpoints import read_weights, write_checkpoint_as_onnx
from camrt.evaluation.papers.last_layer_training import (
    LastLayerSettings,
    draw_held_out,
    initialise_layer,
    train_layer,
)
from camrt.export.vgg import build_vgg
from helpers.labelled_images import CLASSES, coloured_squares

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

SIZE = 16


class Twin(nn.Module):
    """torchvision's VGG, narrower and shallower: two blocks, images of 16×16, ten classes."""

    def __init__(self, *, normalised: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for block in ((4, 6), (8,)):
            for outputs in block:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1)]
                layers += [nn.BatchNorm2d(outputs)] * normalised
                layers += [nn.ReLU(inplace=True)]
                inputs = outputs
            layers += [nn.MaxPool2d(2, 2)]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.classifier = nn.Sequential(
            *(nn.Linear(8 * 16, 24), nn.ReLU(True), nn.Dropout()),
            *(nn.Linear(24, 12), nn.ReLU(True), nn.Dropout()),
            nn.Linear(12, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


@pytest.fixture(scope="module")
def twin() -> Twin:
    torch.manual_seed(0)
    return Twin().eval()


@pytest.fixture(scope="module")
def checkpoint(twin: Twin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg.pth"
    torch.save(twin.state_dict(), path)
    return path


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


# --- the arithmetic


def test_adam_is_torchs() -> None:
    """Every step as torch takes it, in float64, from the same first weights and in the same order."""
    rng = np.random.default_rng(1)
    features, classes = rng.standard_normal((23, 5)), rng.integers(0, 3, 23)
    how = LastLayerSettings(epochs=4, lr=0.02, batch_size=8, seed=3)
    layer, losses = train_layer(features, classes, 3, how)
    start = initialise_layer(5, 3, 3)
    assert np.abs(start.weight).max() <= 1 / 5**0.5
    twin = nn.Linear(5, 3).double()
    with torch.no_grad():
        twin.weight.copy_(torch.from_numpy(start.weight))
        twin.bias.copy_(torch.from_numpy(start.bias))
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.02)
    expected = []
    for epoch in range(4):
        order = np.random.default_rng((3, epoch)).permutation(23)
        total = 0.0
        for rows in (order[:8], order[8:16], order[16:]):
            loss = nn.functional.cross_entropy(
                twin(torch.from_numpy(features[rows])), torch.from_numpy(classes[rows])
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item() * len(rows)
        expected.append(total / 23)
    np.testing.assert_allclose(layer.weight, twin.weight.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(layer.bias, twin.bias.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_large_logits_are_no_trouble() -> None:
    layer, losses = train_layer(
        np.array([[1e6, 0.0], [0.0, 1e6]]), np.array([0, 1]), 2, LastLayerSettings(epochs=3, lr=1.0)
    )
    assert np.isfinite(losses).all()
    assert np.isfinite(layer.weight).all()


def test_a_share_of_each_class_is_held_out() -> None:
    classes = np.array([0] * 10 + [1] * 5 + [2] * 2)
    held = draw_held_out(classes, "abc", 0.2, 0)
    assert [int(held[classes == label].sum()) for label in range(3)] == [2, 1, 1]
    assert not np.array_equal(held, draw_held_out(classes, "abc", 0.2, 1))
    with pytest.raises(DataError, match="class 'd' has 1 images that can be read: two are needed"):
        draw_held_out(np.array([0, 0, 1]), "cd", 0.2, 0)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"lr": 0.0}, {"share": 1.0}, {"batch_size": 0}])
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        LastLayerSettings(**change)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="must be \\(N, K\\) and finite"):
        train_layer(np.array([[np.inf], [0.0]]), np.array([0, 1]), 2, LastLayerSettings())


# --- a VGG of its weights


@pytest.mark.parametrize("normalised", [False, True])
def test_the_network_of_a_state_dict(normalised: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Twin(normalised=normalised)
    module(torch.randn(8, 3, SIZE, SIZE))  # moves the running statistics
    module.eval()
    model, size = build_vgg(arrays(module))
    assert size == SIZE
    onnx.save(model, tmp_path / "vgg.onnx")
    engine = camrt.load(tmp_path / "vgg.onnx")
    batch = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(engine.predict(batch), expected, atol=1e-5)
    assert engine.target.name == ("pool.7" if normalised else "pool.5")
    assert engine.explain(batch, "gradcam", size="map").maps.shape == (3, 4, 4)


def test_vgg16s_own_names_and_sizes() -> None:
    """Of the paper's network: thirteen convolutions, five pools, images of 224×224."""
    blocks, index, inputs = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), 0, 3
    weights: dict[str, np.ndarray] = {}

    def empty(*shape: int) -> np.ndarray:
        return np.broadcast_to(np.float32(0), shape)  # of no size in memory

    for block in blocks:
        for outputs in block:
            weights[f"features.{index}.weight"] = empty(outputs, inputs, 3, 3)
            weights[f"features.{index}.bias"] = empty(outputs)
            index, inputs = index + 2, outputs
        index += 1
    assert index == 31
    weights |= {"classifier.0.weight": empty(2, 25088), "classifier.0.bias": empty(2)}
    model, size = build_vgg(weights)
    kinds = [node.op_type for node in model.graph.node]
    assert size == 224
    assert (kinds.count("Conv"), kinds.count("MaxPool"), kinds.count("Gemm")) == (13, 5, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features.0.weight": None, "features.2.weight": None, "features.5.weight": None}, "no weights of"),
        ({"features.0.bias": None}, "there is no features.0.bias"),
        ({"features.2.bias": np.zeros(3, np.float32)}, r"features.2.bias has shape \(3,\)"),
        ({"features.0.weight": np.zeros((4, 3, 5, 5), np.float32)}, r"has shape \(4, 3, 5, 5\)"),
        ({"classifier.0.weight": np.zeros((24, 24), np.float32)}, "24 inputs, which are no square map of 8"),
        ({"classifier.6.bias": np.full(10, np.nan, np.float32)}, "not finite"),
        ({"features.9.weight": np.zeros((2, 8, 3, 3), np.float32)}, "4 apart: no VGG"),
    ],
)
def test_other_weights_are_refused(twin: Twin, change: dict[str, Any], words: str) -> None:
    weights = {**arrays(twin), **change}
    with pytest.raises(ModelFileError, match=words):
        build_vgg({name: value for name, value in weights.items() if value is not None})


# --- checkpoints


class Bomb:
    """What runs a command when it is unpickled by Python's own pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("boom",))


def test_checkpoints_as_users_have_them(twin: Twin, checkpoint: Path, tmp_path: Path) -> None:
    expected = arrays(twin)
    wrapped = {"state_dict": {f"module.{name}": value.half() for name, value in twin.state_dict().items()}}
    torch.save({**wrapped, "epoch": 3}, tmp_path / "wrapped.pt")
    found = read_weights(tmp_path / "wrapped.pt")
    assert found.keys() == expected.keys()
    assert all(np.abs(value - expected[name]).max() < 1e-3 for name, value in found.items())
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(twin.state_dict(), tmp_path / "vgg.safetensors")
    files = [write_checkpoint_as_onnx(path, tmp_path) for path in (checkpoint, tmp_path / "vgg.safetensors")]
    assert files[0] == files[1]
    assert camrt.load(files[0]).preprocessing == camrt.Preprocessing.named("imagenet", (SIZE, SIZE))


def test_files_that_are_no_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb()))
    torch.save({"model": Bomb()}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "short.safetensors").write_bytes(b"\x08")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("bomb.pth", "other.pth", "short.safetensors", "empty.pt"):
        with pytest.raises(ModelFileError, match=f"{name}: cannot be read as weights"):
            read_weights(tmp_path / name)
    with pytest.raises(ModelFileError, match="holds list, and not weights by name"):
        read_weights(tmp_path / "list.pth")
    with pytest.raises(ModelFileError, match="no such file"):
        read_weights(tmp_path / "nowhere.pth")
    torch.save({"weight": torch.ones(2)}, tmp_path / "small.pth")
    with pytest.raises(ModelFileError, match=r"small.pth: these are no weights of torchvision's VGG.*weight"):
        write_checkpoint_as_onnx(tmp_path / "small.pth", tmp_path)
    assert "boom" not in capsys.readouterr().out


# --- the figure


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = coloured_squares(tmp_path_factory.mktemp("squares") / "images", each=6, side=24)
    (folder / "red" / "broken.png").write_bytes(b"no image")
    return folder


def told(*words: object, code: int = 0) -> str:
    """What `camrt reproduce pixab-figure-12` prints, in one line."""
    line = ["reproduce", "pixab-figure-12", *map(str, words)]
    found = CliRunner().invoke(app, line)
    assert found.exit_code == code, f"{found.output}\n{found.exception!r}"
    return " ".join(found.output.split())


def test_figure_12_from_a_checkpoint(twin: Twin, checkpoint: Path, squares: Path, tmp_path: Path) -> None:
    """All layers but the last are those of the checkpoint, and the last is what training gives by hand."""
    said = told("--model", checkpoint, "--data", squares, "--out", tmp_path, "--batch-size", 4)
    assert "not measured" not in said
    place = tmp_path / "pixab-figure-12"
    results = json.loads((place / "results.json").read_text())
    assert [row["key"] for row in results["rows"]] == list(SIX)
    assert all(set(row["measured"]) == {"drop", "compactness"} for row in results["rows"])
    facts = results["facts"]["last layer"]
    assert facts["labels"] == list(CLASSES)
    assert facts["images"] == 15
    assert results["facts"]["images"]["measured"] == 3
    assert f"and on {100 * facts['right on held out']:.1f} % of the 3 held-out ones" in " ".join(
        results["remarks"]
    )
    model = onnx.load(place / "model.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = {name: value for name, value in arrays(twin).items() if not name.startswith("classifier.6")}
    assert all(np.array_equal(stored[name], value) for name, value in kept.items())
    assert not any("classifier.6" in name for name in stored)
    steps = camrt.Preprocessing.named("imagenet", (SIZE, SIZE))
    files = sorted(path for path in squares.rglob("*.png") if path.name != "broken.png")
    pixels = []
    for path in files:
        with Image.open(path) as image:
            pixels.append(steps.array(steps.view(image)))
    with torch.no_grad():
        batch = torch.from_numpy(np.stack(pixels))
        features = twin.classifier[:6](twin.features(batch).flatten(1)).double().numpy()
    classes = np.array([CLASSES.index(path.parent.name) for path in files])
    held = draw_held_out(classes, CLASSES, 0.2, 0)
    layer, losses = train_layer(features[~held], classes[~held], 3, LastLayerSettings())
    np.testing.assert_allclose(facts["losses"], losses, atol=1e-4)
    engine = camrt.load(place / "model.onnx")
    assert engine.labels == CLASSES
    np.testing.assert_allclose(engine.predict(batch.numpy()), layer.logits(features), atol=1e-3)
    with Image.open(place / "maps.png") as sheet:
        assert sheet.width > 7 * SIZE
        assert sheet.height > 3 * SIZE


SIX = ("gradcam", "gradcam++", "score", "ablation", "xgradcam", "pixab")


def test_figure_12_goes_on_with_its_last_layer(
    checkpoint: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("--model", checkpoint, "--data", squares, "--methods", "gradcam,pixab")
    told(*line, "--out", tmp_path / "whole")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pixab_brain, "draw_sheet", interrupted)
        assert "--resume goes on" in told(*line, "--out", tmp_path / "cut", code=130)
    with monkeypatch.context() as patch:
        patch.setattr(pixab_brain, "train_layer", interrupted)  # it is trained already
        told(*line, "--out", tmp_path / "cut", "--resume")
    for name in ("results.json", "table.md", "model.onnx", "maps.png"):
        place = Path("pixab-figure-12") / name
        assert (tmp_path / "cut" / place).read_bytes() == (tmp_path / "whole" / place).read_bytes()


def test_what_figure_12_cannot_be_made_of(checkpoint: Path, squares: Path, tmp_path: Path) -> None:
    line = ("--model", checkpoint, "--out", tmp_path / "out")
    assert "it needs images" in told(*line)
    said = told(*line, "--data", squares / "red", "--overwrite")
    assert "not measured: red needs a folder of images for each class" in said
    (tmp_path / "few" / "one").mkdir(parents=True)
    shutil.copytree(squares / "blue", tmp_path / "few" / "blue")
    shutil.copy(squares / "blue" / "00.png", tmp_path / "few" / "one")
    said = told(*line, "--data", tmp_path / "few", "--overwrite")
    assert "not measured: class 'one' has 1 images that can be read: two are needed" in said
    assert "is no folder" in told(*line, "--data", tmp_path / "nowhere", "--overwrite", code=2)
    assert "has no row calm-em; its rows are gradcam" in told(
        *line, "--data", squares, "--methods", "calm-em", "--overwrite", code=2
    )
