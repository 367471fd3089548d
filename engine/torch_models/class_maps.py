"""Class maps of a module: what its logits are the mean of, followed through the operations behind the target.

Each tensor behind the target is one of three things:

1. *cells* (N, F, h', w'), every one made of the same cell of the activation alone;
2. *pooled* (N, ...): the mean, over its cells, of a *twin* (N·h'·w', ...);
3. anything else, and then there are no class maps.

Taking the mean of cells gives a tensor whose twin are those cells. What is affine image by image commutes
with the mean: it is done to the twin as it is to the tensor. The twin of the logits holds the class maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["ClassMapTracer"]

aten = torch.ops.aten

ELEMENTWISE = frozenset(
    {
        aten.abs, aten.add, aten.add_, aten.alias, aten.celu, aten.clamp, aten.clamp_, aten.clamp_max,
        aten.clamp_min, aten.clone, aten.detach, aten.div, aten.div_, aten.elu, aten.elu_, aten.exp,
        aten.gelu, aten.hardsigmoid, aten.hardsigmoid_, aten.hardswish, aten.hardswish_, aten.hardtanh,
        aten.hardtanh_, aten.leaky_relu, aten.leaky_relu_, aten.maximum, aten.minimum, aten.mish, aten.mish_,
        aten.mul, aten.mul_, aten.neg, aten.relu, aten.relu_, aten.rsub, aten.sigmoid, aten.sigmoid_,
        aten.silu, aten.silu_, aten.softplus, aten.sub, aten.sub_, aten.tanh, aten.tanh_, aten._to_copy,
    }
)  # fmt: skip
BATCH_NORMS = frozenset(
    {
        aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten.cudnn_batch_norm,
        aten.miopen_batch_norm,
    }
)  # fmt: skip
# Affine in one operand, the others being constants.
SCALING = frozenset(
    {aten.add, aten.add_, aten.sub, aten.sub_, aten.rsub, aten.mul, aten.mul_, aten.div, aten.div_}
)
COPYING = frozenset({aten.alias, aten.clone, aten.detach, aten._to_copy})
RESHAPING = frozenset({aten.view, aten._unsafe_view, aten.reshape, aten.squeeze, aten.unsqueeze})
MATRICES = frozenset({aten.addmm, aten.mm, aten.linear})


@dataclass
class TracedTensor:
    """What is known of a tensor.

    Attributes:
        tensor: The tensor; kept, so that its identity is not given to another one.
        twin: What it is the mean of; None for cells.
        cells: (h', w').
    """

    tensor: torch.Tensor
    twin: torch.Tensor | None
    cells: tuple[int, int]


class ClassMapTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Follows an activation (N, K, h, w) through what is computed while the block runs.

    Args:
        maps: The activation.
    """

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self._known: dict[int, TracedTensor] = {}
        self._behind: dict[int, torch.Tensor] = {}
        self._size = (maps.shape[2], maps.shape[3])
        self._keep(maps, None, self._size)

    def class_maps(self, logits: torch.Tensor) -> torch.Tensor | None:
        """(N, C, h, w) whose mean is the logits (N, C); None when there are none.

        A border that padding put around the cells belongs to the mean, but not to the map.
        """
        found = self._known.get(id(logits))
        if found is None or found.twin is None:
            return None
        (height, width), (rows, columns) = found.cells, self._size
        top, left = (height - rows) // 2, (width - columns) // 2
        grid = found.twin.reshape(len(logits), height, width, -1).permute(0, 3, 1, 2)
        return grid[:, :, top : top + rows, left : left + columns]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        behind = [one for one in find_tensors([*args, *kwargs.values()]) if id(one) in self._behind]
        if not behind:
            return result
        given = [self._known.get(id(one)) for one in behind]
        for made in find_tensors(result if isinstance(result, (tuple, list)) else [result]):
            self._forget(made, written=func._schema.is_mutable)
        first = result[0] if isinstance(result, (tuple, list)) else result
        if not isinstance(first, torch.Tensor) or None in given:
            return result
        of = [one for one in given if one is not None]
        followed = trace_cellwise(func, args, of, first) or trace_mean(func, args, of, first)
        if followed is not None:
            self._keep(first, *followed)
        elif (twin := trace_affine(func, args, kwargs, of, first)) is not None:
            self._keep(first, twin, of[0].cells)
        return result

    def _keep(self, tensor: torch.Tensor, twin: torch.Tensor | None, cells: tuple[int, int]) -> None:
        self._behind[id(tensor)] = tensor
        self._known[id(tensor)] = TracedTensor(tensor, twin, cells)

    def _forget(self, tensor: torch.Tensor, *, written: bool) -> None:
        """Drops what was known of a tensor behind the target; if written to, of all in its memory."""
        self._behind[id(tensor)] = tensor
        self._known.pop(id(tensor), None)
        if written:
            place = tensor.untyped_storage().data_ptr()
            for name, known in list(self._known.items()):
                if known.tensor.untyped_storage().data_ptr() == place:
                    del self._known[name]


TwinAndCells = tuple[torch.Tensor | None, tuple[int, int]]


def trace_cellwise(func: Any, args: Any, of: list[TracedTensor], result: torch.Tensor) -> TwinAndCells | None:
    """(None, cells) if the operation acts on each cell by itself, else None."""
    if any(one.twin is not None for one in of) or result.ndim != 4:
        return None
    operator, cells = func.overloadpacket, of[0].cells
    if operator in ELEMENTWISE:
        constants = [one for one in find_tensors(args) if all(one is not known.tensor for known in of)]
        alike = all(one.cells == cells for one in of)
        return (None, cells) if alike and all(is_spatially_constant(one) for one in constants) else None
    if operator in BATCH_NORMS:
        return (None, cells) if not uses_batch_statistics(func, args) else None
    if operator is aten.convolution and args[0] is of[0].tensor and len(of) == 1:
        weight, stride, padding = args[1], args[3], args[4]
        if tuple(weight.shape[2:]) == (1, 1) and set(stride) == {1} and not args[6]:
            return None, (cells[0] + 2 * padding[0], cells[1] + 2 * padding[-1])
    return None


def trace_mean(func: Any, args: Any, of: list[TracedTensor], result: torch.Tensor) -> TwinAndCells | None:
    """(twin, cells) if the operation is a mean over all cells, else None."""
    source = of[0]
    if len(of) > 1 or source.twin is not None:
        return None
    operator = func.overloadpacket
    if operator is aten.mean:
        whole = len(args) > 1 and sorted(axis % 4 for axis in args[1] or ()) == [2, 3]
    elif operator is aten.avg_pool2d:
        said = name_arguments(func, args)
        kernel, padding = said["kernel_size"], said.get("padding", 0)
        whole = (kernel[0], kernel[-1]) == source.cells and padding in (0, [0], [0, 0])
        whole = whole and said.get("divisor_override") is None
    else:
        whole = operator is aten._adaptive_avg_pool2d and tuple(result.shape[2:]) == (1, 1)
    if not whole:
        return None
    twin = source.tensor.permute(0, 2, 3, 1).reshape(-1, *result.shape[1:])
    return twin, source.cells


def trace_affine(
    func: Any, args: Any, kwargs: Any, of: list[TracedTensor], result: torch.Tensor
) -> torch.Tensor | None:
    """The twin of what an affine operation gives; None for other operations."""
    source = of[0]
    if len(of) > 1 or source.twin is None:
        return None
    operator, count = func.overloadpacket, len(source.tensor)
    cells = len(source.twin) // count
    if operator in RESHAPING:
        kept = result.ndim > 1 and len(result) == count
        return source.twin.reshape(count * cells, *result.shape[1:]) if kept else None
    rest = [one for one in find_tensors(args) if one is not source.tensor]
    if operator in COPYING:
        affine = True
    elif operator in SCALING:
        first = args[0] is source.tensor
        affine = (first or operator not in (aten.div, aten.div_)) and all(
            one.ndim < source.tensor.ndim or one.shape[0] == 1 for one in rest
        )
    elif operator in MATRICES:
        row = 1 if operator is aten.addmm else 0
        affine = args[row] is source.tensor and source.tensor.ndim == 2 and (row == 0 or args[0].ndim == 1)
    elif operator is aten.convolution:
        affine = args[0] is source.tensor and not any(args[4]) and not args[6]
    else:
        affine = operator in BATCH_NORMS and not uses_batch_statistics(func, args)
    if not affine:
        return None
    made = func(*replace_argument(args, source.tensor, source.twin.clone()), **kwargs)
    answer: torch.Tensor = made[0] if isinstance(made, (tuple, list)) else made
    return answer


def replace_argument(args: Any, one: torch.Tensor, other: torch.Tensor) -> list[Any]:
    return [other if value is one else value for value in args]


def name_arguments(func: Any, args: Any) -> dict[str, Any]:
    """Values given by position, by name."""
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args, strict=False))


def uses_batch_statistics(func: Any, args: Any) -> bool:
    """Whether a batch norm looks at its batch."""
    return bool(name_arguments(func, args).get("training", False))


def is_spatially_constant(tensor: torch.Tensor) -> bool:
    return all(side == 1 for side in tensor.shape[-2:])


def find_tensors(values: Any) -> list[torch.Tensor]:
    """The tensors among values, and in the lists among them."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(one for one in value if isinstance(one, torch.Tensor))
    return found
