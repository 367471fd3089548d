"""ROAD: what does the model say when pixels are removed, and guessed from those around them?

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ICML 2022,
arXiv:2202.00449): remove and debias. A share of an image's pixels, the most relevant first (MoRF) or the
least relevant first (LeRF), is replaced by noisy linear imputation (see `camrt.evaluation.imputation`), so
that the shape of what is missing tells the model as little as may be. With p the score of the map's class
once a share s of the pixels was removed:

    MoRF = mean_s p_most(s), low of a good map      LeRF = mean_s p_least(s), high      (LeRF − MoRF) / 2

The third is pytorch-grad-cam's `ROADCombined`. As in the paper's code int(s · H · W) pixels are removed; of
equal ones the first in row-major order is the more relevant, where that code draws. The noise is in units of
the model's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError
from camrt.evaluation.imputation import NOISE
from camrt.evaluation.metrics.curves import ranks_of
from camrt.evaluation.perturbation import PerturbationQueries
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["NOISE_SHEET", "SHARES", "RoadResult", "add_road_queries", "imputation_noise", "road"]

Array = NDArray[Any]

NOISE_SHEET = "imputation noise"
SHARES = (0.2, 0.4, 0.6, 0.8)
"""The shares of pixels that are removed, percentiles 20, 40, 60 and 80 of pytorch-grad-cam's example."""


@dataclass(frozen=True, eq=False)
class RoadResult:
    """Scores of the maps' classes once pixels were removed.

    Attributes:
        most: (N, S) with each share of the pixels removed, the most relevant first.
        least: (N, S), the least relevant first.
    """

    most: NDArray[np.float64]
    least: NDArray[np.float64]

    @property
    def morf(self) -> NDArray[np.float64]:
        """(N,): lower is better."""
        return np.asarray(self.most.mean(axis=1))

    @property
    def lerf(self) -> NDArray[np.float64]:
        """(N,): higher is better."""
        return np.asarray(self.least.mean(axis=1))

    @property
    def combined(self) -> NDArray[np.float64]:
        """(LeRF − MoRF) / 2, (N,): higher is better."""
        return np.asarray((self.lerf - self.morf) / 2)


@ignore_float_errors
def road(
    predict: Callable[[Array], Array],
    images: Array,
    classes: ArrayLike,
    maps: Array,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = NOISE,
    seed: int | Sequence[int] = 0,
    batch_size: int = 64,
) -> RoadResult:
    """Removes the pixels that each map calls most and least relevant, and asks the model again.

    Args:
        predict: From images (n, C, H, W), as the model takes them, to the scores (n, classes) that are
            compared: probabilities, or logits.
        images: (N, C, H, W) as the model takes them.
        classes: (N,) the class of each map.
        maps: (N, H, W), finite.
        shares: The shares of pixels to remove.
        noise: Standard deviation of what is added to imputed pixels.
        seed: Of the noise, which is the same for every image and share.
        batch_size: Images a batch.

    Raises:
        InputError: Shapes that do not fit, or a share outside 0 to 1 or of no pixel.
        MissingExtraError: SciPy is not installed.
    """
    chosen = np.asarray(classes)
    if images.ndim != 4 or maps.shape != (len(images), *images.shape[2:]) or chosen.shape != (len(images),):
        raise InputError(
            f"images {images.shape}, maps {maps.shape} and classes {chosen.shape} must be (N, C, H, W), "
            "(N, H, W) and (N,)"
        )
    for share in shares:
        if not 0 < int(share * maps[0].size) < maps[0].size:
            raise InputError(
                f"shares={tuple(shares)}: each must remove some pixels of {maps.shape[1:]}, and not all"
            )
    sheets = {NOISE_SHEET: np.broadcast_to(imputation_noise(images.shape[1:], seed, noise), images.shape)}
    queries = PerturbationQueries(images, None, chosen.reshape(-1, 1), sheets)
    places = [add_road_queries(queries, n, ranks, shares) for n, ranks in enumerate(ranks_of(maps))]
    answers = queries.run(predict, lambda scores: scores, batch_size).probabilities[:, 0]
    most, least = (answers[np.array(own, np.int64)] for own in zip(*places, strict=True))
    return RoadResult(most, least)


def add_road_queries(
    queries: PerturbationQueries, image: int, ranks: NDArray[np.int64], shares: Sequence[float]
) -> tuple[list[int], list[int]]:
    """Asks about an image without each share of its most relevant pixels, and of its least relevant ones.

    Args:
        queries: Where to ask; it has the sheet `NOISE_SHEET`.
        image: Which image.
        ranks: (H·W,) the place of each pixel in the map's order.
        shares: The shares.

    Returns:
        Where the answers will be: of the most relevant, and of the least relevant.
    """
    pixels, counts = queries.pixels, [int(share * queries.pixels) for share in shares]
    most = [queries.add_imputed(image, ranks, 0, count, NOISE_SHEET) for count in counts]
    least = [queries.add_imputed(image, ranks, pixels - count, pixels, NOISE_SHEET) for count in counts]
    return most, least


def imputation_noise(
    shape: tuple[int, ...], seed: int | Sequence[int], noise: float = NOISE
) -> NDArray[np.float32]:
    """What is added to imputed pixels of an image (C, H, W): normal, of standard deviation `noise`."""
    return (noise * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)
