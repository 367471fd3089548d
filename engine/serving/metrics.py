"""What is counted and measured for Prometheus, beside what kserve measures itself."""

from __future__ import annotations

from dataclasses import asdict

from prometheus_client import Counter, Gauge, Histogram

from camrt.engine.passes import PassCounts

__all__ = ["IN_FLIGHT", "LOADS", "READY", "REQUESTS", "ModelMetrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

REQUESTS = Counter(
    "camrt_requests",
    "Requests that were answered, by the status of the answer.",
    ("model", "protocol", "status"),
)
IN_FLIGHT = Gauge("camrt_requests_in_flight", "Requests that are in the service.")
READY = Gauge("camrt_model_ready", "Whether a model can be asked.", ("model",))
LOADS = Counter("camrt_model_loads", "Times a model's file was loaded.", ("model", "result"))
_PASSES = Counter("camrt_passes", "Images, or altered activations, that were run.", ("model", "kind"))
_ROWS_RUN = Histogram("camrt_batch_rows", "Rows that were run at once.", ("model",), buckets=_ROWS)
_FILL = Histogram(
    "camrt_batch_fill", "Rows that were run at once, of the most that are.", ("model",), buckets=_SHARES
)
_QUEUED = Histogram("camrt_queue_seconds", "From queued to begun.", ("model",), buckets=_SECONDS)
_METHOD = Histogram("camrt_method_seconds", "From queued to answered.", ("model", "method"), buckets=_SECONDS)


class ModelMetrics:
    """What a model's scheduler tells, see `camrt.engine.serving.observer`.

    Args:
        model: Its name.
    """

    def __init__(self, model: str) -> None:
        self._model = model

    def queued(self, seconds: float) -> None:
        """Notes how long a request waited."""
        _QUEUED.labels(self._model).observe(seconds)

    def batch(self, rows: int, requests: int, fill: float, seconds: float) -> None:
        """Notes how many rows were run at once, and how full that was."""
        _ROWS_RUN.labels(self._model).observe(rows)
        _FILL.labels(self._model).observe(fill)

    def passes(self, counts: PassCounts) -> None:
        """Counts rows that were run through parts of the model."""
        for kind, count in asdict(counts).items():
            if count:
                _PASSES.labels(self._model, kind).inc(count)

    def answered(self, method: str | None, seconds: float, error: BaseException | None) -> None:
        """Notes how long a request took that was answered."""
        if error is None:
            _METHOD.labels(self._model, method or "predict").observe(seconds)
