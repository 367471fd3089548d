"""Attention rollout and LeGrad in float64, from attention weights and what blocks make of them.

- Rollout (Abnar & Zuidema, 2020): the product, from the last layer to the first, of (A + I)/2 with rows of
sum one.
- LeGrad (Bousselham et al., 2025): the mean over layers, heads and queries of relu(∂s/∂A), s the class's
logit that
  the classifier makes of the mean of the block's tokens.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

__all__ = ["legrad_tokens", "rollout_tokens", "weights_of_torchvision"]

Array = np.ndarray


def rollout_tokens(layers: list[Array], fusion: str, discard: float = 0.0) -> Array:
    """(L, L): of one image's weights (heads, L, L) by layer."""
    flow = np.eye(layers[0].shape[-1])
    for weights in layers:
        fused = {"mean": np.mean, "max": np.max, "min": np.min}[fusion](weights, axis=0)
        kept = fused.copy()
        for place in np.argsort(fused, axis=None)[: int(discard * fused.size)]:
            kept[np.unravel_index(place, kept.shape)] = 0.0
        mixed = kept + np.eye(len(kept))
        flow = (mixed / mixed.sum(axis=1)[:, None]) @ flow
    return flow


def legrad_tokens(net: Any, images: Array, target: int) -> Array:
    """(N, L): of a `helpers.torch_nets.Transformer`, whose blocks have one head."""
    twin = copy.deepcopy(net).double().eval()
    x = twin.patches(torch.from_numpy(images).double()).flatten(2).transpose(1, 2)
    x = torch.cat([twin.front.expand(len(x), -1, -1), x], dim=1) + twin.places
    total = torch.zeros(x.shape[:2], dtype=torch.double)
    for block in twin.blocks:
        q, k, v = block.mix(block.norm(x)).chunk(3, dim=-1)
        weights = torch.softmax(q @ k.transpose(1, 2) / 8**0.5, dim=-1).detach().requires_grad_()
        mixed = x.detach() + weights @ v.detach()
        x = mixed + block.mlp(mixed)
        score = twin.head(twin.norm(x.mean(dim=1)))[:, target].sum()
        (gradient,) = torch.autograd.grad(score, weights)
        total += gradient.clamp(min=0).mean(dim=1)
        x = x.detach()
    return (total / len(twin.blocks)).numpy()


def weights_of_torchvision(net: Any, images: Array) -> list[Array]:
    """For each layer (N, heads, L, L), of a torchvision VisionTransformer."""
    twin = copy.deepcopy(net).double().eval()
    found: list[Array] = []

    def keep(module: Any, arguments: Any, keywords: Any) -> Any:
        return arguments, {**keywords, "need_weights": True, "average_attn_weights": False}

    for layer in twin.encoder.layers:
        layer.self_attention.register_forward_pre_hook(keep, with_kwargs=True)
        layer.self_attention.register_forward_hook(lambda _, __, out: found.append(out[1].detach().numpy()))
    with torch.no_grad():
        twin(torch.from_numpy(images).double())
    return found
