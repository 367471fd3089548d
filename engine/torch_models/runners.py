"""A hooked module as the runners an engine works with: tensors where it is, float32 ones out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing_extensions import override

from camrt.engine.arrays import concat, pad_rows
from camrt.engine.runtime.batch_splitting import OomSplitter
from camrt.engine.runtime.run_sharing import shareable
from camrt.engine.torch_models.bias_maps import BiasedOutputs, make_bias_map
from camrt.engine.torch_models.calm_head import capture_joint
from camrt.engine.torch_models.compilation import GraphCache
from camrt.engine.torch_models.cut import IMAGE, HookedCut
from camrt.engine.torch_models.model import TorchModel, to_float32
from camrt.errors import AdjointError, BackendError
from camrt.export.adjoint import BIAS_MAP, CURVATURE, GRADIENT, RISE, WEIGHTING, BiasScaling, ReluRule
from camrt.export.heads.cut import JOINT
from camrt.export.rewrites.interface import LOGITS

__all__ = [
    "HeadBackward",
    "HeadClassMaps",
    "HeadForward",
    "HeadSecondBackward",
    "ModuleBackward",
    "ModuleForward",
]

Tensor = torch.Tensor

CLASS_MAPS = "camrt_class_maps"
BATCH_INPUT = ""  # the batch among what is fed, which has no name


class HookedRunner(ABC):
    """Base class of the runners of a hooked module; see `camrt.engine.runtime.Runner`.

    Args:
        model: The module.
        outputs: Names of what it gives.
        gradients: Whether it needs a backward pass.
    """

    def __init__(self, model: TorchModel, outputs: tuple[str, ...], *, gradients: bool) -> None:
        self.model = model
        self.outputs = outputs
        self._gradients = gradients
        self._traces = (
            None if model.compiler is None else GraphCache(model, model.compiler, gradients=gradients)
        )
        # A module of a fixed batch size is always given as many rows: halving would change nothing.
        halved = (torch.OutOfMemoryError,) if model.batch is None else ()
        self._halving = OomSplitter(model.name, halved, torch.cuda.empty_cache)

    def allocate_rows(self, shape: tuple[int, ...]) -> Tensor:
        """Allocates a buffer for rows that this runner is given."""
        return self.model.allocate_rows(shape)

    @shareable
    def __call__(
        self,
        batch: Tensor,
        fetch: Sequence[str] | None = None,
        extra_inputs: Mapping[str, Tensor] | None = None,
    ) -> list[Tensor]:
        """Runs a batch; a module with a fixed batch size in pieces, the last one padded.

        Where the device's memory does not hold the batch, smaller ones are run, with a warning.

        Raises:
            BackendError: The module failed, or memory does not hold a single row.
            AdjointError: There is no way back through it.
        """
        names = self.outputs if fetch is None else tuple(fetch)
        feeds = {BATCH_INPUT: batch, **(extra_inputs or {})}
        size = self.model.batch

        def run(start: int, end: int) -> list[Tensor]:
            piece = {name: values[start:end] for name, values in feeds.items()}
            if size is not None:
                piece = {name: pad_rows(values, size) for name, values in piece.items()}
            if self._traces is not None:
                found = self._traces(self.run, piece, names)
            else:
                with self.model.evaluation_mode(gradients=self._gradients):
                    found = self.run(piece, names)
            return [found[name][: end - start] for name in names]

        pieces = self._halving.run_in_pieces(len(batch), run, most=size)
        return [concat(parts) for parts in zip(*pieces, strict=True)]

    @abstractmethod
    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """Outputs by name, at least those in `names`."""


class ModuleForward(HookedRunner):
    """Images to logits, and to what each cut shows.

    Args:
        model: The module.
        cuts: Where it is cut, with the names their tensors leave under: role -> output.
        joint: Path of its CALM head; None when it has none.
    """

    def __init__(
        self, model: TorchModel, cuts: list[tuple[HookedCut, dict[str, str]]], joint: str | None = None
    ) -> None:
        own = (JOINT,) if joint is not None else ()
        outputs = (LOGITS, *own, *(name for _, taps in cuts for name in taps.values()))
        super().__init__(model, outputs, gradients=False)
        self._cuts = cuts
        self._joint = joint

    @override
    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        images = feeds[BATCH_INPUT]
        size = (images.shape[2], images.shape[3])
        asked = [(cut, taps) for cut, taps in self._cuts if set(taps.values()) & set(names)]
        with ExitStack() as stack:
            seen = [stack.enter_context(cut.capture_output()) for cut, _ in asked]
            joint: list[Tensor] = []
            if self._joint is not None and JOINT in names:
                joint = stack.enter_context(capture_joint(self.model, self._joint))
            found = {LOGITS: to_float32(self.model.logits(self.model.to_tensor(images)))}
        if joint:
            found[JOINT] = to_float32(joint[-1])
        for (cut, taps), tensors in zip(asked, seen, strict=True):
            shown = {IMAGE: images, **cut.to_trunk_outputs(tensors[0], size)}
            found.update({name: shown[role] for role, name in taps.items()})
        return found


class HeadForward(HookedRunner):
    """Altered activations to logits.

    Args:
        cut: Where they are put in.
    """

    def __init__(self, cut: HookedCut) -> None:
        super().__init__(cut.model, (LOGITS,), gradients=False)
        self._cut = cut

    @override
    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        return {LOGITS: to_float32(self._cut.logits(self.model.to_tensor(feeds[BATCH_INPUT]), feeds))}


class HeadBackward(HookedRunner):
    """Activations and a weighting of the logits to the logits and the gradient there.

    Args:
        cut: Where the activation is.
    """

    def __init__(self, cut: HookedCut) -> None:
        super().__init__(cut.model, (LOGITS, GRADIENT), gradients=True)
        self._cut = cut

    @override
    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        maps = self.model.to_tensor(feeds[BATCH_INPUT]).requires_grad_()
        logits = self._cut.logits(maps, feeds)
        return backpropagate(self.model, logits, maps, feeds[WEIGHTING], repr(self._cut.path))


class HeadSecondBackward(HookedRunner):
    """Activations and a weighting of the logits to the gradient there, and how it bends along them.

    Args:
        cut: Where the activation is.
    """

    def __init__(self, cut: HookedCut) -> None:
        super().__init__(cut.model, (GRADIENT, CURVATURE, RISE), gradients=True)
        self._cut = cut

    @override
    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        """See `camrt.export.adjoint.build_curvature_model`."""
        maps = self.model.to_tensor(feeds[BATCH_INPUT]).requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # of torch's attentions the one with a second derivative
            logits = self._cut.logits(maps, feeds)
            weighting = feeds[WEIGHTING].to(logits.device, logits.dtype).detach().requires_grad_()
            where = repr(self._cut.path)
            (gradient,) = find_gradients(self.model, logits, (maps,), weighting, where, create_graph=True)
            bent = gradient + 0.0 * maps  # the gradient of what is linear in pieces depends on no activation
            ends = (maps, weighting)
            product, rise = find_gradients(self.model, bent, ends, maps.detach(), where)
        return {
            GRADIENT: to_float32(gradient.detach()),
            CURVATURE: to_float32(product),
            RISE: to_float32(rise),
        }


class HeadClassMaps(HookedRunner):
    """Activations to the class maps whose mean the logits are.

    Args:
        cut: Where the activation is.
    """

    def __init__(self, cut: HookedCut) -> None:
        super().__init__(cut.model, (CLASS_MAPS,), gradients=False)
        self._cut = cut

    @override
    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        maps = self._cut.class_maps(self.model.to_tensor(feeds[BATCH_INPUT]), feeds)
        if maps is None:
            raise BackendError(
                f"the logits of {self.model.name} were the mean of class maps when it was loaded, and are "
                "not any more: load it again"
            )
        return {CLASS_MAPS: to_float32(maps)}


class ModuleBackward(HookedRunner):
    """Images and a weighting of the logits to the logits and the gradient with respect to the images.

    Args:
        model: The module.
        relu: How ReLUs pass gradients on, see `camrt.export.adjoint`.
        biases: Gives what the biases of its layers make too, scaled so; None does not.
    """

    def __init__(self, model: TorchModel, relu: ReluRule, biases: BiasScaling | None = None) -> None:
        outputs = (LOGITS, GRADIENT) if biases is None else (LOGITS, GRADIENT, BIAS_MAP)
        super().__init__(model, outputs, gradients=True)
        self._relu = relu
        self._biases = biases

    @override
    def run(self, feeds: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
        images = self.model.to_tensor(feeds[BATCH_INPUT]).requires_grad_()
        if self._biases is not None:
            return self._run_with_biases(images, feeds[WEIGHTING], self._biases)
        logits = self.model.logits(images.clone())
        if self._relu == "guided":
            hook_guided_relus(logits)
        return backpropagate(self.model, logits, images, feeds[WEIGHTING], "the images")

    def _run_with_biases(self, images: Tensor, weighting: Tensor, scaling: BiasScaling) -> dict[str, Tensor]:
        with BiasedOutputs() as biased:
            logits = self.model.logits(images.clone())
        known = [(output, bias) for output, bias in biased.found if output.requires_grad]
        starts = (images, *(output for output, _ in known))
        gradient, *others = find_gradients(self.model, logits, starts, weighting, "the images")
        found = make_bias_map(known, others, images, scaling)
        return {LOGITS: to_float32(logits), GRADIENT: to_float32(gradient), BIAS_MAP: to_float32(found)}


def backpropagate(
    model: TorchModel, logits: Tensor, start: Tensor, weighting: Tensor, where: str
) -> dict[str, Tensor]:
    """The logits, and ∂(Σ_c weighting_c · logit_c)/∂start."""
    (gradient,) = find_gradients(model, logits, (start,), weighting, where)
    return {LOGITS: to_float32(logits), GRADIENT: to_float32(gradient)}


def find_gradients(
    model: TorchModel,
    end: Tensor,
    starts: tuple[Tensor, ...],
    weighting: Tensor,
    where: str,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """∂(Σ weighting · end)/∂start of each start, by autograd; no parameter's `.grad` is touched.

    Args:
        model: The module.
        end: What is weighted.
        starts: What the gradients are for.
        weighting: Of the shape of `end`.
        where: What they are, for messages.
        create_graph: Whether the gradient is to be differentiated again.

    Raises:
        AdjointError: There is no way back.
    """
    lost = AdjointError(
        f"no gradient of the logits reaches {where}: something on the way has no derivative (a torch.no_grad "
        "block, a detach, an operation on whole numbers), or the logits do not depend on it"
    )
    if not end.requires_grad:
        raise lost
    weights = weighting.to(end.device, end.dtype)
    try:
        found = torch.autograd.grad(end, starts, weights, create_graph=create_graph, allow_unused=True)
    except torch.OutOfMemoryError:
        raise  # fewer images may fit
    except RuntimeError as error:
        raise AdjointError(f"no gradient can be followed through {model.name}: {error}") from error
    if found[0] is None:
        raise lost
    return tuple(
        torch.zeros_like(start) if gradient is None else gradient
        for start, gradient in zip(starts, found, strict=True)
    )


def hook_guided_relus(logits: Tensor) -> None:
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
        if is_relu(node):
            found += 1
            node.register_hook(lambda gradients, _: tuple(clamp_positive(gradient) for gradient in gradients))
        for before, _ in node.next_functions:
            if before not in seen:
                seen.add(before)
                waiting.append(before)
    if not found:
        raise AdjointError(
            "guided back-propagation changes how gradients pass ReLUs, and this model has none; "
            "use 'gradient' or 'smoothgrad'"
        )


def clamp_positive(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.clamp(min=0)


def is_relu(node: Any) -> bool:
    """Whether a node of the autograd graph is a ReLU, or cuts off at zero like one (ReLU6)."""
    name = node.name()
    if name.startswith("ReluBackward"):
        return True
    if name.startswith("HardtanhBackward"):
        return bool(node._saved_min_val == 0)
    return bool(name.startswith(("ClampBackward1", "ClampMinBackward0")) and node._saved_min == 0)
