"""The raw maps of methods as nodes, each as its class in `camrt.engine.methods` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from camrt.engine.arrays import SCORE_TOLERANCE
from camrt.engine.maps_in_file.calm_answers import calm_map
from camrt.engine.maps_in_file.head_answers import Gradient, HeadAnswers
from camrt.engine.maps_in_file.pixel_maps import gradient_map
from camrt.engine.maps_in_file.score_map import score_map
from camrt.engine.methods import Method
from camrt.engine.methods.ablation import MIN_SCORE as LEAST_ABLATED
from camrt.engine.methods.ablation import AblationCAM
from camrt.engine.methods.base import SHARED_OPTIONS
from camrt.engine.methods.calm import CALM
from camrt.engine.methods.cam import CAM, ActivationCAM
from camrt.engine.methods.gradients import (
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from camrt.engine.methods.guided import GuidedBackpropagation
from camrt.engine.methods.pixab import MIN_SCORE, PixabCAM
from camrt.engine.methods.pixels import Gradient as PixelGradient
from camrt.engine.methods.score import ScoreCAM
from camrt.errors import MethodError

__all__ = ["check_method", "make_raw_map"]


def activation_map(answers: HeadAnswers, method: ActivationCAM) -> str:
    """Σ_k A_k, for every target."""
    tensors, make = answers.tensors, answers.make
    summed = make.reduce_sum(tensors.activation, [1], keepdims=True)
    shape = make.concat([tensors.images, tensors.target_count, make.sizes(tensors.activation, 2, 4)], 0)
    return make.add("Expand", summed, shape)


def cam_map(answers: HeadAnswers, method: CAM) -> str:
    """The class maps."""
    return answers.class_maps()


def change(answers: HeadAnswers, scores: str, baseline: str) -> str:
    """What scores changed by, see `camrt.engine.arrays.score_change`."""
    make = answers.make
    found = make.add("Sub", scores, baseline)
    least = make.add("Mul", make.add("Abs", baseline), make.number(SCORE_TOLERANCE))
    small = make.add("LessOrEqual", make.add("Abs", found), least)
    return make.add("Where", small, make.number(0.0), found)


def at_least(answers: HeadAnswers, scores: str, least: float) -> str:
    """Magnitudes of scores, no less than a number."""
    return answers.make.add("Max", answers.make.add("Abs", scores), answers.make.number(least))


def ablation_map(answers: HeadAnswers, method: AblationCAM) -> str:
    """Σ_k (Y − Y_−k) / |Y| · A_k."""
    make = answers.make
    scores = make.unsqueeze(answers.full_scores(method.score), [2])
    fall = make.add("Neg", change(answers, answers.scores_without_channels(method.score), scores))
    return answers.tensors.weighted_sum(make.add("Div", fall, at_least(answers, scores, LEAST_ABLATED)))


def pixab_map(answers: HeadAnswers, method: PixabCAM) -> str:
    """What deleting a cell costs and what keeping only it brings, over boxes."""
    make, tensors = answers.make, answers.tensors
    kind = method.score or ("logit" if tensors.link == "none" else "probability")
    kind = kind if tensors.has_logits else "probability"
    delete, keep = method.perspectives != "preservation", method.perspectives != "deletion"
    scores, empty = answers.full_scores(kind), answers.empty_scores(kind)
    reading = method.denominators or ("N2" if kind == "probability" else "N3")
    if reading == "N3":
        falls = gains = at_least(answers, make.add("Sub", scores, empty), MIN_SCORE)
    else:
        falls = at_least(answers, scores, MIN_SCORE)
        gains = at_least(answers, empty, MIN_SCORE) if reading == "N2" else falls
    scores_wide, empty_wide, falls, gains = (
        make.unsqueeze(one, [1, 2]) for one in (scores, empty, falls, gains)
    )
    grids = []
    for boxes in answers.box_groups(method.boxes, method.assignment):
        deleted, kept = answers.box_scores(boxes, kind, delete=delete, keep=keep)
        parts = []
        if deleted is not None:
            parts.append(make.add("Div", make.add("Neg", change(answers, deleted, scores_wide)), falls))
        if kept is not None:
            parts.append(make.add("Div", change(answers, kept, empty_wide), gains))
        total = parts[0] if len(parts) == 1 else make.add("Add", *parts)
        grids.append(boxes.mean_per_cell(total))
    mean = grids[0]
    for grid in grids[1:]:
        mean = make.add("Add", mean, grid)
    raw = make.transpose(make.add("Div", mean, make.number(len(grids))), [0, 3, 1, 2])
    if kind == "probability":
        small = make.unsqueeze(make.add("Less", scores, make.number(MIN_SCORE)), [2, 3])
        raw = make.add("Where", small, make.number(0.0), raw)
    return raw


# ---------------------------------------------------------------- gradients


def mean_gradient(answers: HeadAnswers, gradient: Gradient, method: Any) -> str:
    """Grad-CAM's weights (N, T, K)."""
    if gradient.is_constant:
        return gradient.tensor
    return answers.make.reduce("ReduceMean", gradient.tensor, [3, 4], keepdims=False)


def plus_plus_weights(answers: HeadAnswers, gradient: Gradient, method: GradCAMPlusPlus) -> str:
    """Grad-CAM++'s weights (N, T, K)."""
    make, tensors = answers.make, answers.tensors
    g, total = gradient.tensor, make.reduce_sum(tensors.activation, [2, 3], keepdims=False)
    axes = [2] if gradient.is_constant else [2, 3, 4]  # of what a channel of an image is seen as
    total = make.unsqueeze(total, [1] if gradient.is_constant else [1, 3, 4])
    zero, one = make.number(0.0), make.number(1.0)
    if method.definition == "grad-cam":
        square = make.add("Mul", g, g)
        below = make.add("Mul", total, make.add("Mul", square, g))
        below = make.add(
            "Add", make.add("Add", make.add("Mul", make.number(2.0), square), below), make.number(1e-6)
        )
        shares = make.add("Div", square, below)
    else:
        below = make.add("Add", make.number(2.0), make.add("Mul", total, g))
        none = make.add("Equal", below, zero)
        rises = make.add("Not", make.add("Or", none, make.add("Equal", g, zero)))
        shares = make.add("Where", rises, make.add("Div", one, make.add("Where", none, one, below)), zero)
        if method.normalise_alpha:
            shares = make.add("Where", none, make.add("Mul", g, g), shares)
    cells = tensors.cell_count if gradient.is_constant else None
    if method.normalise_alpha:
        whole = make.add("Where", make.add("Greater", g, zero), shares, zero)
        whole = make.add("Mul", whole, cells) if cells else make.reduce_sum(whole, axes[1:], keepdims=True)
        shares = make.add("Div", shares, make.add("Where", make.add("Equal", whole, zero), one, whole))
    weights = make.add("Mul", shares, make.add("Relu", g))
    return make.add("Mul", weights, cells) if cells else make.reduce_sum(weights, axes[1:], keepdims=False)


def xgrad_weights(answers: HeadAnswers, gradient: Gradient, method: XGradCAM) -> str:
    """XGrad-CAM's weights (N, T, K)."""
    make, tensors = answers.make, answers.tensors
    total = make.unsqueeze(make.reduce_sum(tensors.activation, [2, 3], keepdims=False), [1])
    none, zero = make.add("Equal", total, make.number(0.0)), make.number(0.0)
    if gradient.is_constant:
        return make.add("Where", none, zero, gradient.tensor)
    products = make.add("Mul", gradient.tensor, make.unsqueeze(tensors.activation, [1]))
    summed = make.reduce_sum(products, [3, 4], keepdims=False)
    return make.add(
        "Where", none, zero, make.add("Div", summed, make.add("Where", none, make.number(1.0), total))
    )


def channel_map(
    weights: Callable[[HeadAnswers, Gradient, Any], str],
) -> Callable[[HeadAnswers, Any], str]:
    """The map of a method that makes one weight a channel of its gradient."""

    def make_map(answers: HeadAnswers, method: Any) -> str:
        return answers.tensors.weighted_sum(weights(answers, answers.gradient(method.score), method))

    return make_map


def hires_map(answers: HeadAnswers, method: HiResCAM) -> str:
    """Σ_k G_k ∘ A_k."""
    return product_map(answers, answers.gradient(method.score))


def layer_map(answers: HeadAnswers, method: LayerCAM) -> str:
    """Σ_k relu(G_k) ∘ A_k."""
    found = answers.gradient(method.score)
    return product_map(answers, Gradient(answers.make.add("Relu", found.tensor), found.is_constant))


def product_map(answers: HeadAnswers, gradient: Gradient) -> str:
    """Σ_k G_k ∘ A_k: (N, T, h, w)."""
    if gradient.is_constant:
        return answers.tensors.weighted_sum(gradient.tensor)
    make = answers.make
    products = make.add("Mul", gradient.tensor, make.unsqueeze(answers.tensors.activation, [1]))
    return make.reduce_sum(products, [2], keepdims=False)


def elementwise_map(answers: HeadAnswers, method: GradCAMElementWise) -> str:
    """Σ_k relu(G_k ∘ A_k)."""
    make, gradient = answers.make, answers.gradient(method.score)
    slopes = make.unsqueeze(gradient.tensor, [3, 4]) if gradient.is_constant else gradient.tensor
    products = make.add("Mul", slopes, make.unsqueeze(answers.tensors.activation, [1]))
    return make.reduce_sum(make.add("Relu", products), [2], keepdims=False)


MAPS: dict[type[Method], Callable[[HeadAnswers, Any], str]] = {
    ActivationCAM: activation_map,
    CAM: cam_map,
    AblationCAM: ablation_map,
    PixabCAM: pixab_map,
    ScoreCAM: score_map,
    GradCAM: channel_map(mean_gradient),
    GradCAMPlusPlus: channel_map(plus_plus_weights),
    XGradCAM: channel_map(xgrad_weights),
    HiResCAM: hires_map,
    LayerCAM: layer_map,
    GradCAMElementWise: elementwise_map,
    CALM: calm_map,
    PixelGradient: gradient_map,
    GuidedBackpropagation: gradient_map,
}
"""By class, what makes the raw maps (N, T, h, w)."""


def check_method(method: Method) -> None:
    """Refuses a method, or an option, that is not written into files.

    Raises:
        MethodError: It is one.
    """
    if type(method) not in MAPS:
        raise MethodError(
            f"{method.name} is not written into files; these are: {', '.join(kind.name for kind in MAPS)}"
        )
    given = [
        name
        for name in SHARED_OPTIONS
        if name != "absolute" and getattr(method, name) != getattr(type(method), name)
    ]
    if given:
        raise MethodError(f"{method.name}: {', '.join(given)} is not written into files")


def make_raw_map(answers: HeadAnswers, method: Method) -> str:
    """Raw maps (N, T, h, w) of a method that `check_method` lets pass."""
    return MAPS[type(method)](answers, method)
