"""The masked VGG-16 of "CAM-Based Methods Can See through Walls" as a file, with a sixteenth of its channels.

Section 4 of the paper (specification D3). What it says of rows does not depend on how many channels there
are: 13 convolutions of 3×3 with four max-pools between them bring 224 rows to 14, the first dense layer has
no weights for all but the first of these, and what lies so low that no row above reaches it is out of sight.
No weights are trained: these are drawn, as torchvision draws VGG's. The network to train is
`camrt.training.masked_vgg`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper, save_model

from camrt.errors import InputError

__all__ = ["IMAGE_SIDE", "LAST_MAP_ROWS", "paper_dead_rows", "save_narrow_vgg"]

IMAGE_SIDE = 224
"""Of the images."""
LAST_MAP_ROWS = 14
"""Of the last map."""

BLOCKS = ((4, 4), (8, 8), (16, 16, 16), (32, 32, 32), (32, 32, 16))
"""Channels of the convolutions of each block: those of the paper's network, its last one's 256 too, by 16."""
DENSE = ((32, 50176), (32, 4096), (10, 4096))
"""Units of the dense layers here, and inputs of the paper's, for which they are drawn from N(0, 0.01²)."""


def paper_dead_rows(kept_rows: int) -> int:
    """Rows at the bottom of an image that are out of sight: 118 − 16 (n − 1) of n rows kept, none from 9 on.

    By receptive fields: the first row of the map reaches down to row 105 of 224, each further one 16 more.
    """
    return max(0, 118 - 16 * (kept_rows - 1))


def save_narrow_vgg(path: Path, kept_rows: int = 5, seed: int = 0) -> None:
    """Writes the network, images (N, 3, 224, 224) to 10 logits, with random weights.

    Args:
        path: Where the ONNX file goes.
        kept_rows: Rows of the last map that the first dense layer sees, from the top.
        seed: Of the weights.

    Raises:
        InputError: `kept_rows` is not between 1 and 14.
    """
    if not 1 <= kept_rows <= LAST_MAP_ROWS:
        raise InputError(f"kept_rows={kept_rows} must be between 1 and the map's {LAST_MAP_ROWS} rows")
    rng = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    weights: dict[str, npt.NDArray[np.float64]] = {}
    last, inputs = "input", 3
    for number, block in enumerate(BLOCKS):
        if number:
            pooled = f"pooled{number}"
            nodes.append(helper.make_node("MaxPool", [last], [pooled], kernel_shape=[2, 2], strides=[2, 2]))
            last = pooled
        for place, outputs in enumerate(block):
            name = f"block{number}.{place}"
            spread = math.sqrt(2 / (9 * outputs))  # Kaiming's, by the outputs
            weights[name] = spread * rng.standard_normal((outputs, inputs, 3, 3))
            nodes += [
                helper.make_node("Conv", [last, name], [f"{name}.sum"], kernel_shape=[3, 3], pads=[1] * 4),
                helper.make_node("Relu", [f"{name}.sum"], [f"{name}.map"]),
            ]
            last, inputs = f"{name}.map", outputs
    nodes.append(helper.make_node("Flatten", [last], ["flat"]))
    last, inputs = "flat", inputs * LAST_MAP_ROWS**2
    for number, (units, of_the_paper) in enumerate(DENSE):
        name = f"dense{number}"
        spread = 0.01 * math.sqrt(of_the_paper / inputs)  # so that signals are as large as there
        weights[name] = spread * rng.standard_normal((units, inputs))
        if number == 0:
            weights[name].reshape(units, -1, LAST_MAP_ROWS, LAST_MAP_ROWS)[:, :, kept_rows:] = 0
        final = number == len(DENSE) - 1
        nodes.append(helper.make_node("Gemm", [last, name], ["logits" if final else f"{name}.sum"], transB=1))
        if not final:
            nodes.append(helper.make_node("Relu", [f"{name}.sum"], [f"{name}.units"]))
        last, inputs = f"{name}.units", units
    graph = helper.make_graph(
        nodes,
        "narrow masked VGG-16",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, IMAGE_SIDE, IMAGE_SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", DENSE[-1][0]])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
