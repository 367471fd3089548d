"""`camrt evaluate walls --theory`: statements beside the specification's formulas, files, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.errors import ImageError, InputError
from camrt.evaluation.dead_zone import theory
from camrt.evaluation.dead_zone.narrow_vgg import paper_dead_rows, save_narrow_vgg
from camrt.evaluation.dead_zone.one_layer_cnn import OneLayerCNN, extract_patches
from camrt.evaluation.dead_zone.statements import STATEMENT_CHECKS, Statement, TheoryInputs
from camrt.evaluation.dead_zone.theory import TheorySettings, measure_theory
from helpers.oracles import one_layer as oracle

QUICK = TheorySettings(filters=24, draws=400)


@pytest.fixture(scope="module")
def measured() -> theory.TheoryResult:
    return measure_theory(QUICK)


def value(found: theory.TheoryResult, words: str) -> Statement:
    (statement,) = [one for one in found.statements if words in one.text]
    return statement


# ---------------------------------------------------------------- Definition 1, Proposition 2


@pytest.mark.parametrize("widths", [(3,), (6, 2), (6, 5, 2)])
def test_runs_alone_give_the_weights_of_proposition_2(widths: tuple[int, ...]) -> None:
    network = OneLayerCNN.random((9, 9), 5, 2, 2, widths, seed=3).mask_lower(2)
    xi = np.random.default_rng(1).random((9, 9))
    for target in range(widths[-1]):
        found = network.difference_weights(xi, target)
        np.testing.assert_allclose(found, network.closed_form_weights(xi, target), rtol=1e-11, atol=1e-13)
    alpha, _ = oracle.grad_cam(network.filters, 2, network.weights, xi)
    np.testing.assert_allclose(
        network.difference_weights(xi), alpha, atol=1e-7
    )  # its differences are of 1e-6


def test_a_unit_at_zero_has_no_derivative() -> None:
    weights = (np.zeros((1, 8)), np.ones((1, 1)))
    weights[0][0, 0] = 1
    with pytest.raises(InputError, match="a unit of a dense layer is exactly 0"):
        OneLayerCNN(np.ones((2, 2, 2)), 2, weights, (5, 5)).difference_weights(np.zeros((5, 5)))
    with pytest.raises(InputError, match="not one of the 1 outputs"):
        OneLayerCNN(np.ones((2, 2, 2)), 2, weights, (5, 5)).difference_weights(np.ones((5, 5)), 1)


@pytest.mark.parametrize(("side", "seen"), [(5, 3), (9, 5), (29, 15)])
def test_the_rows_that_are_seen(side: int, seen: int) -> None:
    """Specification D1: of 29 rows 15 to 28 are unseen; of 9 those from 5 on."""
    subject = TheorySettings(filters=8, side=side, draws=2).make_inputs()
    (rows,) = [
        one for one in STATEMENT_CHECKS["Proposition 2"](subject) if one.text.startswith("rows of the image")
    ]
    assert (rows.theory, rows.value, rows.holds) == (seen, seen, True)


# ---------------------------------------------------------------- Theorem 3


def constant(V: int) -> float:
    """c_V of the specification, term by term."""
    return sum(
        math.comb(V, m) / 2**V * math.sqrt(2) * math.gamma((m + 1) / 2) / math.gamma(m / 2)
        for m in range(1, V + 1)
    )


def test_the_expectations_are_the_specifications(measured: theory.TheoryResult) -> None:
    xi, V = QUICK.make_inputs().xi, QUICK.filters
    norms = np.sqrt((extract_patches(xi, 2) ** 2).sum(axis=(2, 3)))
    expected = norms * constant(V) / (2 * math.sqrt(math.pi) * 4 * math.sqrt(16))
    bound = norms * math.sqrt(V) * (1 - 20 / V) / (4 * math.sqrt(math.pi) * 4 * math.sqrt(16))
    assert value(measured, "c_V").theory == pytest.approx(constant(V), rel=1e-12)
    share = value(measured, "share of the mean")
    assert share.theory == pytest.approx(expected[4:].sum() / expected.sum(), rel=1e-12)
    least = value(measured, "least mean")
    assert f"{bound.max() / expected.max():.3f} of E[GC]" in least.text
    maps = drawn_maps(xi, V)
    mean = maps.mean(axis=0)
    alive = norms > 0
    assert (~alive).sum() == 4
    assert least.value == pytest.approx((mean[alive] / bound[alive]).min(), rel=1e-9)
    for words, places in (("all places", alive), ("masked half", alive & (np.arange(8) >= 4)[:, None])):
        ratios = (maps[:, places] / expected[places]).mean(axis=1)
        (found,) = [one for one in measured.statements if one.text == f"mean Grad-CAM / E[GC], {words}"]
        assert found.value == pytest.approx(ratios.mean(), rel=1e-9)
        assert found.error == pytest.approx(ratios.std(ddof=1) / math.sqrt(QUICK.draws), rel=1e-9)
    lower, whole = maps[:, 4:].sum(axis=(1, 2)), maps.sum(axis=(1, 2))
    assert share.value == pytest.approx(lower.sum() / whole.sum(), rel=1e-9)
    # Leaving one network out at a time is another way to the error of a ratio.
    left = (lower.sum() - lower) / (whole.sum() - whole)
    jackknife = math.sqrt((len(left) - 1) * ((left - left.mean()) ** 2).mean())
    assert share.error == pytest.approx(jackknife, rel=0.02)
    assert value(measured, "patches of zeros").value == 0


def drawn_maps(xi: Any, V: int) -> Any:
    """The same networks, their maps by loops over filters."""
    rng = np.random.default_rng(QUICK.seed)
    filters = rng.standard_normal((QUICK.draws, V, 4))
    alpha = rng.standard_normal((QUICK.draws, V, 8)).sum(axis=2) / 64
    flat = extract_patches(xi, 2).reshape(64, 4)
    summed = np.zeros((QUICK.draws, 64))
    for v in range(V):
        summed += alpha[:, v, None] * np.maximum(filters[:, v] @ flat.T, 0)
    return np.maximum(summed, 0).reshape(QUICK.draws, 8, 8)


def test_with_few_filters_the_bound_says_nothing_and_is_left_out() -> None:
    found = STATEMENT_CHECKS["Theorem 3"](TheorySettings(filters=20, draws=50).make_inputs())
    assert not any("bound" in one.text for one in found)


# ---------------------------------------------------------------- the masked VGG-16


def test_the_dead_rows_of_the_specification(measured: theory.TheoryResult) -> None:
    rows = [one for one in measured.parts["masked VGG-16"] if "rows kept" in one.text]
    assert [one.theory for one in rows] == [118, 102, 86, 70, 54, 38, 22, 6, 0]
    assert all(one.holds and one.error == 0 for one in rows)
    assert value(measured, "μ of a uniform map").theory == pytest.approx(0.49099, abs=5e-6)
    assert value(measured, "μ of HiResCAM").value == 0
    assert 0.2 < value(measured, "μ of Grad-CAM").value < 0.6


def test_the_narrow_network_is_the_one_to_train_with_fewer_channels(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from camrt.evaluation.dead_zone.narrow_vgg import BLOCKS
    from camrt.training.masked_vgg import MaskedVGG, dead_rows

    save_narrow_vgg(tmp_path / "narrow.onnx", 5, seed=2)
    engine = camrt.load(tmp_path / "narrow.onnx")
    twin = MaskedVGG(BLOCKS, 224, 32, 10, kept_rows=5).eval()
    import onnx
    from onnx import numpy_helper

    weights = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy())
        for one in onnx.load(tmp_path / "narrow.onnx").graph.initializer
    }
    own = [name for name, _ in twin.named_parameters() if name.endswith("weight")]
    assert len(own) == len(weights)
    state = dict(twin.state_dict())
    state |= dict(zip(own, weights.values(), strict=True))
    twin.load_state_dict(state)  # which applies the mask: the file's must be the same
    images = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(engine.predict(images), expected, rtol=1e-3, atol=1e-5)
    assert [paper_dead_rows(kept) for kept in range(1, 15)] == [dead_rows(kept) for kept in range(1, 15)]
    with pytest.raises(InputError, match="between 1 and the map's 14 rows"):
        save_narrow_vgg(tmp_path / "no.onnx", 15)


# ---------------------------------------------------------------- what holds


def test_what_holds_and_what_does_not(measured: theory.TheoryResult) -> None:
    by_chance = Statement("a", 1.0, 1.05, 0.02)
    assert by_chance.holds
    assert not replace(by_chance, value=1.07).holds
    assert not Statement("b", 54, 53).holds
    assert Statement("c", 1.0, 1.0, relation="≥").holds
    assert not Statement("c", 1.0, 0.999, 0.1, relation="≥").holds
    assert not Statement("d", 0.0, 0.0, relation=">").holds
    assert theory.format_verdict(measured).startswith("all 27 statements hold")
    changed = theory.TheoryResult(QUICK, {"part": [by_chance, Statement("rows", 54, 53)]})
    assert theory.format_verdict(changed) == "1 of 2 statements do not hold: rows"
    assert "| rows | 54 | 53 | exact |  | no |" in theory.to_markdown(changed)
    assert "| a | 1 | 1.05 | ± 0.02 | 2.50 errors | yes |" in theory.to_markdown(changed)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"side": 12}, "one more than a multiple of 4"),
        ({"side": 1}, "side=1"),
        ({"filters": 0}, "filters=0"),
        ({"draws": 1}, "draws=1"),
        ({"seed": -1}, "seed=-1"),
        ({"filters": 5000, "side": 101}, "more than 4,000,000 numbers"),
    ],
)
def test_settings_out_of_range(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TheorySettings(**given)


def test_per_image_is_made_grey_and_padded_as_the_paper_pads(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    xi = TheorySettings(image=tmp_path / "digit.png").make_inputs().xi
    assert xi.shape == (9, 9)
    assert not xi[0].any()
    assert not xi[:, -1].any()
    np.testing.assert_array_equal(xi[1:, :-1], pixels / 255)
    pixels[4:] = 0
    Image.fromarray(pixels).save(tmp_path / "half.png")
    with pytest.raises(InputError, match="the lower half is black"):
        TheorySettings(image=tmp_path / "half.png").make_inputs()
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(ImageError):
        TheorySettings(image=tmp_path / "no.png").make_inputs()


# ---------------------------------------------------------------- the command


def command(*words: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", "walls", *map(str, words)])


def test_the_command_writes_resumes_and_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements that are finished are kept when a later one fails."""
    calls: list[str] = []

    def part(name: str, *, fails: bool = False) -> Any:
        def measure(subject: TheoryInputs) -> list[Statement]:
            calls.append(name)
            if fails:
                raise InputError("broken")
            return [Statement(f"{name}_0 of {subject.filters}", 1.0, 1 / 3, 0.5)]

        return measure

    out = tmp_path / "out"
    asked = ("--theory", "--filters", 3, "--draws", 4, "--out", out)
    monkeypatch.setattr(
        theory, "STATEMENT_CHECKS", {"first": part("first"), "second": part("second", fails=True)}
    )
    broken = command(*asked)
    assert (broken.exit_code, "broken" in broken.stderr) == (2, True)
    assert not (out / "table.md").exists()
    refused = command(*asked)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    monkeypatch.setattr(theory, "STATEMENT_CHECKS", {"first": part("first"), "second": part("second")})
    done = command(*asked, "--resume")
    assert done.exit_code == 0, done.output
    assert calls == ["first", "second", "second"]
    assert "all 2 statements hold" in done.stdout
    assert r"| first\_0 of 3 | 1 | 0.333333 | ± 0.5 | 1.33 errors | yes |" in (out / "table.md").read_text(
        "utf-8"
    )
    found = json.loads((out / "results.json").read_bytes())
    assert found["parts"]["second"][0]["value"] == 1 / 3
    assert found["settings"]["filters"] == 3
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".md", ".json")}
    assert command(*asked, "--resume").exit_code == 0
    other = command(*asked, "--resume", "--seed", 1)
    assert other.exit_code == 2
    assert "holds another theory, which differs in seed" in " ".join(other.stderr.split())
    assert command(*asked, "--overwrite").exit_code == 0
    assert before == {
        path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".md", ".json")
    }


def test_the_command_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {name: part for name, part in STATEMENT_CHECKS.items() if name != "masked VGG-16"}
    monkeypatch.setattr(theory, "STATEMENT_CHECKS", own)  # it is measured above
    answer = command("--theory", "--draws", 300, "--filters", 24, "--out", tmp_path / "out")
    assert answer.exit_code == 0, answer.output
    assert "all 12 statements hold" in answer.stdout
    assert "mean Grad-CAM / E[GC], masked half" in answer.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model.onnx", "--theory"), "--theory draws its own networks and takes no MODEL"),
        (("--theory", "--dead-rows", "3"), "takes no --dead-rows"),
        (("--theory", "--activation", "softmax"), "takes no --activation"),
        (("model.onnx", "photos", "--draws", "5"), "--draws is for --theory alone"),
        (("model.onnx",), "say which MODEL, and a folder of images; or --theory"),
        (("--theory", "--resume", "--overwrite"), "not both"),
        (("--theory", "--side", "7"), "one more than a multiple of 4"),
    ],
)
def test_what_the_command_refuses(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = command(*words)
    assert answer.exit_code == 2
    assert said in " ".join(answer.stderr.split())
    assert not list(tmp_path.iterdir())
