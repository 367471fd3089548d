"""An engine on a card has images altered there, and its measurements are those of the host.

Where no GPU is, Triton's kernels are interpreted, on tensors in the host's memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.evaluation import perturbation
from camrt.evaluation.metrics import curves, removal
from camrt.evaluation.suite import map_queries
from camrt.evaluation.suite.measurement import measure_block
from camrt.evaluation.suite.plan import MeasurementPlan
from camrt.evaluation.suite.prepared_sample import PreparedSample
from camrt.evaluation.suite.settings import Settings
from camrt.kernels import dispatch
from helpers.torch_nets import Modular, build_net, random_images
from helpers.triton_interpreter import INTERPRETED, torch

SIZE = (12, 16)
METRICS = ("drop", "increase", "compactness", "deletion", "insertion", "removal", "road")
COMPARED = ("adcc", "arcc", "infidelity", "sensitivity")


@pytest.fixture
def block() -> list[PreparedSample]:
    images = np.asarray(random_images(3), np.float32)
    return [PreparedSample(f"{n}.png", n, image, (), ()) for n, image in enumerate(images)]


def plan(device: Any) -> MeasurementPlan:
    engine = camrt.load(build_net(Modular).to(device), target="relu", size=SIZE, batch_size=5)
    chosen = {name: make_method(name, {}) for name in ("gradcam", "pixab")}
    return MeasurementPlan(
        engine, chosen, METRICS + COMPARED, Settings(step=16, sensitivity_radius=1.0), SIZE
    )


def figures(row: dict[str, Any]) -> list[float]:
    """The numbers that metrics are made of; curves as they are."""
    found = []
    for name in ("probability", "probability_masked", "drop", "increase", "compactness"):
        found.append(row[name])
    for name in ("deletion", "insertion", "roadmorf", "roadlerf"):
        found += [row[name], *row[f"{name}_curve"]]
    return [*found, row["road"], *(row[name] for name in COMPARED)]


def test_measurements_are_those_of_the_host(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = measure_block(plan("cpu"), block)
    used = []

    def noted(module: Any, name: str) -> None:
        kernel = getattr(module, name)

        def run(array: Any, *rest: Any, **options: Any) -> Any:
            used.append((name, dispatch.backend_of(array)))
            return kernel(array, *rest, **options)

        monkeypatch.setattr(module, name, run)

    noted(perturbation, "perturb")
    noted(curves, "blur")
    noted(removal, "blur")
    noted(map_queries, "ranks_of")
    with np.errstate(all="ignore"):  # the interpreter computes with NumPy
        if INTERPRETED:
            monkeypatch.setitem(dispatch.DEVICE_BACKENDS, "cpu", "gpu")
        found = measure_block(plan("cpu" if INTERPRETED else "cuda"), block)
    assert set(used) == {(name, "gpu") for name in ("perturb", "blur", "ranks_of")}
    assert found.passes == expected.passes
    assert [row["right_after_random_removal"] for row in found.images] == [
        row["right_after_random_removal"] for row in expected.images
    ]
    assert len(found.maps) == len(expected.maps) > 6
    for mine, theirs in zip(found.maps, expected.maps, strict=True):
        assert [mine[key] for key in ("image", "method", "class", "flag")] == [
            theirs[key] for key in ("image", "method", "class", "flag")
        ]
        assert mine.get("right_after_removal") == theirs.get("right_after_removal")
        if theirs["is_predicted"]:
            np.testing.assert_allclose(figures(mine), figures(theirs), rtol=1e-4, atol=1e-6)


def test_altered_images_are_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    images, filling = (np.random.default_rng(n).standard_normal((2, 3, 5, 6), np.float32) for n in (1, 2))
    saliency = np.random.default_rng(3).random((2, 5, 6), np.float32)
    device = "cpu" if INTERPRETED else "cuda"

    def rows(put: Any) -> Any:
        seen: list[Any] = []

        def predict(altered: Any) -> Any:
            seen.append(altered.clone().cpu().numpy() if torch.is_tensor(altered) else altered.copy())
            return altered.reshape(len(altered), -1)[:, :4]

        queries = perturbation.PerturbationQueries(
            put(images), images[:, 0, 0, :4], np.array([[0], [1]]), {"filling": put(filling)}
        )
        for n, ranks in enumerate(curves.ranks_of(saliency)):
            queries.add_ranked(n, ranks, [0, 4, 11, 30], perturbation.ZERO, perturbation.IMAGE)
            queries.add_ranked(n, ranks[::-1].copy(), [1, 29], perturbation.IMAGE, "filling")
            queries.add_masked(n, saliency[n])
        found = queries.run(predict, lambda logits: logits, batch_size=4)
        return [np.concatenate(seen), found.probabilities, found.predicted]

    expected = rows(lambda values: values)
    if INTERPRETED:
        monkeypatch.setitem(dispatch.DEVICE_BACKENDS, "cpu", "gpu")
    for mine, theirs in zip(rows(lambda values: torch.from_numpy(values).to(device)), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
