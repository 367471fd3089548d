"""Gradients with respect to the image itself, on its own grid of pixels.

The base of them all is V(x) = max over colours of |∂score/∂x|, (H, W). Definitions and constants are those of
"Keep CALM and Improve Visual Feature Attribution" (ICCV 2021) and its code, where these are the baselines.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from camrt.engine.arrays import (
    arange_like,
    clip_min,
    constant_like,
    library,
    to_float32,
    zeros,
)
from camrt.engine.heads import Head
from camrt.engine.methods.altered_images import altered_batches, noise_adder, split_by_part, value_range
from camrt.engine.methods.base import MAGNITUDES, Cost, MapShape, Method
from camrt.engine.methods.standard_error import mean_and_error
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError
from camrt.export import allocation
from camrt.export.adjoint import ReluRule
from camrt.export.budget import reserve
from camrt.kernels.caches import cache_by_bytes

__all__ = [
    "AttributionMethod",
    "Gradient",
    "IntegratedGradients",
    "NoisyGradients",
    "PixelMethod",
    "SmoothGrad",
    "TextbookIntegratedGradients",
    "VarGrad",
    "max_magnitude",
]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


def max_magnitude(gradients: Array) -> Array:
    """The largest magnitude over colours: (B, C, H, W) -> (B, H, W)."""
    xp = library(gradients)
    return xp.max(xp.abs(gradients), axis=1)


@dataclass(frozen=True, kw_only=True)
class PixelMethod(Method):
    """What methods on the image's own pixels share.

    Attributes:
        score: What is differentiated: the logit, or the probability.
        blur: Side of the Gaussian kernel that smooths the map, odd; 1 for none. Its σ is
            0.3·((k − 1)/2 − 1) + 0.8.
    """

    relu: ClassVar[ReluRule] = "plain"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PIXELS})

    normalisation: Literal["max", "minmax"] = "minmax"
    score: ScoreKind = "logit"
    blur: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("blur", 1)
        if self.blur % 2 == 0:
            raise MethodError(f"{self.name}: blur={self.blur} must be odd: the kernel has a middle")

    @property
    def no_counterfactual(self) -> str:
        return MAGNITUDES

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        maps = [self.maps(queries, target) for target in range(queries.targets.shape[1])]
        return gaussian_blur(library(*maps).stack(maps, axis=1), self.blur), queries.scores(self.score)

    @abstractmethod
    def maps(self, queries: HeadQueries, target: int) -> Array:
        """Maps (N, H, W) of target number `target`, before the blur."""

    def altered_gradients(
        self, queries: HeadQueries, target: int, count: int, alter: Callable[[int], Array]
    ) -> Iterator[tuple[int, slice, Array]]:
        """Gradients of altered images, run in full batches across alterations and images.

        Args:
            queries: The batch.
            target: Column of its targets.
            count: Number of alterations of each image.
            alter: All images (N, C, H, W), altered in way number i.

        Yields:
            The number of an alteration, the images, and their gradients (B, C, H, W).
        """
        for parts, rows, owners in altered_batches(queries.images, queries.batch_size, count, alter):
            found = queries.image_gradients(rows, owners, target, self.score, relu=self.relu)
            yield from split_by_part(parts, found)

    def gradient(self, queries: HeadQueries, target: int) -> Array:
        """The gradient at the images themselves, (N, C, H, W)."""
        batch_rows = arange_like(len(queries.images), queries.images)
        return queries.image_gradients(queries.images, batch_rows, target, self.score, relu=self.relu)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        runs, why = self.count_runs()
        return Cost(0, runs if self.score == "probability" else 0, why, full_adjoint=runs)

    @abstractmethod
    def count_runs(self) -> tuple[int, str]:
        """How many images are run there and back for a map, and why."""


def gaussian_blur(maps: Array, kernel: int, sigma: float | None = None) -> Array:
    """Maps (..., H, W) smoothed by a Gaussian kernel of that many pixels a side, reflected at the border.

    A σ of None is 0.3·((k − 1)/2 − 1) + 0.8.
    """
    if kernel == 1:
        return maps
    xp = library(maps)
    rows, columns = (constant_like(blur_matrix(size, kernel, sigma), maps) for size in maps.shape[-2:])
    return to_float32(rows @ xp.astype(maps, xp.float64) @ columns.T)


@cache_by_bytes()
def blur_matrix(size: int, kernel: int, sigma: float | None = None) -> npt.NDArray[np.float64]:
    """(size, size): what one axis of the blur makes of each of its pixels."""
    reserve(64 * (kernel + size), f"a blur over {kernel} pixels")
    reach = kernel // 2
    sigma = 0.3 * (reach - 1) + 0.8 if sigma is None else sigma
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    sources = np.pad(np.arange(size), reach, mode="reflect") if size > 1 else np.zeros(2 * reach + 1, int)
    matrix = allocation.zeros((size, size), "blur of an axis")
    for row in range(size):
        np.add.at(matrix[row], sources[row : row + kernel], bell / bell.sum())
    matrix.flags.writeable = False
    return matrix


@dataclass(frozen=True, kw_only=True)
class AttributionMethod(PixelMethod):
    """What methods have in common that share something out among the numbers of an image.

    Attributes:
        colours: What becomes of the shares of a pixel's colours: "max", the largest magnitude; "sum", their
            sum, which keeps its sign, so that with blur=1 `.raw` adds up to what is shared out.
    """

    colours: Literal["max", "sum"] = "max"

    @property
    def no_counterfactual(self) -> str:
        return MAGNITUDES if self.colours == "max" else ""

    def maps(self, queries: HeadQueries, target: int) -> Array:
        shares = self.attributions(queries, target)
        return max_magnitude(shares) if self.colours == "max" else library(shares).sum(shares, axis=1)

    @abstractmethod
    def attributions(self, queries: HeadQueries, target: int) -> Array:
        """The shares of the numbers of all images, (N, C, H, W), for target number `target`."""


@dataclass(frozen=True, kw_only=True)
class Gradient(PixelMethod):
    """The plain gradient: V(x).

    "Deep Inside Convolutional Networks" (Simonyan et al., 2014, section 3.1).
    """

    name: ClassVar[str] = "gradient"

    def maps(self, queries: HeadQueries, target: int) -> Array:
        return max_magnitude(self.gradient(queries, target))

    def count_runs(self) -> tuple[int, str]:
        return 1, "the model's adjoint, there and back"


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(PixelMethod):
    """Integrated gradients as CALM's code computes them: (1/N)·Σ_{t=0..N} V(x·t/N).

    Beside the textbook's form (`integrated-textbook`) there is no product with the image, magnitudes are
    taken before the sum, and the N + 1 points are divided by N.

    Attributes:
        steps: N.
    """

    name: ClassVar[str] = "integrated"

    steps: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("steps", 1)

    def maps(self, queries: HeadQueries, target: int) -> Array:
        total = zeros((len(queries.images), *queries.images.shape[2:]), queries.images, "float64")
        ways = self.altered_gradients(
            queries, target, self.steps + 1, lambda t: queries.images * (t / self.steps)
        )
        for _, batch_rows, found in ways:
            total[batch_rows] += max_magnitude(found)
        return to_float32(total / self.steps)

    def count_runs(self) -> tuple[int, str]:
        return self.steps + 1, "one a point between the empty image and the image"


@dataclass(frozen=True, kw_only=True)
class TextbookIntegratedGradients(AttributionMethod):
    """Integrated gradients: max over colours of |x · ∫ ∂score/∂x(t·x) dt|, from an image of zeros.

    "Axiomatic Attribution for Deep Networks" (Sundararajan et al., ICML 2017, equation 1); the integral by
    the trapezoid rule on N + 1 points. Before the magnitudes it sums to score(x) − score(0).

    Attributes:
        steps: N.
    """

    name: ClassVar[str] = "integrated-textbook"

    steps: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("steps", 1)

    def attributions(self, queries: HeadQueries, target: int) -> Array:
        total = zeros(queries.images.shape, queries.images, "float64")
        ways = self.altered_gradients(
            queries, target, self.steps + 1, lambda t: queries.images * (t / self.steps)
        )
        for way, batch_rows, found in ways:
            total[batch_rows] += found * (0.5 if way in (0, self.steps) else 1.0)
        return to_float32(queries.images * total / self.steps)

    def count_runs(self) -> tuple[int, str]:
        return self.steps + 1, "one a point between the empty image and the image"


@dataclass(frozen=True, kw_only=True)
class NoisyGradients(PixelMethod):
    """Gradients of noisy copies of an image.

    Draw i of the noise depends on the seed, on i and on the image's size, see `noise_adder`.

    Attributes:
        draws: Noisy copies.
        noise: Standard deviation of the noise in units of max x − min x, over all pixels and colours.
        seed: Seed of the noise.
    """

    draws: int = 50
    noise: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("draws", 1)
        self.require_integer("seed", 0)
        self.require_number("noise", 0)

    def noisy_copies(self, images: Array) -> Callable[[int], Array]:
        """What gives draw number i of the noisy copies of images."""
        return noise_adder(images, self.seed, np.float32(self.noise) * value_range(images))

    def noisy_gradient_maps(self, queries: HeadQueries, target: int) -> Iterator[tuple[int, slice, Array]]:
        """V of every noisy copy: the draw's number, the images, maps (B, H, W)."""
        alter = self.noisy_copies(queries.images)
        for draw, batch_rows, found in self.altered_gradients(queries, target, self.draws, alter):
            yield draw, batch_rows, max_magnitude(found)

    def count_runs(self) -> tuple[int, str]:
        return self.draws, "one a noisy copy"


@dataclass(frozen=True, kw_only=True)
class SmoothGrad(NoisyGradients):
    """SmoothGrad: the mean of V over noisy copies.

    "SmoothGrad: removing noise by adding noise" (Smilkov et al., 2017). `explanation.uncertainty` is the
    standard error of the mean, of the blurred maps.
    """

    name: ClassVar[str] = "smoothgrad"

    def maps(self, queries: HeadQueries, target: int) -> Array:
        return self._mean_and_error(queries, target, 1)[0]

    @override
    def raw_with_uncertainty(self, queries: HeadQueries) -> tuple[Array, Array, Array]:
        each = [
            self._mean_and_error(queries, target, self.blur) for target in range(queries.targets.shape[1])
        ]
        xp = library(queries.images)
        maps, errors = (xp.stack(list(parts), axis=1) for parts in zip(*each, strict=True))
        return maps, queries.scores(self.score), errors

    def _mean_and_error(self, queries: HeadQueries, target: int, blur: int) -> tuple[Array, Array]:
        """The mean (N, H, W) of V over the copies, each smoothed first, and its standard error."""
        shape = (len(queries.images), *queries.images.shape[2:])
        sums, squares = (zeros(shape, queries.images, "float64") for _ in range(2))
        for _, batch_rows, found in self.noisy_gradient_maps(queries, target):
            smooth = library(found).astype(gaussian_blur(found, blur), sums.dtype)
            sums[batch_rows] += smooth
            squares[batch_rows] += smooth**2
        mean, error = mean_and_error(sums, squares, self.draws)
        return to_float32(mean), to_float32(error)


@dataclass(frozen=True, kw_only=True)
class VarGrad(NoisyGradients):
    """Variance gradient: the (population) variance of V over noisy copies.

    "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter Values" (Adebayo et al.,
    2018).
    """

    name: ClassVar[str] = "vargrad"

    def maps(self, queries: HeadQueries, target: int) -> Array:
        shape = (len(queries.images), *queries.images.shape[2:])
        first, moved, squared = (zeros(shape, queries.images, "float64") for _ in range(3))
        for draw, batch_rows, found in self.noisy_gradient_maps(queries, target):
            if draw == 0:
                first[batch_rows] = found
            away = found - first[batch_rows]  # from a value near the mean, so that the squares do not cancel
            moved[batch_rows] += away
            squared[batch_rows] += away * away
        variance = squared / self.draws - (moved / self.draws) ** 2
        return to_float32(clip_min(variance, 0.0))
