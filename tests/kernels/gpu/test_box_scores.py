import numpy as np
import pytest
import torch

from camrt.engine.methods.boxes import place_boxes
from camrt.kernels.box_scores import gpu, reference
from helpers.tolerances import assert_close

# n, K, h, w, classes: a block has 16 classes here, 32 or 64 channels and 32 boxes
SHAPES = [(1, 1, 1, 1, 1), (2, 5, 3, 2, 17), (1, 70, 7, 5, 20)]


def placed(h, w):
    """The boxes of Pixab-CAM."""
    return place_boxes(((1, 1), (2, 2)), (h, w), "coverage").distinct.copy()


def some_boxes(rng, h, w, count=40):
    """Of all sizes, the whole map among them."""
    r0, r1 = np.sort(rng.integers(0, h + 1, (2, count)), axis=0)
    c0, c1 = np.sort(rng.integers(0, w + 1, (2, count)), axis=0)
    boxes = np.stack([r0, c0, r1, c1], axis=1)
    return np.concatenate([boxes[(r0 < r1) & (c0 < c1)], [[0, 0, h, w]]])


def case(rng, n, k, h, w, classes, targets=3):
    features = np.maximum(rng.standard_normal((n, k, h, w)), 0)
    weight = rng.standard_normal((classes, k))
    empty_logits = np.repeat(rng.standard_normal((1, classes)), n, axis=0)
    logits = empty_logits + features.mean((2, 3)) @ weight.T
    arrays = [one.astype(np.float32) for one in (features, weight, logits, empty_logits)]
    return arrays, rng.integers(0, classes, (n, targets))


def softmax_at(logits, targets):
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.take_along_axis(powers / powers.sum(axis=1, keepdims=True), targets, axis=1)


@pytest.fixture(params=["at-once", "looped"])
def cells(request, monkeypatch):
    """Whether a map of more than 16 cells is held, or gone through for each tile of boxes."""
    if request.param == "looped":
        monkeypatch.setattr(gpu, "HELD", 16)
        monkeypatch.setattr(gpu, "LOOPED", 16)


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_probabilities_agree_with_reference(shape, rng, tensor, rounded, kind, layout):
    arrays, targets = case(rng, *shape)
    boxes, scale = some_boxes(rng, *shape[2:4]), 1 / (shape[2] * shape[3])
    features, *others = arrays
    found = gpu.box_scores(
        tensor(features, kind, layout), *(tensor(one, kind) for one in others),
        tensor(boxes), tensor(targets), scale=scale,
    )  # fmt: skip
    wide = [rounded(one, kind) for one in arrays]
    for one, expected in zip(found, reference.box_scores(*wide, boxes, targets, scale=scale), strict=True):
        assert one.dtype == torch.float32
        # logits of some units are rounded to 1e-6
        assert_close(one.cpu().numpy(), expected, factor=4)


def test_any_strides_and_types_are_read(rng, tensor):
    arrays, targets = case(rng, 2, 6, 4, 5, 20)
    arrays = [one.astype(np.float16).astype(np.float32) for one in arrays]
    arrays[3][:] = arrays[3][0]
    boxes = placed(4, 5)
    plain = gpu.box_scores(*(tensor(one) for one in arrays), tensor(boxes), tensor(targets), scale=0.05)
    features, weight, logits, empty_logits = arrays
    others = gpu.box_scores(
        tensor(features, gaps=True), tensor(weight, "float16", gaps=True), tensor(logits, gaps=True),
        tensor(empty_logits[:1], "float16").expand(2, 20), tensor(boxes).int(),
        tensor(targets).int(), scale=0.05,
    )  # fmt: skip
    for one, other in zip(plain, others, strict=True):
        assert torch.equal(one, other)


def test_a_border_around_the_map_is_left_out_by_slicing(rng, tensor):
    arrays, targets = case(rng, 1, 3, 6, 5, 9)
    boxes = placed(4, 3)
    rest = *(tensor(one) for one in arrays[1:]), tensor(boxes), tensor(targets)
    inner = tensor(arrays[0])[:, :, 1:-1, 1:-1]
    pair = gpu.box_scores(inner, *rest, scale=0.1)
    for one, other in zip(pair, gpu.box_scores(inner.contiguous(), *rest, scale=0.1), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(2, 3, 3, 5, 150), (1, 33, 13, 12, 40), (1, 3, 15, 18, 70)], ids=str)
def test_blocks_as_of_many_images(shape, rng, tensor, monkeypatch):
    """Where images are many a block has 64 classes, or 32 where they have more than 128 cells."""
    monkeypatch.setattr(gpu, "ENOUGH", 1)
    arrays, targets = case(rng, *shape)
    boxes = some_boxes(rng, *shape[2:4])
    found = gpu.box_scores(*(tensor(one) for one in arrays), tensor(boxes), tensor(targets), scale=0.01)
    for one, expected in zip(found, reference.box_scores(*arrays, boxes, targets, scale=0.01), strict=True):
        assert_close(one.cpu().numpy(), expected, np.float32, factor=4)  # as above


def test_sums_of_contributions_keep_the_digits_of_float32(rng, tensor):
    """Two classes whose logits differ by little when hundreds are taken from one of them."""
    features = rng.uniform(50, 100, (1, 1, 2, 2)).astype(np.float32)
    boxes = np.array([[0, 0, 1, 1], [0, 0, 2, 1], [0, 0, 2, 2]])
    for box in boxes:
        logits = np.array([[features[0, 0, : box[2], : box[3]].sum(), 0.5]], np.float32)
        arrays = [features, np.array([[1], [0]], np.float32), logits, 0 * logits]
        targets = np.array([[0, 1]])
        found = gpu.box_scores(
            *(tensor(one) for one in arrays), tensor(box[None]), tensor(targets), scale=1.0
        )
        expected = reference.box_scores(*arrays, box[None], targets, scale=1.0)
        # 300 rounded to float32 is 1.5e-5 off; to 16 bits it would be 2e-3
        assert_close(found[0].cpu().numpy(), expected[0], np.float32, factor=20)


def check_odd(tensor, arrays, targets, boxes, kind="float32"):
    """NaN and infinities are where the reference has them. The numbers must be of the type."""
    wide = [one.astype(np.float64) for one in arrays]
    given = [tensor(one, kind) for one in arrays]
    pair = gpu.box_scores(*given, tensor(boxes), tensor(targets), scale=0.1)
    for one, expected in zip(pair, reference.box_scores(*wide, boxes, targets, scale=0.1), strict=True):
        assert_close(one.cpu().numpy(), expected, np.float32, factor=4)  # as above
    return np.isfinite(pair[0].cpu().numpy())


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_stay_in_their_boxes(value, rng, tensor):
    arrays, targets = case(rng, 2, 3, 4, 5, 9)
    arrays[0][0, 1, 2, 3] = value
    boxes = np.concatenate([some_boxes(rng, 4, 5, 12), [[2, 3, 3, 4], [0, 0, 2, 4]]])
    finite = check_odd(tensor, arrays, targets, boxes)
    holds = (boxes[:, 0] <= 2) & (boxes[:, 2] > 2) & (boxes[:, 1] <= 3) & (boxes[:, 3] > 3)
    assert (finite[0] == ~holds[:, None]).all()
    assert finite[1].all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["weight", "logits", "empty_logits"])
def test_weights_and_logits_that_are_not_finite(where, value, rng, tensor, rounded):
    """In half types, since an infinite weight of float32, cut in two, may make NaN."""
    arrays, targets = case(rng, 2, 3, 3, 4, 40)
    arrays[0] += 0.1  # an infinite weight meets no zero
    arrays = [rounded(one, "float16") for one in arrays]
    targets[:, 0] = 33
    arrays[["weight", "logits", "empty_logits"].index(where) + 1][1, 33 if where != "weight" else 1] = value
    finite = check_odd(tensor, arrays, targets, placed(3, 4), "float16")
    assert finite[0].any() or where == "weight"


def test_infinities_of_both_signs_are_nan_together(tensor):
    """+inf and −inf of one class in one box make NaN; −inf and −inf leave an impossible class."""
    features = np.array([[[[1.0, -1.0, 1.0, 0.5]]]], np.float32)
    weight = np.array([[np.inf], [1], [2]], np.float32)
    arrays = [features, weight, np.ones((1, 3), np.float32), np.ones((1, 3), np.float32)]
    boxes = np.array([[0, 0, 1, 2], [0, 2, 1, 4], [0, 1, 1, 2]])
    finite = check_odd(tensor, arrays, np.array([[1, 0]]), boxes)
    assert finite[0, :, 0].tolist() == [False, True, False]


def test_deleting_the_whole_map_leaves_nothing(rng, tensor):
    arrays, targets = case(rng, 1, 40, 5, 7, 33)
    deleted, kept = gpu.box_scores(
        *(tensor(one) for one in arrays), tensor(np.array([[0, 0, 5, 7]])), tensor(targets), scale=1 / 35
    )
    assert_close(deleted[:, 0].cpu().numpy(), softmax_at(arrays[3], targets), np.float32, factor=4)
    assert_close(kept[:, 0].cpu().numpy(), softmax_at(arrays[2], targets), np.float32, factor=4)


def test_nothing_asked(rng, tensor):
    arrays, targets = case(rng, 2, 3, 2, 2, 4)
    given, targets = [tensor(one) for one in arrays], tensor(targets)
    boxes = tensor(placed(2, 2))
    assert gpu.box_scores(*given, boxes[:0], targets, scale=1.0)[0].shape == (2, 0, 3)
    assert gpu.box_scores(*given, boxes, targets[:, :0], scale=1.0)[1].shape == (2, len(boxes), 0)
    none = [given[0][:0], given[1], given[2][:0], given[3][:0]]
    assert gpu.box_scores(*none, boxes, targets[:0], scale=1.0)[0].shape == (0, len(boxes), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(2, 3, 2)}, r"features must have the axes \(N, K, h, w\), got shape"),
        ({"features": torch.zeros(2, 3, 0, 2)}, "features must have at least one cell, got 0 x 2"),
        ({"features": torch.zeros(2, 3, 2, 2).double()}, "features must be a tensor of float32, float16 or"),
        ({"weight": torch.zeros(4, 2)}, r"weight must have .* 3 channels like features, got \(4, 2\)"),
        ({"weight": torch.zeros(0, 3)}, "weight must have at least one class"),
        ({"logits": torch.zeros(2, 5)}, r"logits must have shape \(2, 4\), got \(2, 5\)"),
        ({"empty_logits": torch.zeros(1, 4)}, r"empty_logits must have shape \(2, 4\), got \(1, 4\)"),
        ({"boxes": torch.zeros(1, 4)}, "boxes must be a tensor of int32 or int64, got torch.float32"),
        ({"targets": torch.zeros(2).long()}, r"targets must have shape \(2, any\), got \(2,\)"),
        ({"scale": float("nan")}, "scale must be finite, got nan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {
        "features": torch.zeros(2, 3, 2, 2),
        "weight": torch.zeros(4, 3),
        "logits": torch.zeros(2, 4),
        "empty_logits": torch.zeros(2, 4),
        "boxes": torch.tensor([[0, 0, 1, 1]]),
        "targets": torch.zeros(2, 1).long(),
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        gpu.box_scores(**(arguments | change))
