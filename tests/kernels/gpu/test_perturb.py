import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.evaluation.metrics.curves import ranks_of
from camrt.kernels.perturb import gpu, reference

SIZES = [(1, 1, 1), (3, 7, 5), (2, 63, 1), (1, 1, 63), (3, 33, 65), (4, 9, 31)]


def case(rng, size, sheets=4, rankings=3, batch=12):
    pixels = size[1] * size[2]
    ranks = np.stack([rng.permutation(pixels) for _ in range(rankings)])
    count = rng.integers(0, pixels + 1, batch)
    count[:2] = [0, pixels]
    picks = [rng.integers(0, limit, batch) for limit in (rankings, sheets, sheets)]
    values = rng.standard_normal((sheets, *size)).astype(np.float32)
    return values, (ranks, picks[0], count, picks[1], picks[2]), (batch, *size)


@pytest.fixture
def agrees(tensor, poisoned, rounded):
    """Run a case, and compare bit by bit: numbers are copied."""

    def check(sheets, choice, shape, kind="float32", layout="NCHW", put=tensor, integers=np.int32):
        out = poisoned(shape, kind, layout)
        gpu.perturb(put(sheets, kind), *(tensor(one.astype(integers)) for one in choice), out)
        expected = np.full(shape, np.nan)
        reference.perturb(rounded(sheets, kind), *choice, expected)
        np.testing.assert_array_equal(out.double().cpu().numpy(), expected)

    return check


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_agrees_with_reference(size, rng, agrees, tensor, kind, layout):
    sheets, choice, shape = case(rng, size)
    sheets[0, 0, 0, 0], sheets[1, -1, -1, -1], sheets[2, 0, 0] = np.nan, -np.inf, -0.0
    agrees(sheets, choice, shape, kind, layout, lambda a, k: tensor(a, k, layout))


@pytest.mark.parametrize("sheets_last", [False, True], ids=["sheets-NCHW", "sheets-NHWC"])
@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "gaps"])
def test_any_strides_are_read(gaps, sheets_last, layout, rng, agrees, tensor):
    def put(array, kind):
        if not sheets_last:
            return tensor(array, kind, gaps=gaps)
        return tensor(array.transpose(0, 2, 3, 1), kind, gaps=gaps).permute(0, 3, 1, 2)

    agrees(*case(rng, (3, 9, 35)), layout=layout, put=put)


def test_rows_of_channels_last_sheets_may_lie_apart(rng, agrees, tensor):
    def cropped(array, kind):
        wide = np.pad(array, ((0, 0), (0, 0), (0, 0), (2, 3)), constant_values=np.nan)
        return tensor(wide, kind, "NHWC")[..., 2:-3]

    agrees(*case(rng, (3, 9, 35)), layout="NHWC", put=cropped)


def test_sheets_and_output_may_differ_in_type(rng, tensor, poisoned, rounded):
    sheets, choice, shape = case(rng, (2, 6, 5))
    out, expected = poisoned(shape, "float16"), np.full(shape, np.nan)
    gpu.perturb(tensor(sheets), *map(tensor, choice), out)
    reference.perturb(rounded(sheets, "float16"), *choice, expected)
    np.testing.assert_array_equal(out.double().cpu().numpy(), expected)


@pytest.mark.parametrize("batch", [1, 7, 17, 40])
def test_programs_may_write_many_images(batch, rng, agrees, monkeypatch):
    monkeypatch.setattr(gpu, "PROGRAMS", 1)
    sheets, choice, shape = case(rng, (2, 5, 33), batch=max(batch, 2))
    agrees(sheets, (choice[0], *(one[:batch] for one in choice[1:])), (batch, *shape[1:]))


def test_integers_may_be_wide_or_apart(rng, agrees, tensor, poisoned):
    sheets, choice, shape = case(rng, (3, 7, 34))
    agrees(sheets, choice, shape, integers=np.int64)
    outs = [poisoned(shape, "float32") for _ in range(2)]
    for out, gaps in zip(outs, (False, True), strict=True):
        gpu.perturb(tensor(sheets), *(tensor(one, gaps=gaps) for one in choice), out)
    assert torch.equal(*outs)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 99))
def test_each_step_alters_the_pixels_of_its_ranks_alone(device, height, width, seed):
    pixels = height * width
    sheets = torch.stack([torch.zeros(2, height, width), torch.ones(2, height, width)]).to(device)
    saliency = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (1, height, width))).float()
    ranks = gpu.ranks_of(saliency.to(device))
    steps = torch.arange(pixels + 1, device=device)
    out = torch.full((pixels + 1, 2, height, width), float("nan"), device=device)
    none = torch.zeros_like(steps)
    gpu.perturb(sheets, ranks, none, steps, none + 1, none, out)
    assert out.flatten(2).sum(dim=2).tolist() == [[k, k] for k in range(pixels + 1)]
    order = out[:, 0].flatten(1).diff(dim=0).argmax(dim=1)
    assert order.tolist() == torch.argsort(ranks[0]).tolist()


def test_empty_batch(tensor, poisoned):
    none = tensor(np.zeros(0, np.int64))
    sheets, ranks = tensor(np.ones((1, 1, 2, 2), np.float32)), tensor(np.arange(4)[None])
    gpu.perturb(sheets, ranks, none, none, none, none, poisoned((0, 1, 2, 2), "float32"))
    gpu.perturb(sheets[:0], ranks[:0], none, none, none, none, poisoned((0, 1, 2, 2), "float32"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sheets": torch.zeros(2, 3, 4)}, r"sheets must have the axes \(S, C, H, W\), got shape"),
        ({"sheets": torch.zeros(2, 3, 2, 4).double()}, "sheets must be a tensor of float32, .* got torch.f"),
        ({"sheets": torch.zeros(0, 3, 2, 4)}, "0 sheets and 1 rankings for 2 images"),
        ({"ranks": torch.zeros(0, 8).int()}, "2 sheets and 0 rankings for 2 images"),
        ({"ranks": torch.zeros(1, 7).int()}, r"ranks must have shape \(any, 8\), got \(1, 7\)"),
        ({"ranks": torch.zeros(1, 8)}, "ranks must be a tensor of int32 or int64, got torch.float32"),
        ({"ranking": torch.zeros(2, 1).int()}, r"ranking must have shape \(any\), got \(2, 1\)"),
        ({"count": torch.zeros(1).int()}, r"count must have shape \(2\), got \(1,\)"),
        ({"first": [0, 1]}, "first must be a tensor of int32 or int64, got list"),
        ({"rest": torch.zeros(2, dtype=torch.int16)}, "rest must be a tensor of int32 or int64, got torch.i"),
        ({"out": torch.zeros(1, 3, 2, 4)}, r"out must have shape \(2, 3, 2, 4\), got \(1, 3, 2, 4\)"),
        ({"out": torch.zeros(2, 3, 2, 8)[..., ::2]}, "out must be contiguous or channels-last, got strides"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {
        "sheets": torch.zeros(2, 3, 2, 4),
        "ranks": torch.arange(8, dtype=torch.int32)[None],
        "ranking": torch.zeros(2).int(),
        "count": torch.tensor([0, 8]).int(),
        "first": torch.tensor([0, 1]).int(),
        "rest": torch.tensor([1, 0]).int(),
        "out": torch.zeros(2, 3, 2, 4),
    }
    with pytest.raises(ValueError, match=message):
        gpu.perturb(**(arguments | change))


def test_out_may_not_be_what_is_read():
    sheets, index = torch.zeros(2, 1, 2, 2), torch.zeros(2).int()
    with pytest.raises(ValueError, match="out must not share memory"):
        gpu.perturb(sheets, torch.arange(4).int()[None], index, index, index, index, sheets)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 7, 5), (2, 63, 1), (0, 4, 4), (2, 0, 3), (2, 40, 41)], ids=str
)
def test_ranks_are_those_of_the_metrics(shape, rng, tensor, rounded, kind):
    maps = rng.integers(-3, 4, shape) * np.float32(0.3)  # many of one value, and zeros of both signs
    maps[rng.random(shape) < 0.1] = -0.0
    found = gpu.ranks_of(tensor(maps, kind))
    assert found.dtype == torch.int32
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.cpu().numpy(), ranks_of(rounded(maps, kind)))


def test_ranks_of_maps_with_gaps(rng, tensor):
    maps = rng.standard_normal((2, 7, 5)).astype(np.float32)
    np.testing.assert_array_equal(gpu.ranks_of(tensor(maps, gaps=True)).cpu().numpy(), ranks_of(maps))


def test_nan_is_ranked_last_and_infinities_at_the_ends(tensor):
    maps = np.array([[[np.nan, 1, -np.inf], [np.inf, np.nan, -1]]], np.float32)
    assert gpu.ranks_of(tensor(maps)).tolist() == [[4, 1, 3, 0, 5, 2]]


def test_ranks_want_maps_of_numbers():
    with pytest.raises(ValueError, match=r"saliency must have the axes \(R, H, W\), got shape \(4, 4\)"):
        gpu.ranks_of(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"saliency must be a tensor of float32, .* got torch\.int64"):
        gpu.ranks_of(torch.zeros(1, 4, 4).long())
