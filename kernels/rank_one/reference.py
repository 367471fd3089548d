"""The definition of `rank_one` in NumPy."""

from __future__ import annotations

from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["rank_one"]


@ignore_float_errors
def rank_one(
    base: Floats, weight: Floats, activations: Floats, batch_index: Ints, channel: Ints, out: Floats
) -> None:
    """Compute what `camrt.kernels.rank_one.rank_one` documents, unchecked."""
    out[...] = base[batch_index] - weight[channel][:, :, None] * activations[batch_index, channel][:, None, :]
