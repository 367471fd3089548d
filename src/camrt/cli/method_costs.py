"""What each method costs on a model: its passes, and measured milliseconds an image."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from camrt.engine.description import cost_row
from camrt.engine.methods import make_method, methods
from camrt.errors import CamrtError, DegenerateMapWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from camrt.engine.engine import Engine

__all__ = ["MethodCost", "measure_methods"]

RUNS = 3  # counted, after one that makes graphs ready
ADJOINT_FORWARDS = 3  # forward passes that one there and back takes, about


@dataclass(frozen=True)
class MethodCost:
    """A method on a model.

    Attributes:
        name: Its name.
        passes: Through the head, the model, the head and back, the model and back, an image at most; dashes
            where the model does not admit it.
        milliseconds: Of an image; None where that was not measured.
        is_measured: Whether they were, and not reckoned from the passes.
        why: Why so many passes, or what the model lacks.
    """

    name: str
    passes: tuple[str, ...]
    milliseconds: float | None
    is_measured: bool
    why: str

    @property
    def time(self) -> str:
        """The milliseconds in words."""
        if self.milliseconds is None:
            return "-"
        seconds = self.milliseconds / 1000
        number = f"{self.milliseconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 100 else ""
        return f"{'' if self.is_measured else 'about '}{number or f'{seconds:.0f} s'}"


def measure_methods(engine: Engine, most_seconds: float) -> Iterator[MethodCost]:
    """Measures every method on one image of noise; the median of a few runs.

    Args:
        engine: The model.
        most_seconds: What would take longer, by its passes, is reckoned from them and not run.
    """
    image = np.random.default_rng(0).standard_normal(engine.interface.probe_shape(1), np.float32)
    forward = median_seconds(lambda: engine.predict(image))
    for name, kind in methods().items():
        passes, why = cost_row(kind, engine)
        if passes[0] == "-":
            yield MethodCost(name, passes, None, False, why)
            continue
        _, full, _, full_adjoint = map(int, passes)
        reckoned = forward * (1 + full + ADJOINT_FORWARDS * full_adjoint)
        if reckoned > most_seconds:
            yield MethodCost(name, passes, 1000 * reckoned, False, why)
            continue
        try:
            taken = median_seconds(lambda name=name: explain(engine, name, image))  # type: ignore[misc]
        except CamrtError as error:
            yield MethodCost(name, ("-",) * 4, None, False, str(error))
        else:
            yield MethodCost(name, passes, 1000 * taken, True, why)


def explain(engine: Engine, name: str, image: NDArray[np.float32]) -> None:
    """Explains an image; what noise looks like is of no interest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateMapWarning)
        engine.explain(image, make_method(name, {}))


def median_seconds(work: Callable[[], Any]) -> float:
    """Seconds of a run, after one that is not counted."""
    work()
    samples = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)
