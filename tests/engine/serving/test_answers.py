"""Answers of requests that are worked on together are those of separate calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import camrt
from camrt.engine.explanation import Explanation
from camrt.engine.methods import Method, make_method, methods
from camrt.engine.serving.questions import Answer
from camrt.engine.serving.requests import ExplainRequest
from camrt.engine.serving.scheduler import Scheduler
from camrt.errors import CamrtError
from helpers import zoo
from helpers.calm_models import calm_model
from helpers.few_passes import OF_TRANSFORMERS, PRODUCTS, short
from helpers.oracles.classifiers import HEADS, classifier
from helpers.tolerances import assert_close

SECONDS = 120.0
CELLS, IMAGE = (3, 5), (3, 5, 9)


def images_of(size: tuple[int, ...], count: int = 5) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, *size)).astype(np.float32)


def asked_together(scheduler: Scheduler, requests: list[ExplainRequest]) -> list[Answer | CamrtError]:
    """The answers to requests that come at one time, or the errors."""
    with scheduler._changed:
        futures = [scheduler.submit(request) for request in requests]
    errors = [future.exception(SECONDS) for future in futures]
    return [
        future.result() if error is None else error for future, error in zip(futures, errors, strict=True)
    ]


def asked_alone(engine: camrt.Engine, method: Method | None, rows: np.ndarray, targets: Any) -> Any:
    """The answer to a call of its own, or its error."""
    try:
        return engine.predict(rows) if method is None else engine.explain(rows, method, targets=targets)
    except CamrtError as error:
        return error


def close(found: Answer, expected: Answer) -> None:
    """Agreement of everything that other requests must not change."""
    if not isinstance(found, Explanation):
        assert_close(found, expected)
        return
    assert found.method == expected.method
    assert np.array_equal(found.targets, expected.targets)
    assert np.array_equal(found.flags, expected.flags)
    assert (found.uncertainty is None) == (expected.uncertainty is None)
    for name in ("logits", "probabilities", "scores"):
        assert_close(getattr(found, name), getattr(expected, name))
    # Differences of scores, which rounded otherwise in another batch.
    assert_close(found.raw, expected.raw, factor=4)
    assert_close(found.maps, expected.maps, factor=4)


def compare(engine: camrt.Engine, chosen: list[Method | None], size: tuple[int, ...]) -> None:
    """Asks each method about one image, another's class, and two images' classes, all at one time."""
    images, last = images_of(size), engine.num_classes - 1
    given = [(images[:1], None), (images[1:2], last), (images[2:3], 0), (images[3:], [[0, last], [last, 0]])]
    asked = [(method, rows, targets) for method in chosen for rows, targets in given]
    requests = [
        ExplainRequest(batch=engine.prepare(rows), method=method, targets=targets)
        for method, rows, targets in asked
    ]
    with Scheduler(engine, max_batch=8, queue=len(requests)) as scheduler:
        answers = asked_together(scheduler, requests)
    for (method, rows, targets), answer in zip(asked, answers, strict=True):
        expected = asked_alone(engine, method, rows, targets)
        if isinstance(expected, CamrtError) or isinstance(answer, CamrtError):
            assert (type(answer), str(answer)) == (type(expected), str(expected)), method
        else:
            close(answer, expected)


@pytest.mark.parametrize("head", HEADS)
def test_every_method(head: str, tmp_path: Path) -> None:
    engine = camrt.load(
        classifier(head, cells=CELLS, scale=1.0, trunk="convolve").save(tmp_path),
        target="activation",
        threads=1,
    )
    left_out = {*OF_TRANSFORMERS} | ({*PRODUCTS} - {"guided-pixab"} if head != HEADS[0] else set())
    compare(engine, [None, *(short(name) for name in methods() if name not in left_out)], IMAGE)


def test_a_calm_model(tmp_path: Path) -> None:
    engine = camrt.load(calm_model().save(tmp_path / "calm.onnx"), threads=1)
    compare(
        engine, [None, *(short(name) for name in ("calm", "pixab", "score", "gradcam", "cam"))], (3, 12, 8)
    )


@pytest.mark.parametrize("head", zoo.HEADS)
def test_every_head_of_the_zoo(head: str, tmp_path: Path) -> None:
    part = zoo.HEADS[head].make(np.random.default_rng(4), 4, 3, 4, 3)
    whole = zoo.classifier(part, np.random.default_rng(5))
    path = zoo.save(whole.model, tmp_path / "model.onnx")
    engine = camrt.load(path, target="A", threads=1, verify=False)
    compare(engine, [short(name) for name in ("pixab", "ablation", "gradcam", "score")], whole.size)


def test_a_file_of_a_fixed_batch_size(tmp_path: Path) -> None:
    part = zoo.HEADS["gap-flatten-gemm"].make(np.random.default_rng(4), 4, 3, 4, 3)
    whole = zoo.classifier(part, np.random.default_rng(5), batch=3)
    engine = camrt.load(zoo.save(whole.model, tmp_path / "model.onnx"), target="A", threads=1)
    compare(engine, [None, *(short(name) for name in ("pixab", "score", "gradcam"))], whole.size)


def test_a_module_of_torch() -> None:
    torch_nets = pytest.importorskip("helpers.torch_nets")
    torch = pytest.importorskip("torch")
    net = torch_nets.build_net(
        lambda: torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, stride=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(4, 4, 3),
            torch.nn.Tanh(),
            torch.nn.AdaptiveAvgPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(16, 3),
        )
    )
    engine = camrt.load(net, target="1", example=torch.zeros(1, 3, 12, 16))
    compare(engine, [None, *(short(name) for name in ("pixab", "score", "gradcam", "gradient"))], (3, 12, 16))


def test_images_keep_their_views_and_sizes(tmp_path: Path) -> None:
    engine = camrt.load("default", threads=1)
    drawn = np.random.default_rng(0).integers(0, 255, (3, 40, 50, 3), np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in drawn]
    pictures[2] = pictures[2].resize((70, 60))
    pixab = make_method("pixab", {})
    requests = [
        ExplainRequest(batch=engine.prepare(picture), method=pixab, size="original", top_k=2)
        for picture in pictures
    ]
    with Scheduler(engine) as scheduler:
        answers = asked_together(scheduler, requests)
    for picture, answer in zip(pictures, answers, strict=True):
        expected = engine.explain(picture, "pixab", size="original", top_k=2)
        assert isinstance(answer, Explanation)
        close(answer, expected)
        assert answer.maps.shape == (1, 2, picture.height, picture.width)
        assert answer.overlay(0).tobytes() == expected.overlay(0).tobytes()
