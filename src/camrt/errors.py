"""Every exception and warning that camrt raises on purpose.

All exceptions derive from `CamrtError`; all but `DeadlineError` also derive from the built-in type that a
caller who has never heard of camrt would expect (`ValueError`, `RuntimeError`, `MemoryError`, ...).
"""

from __future__ import annotations

__all__ = [
    "AdjointError",
    "BackendError",
    "CamrtError",
    "CamrtWarning",
    "ClampedConstantWarning",
    "ClosedError",
    "CutError",
    "DataError",
    "DeadlineError",
    "DegenerateMapWarning",
    "DivergenceError",
    "ImageError",
    "InputError",
    "InputRangeWarning",
    "MemoryLimitError",
    "MethodError",
    "ModelFileError",
    "NoSuchImageError",
    "PickleError",
    "QueueFullError",
    "ReferenceKernelWarning",
    "RoundingWarning",
    "SmallerBatchWarning",
    "StorageError",
    "TargetError",
    "TrainingError",
    "UnsafeModelError",
    "UnsupportedModelError",
    "WrongAnswerError",
]


class CamrtError(Exception):
    """Base of every error camrt raises on purpose."""


class ModelFileError(CamrtError, ValueError):
    """The file is missing, is not ONNX, is truncated, or lacks its external data."""


class UnsafeModelError(ModelFileError):
    """The file asks for something a model has no business asking for; nothing of it was run."""


class UnsupportedModelError(CamrtError, ValueError):
    """A valid ONNX file that is not a single-input image classifier with an (N, C) output."""


class CutError(CamrtError, ValueError):
    """The graph cannot be cut at the tensor asked for, or has no tensor to cut at."""


class MethodError(CamrtError, ValueError):
    """An unknown method, an unknown option, or a method that this model's head does not admit."""


class AdjointError(CamrtError, ValueError):
    """A gradient cannot be built: an operator has no rule, or something on the way has no derivative."""


class InputError(CamrtError, ValueError):
    """A batch of the wrong shape, size or type, or with values that are not finite."""


class NoSuchImageError(InputError, IndexError):
    """An image, or a target of an image, that an explanation does not have."""


class TargetError(CamrtError, ValueError):
    """Target classes out of range or of the wrong shape."""


class PickleError(CamrtError, TypeError):
    """An engine that cannot be pickled, or copied with all that it holds."""


class ImageError(CamrtError, ValueError):
    """An image file that is missing or cannot be decoded."""


class DataError(CamrtError, ValueError):
    """A folder or list of labelled images that cannot be trained on or measured with."""


class TrainingError(CamrtError, RuntimeError):
    """A training run that cannot begin, or cannot go on; what it had saved is kept."""


class DivergenceError(TrainingError):
    """The loss of a training run is not finite, as a rule because its learning rate is too high."""


class DeadlineError(CamrtError):
    """A call took longer than its deadline and was stopped.

    It is no `TimeoutError`, which is an `OSError`: a file that cannot be read must not be mixed up with it.
    """


class QueueFullError(CamrtError, RuntimeError):
    """A request that a service does not take now: too many wait, of all clients or of this one.

    Args:
        text: What is full.
        retry_after: Seconds after which it may be taken.
    """

    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class ClosedError(CamrtError, RuntimeError):
    """A request to a service that takes no more, or that it ended without answering."""


class MemoryLimitError(CamrtError, MemoryError):
    """A file or a request needs more memory at once than `max_memory` allows, or than there is."""


class StorageError(CamrtError, OSError):
    """A file that cannot be written: the disk is full, or the place is wrong; others are as they were."""


class BackendError(CamrtError, RuntimeError):
    """The runtime refused the model or failed while running it."""


class WrongAnswerError(CamrtError, RuntimeError):
    """A runtime answers something else than ONNX Runtime on the CPU does; nothing of it was used."""


class CamrtWarning(UserWarning):
    """Base of every warning camrt gives."""


class ClampedConstantWarning(CamrtWarning):
    """A constant of the model lies beyond the range of the precision asked for; it was brought to its end."""


class DegenerateMapWarning(CamrtWarning):
    """A map was all zeros by policy: constant, nowhere positive, or not finite."""


class InputRangeWarning(CamrtWarning):
    """Numbers far outside the range that the model is made for, or an image whose range was guessed."""


class RoundingWarning(CamrtWarning):
    """ONNX Runtime rounds an output's last bits otherwise in a file with maps than in the model's own."""


class SmallerBatchWarning(CamrtWarning):
    """Memory, or `max_memory`, did not hold the rows to be run at once; fewer are, and nothing is lost."""


class ReferenceKernelWarning(CamrtWarning):
    """The native kernels are missing; the slower NumPy reference is in use."""
