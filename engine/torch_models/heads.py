"""The head of a module cut by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from camrt.engine.arrays import numbered
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import Asked, Boxes
from camrt.engine.heads.contributions import Contributions
from camrt.engine.heads.factored import FactoredHead
from camrt.engine.heads.generic import GenericHead
from camrt.engine.places import OnDevice
from camrt.engine.torch_models.cutting import PICTURE, HookedCut
from camrt.engine.torch_models.flattened import FlattenedLinear
from camrt.engine.torch_models.linear import CellLayer, PooledLinear
from camrt.engine.torch_models.runners import HeadBack, HeadForth, HeadMaps

__all__ = ["FlattenedHead", "HookedHead", "LinearHead"]

Tensor = torch.Tensor


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

    def empty(self, asked: Asked) -> Tensor:
        """The scores of an all-zero activation; see `Head`."""
        if self._cut.shortcut is None or self._cut.layout.prefix:
            own: Tensor = super().empty(asked)  # differs from picture to picture
            return own
        feeds = {name: asked.extras[name][:1] for name in self._beside}
        logits = self._runner(torch.zeros_like(asked.activations[:1]), None, feeds)[0]
        count = len(asked.activations)
        scores: Tensor = asked.reader.read(logits.expand(count, -1), numbered(count, logits))
        return scores

    @property
    def has_class_maps(self) -> bool:
        """Whether the logits are means of maps; see `Head`."""
        return self._cut.has_class_maps

    def class_maps(self, asked: Asked) -> Tensor | None:
        """The targets' class maps, what is linear behind the mean done to every cell; see `Head`."""
        if not self.has_class_maps:
            return None
        found = []
        for start in range(0, len(asked.activations), self._batch_size):
            block = slice(start, start + self._batch_size)
            rows = asked.activations[block]
            asked.passes.head += len(rows)
            feeds = {name: asked.extras[name][block] for name in self._beside}
            maps: Tensor = self._maps(rows, None, feeds)[0]
            found.append(maps.take_along_dim(asked.reader.targets[block][:, :, None, None], dim=1))
        return torch.cat(found)

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

    def _counted(self, asked: Asked) -> Callable[[Tensor, Tensor], Tensor]:
        if self._cut.shortcut is not None:
            return super()._counted(asked)

        def run(rows: Tensor, image: Tensor) -> Tensor:
            asked.passes.full += len(rows)
            feeds = {name: asked.extras[name][image] for name in self._beside}
            found: Tensor = self._runner(rows, None, feeds)[0]
            return found

        return run


class LinearHead(HookedHead):
    """A linear layer behind a mean over cells: answers are algebra on the numbers it holds at that moment.

    Args:
        cut: Where the module is cut.
        linear: The layer.
        batch_size: Rows a batch.
        threads: Threads of the native kernels; None lets them choose.
    """

    def __init__(self, cut: HookedCut, linear: PooledLinear, batch_size: int, threads: int | None) -> None:
        super().__init__(cut, batch_size, threads)
        self._linear = linear

    def _algebra(self) -> FactoredHead:
        """The head with the layer's present numbers."""
        factors = self._linear.factors()
        contributions = Contributions(
            factors,
            None,
            CellLayer(factors.weight),
            self._threads,
            OnDevice(self._linear.device),
            self._linear.narrow,
        )
        return FactoredHead(contributions, None, None, self._adjoint, self._batch_size)

    def without_channels(self, asked: Asked) -> Tensor:
        """The scores with channel k set to zero; see `Head`."""
        found: Tensor = self._algebra().without_channels(asked)
        return found

    def with_boxes(
        self, asked: Asked, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The scores with boxes set to zero, and with nothing but them; see `Head`."""
        return self._algebra().with_boxes(asked, boxes, delete=delete, keep=keep)

    def gradients(self, asked: Asked) -> Iterator[Tensor]:
        """The gradients of the scores; see `Head`."""
        return self._algebra().gradients(asked)

    def empty(self, asked: Asked) -> Tensor:
        """The scores of an all-zero activation; see `Head`."""
        found: Tensor = self._algebra().empty(asked)
        return found

    def class_maps(self, asked: Asked) -> Tensor | None:
        """The targets' class maps; see `Head`."""
        return self._algebra().class_maps(asked)

    def class_map_passes(self) -> tuple[int, str]:
        """What `class_maps` costs; see `Head`."""
        return 0, "one matrix product"

    def describe(self) -> str:
        """What the head is; see `Head`."""
        return (
            f"hooked: {self._why()} is {self._linear.weight!r} behind a mean over cells, so alterations are "
            "algebra"
        )

    def channel_passes(self, channels: int) -> tuple[int, str]:
        """What `without_channels` costs; see `Head`."""
        return 0, "the head is one linear layer: algebra"

    def box_passes(self, boxes: int) -> tuple[int, str]:
        """What `with_boxes` costs; see `Head`."""
        return 0, "every box is a sum of its cells' contributions"

    def gradient_passes(self) -> tuple[int, str]:
        """What `gradients` costs; see `Head`."""
        return 0, "the head is one linear layer, whose gradient is its weight"


class FlattenedHead(HookedHead):
    """A linear layer on the flattened activation, and a network behind it: only the network is run.

    Activations of another size than the layer was found for are answered by hooks.

    Args:
        cut: Where the module is cut.
        flattened: The layer.
        batch_size: Rows a batch.
        vectors: The layer's answers that are run at once.
        threads: Threads of the native kernels; None lets them choose.
    """

    def __init__(
        self, cut: HookedCut, flattened: FlattenedLinear, batch_size: int, vectors: int, threads: int | None
    ) -> None:
        super().__init__(cut, batch_size, threads)
        self._flattened = flattened
        self._vectors = vectors

    def _algebra(self, asked: Asked) -> FactoredHead | None:
        """The head with the layer's present numbers."""
        if tuple(asked.activations.shape[1:]) != self._flattened.shape:
            return None
        height, width = asked.extras[PICTURE].shape[1:3]
        place = OnDevice(asked.activations.device)
        contributions = Contributions(self._flattened.factors(), None, None, self._threads, place)
        rest = self._flattened.rest((height, width))
        return FactoredHead(contributions, rest, None, self._adjoint, self._vectors)

    def without_channels(self, asked: Asked) -> Tensor:
        """The scores with channel k set to zero; see `Head`."""
        algebra = self._algebra(asked)
        found: Tensor = (
            super().without_channels(asked) if algebra is None else algebra.without_channels(asked)
        )
        return found

    def with_boxes(
        self, asked: Asked, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The scores with boxes set to zero, and with nothing but them; see `Head`."""
        algebra = self._algebra(asked)
        if algebra is None:
            return super().with_boxes(asked, boxes, delete=delete, keep=keep)
        return algebra.with_boxes(asked, boxes, delete=delete, keep=keep)

    def gradients(self, asked: Asked) -> Iterator[Tensor]:
        """The gradients of the scores; see `Head`."""
        algebra = self._algebra(asked) if self._flattened.last else None
        return super().gradients(asked) if algebra is None else algebra.gradients(asked)

    def describe(self) -> str:
        """What the head is; see `Head`."""
        what = "all is algebra" if self._flattened.last else "only what follows it is run"
        return f"hooked: {self._why()} begins with {self._flattened.path!r}, and {what}"

    def channel_passes(self, channels: int) -> tuple[int, str]:
        """What `without_channels` costs; see `Head`."""
        if self._flattened.last:
            return 0, "the head is one linear layer: algebra"
        return channels, f"one a channel that is not all zero, through what follows {self._flattened.path!r}"

    def box_passes(self, boxes: int) -> tuple[int, str]:
        """What `with_boxes` costs; see `Head`."""
        if self._flattened.last:
            return 0, "every box is a sum of its cells' contributions"
        why = f"one a distinct box and perspective, through what follows {self._flattened.path!r}"
        return 2 * boxes, why

    def gradient_passes(self) -> tuple[int, str]:
        """What `gradients` costs; see `Head`."""
        if self._flattened.last:
            return 0, "the head is one linear layer, whose gradient is its weight"
        return super().gradient_passes()
