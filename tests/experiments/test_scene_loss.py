import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from camrt.training.heads import CALMHead
from experiments.scene_loss import calm_scores, frame_weights, scene_loss, soft_targets
from helpers.oracles import calm as oracle


def test_targets_share_equally_and_count_a_class_once():
    classes = torch.tensor([[2, -1, -1, -1], [0, 3, -1, -1], [1, 1, 0, -1], [0, 1, 2, 3]])
    expected = [[0, 0, 1, 0], [0.5, 0, 0, 0.5], [0.5, 0.5, 0, 0], [0.25] * 4]
    assert soft_targets(classes, 4).tolist() == expected


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        pytest.param((0, 0, 16, 16), [[0.25, 0.25], [0.25, 0.25]], id="the whole map"),
        pytest.param((0, 8, 8, 16), [[0, 1], [0, 0]], id="one cell"),
        pytest.param((0, 6, 8, 14), [[0.25, 0.75], [0, 0]], id="across a border"),
        pytest.param((1, 1, 2, 2), [[1, 0], [0, 0]], id="inside a cell"),
        pytest.param((0, 0, 0, 0), [[0, 0], [0, 0]], id="no frame"),
    ],
)
def test_weights_by_hand(frame, expected):
    weights = frame_weights(np.array([frame]), cells=2, stride=8)
    np.testing.assert_allclose(weights[0].numpy(), expected, atol=1e-7)


def test_the_loss_by_hand():
    """Two classes, one channel a class, sure cells: the image at the left is class 0."""
    head = torch.nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
        head.bias.zero_()
    final = torch.zeros(1, 2, 2, 2)
    final[0, 0, :, 0] = 4.0
    final[0, 1, :, 1] = 4.0
    classes = np.array([[0, 1, -1, -1]])
    frames = np.array([[[0, 0, 16, 8], [0, 8, 16, 16], [0, 0, 0, 0], [0, 0, 0, 0]]])
    whole = np.log(2)  # both logits are 2, the target is half and half
    smooth = 0.05 / 2  # of label smoothing, on the other class, whose logit is 4 lower
    each = np.log1p(np.exp(-4.0)) + smooth * 4.0
    for share in (0.0, 0.5, 1.0):
        loss = scene_loss(final, head, classes, frames, stride=8, frame_share=share)
        assert loss.item() == pytest.approx((1 - share) * whole + share * each, abs=1e-6)
    swapped = scene_loss(final, head, classes, frames[:, [1, 0, 2, 3]], stride=8, frame_share=1.0)
    assert swapped.item() > 3


def test_calm_on_a_frame_is_its_own_distribution_given_the_place():
    """log p(y|x, place in f), by the definition in float64, with cells that lie partly in the frame."""
    torch.manual_seed(0)
    head = CALMHead(3, 4).double()
    final = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    classes = np.array([[0, 2, -1, -1], [3, -1, -1, -1]])
    frames = np.zeros((2, 4, 4), np.int64)
    frames[0, 0], frames[0, 1], frames[1, 0] = (0, 0, 12, 10), (12, 8, 24, 24), (3, 5, 20, 21)
    used = torch.from_numpy(classes >= 0)
    weights = frame_weights(frames, 3, 8).double()
    with torch.no_grad():
        p = oracle.joint(head.classes(final), head.attention(final))
        whole, each = calm_scores(final, head, weights, used)
    np.testing.assert_allclose(whole.exp().numpy(), p.sum((2, 3)), rtol=1e-12)
    owners = [(0, 0), (0, 1), (1, 0)]
    for row, (scene, slot) in enumerate(owners):
        inside = weights[scene, slot].numpy()
        expected = (p[scene] * inside).sum((1, 2)) / (p[scene].sum(0) * inside).sum()
        np.testing.assert_allclose(each[row].exp().numpy(), expected, rtol=1e-12)
        assert abs(each[row].exp().sum().item() - 1) < 1e-12


def test_the_loss_with_a_calm_head_has_gradients_everywhere():
    head = CALMHead(3, 4)
    final = torch.randn(1, 3, 3, 3, requires_grad=True)
    frames = np.array([[[0, 0, 8, 8], [8, 8, 24, 24], [0, 0, 0, 0], [0, 0, 0, 0]]])
    loss = scene_loss(final, head, np.array([[1, 3, -1, -1]]), frames, stride=8)
    loss.backward()
    assert torch.isfinite(final.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())
    assert (final.grad != 0).any(1).all()
