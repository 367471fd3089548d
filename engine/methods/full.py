"""FullGrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from camrt.engine.arrays import library, safe_divide
from camrt.engine.methods.pixels import PixelMethod
from camrt.engine.queries import HeadQueries
from camrt.errors import MethodError
from camrt.export.adjoint import BIAS_EPSILONS, BiasScaling

__all__ = ["FullGrad"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class FullGrad(PixelMethod):
    """FullGrad: what the image's pixels and the biases of every layer contribute, where they do.

    "Full-Gradient Representation for Neural Network Visualization" (Srinivas and Fleuret, NeurIPS 2019,
    section 4): Σ_colours ψ(x ∘ ∂f/∂x) + Σ_layers Σ_channels ψ(b ∘ ∂f/∂b), with b the bias of each layer,
    ∂f/∂b its gradient at every cell, and ψ(m) = up((|m| − min |m|)/(max |m| − min |m|)), up bilinear. A batch
    normalisation's bias is what it adds to a multiple of its input; folded into a convolution, it is the
    convolution's. Biases behind the last map have no place and are left out, as the authors do. Of a network
    that is linear in pieces x·∂f/∂x and all b·∂f/∂b add up to f(x); smooth activation functions have biases
    of their own that are no layer's.

    The layers are convolutions and batch, group and instance normalisations, and in a file what adds numbers
    that differ between channels or cells.

    * `definition="paper"`: minima and maxima are of each channel; where they are equal, ψ is zero.
    * `definition="grad-cam"` (the pytorch-grad-cam package): likewise, with 1e-7 added to the denominator.
    * `definition="authors"` (the authors' code): they are of all channels of a layer together, 1e-6 is added
      to the denominator, and the middles of corner cells lie on those of the corner pixels.

    Attributes:
        definition: Which of the three.
    """

    name: ClassVar[str] = "fullgrad"

    blur: int = 1
    definition: BiasScaling = "paper"

    def maps(self, queries: HeadQueries, target: int) -> Array:
        if not queries.framing.is_whole:
            raise MethodError(
                "fullgrad: this file crops or pads its images itself, so that its layers' cells lie on "
                "another image than the pixels: take that out of the file, and do it beforehand"
            )
        gradient, of_biases = queries.full_gradients(target, self.score, self.definition)
        xp = library(gradient)
        magnitude = xp.abs(xp.astype(gradient, xp.float64) * queries.images)
        over = (1, 2, 3) if self.definition == "authors" else (2, 3)
        low = xp.min(magnitude, axis=over, keepdims=True)
        spread = xp.max(magnitude, axis=over, keepdims=True) - low
        below = spread + BIAS_EPSILONS[self.definition] + xp.zeros_like(magnitude)
        scaled = safe_divide(magnitude - low, below, below > 0)
        scaled = xp.where(xp.isnan(magnitude), magnitude, scaled)
        return xp.astype(xp.sum(scaled, axis=1) + of_biases, xp.float32)

    def count_runs(self) -> tuple[int, str]:
        return 1, "the model's adjoint, there and back, with every layer's biases"
