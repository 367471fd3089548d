"""A torch module or a file of `torch.export`, and what it or an example says of the images it takes.

The axis of the channels is the one that the caller names. Else it is read off the sizes of what is shown, an
example or the file's own input: the second, where only that has 1, 3 or 4 channels; else the one of which the
first of several layers takes as many; else the last, where only that has 1, 3 or 4; else the second.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from camrt.errors import BackendError, InputError, ModelFileError, UnsupportedModelError
from camrt.export.io.torch_archive import TorchArchive
from camrt.export.rewrites.input_form import CHANNEL_COUNTS, InputLayout

__all__ = ["ModuleSource", "apply_example", "read_source"]


@dataclass(frozen=True)
class ModuleSource:
    """A module and what is known of its input.

    Attributes:
        module: The module.
        name: What messages call it.
        path: The file it came from; the name of its class when it came from none.
        sha256: Of the file; empty without one.
        channels: Colours of its images, where known.
        guessed: Whether that is what its first convolution takes, which need not be what is given images.
        layout: The order of the axes it takes.
        height: Their height, where it is fixed.
        width: Their width, where it is fixed.
        batch: Its batch size, where it is fixed.
    """

    module: torch.nn.Module
    name: str
    path: Path
    sha256: str
    channels: int | None
    guessed: bool = False
    layout: InputLayout = "NCHW"
    height: int | None = None
    width: int | None = None
    batch: int | None = None


def read_source(source: torch.nn.Module | TorchArchive, layout: InputLayout | None = None) -> ModuleSource:
    """The module, and what it or its file says of its input.

    Args:
        source: See `camrt.engine.torch_models.load.load_module`.
        layout: The order of its input's axes, where the caller knows it.
    """
    if layout is not None and layout not in get_args(InputLayout):
        raise InputError(f"layout={layout!r} must be 'NCHW' (channels first) or 'NHWC' (channels last)")
    if not isinstance(source, torch.nn.Module):
        return read_exported_program(source, layout)
    if isinstance(source, torch.jit.ScriptModule):
        raise BackendError(
            "a TorchScript module takes no hooks: pass the module it was made from, or export that with "
            "torch.export or camrt.to_onnx"
        )
    name = type(source).__name__
    first = next((part for part in source.modules() if isinstance(part, torch.nn.Conv2d)), None)
    channels = None if first is None else first.in_channels
    return ModuleSource(source, name, Path(name), "", channels, first is not None, layout or "NCHW")


def read_exported_program(archive: TorchArchive, layout: InputLayout | None) -> ModuleSource:
    """A file of `torch.export.save`, with its submodules restored; what it holds that runs is run."""
    path, digest = archive.path, archive.sha256
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's, about other parts of torch
            warnings.filterwarnings(
                "ignore", "The given buffer is not writable"
            )  # 2.11's, of its own reading
            program = torch.export.load(path)
            module = torch.export.unflatten(program)
    except Exception as error:
        raise ModelFileError(f"{str(path)!r} is damaged, or of another torch: {error}") from error
    signature = program.graph_signature
    trained = next((str(node.target) for node in program.graph.nodes if is_training_op(node)), None)
    if trained is not None:
        raise UnsupportedModelError(
            f"{path.name} was exported in training mode ({trained}): call module.eval() before "
            "torch.export.export"
        )
    if len(signature.user_inputs) != 1:
        raise UnsupportedModelError(
            f"an image classifier has exactly one input, {path.name} has {len(signature.user_inputs)}"
        )
    value = next(node.meta["val"] for node in program.graph.nodes if node.name == signature.user_inputs[0])
    if not isinstance(value, torch.Tensor) or value.ndim != 4:
        raise UnsupportedModelError(f"{path.name} takes no images (N, C, H, W) as its input")
    sizes = tuple(axis if isinstance(axis, int) else None for axis in value.shape)
    source = ModuleSource(module, path.name, path.resolve(), digest, None, batch=sizes[0])
    layout = layout or infer_layout(module, sizes)
    channels, height, width = to_channels_height_width(sizes, layout)
    return replace(source, layout=layout, channels=channels, height=height, width=width)


def is_training_op(node: torch.fx.Node) -> bool:
    """Whether a node of an exported graph is an operator told to train (batch norm, dropout)."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    given = {argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)}
    return any({**given, **node.kwargs}.get(name) is True for name in ("train", "training"))


def apply_example(
    example: Any, given: ModuleSource, layout: InputLayout | None, size: tuple[int, int] | None
) -> tuple[ModuleSource, tuple[int, int] | None]:
    """The source with what a batch it takes says of it, and (H, W) where it is known.

    Raises:
        InputError: It is no batch of images, or there is none and the number of colours is not known.
    """
    if example is not None:
        shape = tuple(getattr(example, "shape", ()))
        if len(shape) != 4:
            raise InputError(f"example must be a batch (N, C, H, W), not {shape or type(example).__name__}")
        if not given.sha256:
            layout = layout or infer_layout(given.module, tuple(int(side) for side in shape))
            given = replace(given, layout=layout)
        channels, height, width = to_channels_height_width(tuple(int(side) for side in shape), given.layout)
        given = replace(given, channels=channels, guessed=False)
        if size is None and height and width:
            size = (height, width)
    if given.channels is None:
        raise InputError(
            f"the number of colours {given.name} takes cannot be read off it, since it has no convolution: "
            "pass example=, a batch (N, C, H, W) as it takes it"
        )
    return given, size


def to_channels_height_width(
    sizes: tuple[int | None, ...], layout: InputLayout
) -> tuple[int | None, int | None, int | None]:
    """C, H and W of an input's sizes."""
    _, *rest = sizes
    return (rest[2], rest[0], rest[1]) if layout == "NHWC" else (rest[0], rest[1], rest[2])


def infer_layout(module: torch.nn.Module, sizes: tuple[int | None, ...]) -> InputLayout:
    """The order of the axes of an input of these sizes, see this file's description."""
    first, last = sizes[1], sizes[3]
    if first == last or (first in CHANNEL_COUNTS and last not in CHANNEL_COUNTS):
        return "NCHW"
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    layers = [part for part in module.modules() if isinstance(part, kinds)]
    if len(layers) > 1:  # the only layer reads what was pooled
        layer = layers[0]
        taken = layer.in_channels if isinstance(layer, torch.nn.Conv2d) else layer.in_features
        if taken in (first, last):
            return "NCHW" if taken == first else "NHWC"
    return "NHWC" if last in CHANNEL_COUNTS and first not in CHANNEL_COUNTS else "NCHW"
