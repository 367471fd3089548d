"""`blur` as remove-and-classify (31 weights) and insertion (11) launch it, on 224 and 299 pixels."""

from helpers.kernel_variants import Variant


def _blur(kind: str, last: bool, columns: bool, side: int = 224, taps: int = 31) -> Variant:
    """The pass over columns, which leaves its result in float32, or the pass over rows of that."""
    aligned = side % 16 == 0
    group = 16 if taps >= 16 else 8
    beside = 3 if last and columns else 1
    constants = {"MIRROR": taps == 31, "BESIDE": beside, "GROUP": group, "ROWS": 8 * group, "COLUMNS": 32}
    constants |= {"stride_x": 1} | ({"stride_c": 1, "planes": 1} if beside > 1 else {})
    constants |= {"to_y": 1} if columns or not last else {"to_c": 1}
    multiples = {"length", "columns", "stride_n", "stride_c", "stride_y", "to_n", "to_c", "to_x"} - set(
        constants
    )
    wide = (
        *(("ld",) if not columns or kind == "fp32" else ()),  # four numbers of a thread lie together
        *(("st",) if columns or not last else ()),  # what channels lie between is written by the number
    )
    return Variant(
        "blur",
        "_blur",
        {"p_from": f"*{kind}" if columns else "*fp32", "p_to": "*fp32" if columns else f"*{kind}"},
        constants,
        tuple(sorted(multiples)) if aligned else (),
        wide if aligned else (),
        options={"num_warps": 2},
        name=f"{kind}-{'NHWC' if last else 'NCHW'}-{'columns' if columns else 'rows'}-{side}-{taps}",
    )


VARIANTS = [
    *(
        _blur(kind, last, columns, taps=taps)
        for kind in ("fp32", "fp16", "bf16")
        for last in (False, True)
        for columns in (True, False)
        # The half types differ in one conversion: the dearer number of weights is compiled for one of them,
        # where its channels lie last.
        for taps in {"fp32": (31, 11), "fp16": (11,), "bf16": (31,) if last else (11,)}[kind]
    ),
    *(_blur("fp32", False, columns, 299, taps) for columns in (True, False) for taps in (41, 11)),
]
