"""The trunk of a classifier: all of it up to the last map, with its weights, as a module that can be trained.

A torchvision model, or any other that `torch.fx` can trace, is cut in its graph; a timm model has
`forward_features`. What the classifier's own head did with the map is dropped, so that it must be one that
pools or flattens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from camrt.errors import InputError
from camrt.export.heads.flow import Flow, Kind, Operation
from camrt.export.heads.target_rules import find_class_convolution_source, find_only_source

__all__ = ["TimmTrunk", "blank_images", "eval_mode", "extract_trunk", "map_shape"]

AVERAGING = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Identity)
AVERAGING_CALLS = ("avg_pool2d", "adaptive_avg_pool2d", "dropout", "dropout2d")
BY_CHANNEL = (
    nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.LeakyReLU,
    nn.ELU,
)  # fmt: skip
BY_CHANNEL_CALLS = ("relu", "relu_", "sigmoid")
HEAD_MODULES = (
    *AVERAGING, *BY_CHANNEL, nn.Linear, nn.Flatten, nn.MaxPool2d, nn.AdaptiveMaxPool2d,
    nn.LayerNorm, nn.BatchNorm1d, nn.Softmax,
)  # fmt: skip
HEAD_CALLS = (
    *AVERAGING_CALLS, *BY_CHANNEL_CALLS, "mean", "flatten", "view", "reshape", "squeeze", "size", "getattr",
    "getitem", "contiguous", "permute", "transpose", "linear", "softmax", "log_softmax", "layer_norm",
    "unsqueeze", "max_pool2d", "adaptive_max_pool2d",
)  # fmt: skip


class TimmTrunk(nn.Module):
    """The trunk of a timm model.

    Args:
        model: The model; its classifier is taken off.
        channels_last: Whether its features are (N, h, w, K), as those of Swin are.
    """

    def __init__(self, model: nn.Module, channels_last: bool) -> None:
        super().__init__()
        self.model = model
        self.channels_last = channels_last

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) to features (N, K, h, w)."""
        features: torch.Tensor = cast(Any, self.model).forward_features(images)
        return features.permute(0, 3, 1, 2) if self.channels_last else features


def extract_trunk(backbone: nn.Module, size: tuple[int, int]) -> nn.Module:
    """The part of a classifier that gives its last map, in the mode the classifier is in.

    Args:
        backbone: A classifier of images (N, 3, H, W). Its parameters become the trunk's own: it is taken
            apart, not copied.
        size: (H, W) of images that it takes.

    Raises:
        InputError: It has no map, cannot be traced, or does more with its last map than pool it, flatten it
            and run a network on the result.
    """
    training = backbone.training
    with eval_mode(backbone):
        if hasattr(backbone, "forward_features") and hasattr(backbone, "reset_classifier"):
            trunk: nn.Module = timm_trunk(backbone, size)
        else:
            trunk = traced_trunk(backbone, size)
        replace_unused_modules(trunk, size)
    return trunk.train(training)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for as long as the block runs, and then the mode the module was in."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def map_shape(trunk: nn.Module, size: tuple[int, int]) -> tuple[int, int, int]:
    """(K, h, w) of what a trunk gives for images of a size."""
    with eval_mode(trunk), torch.no_grad():
        features = trunk(blank_images(trunk, size))
    if not isinstance(features, torch.Tensor) or features.ndim != 4:
        raise InputError("the trunk must give one map (N, K, h, w)")
    return features.shape[1], features.shape[2], features.shape[3]


def blank_images(module: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    """A batch of two empty images, on the device and of the type of a module's parameters."""
    parameter = next(module.parameters(), torch.zeros(0))
    return torch.zeros(2, 3, *size, device=parameter.device, dtype=parameter.dtype)


def timm_trunk(model: nn.Module, size: tuple[int, int]) -> TimmTrunk:
    """The trunk of a model with timm's interface."""
    interface = cast(Any, model)
    interface.reset_classifier(0)
    with torch.no_grad():
        features = interface.forward_features(blank_images(model, size))
    channels = interface.num_features
    if not isinstance(features, torch.Tensor) or features.ndim != 4:
        shape = tuple(getattr(features, "shape", ()))
        raise InputError(
            f"{type(model).__name__}.forward_features gives {shape}, tokens and no map (N, K, h, w): a CAM "
            "or CALM head needs a network that ends in a map"
        )
    first, last = features.shape[1] == channels, features.shape[3] == channels
    if not first and not last:
        raise InputError(f"{type(model).__name__} says {channels} features and gives {tuple(features.shape)}")
    return TimmTrunk(model, channels_last=not first)


class _Tracer(fx.Tracer):
    """Looks into modules with children only: those without may ask what mode they are in."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or next(m.children(), None) is None


def traced_trunk(model: nn.Module, size: tuple[int, int]) -> fx.GraphModule:
    """The trunk of a model that torch.fx can trace."""
    name = type(model).__name__
    try:
        graph = _Tracer().trace(model)
        trunk = fx.GraphModule(model, graph)
        with torch.no_grad():
            ShapeProp(trunk).propagate(blank_images(model, size))
    except Exception as error:
        raise InputError(
            f"{name} cannot be taken apart, because torch.fx cannot trace it ({error}): pass its trunk and "
            "head to camrt.training.Classifier yourself"
        ) from error
    output = next(node for node in graph.nodes if node.op == "output")
    flow = build_flow(trunk)
    maps = [node for node in graph.nodes if is_spatial(node) and flow.is_clean_cut(node)]
    if not maps:
        raise InputError(f"{name} has no map (N, K, h, w) that its logits come from")
    chosen = skip_averaging(flow, maps[-1])
    if flow.has_weights_between(chosen):
        behind = flow.downstream(chosen) - {chosen, output}
        for node in graph.nodes:
            if node in behind:
                check_fits_head(trunk, node, name)
    else:
        features = find_class_convolution_source(flow, maps, chosen)
        if features == chosen:
            raise InputError(
                f"{name} ends in a map that no 1×1 convolution makes: its classes cannot be replaced"
            )
        chosen = skip_averaging(flow, features)
    output.replace_input_with(output.all_input_nodes[0], chosen)
    output.args = (chosen,)
    graph.eliminate_dead_code()
    trunk.delete_all_unused_submodules()
    trunk.recompile()
    return trunk


def build_flow(model: fx.GraphModule) -> Flow[fx.Node]:
    """The operations of a traced model, from the images to its output."""
    nodes = list(model.graph.nodes)
    steps = [
        Operation(
            tuple(node.all_input_nodes),
            (node,),
            classify_node(model, node),
            learned=has_weights(model, node),
        )
        for node in nodes
        if node.op != "placeholder"
    ]
    start = next(node for node in nodes if node.op == "placeholder")
    return Flow(steps, start, nodes[-1])


def classify_node(model: fx.GraphModule, node: fx.Node) -> Kind:
    """What a node does to the tensor it reads; dropout changes nothing when the trunk is cut."""
    if calls_any(model, node, AVERAGING, AVERAGING_CALLS):
        return "averages"
    if calls_any(model, node, BY_CHANNEL, BY_CHANNEL_CALLS):
        return "by-channel"
    return "pointwise" if is_pointwise_convolution(model, node) else "other"


def skip_averaging(flow: Flow[fx.Node], node: fx.Node) -> fx.Node:
    """The node behind which there is only averaging and dropout up to `node`."""
    while (before := find_only_source(flow, node, ("averages",))) is not None:
        node = before
    return node


def is_spatial(node: fx.Node) -> bool:
    """Whether a node gives a map of more than one cell."""
    shape: tuple[int, ...] = getattr(node.meta.get("tensor_meta"), "shape", ())
    return node.op not in ("placeholder", "output") and len(shape) == 4 and shape[2] * shape[3] > 1


def calls_any(
    model: fx.GraphModule, node: fx.Node, modules: tuple[type[nn.Module], ...], calls: tuple[str, ...]
) -> bool:
    """Whether a node calls a module or a function of the given kinds."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), modules)
    called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and called in calls


def check_fits_head(model: fx.GraphModule, node: fx.Node, name: str) -> None:
    """Refuses what heads that pool or flatten are not made of."""
    if not calls_any(model, node, HEAD_MODULES, HEAD_CALLS) and not is_pointwise_convolution(model, node):
        raise InputError(
            f"{name} does not end in a pooled-linear or flattened head: {node.target} comes after "
            "its last map"
        )


def is_pointwise_convolution(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node calls a 1×1 convolution."""
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)


def has_weights(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node calls a module that has learnt something."""
    return (
        node.op == "call_module"
        and next(model.get_submodule(str(node.target)).parameters(), None) is not None
    )


def replace_unused_modules(trunk: nn.Module, size: tuple[int, int]) -> None:
    """Replaces the modules whose parameters the map does not depend on, such as auxiliary classifiers."""
    parameters = dict(trunk.named_parameters())
    wanted = {name: parameter.requires_grad for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    features = trunk(blank_images(trunk, size))
    answers = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
    unused = {name for name, answer in zip(parameters, answers, strict=True) if answer is None}
    for name, parameter in parameters.items():
        parameter.requires_grad_(wanted[name])
    for path, module in list(trunk.named_modules()):
        own = {f"{path}.{name}" for name, _ in module.named_parameters()}
        if path and own and unused.issuperset(own):
            trunk.set_submodule(path, nn.Identity())
            unused.difference_update(own)
