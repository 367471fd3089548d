"""`first_layer_difference` of VGG-16's first linear layer: 4096 features, 7 x 7 cells, 512 channels."""

from camrt.kernels.first_layer_difference.gpu import CHANNELS, FEATURES, RESULTS
from helpers.kernel_variants import Variant


def _boxes(partial: str, out: str, keep: bool) -> Variant:
    return Variant(
        "first_layer_difference",
        "_boxes",
        {"p_start": "*fp32", "p_partial": f"*{partial}", "p_out": f"*{out}"}
        | {"p_batch": "*i64", "p_boxes": "*i64"},
        {"KEEP": keep, "RESULTS": RESULTS, "FEATURES": FEATURES[1], "stride_sf": 1, "stride_f": 1},
        ("stride_sn", "stride_n", "stride_h", "stride_w", "features"),
        name=f"{partial}-{out}-{'kept' if keep else 'deleted'}",
    )


def _channels(partial: str, out: str) -> Variant:
    rows, columns = CHANNELS
    return Variant(
        "first_layer_difference",
        "_channels",
        {"p_start": "*fp32", "p_partial": f"*{partial}", "p_out": f"*{out}"}
        | {"p_batch": "*i64", "p_channel": "*i64"},
        {"ROWS": rows, "COLUMNS": columns, "stride_sf": 1, "stride_f": 1},
        ("stride_sn", "stride_n", "stride_k", "features"),
        name=f"{partial}-{out}",
    )


TYPES = [("fp32", "fp32"), ("fp32", "fp16"), ("fp32", "bf16"), ("fp16", "fp16")]
VARIANTS = [
    *(_boxes(*types, False) for types in TYPES),
    _boxes("fp32", "fp16", True),
    *(_channels(*types) for types in TYPES),
]
