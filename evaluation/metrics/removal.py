"""Remove-and-classify: does accuracy fall when the pixels that a map marks are erased?

"Keep CALM and Improve Visual Feature Attribution" (ICCV 2021), section 5.3 (specification C2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.errors import InputError
from camrt.kernels.blur import blur
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["SHARES", "RemovalResult", "blur_images", "gaussian", "remove_and_classify", "top_pixels_mask"]

Array = npt.NDArray[Any]
Predict = Callable[[Array], Array]
"""From images (N, C, H, W), as the model takes them, to logits (N, classes)."""

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""The shares of pixels that the paper erases."""


@dataclass(frozen=True)
class RemovalResult:
    """What erasing one share of the pixels did.

    Attributes:
        share: k, of all pixels.
        accuracy: A_k, with the map's highest pixels erased.
        random: Ar_k, with as many random pixels erased.
    """

    share: float
    accuracy: float
    random: float

    @property
    def ratio(self) -> float:
        """R_k = A_k / Ar_k, lower is better; NaN where random erasing leaves nothing right."""
        return self.accuracy / self.random if self.random else float("nan")


@ignore_float_errors
def remove_and_classify(
    predict: Predict,
    images: Array,
    labels: npt.NDArray[np.int64],
    maps: Array,
    *,
    shares: Sequence[float] = SHARES,
    base: Literal["blur", "zero"] = "blur",
    kernel: tuple[int, float] | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> tuple[RemovalResult, ...]:
    """Erases the highest pixels of each image's map, or as many random ones, and counts what is right.

    Args:
        predict: The model.
        images: (N, C, H, W) as the model takes them.
        labels: (N,) true classes.
        maps: (N, H, W), of the true class.
        shares: The shares of pixels to erase; int(share · H · W) pixels are.
        base: What erased pixels become: those of the blurred image, as the paper says; or zero, the mean
            colour, as its code has it. The same for the map's pixels and for random ones.
        kernel: Side and sigma of the blur; None takes the code's 31 and 15 for images of 224 pixels, in
            proportion.
        seed: Of the random pixels; each image has its own.
        batch_size: Images a batch.

    Returns:
        What each share did; counts are summed over the images before they are divided.

    Raises:
        InputError: Shapes that do not fit, or a share outside 0 to 1.
    """
    if images.ndim != 4 or maps.shape != (len(images), *images.shape[2:]) or labels.shape != (len(images),):
        raise InputError(
            f"images {images.shape}, maps {maps.shape} and labels {labels.shape} must be (N, C, H, W), "
            "(N, H, W) and (N,)"
        )
    if not len(images):
        raise InputError("there are no images to erase from")
    if not all(0 <= share <= 1 for share in shares):
        raise InputError(f"shares={tuple(shares)} must lie between 0 and 1")
    if base not in ("blur", "zero"):
        raise InputError(f"base={base!r} must be 'blur' or 'zero'")
    side, sigma = kernel or scale_blur_kernel(images.shape[2])
    right = np.zeros((len(shares), 2), np.int64)
    for start in range(0, len(images), batch_size):
        block = images[start : start + batch_size]
        filling = blur_images(block, side, sigma) if base == "blur" else np.zeros_like(block)
        order = np.argsort(-maps[start : start + batch_size].reshape(len(block), -1), axis=1, kind="stable")
        chance = np.stack(
            [np.random.default_rng((seed, start + n)).permutation(order.shape[1]) for n in range(len(block))]
        )
        for position, share in enumerate(shares):
            for column, ranking in enumerate((order, chance)):
                erased = top_pixels_mask(ranking, share, block.shape[2:])
                altered = np.where(erased[:, None], filling, block).astype(block.dtype)
                answers = predict(altered).argmax(axis=1)
                right[position, column] += int((answers == labels[start : start + batch_size]).sum())
    return tuple(
        RemovalResult(share, int(found) / len(images), int(chance) / len(images))
        for share, (found, chance) in zip(shares, right, strict=True)
    )


@ignore_float_errors
def top_pixels_mask(
    ranking: npt.NDArray[np.int64], share: float, size: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """(N, H, W): the first int(share · H · W) pixels of each ranking (N, H·W)."""
    marked = np.zeros(ranking.shape, np.bool_)
    count = int(share * ranking.shape[1])
    np.put_along_axis(marked, ranking[:, :count], True, axis=1)
    return marked.reshape(len(ranking), *size)


def scale_blur_kernel(height: int) -> tuple[int, float]:
    """Side, odd, and sigma: 31 and 15 for 224 pixels, as in the paper's code, in proportion."""
    side = max(3, round(31 * height / 224))
    side += 1 - side % 2
    return side, 15 * height / 224


@ignore_float_errors
def gaussian(side: int, sigma: float) -> npt.NDArray[np.float64]:
    """A normalised Gaussian kernel of odd side.

    Raises:
        InputError: The side is even, or the sigma not positive.
    """
    if side < 1 or side % 2 == 0 or not sigma > 0:
        raise InputError(f"a blur needs an odd side and a positive sigma, not {side} and {sigma}")
    places = np.arange(side) - side // 2
    weights = np.exp(-(places**2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


@ignore_float_errors
def blur_images(images: Any, side: int, sigma: float) -> Any:
    """Images (N, C, H, W) blurred channel by channel, mirrored at the border, which is not repeated.

    They may be tensors, and are blurred where they lie.

    Raises:
        InputError: The kernel reaches further than the image does.
    """
    if side // 2 >= min(images.shape[2:]):
        raise InputError(f"a blur of {side} reaches beyond images of {images.shape[2]}×{images.shape[3]}")
    return blur(images, gaussian(side, sigma), "mirror")
