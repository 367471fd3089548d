"""Coherency, ADCC and ARCC: their formulas, what is undefined, peers' figures, and an evaluation's."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import camrt
from camrt.engine.methods import make_method
from camrt.errors import InputError
from camrt.evaluation.datasets import read_dataset
from camrt.evaluation.metrics import adcc, arcc, coherency, drops, mean_saliency, road
from camrt.evaluation.suite import METRICS, Settings, evaluate
from camrt.evaluation.suite.measurement import measure_block
from camrt.evaluation.suite.plan import MeasurementPlan
from camrt.evaluation.suite.prepared_sample import PreparedSample, prepare_sample
from camrt.evaluation.suite.summary import summarise
from helpers.annotated_images import COLOURS, PREPROCESSING, SIDE, boxed_squares, colour_model
from helpers.oracles import composites as oracle
from helpers.peer_libraries import import_peer

MAP = arrays(np.float64, (3, 4), elements=st.sampled_from([0.0, 1.0, 0.5, 0.25, 0.3]))
SHARE = st.sampled_from([0.0, 1.0, 0.5, 0.125, 1e-9])


@settings(max_examples=60, deadline=None)
@given(MAP, MAP)
def test_coherency_is_a_correlation(saliency: Any, again: Any) -> None:
    found = coherency(saliency[None], again[None])[0]
    assert found == pytest.approx(oracle.coherency(saliency.ravel(), again.ravel()), abs=1e-12, nan_ok=True)


def test_the_same_map_and_its_negative() -> None:
    ramp = np.linspace(0, 1, 12).reshape(1, 3, 4)
    assert coherency(ramp, 0.2 * ramp)[0] == pytest.approx(1)
    assert coherency(ramp, 1 - ramp)[0] == pytest.approx(0, abs=1e-15)
    assert np.isnan(coherency(np.full((1, 3, 4), 0.1), ramp)[0])
    assert np.isnan(coherency(ramp, np.full((1, 3, 4), np.nan))[0])


@settings(max_examples=60, deadline=None)
@given(SHARE, SHARE, SHARE)
def test_means_are_harmonic(coherent: float, complexity: float, third: float) -> None:
    assert adcc([coherent], [complexity], [third])[0] == pytest.approx(
        oracle.adcc(coherent, complexity, third)
    )
    assert arcc([coherent], [complexity], [third - 0.5])[0] == pytest.approx(
        oracle.arcc(coherent, complexity, third - 0.5)
    )


def test_what_one_part_lacks_the_mean_lacks() -> None:
    assert adcc([1.0], [0.0], [0.0])[0] == 1
    assert adcc([1.0], [0.0], [1.0])[0] == 0
    assert np.isnan(adcc([np.nan, 1.0], [0.0, 0.5], [0.0, np.nan])).all()
    assert np.isnan(arcc([np.nan, 1.0], [0.0, 0.5], [0.2, np.nan])).all()
    assert arcc([0.5], [0.5], [-0.3])[0] == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda: coherency(np.zeros((3, 3)), np.zeros((3, 3))), r"two arrays of maps \(N, H, W\)"),
        (lambda: coherency(np.zeros((1, 3, 3)), np.zeros((1, 3, 4))), r"not \(1, 3, 3\) and \(1, 3, 4\)"),
        (lambda: mean_saliency(np.zeros((3, 3))), r"maps must be \(N, h, w\)"),
        (lambda: mean_saliency(np.full((1, 3, 3), 1.5)), r"lie in \[0, 1\]"),
        (lambda: adcc([0.5], [1.5], [0.5]), r"lie in \[0, 1\]"),
        (lambda: arcc([0.5], [0.5], [0.7]), r"lie in \[0, 1\]"),
        (lambda: adcc([0.5], [0.5, 0.5], [0.5]), r"must be \(N,\)"),
    ],
)
def test_bad_arguments(asked: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked()


@pytest.mark.parametrize("hidden", [False, True])
def test_an_evaluation_has_them(tmp_path: Path, hidden: bool) -> None:
    pytest.importorskip("pyarrow")
    path = colour_model(tmp_path / "colours.onnx", hidden=hidden)
    engine = camrt.load(path, preprocessing=PREPROCESSING, labels=COLOURS, batch_size=3)
    data = read_dataset(boxed_squares(tmp_path / "squares", 5), labels=engine.labels, num_classes=3)
    asked = ["coherency", "adcc", "arcc", "l1complexity", "drop", "road"]
    found = evaluate(engine, data, ["gradcam", "eigen"], asked)
    items = [prepare_sample(sample, PREPROCESSING, masks=False) for sample in data.samples]

    def chances(rows: Any) -> Any:
        return engine.probabilities(engine.predict(np.asarray(rows, np.float32)))

    for name in ("gradcam", "eigen"):
        expected: dict[str, list[float]] = {metric: [] for metric in ("coherency", "adcc", "arcc")}
        for item in items:
            one = engine.explain(item.pixels[None], name)
            kept = item.pixels[None] * one.maps[:, None]
            again = engine.explain(kept, name, targets=one.targets).maps
            coherent = oracle.coherency(one.maps[0].ravel(), again[0].ravel())
            label = one.targets
            lost = drops(chances(item.pixels[None])[:, label[0]], chances(kept)[:, label[0]])[0]
            seed = (0, zlib.crc32(item.name.encode()))
            gained = road(chances, item.pixels[None], label, one.maps, seed=seed).combined[0]
            share = float(one.maps.astype(np.float64).mean())
            expected["coherency"].append(coherent)
            expected["adcc"].append(oracle.adcc(coherent, share, lost))
            expected["arcc"].append(oracle.arcc(coherent, share, gained))
        figures = found.figures[name]
        for metric, values in expected.items():
            assert figures[metric]["value"] == pytest.approx(np.mean(values), abs=1e-5), (name, metric)
            assert (figures[metric]["counted"], figures[metric]["undefined"]) == (5, 0)
    # a pass for the image; for each method one for its masked image, whose answer serves the drop, and eight
    # for what ROAD removes
    assert found.results["passes"] == 5 * (1 + 2 * (1 + 8)) + 1


def test_what_a_map_of_zeros_has(tmp_path: Path) -> None:
    """Nothing is positive behind the first layer for a black image: its map says nothing of any pixel."""
    engine = camrt.load(colour_model(tmp_path / "colours.onnx"), preprocessing=PREPROCESSING, batch_size=4)
    black = np.full((3, SIDE, SIDE), -2, np.float32)
    square = np.zeros_like(black)
    square[:, 6:22, 9:25] = np.array([2, -2, -2], np.float32)[:, None, None]
    block = [PreparedSample(f"{n}.png", None, image, (), ()) for n, image in enumerate((black, square))]
    asked = [name for name, metric in METRICS.items() if metric.of == "predicted" and name != "mu"]
    plan = MeasurementPlan(
        engine, {"gradcam": make_method("gradcam", {})}, tuple(asked), Settings(step=500), (SIDE, SIDE)
    )
    measured = measure_block(plan, block)
    empty, full = measured.maps
    without = {"coherency", "adcc", "arcc", "sparseness", "complexity", "sensitivity"}
    assert {name for name in asked if empty[name] is None} == without
    assert not {name for name in asked if full[name] is None}
    figures = summarise(plan, [measured]).figures()["gradcam"]
    for name in asked:
        assert (figures[name]["counted"], figures[name]["undefined"]) == (
            (1, 1) if name in without else (2, 0)
        ), name


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of tensors given to NumPy, there
def test_the_same_as_pytorch_grad_cam(monkeypatch: pytest.MonkeyPatch) -> None:
    import_peer("pytorch_grad_cam")
    import torch
    from pytorch_grad_cam.metrics.arcc import ARCC, Coherency, Complexity

    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    rng = np.random.default_rng(4)
    images = rng.standard_normal((2, 3, 10, 15)).astype(np.float32)
    maps = (rng.permutation(300).reshape(2, 10, 15) / 300).astype(np.float32)
    again = (rng.permutation(300).reshape(2, 10, 15) / 300).astype(np.float32)
    again[0] = 0.7 * maps[0] + 0.1 * again[0]
    weights = rng.standard_normal((2, 450)).astype(np.float32)
    weights[0] = (maps[0] * images[0]).ravel()

    def scores(batch: Any) -> Any:
        values = batch.reshape(len(batch), -1) @ weights.T.astype(batch.dtype)
        return 1 / (1 + np.exp(-values / 8))

    def model(batch: Any) -> Any:
        return torch.from_numpy(scores(batch.numpy()))

    def method(input_tensor: Any, targets: Any) -> Any:
        assert torch.equal(input_tensor, torch.from_numpy(images * maps[:, None]))
        return again

    targets = [lambda output: output[0], lambda output: output[1]]
    asked = (torch.from_numpy(images), maps, targets, model)
    mine = coherency(maps, again)
    assert mine == pytest.approx(Coherency()(*asked, method), abs=1e-5)
    assert mean_saliency(maps) == pytest.approx(Complexity()(maps), abs=1e-6)
    gained = road(scores, images, [0, 1], maps, noise=0.0).combined
    assert gained.max() > 0.02  # so that the mean is not 0
    theirs = ARCC(method)(*asked)
    assert arcc(mine, mean_saliency(maps), gained) == pytest.approx(theirs, abs=1e-4)
