"""From a parsed request to what is queued: images made ready, the rest checked by the engine's code."""

from __future__ import annotations

from camrt.engine.batch import PreparedBatch, resolve_map_size
from camrt.engine.engine import Engine
from camrt.engine.fusion import check_fusion
from camrt.engine.map_output import check_map_output
from camrt.engine.serving.limits import ServingLimits
from camrt.engine.serving.request_parsing import ParsedRequest, naming
from camrt.engine.serving.requests import ExplainRequest
from camrt.engine.targets import make_target_chooser, parse_targets

__all__ = ["make_request"]


def make_request(
    engine: Engine, parsed: ParsedRequest, limits: ServingLimits, *, deadline: float | None, client: str
) -> ExplainRequest:
    """What is queued of a request.

    Args:
        engine: The model.
        parsed: What is asked.
        limits: What may be answered.
        deadline: When it is of no use any more, by `time.monotonic`.
        client: Who asks.

    Raises:
        CamrtError: The engine cannot take it; the message begins with the field.
    """
    with naming("inputs.images"):
        batch = engine.prepare(parsed.batch)
    check_arguments(engine, parsed, batch, limits)
    return ExplainRequest(
        batch=batch,
        method=parsed.method,
        targets=parsed.targets,
        top_k=parsed.top_k,
        size=parsed.size,
        fuse=parsed.fuse,
        dtype=parsed.dtype,
        deadline=deadline,
        client=client,
    )


def check_arguments(
    engine: Engine, parsed: ParsedRequest, batch: PreparedBatch, limits: ServingLimits
) -> None:
    """Refuses what `camrt.Engine.explain` refuses, and maps that are more than an answer holds."""
    count, classes = len(batch.images), engine.num_classes
    with naming("parameters.top_k" if parsed.targets is None else "targets"):
        make_target_chooser(
            parsed.targets, count, classes, engine.device, batch.to_caller, engine.labels, parsed.top_k
        )
        each = parsed.top_k or 1
        if parsed.targets is not None:
            each = parse_targets(parsed.targets, count, classes, engine.labels)[0].shape[1]
    height, width = batch.images.shape[2:]
    with naming("parameters.size"):
        size = resolve_map_size(parsed.size, (height, width), (height, width), batch.framings)
    with naming("parameters.fuse"):
        check_fusion(parsed.fuse)
    with naming("parameters.dtype"):
        output = check_map_output(parsed.dtype, None, batch.images, count, engine.device)
    item_bytes = 2 if output.kind == "float16" else 4
    limits.check_answer("parameters.size", count * each * size[0] * size[1], item_bytes)
    if "overlay" in parsed.outputs:
        pixels = sum(framing.size[0] * framing.size[1] for framing in batch.framings or ())
        limits.check_answer("outputs.overlay", each * pixels, 3)
