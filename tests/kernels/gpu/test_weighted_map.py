import numpy as np
import pytest
import torch

from camrt.kernels.saliency import MapFlag
from camrt.kernels.saliency.gpu import saliency
from camrt.kernels.weighted_map import gpu, reference
from helpers.tolerances import assert_close

# (h, w, H, W): read as one run of memory where the image is large enough; several rounds of cells
SIZES = [
    (1, 1, 4, 4),
    (7, 5, 63, 31),
    (7, 7, 30, 40),
    (2, 3, 1, 1),
    (1, 6, 9, 33),
    (9, 8, 40, 34),
    (17, 18, 20, 10),
]
MODES = [("native", "max"), ("native", "minmax"), ("library", "max")]


def case(rng, h, w, n=2, k=37, t=3):
    a = rng.standard_normal((n, k, h, w)).astype(np.float32)
    return a, rng.standard_normal((n, t, k)).astype(np.float32)


@pytest.fixture(autouse=True)
def _poisoned_outputs():
    """Whatever is not written is NaN, and no flag."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[1, 2, 4], ids=["one-target", "two-targets", "four-targets"])
def together(request, monkeypatch):
    """How many targets share what is read, however few programs that leaves."""
    monkeypatch.setattr(gpu, "TARGETS", request.param)
    monkeypatch.setattr(gpu, "PROGRAMS", 0)
    return request.param


def compare(a, weights, size, got, **options):
    """With the reference, given the numbers that the GPU was given."""
    options = {"mode": "native", "normalisation": "max", "relu": True, "align_corners": False} | options
    maps, flags, raw = got
    expected = reference.weighted_map(a, weights, size, **options)
    assert (maps.dtype, flags.dtype, raw.dtype) == (torch.float32, torch.uint8, torch.float32)
    assert flags.tolist() == expected[1].tolist()
    assert_close(raw.double().cpu().numpy(), expected[2], "float32")
    # Sums that cancel are divided by their greatest; in mode "library" a range of round-off size by 1e-7.
    factor = 8 if options["mode"] == "library" else 2
    assert_close(maps.double().cpu().numpy(), expected[0], "float32", factor=factor)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_agrees_with_reference(sizes, rng, tensor, rounded, kind, layout):
    h, w, height, width = sizes
    a, weights = case(rng, h, w)
    got = gpu.weighted_map(tensor(a, kind, layout), tensor(weights, kind), (height, width))
    compare(rounded(a, kind), rounded(weights, kind), (height, width), got)


@pytest.mark.parametrize("targets", [2, 5])
@pytest.mark.parametrize("sizes", [(7, 5, 31, 31), (17, 16, 9, 10)], ids=str)
def test_any_number_of_targets(sizes, targets, together, rng, tensor, layout):
    h, w, height, width = sizes
    a, weights = case(rng, h, w, n=1, k=70, t=targets)
    got = gpu.weighted_map(tensor(a, layout=layout), tensor(weights), (height, width))
    compare(a.astype(np.float64), weights.astype(np.float64), (height, width), got)


@pytest.mark.parametrize("align", [False, True], ids=["half-pixel", "align-corners"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "signed"])
@pytest.mark.parametrize(("mode", "normalisation"), MODES)
def test_every_option(mode, normalisation, relu, align, rng, tensor):
    a, weights = case(rng, 6, 7, k=16, t=5)
    weights[0, 1] = 0
    options = {"mode": mode, "normalisation": normalisation, "relu": relu, "align_corners": align}
    got = gpu.weighted_map(tensor(a), tensor(weights), (27, 33), **options)
    compare(a.astype(np.float64), weights.astype(np.float64), (27, 33), got, **options)


@pytest.mark.parametrize("k", [1, 15, 16, 17, 64, 65, 200])
def test_any_number_of_channels(k, rng, tensor, rounded, kind):
    a, weights = case(rng, 4, 3, n=1, k=k)
    got = gpu.weighted_map(tensor(a, kind), tensor(weights), (40, 40))
    compare(rounded(a, kind), weights.astype(np.float64), (40, 40), got)


@pytest.mark.parametrize(
    ("shape", "width", "targets", "wanted"),
    [
        ((2048, 7, 7), 4, 1, {"FLAT": True, "CELLS": 64, "CHANNELS": 16, "STEPS": 4, "RUN": 4}),
        ((2048, 7, 7), 2, 1, {"FLAT": True, "CELLS": 64, "CHANNELS": 32, "STEPS": 4, "RUN": 8}),
        ((2048, 7, 7), 2, 9, {"FLAT": True, "CELLS": 64, "CHANNELS": 32, "STEPS": 1, "TARGETS": 4}),
        ((512, 14, 14), 4, 2, {"FLAT": True, "CELLS": 256, "CHANNELS": 4, "STEPS": 2, "TARGETS": 2}),
        ((256, 56, 56), 4, 1, {"FLAT": False, "CELLS": 256, "CHANNELS": 4, "STEPS": 4}),
        ((256, 56, 56), 2, 3, {"FLAT": False, "CELLS": 256, "CHANNELS": 4, "STEPS": 1, "TARGETS": 4}),
    ],
    ids=str,
)
def test_models_are_read_as_they_are_compiled_ahead(shape, width, targets, wanted):
    """See variants_weighted_map.py."""
    a = torch.zeros((1, *shape), dtype=torch.float32 if width == 4 else torch.float16)
    block = gpu._block(a, targets, 224 * 224)
    assert {name: block[name] for name in wanted} == wanted
    assert block["DENSE"]
    last = gpu._block(a.contiguous(memory_format=torch.channels_last), targets, 224 * 224)
    assert (last["FLAT"], last["DENSE"], last["CELLS"]) == (False, True, 64)
    assert last["CHANNELS"] == 64 // width


def test_sums_do_not_depend_on_what_is_read_together(rng, tensor, monkeypatch):
    a, weights = case(rng, 7, 5, n=1, t=6)
    monkeypatch.setattr(gpu, "PROGRAMS", 0)
    wanted = gpu.weighted_map(tensor(a), tensor(weights), (40, 40))
    for together in (1, 2):
        monkeypatch.setattr(gpu, "TARGETS", together)
        got = gpu.weighted_map(tensor(a), tensor(weights), (40, 40))
        assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))


@pytest.mark.parametrize("side", [16, 40])
def test_any_strides_are_read(side, together, rng, tensor):
    a, weights = case(rng, 7, 6, n=1, t=2)
    views = [tensor(a, gaps=True), tensor(np.ascontiguousarray(a.transpose(3, 1, 0, 2))).permute(2, 1, 3, 0)]
    across = tensor(np.ascontiguousarray(weights.transpose(2, 0, 1))).permute(1, 2, 0)
    for view in views:
        for some in (tensor(weights, gaps=True), across):
            got = gpu.weighted_map(view, some, (side, side))
            compare(a.astype(np.float64), weights.astype(np.float64), (side, side), got)


def test_maps_are_those_of_saliency(rng, tensor):
    a, weights = case(rng, 7, 7, t=4)
    maps, flags, raw = gpu.weighted_map(tensor(a), tensor(weights), (50, 40), normalisation="minmax")
    alone = saliency(raw.flatten(0, 1), (50, 40), normalisation="minmax")
    assert_close(maps.flatten(0, 1).cpu().numpy(), alone[0].cpu().numpy())
    assert torch.equal(flags.flatten(), alone[1])


def test_weights_of_another_size_make_the_same_maps(rng, tensor):
    a, weights = case(rng, 7, 7)
    one = gpu.weighted_map(tensor(a), tensor(weights), (30, 30))
    other = gpu.weighted_map(tensor(a), tensor(1024 * weights), (30, 30))
    assert torch.equal(1024 * one[2], other[2])
    assert_close(other[0].cpu().numpy(), one[0].cpu().numpy())


@pytest.mark.parametrize("sizes", [(3, 4, 30, 40), (3, 4, 5, 5), (17, 18, 3, 3)], ids=str)
def test_what_is_not_finite_stays_where_it_is(sizes, together, rng, tensor, layout):
    h, w, height, width = sizes
    a, weights = case(rng, h, w, k=19, t=5)
    a[0, 18, 2, 3], weights[0, 1, 18] = np.nan, 0
    weights[1, 2, 18], weights[1, 3, 0], weights[1, 4, 7] = np.inf, -np.inf, np.nan
    got = gpu.weighted_map(tensor(a, layout=layout), tensor(weights), (height, width))
    compare(a.astype(np.float64), weights.astype(np.float64), (height, width), got)
    wanted = torch.zeros((2, 5), dtype=torch.bool)
    wanted[0], wanted[1, 2:] = True, True
    assert ((got[1] == MapFlag.NOT_FINITE).cpu() == wanted).all()


def test_sums_that_overflow_are_not_finite(tensor):
    a = np.full((1, 4, 2, 2), 3e38, np.float32)
    a[..., 0] = 0
    maps, flags, raw = gpu.weighted_map(tensor(a), tensor(np.ones((1, 1, 4), np.float32)), (4, 4))
    assert flags.item() == MapFlag.NOT_FINITE
    assert torch.isinf(raw[..., 1]).all()
    assert not maps.any()


def test_no_channels_sum_to_nothing(tensor):
    none = tensor(np.zeros((2, 0, 3, 3), np.float32)), tensor(np.zeros((2, 1, 0), np.float32))
    maps, flags, raw = gpu.weighted_map(*none, (16, 20))
    assert (flags == MapFlag.CONSTANT).all()
    assert not maps.any()
    assert not raw.any()


@pytest.mark.parametrize(("n", "t"), [(0, 2), (2, 0)])
def test_no_maps(n, t, tensor):
    a, weights = tensor(np.zeros((n, 3, 4, 5), np.float32)), tensor(np.zeros((n, t, 3), np.float32))
    got = gpu.weighted_map(a, weights, (8, 9))
    assert [one.shape for one in got] == [(n, t, 8, 9), (n, t), (n, t, 4, 5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": torch.zeros(2, 3, 4)}, r"activations must have the axes \(N, K, h, w\), got shape"),
        (
            {"activations": torch.zeros(2, 3, 4, 4).double()},
            "activations must be a tensor of float32, float16",
        ),
        ({"activations": torch.zeros(2, 3, 0, 4)}, "activations must have at least one row and one column"),
        ({"weights": np.zeros((2, 1, 3))}, "weights must be a tensor of .* got ndarray"),
        ({"weights": torch.zeros(2, 3)}, r"weights must have the axes \(N, T, K\), got shape \(2, 3\)"),
        ({"weights": torch.zeros(2, 1, 4)}, r"weights must have shape \(2, T, 3\) .* got \(2, 1, 4\)"),
        ({"weights": torch.zeros(1, 1, 3)}, r"weights must have shape \(2, T, 3\) .* got \(1, 1, 3\)"),
        ({"size": (8, 0)}, "size must have at least one row and one column, got 8 x 0"),
        ({"mode": "other"}, "mode must be 'native' or 'library', got 'other'"),
        ({"normalisation": "sum"}, "normalisation must be 'max' or 'minmax', got 'sum'"),
    ],
    ids=[
        "axes",
        "type",
        "empty",
        "array",
        "weight-axes",
        "channels",
        "images",
        "size",
        "mode",
        "normalisation",
    ],
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {"activations": torch.zeros(2, 3, 4, 4), "weights": torch.zeros(2, 1, 3), "size": (8, 8)}
    with pytest.raises(ValueError, match=message):
        gpu.weighted_map(**(arguments | change))
