"""The two heads that make a classifier explainable by construction: CAM and CALM.

Both end in two lines of algebra. A head takes the trunk's features (N, K, h, w) and gives one number a class
and a place; what the classifier answers is a reduction of exactly those numbers, so that they add up to it.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import nn
from torch.nn import functional

from camrt.errors import InputError

__all__ = ["REFERENCE_EPSILON", "CALMHead", "CAMHead", "HeadKind", "class_scores"]

HeadKind = Literal["cam", "calm"]
"""What a head is."""

REFERENCE_EPSILON: Final = 1e-6
"""What the reference form adds to the attention of every place before it is normalised."""

# Below this, log softplus(u) = log log(1 + eᵘ) = u − eᵘ/2 + … is u to float64's last digit; in float32 the
# softplus itself becomes zero at u < -104.
SOFTPLUS_IS_EXP: Final = -35.0


class CAMHead(nn.Module):
    """One 1×1 convolution, whose mean over places is the logit (specification A1).

    "Learning Deep Features for Discriminative Localization" (Zhou et al., CVPR 2016).

    Args:
        channels: K of the features.
        num_classes: C.
    """

    kind: Final = "cam"

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        _check_sizes(channels, num_classes)
        self.classes = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, K, h, w) to class maps f, (N, C, h, w); logits are their mean over places."""
        _check_features(features, self.classes.in_channels)
        maps: torch.Tensor = self.classes(features)
        return maps

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, K, h, w) to logits (N, C); pooled first, which changes nothing but the cost."""
        _check_features(features, self.classes.in_channels)
        return functional.linear(features.mean((2, 3)), self.classes.weight.flatten(1), self.classes.bias)


class CALMHead(nn.Module):
    """A distribution over classes and places, whose sum over places is p(y|x) (specification A2).

    "Keep CALM and Improve Visual Feature Attribution" (Kim et al., ICCV 2021), equations 3 and 4:

        p(y|x,z) = softmax over classes of f[y, z]         f = classes(features)
        p(z|x)   = a[z] / Σ_z' a[z']                       a = softplus(attention(features))
        p(y,z|x) = p(y|x,z) · p(z|x)

    computed in log space, so that no product underflows and no logarithm of zero is taken.

    Args:
        channels: K of the features.
        num_classes: C.
        reference: The form of the released code: a = ReLU(attention(features)) + 1e-6, and no gradient
            through the normaliser Σ a. It trains less stably; see the specification.
    """

    kind: Final = "calm"

    def __init__(self, channels: int, num_classes: int, *, reference: bool = False) -> None:
        super().__init__()
        _check_sizes(channels, num_classes)
        self.classes = nn.Conv2d(channels, num_classes, 1)
        self.attention = nn.Conv2d(channels, 1, 1)
        self.reference = reference

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, K, h, w) to log p(y,z|x), (N, C, h, w); exp of them sums to 1 for each image."""
        return self.log_class_at_place(features) + self.log_place(features)

    def log_class_at_place(self, features: torch.Tensor) -> torch.Tensor:
        """Log p(y|x,z), (N, C, h, w), in float32 at least."""
        _check_features(features, self.classes.in_channels)
        f = self.classes(features)
        f = f.float() if f.dtype in (torch.float16, torch.bfloat16) else f
        return functional.log_softmax(f, dim=1)

    def log_place(self, features: torch.Tensor) -> torch.Tensor:
        """Log p(z|x), (N, 1, h, w), in float32 at least."""
        _check_features(features, self.attention.in_channels)
        u = self.attention(features)
        u = u.float() if u.dtype in (torch.float16, torch.bfloat16) else u
        log_a = (functional.relu(u) + REFERENCE_EPSILON).log() if self.reference else log_softplus(u)
        normaliser = log_a.logsumexp((2, 3), keepdim=True)
        return log_a - (normaliser.detach() if self.reference else normaliser)

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, K, h, w) to log p(y|x), (N, C): logits whose softmax is themselves' exponential."""
        return class_scores(self(features))


def class_scores(log_joint: torch.Tensor) -> torch.Tensor:
    """Log p(y|x) = log Σ_z p(y,z|x): (N, C, h, w) to (N, C)."""
    return log_joint.logsumexp((2, 3))


def log_softplus(u: torch.Tensor) -> torch.Tensor:
    """log(log(1 + eᵘ)), finite for every finite u, and with a finite gradient."""
    # Both branches are computed, and a gradient of infinity times zero would be NaN: the clamp keeps it
    # finite.
    large = functional.softplus(u.clamp(min=SOFTPLUS_IS_EXP), threshold=-SOFTPLUS_IS_EXP).log()
    return torch.where(u < SOFTPLUS_IS_EXP, u, large)


def _check_sizes(channels: int, num_classes: int) -> None:
    for name, value in (("channels", channels), ("num_classes", num_classes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r} must be a whole number >= 1")


def _check_features(features: torch.Tensor, channels: int) -> None:
    if features.ndim != 4 or features.shape[1] != channels:
        raise InputError(
            f"features have shape {tuple(features.shape)}; this head takes (N, {channels}, h, w), as its "
            "trunk gives"
        )
