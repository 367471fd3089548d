import numpy as np
import pytest
import torch

from camrt.kernels.ablate import gpu, reference
from helpers.tolerances import assert_close

# (N, K, h, w): maps smaller than a vector, borders of channels within vectors, several tiles of a row.
SHAPES = [
    (1, 1, 1, 1),
    (2, 7, 1, 1),
    (3, 4, 7, 5),
    (2, 5, 1, 3),
    (2, 65, 3, 21),
    (1, 3, 40, 37),
    (2, 40, 7, 7),
]


def boxes_for(rng, count, h, w):
    r0, c0 = rng.integers(0, h, count), rng.integers(0, w, count)
    return np.stack([r0, c0, rng.integers(r0 + 1, h + 1), rng.integers(c0 + 1, w + 1)], axis=1)


def ablations(module, a, batch_index, channel, boxes, make):
    """The three ablations by a module's functions, each into an array made for it."""
    outs = [make() for _ in range(3)]
    module.ablate_channels(a, batch_index, channel, outs[0])
    module.ablate_boxes(a, batch_index, boxes, outs[1], keep=False)
    module.ablate_boxes(a, batch_index, boxes, outs[2], keep=True)
    return outs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape, rng, tensor, poisoned, rounded, kind, layout):
    n, k, h, w = shape
    a = rng.standard_normal(shape).astype(np.float32)
    a[0, 0, 0, 0], a[-1, -1, -1, -1] = np.nan, np.inf
    batch_index, channel, boxes = rng.integers(0, n, 5), rng.integers(0, k, 5), boxes_for(rng, 5, h, w)
    found = ablations(
        gpu, tensor(a, kind, layout), tensor(batch_index), tensor(channel), tensor(boxes),
        lambda: poisoned((5, k, h, w), kind, layout),
    )  # fmt: skip
    expected = ablations(
        reference, rounded(a, kind), batch_index, channel, boxes, lambda: np.full((5, k, h, w), np.nan)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.double().cpu().numpy(), other)


@pytest.mark.parametrize("source", ["NCHW", "NHWC", "gaps"])
def test_any_strides_are_read(source, rng, tensor, poisoned, layout):
    a = rng.standard_normal((2, 13, 5, 3)).astype(np.float32)
    batch_index, channel, boxes = rng.integers(0, 2, 4), rng.integers(0, 13, 4), boxes_for(rng, 4, 5, 3)
    given = tensor(a, gaps=True) if source == "gaps" else tensor(a, layout=source)
    index = [tensor(each.astype(np.int32)) for each in (batch_index, channel, boxes)]
    found = ablations(gpu, given, *index, lambda: poisoned((4, 13, 5, 3), "float32", layout))
    expected = ablations(
        reference, a, batch_index, channel, boxes, lambda: np.full((4, 13, 5, 3), np.nan, np.float32)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.cpu().numpy(), other)


@pytest.mark.parametrize("kinds", [("float32", "float16"), ("bfloat16", "float32"), ("float16", "bfloat16")])
def test_the_types_of_both_sides_are_their_own(kinds, rng, tensor, poisoned):
    a = tensor(rng.standard_normal((1, 6, 3, 3)).astype(np.float32), kinds[0])
    out = poisoned((2, 6, 3, 3), kinds[1])
    gpu.ablate_channels(a, tensor(np.zeros(2, int)), tensor(np.array([5, 0])), out)
    expected = a.double().repeat(2, 1, 1, 1).cpu().numpy()
    expected[0, 5] = expected[1, 0] = 0
    # The interpreter cuts what is stored as bfloat16 off, where a GPU rounds it.
    assert_close(out.double().cpu().numpy(), expected, kinds[1])


def test_deletion_and_preservation_add_up(rng, tensor, poisoned, layout):
    a = tensor(rng.standard_normal((2, 9, 6, 7)).astype(np.float32), layout=layout)
    batch_index, boxes = rng.integers(0, 2, 8), tensor(boxes_for(rng, 8, 6, 7))
    without, only = (poisoned((8, 9, 6, 7), "float32", layout) for _ in range(2))
    gpu.ablate_boxes(a, tensor(batch_index), boxes, without, keep=False)
    gpu.ablate_boxes(a, tensor(batch_index), boxes, only, keep=True)
    assert torch.equal(without + only, a[torch.from_numpy(batch_index).to(a.device)])


def test_what_is_ablated_leaves_no_trace(tensor, poisoned, layout):
    a = tensor(np.full((1, 2, 3, 3), np.nan, np.float32), layout=layout)
    batch_index, out = tensor(np.zeros(1, int)), poisoned((1, 2, 3, 3), "float32", layout)
    gpu.ablate_boxes(a, batch_index, tensor(np.array([[0, 0, 3, 3]])), out, keep=False)
    assert not out.any()
    gpu.ablate_channels(a, batch_index, tensor(np.ones(1, int)), out)
    assert not out[:, 1].any()
    assert out[:, 0].isnan().all()


def test_a_box_without_cells_is_nothing(tensor, poisoned):
    a, batch_index = tensor(np.ones((1, 2, 3, 3), np.float32)), tensor(np.zeros(1, int))
    out, box = poisoned((1, 2, 3, 3), "float32"), tensor(np.array([[2, 1, 2, 3]]))
    gpu.ablate_boxes(a, batch_index, box, out, keep=True)
    assert not out.any()
    gpu.ablate_boxes(a, batch_index, box, out, keep=False)
    assert (out == 1).all()


def test_tiles_hold_every_element_once():
    for channels, cells in [
        (2048, 49),
        (512, 49),
        (1280, 49),
        (512, 196),
        (3, 5),
        (1, 1),
        (100, 3),
        (4096, 1),
    ]:
        for item in (2, 4):
            for last in (False, True):
                tiles = gpu.tiles_of(channels, cells, last=last, item=item)
                width = tiles.units * tiles.vector
                places = tiles.count * tiles.rows * tiles.columns
                assert tiles.across * tiles.columns >= width
                assert tiles.count // tiles.across * tiles.rows * width >= tiles.size == channels * cells
                assert last or width * item % 16 == 0
                assert tiles.vector == 1 or cells >= tiles.vector
                assert tiles.size < 20_000 or tiles.size >= 0.75 * places


def test_empty_batch(tensor, poisoned):
    a, none = tensor(np.ones((1, 2, 3, 3), np.float32)), tensor(np.zeros(0, int))
    out = poisoned((0, 2, 3, 3), "float32")
    gpu.ablate_channels(a, none, none, out)
    gpu.ablate_boxes(a, none, tensor(np.zeros((0, 4), int)), out, keep=True)


MAPS = torch.zeros(2, 3, 4, 4)
PAIR = torch.zeros(2).long()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": MAPS[0]}, r"activations must have the axes \(N, K, h, w\), got shape \(3, 4, 4\)"),
        ({"batch_index": PAIR.float()}, "batch_index must be a tensor of int32 or int64, got torch.float32"),
        ({"channel": torch.zeros(3).long()}, r"channel must have shape \(2\), got \(3,\)"),
        ({"boxes": torch.zeros(2, 3).long()}, r"boxes must have shape \(2, 4\), got \(2, 3\)"),
        ({"boxes": np.zeros((2, 4))}, "boxes must be a tensor of int32 or int64, got ndarray"),
        ({"out": torch.zeros(2, 3, 4, 5)}, r"out must have shape \(2, 3, 4, 4\), got \(2, 3, 4, 5\)"),
        ({"out": MAPS.mT}, "out must be contiguous or channels-last, got strides"),
        ({"out": MAPS.double()}, "out must be a tensor of .* got torch.float64"),
        ({"activations": MAPS, "out": MAPS}, "out must not share memory"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    given = {"activations": MAPS, "batch_index": PAIR, "out": MAPS.clone()}
    for ablate, own in (
        (gpu.ablate_channels, {"channel": PAIR}),
        (gpu.ablate_boxes, {"boxes": torch.zeros(2, 4).long(), "keep": True}),
    ):
        if set(change) <= set(given | own):
            with pytest.raises(ValueError, match=message):
                ablate(**(given | own | change))
