"""`masked_batch` as Score-CAM launches it."""

from helpers.kernel_variants import Variant


def _masked_batch(kind: str, last: bool) -> Variant:
    return Variant(
        "masked_batch",
        "_write",
        {
            "p_maps": f"*{kind}",
            "p_images": f"*{kind}",
            "p_out": f"*{kind}",
            "p_batch": "*i64",
            "p_channel": "*i64",
        }
        | {"scale_h": "fp32", "scale_w": "fp32"},
        {"CHANNELS": 3, "LAST": last, "ALIGN": False, "ROWS": 32, "COLUMNS": 32, "stride_w": 1}
        | ({"stride_pc": 1} if last else {"stride_pw": 1}),
        ("height", "width", "stride_pn", "stride_ph", *(() if last else ("stride_pc",))),
        ("st",) if last else ("ld", "st"),
        name=f"{kind}-{'NHWC' if last else 'NCHW'}",
    )


VARIANTS = [
    *(_masked_batch(kind, last) for kind in ("fp32", "fp16", "bf16") for last in (False, True)),
    Variant(
        "masked_batch",
        "_ranges",
        {"p_batch": "*i64", "p_channel": "*i64", "p_rows": "*i32", "p_columns": "*i32"}
        | {"scale_h": "fp32", "scale_w": "fp32", "epsilon": "fp32"},
        {"SAMPLES": True, "ALIGN": False, "BLOCK": 256, "stride_w": 1},
        wide=(),
    ),
]
