import numpy as np
import pytest
import torch

from camrt.kernels.first_layer_difference import gpu, reference
from helpers.tolerances import assert_close

# (N, h, w, F): features past a tile, a single cell, long boxes.
SHAPES = [(1, 1, 1, 1), (3, 7, 5, 63), (2, 2, 9, 130), (1, 7, 7, 16), (1, 2, 2, 2100)]
# (N, K, F)
CHANNELS = [(1, 1, 1), (3, 7, 63), (2, 40, 520)]


def boxes_for(rng, count, h, w):
    r0, c0 = rng.integers(0, h, count), rng.integers(0, w, count)
    return np.stack([r0, c0, rng.integers(r0 + 1, h + 1), rng.integers(c0 + 1, w + 1)], axis=1)


def case(rng, *shape):
    return [rng.standard_normal(s).astype(np.float32) for s in ((shape[0], shape[-1]), shape)]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_boxes_agree_with_reference(shape, keep, rng, tensor, poisoned, rounded, kind):
    n, h, w, f = shape
    start, partial = case(rng, *shape)
    batch_index, boxes = rng.integers(0, n, 70), boxes_for(rng, 70, h, w)
    out = poisoned((70, f), kind)
    gpu.first_layer_boxes(
        tensor(start, kind), tensor(partial, kind), tensor(batch_index), tensor(boxes), out, keep=keep
    )
    expected = np.full(out.shape, np.nan)
    reference.first_layer_boxes(
        rounded(start, kind), rounded(partial, kind), batch_index, boxes, expected, keep=keep
    )
    assert_close(out.double().cpu().numpy(), expected, kind)


@pytest.mark.parametrize("shape", CHANNELS, ids=str)
def test_channels_agree_with_reference(shape, rng, tensor, poisoned, rounded, kind):
    n, k, f = shape
    start, partial = case(rng, *shape)
    partial[-1, -1, 0], start[0, -1] = np.nan, -np.inf
    batch_index, channel = rng.integers(0, n, 19), rng.integers(0, k, 19)
    out = poisoned((19, f), kind)
    gpu.first_layer_channels(
        tensor(start, kind), tensor(partial, kind), tensor(batch_index), tensor(channel), out
    )
    expected = np.full(out.shape, np.nan)
    reference.first_layer_channels(
        rounded(start, kind), rounded(partial, kind), batch_index, channel, expected
    )
    assert_close(out.double().cpu().numpy(), expected, kind)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("keep", [False, True])
def test_what_is_not_finite_reaches_its_own_boxes_alone(keep, value, rng, tensor, poisoned):
    start, partial = case(rng, 2, 5, 6, 20)
    partial[1, 2, 3, 7], partial[1, 4, 0, 8], partial[0, 0, 0, 9] = value, value, np.inf
    start[0, 3] = value
    batch_index, boxes = rng.integers(0, 2, 60), boxes_for(rng, 60, 5, 6)
    out = poisoned((60, 20), "float32")
    gpu.first_layer_boxes(tensor(start), tensor(partial), tensor(batch_index), tensor(boxes), out, keep=keep)
    expected = np.full(out.shape, np.nan)
    reference.first_layer_boxes(start, partial, batch_index, boxes, expected, keep=keep)
    assert 0 < (~np.isfinite(expected)).sum() < 0.1 * expected.size
    assert_close(out.cpu().numpy(), expected, "float32")


def test_any_strides_are_read(rng, tensor, poisoned):
    start, cells = case(rng, 2, 3, 4, 21)
    _, channels = case(rng, 2, 5, 21)
    batch_index, channel = tensor(rng.integers(0, 2, 9).astype(np.int32)), tensor(rng.integers(0, 5, 9))
    boxes = tensor(boxes_for(rng, 9, 3, 4).astype(np.int32))
    found = []
    for gaps in (False, True):
        boxed, single = poisoned((9, 21), "float32"), poisoned((9, 21), "float32")
        gpu.first_layer_boxes(
            tensor(start, gaps=gaps), tensor(cells, gaps=gaps), batch_index, boxes, boxed, keep=True
        )
        gpu.first_layer_channels(
            tensor(start, gaps=gaps), tensor(channels, gaps=gaps), batch_index, channel, single
        )
        found.append(torch.stack([boxed, single]))
    assert torch.equal(*found)


def test_types_may_differ(rng, tensor, poisoned, rounded):
    start, partial = case(rng, 2, 3, 4, 40)
    batch_index, boxes = rng.integers(0, 2, 9), boxes_for(rng, 9, 3, 4)
    out = poisoned((9, 40), "float16")
    gpu.first_layer_boxes(
        tensor(start, "bfloat16"), tensor(partial), tensor(batch_index), tensor(boxes), out, keep=False
    )
    expected = np.full(out.shape, np.nan)
    reference.first_layer_boxes(rounded(start, "bfloat16"), partial, batch_index, boxes, expected, keep=False)
    assert_close(out.double().cpu().numpy(), expected, "float16")


def test_one_answer_may_do_for_all_images(rng, tensor, poisoned):
    start, partial = case(rng, 3, 2, 2, 9)
    batch_index, boxes = tensor(np.arange(3)), tensor(boxes_for(rng, 3, 2, 2))
    one, each = poisoned((3, 9), "float32"), poisoned((3, 9), "float32")
    gpu.first_layer_boxes(tensor(start[0]), tensor(partial), batch_index, boxes, one, keep=True)
    gpu.first_layer_boxes(
        tensor(start[:1].repeat(3, 0)), tensor(partial), batch_index, boxes, each, keep=True
    )
    assert torch.equal(one, each)
    gpu.first_layer_channels(tensor(start[0]), tensor(partial[:, 0]), batch_index, 0 * batch_index, one)
    assert torch.equal(one, tensor(start[0] - partial[:, 0, 0]))


def test_deletion_and_preservation_add_up(rng, tensor, poisoned):
    """What a box takes away by its absence it brings by itself."""
    partial = rng.standard_normal((2, 4, 4, 33)).astype(np.float32)
    bias = rng.standard_normal(33).astype(np.float32)
    whole = bias + partial.sum((1, 2))
    batch_index, boxes = rng.integers(0, 2, 40), boxes_for(rng, 40, 4, 4)
    deleted, kept = poisoned((40, 33), "float32"), poisoned((40, 33), "float32")
    given = tensor(partial), tensor(batch_index), tensor(boxes)
    gpu.first_layer_boxes(tensor(whole), *given, deleted, keep=False)
    gpu.first_layer_boxes(tensor(bias), *given, kept, keep=True)
    assert_close(
        (deleted.double() + kept).cpu().numpy(), (whole.astype(np.float64) + bias)[batch_index], "float32"
    )


def test_a_box_without_cells_changes_nothing(rng, tensor, poisoned):
    start, partial = case(rng, 1, 3, 3, 5)
    out, batch_index = poisoned((2, 5), "float32"), tensor(np.zeros(2, int))
    boxes = tensor(np.array([[1, 1, 1, 3], [2, 2, 3, 1]]))
    gpu.first_layer_boxes(tensor(start), tensor(partial), batch_index, boxes, out, keep=False)
    assert torch.equal(out, tensor(start.repeat(2, 0)))


def test_empty_batch(tensor, poisoned):
    start, none, out = (
        tensor(np.ones((1, 3), np.float32)),
        tensor(np.zeros(0, int)),
        poisoned((0, 3), "float32"),
    )
    cells = tensor(np.ones((1, 2, 2, 3), np.float32))
    gpu.first_layer_boxes(start, cells, none, tensor(np.zeros((0, 4), int)), out, keep=True)
    gpu.first_layer_channels(start, cells[:, 0], none, none, out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partial": torch.zeros(2, 5)}, "partial must have the axes"),
        ({"start": torch.zeros(1, 5)}, r"start must have shape \(2, 5\) or \(5,\), got \(1, 5\)"),
        ({"start": torch.zeros(2, 5, 1)}, r"start must have the axes \(N, F\), got shape \(2, 5, 1\)"),
        ({"start": np.zeros(5)}, "start must be a tensor of .* got ndarray"),
        ({"batch_index": torch.zeros(3)}, "batch_index must be a tensor of int32 or int64, got torch.flo"),
        ({"channel": torch.zeros(2).long()}, r"channel must have shape \(3\), got \(2,\)"),
        ({"boxes": torch.zeros(3, 2).long()}, r"boxes must have shape \(3, 4\), got \(3, 2\)"),
        ({"out": torch.zeros(3, 6)}, r"out must have shape \(3, 5\), got \(3, 6\)"),
        ({"out": torch.zeros(5, 3).T}, "out must be contiguous or channels-last, got strides"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    given = {"start": torch.zeros(2, 5), "batch_index": torch.zeros(3).long(), "out": torch.zeros(3, 5)}
    boxes = {"partial": torch.zeros(2, 3, 3, 5), "boxes": torch.zeros(3, 4).long(), "keep": True}
    channels = {"partial": torch.zeros(2, 4, 5), "channel": torch.zeros(3).long()}
    for compute, own in ((gpu.first_layer_boxes, boxes), (gpu.first_layer_channels, channels)):
        if set(change) <= set(given | own):
            with pytest.raises(ValueError, match=message):
                compute(**(given | own | change))


def test_out_may_not_be_what_is_read():
    start, index = torch.zeros(2, 5), torch.zeros(2).long()
    with pytest.raises(ValueError, match="out must not share memory"):
        gpu.first_layer_channels(start, torch.zeros(2, 4, 5), index, index, start)
    with pytest.raises(ValueError, match="out must not share memory"):
        gpu.first_layer_boxes(
            start[0], torch.zeros(2, 3, 3, 5), index, torch.zeros(2, 4).long(), start, keep=True
        )
