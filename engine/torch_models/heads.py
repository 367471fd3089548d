"""The head of a module cut by hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import Asked
from camrt.engine.heads.generic import GenericHead
from camrt.engine.torch_models.cutting import HookedCut
from camrt.engine.torch_models.runners import HeadBack, HeadForth, HeadMaps

__all__ = ["HookedHead"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


class HookedHead(GenericHead):
    """Runs what follows a submodule on altered activations, the trunk left out where nothing goes around.

    Gradients are autograd's. Nothing is kept from one call to the next: the module may be trained on.

    Args:
        cut: Where the module is cut.
        batch_size: Rows a batch.
        threads: Threads of the native kernels; None lets them choose.
    """

    kind = "hooked"

    def __init__(self, cut: HookedCut, batch_size: int, threads: int | None) -> None:
        self._cut = cut
        self._maps = HeadMaps(cut)
        adjoint = HeadAdjoint(HeadBack(cut), cut.beside)
        super().__init__(HeadForth(cut), adjoint, batch_size, self._why(), threads, cut.beside)

    def empty(self, asked: Asked) -> Array:
        """The scores of an all-zero activation; see `Head`."""
        if self._cut.shortcut is None or self._cut.layout.prefix:
            return super().empty(asked)  # differs from picture to picture
        feeds = {name: asked.extras[name][:1] for name in self._beside}
        logits = self._runner(np.zeros_like(asked.activations[:1]), None, feeds)[0]
        count = len(asked.activations)
        return asked.reader.read(np.repeat(logits, count, axis=0), np.arange(count))

    @property
    def has_class_maps(self) -> bool:
        """Whether the logits are means of maps; see `Head`."""
        return self._cut.has_class_maps

    def class_maps(self, asked: Asked) -> Array | None:
        """The targets' class maps, what is linear behind the mean done to every cell; see `Head`."""
        if not self.has_class_maps:
            return None
        found = []
        for start in range(0, len(asked.activations), self._batch_size):
            block = slice(start, start + self._batch_size)
            rows = asked.activations[block]
            asked.passes.head += len(rows)
            feeds = {name: asked.extras[name][block] for name in self._beside}
            maps = self._maps(rows, None, feeds)[0]
            found.append(np.take_along_axis(maps, asked.reader.targets[block][:, :, None, None], axis=1))
        return np.concatenate(found)

    def class_map_passes(self) -> tuple[int, str]:
        """What `class_maps` costs; see `Head`."""
        return 1, f"{self._part()}, what is linear in it done to every cell"

    def describe(self) -> str:
        """What the head is; see `Head`."""
        return f"hooked: every alteration is run, in batches, through {self._why()}"

    def channel_passes(self, channels: int) -> tuple[int, str]:
        """What `without_channels` costs; see `Head`."""
        return channels, f"one a channel that is not all zero, through {self._part()}"

    def box_passes(self, boxes: int) -> tuple[int, str]:
        """What `with_boxes` costs; see `Head`."""
        return 2 * boxes, f"one a distinct box and perspective, through {self._part()}"

    def gradient_passes(self) -> tuple[int, str]:
        """What `gradients` costs; see `Head`."""
        return 1, f"{self._part()}, forth and back"

    def _part(self) -> str:
        return "the whole module" if self._cut.shortcut is None else "the head alone"

    def _why(self) -> str:
        way = self._cut.shortcut
        if way is None:
            return f"the whole module, since something goes around {self._cut.path!r}"
        return f"what follows {self._cut.path!r} ({way.skipped} calls of modules up to there are left out)"

    def _counted(self, asked: Asked) -> Callable[[Array, Indices], Array]:
        if self._cut.shortcut is not None:
            return super()._counted(asked)

        def run(rows: Array, image: Indices) -> Array:
            asked.passes.full += len(rows)
            feeds = {name: asked.extras[name][image] for name in self._beside}
            return self._runner(rows, None, feeds)[0]

        return run
