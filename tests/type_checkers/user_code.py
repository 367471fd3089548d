"""What users of camrt write: type checkers look at it, see `test_user_code.py`, and nothing runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import camrt
from camrt.evaluation.papers import reproduce

Array = npt.NDArray[Any]


def arrays_in_arrays_out(engine: camrt.Engine, batch: npt.NDArray[np.float32]) -> None:
    explanation = engine.explain(batch, "pixab", targets=[1, 2], size="map")
    assert_type(explanation, camrt.Explanation[Array])
    assert_type(explanation.maps, Array)
    assert_type(explanation.on_original(0), npt.NDArray[np.float32])
    assert_type(engine.explain_all(batch, ["pixab", "gradcam"]), tuple[camrt.Explanation[Array], ...])
    logits = engine.predict(batch)
    assert_type(logits, Array)
    assert_type(engine.probabilities(logits), Array)
    assert_type(engine.channel_weights(batch, "gradcam", top_k=2), tuple[Array, Array])
    assert_type(engine.concepts(batch, 3).maps, Array)
    assert_type(engine.input_gradients(batch, np.ones_like(logits)), tuple[Array, Array])
    assert_type(engine.input_gradients(batch, np.square), tuple[Array, Array])


def images_in_arrays_out(engine: camrt.Engine, image: Image.Image, pixels: npt.NDArray[np.uint8]) -> None:
    for explanation in (
        engine.explain("cat.jpg"),
        engine.explain(Path("cat.jpg")),
        engine.explain(image, "scorecam"),
        engine.explain([pixels, image, "cat.jpg", Path("dog.png"), b"\x89PNG"], top_k=3),
        engine.explain([Path("cat.jpg")]),
    ):
        assert_type(explanation, camrt.Explanation[Array])
    with Path("cat.jpg").open("rb") as file:
        assert_type(engine.predict(file), Array)


def tensors_in_tensors_out(engine: camrt.Engine, batch: torch.Tensor) -> None:
    explanation = engine.explain(batch, "gradcam", fuse="max")
    assert_type(explanation, camrt.Explanation[torch.Tensor])
    assert_type(explanation.maps, torch.Tensor)
    assert_type(explanation.numpy(), camrt.Explanation[Array])
    assert_type(engine.explain_all(batch, ["pixab"])[0].raw, torch.Tensor)
    logits = engine.predict(batch)
    assert_type(logits, torch.Tensor)
    assert_type(engine.probabilities(logits), torch.Tensor)
    assert_type(engine.channel_weights(batch)[0], torch.Tensor)
    assert_type(engine.concepts(batch).vectors, torch.Tensor)
    assert_type(engine.input_gradients(batch, lambda answer: answer.softmax(1))[1], torch.Tensor)


def tensors_drawn(explanation: camrt.Explanation[torch.Tensor]) -> Image.Image:
    explanation.maps.cpu()
    return explanation.overlay(0)


def parts_without_imports_of_their_own(engine: camrt.Engine, maps: Array) -> None:
    assert_type(camrt.load("default"), camrt.Engine)
    assert_type(camrt.default.model_path(), Path)
    camrt.evaluation.datasets.read_dataset("images", labels=None, num_classes=5)
    camrt.evaluation.pxap(maps, maps)
    camrt.training.with_head(torch.nn.Identity(), "calm", 200)
    reproduce("pixab-5", engine, "images")
    found = engine.evaluate("images", ["cam"], "all", settings=camrt.evaluation.Settings(limit=2))
    assert_type(found.figures["cam"]["drop"], dict[str, Any])


def mistakes(engine: camrt.Engine, batch: npt.NDArray[np.float32], tensor: torch.Tensor) -> None:
    camrt.anything_misspelt()  # type: ignore[attr-defined]
    camrt.evaluation.anything_misspelt()  # type: ignore[attr-defined]
    camrt.evaluation.papers.anything_misspelt()  # type: ignore[attr-defined]
    camrt.training.anything_misspelt()  # type: ignore[attr-defined]
    engine.explain(batch).maps.cuda()  # type: ignore[attr-defined]
    engine.explain(tensor).maps.cuda().misspelt()  # type: ignore[attr-defined]
    engine.explain(batch).map.max()  # type: ignore[attr-defined]
    engine.explain(42)  # type: ignore[call-overload]
    engine.explain(batch, size="large")  # type: ignore[call-overload]
    engine.evaluate("images", settings={"limit": 2})  # type: ignore[arg-type]
    engine.explain_all(batch, ["pixab"], definition="grad-cam")  # type: ignore[call-overload]
    explanation: camrt.Explanation[torch.Tensor] = engine.explain(batch)  # type: ignore[assignment]
    tensors_drawn(explanation)
