from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.resampling import axis_table
from camrt.kernels.saliency import MapFlag, gpu, reference
from helpers.tolerances import assert_close

# every number of rows that is written at once, and maps larger and smaller than images
SIZES = [
    (1, 1, 4, 4),
    (7, 5, 63, 31),
    (7, 7, 33, 32),
    (14, 9, 28, 40),
    (5, 6, 6, 6),
    (9, 5, 2, 3),
    (2, 3, 1, 1),
    (1, 6, 9, 33),
    (17, 18, 17, 18),
]
MODES = [("native", "max"), ("native", "minmax"), ("library", "max")]


@pytest.fixture(autouse=True)
def _poisoned_outputs():
    """Whatever is not written is NaN, and no flag."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def compare(raw, size, got, **options):
    """With the reference, given the numbers that the GPU was given."""
    options = {"mode": "native", "normalisation": "max", "relu": True, "align_corners": False} | options
    maps, flags = got
    expected, wanted = reference.saliency(raw, size, **options)
    assert (maps.dtype, flags.dtype) == (torch.float32, torch.uint8)
    assert flags.tolist() == wanted.tolist()
    # Coordinates of up to 18 cells have lost some of their digits behind the point. In mode "library" a range
    # of round-off size is divided by 1e-7 or so.
    factor = 8 if options["mode"] == "library" else 2
    assert_close(maps.double().cpu().numpy(), expected, "float32", factor=factor)


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "signed"])
@pytest.mark.parametrize(("mode", "normalisation"), MODES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_agrees_with_reference(sizes, mode, normalisation, relu, rng, tensor):
    h, w, height, width = sizes
    raw = rng.standard_normal((7, h, w)).astype(np.float32)
    raw[3], raw[4], raw[5, 0, 0], raw[6, -1, -1] = -abs(raw[3]) - 0.1, 0.1, np.nan, -np.inf
    options = {"mode": mode, "normalisation": normalisation, "relu": relu}
    got = gpu.saliency(tensor(raw), (height, width), **options)
    compare(raw.astype(np.float64), (height, width), got, **options)


@pytest.mark.parametrize(("mode", "normalisation"), MODES)
@pytest.mark.parametrize("sizes", [SIZES[1], SIZES[4], SIZES[6]], ids=str)
def test_corners_may_be_aligned(sizes, mode, normalisation, rng, tensor):
    h, w, height, width = sizes
    raw = rng.standard_normal((3, h, w)).astype(np.float32)
    options = {"mode": mode, "normalisation": normalisation, "align_corners": True}
    compare(
        raw.astype(np.float64),
        (height, width),
        gpu.saliency(tensor(raw), (height, width), **options),
        **options,
    )


@pytest.mark.parametrize(("mode", "normalisation"), MODES)
def test_every_type(mode, normalisation, rng, tensor, rounded, kind):
    raw = rng.standard_normal((5, 7, 7)).astype(np.float32)
    raw[1, 2, 2], raw[2], raw[3, 0, 0] = np.inf, -abs(raw[2]) - 0.1, np.nan
    options = {"mode": mode, "normalisation": normalisation}
    compare(rounded(raw, kind), (56, 60), gpu.saliency(tensor(raw, kind), (56, 60), **options), **options)


@pytest.mark.parametrize("mode", ["native", "library"])
def test_any_strides_are_read(mode, rng, tensor):
    raw = rng.standard_normal((5, 7, 6)).astype(np.float32)
    options = {"mode": mode, "normalisation": "minmax"}
    wanted = gpu.saliency(tensor(raw), (30, 33), **options)
    turned = tensor(np.ascontiguousarray(raw.transpose(2, 1, 0))).permute(2, 1, 0)
    for view in (tensor(raw, gaps=True), turned, turned.flip(0).flip(0)):
        got = gpu.saliency(view, (30, 33), **options)
        assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))


@pytest.mark.parametrize("cells", [8, 32])
def test_large_maps_are_looked_at_in_rounds(cells, rng, tensor, monkeypatch):
    raw = rng.standard_normal((3, 7, 5)).astype(np.float32)
    raw[1, 6, 4] = np.nan
    raw[2, 6, 4] = 9
    wanted = gpu.saliency(tensor(raw), (14, 15))
    monkeypatch.setattr(gpu, "CELLS", cells)
    got = gpu.saliency(tensor(raw), (14, 15))
    assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))


def test_many_maps_are_made_in_turns(rng, tensor, monkeypatch):
    raw = rng.standard_normal((18, 3, 3)).astype(np.float32)
    wanted = gpu.saliency(tensor(raw), (5, 6))
    monkeypatch.setattr(gpu, "CACHED", 1)
    got = gpu.saliency(tensor(raw), (5, 6))
    assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "signed"])
@pytest.mark.parametrize(("mode", "normalisation"), MODES)
def test_very_small_and_very_large_maps(mode, normalisation, relu, tensor):
    grid = np.arange(-1, 5, dtype=np.float32).reshape(2, 3)
    raw = np.stack([grid * np.float32(s) for s in (1e-43, 1e-38, 1e-30, 1e-20, 1e20, 1e31, 6e37)])
    options = {"mode": mode, "normalisation": normalisation, "relu": relu}
    compare(raw.astype(np.float64), (9, 20), gpu.saliency(tensor(raw), (9, 20), **options), **options)


def test_what_overflows_is_not_finite(tensor):
    raw = np.array([[[-3e38, 3e38]], [[-1e38, 1e-38]], [[-1e38, 0.5]]], np.float32)
    maps, flags = gpu.saliency(tensor(raw), (2, 9), relu=False)
    assert flags.tolist() == [MapFlag.NOT_FINITE, MapFlag.NOT_FINITE, MapFlag.OK]
    assert not maps[:2].any()
    assert maps[2, 0, -1] == 1
    assert torch.isfinite(maps).all()


def test_a_range_small_beside_its_values_keeps_its_digits(tensor):
    """The least is taken off before cells are mixed."""
    raw = (1000 + np.arange(6).reshape(1, 2, 3) / 1024).astype(np.float32)
    got = gpu.saliency(tensor(raw), (16, 15), normalisation="minmax")
    compare(raw.astype(np.float64), (16, 15), got, normalisation="minmax")


def test_constant_maps_have_one_flag(tensor):
    raw = np.array([0.3, 0, -0.0, -2], np.float32)[:, None, None] * np.ones((4, 2, 3), np.float32)
    maps, flags = gpu.saliency(tensor(raw), (4, 4))
    assert flags.tolist() == [MapFlag.CONSTANT] * 4
    assert not maps.any()


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 8), st.integers(1, 8), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from(MODES), st.booleans(), st.floats(1e-30, 1e30), st.integers(0, 99),
)  # fmt: skip
def test_maps_lie_in_the_unit_interval(device, h, w, height, width, how, relu, scale, seed):
    raw = (scale * np.random.default_rng(seed).standard_normal((2, h, w))).astype(np.float32)
    maps, flags = gpu.saliency(
        torch.from_numpy(raw).to(device), (height, width), mode=how[0], normalisation=how[1], relu=relu
    )
    assert torch.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert not maps[flags != MapFlag.OK].any()


@pytest.mark.parametrize("align", [False, True], ids=["half-pixel", "align-corners"])
def test_rows_written_together_lie_between_three_rows_of_cells(align):
    for h, height in product(range(1, 17), range(1, 60)):
        group = gpu.rows_per_group(h, height, align)
        lower, _, s = axis_table(h, height, align)
        top = np.arange(height) // group * group
        assert (lower + s <= lower[top] + 2 + 1e-12).all()
    assert [gpu.rows_per_group(h, 224, False) for h in (7, 28, 56, 112, 224, 225)] == [8, 8, 4, 2, 2, 1]


def test_no_maps(tensor):
    maps, flags = gpu.saliency(tensor(np.zeros((0, 3, 3), np.float32)), (4, 5))
    assert (maps.shape, flags.shape) == ((0, 4, 5), (0,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw": torch.zeros(3, 3)}, r"raw must have the axes \(M, h, w\), got shape \(3, 3\)"),
        ({"raw": np.zeros((1, 3, 3))}, "raw must be a tensor of float32, float16 or bfloat16, got ndarray"),
        ({"raw": torch.zeros(1, 3, 3).double()}, "raw must be a tensor .* got torch.float64"),
        ({"raw": torch.zeros(1, 0, 3)}, "raw must have at least one row and one column, got 0 x 3"),
        ({"size": (0, 3)}, "size must have at least one row and one column, got 0 x 3"),
        ({"size": (3,)}, r"size must be \(H, W\), got \(3,\)"),
        ({"mode": "other"}, "mode must be 'native' or 'library', got 'other'"),
        ({"normalisation": "sum"}, "normalisation must be 'max' or 'minmax', got 'sum'"),
    ],
    ids=["axes", "array", "type", "empty", "size", "size-length", "mode", "normalisation"],
)
def test_errors_name_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        gpu.saliency(**({"raw": torch.zeros(1, 3, 3), "size": (4, 4)} | change))
