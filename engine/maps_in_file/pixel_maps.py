"""Gradients with respect to the image, on its own grid of pixels: see `camrt.engine.methods.pixels`."""

from __future__ import annotations

from camrt.engine.maps_in_file.head_answers import HeadAnswers
from camrt.engine.methods.pixels import Gradient, blur_matrix
from camrt.errors import MethodError
from camrt.export.rewrites.input_form import IMAGES

__all__ = ["gradient_map"]


def gradient_map(answers: HeadAnswers, method: Gradient) -> str:
    """The largest magnitude over colours of the gradient, smoothed."""
    make, tensors = answers.make, answers.tensors
    rows = answers.run_adjoint(IMAGES, make.tensor(IMAGES), method.score, relu=method.relu)
    largest = make.reduce("ReduceMax", make.add("Abs", rows), [1], keepdims=False)
    maps = tensors.per_target(largest, 3)
    if method.blur == 1:
        return maps
    interface = answers.interface
    if interface.height is None or interface.width is None:
        raise MethodError(
            f"{method.name}: blur={method.blur} is written for one size of images, which this file leaves "
            "open: take blur=1, or export it with a fixed size"
        )
    down, across = (blur_matrix(side, method.blur) for side in (interface.height, interface.width))
    return make.add("MatMul", make.constant(down), make.add("MatMul", maps, make.constant(across.T)))
