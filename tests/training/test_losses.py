"""CALM's two losses: the specification's vector, their difference, and their equal gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.oracles import calm as oracle
from helpers.tolerances import assert_close

torch = pytest.importorskip("torch")

from camrt.errors import InputError  # noqa: E402
from camrt.training.heads import CALMHead  # noqa: E402
from camrt.training.losses import calm_em_loss, calm_ml_loss, posterior_entropy  # noqa: E402

VECTOR = torch.tensor([[0.45, 0.15, 0.04], [0.05, 0.15, 0.16]], dtype=torch.float64).log().reshape(1, 2, 1, 3)


def test_the_vector() -> None:
    labels = torch.tensor([0])
    assert math.isclose(float(calm_ml_loss(VECTOR, labels)), 0.446287, abs_tol=5e-7)
    assert math.isclose(float(calm_em_loss(VECTOR, labels)), 1.207268, abs_tol=5e-7)
    assert math.isclose(float(posterior_entropy(VECTOR, labels)[0]), 0.760981, abs_tol=5e-7)


@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_two_losses_have_the_same_gradient(
    n: int, c: int, h: int, w: int, reference: bool, seed: int
) -> None:
    """Fisher's identity, for every parameter; the losses differ by the posterior's entropy."""
    torch.manual_seed(seed)
    head = CALMHead(3, c, reference=reference).double()
    features = torch.randn(n, 3, h, w, dtype=torch.float64)
    labels = torch.randint(0, c, (n,))
    gradients = []
    for loss in (calm_ml_loss, calm_em_loss):
        head.zero_grad()
        loss(head(features), labels).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in head.parameters()]).numpy())
    scale = max(1.0, float(np.abs(gradients[0]).max()))
    np.testing.assert_allclose(gradients[1], gradients[0], atol=1e-13 * scale, rtol=0)
    with torch.no_grad():
        joint = head(features)
        gap = calm_em_loss(joint, labels) - calm_ml_loss(joint, labels)
        entropy = posterior_entropy(joint, labels)
    assert (entropy >= -1e-13).all()
    assert abs(float(gap - entropy.mean())) < 1e-12 * max(1.0, float(joint.abs().max()))


@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 99))
def test_the_losses_are_the_papers(n: int, c: int, seed: int) -> None:
    torch.manual_seed(seed)
    head = CALMHead(3, c).double()
    features = torch.randn(n, 3, 2, 3, dtype=torch.float64)
    labels = torch.randint(0, c, (n,))
    other = torch.randn(n, c, 2, 3, dtype=torch.float64).flatten(1).log_softmax(1).reshape(n, c, 2, 3)
    with torch.no_grad():
        found = head(features)
        p = oracle.joint(head.classes(features), head.attention(features))
        assert_close(float(calm_ml_loss(found, labels)), oracle.ml_loss(p, labels), "float64")
        assert_close(float(calm_em_loss(found, labels)), oracle.em_loss(p, labels), "float64")
        expected = oracle.em_loss(p, labels, other.exp().numpy())
        assert_close(float(calm_em_loss(found, labels, other)), expected, "float64")


def test_a_slow_teacher_has_another_gradient() -> None:
    torch.manual_seed(0)
    joint = torch.randn(2, 3, 2, 2, dtype=torch.float64).flatten(1).log_softmax(1).reshape(2, 3, 2, 2)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64).flatten(1).log_softmax(1).reshape(2, 3, 2, 2)
    joint.requires_grad_(True)
    teacher.requires_grad_(True)
    labels = torch.tensor([0, 2])
    (with_teacher,) = torch.autograd.grad(calm_em_loss(joint, labels, teacher), joint)
    (without,) = torch.autograd.grad(calm_em_loss(joint, labels), joint)
    assert not torch.allclose(with_teacher, without)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(calm_em_loss(joint, labels, teacher), teacher)


@pytest.mark.parametrize("loss", [calm_ml_loss, calm_em_loss])
def test_wrong_labels_are_refused(loss: object) -> None:
    assert callable(loss)
    for labels, words in (
        (torch.tensor([2]), "between 2 and 2; the head has 2 classes"),
        (torch.tensor([-1]), "between -1 and -1"),
        (torch.tensor([0.0]), "whole numbers"),
        (torch.tensor([0, 1]), "1 whole numbers"),
    ):
        with pytest.raises(InputError, match=words):
            loss(VECTOR, labels)
    with pytest.raises(InputError, match=r"must be \(N, C, h, w\)"):
        loss(VECTOR[0], torch.tensor([0]))
    with pytest.raises(InputError, match="teacher's"):
        calm_em_loss(VECTOR, torch.tensor([0]), VECTOR[:, :1])
