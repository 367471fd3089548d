"""The losses of CALM: marginal likelihood and expectation-maximisation, in log space.

Under the current parameters the two have the same gradient (Fisher's identity): L_EM − L_ML is the entropy of
the posterior over places, held fixed. They differ when the posterior comes from somewhere else, as from a
slow teacher.
"""

from __future__ import annotations

import torch

from camrt.errors import InputError

__all__ = ["calm_em_loss", "calm_ml_loss", "posterior_entropy"]


def calm_ml_loss(log_joint: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Marginal likelihood: L = −log Σ_z p(y,z|x) at the true y, mean over the batch.

    "Keep CALM and Improve Visual Feature Attribution", equation 6 (specification A3).

    Args:
        log_joint: log p(y,z|x), (N, C, h, w), as `CALMHead` gives.
        labels: (N,) true classes.

    Returns:
        A scalar, in nats.

    Raises:
        InputError: Shapes that do not fit, or labels out of range.
    """
    return -_select_labels(log_joint, labels).logsumexp(1).mean()


def calm_em_loss(
    log_joint: torch.Tensor, labels: torch.Tensor, teacher_log_joint: torch.Tensor | None = None
) -> torch.Tensor:
    """Expectation-maximisation: L = −Σ_z q[z] log p(y,z|x), q[z] = p'(z|x,y), mean over the batch.

    "Keep CALM and Improve Visual Feature Attribution", equations 7 and 8 (specification A4). No gradient goes
    through q.

    Args:
        log_joint: log p(y,z|x), (N, C, h, w), as `CALMHead` gives.
        labels: (N,) true classes.
        teacher_log_joint: log p'(y,z|x) of the parameters that q comes from; None takes the current ones, as
            the paper does, which has the gradient of `calm_ml_loss`. A slower teacher is an extension of
            ours.

    Returns:
        A scalar, in nats.

    Raises:
        InputError: Shapes that do not fit, or labels out of range.
    """
    chosen = _select_labels(log_joint, labels)
    if teacher_log_joint is None:
        teacher = chosen
    elif teacher_log_joint.shape != log_joint.shape:
        raise InputError(
            f"the teacher's log-joint has shape {tuple(teacher_log_joint.shape)}, the student's "
            f"{tuple(log_joint.shape)}: they must be the same"
        )
    else:
        teacher = _select_labels(teacher_log_joint, labels)
    posterior = teacher.detach().softmax(1)
    return -(posterior * chosen).sum(1).mean()


def posterior_entropy(log_joint: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """H(q), (N,) in nats, of q[z] = p(z|x,y): what L_EM has over L_ML."""
    log_q = _select_labels(log_joint, labels).log_softmax(1)
    return -(log_q.exp() * log_q).sum(1)


def _select_labels(log_joint: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log p(y,z|x) at the true y: (N, h·w)."""
    if log_joint.ndim != 4:
        raise InputError(f"log_joint has shape {tuple(log_joint.shape)}; it must be (N, C, h, w)")
    if labels.shape != log_joint.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}; they must be {len(log_joint)} "
            "whole numbers, one an image"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < log_joint.shape[1]:
        raise InputError(
            f"labels lie between {int(labels.min())} and {int(labels.max())}; the head has "
            f"{log_joint.shape[1]} classes"
        )
    return log_joint[torch.arange(len(labels), device=labels.device), labels.long()].flatten(1)
