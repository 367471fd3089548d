"""Masked VGG networks: what is out of sight is so exactly, before, while and after training, and exported."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.errors import ImageError, InputError, TrainingError
from camrt.training import masked_training
from camrt.training.masked_training import (
    MaskedTrainingSettings,
    RandomResizedCropDataset,
    export_network,
    measure_accuracy,
    sample_crop_box,
    train,
)
from camrt.training.masked_vgg import (
    VGG16_BLOCKS,
    MaskedVGG,
    MaskedVGG16,
    build_convolutions,
    dead_rows,
    seen_rows,
    small_masked_vgg,
)
from camrt.training.splits import hold_out, read_class_folders
from camrt.training.weight_masks import ZeroMask, masking_callback, register_mask_hook
from helpers.labelled_images import CLASSES, coloured_squares


def tiny(num_classes: int = 3, **options: Any) -> MaskedVGG:
    """The small network, smaller still."""
    torch.manual_seed(0)
    return small_masked_vgg(num_classes, **{"width": 4, "hidden": 12, **options}).eval()


def first_weight(network: MaskedVGG) -> torch.Tensor:
    """The first dense weight, (units, K, h, w)."""
    height = 224 // 16 if isinstance(network, MaskedVGG16) else network.size // 8
    weight: torch.Tensor = network.classifier[0].weight.detach()
    return weight.view(len(weight), -1, height, height)


# --- geometry


@pytest.mark.parametrize("kept", range(1, 15))
def test_the_dead_rows_of_the_specification(kept: int) -> None:
    """Specification D3: 118 − 16 (n − 1) up to 8 rows, none from 9 on; 54 for the paper's 5."""
    assert dead_rows(kept) == (118 - 16 * (kept - 1) if kept <= 8 else 0)


def test_the_dead_rows_of_the_networks() -> None:
    assert dead_rows(5) == 54
    with torch.device("meta"):
        assert MaskedVGG16().dead_rows == 54
        assert MaskedVGG16(masked=False).dead_rows == 0
    assert [tiny(kept_rows=n).dead_rows for n in range(1, 9)] == [34, 26, 18, 10, 2, 0, 0, 0]
    assert tiny(masked=False).dead_rows == 0
    assert tiny(masked=False).kept_rows == 8


@settings(max_examples=25, deadline=None)
@given(
    blocks=st.lists(st.lists(st.just(2), min_size=1, max_size=2).map(tuple), min_size=1, max_size=3).map(
        tuple
    ),
    size=st.integers(12, 27),
    data=st.data(),
)
def test_the_rows_seen_are_those_that_have_a_gradient(blocks: Any, size: int, data: Any) -> None:
    """Ones for weights and a positive image: nothing cancels, and every row that is reached shows."""
    layers = build_convolutions(blocks).double()
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    # the largest of a pooling cell alone has a gradient: rows that grow downwards make it the lowest
    image = (1.5 ** torch.arange(size, dtype=torch.float64))[:, None].expand(1, 3, size, size)
    image = image.clone().requires_grad_(True)
    out = layers(image)
    rows = data.draw(st.integers(1, out.shape[2]))
    (gradient,) = torch.autograd.grad(out[:, :, :rows].sum(), image)
    reached = gradient.abs().sum((0, 1, 3)).nonzero()
    assert seen_rows(layers, rows, size) == int(reached.max()) + 1


def test_layers_of_other_kinds_and_rows_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="neither a convolution"):
        seen_rows(nn.Sequential(nn.AvgPool2d(2)), 1, 8)
    with pytest.raises(InputError, match="neither a convolution"):
        seen_rows(nn.Sequential(nn.Conv2d(3, 3, 3, padding="same")), 1, 8)
    for rows in (0, 15):
        with pytest.raises(InputError, match="between 1 and the map's 14"):
            dead_rows(rows)
    with pytest.raises(InputError, match="too small"):
        dead_rows(1, size=8)
    for rows in (0, 9):
        with pytest.raises(InputError, match="between 1 and the map's 8 rows"):
            tiny(kept_rows=rows)


# --- the paper's network


def test_the_layers_of_the_paper() -> None:
    with torch.device("meta"):
        network = MaskedVGG16()
    shapes = [tuple(layer.weight.shape) for layer in network.features if isinstance(layer, nn.Conv2d)]
    assert len(shapes) == 13
    assert shapes[0] == (64, 3, 3, 3)
    assert shapes[-1] == (256, 512, 3, 3)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in network.features) == 4
    assert isinstance(network.features[-1], nn.ReLU)
    dense = [tuple(layer.weight.shape) for layer in network.classifier if isinstance(layer, nn.Linear)]
    assert dense == [(4096, 50176), (4096, 4096), (1000, 4096)]
    assert [layer.p for layer in network.classifier if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    (mask,) = network.masks
    held = mask.mask.view(256, 14, 14)
    assert held[:, 5:].all()
    assert not held[:, :5].any()


def test_initialised_as_torchvisions() -> None:
    network = tiny(width=32, hidden=64)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            expected = (2 / (9 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.15)
            assert not layer.bias.any()
    first, second, last = (layer for layer in network.classifier if isinstance(layer, nn.Linear))
    assert first_weight(network)[:, :, :3].std().item() == pytest.approx(
        0.01 * (50176 / 8192) ** 0.5, rel=0.02
    )
    assert second.weight.std().item() == pytest.approx(0.08, rel=0.05)
    assert not any(layer.bias.any() for layer in (first, second, last))


def test_the_paper_s_dense_layers_are_initialised_by_a_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    deviations: list[float] = []
    monkeypatch.setattr(nn.init, "normal_", lambda _, mean, std: deviations.append(std))
    with torch.device("meta"):
        MaskedVGG16()
    assert deviations == [0.01] * 3


def test_the_paper_s_network_does_not_see_the_last_54_rows() -> None:
    """With its own convolutions and narrower dense layers."""
    torch.manual_seed(0)
    network = MaskedVGG16(7, hidden=16).eval()
    images = torch.randn(1, 3, 224, 224)
    noise, one_more = images.clone(), images.clone()
    noise[:, :, 170:] = torch.randn(1, 3, 54, 224) * 50
    one_more[:, :, 169] += 50
    with torch.no_grad():
        answers = [network(batch) for batch in (images, noise, one_more)]
        assert network.features(images).shape == (1, 256, 14, 14)
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


# --- masks


def test_what_is_out_of_sight_changes_nothing_and_the_masked_rows_have_no_gradient() -> None:
    network = tiny()
    images = torch.randn(2, 3, 64, 64)
    noise = images.clone()
    noise[:, :, 64 - 18 :] = torch.randn(2, 3, 18, 64) * 50
    with torch.no_grad():
        assert torch.equal(network(images), network(noise))
    maps = network.features(images).detach().requires_grad_(True)
    for target in range(3):
        (gradient,) = torch.autograd.grad(network.classifier(maps.flatten(1))[:, target].sum(), maps)
        assert not gradient[:, :, 3:].any()
        assert gradient[:, :, :3].any()
    unmasked = tiny(masked=False)
    with torch.no_grad():
        assert not torch.equal(unmasked(images), unmasked(noise))


def steps(network: MaskedVGG, count: int = 4, momentum: float = 0.9) -> torch.optim.Optimizer:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=momentum, weight_decay=1e-4)
    register_mask_hook(optimizer, network.masks)
    for _ in range(count):
        optimizer.zero_grad()
        logits = network(torch.randn(8, 3, 64, 64))
        torch.autograd.backward(functional.cross_entropy(logits, torch.randint(0, 3, (8,))))
        optimizer.step()
    return optimizer


def test_masked_weights_stay_exactly_zero_under_momentum() -> None:
    network = tiny()
    before = first_weight(network).clone()
    optimizer = steps(network)
    after = first_weight(network)
    assert not after[:, :, 3:].any()
    assert not torch.equal(after[:, :, :3], before[:, :, :3])
    kept = optimizer.state[network.classifier[0].weight]["momentum_buffer"].view_as(after)
    assert kept[:, :, 3:].any()  # it would have filled them


def test_without_the_hook_they_would_not() -> None:
    network = tiny()
    network.masks = ()
    steps(network)
    assert first_weight(network)[:, :, 3:].any()


def test_a_mask_can_be_let_go() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    held = register_mask_hook(optimizer, [ZeroMask(weight, torch.tensor([False, True, False]))])
    assert weight.tolist() == [[1, 0, 1]] * 2
    weight.grad = torch.full_like(weight, -1)
    optimizer.step()
    assert weight.tolist() == [[2, 0, 2]] * 2
    held.remove()
    optimizer.step()
    assert weight.tolist() == [[3, 1, 3]] * 2


def test_a_mask_clears_what_is_not_a_number_and_keeps_the_rest_bit_by_bit() -> None:
    weight = nn.Parameter(torch.tensor([[float("nan"), 0.1], [float("inf"), -0.0]]))
    ZeroMask(weight, torch.tensor([[True, False]])).apply()
    assert weight[:, 0].tolist() == [0, 0]
    assert torch.equal(weight[:, 1], torch.tensor([0.1, -0.0]))
    assert torch.signbit(weight[1, 1])


def test_masks_follow_weights_that_are_loaded_and_copies() -> None:
    network, other = tiny(), tiny(masked=False)
    network.load_state_dict(other.state_dict())
    assert not first_weight(network)[:, :, 3:].any()
    assert torch.equal(first_weight(network)[:, :, :3], first_weight(other)[:, :, :3])
    twin = copy.deepcopy(network)
    assert twin.masks[0].parameter is twin.classifier[0].weight
    steps(twin)
    assert not first_weight(twin)[:, :, 3:].any()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(3), "must be boolean"),
        (torch.zeros(2, dtype=torch.bool), r"\(2,\) cannot be repeated to \(2, 3\)"),
        (torch.zeros(4, 2, 3, dtype=torch.bool), "cannot be repeated"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: torch.Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ZeroMask(nn.Parameter(torch.ones(2, 3)), mask)


def test_a_weight_that_nobody_trains_cannot_be_held() -> None:
    network = tiny()
    optimizer = torch.optim.SGD(network.features.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match="does not train"):
        register_mask_hook(optimizer, network.masks)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_lightning_holds_masks(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Run(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = tiny()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    run = Run()
    before = first_weight(run.network).clone()
    data = torch.utils.data.TensorDataset(torch.randn(12, 3, 64, 64), torch.arange(12) % 3)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[masking_callback(run.network.masks)],
    )
    trainer.fit(run, torch.utils.data.DataLoader(data, batch_size=4))
    after = first_weight(run.network)
    assert not after[:, :, 3:].any()
    assert not torch.equal(after[:, :, :3], before[:, :, :3])


# --- training


def test_the_parts_shown_are_inside_and_of_the_right_sizes() -> None:
    rng = np.random.default_rng(0)
    found = np.array([sample_crop_box(60, 40, rng) for _ in range(4000)])
    left, top, wide, tall = found.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + wide <= 60).all()
    assert (top + tall <= 40).all()
    share, aspect = wide * tall / 2400, wide / tall
    assert share.min() > 0.08
    assert share.min() < 0.12
    assert share.max() > 0.7  # of 60×40 at most 50×40 has these proportions
    assert aspect.min() > 0.72
    assert aspect.max() < 1.4
    assert abs((wide / tall > 1).mean() - 0.5) < 0.06
    assert (np.ptp(left) > 30) & (np.ptp(top) > 20)


@pytest.mark.parametrize(("size", "expected"), [((400, 4), (197, 0, 5, 4)), ((3, 300), (0, 148, 3, 4))])
def test_of_a_very_long_image_the_middle_is_shown(
    size: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert sample_crop_box(*size, np.random.default_rng(0)) == expected


def test_views_follow_from_their_place(tmp_path: Path) -> None:
    images = read_class_folders(coloured_squares(tmp_path, each=2))
    preprocessing = masked_training.preprocessing_of(tiny())
    views = RandomResizedCropDataset(images, preprocessing, (64, 64), seed=0)
    first, label = views[0, 1]
    assert first.shape == (3, 64, 64)
    assert label == 0
    assert torch.equal(first, views[0, 1][0])
    assert not torch.equal(first, views[1, 1][0])


def test_the_settings_of_the_paper() -> None:
    paper = MaskedTrainingSettings()
    assert (paper.rate, paper.momentum, paper.weight_decay, paper.seed) == (0.03, 0.9, 1e-4, 3)
    rates = [paper.lr_in_epoch(epoch) for epoch in (0, 29, 30, 59, 60, 89)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
    assert MaskedTrainingSettings(batch_size=64).rate == 0.03 / 4
    assert MaskedTrainingSettings(batch_size=64, lr=0.5).rate == 0.5
    assert MaskedTrainingSettings(epochs=1).lr_in_epoch(0) == 0.03


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"workers": -1},
        {"seed": -1},
        {"checkpoint_steps": -1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        MaskedTrainingSettings(**change)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[MaskedVGG, Path, float]:
    """A network trained a little on coloured squares, its file, and its accuracy."""
    folder = tmp_path_factory.mktemp("masked")
    images, held = hold_out(read_class_folders(coloured_squares(folder / "images", each=24)), 0.25, 0)
    torch.manual_seed(1)
    network = small_masked_vgg(3, width=8, hidden=32)
    how = MaskedTrainingSettings(epochs=8, batch_size=9, lr=0.05, workers=0)
    losses: list[float] = []
    train(network, images, how, lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    top1, top5 = measure_accuracy(network, held, how)
    assert top5 == 1
    export_network(network, held, how, {"top1": top1}, folder / "model.onnx")
    return network, folder / "model.onnx", top1


def test_training_learns_and_holds_the_mask(trained: tuple[MaskedVGG, Path, float]) -> None:
    network, _, top1 = trained
    assert not first_weight(network)[:, :, 3:].any()
    assert top1 > 0.5


def test_only_methods_without_a_mean_over_space_leave_the_dead_rows_dark(
    trained: tuple[MaskedVGG, Path, float],
) -> None:
    """On the file: HiResCAM and LayerCAM are exactly zero there, Grad-CAM is not."""
    network, path, _ = trained
    engine = camrt.load(path)
    torch.manual_seed(5)
    batch = torch.randn(6, 3, 64, 64)
    with torch.no_grad():
        np.testing.assert_allclose(engine.predict(batch.numpy()), network(batch).numpy(), atol=1e-4)
    assert network.dead_rows == 18
    maps = {name: engine.explain(batch.numpy(), name).maps for name in ("grad-cam", "hires-cam", "layer-cam")}
    for name in ("hires-cam", "layer-cam"):
        assert not maps[name][:, -18:].any()
        assert maps[name].any()
    assert maps["grad-cam"][:, -18:].any()


def test_a_loss_that_is_not_a_number_ends_training(tmp_path: Path) -> None:
    images = read_class_folders(coloured_squares(tmp_path, each=2))
    network = tiny()
    with torch.no_grad():
        network.classifier[6].bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan in step 1 of epoch 1"):
        train(network, images, MaskedTrainingSettings(epochs=1, batch_size=4, workers=0))


def test_per_image_that_cannot_be_read_ends_training(tmp_path: Path) -> None:
    images = read_class_folders(coloured_squares(tmp_path, each=2))
    images.files[3].write_bytes(b"no image")
    how = MaskedTrainingSettings(epochs=1, batch_size=6, workers=0)
    for use in (train, measure_accuracy):
        with pytest.raises(ImageError, match=images.files[3].name):
            use(tiny(), images, how)


def test_mixed_precision_trains_and_holds_the_mask(tmp_path: Path) -> None:
    images = read_class_folders(coloured_squares(tmp_path, each=2))
    network = tiny()
    before = first_weight(network).clone()
    train(network, images, MaskedTrainingSettings(epochs=1, batch_size=6, lr=0.1, workers=0, mixed=True))
    after = first_weight(network)
    assert after.dtype == torch.float32
    assert not after[:, :, 3:].any()
    assert not torch.equal(after, before)


def test_the_same_seed_trains_the_same_network(tmp_path: Path) -> None:
    images = read_class_folders(coloured_squares(tmp_path, each=4))
    networks = [tiny(), tiny()]
    for network in networks:
        train(network, images, MaskedTrainingSettings(epochs=2, batch_size=4, workers=0))
        torch.rand(3)
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)


def cut_off_at(step: int) -> Callable[[float], None]:
    """What `advance` is to end a training after so many steps."""
    seen = 0

    def advance(_: float) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            raise KeyboardInterrupt

    return advance


@pytest.mark.parametrize("every", [0, 2])
def test_a_training_cut_off_at_any_step_ends_as_if_it_had_not_been(tmp_path: Path, every: int) -> None:
    """Weights to the last bit, and the losses of all epochs; three steps an epoch."""
    images = read_class_folders(coloured_squares(tmp_path / "images", each=5))
    how = MaskedTrainingSettings(epochs=2, batch_size=5, lr=0.05, workers=0, checkpoint_steps=every)
    whole = tiny()
    losses = train(whole, images, how)
    for step in (1, 2, 3, 4, 6):
        state = tmp_path / f"{step}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), images, how, state=state, on_step=cut_off_at(step))
        network = tiny()
        told: list[float] = []
        assert train(network, images, how, state=state, on_step=told.append) == losses
        written = (0, 2, 3, 5, 6) if every else (0, 3, 6)
        assert len(told) == 6 - max(done for done in written if done < step), step
        assert all(
            torch.equal(a, b) for a, b in zip(network.parameters(), whole.parameters(), strict=True)
        ), step


def test_states_of_other_trainings_are_refused(tmp_path: Path) -> None:
    images = read_class_folders(coloured_squares(tmp_path / "images", each=2))
    how = MaskedTrainingSettings(epochs=1, batch_size=3, workers=0)
    train(tiny(), images, how, state=tmp_path / "state")
    with pytest.raises(TrainingError, match="is no state of this network"):
        train(tiny(hidden=13), images, how, state=tmp_path / "state")
    (tmp_path / "state").write_bytes(b"x" * 100)
    with pytest.raises(TrainingError, match="cannot be read as safetensors"):
        train(tiny(), images, how, state=tmp_path / "state")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured_squares(tmp_path_factory.mktemp("squares") / "images", each=4)


def told(*words: object, code: int = 0) -> str:
    """What `camrt train masked-vgg` prints, in one line."""
    found = CliRunner().invoke(app, ["train", "masked-vgg", *map(str, words)])
    assert found.exit_code == code, found.output
    return " ".join(found.output.split())


QUICK = ("--epochs", 1, "--workers", 0, "--batch-size", 4)


def test_the_command(squares: Path, tmp_path: Path) -> None:
    line = ("--data", squares, "--out", tmp_path / "run", *QUICK)
    said = told(*line)
    assert "9 images of 3 classes to train on, 3 to measure on; 3 rows of the map are seen" in said
    assert "the last 18 of 64 rows of an image are not epoch 1: loss" in said
    assert f"top-5 100.0 %; the network in {tmp_path / 'run' / 'model.onnx'}" in said
    engine = camrt.load(tmp_path / "run" / "model.onnx")
    assert engine.labels == CLASSES
    assert engine.preprocessing == masked_training.preprocessing_of(tiny())
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"run.json", "written.jsonl", "losses.csv", "model.onnx"}
    assert (tmp_path / "run" / "losses.csv").read_text().startswith("epoch,loss\n1,")
    assert told(*line, "--resume").endswith(said[said.index("top-1") :])
    assert "holds results already" in told(*line, code=2)
    assert "holds another masked training, which differs in batch_size" in told(
        *line, "--batch-size", 3, "--resume", code=2
    )
    (tmp_path / "run" / "model.onnx").unlink()
    assert "its model.onnx was taken away" in told(*line, "--resume", code=2)
    assert "the last 0 of 64 rows" in told(*line, "--unmasked", "--overwrite")
    assert (tmp_path / "run" / "model.onnx").exists()


def test_the_command_goes_on(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C in its second epoch, to the same file of losses and the same weights."""
    line = ("--data", squares, "--workers", 0, "--batch-size", 4, "--epochs", 2)
    told(*line, "--out", tmp_path / "whole")
    ordinary, calls = masked_training.train_step, 0

    def interrupted(*given: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return ordinary(*given)

    monkeypatch.setattr(masked_training, "train_step", interrupted)
    said = told(*line, "--out", tmp_path / "cut", code=130)
    assert "the same command with --resume goes on" in said
    assert (tmp_path / "cut" / "last.safetensors").exists()
    assert "epoch 1: loss" not in told(*line, "--out", tmp_path / "cut", "--resume")
    for name in ("losses.csv", "model.onnx"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--network", "large"], "must be 'small' or"),
        (["--kept-rows", "9"], "between 1 and"),
        (["--epochs", "0"], "at least 1"),
        (["--device", "sofa"], "is no device torch knows"),
        (["--device", "fpga"], "cannot be used here"),
        (["--resume"], "holds no run to go on with"),
        (["--lr", "1e30"], "the loss is"),
    ],
)
def test_wrong_options_are_told(squares: Path, tmp_path: Path, options: list[str], words: str) -> None:
    line = ["--data", squares, "--out", tmp_path / "run", "--workers", 0, "--batch-size", 4, "--epochs", 2]
    assert words in told(*line, *options, code=2)


def test_the_blocks_are_those_of_vgg16() -> None:
    assert [len(block) for block in VGG16_BLOCKS] == [2, 2, 3, 3, 3]
