"""`box_scores` as Pixab-CAM launches them for pooled linear heads.

ResNet-50 has 7 × 7 cells, Inception-v3 8 × 8, VGG-16 14 × 14, and networks trained for localisation 28 × 28.
"""

from helpers.kernel_variants import Variant


def _parts(
    kind: str,
    layout: str,
    map_size: int,
    classes: int,
    *,
    shared: int = 48 * 1024,
    targets: int | None = None,
) -> Variant:
    last, half, cells = layout == "NHWC", kind != "fp32", map_size**2
    once = cells <= 256
    held = max(16, 1 << (cells - 1).bit_length()) if once else 64
    unit = 1 if last else next(unit for unit in (8, 4, 2, 1) if cells % unit == 0)
    return Variant(
        "box_scores",
        "_parts",
        {"p_features": f"*{kind}", "p_weight": f"*{kind}", "p_logits": f"*{kind}", "p_empty": f"*{kind}"}
        | {"p_boxes": "*i64", "p_targets": "*i64", "scale": "fp32"},
        {"UNIT": unit, "FLAT": True, "ONCE": once, "HALF": half, "INTERPRETED": False}
        | {
            "CELLS": held,
            "DEPTH": 64 if half else 32,
            "CLASSES": classes,
            "BOXES": 16 if held > 128 else 32,
        }
        | {"stride_wk": 1, "stride_lc": 1, "stride_oc": 1}
        | ({"stride_k": 1} if last else {"stride_w": 1})
        | ({} if targets is None else {"targets": targets}),
        ("channels", "stride_wc", "stride_n", *(("stride_w",) if last else ())),
        wide=("ld",) if last or unit * (2 if half else 4) == 16 else (),  # maps of 7×7 begin anywhere
        shared=shared,
        options={"num_warps": 4 if once and held * classes <= 4096 else 8},
        name=f"{kind}-{layout}-{map_size}x{map_size}-{classes}",
    )


VARIANTS = [
    _parts("fp32", "NCHW", 7, 64),
    _parts("fp32", "NHWC", 7, 64),
    # The half types differ in one conversion: the second is compiled for one layout.
    *(_parts(kind, layout, 7, 64) for kind, layout in (("fp16", "NCHW"), ("fp16", "NHWC"), ("bf16", "NHWC"))),
    _parts("fp32", "NHWC", 7, 32),
    _parts("fp32", "NHWC", 7, 16, targets=1),
    _parts("fp16", "NHWC", 7, 16, targets=1),
    _parts("fp32", "NCHW", 8, 64),
    _parts("fp16", "NCHW", 8, 64),
    _parts("fp32", "NCHW", 14, 32, shared=80 * 1024),
    _parts("fp16", "NHWC", 14, 32, shared=108 * 1024),
    _parts("fp32", "NHWC", 28, 64),
    _parts("fp16", "NHWC", 28, 64),
]
