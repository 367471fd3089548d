"""The outputs of maps that a file gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from camrt.engine.build import AnalysedFile
from camrt.engine.images.framing import Framing
from camrt.engine.maps_in_file.file_graph import FileGraph
from camrt.engine.maps_in_file.finishing import Placement, make_saliency, not_finite
from camrt.engine.maps_in_file.head_answers import HeadAnswers
from camrt.engine.maps_in_file.method_maps import make_raw_map
from camrt.engine.methods import Method
from camrt.engine.queries import Need
from camrt.errors import MethodError, UnsupportedModelError
from camrt.export.outputs.declared_maps import DeclaredMap

__all__ = ["OutputWriter"]


@dataclass(frozen=True)
class OutputWriter:
    """Adds the maps of methods to a file's outputs.

    Attributes:
        make: Makes the nodes.
        analysed: What was found out about the model.
        several: Whether outputs have an axis of targets.
        valid: (N, T): which targets are classes; None for all.
        broken: (N, 1): whether logits are not finite, with which gradients go wrong unseen.
        spoilt: (N, 1): whether images are not finite, which some runtimes' layers make numbers of; None of
            images of whole numbers.
    """

    make: FileGraph
    analysed: AnalysedFile
    several: bool
    valid: str | None
    broken: str
    spoilt: str | None

    def add(self, method: Method, outputs: DeclaredMap, heads: Sequence[HeadAnswers]) -> None:
        """Adds the maps of one method.

        Args:
            method: The method.
            outputs: What they are called.
            heads: What answers it, for each layer.
        """
        make, interface = self.make, self.analysed.found.interface
        if method.fusion is not None and len(heads) < 2:
            raise MethodError(f"{method.name} is of several layers: name two or more by target=")
        own_grid = method.needs & {Need.PIXELS, Need.JOINT}
        raws, layers, lost = [], [], []
        for number, head in enumerate(heads[:1] if own_grid else heads):
            raw = make_raw_map(head, method)
            odd = self._lost(raw, method)
            raws.append(raw)
            lost.append(odd)
            layers.append(make_saliency(make, raw, method, self._placement(method, number), odd))
        raw, maps, odd = raws[0], layers[0], lost[0]
        if len(raws) > 1:
            for other in lost[1:]:
                odd = make.add("Or", odd, other)
            raw = make.add("Mean", *layers)
            maps = make_saliency(make, raw, method, self._whole_image(), odd)
        shown: list[tuple[str, str, Sequence[int | None]]] = [
            (outputs.saliency, maps, (interface.height, interface.width))
        ]
        if outputs.raw is not None:
            nothing = make.number(float("nan"))
            shown.append((outputs.raw, make.add("Where", odd, nothing, raw), (None, None)))
        for name, tensor, axes in shown:
            front = ["N", "T"] if self.several else ["N"]
            made = tensor if self.several else make.squeeze(tensor, [1])
            sizes = [side or f"{name}_{axis}" for side, axis in zip(axes, ("height", "width"), strict=True)]
            make.add_output(name, made, [*front, *sizes])

    def _lost(self, raw: str, method: Method) -> str:
        """(N, T, 1, 1): which maps are zeros whatever they hold."""
        make, lost = self.make, not_finite(self.make, raw, [2, 3])
        if method.needs & {Need.GRADIENTS, Need.PIXELS}:
            lost = make.add("Or", lost, make.unsqueeze(self.broken, [2, 3]))
        if self.spoilt is not None:
            lost = make.add("Or", lost, make.unsqueeze(self.spoilt, [2, 3]))
        if self.valid is not None:
            lost = make.add("Or", lost, make.unsqueeze(make.add("Not", self.valid), [2, 3]))
        return lost

    def _placement(self, method: Method, number: int) -> Placement | None:
        """Where raw maps of a layer lie on the images; None on all of images of any size."""
        found = self.analysed.found
        whole = self._whole_image()
        if Need.PIXELS in method.needs:
            return whole
        if whole is None:
            if found.front.spatial_steps:
                raise UnsupportedModelError(
                    "the file moves its images' pixels and leaves their size open, so where maps lie is not "
                    "known when it is written: export it with a fixed size"
                )
            return None
        cells = found.targets[number].shape[1:]
        if Need.JOINT in method.needs and found.interface.joint is not None:
            shape = self.analysed.graph.shape(found.interface.joint)
            assert shape is not None
            cells = shape[2], shape[3]
        size = whole.framing.size
        return Placement(cells, Framing(size, found.front.region(size).upright))

    def _whole_image(self) -> Placement | None:
        """Maps of the images' own size; None of any size."""
        interface = self.analysed.found.interface
        if interface.height is None or interface.width is None:
            return None
        size = interface.height, interface.width
        return Placement(size, Framing.whole(size))
