"""Spans of OpenTelemetry, where its packages are installed and somebody collects them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["trace_request"]

_INSTALLED = importlib.util.find_spec("opentelemetry") is not None


@contextmanager
def trace_request(name: str, carrier: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A span around the block, a child of the caller's where its headers say one.

    Args:
        name: Of the span.
        carrier: The request's headers.

    Yields:
        A dictionary: what is put there become attributes of the span when the block ends.
    """
    attributes: dict[str, Any] = {}
    if not _INSTALLED:
        yield attributes
        return
    from opentelemetry import propagate, trace

    tracer = trace.get_tracer("camrt.serving")
    with tracer.start_as_current_span(
        name, context=propagate.extract(carrier), kind=trace.SpanKind.SERVER
    ) as span:
        try:
            yield attributes
        finally:
            span.set_attributes(attributes)
