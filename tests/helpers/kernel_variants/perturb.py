"""`perturb` as the metrics of perturbed images launch it, on images of 224 pixels, and of 299."""

from helpers.kernel_variants import Variant


def _perturb(kind: str, last: bool, side: int = 224) -> Variant:
    aligned = side % 16 == 0
    return Variant(
        "perturb",
        "_mix",
        dict.fromkeys(("p_sheets", "p_out"), f"*{kind}")
        | {"p_ranks": "*i32"}
        | dict.fromkeys(("p_ranking", "p_count", "p_first", "p_rest"), "*i64"),
        {"CHANNELS": 3, "LAST": last, "ALIKE": last, "ROWS": 32, "COLUMNS": 32}
        | ({"stride_c": 1} if last else {"stride_w": 1}),
        ("height", "width", "stride_s", "stride_h", *(() if last else ("stride_c",))) if aligned else (),
        ("ld", "st") if aligned else (),  # rows of 299 begin anywhere
        name=f"{kind}-{'NHWC' if last else 'NCHW'}-{side}",
    )


VARIANTS = [
    *(_perturb(kind, last) for kind in ("fp32", "fp16", "bf16") for last in (False, True)),
    _perturb("fp32", False, 299),
    _perturb("fp16", True, 299),
]
