"""Theorem 3 of "CAM-Based Methods Can See through Walls": Grad-CAM lights up every place, seen or not.

Section 3 of the paper (ECML-PKDD 2024; specification D2): in the network of `one_layer`, with one dense
layer, i.i.d. N(0, τ²) filters and weights and the lower half of the pooled rows masked, the expected map is
at least a constant times the norm of the patch P_ij of ξ under B[i,j], at every place.

It is exact here. Given the filters, Σ_v α_v B_v[i,j] is Gaussian around 0 of variance τ² h'w' / (2 (hw)²) · S
with S = Σ_v B_v[i,j]², and sqrt(S) is τ ‖P_ij‖ times the norm of V rectified standard normal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camrt.errors import InputError
from camrt.evaluation.dead_zone.one_layer_cnn import (
    Array,
    check_image_size,
    extract_patches,
    pooled_size,
    to_float64,
)
from camrt.kernels.float_errors import ignore_float_errors

__all__ = [
    "TheoremCheck",
    "check_theorem",
    "draw_maps",
    "expected_grad_cam",
    "expected_norm",
    "lower_bound",
    "mean_and_standard_error",
    "patch_norms",
]

BLOCK_NUMBERS = 4_000_000
"""Numbers that a block of simulated maps may hold."""


@ignore_float_errors
def patch_norms(xi: npt.ArrayLike, k: int) -> Array:
    """‖P_ij‖₂ (h, w), the norm of the k×k patch of an image (H, W) under each place of its convolution.

    Raises:
        InputError: The image is not (H, W), not finite, or smaller than a patch.
    """
    image = to_float64("xi", xi)
    if not 1 <= k <= min(check_image_size(image)):
        raise InputError(f"patches of side {k} need an image of at least that side, not {image.shape}")
    return np.asarray(np.sqrt((extract_patches(image, k) ** 2).sum(axis=(2, 3))))


@ignore_float_errors
def expected_norm(V: int) -> float:
    """c_V, the expected norm of V independent rectified standard normal numbers.

    Of the V numbers m are positive with probability binom(V, m) 2^−V, and then the norm is that of m standard
    normal numbers: c_V = Σ_{m=1..V} binom(V, m) 2^−V sqrt(2) Γ((m+1)/2) / Γ(m/2), summed by logarithms.

    Raises:
        InputError: V is not positive.
    """
    if V < 1:
        raise InputError(f"V={V} must be positive")
    terms = (
        math.lgamma(V + 1)
        - math.lgamma(m + 1)
        - math.lgamma(V - m + 1)
        - V * math.log(2)
        + math.log(2) / 2
        + math.lgamma((m + 1) / 2)
        - math.lgamma(m / 2)
        for m in range(1, V + 1)
    )
    return math.fsum(math.exp(term) for term in terms)


@ignore_float_errors
def expected_grad_cam(
    norms: npt.ArrayLike, V: int, pool: int, pooled: tuple[int, int], *, tau: float = 1.0
) -> Array:
    """E[GC_ij], exact, in the setting of Theorem 3: τ² ‖P_ij‖ c_V / (2 sqrt(π) k'² sqrt(h'w')).

    It is the same in masked rows as in those the network sees.

    Args:
        norms: ‖P_ij‖, any shape, see `patch_norms`.
        V: Filters.
        pool: k'.
        pooled: (h', w'); h' is even.
        tau: τ, of the filters and of the weights that are not masked.

    Raises:
        InputError: A negative norm, a size that is not positive, or an odd h'.
    """
    return scale_norms(norms, pool, pooled, tau) * expected_norm(V)


@ignore_float_errors
def lower_bound(
    norms: npt.ArrayLike,
    V: int,
    pool: int,
    pooled: tuple[int, int],
    *,
    tau: float = 1.0,
    split: float = 0.5,
) -> Array:
    """What Chebyshev's inequality leaves of E[GC_ij], in the style of the proof of Theorem 3.

    S has mean V ρ²/2 and variance 5 V ρ⁴/4, ρ = τ‖P_ij‖, so that with t = `split`
    P(S ≥ (1 − t) E S) ≥ 1 − 5 / (V t²), and c_V ≥ sqrt(V (1 − t) / 2) (1 − 5 / (V t²)). With t = 1/2 the
    bound is τ² ‖P_ij‖ sqrt(V) (1 − 20/V) / (4 sqrt(π) k'² sqrt(h'w')). The constant that the paper prints may
    differ.

    Args:
        norms: As for `expected_grad_cam`, and so are V, pool, pooled and tau.
        V: See there.
        pool: See there.
        pooled: See there.
        tau: See there.
        split: t, between 0 and 1.

    Returns:
        The bound, in the shape of `norms`; 0, which always holds, where V ≤ 5 / t² and it says nothing.

    Raises:
        InputError: As `expected_grad_cam`, or a split that is not between 0 and 1.
    """
    if not 0 < split < 1:
        raise InputError(f"split={split} must be between 0 and 1")
    if V < 1:
        raise InputError(f"V={V} must be positive")
    least = math.sqrt(V * (1 - split) / 2) * max(0.0, 1 - 5 / (V * split**2))
    return scale_norms(norms, pool, pooled, tau) * least


def scale_norms(norms: npt.ArrayLike, pool: int, pooled: tuple[int, int], tau: float) -> Array:
    """τ² ‖P_ij‖ / (2 sqrt(π) k'² sqrt(h'w')): E[GC_ij] but for c_V."""
    lengths = to_float64("norms", norms)
    if lengths.size and lengths.min() < 0:
        raise InputError("a norm is negative")
    if pool < 1 or min(pooled) < 1 or not 0 < tau < math.inf:
        raise InputError(f"pool={pool}, pooled={pooled} and tau={tau} must be positive")
    if pooled[0] % 2:
        raise InputError(f"Theorem 3 masks half of the pooled map's rows, and {pooled[0]} is odd")
    return tau**2 * lengths / (2 * math.sqrt(math.pi) * pool**2 * math.sqrt(math.prod(pooled)))


def mean_and_standard_error(blocks: Iterable[Array]) -> tuple[Array, Array]:
    """Mean and standard error (h, w) of two or more maps that come in blocks (n, h, w)."""
    count = 0
    totals = squares = np.zeros(())
    for block in blocks:
        count += len(block)
        totals = totals + block.sum(axis=0)
        squares = squares + (block**2).sum(axis=0)
    mean = totals / count
    variance = np.maximum(squares / count - mean**2, 0) * count / (count - 1)
    return mean, np.sqrt(variance / count)


def draw_maps(xi: npt.ArrayLike, V: int, k: int, pool: int, draws: int, seed: int) -> Iterator[Array]:
    """Grad-CAM maps (n, h, w) of networks drawn as in Theorem 3 with τ = 1, block by block, `draws` in all.

    Filters and the dense weights of the upper half of the rows are drawn one by one; the coefficients α_v
    follow from them by Proposition 2.

    Args:
        xi: The image (H, W).
        V: Filters.
        k: Their side.
        pool: k'.
        draws: How many networks, at least 2.
        seed: Of the draws.

    Raises:
        InputError: Sizes that do not fit, an odd h', or fewer than two draws.
    """
    image = to_float64("xi", xi)
    if V < 1 or draws < 2:
        raise InputError(f"a filter and two draws are needed, not V={V} and draws={draws}")
    height, width = pooled_size(check_image_size(image), k, pool)
    if height % 2:
        raise InputError(f"Theorem 3 masks half of the pooled map's rows, and {height} is odd")
    patches = extract_patches(image, k)
    places = patches.shape[0] * patches.shape[1]
    flat = patches.reshape(places, k * k)
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_NUMBERS // (V * places))
    for start in range(0, draws, block):
        count = min(block, draws - start)
        filters = rng.standard_normal((count, V, k * k))
        alpha = rng.standard_normal((count, V, height // 2 * width)).sum(axis=2) / places
        rectified = np.maximum(filters @ flat.T, 0)
        summed = (alpha[:, None] @ rectified)[:, 0]
        yield np.maximum(summed, 0).reshape(count, *patches.shape[:2])


@dataclass(frozen=True)
class TheoremCheck:
    """A simulation beside the exact expectation and the bound of Theorem 3.

    Attributes:
        draws: Networks drawn.
        ratio: Mean over places of simulated / exact.
        ratio_error: Its standard error; the places of one network are not independent, networks are.
        worst: Largest |simulated − exact| of a place, in its standard errors.
        bound_ratio: bound / exact, the same at every place.
        bound_holds: Whether the simulated mean is at least the bound at every place.
        masked_ratio: As `ratio`, over places whose pooled cell is masked alone; NaN where there is none.
        masked_error: Its standard error.
        masked_share: The share of the mean map's sum that lies at masked places.
        share_error: Its standard error.
        expected_share: The same of the exact expectation.
        least_over_bound: The least simulated mean of a place, relative to its bound; infinity where the bound
            is 0.
        zero_places: Places over a patch of zeros, where all is 0; left out of the ratios.
        largest_at_zero: The largest simulated mean there; NaN where there is none.
    """

    draws: int
    ratio: float
    ratio_error: float
    worst: float
    bound_ratio: float
    bound_holds: bool
    masked_ratio: float
    masked_error: float
    masked_share: float
    share_error: float
    expected_share: float
    least_over_bound: float
    zero_places: int
    largest_at_zero: float


@ignore_float_errors
def check_theorem(
    xi: npt.ArrayLike, V: int = 64, k: int = 2, pool: int = 2, *, draws: int = 20_000, seed: int = 0
) -> TheoremCheck:
    """Simulates the setting of Theorem 3 on one image and compares with what is exact (specification D2).

    Args:
        xi: The image (H, W).
        V: Filters.
        k: Their side.
        pool: k'.
        draws: How many networks.
        seed: Of the draws.

    Raises:
        InputError: As `draw_maps`, or an image of zeros.
    """
    norms = patch_norms(xi, k)
    pooled = pooled_size(check_image_size(xi), k, pool)
    exact = expected_grad_cam(norms, V, pool, pooled)
    bound = lower_bound(norms, V, pool, pooled)
    alive = norms > 0
    if not alive.any():
        raise InputError("every patch of the image is zero: there is no ratio to compare")
    lower = (np.arange(len(norms)) >= len(norms) // 2)[:, None]
    masked = alive & lower
    noted: dict[str, list[Array]] = {"ratio": [], "masked": [], "below": [], "all": []}

    def noting() -> Iterator[Array]:
        for block in draw_maps(xi, V, k, pool, draws, seed):
            noted["ratio"].append((block[:, alive] / exact[alive]).mean(axis=1))
            if masked.any():
                noted["masked"].append((block[:, masked] / exact[masked]).mean(axis=1))
            noted["below"].append(block[:, masked].sum(axis=1))
            noted["all"].append(block.sum(axis=(1, 2)))
            yield block

    mean, error = mean_and_standard_error(noting())
    each = {name: np.concatenate(blocks) for name, blocks in noted.items() if blocks}
    apart = np.abs(mean - exact)[alive] / error[alive]
    share = float(each["below"].sum() / each["all"].sum())
    # Of a ratio of two means, to first order: the spread of what is above it when the ratio is taken off.
    rest = (each["below"] - share * each["all"]) / each["all"].mean()
    return TheoremCheck(
        draws=draws,
        ratio=float(each["ratio"].mean()),
        ratio_error=standard_error(each["ratio"]),
        worst=float(apart.max()),
        bound_ratio=float(bound[alive][0] / exact[alive][0]),
        bound_holds=bool((mean >= bound).all()),
        masked_ratio=float(each["masked"].mean()) if masked.any() else math.nan,
        masked_error=standard_error(each["masked"]) if masked.any() else math.nan,
        masked_share=share,
        share_error=standard_error(rest),
        expected_share=float(exact[masked].sum() / exact.sum()),
        least_over_bound=float((mean[alive] / bound[alive]).min()) if bound[alive].all() else math.inf,
        zero_places=int((~alive).sum()),
        largest_at_zero=float(mean[~alive].max()) if not alive.all() else math.nan,
    )


def standard_error(values: Array) -> float:
    """Of the mean of two or more numbers (n,)."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))
