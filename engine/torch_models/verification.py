"""A module's cuts, compared with the module when it is loaded; see `camrt.engine.verification`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from camrt.engine.cuts import Cut
from camrt.engine.device import TorchDevice
from camrt.engine.heads.comparison import Comparison, ReferenceHead, Tolerance
from camrt.engine.options import Verify
from camrt.engine.runtime import Runner
from camrt.engine.runtime.wrapped_runner import WrappedRunner
from camrt.engine.torch_models.cut import HookedCut
from camrt.engine.torch_models.heads import HookedHead
from camrt.engine.torch_models.random_state import preserve_random_state
from camrt.engine.verification import verify
from camrt.errors import CutError, UnsupportedModelError
from camrt.export.rewrites.interface import Interface

__all__ = ["VerifiedModule", "verify_module"]


@dataclass(frozen=True)
class VerifiedModule:
    """What is left after a module's cuts were compared with it.

    Attributes:
        cuts: The cuts.
        batch_size: Rows a batch: one where images must be run alone.
        notes: What was found, in sentences.
        comparisons: What was compared.
    """

    cuts: tuple[Cut, ...]
    batch_size: int
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


class FreshRandomRunner(WrappedRunner):
    """Runs a module and then advances torch's generators: randomness in it shows as answers that differ.

    By itself a call leaves the generators as it found them, so that the next one would draw the same numbers.

    Args:
        runner: The module.
        device: Where it is.
    """

    def __init__(self, runner: Runner, device: torch.device) -> None:
        super().__init__(runner)
        self._device = device

    def __call__(
        self, batch: Any, fetch: Sequence[str] | None = None, extra_inputs: Mapping[str, Any] | None = None
    ) -> list[Any]:
        answers = super().__call__(batch, fetch, extra_inputs)
        for device in {torch.device("cpu"), self._device}:
            torch.rand(1, device=device)
        return answers


def verify_module(
    runner: Runner,
    cuts: Sequence[Cut],
    hooked: Sequence[HookedCut],
    interface: Interface,
    size: tuple[int, int],
    place: TorchDevice,
    dtype: torch.dtype,
    *,
    batch_size: int,
    threads: int | None,
    level: Verify,
) -> VerifiedModule:
    """Compares a module's heads with the module, and takes what agrees.

    Args:
        runner: The module.
        cuts: Its cuts.
        hooked: How the module is cut there.
        interface: What it takes and gives.
        size: (H, W) of the noise.
        place: Where it computes.
        dtype: What it computes in.
        batch_size: Rows a batch.
        threads: Threads of the native kernels.
        level: False compares nothing, "thorough" more.

    Raises:
        UnsupportedModelError: Equal calls get different answers.
        CutError: What follows a submodule does not give the module's logits.
    """
    if level is False:
        return VerifiedModule(tuple(cuts), batch_size, (), ())
    wholes = [HookedHead(cut, batch_size, threads) for cut in hooked]
    plain = [type(cut.head) is HookedHead for cut in cuts]
    heads = [cut.head if same else whole for cut, same, whole in zip(cuts, plain, wholes, strict=True)]
    with preserve_random_state(place.device):
        report = verify(
            FreshRandomRunner(runner, place.device),
            cuts,
            [
                ReferenceHead(head, head.run_graph, has_own_gradient=False)
                for head in heads
                if isinstance(head, HookedHead)
            ],
            interface.probe_shape(3, size),
            interface.inverse_link,
            place,
            Tolerance.of(half=dtype in (torch.float16, torch.bfloat16), quantised=False),
            kind="logit" if interface.joint is None else "probability",
            draws=False,
            thorough=level == "thorough",
        )
    if report.is_random:
        raise UnsupportedModelError(
            f"the module answers the same image differently each time ({report.repeated}): something in it "
            "draws random numbers in evaluation mode, or changes from call to call"
        )
    if report.mixes_rows:
        alone = [
            replace(cut, head=HookedHead(way, 1, threads)) for cut, way in zip(cuts, hooked, strict=True)
        ]
        note = "the module answers an image otherwise among others: images are run one at a time"
        return VerifiedModule(tuple(alone), 1, (note,), report.comparisons)
    notes = []
    if report.not_compared_reason is not None:
        notes.append(
            f"the engine's answers were not compared with the module's: {report.not_compared_reason}"
        )
    kept = list(cuts)
    for number, cut in enumerate(cuts):
        wrong = report.disagreement(number)
        if wrong is None:
            continue
        if plain[number]:
            raise CutError(
                f"behind target {cut.target.name!r} the module does not answer what its parts answer "
                f"({wrong}); choose another target= (engine.targets() lists them), or verify=False to go on "
                "all the same"
            )
        kept[number] = replace(cut, head=wholes[number])
        notes.append(
            f"the {cut.head.kind} form of the head was not used, since it gives other answers ({wrong})"
        )
    return VerifiedModule(tuple(kept), batch_size, tuple(notes), report.comparisons)
