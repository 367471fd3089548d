"""Size tensors: the batch and axis sizes a graph computes with; they do not depend on image content.

Exporters read sizes off tensors wherever they need them, so that paths of sizes run from the image to
every part of the graph. `camrt.export.rewrites.batch_axis` brings them to three kinds: numbers, the tensor
`BATCH`, and tensors whose names begin with `SIZE_PREFIX`, each one size that depends on how large the images
are and not on how many. A tensor that depends on nothing else counts as a constant, and no cut is crossed by
it: a head takes the batch size from its own input, and the other sizes from its own tensors where it has
    them.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper, numpy_helper

__all__ = ["BATCH", "SIZE_PREFIX", "is_size_tensor", "make_batch_size_nodes"]

BATCH = "camrt_batch"  # int64 [N]
SIZE_PREFIX = "camrt_size_"  # int64 [1] each


def is_size_tensor(name: str) -> bool:
    """Whether a tensor is a size, brought to the form that this module describes."""
    return name == BATCH or name.startswith(SIZE_PREFIX)


def make_batch_size_nodes(source: str) -> list[NodeProto]:
    """The nodes that make `BATCH` from a tensor (N, ...)."""
    first = numpy_helper.from_array(np.zeros(1, np.int64))
    return [
        helper.make_node("Shape", [source], ["camrt_sizes"]),
        helper.make_node("Constant", [], ["camrt_first"], value=first),
        helper.make_node("Gather", ["camrt_sizes", "camrt_first"], [BATCH], axis=0),
    ]
