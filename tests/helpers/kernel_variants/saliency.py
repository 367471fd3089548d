"""`saliency` of 7 × 7 maps and of maps as large as images of 224 × 224."""

from helpers.kernel_variants import Variant

MODES = {
    "max": {"LIBRARY": False, "MINMAX": False},
    "minmax": {"LIBRARY": False, "MINMAX": True},
    "library": {"LIBRARY": True, "MINMAX": False},
}
SCALES = {"scale_h": "fp32", "scale_w": "fp32"}


def _write(kind: str, mode: str) -> Variant:
    return Variant(
        "saliency",
        "_write",
        {"p_raw": f"*{kind}"} | SCALES,
        MODES[mode] | {"RELU": True, "ALIGN": False, "GROUP": 8, "ROWS": 16, "COLUMNS": 32, "stride_w": 1},
        ("height", "width"),
        ("st",),
        name=f"{kind}-{mode}",
    )


def _judge(kind: str, mode: str, maps: int, cells: int) -> Variant:
    large = cells == 8192
    return Variant(
        "saliency",
        "_judge",
        {"p_raw": f"*{kind}", "p_flags": "*u8", "p_rows": "*i32", "p_columns": "*i32"} | SCALES,
        MODES[mode]
        | {"RELU": True, "ALIGN": False, "DENSE": True, "MAPS": maps, "CELLS": cells, "stride_w": 1},
        ("stride_m", "stride_h", "h", "w", "cells") if large else (),
        ("ld",) if large else (),
        options={"num_warps": 16 if large else 4},
        name=f"{kind}-{mode}-{'pixels' if large else 'cells'}",
    )


VARIANTS = [
    *(_write(kind, "max") for kind in ("fp32", "fp16", "bf16")),
    *(_write("fp32", mode) for mode in ("minmax", "library")),
    *(_judge("fp32", mode, *tile) for mode in ("max", "library") for tile in ((4, 64), (1, 8192))),
    _judge("fp16", "max", 1, 8192),
]
