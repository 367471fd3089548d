"""What runs a loaded model, as a call on some images needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from camrt.engine.contrast import Contrast
from camrt.engine.cuts import Cut
from camrt.engine.images.framing import Framing
from camrt.engine.methods import Method
from camrt.engine.passes import PassCounts
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.runtime import Runner
from camrt.errors import MethodError
from camrt.export.adjoint import BackwardRule
from camrt.export.geometry.builtin_preprocessing import BuiltinPreprocessing
from camrt.export.heads.cut import ACTIVATION, JOINT
from camrt.export.rewrites.interface import LOGITS, Interface

__all__ = ["FetchedCut", "ModelRun"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True)
class FetchedCut:
    """A cut that a method looks at, and what the pass through the trunk has to give for it.

    Attributes:
        cut: The cut.
        taps: Names of tensors by their role.
        outputs: The model's own outputs.
        needs: What the method asks for.
        contrast: What the method's scores are held against.
    """

    cut: Cut
    taps: dict[str, str]
    outputs: list[str]
    needs: frozenset[Need]
    contrast: Contrast


@dataclass(frozen=True)
class ModelRun:
    """The runners of a model and how many rows they take at once.

    Attributes:
        model: The whole model.
        cuts: Where it is cut.
        adjoints: The whole model and back, for gradients of its input.
        interface: What the model takes and gives.
        front: What the file does to its images by itself.
        batch_size: Rows run at once.
        threads: Threads of the native kernels; None lets them choose.
    """

    model: Runner
    cuts: tuple[Cut, ...]
    adjoints: Mapping[BackwardRule, Runner]
    interface: Interface
    front: BuiltinPreprocessing
    batch_size: int
    threads: int | None

    def framing(self, size: tuple[int, int], method: Method | None = None) -> Framing:
        """The part of the model's input (H, W) that raw maps show, of a method or of any on activations."""
        if method is not None and Need.PIXELS in method.needs:
            return Framing.whole(size)
        # Activations of mirrored images were turned back at the cut: see `TargetTensor.mirrored`.
        return Framing(size, self.front.region(size).upright)

    def find_fetched(self, method: Method) -> list[FetchedCut]:
        """What a method needs of the trunk, for each cut that it looks at."""
        if method.fusion is not None and len(self.cuts) < 2:
            raise MethodError(
                f"{method.name} is of several layers: load the model with target=[...] of two or more "
                "(engine.targets() lists them)"
            )
        cuts = self.cuts[:1] if method.needs & {Need.PIXELS, Need.JOINT, Need.ATTENTION} else self.cuts
        own = [JOINT] if Need.JOINT in method.needs and self.interface.joint is not None else []
        return [
            FetchedCut(cut, cut.required_taps(method.needs), own, method.needs, method.score_contrast)
            for cut in cuts
        ]

    def run_trunk(self, images: Array, methods: tuple[Method, ...]) -> dict[str, Array]:
        """Everything that some methods need of one pass, by name; the logits among it."""
        names = dict.fromkeys([LOGITS])
        for method in methods:
            for fetched in self.find_fetched(method):
                names |= dict.fromkeys([*fetched.outputs, *fetched.taps.values()])
        return dict(zip(names, self.model(images, list(names)), strict=True))

    def make_queries(
        self,
        images: Array,
        fetched: FetchedCut,
        classes: Array,
        outputs: Mapping[str, Array],
        passes: PassCounts,
    ) -> HeadQueries:
        """What a method may ask about some images at a cut."""
        shown = {LOGITS: LOGITS, **fetched.taps, **{name: name for name in fetched.outputs}}
        extras = {role: outputs[name] for role, name in shown.items()}

        def run_trunk(rows: Array) -> dict[str, Array]:
            return dict(zip(shown, self.model(rows, list(shown.values())), strict=True))

        return HeadQueries(
            images=images,
            activations=extras.pop(ACTIVATION),
            logits=extras.pop(LOGITS),
            targets=classes,
            activation=self.interface.inverse_link,
            has_logits=self.interface.joint is None,
            head=fetched.cut.head,
            model=self.model,
            logits_output=LOGITS,
            adjoints=self.adjoints,
            batch_size=self.batch_size,
            threads=self.threads,
            passes=passes,
            extras=extras,
            framing=self.framing((images.shape[2], images.shape[3])),
            needs=fetched.needs,
            run_trunk=run_trunk,
            rivals=fetched.contrast.find_rivals(classes, outputs[LOGITS]),
            attention_graphs=fetched.cut.attention,
        )
