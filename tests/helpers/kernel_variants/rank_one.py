"""`rank_one` behind a 1 x 1 convolution to 512 maps of 7 x 7, and for pooled maps and 4096 features."""

from camrt.kernels.ablate.gpu import tiles_of
from helpers.kernel_variants import Variant


def _rank_one(kind: str, last: bool, features: int = 512, cells: int = 49) -> Variant:
    tiles = tiles_of(features, cells, last=last, item=4 if kind == "fp32" else 2)
    return Variant(
        "rank_one",
        "_rank_one",
        {"p_base": f"*{kind}", "p_weight": f"*{kind}", "p_maps": f"*{kind}", "p_out": f"*{kind}"}
        | {"p_batch": "*i64", "p_channel": "*i64"},
        {"DENSE": True, "LAST": last, "VECTOR": tiles.vector, "ROWS": tiles.rows, "COLUMNS": tiles.columns}
        | {"stride_wf": 1, "stride_ml": 1, "stride_f" if last else "stride_l": 1},
        ("features", "stride_n", "stride_wk", "size", *(("units", "stride_l") if last else ())),
        name=f"{kind}-{'pooled' if cells == 1 else 'NHWC' if last else 'NCHW'}",
    )


VARIANTS = [
    *(_rank_one(kind, last) for kind in ("fp32", "fp16", "bf16") for last in (False, True)),
    _rank_one("fp32", True, 4096, 1),
]
