"""Whether a model runs at all, where nothing that it answers could be looked at."""

from __future__ import annotations

import numpy as np

from camrt.engine.device import Device
from camrt.engine.noise import normal_noise
from camrt.engine.runtime import Runner
from camrt.errors import BackendError, UnsupportedModelError
from camrt.export.rewrites.interface import LOGITS, Interface

__all__ = ["refuse_unrunnable"]


def refuse_unrunnable(
    runner: Runner, interface: Interface, size: tuple[int, int] | None, device: Device
) -> None:
    """Refuses a model that runs on none of a few images, where their size is not a guess.

    Raises:
        UnsupportedModelError: It runs on none.
    """
    if size is None and (interface.height is None or interface.width is None):
        return
    shapes = [interface.probe_shape(count, size) for count in (1, 3)]
    for images in (make(shape) for shape in shapes for make in (np.zeros, np.ones, normal_noise)):
        try:
            runner(device.put(images.astype(np.float32)), [LOGITS])
        except BackendError as error:
            failure = error
        else:
            return
    raise UnsupportedModelError(
        f"the model runs on no image of the shape that it names, {interface.probe_shape(1, size)}: "
        f"{failure}; look whether onnxruntime runs the file by itself, and export it anew"
    )
