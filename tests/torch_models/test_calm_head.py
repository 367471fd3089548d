"""CAM and CALM classifiers in torch and as the files they are written to: the same maps by every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnxruntime  # noqa: E402

import camrt  # noqa: E402
from camrt.engine.torch_models.to_onnx import to_onnx  # noqa: E402
from camrt.errors import MethodError  # noqa: E402
from camrt.training.classifier import Classifier, with_head  # noqa: E402
from camrt.training.heads import CALMHead  # noqa: E402
from camrt.training.small_network import TinyNetwork  # noqa: E402
from helpers.few_passes import FEW_PASSES, OF_FILES_WITH_LOGITS, OF_TRANSFORMERS  # noqa: E402

LABELS = ("ant", "bee", "cow", "dog")
# As in test_parity: fewer steps, since rounding grows with each.
OPTIONS: dict[str, dict[str, Any]] = {
    "opticam": {"steps": 3},
    "integrated": {"steps": 3},
    "integrated-textbook": {"steps": 3},
    "smoothgrad": {"draws": 3},
    "vargrad": {"draws": 3},
    **FEW_PASSES,
}


def classifier(head: Any, **options: bool) -> Classifier:
    torch.manual_seed(0)
    made = with_head(TinyNetwork(2), head, 4, size=(32, 32), **options)
    with torch.no_grad():  # maps that differ from place to place, and some running statistics
        for parameter in made.head.parameters():
            parameter.copy_(torch.randn_like(parameter))
        made.train()(torch.randn(8, 3, 32, 32))
    return made.eval()


def batch(height: int = 32, width: int = 32) -> Any:
    return np.random.default_rng(0).standard_normal((3, 3, height, width)).astype(np.float32)


@pytest.fixture(scope="module", params=["cam", "calm", "calm-reference"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    kind, _, form = request.param.partition("-")
    made = classifier(kind, **({"reference": True} if form else {}))
    path = tmp_path_factory.mktemp("files") / "model.onnx"
    steps = camrt.Preprocessing.named("imagenet-squash", (32, 32))
    to_onnx(
        made,
        batch(),
        path,
        labels=LABELS,
        preprocessing=steps,
        dynamic_size=True,
        provenance={"data": "noise"},
    )
    return made, path


def test_the_same_maps_from_the_module_and_its_file(pair: tuple[Any, Path]) -> None:
    made, path = pair
    live, file = camrt.load(made, size=(32, 32), labels=LABELS), camrt.load(path)
    calm = isinstance(made.head, CALMHead)
    assert live.target.name == "trunk"
    assert file.target.shape == live.target.shape
    assert np.abs(live.predict(batch()) - file.predict(batch())).max() < 1e-5
    for method in camrt.methods():
        without = ("cam" if calm else "calm", *OF_FILES_WITH_LOGITS, *OF_TRANSFORMERS)
        if method.removeprefix("guided-") in without:
            continue
        mine, theirs = (engine.explain(batch(), method, **OPTIONS.get(method, {})) for engine in (live, file))
        scale = np.abs(theirs.raw).max()
        assert np.abs(mine.raw - theirs.raw).max() <= 2e-4 * scale, method
        assert np.abs(mine.scores - theirs.scores).max() <= 1e-5 * np.abs(theirs.scores).max(), method
    if calm:
        for kind in ("conditional", "posterior", "saliency", "subset", "counterfactual"):
            mine, theirs = (engine.explain(batch(), "calm", kind=kind) for engine in (live, file))
            assert np.abs(mine.raw - theirs.raw).max() <= 1e-5 * np.abs(theirs.raw).max()
        assert np.abs(theirs.probabilities.sum(axis=1) - 1).max() < 1e-6
        with torch.no_grad():
            joint = made.maps(torch.from_numpy(batch())).exp().numpy()
        chosen = joint[np.arange(3), theirs.targets]
        assert np.abs(file.explain(batch(), "calm").raw - chosen).max() < 1e-6


def test_what_the_file_holds(pair: tuple[Any, Path]) -> None:
    made, path = pair
    model = onnx.load(path)
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert said["camrt.labels"] == list(LABELS)
    assert said["camrt.provenance"] == {"data": "noise"}
    assert said["camrt.preprocessing"]["size"] == [32, 32]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"input": batch(48, 40)}), strict=True))
    if isinstance(made.head, CALMHead):
        assert said["camrt.head"]["kind"] == "calm"
        assert names == ["probabilities", "log_joint", "place_probabilities"]
        joint = np.exp(found["log_joint"].astype(np.float64))
        assert joint.shape == (3, 4, 6, 5)
        assert found["place_probabilities"].shape == (3, 1, 6, 5)
        assert np.abs(joint.sum(axis=(1, 2, 3)) - 1).max() < 1e-5
        assert np.abs(joint.sum(axis=(2, 3)) - found["probabilities"]).max() < 1e-5
        assert np.abs(joint.sum(axis=1, keepdims=True) - found["place_probabilities"]).max() < 1e-5
    else:
        assert said["camrt.head"]["kind"] == "cam"
        assert names == ["logits", "class_maps"]
        assert np.abs(found["class_maps"].mean(axis=(2, 3)) - found["logits"]).max() < 1e-5


def test_other_sizes(pair: tuple[Any, Path]) -> None:
    _, path = pair
    engine = camrt.load(path)
    method = "calm" if engine.has_joint else "cam"
    assert engine.explain(batch(48, 40), method).raw.shape == (3, 6, 5)


def test_a_head_whose_answer_is_changed_is_no_calm_model() -> None:
    made = classifier("calm")

    class Sharpened(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = made

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 2 * self.inner(images)

    engine = camrt.load(Sharpened(), size=(32, 32))
    with pytest.raises(MethodError, match="needs a CALM model"):
        engine.explain(batch(), "calm")


def test_the_module_is_left_as_it_was() -> None:
    made = classifier("calm")
    engine = camrt.load(made, size=(32, 32))
    engine.explain(batch(), "calm")
    assert not any(part._forward_hooks for part in made.modules())


def test_a_cut_with_convolutions_behind_it_runs_the_head(tmp_path: Path) -> None:
    path = tmp_path / "calm.onnx"
    to_onnx(classifier("calm"), batch(), path)
    whole = camrt.load(path)
    assert whole.head.kind == "calm"
    early = next(target for target in whole.targets() if target.clean)
    assert camrt.load(path, target=early.name).head.kind == "generic"
