import pytest

pytest.importorskip("torch")

import torch

from camrt.training.small_network import STRIDE, SmallNetwork, TinyNetwork


def settled(classes=7):
    """A network whose running statistics are not those of a fresh one."""
    torch.manual_seed(0)
    network = SmallNetwork(classes)
    for _ in range(3):
        network(torch.randn(4, 3, 64, 64) + 0.5)
    return network.eval()


def test_it_is_small():
    parameters = sum(parameter.numel() for parameter in SmallNetwork(33).parameters())
    assert parameters == 451_505
    assert 4 * parameters < 1_900_000, "leaves room for the graph and the metadata in two million bytes"


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 96), (64, 40), (63, 65)], ids=str)
def test_shapes(height, width):
    network = settled()
    with torch.no_grad():
        final = network.activations(torch.zeros(2, 3, height, width))
        logits = network(torch.zeros(2, 3, height, width))
    assert final.shape == (2, 160, -(-height // STRIDE), -(-width // STRIDE))
    assert logits.shape == (2, 7)


def test_the_head_is_linear_in_the_mean_of_the_map():
    network = settled()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        final = network.activations(images)
        maps = torch.einsum("ck,nkij->ncij", network.head.weight, final)
        expected = maps.mean((2, 3)) + network.head.bias
        torch.testing.assert_close(network(images), expected, rtol=1e-5, atol=1e-5)
    assert final.min() >= 0


def test_a_calm_head_answers_in_logarithms_of_probabilities():
    torch.manual_seed(0)
    network = SmallNetwork(7, "calm").eval()
    with torch.no_grad():
        logits = network(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(2))


def test_the_tiny_one_is_tiny():
    assert sum(parameter.numel() for parameter in TinyNetwork(33).parameters()) < 70_000
