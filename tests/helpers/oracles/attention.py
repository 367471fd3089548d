"""Attention rollout and LeGrad in float64, from attention weights and what blocks make of them.

- Rollout (Abnar & Zuidema, 2020): the product, from the last layer to the first, of (A + I)/2 with rows of
sum
  one.
- LeGrad (Bousselham et al., 2025): the mean over layers, heads and queries of relu(∂s/∂A), s the class's
logit
  that the classifier makes of the mean of the block's tokens.
- ViT-ReciproCAM (Byun and Lee, 2023): the last block with its tokens, and what its normalisation gives of
them,
  zero but around a cell.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

__all__ = ["kept_scores", "legrad_tokens", "rollout_tokens", "weights_of_torchvision"]

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


def kept_scores(net: Any, images: Array, score: str, *, gaussian: bool, front: bool = True) -> Array:
    """(N, cells, classes): of a `Transformer` on 3×4 cells with one token in front."""
    twin = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        x = twin.patches(torch.from_numpy(images).double()).flatten(2).transpose(1, 2)
        x = torch.cat([twin.front.expand(len(x), -1, -1), x], dim=1) + twin.places
        for block in twin.blocks[:-1]:
            x = block(x)
        last, answers = twin.blocks[-1], []
        for cell in range(12):
            kept = torch.zeros(13, dtype=torch.double)
            kept[0] = float(front)
            for other in range(12):
                down, right = abs(other // 4 - cell // 4), abs(other % 4 - cell % 4)
                if gaussian and max(down, right) <= 1:
                    kept[1 + other] = 0.25 * 0.5**down * 0.5**right
                elif other == cell:
                    kept[1 + other] = 1.0
            q, k, v = last.mix(last.norm(x) * kept[:, None]).chunk(3, dim=-1)
            mixed = x * kept[:, None] + torch.softmax(q @ k.transpose(1, 2) / 8**0.5, dim=-1) @ v
            logits = twin.head(twin.norm(mixed + last.mlp(mixed))[:, 0])
            answers.append(logits if score == "logit" else logits.softmax(dim=1))
    return torch.stack(answers, dim=1).numpy()


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
