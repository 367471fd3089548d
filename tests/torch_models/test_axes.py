"""What is said of the axes of a module's tensors, from what autograd recorded of some operations."""

from __future__ import annotations

import pytest

from camrt.engine.torch_models.flow import trace_autograd
from camrt.export.geometry.axis_parts import CellTokens
from helpers.torch_nets import functional, torch

SHAPE = (5, 6, 4, 3)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def in_front(x, count):
    return torch.cat([torch.zeros(1, count, x.shape[2]).expand(len(x), -1, -1), x], dim=1)


def split_into_heads(x):
    return tokens(x).reshape(5, 12, 3, 2, 1).permute(2, 0, 3, 1, 4)


def written_into(x, view):
    """A view of a tensor that is written into through another one."""
    base = x * 1.0
    seen = view(base)
    base[:, :1] += 1.0
    return seen


CASES = {
    "tokens": (tokens, ("n", CellTokens(0, 4, 3), "")),
    "channels-last": (lambda x: x.permute(0, 2, 3, 1), ("n", "h", "w", "")),
    "there-and-back": (
        lambda x: tokens(x).unflatten(1, (4, 3)).movedim(3, 1).contiguous(), ("n", "", "h", "w")
    ),
    "turned-over": (lambda x: x.transpose(2, 3).flatten(2), ("n", "", "")),
    "class-token": (lambda x: in_front(tokens(x), 1), ("n", CellTokens(1, 4, 3), "")),
    "registers-taken-off": (lambda x: in_front(tokens(x), 4)[:, 3:], ("n", CellTokens(1, 4, 3), "")),
    "counted-from-the-end": (lambda x: in_front(tokens(x), 2)[:, -12:], ("n", CellTokens(0, 4, 3), "")),
    "a-cell-taken-off": (lambda x: in_front(tokens(x), 2)[:, 3:], ("n", "", "")),
    "class-token-alone": (lambda x: in_front(tokens(x), 1)[:, 0], ("n", "")),
    "split-off": (lambda x: in_front(tokens(x), 1).split((1, 12), 1)[1], ("n", CellTokens(0, 4, 3), "")),
    "one-of-three": (
        lambda x: split_into_heads(x).unbind(0)[2], ("n", "", CellTokens(0, 4, 3), "1")
    ),
    "stacked": (lambda x: torch.stack([x, -x], dim=2), ("n", "", "", "h", "w")),
    "a-linear-layer": (
        lambda x: functional.linear(in_front(tokens(x), 1), torch.ones(7, 6), torch.ones(7)),
        ("n", CellTokens(1, 4, 3), ""),
    ),
    "attention": (
        lambda x: functional.scaled_dot_product_attention(*split_into_heads(x).unbind(0)),
        ("n", "", CellTokens(0, 4, 3), "1"),
    ),
    "attention-by-hand": (
        lambda x: (tokens(x) @ tokens(x).mT).softmax(-1) @ tokens(x), ("n", CellTokens(0, 4, 3), "")
    ),
    "read-by-one-query": (lambda x: torch.ones(5, 2, 12) @ tokens(x), ("n", "", "")),
    "a-convolution": (
        lambda x: functional.conv2d(x, torch.ones(7, 6, 3, 3), stride=2, padding=1), ("n", "", "h", "w")
    ),
    "a-convolution-of-windows": (
        lambda x: functional.conv2d(x.reshape(-1, 6, 2, 3), torch.ones(7, 6, 1, 1)), ("", "", "", "w")
    ),
    "stretched": (lambda x: functional.interpolate(x, scale_factor=2.0), ("n", "", "h", "w")),
    "padded": (lambda x: functional.pad(x, (1, 2, 3, 0)), ("n", "", "h", "w")),
    "every-other": (lambda x: x[:, :, 1::2], ("n", "", "h", "w")),
    "backwards": (lambda x: x.flip(2), ("n", "", "", "w")),
    "rolled": (lambda x: x.roll((1, 1), (2, 3)), ("n", "", "", "")),
    "rolled-beside-itself": (lambda x: x + x.roll(1, 2), ("n", "", "h", "w")),
    "blocks-of-two-rows": (
        lambda x: x.permute(0, 2, 3, 1).reshape(5, 2, 2, 3, 6).transpose(2, 3).reshape(5, 2, 3, 12),
        ("n", "h", "w", ""),
    ),
    "windows-and-back": (
        lambda x: x.view(5, 6, 2, 2, 3).permute(0, 2, 3, 4, 1).reshape(10, 2, 3, 6).view(5, 4, 3, 6),
        ("n", "h", "w", ""),
    ),
    "laid-out": (
        lambda x: functional.unfold(x, 2, stride=(2, 1)).transpose(1, 2), ("n", CellTokens(0, 2, 2), "")
    ),
    "laid-out-and-back": (
        lambda x: functional.fold(functional.unfold(x, 1), (4, 3), 1), ("n", "", "h", "w")
    ),
    "unfolded": (lambda x: x.unfold(2, 2, 2), ("n", "", "h", "w", "")),
    "unfolded-over-each-other": (lambda x: x.unfold(2, 3, 1), ("n", "", "h", "w", "")),
    "channels-picked": (lambda x: x[:, torch.tensor([3, 0, 1])], ("n", "", "h", "w")),
    "cells-picked": (lambda x: tokens(x)[:, torch.arange(12)], ("n", "", "")),
    "one-image-a-row": (lambda x: x[torch.arange(5), :, torch.zeros(5, dtype=int)], ("", "", "")),
    "mean": (lambda x: x.mean((2, 3)), ("n", "")),
    "mean-kept": (lambda x: x.mean((2, 3), keepdim=True), ("n", "", "1", "1")),
    "mean-of-channels": (lambda x: x.mean(1), ("n", "h", "w")),
    "a-view-of-it-written-over": (lambda x: written_into(x, lambda y: y.view_as(y)), ("n", "", "h", "w")),
    "of-tokens-behind-two": (
        lambda x: written_into(in_front(tokens(x), 2), lambda y: y[:, 1:]), ("n", CellTokens(1, 4, 3), "")
    ),
    "of-channels-last": (
        lambda x: written_into(x.contiguous(memory_format=torch.channels_last), lambda y: y.view_as(y)),
        ("n", "", "h", "w"),
    ),
    "turned-over-and-written-over": (
        lambda x: written_into(x, lambda y: y.transpose(2, 3)), ("", "", "", "")
    ),
    "written-over": (lambda x: x.clone().relu_().add_(1), ("n", "", "h", "w")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_axes(case):
    operations, expected = CASES[case]
    leaf = torch.ones(SHAPE, requires_grad=True)
    end = operations(leaf * 1.0)
    assert trace_autograd(end, leaf).roles[end.grad_fn, end.output_nr] == expected


def test_an_operation_of_ones_own():
    """What autograd does not know keeps the axes that have their size."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return 2 * x

        @staticmethod
        def backward(context, gradient):
            return 2 * gradient

    leaf = torch.ones(SHAPE, requires_grad=True)
    end = Doubled.apply(leaf.permute(0, 2, 3, 1)).mean((1, 2))
    found = trace_autograd(end, leaf)
    assert found.roles[end.grad_fn, 0] == ("n", "")
    assert [step.together for step in found.flow.steps] == ["", "", "always"]
    assert found.flow.paths == 1


def test_nothing_to_follow():
    leaf = torch.ones(SHAPE, requires_grad=True)
    assert trace_autograd(leaf.detach().mean((2, 3)), leaf).flow.paths == 0
    assert trace_autograd(torch.ones(5, 2, requires_grad=True) * 2, leaf).flow.paths == 0
