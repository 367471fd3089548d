"""The examples of CONTRIBUTING.md are real: each is taken out of it, put in its place and used."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

import camrt
from camrt.engine import cuts
from camrt.engine.cuts import make_head
from camrt.engine.methods import METHODS
from camrt.errors import CutError, MethodError
from camrt.evaluation.suite import METRICS
from camrt.export.adjoint.registry import RULES
from helpers.annotated_images import COLOURS, PREPROCESSING, boxed_squares, colour_model
from helpers.oracles.classifiers import SmallClassifier, classifier
from helpers.oracles.gradients import numeric_gradient
from helpers.tolerances import assert_close

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "CONTRIBUTING.md").exists(), reason="the tests are not beside CONTRIBUTING.md"
)


def example(file: str, folder: Path, replace: tuple[str, str] = ("", "")) -> ModuleType:
    """The block of CONTRIBUTING.md that begins with the name of a file, imported."""
    _, _, rest = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition(f"```python\n# {file}\n")
    text, fence, _ = rest.partition("```\n")
    assert fence, f"CONTRIBUTING.md has no example of {file}"
    assert replace[0] in text
    path = folder / Path(file.removesuffix("/__init__.py")).with_suffix(".py").name
    path.write_text(text.replace(*replace) if replace[0] else text, "utf-8")
    name = f"example_{folder.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(small: SmallClassifier, folder: Path) -> camrt.Engine:
    return camrt.load(small.save(folder), target="activation")


def test_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = example("engine/methods/mean_gradient.py", tmp_path).MeanGradient
    (tmp_path / "oracle").mkdir()
    oracle = example("tests/helpers/oracles/mean_gradient.py", tmp_path / "oracle").mean_gradient
    monkeypatch.setitem(METHODS, "meangradient", f"{method.__module__}:{method.__name__}")
    small = classifier("flattened-linear", trunk="convolve")
    images = np.random.default_rng(0).normal(size=(2, *small.image)).astype(np.float32)
    found = load(small, tmp_path).explain(images, "mean-gradient", targets=1)
    scores = small.scores("logit")
    for image, raw in zip(images, found.raw, strict=True):
        gradient = numeric_gradient(lambda a: scores(a)[1], small.activation(image))
        assert_close(raw, oracle(gradient), factor=8)


def test_a_method_that_does_not_say_what_it_needs(tmp_path: Path) -> None:
    method = example("engine/methods/mean_gradient.py", tmp_path, ("{Need.GRADIENTS}", "")).MeanGradient
    small = classifier("flattened-linear", trunk="convolve")
    images = np.zeros((1, *small.image), np.float32)
    with pytest.raises(
        MethodError, match=r"asks for gradients .*: add Need.GRADIENTS to the `needs` of its class"
    ):
        load(small, tmp_path).explain(images, method())


def test_a_method_that_says_it_has_the_images_grid(tmp_path: Path) -> None:
    wrong = ("{Need.GRADIENTS}", "{Need.GRADIENTS, Need.PIXELS}")
    method = example("engine/methods/mean_gradient.py", tmp_path, wrong).MeanGradient
    small = classifier("flattened-linear", trunk="convolve")
    images = np.zeros((1, *small.image), np.float32)
    with pytest.raises(
        MethodError, match=r"mean-gradient: raw maps are .* Need.PIXELS belongs to the `needs` of a"
    ):
        load(small, tmp_path).explain(images, method())


@pytest.mark.parametrize("biased", [False, True], ids=["unbiased", "biased"])
def test_a_head_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, biased: bool) -> None:
    head = example("engine/heads/unbiased.py", tmp_path).UnbiasedHead
    small = classifier("generic", trunk="convolve")
    for tensor in small.model.graph.initializer:
        if tensor.name == "bias" and not biased:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), "bias"))
    images = np.random.default_rng(0).normal(size=(2, *small.image)).astype(np.float32)
    expected = load(small, tmp_path).explain(images, "pixab")

    def make_unbiased(*args: Any, **kwargs: Any) -> Any:
        made = make_head(*args, **kwargs)
        made.__class__ = head
        return made

    monkeypatch.setattr(cuts, "make_head", make_unbiased)
    if biased:
        with pytest.raises(CutError, match=r"does not answer what its parts answer .empty activation"):
            load(small, tmp_path)
        return
    engine = load(small, tmp_path)
    assert engine.head.kind == "unbiased"
    assert_close(engine.explain(images, "pixab").raw, expected.raw)


def test_a_rule_of_the_adjoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="rules are compared with torch's autograd")
    from helpers.adjoint_cases import AdjointCase, check_adjoint, node, random_with_corners

    monkeypatch.setitem(RULES, ("", "Softsign"), None)
    rule = example("export/adjoint/rules/activations.py", tmp_path)._softsign
    assert RULES["", "Softsign"] is rule
    nodes = [node("Softsign", "x", "y")]
    check_adjoint(AdjointCase(nodes, torch.nn.functional.softsign, values=random_with_corners))


def test_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "outside", example("evaluation/metrics/outside.py", tmp_path).OUTSIDE)
    colour_model(tmp_path / "colours.onnx")
    boxed_squares(tmp_path / "squares", 3)
    engine = camrt.load(tmp_path / "colours.onnx", preprocessing=PREPROCESSING, labels=COLOURS)
    figures = engine.evaluate(tmp_path / "squares", ["gradcam"], metrics=["outside", "energy"]).figures
    outside, energy = (figures["gradcam"][name] for name in ("outside", "energy"))
    assert outside["value"] == pytest.approx(100 - energy["value"])
    assert outside["counted"] == energy["counted"] > 0


def test_a_kernel(tmp_path: Path) -> None:
    kernel = example("kernels/map_means/__init__.py", tmp_path).map_means
    maps = np.random.default_rng(0).random((3, 4, 5))
    assert np.array_equal(kernel(maps), maps.mean(axis=(1, 2)))
    with pytest.raises(ValueError, match="maps"):
        kernel(maps[0])
    torch = pytest.importorskip("torch", reason="the kernel is called with tensors too")
    found = kernel(torch.from_numpy(maps))
    assert torch.is_tensor(found)
    assert np.array_equal(found.numpy(), kernel(maps))
