"""`ablate` as a head that must be run takes its inputs: ResNet-50's 2048 maps of 7 x 7."""

from camrt.kernels.ablate.gpu import tiles_of
from helpers.kernel_variants import Variant


def _ablate(kind: str, last: bool, boxes: bool) -> Variant:
    tiles = tiles_of(2048, 49, last=last, item=4 if kind == "fp32" else 2)
    return Variant(
        "ablate",
        "_ablate",
        {"p_maps": f"*{kind}", "p_batch": "*i64", "p_chosen": "*i64", "p_out": f"*{kind}"},
        {"BOXES": boxes, "KEEP": False, "DENSE": True, "LAST": last}
        | {"VECTOR": tiles.vector, "ROWS": tiles.rows, "COLUMNS": tiles.columns}
        | {"stride_k" if last else "stride_w": 1},
        ("stride_n", "size", *(("units", "stride_h", "stride_w") if last else ())),
        name=f"{'boxes' if boxes else 'channels'}-{kind}-{'NHWC' if last else 'NCHW'}",
    )


VARIANTS = [
    _ablate(kind, last, boxes)
    for kind in ("fp32", "fp16", "bf16")
    for last in (False, True)
    for boxes in (False, True)
]
