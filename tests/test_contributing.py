"""The examples of CONTRIBUTING.md are real: each is taken out of it, put in its place and used."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

import camrt
from camrt.engine import cuts
from camrt.engine.head_making import make_head
from camrt.engine.methods import METHODS
from camrt.errors import CutError, MethodError
from camrt.evaluation.suite import METRICS, Metric
from camrt.export.adjoint.registry import RULES
from helpers.annotated_images import COLOURS, PREPROCESSING, boxed_squares, colour_model
from helpers.oracles.classifiers import SmallClassifier, classifier
from helpers.oracles.gradients import numeric_gradient
from helpers.tolerances import assert_close

ROOT = Path(__file__).parents[1]
METRIC_ENTRY = "evaluation/suite/metric_registry.py, METRICS"
pytestmark = pytest.mark.skipif(
    not (ROOT / "CONTRIBUTING.md").exists(), reason="the tests are not beside CONTRIBUTING.md"
)


def block(file: str) -> str:
    """The block of CONTRIBUTING.md that begins with the name of a file."""
    _, _, rest = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition(f"\n# {file}\n")
    text, fence, _ = rest.partition("```\n")
    assert fence, f"CONTRIBUTING.md has no example of {file}"
    return text


def example(file: str, folder: Path, replace: tuple[str, str] = ("", "")) -> ModuleType:
    """That block, imported."""
    text = block(file)
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
    formula = example("evaluation/metrics/outside.py", tmp_path).outside
    entry = eval(f"{{{block(METRIC_ENTRY)}}}", {"Metric": Metric, "outside": formula})
    monkeypatch.setitem(METRICS, "outside", entry["outside"])
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


IN_ITS_PLACE = """
import sys
sys.meta_path[:] = [one for one in sys.meta_path if not type(one).__module__.startswith("_editable")]
sys.path.insert(0, sys.argv[1])
import numpy as np
import camrt
from camrt.evaluation.suite import METRICS
from camrt.export.adjoint.rules import activations
from camrt.export.adjoint.registry import RULES
from camrt.kernels.map_means import map_means

assert camrt.__file__.startswith(sys.argv[1]), camrt.__file__
assert "mean-gradient" in camrt.methods()
assert METRICS["outside"].measure(np.array([[1.0, 3.0]]), np.array([[True, False]])) == 0.75
assert RULES["", "Softsign"] is activations._softsign
assert map_means(np.ones((2, 3, 4))).tolist() == [1.0, 1.0]
engine = camrt.load(sys.argv[2], target="activation", cache=False)
assert engine.head.kind == "unbiased"
print(engine.explain(np.ones((1, *map(int, sys.argv[3:])), np.float32), "mean-gradient").raw.shape)
"""


def copy_package(folder: Path) -> Path:
    """The installed package, all its files as links in a folder."""
    import camrt.kernels._native as native

    skip = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    shutil.copytree(Path(camrt.__file__).parent, folder, ignore=skip, copy_function=os.symlink)
    for room in ("engine", "evaluation", "export", "kernels", "training"):
        package = importlib.import_module(f"camrt.{room}")
        if not (folder / room).exists():
            shutil.copytree(Path(package.__path__[0]), folder / room, ignore=skip, copy_function=os.symlink)
    assert native.__file__ is not None
    (folder / "kernels" / Path(native.__file__).name).symlink_to(native.__file__)
    return folder


def put_in_place(package: Path, file: str, *examples: str, replace: tuple[str, str] = ("", "")) -> None:
    """Writes a file of the package anew: what was there, changed, and then examples."""
    path = package / file
    text = path.read_text("utf-8") if path.exists() else ""
    assert replace[0] in text, (file, replace)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(
        "\n\n".join([text.replace(*replace) if replace[0] else text, *map(block, examples)]), "utf-8"
    )


def test_all_of_them_in_their_places(tmp_path: Path) -> None:
    package = copy_package(tmp_path / "camrt")
    first = "from __future__ import annotations\n"
    for file in (
        "engine/methods/mean_gradient.py",
        "engine/heads/unbiased.py",
        "evaluation/metrics/outside.py",
    ):
        put_in_place(package, file, file)
    listed = '"meangradient": ".mean_gradient:MeanGradient"'
    opening = "METHODS: dict[str, str] = {\n"
    put_in_place(package, "engine/methods/__init__.py", replace=(opening, f"{opening}    {listed},\n"))
    put_in_place(package, "export/adjoint/rules/activations.py", "export/adjoint/rules/activations.py")
    put_in_place(package, "kernels/map_means/__init__.py", "kernels/map_means/__init__.py")
    for file, replace, imported in (
        (
            "engine/head_making.py",
            ("return GenericHead(", "return UnbiasedHead("),
            "engine.heads.unbiased import UnbiasedHead",
        ),
        (
            "evaluation/suite/metric_registry.py",
            ("\n}\n", f"\n{block(METRIC_ENTRY)}}}\n"),
            "evaluation.metrics.outside import outside",
        ),
    ):
        put_in_place(package, file, replace=replace)
        put_in_place(package, file, replace=(first, f"{first}from camrt.{imported}\n"))
    small = classifier("generic", trunk="convolve")
    for tensor in small.model.graph.initializer:
        if tensor.name == "bias":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), "bias"))
    words = [tmp_path, small.save(tmp_path), *small.image]
    done = subprocess.run(
        [sys.executable, "-c", IN_ITS_PLACE, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, ")
