"""The CAM and CALM heads: the specification's vectors, identities, and numbers at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.oracles import calm as oracle
from helpers.tolerances import assert_close

torch = pytest.importorskip("torch")

from camrt.errors import InputError  # noqa: E402
from camrt.training.heads import REFERENCE_EPSILON, CALMHead, CAMHead, log_softplus  # noqa: E402


def calm(channels: int, classes: int, dtype: torch.dtype = torch.float64, **options: bool) -> CALMHead:
    torch.manual_seed(0)
    return CALMHead(channels, classes, **options).to(dtype)


def shapes() -> st.SearchStrategy[tuple[int, int, int, int, int]]:
    return st.tuples(*(st.integers(1, high) for high in (3, 5, 4, 4, 4)))


def test_the_vector_of_cam() -> None:
    head = CAMHead(2, 2)
    with torch.no_grad():
        head.classes.weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 0.0]])[:, :, None, None])
        head.classes.bias.copy_(torch.tensor([0.5, 0.0]))
        features = torch.tensor([[1.0, 3.0], [0.0, 2.0]]).reshape(1, 2, 1, 2)
        maps, logits = head(features), head.scores(features)
    np.testing.assert_array_equal(maps.numpy().reshape(2, 2), [[1.5, 1.5], [2, 6]])
    np.testing.assert_array_equal(logits.numpy(), [[1.5, 4]])


@given(shapes())
def test_the_mean_of_class_maps_is_the_linear_layer_of_the_mean(
    sizes: tuple[int, int, int, int, int],
) -> None:
    n, k, c, h, w = sizes
    torch.manual_seed(1)
    head = CAMHead(k, c).double()
    features = torch.randn(n, k, h, w, dtype=torch.float64)
    with torch.no_grad():
        assert_close(head.scores(features).numpy(), head(features).mean((2, 3)).numpy())


@given(shapes())
def test_calm_is_the_papers_product(sizes: tuple[int, int, int, int, int]) -> None:
    n, k, c, h, w = sizes
    head = calm(k, c)
    features = torch.randn(n, k, h, w, dtype=torch.float64)
    with torch.no_grad():
        expected = oracle.joint(head.classes(features), head.attention(features))
        found = head(features).exp().numpy()
        scores = head.scores(features).exp().numpy()
    assert_close(found, expected)
    assert_close(found.sum((1, 2, 3)), np.ones(n))
    assert_close(scores, expected.sum((2, 3)))


def test_the_vector_of_calm() -> None:
    g = torch.tensor([[0.9, 0.5, 0.2], [0.1, 0.5, 0.8]], dtype=torch.float64)
    h = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    head = CALMHead(3, 2).double()  # its three channels carry log g of both classes, and u
    with torch.no_grad():
        for layer in (head.classes, head.attention):
            layer.weight.zero_()
            layer.bias.zero_()
        head.classes.weight[0, 0] = head.classes.weight[1, 1] = head.attention.weight[0, 2] = 1
        u = torch.expm1(h).log()  # softplus(u) = h
        features = torch.stack([g[0].log(), g[1].log(), u]).reshape(1, 3, 1, 3)
        joint = head(features).exp().numpy().reshape(2, 3)
        scores = head.scores(features).exp().numpy()
    assert_close(joint, np.array([[0.45, 0.15, 0.04], [0.05, 0.15, 0.16]]))
    assert_close(scores, np.array([[0.64, 0.36]]))
    assert_close(joint[0] - joint[1], np.array([0.40, 0, -0.12]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("level", [1e4, -1e4, 0.0])
def test_extreme_features_leave_a_distribution(dtype: torch.dtype, reference: bool, level: float) -> None:
    head = calm(2, 3, torch.float32, reference=reference)
    with torch.no_grad():
        for layer in (head.classes, head.attention):
            layer.weight.fill_(0.5)
            layer.bias.zero_()
    features = torch.full((2, 2, 3, 3), level, requires_grad=True)
    features.data[0, :, 1, 1] = -level
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        joint = head(features)
    joint[:, 0].logsumexp((1, 2)).sum().backward()
    assert torch.isfinite(joint).all()
    assert torch.isfinite(features.grad).all()
    assert_close(joint.double().exp().sum((1, 2, 3)).detach().numpy(), np.ones(2), "float32", factor=1e3)


def test_softplus_in_log_space_is_continuous_and_has_its_slope() -> None:
    u = torch.linspace(-60, 40, 4001, dtype=torch.float64, requires_grad=True)
    values = log_softplus(u)
    values.sum().backward()
    wide = u.detach().numpy().astype(np.longdouble)
    expected = np.log(np.log1p(np.exp(wide)))
    np.testing.assert_allclose(values.detach().numpy(), expected.astype(float), rtol=1e-13, atol=1e-13)
    slope = 1 / (1 + np.exp(-wide)) / np.log1p(np.exp(wide))
    np.testing.assert_allclose(u.grad.numpy(), slope.astype(float), rtol=1e-12)
    far = torch.tensor([-1e4, -200.0, 1e4], requires_grad=True)
    log_softplus(far).sum().backward()
    assert torch.isfinite(far.grad).all()


def test_the_reference_form_detaches_its_normaliser() -> None:
    """Σ_z a[z] ∂L/∂a[z] is −1 an image with the normaliser detached, else 0 (specification A2)."""
    for reference, expected in ((True, -1.0), (False, 0.0)):
        head = calm(4, 3, reference=reference)
        features = torch.randn(1, 4, 3, 2, dtype=torch.float64)
        u = head.attention(features).detach().abs().requires_grad_(True)
        head.attention.forward = lambda _, u=u: u  # type: ignore[method-assign]
        loss = -head(features)[:, 1].logsumexp((1, 2)).mean()
        (slope,) = torch.autograd.grad(loss, u)
        if reference:
            found = (slope * (u + REFERENCE_EPSILON)).sum()
        else:  # da/du is the sigmoid
            found = (slope / torch.sigmoid(u) * torch.nn.functional.softplus(u)).sum()
        assert abs(found.item() - expected) < 1e-12


@settings(max_examples=25)
@given(shapes())
def test_adding_the_same_to_all_class_maps_changes_nothing(sizes: tuple[int, int, int, int, int]) -> None:
    n, k, c, h, w = sizes
    head = calm(k, c)
    features = torch.randn(n, k, h, w, dtype=torch.float64)
    with torch.no_grad():
        before = head(features).numpy()
        order = torch.randperm(c)
        head.classes.bias += 3.7
        assert_close(head(features).numpy(), before, factor=10)
        head.classes.weight.copy_(head.classes.weight[order])
        head.classes.bias.copy_(head.classes.bias[order])
        assert_close(head(features).numpy(), before[:, order.numpy()], factor=10)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"channels=0 .*whole number"):
        CALMHead(0, 3)
    with pytest.raises(InputError, match=r"num_classes=True .*whole number"):
        CAMHead(3, True)
    with pytest.raises(InputError, match=r"\(2, 4, 3, 3\); this head takes \(N, 5, h, w\)"):
        CALMHead(5, 3)(torch.zeros(2, 4, 3, 3))
    with pytest.raises(InputError, match="features have shape"):
        CAMHead(5, 3).scores(torch.zeros(2, 5))
