"""A hooked module as the runners an engine works with: tensors where it is, float32 ones out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from camrt.engine.arrays import filled, joined
from camrt.engine.backends.halving import Halving
from camrt.engine.torch_models.compiling import Traces
from camrt.engine.torch_models.cutting import PICTURE, HookedCut
from camrt.engine.torch_models.own_heads import joint_seen
from camrt.engine.torch_models.subject import Subject, single
from camrt.errors import AdjointError, BackendError
from camrt.export.adjoint import GRADIENT, WEIGHTING, ReluRule
from camrt.export.cutting import JOINT
from camrt.export.interface import LOGITS

__all__ = ["HeadBack", "HeadForth", "HeadMaps", "ModuleBack", "ModuleForth"]

Tensor = torch.Tensor

CLASS_MAPS = "camrt_class_maps"
FIRST = ""  # the batch among what is fed, which has no name


class HookedRunner(ABC):
    """What all have in common; see `camrt.engine.backends.Runner`.

    Args:
        subject: The module.
        outputs: Names of what it gives.
        gradients: Whether it needs a backward pass.
    """

    def __init__(self, subject: Subject, outputs: tuple[str, ...], *, gradients: bool) -> None:
        self.subject = subject
        self.outputs = outputs
        self._gradients = gradients
        self._traces = (
            None if subject.compiler is None else Traces(subject, subject.compiler, gradients=gradients)
        )
        # A module of a fixed batch size is always given as many rows: halving would change nothing.
        halved = (torch.OutOfMemoryError,) if subject.batch is None else ()
        self._halving = Halving(subject.name, halved, torch.cuda.empty_cache)

    def rows(self, shape: tuple[int, ...]) -> Tensor:
        """See `camrt.engine.backends.Runner`."""
        return self.subject.rows(shape)

    def __call__(
        self, batch: Tensor, fetch: Sequence[str] | None = None, beside: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """Runs a batch; a module with a fixed batch size in pieces, the last one padded.

        Where the device's memory does not hold the batch, smaller ones are run, with a warning.

        Raises:
            BackendError: The module failed, or memory does not hold a single row.
            AdjointError: There is no way back through it.
        """
        names = self.outputs if fetch is None else tuple(fetch)
        feeds = {FIRST: batch, **(beside or {})}
        size = self.subject.batch

        def run(start: int, end: int) -> list[Tensor]:
            piece = {name: values[start:end] for name, values in feeds.items()}
            if size is not None:
                piece = {name: filled(values, size) for name, values in piece.items()}
            if self._traces is not None:
                found = self._traces(self.run, piece, names)
            else:
                with self.subject.running(gradients=self._gradients):
                    found = self.run(piece, names)
            return [found[name][: end - start] for name in names]

        pieces = self._halving.pieces(len(batch), run, most=size)
        return [joined(parts) for parts in zip(*pieces, strict=True)]

    @abstractmethod
    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """Outputs by name, at least those in `names`."""


class ModuleForth(HookedRunner):
    """Pictures to logits, and to what each cut shows.

    Args:
        subject: The module.
        cuts: Where it is cut, with the names their tensors leave under: role -> output.
        joint: Path of its CALM head; None when it has none.
    """

    def __init__(
        self, subject: Subject, cuts: list[tuple[HookedCut, dict[str, str]]], joint: str | None = None
    ) -> None:
        own = (JOINT,) if joint is not None else ()
        outputs = (LOGITS, *own, *(name for _, taps in cuts for name in taps.values()))
        super().__init__(subject, outputs, gradients=False)
        self._cuts = cuts
        self._joint = joint

    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """See `HookedRunner`."""
        pictures = feeds[FIRST]
        size = (pictures.shape[2], pictures.shape[3])
        asked = [(cut, taps) for cut, taps in self._cuts if set(taps.values()) & set(names)]
        with ExitStack() as stack:
            seen = [stack.enter_context(cut.captured()) for cut, _ in asked]
            joint: list[Tensor] = []
            if self._joint is not None and JOINT in names:
                joint = stack.enter_context(joint_seen(self.subject, self._joint))
            found = {LOGITS: single(self.subject.logits(self.subject.tensor(pictures)))}
        if joint:
            found[JOINT] = single(joint[-1])
        for (cut, taps), tensors in zip(asked, seen, strict=True):
            shown = {PICTURE: pictures, **cut.shown(tensors[0], size)}
            found.update({name: shown[role] for role, name in taps.items()})
        return found


class HeadForth(HookedRunner):
    """Altered activations to logits.

    Args:
        cut: Where they are put in.
    """

    def __init__(self, cut: HookedCut) -> None:
        super().__init__(cut.subject, (LOGITS,), gradients=False)
        self._cut = cut

    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """See `HookedRunner`."""
        return {LOGITS: single(self._cut.logits(self.subject.tensor(feeds[FIRST]), feeds))}


class HeadBack(HookedRunner):
    """Activations and a weighting of the logits to the logits and the gradient there.

    Args:
        cut: Where the activation is.
    """

    def __init__(self, cut: HookedCut) -> None:
        super().__init__(cut.subject, (LOGITS, GRADIENT), gradients=True)
        self._cut = cut

    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """See `HookedRunner`."""
        maps = self.subject.tensor(feeds[FIRST]).requires_grad_()
        logits = self._cut.logits(maps, feeds)
        return back(self.subject, logits, maps, feeds[WEIGHTING], repr(self._cut.path))


class HeadMaps(HookedRunner):
    """Activations to the class maps whose mean the logits are.

    Args:
        cut: Where the activation is.
    """

    def __init__(self, cut: HookedCut) -> None:
        super().__init__(cut.subject, (CLASS_MAPS,), gradients=False)
        self._cut = cut

    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """See `HookedRunner`."""
        maps = self._cut.class_maps(self.subject.tensor(feeds[FIRST]), feeds)
        if maps is None:
            raise BackendError(
                f"the logits of {self.subject.name} were the mean of class maps when it was loaded, and are "
                "not any more: load it again"
            )
        return {CLASS_MAPS: single(maps)}


class ModuleBack(HookedRunner):
    """Pictures and a weighting of the logits to the logits and the gradient with respect to the pictures.

    Args:
        subject: The module.
        relu: How ReLUs pass gradients on, see `camrt.export.adjoint`.
    """

    def __init__(self, subject: Subject, relu: ReluRule) -> None:
        super().__init__(subject, (LOGITS, GRADIENT), gradients=True)
        self._relu = relu

    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """See `HookedRunner`."""
        pictures = self.subject.tensor(feeds[FIRST]).requires_grad_()
        logits = self.subject.logits(pictures.clone())
        if self._relu == "guided":
            guide(logits)
        return back(self.subject, logits, pictures, feeds[WEIGHTING], "the pictures")


def back(subject: Subject, logits: Tensor, start: Tensor, weighting: Tensor, where: str) -> dict[str, Tensor]:
    """∂(Σ_c weighting_c · logit_c)/∂start, by autograd; no parameter's `.grad` is touched."""
    lost = AdjointError(
        f"no gradient of the logits reaches {where}: something on the way has no derivative (a torch.no_grad "
        "block, a detach, an operation on whole numbers), or the logits do not depend on it"
    )
    if not logits.requires_grad:
        raise lost
    weights = weighting.to(logits.device, logits.dtype)
    try:
        (gradient,) = torch.autograd.grad(logits, start, weights, allow_unused=True)
    except torch.OutOfMemoryError:
        raise  # fewer pictures may fit
    except RuntimeError as error:
        raise AdjointError(f"no gradient can be followed through {subject.name}: {error}") from error
    if gradient is None:
        raise lost
    return {LOGITS: single(logits), GRADIENT: single(gradient)}


def guide(logits: Tensor) -> None:
    """Lets every ReLU behind the logits pass on only what is positive.

    The nodes of the autograd graph are hooked, so that modules, functions and in-place ReLUs are the same.

    Raises:
        AdjointError: There is none.
    """
    found = 0
    waiting, seen = [logits.grad_fn], {logits.grad_fn}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if rectifies(node):
            found += 1
            node.register_hook(lambda gradients, _: tuple(positive(gradient) for gradient in gradients))
        for before, _ in node.next_functions:
            if before not in seen:
                seen.add(before)
                waiting.append(before)
    if not found:
        raise AdjointError(
            "guided back-propagation changes how gradients pass ReLUs, and this model has none; "
            "use 'gradient' or 'smoothgrad'"
        )


def positive(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.clamp(min=0)


def rectifies(node: Any) -> bool:
    """Whether a node of the autograd graph is a ReLU, or cuts off at zero like one (ReLU6)."""
    name = node.name()
    if name.startswith("ReluBackward"):
        return True
    if name.startswith("HardtanhBackward"):
        return bool(node._saved_min_val == 0)
    return bool(name.startswith(("ClampBackward1", "ClampMinBackward0")) and node._saved_min == 0)
