import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.saliency import MapFlag, reference, saliency
from helpers.tolerances import assert_close

SIZES = [
    (1, 1, 4, 4),
    (7, 7, 56, 56),
    (7, 5, 63, 31),
    (9, 5, 2, 3),
    (2, 3, 1, 1),
    (1, 6, 9, 63),
    (14, 14, 500, 400),
]
MODES = [("native", "max"), ("native", "minmax"), ("library", "max")]


def degenerate(dtype):
    """One map for each edge of the policy, 2 × 3, with the flag it must get."""
    grid = np.arange(6, dtype=dtype).reshape(2, 3)
    nan, infinite = grid.copy(), grid.copy()
    nan[0, 0], infinite[1, 2] = np.nan, -np.inf
    wide = grid * (np.finfo(dtype).max / 8)
    wide[0, 0] = -np.finfo(dtype).max
    return [
        (grid, MapFlag.OK),
        (np.full_like(grid, 0.3), MapFlag.CONSTANT),
        (np.zeros_like(grid), MapFlag.CONSTANT),
        (np.full_like(grid, -2), MapFlag.CONSTANT),
        (-grid - 1, MapFlag.NOTHING_POSITIVE),
        (-grid, MapFlag.NOTHING_POSITIVE),
        (nan, MapFlag.NOT_FINITE),
        (infinite, MapFlag.NOT_FINITE),
        (np.full_like(grid, np.inf), MapFlag.NOT_FINITE),
        (wide, MapFlag.NOT_FINITE),
    ]


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "signed"])
@pytest.mark.parametrize("align", [False, True], ids=["half-pixel", "align-corners"])
@pytest.mark.parametrize(("mode", "normalisation"), MODES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_native_agrees_with_reference(
    native, sizes, mode, normalisation, align, relu, normal, threads, strided, dtype
):
    h, w, height, width = sizes
    raw = normal(9, h, w)
    raw[3], raw[4], raw[5, 0, 0] = -abs(raw[3]), 0.1, np.nan
    options = {"mode": mode, "normalisation": normalisation, "relu": relu, "align_corners": align}
    maps, flags = saliency(strided(raw), (height, width), threads=threads, **options)
    expected, wanted = reference.saliency(raw, (height, width), **options)
    assert maps.dtype == dtype
    assert flags.dtype == np.uint8
    assert flags.tolist() == wanted.tolist()
    # in mode "library" a range of round-off size is divided by 1e-7 or so
    assert_close(maps, expected, factor=8 if mode == "library" else 1)


@pytest.mark.parametrize(("mode", "normalisation"), MODES)
def test_reference_agrees_with_torch_in_float64(mode, normalisation, normal, dtype):
    torch = pytest.importorskip("torch")
    raw = normal(4, 7, 5)
    maps, flags = reference.saliency(
        raw, (31, 63), mode=mode, normalisation=normalisation, relu=True, align_corners=False
    )
    assert not flags.any()
    low = torch.from_numpy(raw.astype(np.float64)).relu()

    def up(m):
        return torch.nn.functional.interpolate(m[:, None], size=(31, 63), mode="bilinear")[:, 0]

    def rescale(m):
        m = m.relu()
        m = m - m.amin(dim=(1, 2), keepdim=True)
        return m / (m.amax(dim=(1, 2), keepdim=True) + 1e-7)

    high = low.amax(dim=(1, 2), keepdim=True)
    least = low.amin(dim=(1, 2), keepdim=True)
    if mode == "library":
        expected = rescale(up(rescale(low)))
    else:
        expected = up(low / high if normalisation == "max" else (low - least) / (high - least))
    assert_close(maps, expected.numpy(), dtype)


@pytest.mark.parametrize(("mode", "normalisation"), MODES)
def test_edge_policy(mode, normalisation, dtype):
    raw, wanted = zip(*degenerate(dtype), strict=True)
    maps, flags = saliency(np.stack(raw), (8, 9), mode=mode, normalisation=normalisation)
    assert [MapFlag(flag) for flag in flags] == list(wanted)
    assert maps[0].max() == pytest.approx(1, rel=1e-6)
    assert not maps[1:].any()


def test_signed_maps_need_nothing_positive_for_minmax(dtype):
    raw = -np.arange(6, dtype=dtype).reshape(1, 2, 3) - 1
    maps, flags = saliency(raw, (2, 3), normalisation="minmax", relu=False)
    assert flags.tolist() == [MapFlag.OK]
    assert_close(maps, (raw + 6) / 5)
    maps, flags = saliency(raw, (2, 3), normalisation="max", relu=False)
    assert flags.tolist() == [MapFlag.NOTHING_POSITIVE]
    assert not maps.any()


def test_signed_map_that_overflows_when_divided():
    raw = np.array([[[-1e38, 1e-38]]], np.float32)
    maps, flags = saliency(raw, (2, 2), relu=False)
    assert flags.tolist() == [MapFlag.NOT_FINITE]
    assert not maps.any()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 8), st.integers(1, 8), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from(MODES), st.booleans(), st.floats(1e-30, 1e30), st.integers(0, 99),
)  # fmt: skip
def test_maps_lie_in_the_unit_interval(h, w, height, width, how, relu, scale, seed):
    raw = (scale * np.random.default_rng(seed).standard_normal((3, h, w))).astype(np.float32)
    maps, flags = saliency(raw, (height, width), mode=how[0], normalisation=how[1], relu=relu, threads=2)
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert not maps[flags != MapFlag.OK].any()


def test_no_maps():
    maps, flags = saliency(np.zeros((0, 3, 3)), (4, 5))
    assert maps.shape == (0, 4, 5)
    assert flags.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw": np.zeros((3, 3))}, r"raw must have the axes \(M, h, w\), got shape \(3, 3\)"),
        ({"raw": np.zeros((1, 0, 3))}, "raw must have at least one row and one column, got 0 x 3"),
        ({"size": (0, 3)}, "size must have at least one row and one column, got 0 x 3"),
        ({"size": (3,)}, r"size must be \(H, W\), got \(3,\)"),
        ({"mode": "other"}, "mode must be 'native' or 'library', got 'other'"),
        ({"normalisation": "sum"}, "normalisation must be 'max' or 'minmax', got 'sum'"),
    ],
    ids=["axes", "empty", "size", "size-length", "mode", "normalisation"],
)
def test_errors_name_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        saliency(**({"raw": np.zeros((1, 3, 3)), "size": (4, 4)} | change))
