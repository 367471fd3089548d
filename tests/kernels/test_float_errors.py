"""Kernels compute in silence with any numbers, on every processor and whatever a caller raises on."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

import numpy as np
import pytest

import camrt.kernels
from camrt.kernels import resampling
from camrt.kernels.ablate import ablate_boxes, ablate_channels
from camrt.kernels.blur import blur
from camrt.kernels.box_probabilities import box_probabilities, box_probabilities_pair
from camrt.kernels.box_scores import box_scores
from camrt.kernels.box_sums import box_sums
from camrt.kernels.first_layer_difference import first_layer_boxes, first_layer_channels
from camrt.kernels.hidden_scores import hidden_scores
from camrt.kernels.masked_batch import masked_batch
from camrt.kernels.partial_products import partial_products
from camrt.kernels.perturb import perturb
from camrt.kernels.rank_one import rank_one
from camrt.kernels.saliency import saliency

OPERATIONS = [found.name for found in pkgutil.iter_modules(camrt.kernels.__path__) if found.ispkg]
WHOLE = [[0, 0, 3, 3], [0, 1, 2, 3]]
ENDS = (np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-45, 0.0)
"""Products and sums of these overflow, underflow, cancel infinities and multiply them by zero."""


def ends(*shape):
    """Numbers from the ends of float32, each many times and in every order."""
    return np.random.default_rng(len(shape)).choice(np.float32(ENDS), shape)


CALLS = {
    "ablate_boxes": lambda: ablate_boxes(ends(2, 3, 3, 3), [0, 1], WHOLE, ends(2, 3, 3, 3), keep=True),
    "ablate_channels": lambda: ablate_channels(ends(2, 3, 3, 3), [0, 1], [0, 2], ends(2, 3, 3, 3)),
    "bilinear": lambda: resampling.bilinear(ends(2, 3, 3), (7, 5)),
    "blur": lambda: blur(ends(2, 3, 9, 9), [0.25, 0.5, 0.25], "zero"),
    "box_probabilities": lambda: box_probabilities(
        ends(2, 3, 3, 4), ends(2, 4), WHOLE, [[0, 1], [2, 3]], sign=-1
    ),
    "box_probabilities_pair": lambda: box_probabilities_pair(
        ends(2, 3, 3, 4), ends(2, 4), ends(2, 4), WHOLE, [[0, 1], [2, 3]]
    ),
    "box_scores": lambda: box_scores(
        ends(2, 9, 3, 3), ends(4, 9), ends(2, 4), ends(2, 4), WHOLE, [[0, 1], [2, 3]], scale=1e30
    ),
    "box_sums": lambda: box_sums(ends(2, 3, 3, 4), WHOLE),
    "first_layer_boxes": lambda: first_layer_boxes(
        ends(2, 5), ends(2, 3, 3, 5), [0, 1], WHOLE, ends(2, 5), keep=False
    ),
    "first_layer_channels": lambda: first_layer_channels(
        ends(2, 5), ends(2, 4, 5), [0, 1], [1, 3], ends(2, 5)
    ),
    "hidden_scores": lambda: hidden_scores(
        ends(2, 5), ends(3, 5), ends(4), [0, 1, 0, 1], [0, 1, 2, 0], ends(2, 2, 5), "silu"
    ),
    "masked_batch": lambda: masked_batch(
        ends(2, 4, 3, 3), ends(2, 3, 9, 9), [0, 1], [1, 3], ends(2, 3, 9, 9), epsilon=1e-5
    ),
    "partial_products": lambda: partial_products(ends(6, 4, 9), ends(2, 4, 9), by="cell"),
    "perturb": lambda: perturb(
        ends(2, 3, 4, 4), np.arange(16).reshape(1, 16), [0], [5], [0], [1], ends(1, 3, 4, 4)
    ),
    "rank_one": lambda: rank_one(ends(2, 5, 9), ends(4, 5), ends(2, 4, 9), [0, 1], [1, 3], ends(2, 5, 9)),
    "saliency": lambda: saliency(ends(5, 3, 3), (7, 5)),
    "saliency-minmax": lambda: saliency(ends(5, 3, 3), (7, 5), mode="library", normalisation="minmax"),
}


@pytest.mark.parametrize("implementation", ["as installed", "reference"])
@pytest.mark.parametrize("name", CALLS)
def test_any_numbers_in_silence(name, implementation, monkeypatch):
    for operation in OPERATIONS if implementation == "reference" else ():
        module = import_module(f"camrt.kernels.{operation}")
        if hasattr(module, "IMPLEMENTATION"):
            monkeypatch.setattr(module, "IMPLEMENTATION", "reference")
    with np.errstate(all="raise"):
        CALLS[name]()
        assert np.geterr()["over"] == "raise"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_kernel_and_its_definition_ignore_float_errors(operation):
    for name in (f"camrt.kernels.{operation}", f"camrt.kernels.{operation}.reference"):
        module = import_module(name)
        for function in (getattr(module, each) for each in module.__all__):
            if inspect.isfunction(function):
                assert hasattr(function, "ignores_float_errors"), f"{name}.{function.__name__}"
                assert not inspect.isgeneratorfunction(inspect.unwrap(function))
