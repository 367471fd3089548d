"""`partial_products` of VGG-16's first linear layer, prepared: 4096 features of 512 maps of 7 x 7."""

from camrt.kernels.partial_products.gpu import FEATURES, STAGES, block_sizes
from helpers.kernel_variants import Variant


def _multiply(kind: str, by: str, images: int) -> Variant:
    item = 4 if kind == "fp32" else 2
    rows, depth = block_sizes(images, item)
    return Variant(
        "partial_products",
        "_multiply",
        {"p_weight": f"*{kind}", "p_u": f"*{kind}", "p_out": "*fp32"},
        {
            "AS_THEY_ARE": True,
            "ROWS": rows,
            "DEPTH": depth,
            "FEATURES": FEATURES,
            "stride_f": 1,
            "stride_ur": 1,
        },
        ("stride_i", "stride_r", "stride_un", "features", *(("stride_ui", "terms") if by == "cell" else ())),
        shared=(STAGES - 1) * depth * item * (FEATURES + rows),
        options={"num_stages": STAGES},
        name=f"{by}-{kind}-{images}",
    )


VARIANTS = [
    _multiply(kind, by, images)
    for kind in ("fp32", "fp16", "bf16")
    for by in ("cell", "channel")
    for images in (1, 32)
]
