import numpy as np
import pytest
import torch

from camrt.kernels.box_probabilities import gpu, reference
from helpers.tolerances import assert_close

# n, h, w, classes, boxes: a block has 256 classes, a tile 8 boxes
SHAPES = [(1, 1, 1, 1, 1), (2, 7, 5, 63, 17), (1, 3, 3, 256, 8), (2, 2, 9, 600, 9)]
# what the logits, what the contributions are multiplied by
RANGES = [(100, 1e-3), (1, 20), (0, 0)]


def all_boxes(h, w):
    return np.array(
        [
            (r, c, r + a, c + b)
            for a in range(1, h + 1)
            for b in range(1, w + 1)
            for r in range(h - a + 1)
            for c in range(w - b + 1)
        ]
    )


def case(rng, n, h, w, classes, spread=(3, 1), targets=3):
    x = spread[1] * rng.standard_normal((n, h, w, classes))
    delete, keep = spread[0] * rng.standard_normal((2, n, classes))
    return *(one.astype(np.float32) for one in (x, delete, keep)), rng.integers(0, classes, (n, targets))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape, rng, tensor, rounded, kind):
    *shape, count = shape
    x, delete, keep, targets = case(rng, *shape)
    boxes = all_boxes(*shape[1:3])
    boxes = boxes[rng.permutation(len(boxes))[:count]]
    found = gpu.box_probabilities_pair(
        *(tensor(one, kind) for one in (x, delete, keep)), tensor(boxes), tensor(targets)
    )
    for sign, logits, one in ((-1, delete, found[0]), (1, keep, found[1])):
        expected = reference.box_probabilities(
            rounded(x, kind), rounded(logits, kind), boxes, targets, sign=sign
        )
        assert one.dtype == getattr(torch, kind)
        assert one.is_contiguous()
        # an altered logit of some tens is rounded to 1e-6 of it, and the power that is taken of it by as much
        assert_close(one.double().cpu().numpy(), expected, kind, factor=4 if kind == "float32" else 1)


@pytest.mark.parametrize("spread", RANGES, ids=str)
@pytest.mark.parametrize("sign", [-1, 1])
def test_one_direction_and_its_ranges(sign, spread, rng, tensor, rounded):
    x, logits, _, targets = case(rng, 2, 3, 4, 300, spread)
    boxes = all_boxes(3, 4)[::4]
    found = gpu.box_probabilities(tensor(x), tensor(logits), tensor(boxes), tensor(targets), sign=sign)
    expected = reference.box_probabilities(
        x.astype(np.float64), logits.astype(np.float64), boxes, targets, sign=sign
    )
    # altered logits of some hundreds are rounded to 1e-5
    assert_close(found.cpu().numpy(), expected, factor=20)


def test_any_strides_and_types_are_read(rng, tensor):
    x, delete, keep, targets = case(rng, 2, 3, 4, 70)
    x, delete, keep = (one.astype(np.float16).astype(np.float32) for one in (x, delete, keep))
    boxes, asked = tensor(all_boxes(3, 4)), tensor(targets)
    plain = gpu.box_probabilities_pair(tensor(x), tensor(delete), tensor(keep), boxes, asked)
    # as an activation lies in memory, of channels before cells
    moved = tensor(x.transpose(0, 3, 1, 2)).permute(0, 2, 3, 1)
    others = gpu.box_probabilities_pair(moved, tensor(delete, gaps=True), tensor(keep), boxes, asked)
    mixed = gpu.box_probabilities_pair(
        tensor(x, gaps=True), tensor(delete, "float16"), tensor(keep, "float16"), boxes.int(), asked.int()
    )
    for one, other, third in zip(plain, others, mixed, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


def test_one_row_of_logits_serves_all_images(rng, tensor):
    x, _, keep, targets = case(rng, 3, 2, 2, 9)
    row = tensor(keep[:1])
    arguments = tensor(all_boxes(2, 2)), tensor(targets)
    spread = gpu.box_probabilities(tensor(x), row.expand(3, 9), *arguments, sign=1)
    assert torch.equal(spread, gpu.box_probabilities(tensor(x), row.repeat(3, 1), *arguments, sign=1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_contributions_that_are_not_finite_stay_in_their_boxes(value, rng, tensor, kind, rounded):
    x, delete, keep, targets = case(rng, 2, 3, 3, 270)
    x[0, 1, 1, 265] = value
    targets[:, :2] = [3, 265]
    boxes = all_boxes(3, 3)[::2]
    holds = (boxes[:, 0] <= 1) & (boxes[:, 2] > 1) & (boxes[:, 1] <= 1) & (boxes[:, 3] > 1)
    found = gpu.box_probabilities_pair(
        *(tensor(one, kind) for one in (x, delete, keep)), tensor(boxes), tensor(targets)
    )
    for sign, logits, one in ((-1, delete, found[0]), (1, keep, found[1])):
        one = one.double().cpu().numpy()
        expected = reference.box_probabilities(
            rounded(x, kind), rounded(logits, kind), boxes, targets, sign=sign
        )
        assert_close(one, expected, kind, factor=4 if kind == "float32" else 1)  # as above
        assert np.isfinite(one[0, ~holds]).all()
        assert np.isfinite(one[1]).all()
        if sign * value != -np.inf:
            assert np.isnan(one[0, holds]).all()


@pytest.mark.parametrize("at", [0, 299], ids=["first-class", "last-class"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(value, at, rng, tensor):
    x, logits, _, _ = case(rng, 1, 2, 3, 300)
    logits[0, at] = value
    found = gpu.box_probabilities(
        tensor(x), tensor(logits), tensor(all_boxes(2, 3)), tensor(np.array([[0, 3, 299]])), sign=-1
    )
    if value == -np.inf:
        assert (found[..., 0 if at == 0 else 2] == 0).all()
        assert torch.isfinite(found).all()
        assert (found[..., 1] > 0).all()
    else:
        assert torch.isnan(found).all()


@pytest.mark.parametrize("first", [0, 256], ids=["first-block", "last-block"])
def test_blocks_of_impossible_classes_are_passed_over(first, rng, tensor):
    x, logits, _, _ = case(rng, 1, 2, 2, 512, (1, 50))
    logits[0, first : first + 256] = -np.inf
    boxes, targets = all_boxes(2, 2), np.array([[0, 511]])
    found = gpu.box_probabilities(tensor(x), tensor(logits), tensor(boxes), tensor(targets), sign=1)
    expected = reference.box_probabilities(
        x.astype(np.float64), logits.astype(np.float64), boxes, targets, sign=1
    )
    assert_close(found.cpu().numpy(), expected, factor=40)  # altered logits of hundreds, rounded to 3e-5
    logits[:] = -np.inf
    found = gpu.box_probabilities(tensor(x), tensor(logits), tensor(boxes), tensor(targets), sign=1)
    assert torch.isnan(found).all()


def test_classes_that_are_equal_share(tensor):
    """A greatest logit that several classes have counts as often, in one block and across blocks."""
    x = tensor(np.zeros((1, 1, 1, 600), np.float32))
    targets = tensor(np.array([[0, 255, 256, 599]]))
    found = gpu.box_probabilities(
        x, tensor(np.full((1, 600), 7, np.float32)), tensor(all_boxes(1, 1)), targets, sign=1
    )
    assert_close(found.cpu().numpy(), np.full((1, 1, 4), 1 / 600))


def test_all_classes_sum_to_one(rng, tensor):
    x, logits, _, _ = case(rng, 1, 2, 2, 300)
    targets = np.arange(300)[None]
    found = gpu.box_probabilities(
        tensor(x), tensor(logits), tensor(all_boxes(2, 2)[:8]), tensor(targets), sign=1
    )
    assert_close(found.double().sum(2).cpu().numpy(), np.ones((1, 8)), np.float32)


def test_nothing_asked(tensor):
    x, logits = tensor(np.zeros((2, 3, 3, 4), np.float32)), tensor(np.zeros((2, 4), np.float32))
    boxes, targets = tensor(all_boxes(3, 3)), tensor(np.zeros((2, 1), np.int64))
    assert gpu.box_probabilities(x, logits, boxes[:0], targets, sign=1).shape == (2, 0, 1)
    assert gpu.box_probabilities(x, logits, boxes, targets[:, :0], sign=1).shape == (2, 36, 0)
    assert gpu.box_probabilities(x[:0], logits[:0], boxes, targets[:0], sign=1).shape == (0, 36, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contributions": torch.zeros(2, 3, 4)}, r"contributions must have the axes \(N, h, w, C\), got sh"),
        ({"contributions": torch.zeros(2, 3, 3, 4).double()}, "contributions must be a tensor of float32, "),
        ({"contributions": torch.zeros(2, 0, 3, 4)}, "at least one cell and one class, got 0 x 3 cells, 4 "),
        ({"contributions": torch.zeros(2, 3, 3, 0)}, "at least one cell and one class, got 3 x 3 cells, 0 "),
        ({"logits": torch.zeros(2, 5)}, r"logits must have shape \(2, 4\) to match .*, got \(2, 5\)"),
        ({"logits": np.zeros((2, 4))}, "logits must be a tensor of .* got ndarray"),
        ({"boxes": torch.zeros(1, 4)}, "boxes must be a tensor of int32 or int64, got torch.float32"),
        ({"boxes": torch.zeros(1, 3).long()}, r"boxes must have shape \(any, 4\), got \(1, 3\)"),
        ({"targets": torch.zeros(3, 1).long()}, r"targets must have shape \(2, any\), got \(3, 1\)"),
        ({"sign": 0}, r"sign must be -1 or \+1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {
        "contributions": torch.zeros(2, 3, 3, 4),
        "logits": torch.zeros(2, 4),
        "boxes": torch.tensor([[0, 0, 1, 1]]),
        "targets": torch.zeros(2, 1).long(),
        "sign": 1,
    }
    with pytest.raises(ValueError, match=message):
        gpu.box_probabilities(**(arguments | change))
    if "logits" in change:
        with pytest.raises(ValueError, match=message.replace("logits", "logits_keep", 1)):
            gpu.box_probabilities_pair(
                arguments["contributions"], arguments["logits"], change["logits"],
                arguments["boxes"], arguments["targets"],
            )  # fmt: skip
