"""The loss of a scene: every class present gets its equal share, and every image answers for itself.

With Y the set of classes present in a scene, z its logits, and z_f the logits of the final map averaged over
frame f only (the same linear layer on a smaller pool):

    loss = (1 − λ) · CE(uniform over Y, softmax z)  +  λ · mean over frames f of CE(class of f, softmax z_f)

The second term tells the network which image of the scene is which. It knows where an *image* lies, never
where the object lies inside it.

With a CALM head z is log p(y|x), and z_f is log p(y|x, place in f) = log Σ_f p(y,z|x) − log Σ_f p(z|x): the
same distribution of class and place, given that the place is in the frame.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from camrt.training.heads import CALMHead, class_scores

__all__ = ["frame_weights", "scene_loss", "soft_targets"]


def soft_targets(classes: torch.Tensor, number: int) -> torch.Tensor:
    """Uniform distributions over the classes present.

    Args:
        classes: int64 (N, 4), padded with −1.
        number: C, how many classes there are.

    Returns:
        float32 (N, C), each row summing to one; a class present twice counts once.
    """
    present = torch.zeros(len(classes), number + 1)
    present.scatter_(1, torch.where(classes < 0, number, classes), 1.0)
    present = present[:, :number]
    return present / present.sum(1, keepdim=True)


def frame_weights(frames: NDArray[np.int64], cells: int, stride: int) -> torch.Tensor:
    """How much each cell of a map belongs to each frame, as shares of the frame.

    Args:
        frames: (..., 4) half-open (r0, c0, r1, c1) in pixels.
        cells: side of the square map.
        stride: pixels a cell, along each side.

    Returns:
        float32 (..., cells, cells): the exact overlap of cell and frame, as a share of the frame. Each sums
        to one, or to zero for an empty frame.
    """
    starts = np.arange(cells) * stride
    ends = starts + stride
    low, high = frames[..., :2, None], frames[..., 2:, None]
    overlap = np.clip(np.minimum(ends, high) - np.maximum(starts, low), 0, None)
    shares = (overlap / np.maximum(high - low, 1)).astype(np.float32)
    rows, columns = torch.from_numpy(shares).unbind(-2)
    return rows[..., :, None] * columns[..., None, :]


def scene_loss(
    final: torch.Tensor,
    head: nn.Linear | CALMHead,
    classes: NDArray[np.int64],
    frames: NDArray[np.int64],
    stride: int,
    frame_share: float = 0.5,
) -> torch.Tensor:
    """The loss above, averaged over a batch.

    Args:
        final: (N, K, h, h), the final map.
        head: the linear layer from K pooled channels to C logits, or a CALM head on the map.
        classes: int64 (N, 4), padded with −1.
        frames: int64 (N, 4, 4), half-open in pixels, padded with zeros.
        stride: pixels a cell of the map.
        frame_share: λ, in [0, 1].

    Returns:
        A scalar.
    """
    final = final.float()
    weights = frame_weights(frames, final.shape[-1], stride)
    used = torch.from_numpy(classes >= 0)
    scores, scores_of_frames = (
        calm_scores(final, head, weights, used)
        if isinstance(head, CALMHead)
        else linear_scores(final, head, weights, used)
    )
    targets = soft_targets(torch.from_numpy(classes), scores.shape[1])
    whole = functional.cross_entropy(scores, targets, label_smoothing=0.05)
    owners = torch.from_numpy(classes)[used]
    each = functional.cross_entropy(scores_of_frames, owners, label_smoothing=0.05)
    return (1 - frame_share) * whole + frame_share * each


def linear_scores(
    final: torch.Tensor, head: nn.Linear, weights: torch.Tensor, used: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of scenes (N, C) and of the frames in use (M, C)."""
    pooled = torch.bmm(weights.flatten(2), final.flatten(2).transpose(1, 2))
    return head(final.mean((2, 3))), head(pooled[used])


def calm_scores(
    final: torch.Tensor, head: CALMHead, weights: torch.Tensor, used: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log p(y|x) of scenes (N, C), and log p(y|x, z in f) of the frames in use (M, C)."""
    log_place = head.log_place(final)
    log_joint = head.log_class_at_place(final) + log_place
    scenes = used.nonzero()[:, 0]
    inside = weights[used].log()[:, None]  # minus infinity outside: exp makes it nothing
    of_class = (log_joint[scenes] + inside).logsumexp((2, 3))
    of_frame = (log_place[scenes] + inside).logsumexp((2, 3))
    return class_scores(log_joint), of_class - of_frame
