"""The same maps as other libraries make of the same weights and images, where they mean the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from helpers.oracles import postprocess
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close

pytestmark = pytest.mark.peers
CLASSES = 5
# Both sides round: two runtimes' convolutions, softmax or division, and an upsampling each.
FACTOR = 2


@dataclass(frozen=True)
class Pair:
    """One network as a torch module and as an engine, and images for both."""

    module: Any
    engine: camrt.Engine
    images: np.ndarray
    targets: list[int]

    @property
    def tensor(self) -> Any:
        import torch

        return torch.from_numpy(self.images)

    @property
    def activations(self) -> Any:
        """The target layer's output, (N, K, h, w)."""
        import torch

        with torch.no_grad():
            return self.module.rectify(self.module.features(self.tensor))


def network(flattened: bool) -> Any:
    """Two convolutions, an odd 4×5 map of 8 channels, and a head; every logit of the test is positive."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1)
            )
            self.rectify = nn.ReLU()
            self.head = (
                nn.Sequential(nn.Flatten(), nn.Linear(160, 10), nn.ReLU(), nn.Linear(10, CLASSES))
                if flattened
                else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
            )

        def forward(self, images: Any) -> Any:
            return self.head(self.rectify(self.features(images)))

    torch.manual_seed(3)
    made = Network().eval()
    with torch.no_grad():
        made.features[2].weight *= 3
        made.head[-1].weight *= 3
        made.head[-1].bias += 4
    return made


@pytest.fixture(scope="module", params=["pooled-linear", "flattened-network"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    module = network(request.param == "flattened-network")
    images = np.random.default_rng(1).normal(size=(4, 3, 15, 19)).astype(np.float32)
    path: Path = tmp_path_factory.mktemp("peers") / "network.onnx"
    with warnings.catch_warnings():
        # torch's exporter copies one of its own objects that its pytree module has deprecated.
        warnings.filterwarnings("ignore", message=r".*treespec.*", category=FutureWarning)
        torch.onnx.export(
            module,
            (torch.from_numpy(images),),
            path,
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
            verbose=False,
        )
    engine = camrt.load(path, threads=1)
    assert engine.head.kind == request.param
    assert engine.target.shape == (8, 4, 5)
    yield Pair(module, engine, images, [0, 3, 1, 4])
    torch.set_num_threads(threads)


def grad_cam(pair: Pair, name: str) -> Any:
    """A method of pytorch-grad-cam on the target layer."""
    return getattr(import_peer("pytorch_grad_cam"), name)(
        model=pair.module, target_layers=[pair.module.rectify]
    )


def outputs(targets: list[int]) -> list[Any]:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return [ClassifierOutputTarget(target) for target in targets]


def test_both_compute_the_same(pair: Pair) -> None:
    import torch

    with torch.no_grad():
        assert_close(pair.engine.predict(pair.images), pair.module(pair.tensor).numpy())
    found = pair.engine.explain(pair.images, "activation")
    assert_close(found.raw, pair.activations.numpy().sum(axis=1))


def test_score_cam_of_pytorch_grad_cam(pair: Pair) -> None:
    with grad_cam(pair, "ScoreCAM") as peer:
        expected = peer(input_tensor=pair.tensor, targets=outputs(pair.targets))
    options = {"definition": "grad-cam", "postprocess": "library"}
    found = pair.engine.explain(pair.images, "score", targets=pair.targets, **options)
    assert_close(found.maps, expected, factor=FACTOR)


def test_score_cam_of_torchcam(pair: Pair) -> None:
    """torchcam's maps are rectified, scaled min-max, and stay on the activation's grid."""
    peers = import_peer("torchcam.methods")
    import torch

    with peers.ScoreCAM(pair.module, pair.module.rectify, batch_size=7) as extractor, torch.no_grad():
        pair.module(pair.tensor)
        (expected,) = extractor(class_idx=pair.targets)
    options = {"definition": "torchcam", "normalisation": "minmax", "size": "map"}
    found = pair.engine.explain(pair.images, "score", targets=pair.targets, **options)
    assert_close(found.maps, expected.numpy(), factor=FACTOR)


@pytest.mark.parametrize("name", ["SSCAM", "ISCAM"])
def test_averaged_score_cams_of_torchcam(pair: Pair, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SS-CAM on the same noise: torchcam draws another for each channel and image."""
    peers = import_peer("torchcam.methods")
    import torch

    options = {"num_samples": 3, **({"std": 0.5} if name == "SSCAM" else {})}
    with getattr(peers, name)(pair.module, pair.module.rectify, batch_size=7, **options) as extractor:
        if name == "SSCAM":
            noise = (
                0.5 * np.random.default_rng([0, draw]).standard_normal((15, 19), np.float32)
                for draw in range(3)
            )
            monkeypatch.setattr(
                extractor._distrib, "sample", lambda shape: torch.from_numpy(next(noise)).expand(shape)
            )
        with torch.no_grad():
            pair.module(pair.tensor)
            (expected,) = extractor(class_idx=pair.targets)
    own = {"draws": 3, **({"noise": 0.5} if name == "SSCAM" else {})}
    found = pair.engine.explain(
        pair.images,
        name,
        targets=pair.targets,
        definition="torchcam",
        normalisation="minmax",
        size="map",
        **own,
    )
    assert_close(found.maps, expected.numpy(), factor=2 * FACTOR)  # exponentials of larger logits


def test_cam_of_torchcam(pair: Pair) -> None:
    """torchcam leaves the bias out and does not rectify: min-max, neither shows."""
    peers = import_peer("torchcam.methods")
    import torch

    if pair.engine.head.kind != "pooled-linear":
        pytest.skip("CAM needs a linear layer behind global pooling")
    with peers.CAM(pair.module, pair.module.rectify, fc_layer="head.2") as extractor, torch.no_grad():
        pair.module(pair.tensor)
        (scaled,) = extractor(class_idx=pair.targets)
        (plain,) = extractor(class_idx=pair.targets, normalized=False)
        bias = pair.module.head[2].bias[pair.targets].numpy()
    found = pair.engine.explain(pair.images, "cam", targets=pair.targets, normalisation="minmax", size="map")
    assert_close(found.maps, scaled.numpy(), factor=FACTOR)
    assert_close(found.raw - bias[:, None, None], plain.numpy(), factor=FACTOR)


def ablation_weights(pair: Pair, targets: list[int]) -> np.ndarray:
    with grad_cam(pair, "AblationCAM") as peer:
        return peer.get_cam_weights(
            pair.tensor, pair.module.rectify, outputs(targets), pair.activations.numpy(), None
        )


def test_ablation_cam_of_pytorch_grad_cam(pair: Pair) -> None:
    """It zeroes a channel only where the activation's minimum is exactly 0, and divides by the score itself.

    So it is the paper's behind a ReLU and for positive scores. Elsewhere it writes min − 1e7 into the
    channel, each time less than before: there is nothing to compare with.
    """
    assert all(float(one.min()) == 0 for one in pair.activations)
    assert (pair.engine.predict(pair.images)[np.arange(4), pair.targets] > 0).all()
    with grad_cam(pair, "AblationCAM") as peer:
        expected = peer(input_tensor=pair.tensor, targets=outputs(pair.targets))
    found = pair.engine.explain(pair.images, "ablation", targets=pair.targets, postprocess="library")
    assert_close(found.maps, expected, factor=3 * FACTOR)  # differences of logits
    activations = pair.activations.numpy().astype(np.float64)
    raw = np.einsum("nk,nkij->nij", ablation_weights(pair, pair.targets), activations)
    assert_close(found.raw, raw, factor=3 * FACTOR)


def test_ablation_cam_of_a_negative_logit(pair: Pair) -> None:
    """Dividing by a negative score, pytorch-grad-cam turns every weight around; camrt divides by |Y|."""
    import torch

    with torch.no_grad():
        pair.module.head[-1].bias -= 40
    try:
        weights = ablation_weights(pair, pair.targets)
        with torch.no_grad():
            logits = pair.module(pair.tensor).numpy()
    finally:
        with torch.no_grad():
            pair.module.head[-1].bias += 40
    scores = logits[np.arange(4), pair.targets]
    assert (scores < 0).all()
    found = pair.engine.explain(pair.images, "ablation", targets=pair.targets)
    raw = np.einsum("nk,nkij->nij", weights * -np.abs(scores)[:, None], pair.activations.numpy())
    # Its logits of magnitude 40 differ by a few: they lose tens of epsilons of that.
    assert_close(found.raw * found.scores[:, None, None], raw, factor=20)


def test_eigen_cam_of_pytorch_grad_cam(pair: Pair) -> None:
    """It centres the columns and leaves the sign to LAPACK; the map is the same up to that."""
    with grad_cam(pair, "EigenCAM") as peer:
        expected = peer(input_tensor=pair.tensor, targets=outputs(pair.targets))
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    projected = get_2d_projection(pair.activations.numpy())
    found = pair.engine.explain(pair.images, "eigen", targets=pair.targets, postprocess="library")
    for i in range(4):
        sign = np.sign((projected[i] * found.raw[i]).sum())
        assert_close(sign * found.raw[i], projected[i], factor=FACTOR)
        upright = found.maps[i] if sign > 0 else postprocess.library(-found.raw[i], (15, 19))
        assert_close(upright, expected[i], dtype=np.float32, factor=FACTOR)
