"""`weighted_map` of ResNet-50 (7 × 7 cells, and 56 × 56), VGG-16 (14 × 14) and Inception-v3 (8 × 8, 299²)."""

from helpers.kernel_variants import Variant


def _weighted_map(
    model: str,
    kind: str,
    cells: tuple[int, int, int],
    targets: int,
    *,
    library: bool = False,
    last: bool = False,
    flat: bool = True,
    group: int = 8,
    multiples: tuple[str, ...] = (),
    wide: tuple[str, ...] = ("ld", "st"),
    registers: int = 64,
    shared: int = 8192,
) -> Variant:
    block = dict(zip(("CELLS", "CHANNELS", "STEPS"), cells, strict=True))
    return Variant(
        "weighted_map",
        "_weighted_map",
        {
            "p_activations": f"*{kind}",
            "p_weights": f"*{kind}",
            "p_flags": "*u8",
            "p_rows": "*i32",
            "p_columns": "*i32",
            "scale_h": "fp32",
            "scale_w": "fp32",
        },
        block
        | {"RUN": 4 if kind == "fp32" else 8}
        | {
            "LIBRARY": library,
            "MINMAX": False,
            "RELU": True,
            "ALIGN": False,
            "FLAT": flat and not last,
            "DENSE": True,
        }
        | {"TARGETS": targets, "GROUP": group, "ROWS": 32 // targets, "COLUMNS": 32, "stride_wk": 1}
        | ({"stride_k": 1} if last else {"stride_w": 1}),
        ("stride_n", "channels", "stride_wn", "stride_wt", *multiples),
        wide,
        registers=registers,
        shared=shared,
        options={"num_warps": 8},
        name=f"{model}-{kind}-{'NHWC' if last else 'NCHW'}-{targets}{'-library' if library else ''}",
    )


SQUARE = ("height", "width")
LAST = (*SQUARE, "stride_w", "stride_h")
LARGE = (*SQUARE, "cells", "stride_k")
VARIANTS = [
    _weighted_map("resnet50", "fp32", (64, 16, 4), 1, multiples=SQUARE),
    _weighted_map("resnet50", "fp16", (64, 32, 4), 1, multiples=SQUARE, registers=72),
    _weighted_map("resnet50", "bf16", (64, 32, 4), 1, multiples=SQUARE, registers=72),
    _weighted_map("resnet50", "fp32", (64, 16, 4), 1, multiples=SQUARE, library=True),
    _weighted_map("resnet50", "fp32", (64, 16, 2), 2, multiples=SQUARE),
    _weighted_map("resnet50", "fp32", (64, 16, 1), 4, multiples=SQUARE),
    _weighted_map("resnet50", "fp16", (64, 32, 1), 4, multiples=SQUARE, registers=96),
    _weighted_map("resnet50", "fp32", (64, 16, 4), 1, multiples=LAST, last=True),
    _weighted_map("resnet50", "fp16", (64, 32, 4), 1, multiples=LAST, last=True, registers=80),
    _weighted_map("resnet50", "fp32", (64, 16, 1), 4, multiples=LAST, last=True),
    _weighted_map("resnet50", "fp16", (64, 32, 1), 4, multiples=LAST, last=True, registers=88),
    _weighted_map("vgg16", "fp32", (256, 4, 4), 1, multiples=SQUARE),
    _weighted_map("vgg16", "fp16", (256, 8, 4), 1, multiples=SQUARE),
    _weighted_map("vgg16", "fp32", (256, 4, 1), 4, multiples=SQUARE),
    _weighted_map("resnet50-56", "fp32", (256, 4, 4), 1, multiples=LARGE, flat=False, group=4, registers=72),
    _weighted_map("resnet50-56", "fp16", (256, 8, 4), 1, multiples=LARGE, flat=False, group=4, registers=72),
    _weighted_map("resnet50-56", "fp32", (256, 4, 1), 4, multiples=LARGE, flat=False, group=4, registers=112),
    _weighted_map(
        "inception", "fp32", (64, 16, 4), 1, multiples=("cells", "stride_k"), wide=("ld",), registers=80
    ),
]
