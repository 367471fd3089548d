"""`box_probabilities_pair` as Pixab-CAM asks for it: 1000 classes, or another number of them."""

from helpers.kernel_variants import Variant


def _parts(kind: str, pair: bool) -> Variant:
    return Variant(
        "box_probabilities",
        "_parts",
        {"p_contributions": f"*{kind}", "p_logits": f"*{kind}", "p_others": f"*{kind}"}
        | {"p_boxes": "*i64", "p_targets": "*i64"},
        {"SIGN": -1, "PAIR": pair, "UNIT": 8, "BOXES": 8, "CLASSES": 256}
        | {"stride_c": 1, "stride_lc": 1, "stride_oc": 1},
        wide=("ld",),
        name=f"{kind}-{'pair' if pair else 'one'}",
    )


VARIANTS = [
    *(_parts(kind, True) for kind in ("fp32", "fp16", "bf16")),
    _parts("fp32", False),
    *(
        Variant(
            "box_probabilities",
            "_probabilities",
            {"p_out": f"*{kind}"},
            {"BLOCKS": 16, "BOXES": 64},
            wide=(),
            name=kind,
        )
        for kind in ("fp32", "fp16")
    ),
]
