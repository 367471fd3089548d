"""The head of a module cut by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from camrt.engine.arrays import arange_like
from camrt.engine.device import TorchDevice
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import Boxes, Masks, QueryContext
from camrt.engine.heads.contributions import Contributions
from camrt.engine.heads.curvature import HeadCurvature
from camrt.engine.heads.factored import FactoredHead
from camrt.engine.heads.generic import GenericHead
from camrt.engine.heads.last_linear import ScoreRunner
from camrt.engine.torch_models.cut import IMAGE, HookedCut
from camrt.engine.torch_models.flattened_linear import FlattenedLinear
from camrt.engine.torch_models.pooled_linear import CellwiseLinear, PooledLinear
from camrt.engine.torch_models.runners import HeadBackward, HeadClassMaps, HeadForward, HeadSecondBackward

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
        self._maps = HeadClassMaps(cut)
        adjoint = HeadAdjoint(HeadBackward(cut), cut.extra_inputs)
        self.curvature = HeadCurvature(HeadSecondBackward(cut), cut.extra_inputs)
        super().__init__(
            ScoreRunner(HeadForward(cut)), adjoint, batch_size, self._why(), threads, cut.extra_inputs
        )

    def scores_of_zero_activation(self, asked: QueryContext) -> Tensor:
        """The scores of an all-zero activation; see `Head`."""
        if self._cut.skipped_calls is None or self._cut.layout.prefix:
            own: Tensor = super().scores_of_zero_activation(asked)  # differs from image to image
            return own
        feeds = {name: asked.extras[name][:1] for name in self._extra_inputs}
        logits = self._runner.run(torch.zeros_like(asked.activations[:1]), feeds)[0]
        count = len(asked.activations)
        scores: Tensor = asked.reader.read(logits.expand(count, -1), arange_like(count, logits))
        return scores

    @property
    def has_class_maps(self) -> bool:
        """Whether the logits are means of maps; see `Head`."""
        return self._cut.has_class_maps

    def class_maps(self, asked: QueryContext) -> Tensor | None:
        """The targets' class maps, what is linear behind the mean done to every cell; see `Head`."""
        if not self.has_class_maps:
            return None
        found = []
        for start in range(0, len(asked.activations), self._batch_size):
            block = slice(start, start + self._batch_size)
            rows = asked.activations[block]
            asked.passes.head += len(rows)
            feeds = {name: asked.extras[name][block] for name in self._extra_inputs}
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
        """What `scores_without_channels` costs; see `Head`."""
        return channels, f"one a channel that is not all zero, through {self._part()}"

    def box_passes(self, boxes: int) -> tuple[int, str]:
        """What `scores_with_boxes` costs; see `Head`."""
        return 2 * boxes, f"one a distinct box and perspective, through {self._part()}"

    def mask_passes(self, masks: int) -> tuple[int, str]:
        """What `scores_with_masks` costs; see `Head`."""
        return masks, f"one a mask, through {self._part()}"

    def gradient_passes(self) -> tuple[int, str]:
        """What `gradients` costs; see `Head`."""
        return 1, f"{self._part()}, forth and back"

    def _part(self) -> str:
        return "the whole module" if self._cut.skipped_calls is None else "the head alone"

    def _why(self) -> str:
        way = self._cut.skipped_calls
        if way is None:
            return f"the whole module, since something goes around {self._cut.path!r}"
        calls = f"{way.count} call{'s' * (way.count != 1)} of modules up to there"
        return f"what follows {self._cut.path!r} ({calls} left out)"

    def _counted(self, asked: QueryContext) -> Callable[[Tensor, Tensor], Tensor]:
        if self._cut.skipped_calls is not None:
            return super()._counted(asked)

        def run(rows: Tensor, image: Tensor) -> Tensor:
            asked.passes.full += len(rows)
            feeds = {name: asked.extras[name][image] for name in self._extra_inputs}
            scores: Tensor = self._runner.scores(rows, asked.reader, image, feeds)
            return scores

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

    def _factored_head(self) -> FactoredHead:
        """The head with the layer's present numbers."""
        factors = self._linear.factors()
        contributions = Contributions(
            factors,
            None,
            CellwiseLinear(factors.weight),
            self._threads,
            TorchDevice(self._linear.device),
            self._linear.half_dtype,
        )
        return FactoredHead(contributions, None, None, self._adjoint, self._batch_size)

    def scores_without_channels(self, asked: QueryContext) -> Tensor:
        """The scores with channel k set to zero; see `Head`."""
        found: Tensor = self._factored_head().scores_without_channels(asked)
        return found

    def scores_with_boxes(
        self, asked: QueryContext, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The scores with boxes set to zero, and with nothing but them; see `Head`."""
        return self._factored_head().scores_with_boxes(asked, boxes, delete=delete, keep=keep)

    def scores_with_masks(self, asked: QueryContext, masks: Masks) -> Tensor:
        """The scores with cells times masks; see `Head`."""
        found: Tensor = self._factored_head().scores_with_masks(asked, masks)
        return found

    def mask_passes(self, masks: int) -> tuple[int, str]:
        """What `scores_with_masks` costs; see `Head`."""
        return 0, "every mask is a weighted sum of cells' contributions"

    def gradients(self, asked: QueryContext) -> Iterator[Tensor]:
        """The gradients of the scores; see `Head`."""
        return self._factored_head().gradients(asked)

    def scores_of_zero_activation(self, asked: QueryContext) -> Tensor:
        """The scores of an all-zero activation; see `Head`."""
        found: Tensor = self._factored_head().scores_of_zero_activation(asked)
        return found

    def class_maps(self, asked: QueryContext) -> Tensor | None:
        """The targets' class maps; see `Head`."""
        return self._factored_head().class_maps(asked)

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
        """What `scores_without_channels` costs; see `Head`."""
        return 0, "the head is one linear layer: algebra"

    def box_passes(self, boxes: int) -> tuple[int, str]:
        """What `scores_with_boxes` costs; see `Head`."""
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

    def _factored_head(self, asked: QueryContext) -> FactoredHead | None:
        """The head with the layer's present numbers."""
        if tuple(asked.activations.shape[1:]) != self._flattened.shape:
            return None
        height, width = asked.extras[IMAGE].shape[1:3]
        place = TorchDevice(asked.activations.device)
        contributions = Contributions(self._flattened.factors(), None, None, self._threads, place)
        rest = self._flattened.rest((height, width))
        behind = None if rest is None else ScoreRunner(rest)
        return FactoredHead(contributions, behind, None, self._adjoint, self._vectors)

    def scores_without_channels(self, asked: QueryContext) -> Tensor:
        """The scores with channel k set to zero; see `Head`."""
        algebra = self._factored_head(asked)
        found: Tensor = (
            super().scores_without_channels(asked)
            if algebra is None
            else algebra.scores_without_channels(asked)
        )
        return found

    def scores_with_boxes(
        self, asked: QueryContext, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The scores with boxes set to zero, and with nothing but them; see `Head`."""
        algebra = self._factored_head(asked)
        if algebra is None:
            return super().scores_with_boxes(asked, boxes, delete=delete, keep=keep)
        return algebra.scores_with_boxes(asked, boxes, delete=delete, keep=keep)

    def scores_with_masks(self, asked: QueryContext, masks: Masks) -> Tensor:
        """The scores with cells times masks; see `Head`."""
        algebra = self._factored_head(asked)
        found: Tensor = (
            super().scores_with_masks(asked, masks)
            if algebra is None
            else algebra.scores_with_masks(asked, masks)
        )
        return found

    def mask_passes(self, masks: int) -> tuple[int, str]:
        """What `scores_with_masks` costs; see `Head`."""
        if self._flattened.gives_logits:
            return 0, "every mask is a weighted sum of cells' contributions"
        return masks, f"one a mask, through what follows {self._flattened.path!r}"

    def gradients(self, asked: QueryContext) -> Iterator[Tensor]:
        """The gradients of the scores; see `Head`."""
        algebra = self._factored_head(asked) if self._flattened.gives_logits else None
        return super().gradients(asked) if algebra is None else algebra.gradients(asked)

    def describe(self) -> str:
        """What the head is; see `Head`."""
        what = "all is algebra" if self._flattened.gives_logits else "only what follows it is run"
        return f"hooked: {self._why()} begins with {self._flattened.path!r}, and {what}"

    def channel_passes(self, channels: int) -> tuple[int, str]:
        """What `scores_without_channels` costs; see `Head`."""
        if self._flattened.gives_logits:
            return 0, "the head is one linear layer: algebra"
        return channels, f"one a channel that is not all zero, through what follows {self._flattened.path!r}"

    def box_passes(self, boxes: int) -> tuple[int, str]:
        """What `scores_with_boxes` costs; see `Head`."""
        if self._flattened.gives_logits:
            return 0, "every box is a sum of its cells' contributions"
        why = f"one a distinct box and perspective, through what follows {self._flattened.path!r}"
        return 2 * boxes, why

    def gradient_passes(self) -> tuple[int, str]:
        """What `gradients` costs; see `Head`."""
        if self._flattened.gives_logits:
            return 0, "the head is one linear layer, whose gradient is its weight"
        return super().gradient_passes()
