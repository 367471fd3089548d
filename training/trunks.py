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

__all__ = ["TimmTrunk", "blank_images", "eval_mode", "extract_trunk", "map_shape"]

AVERAGING = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Identity)
AVERAGING_CALLS = ("avg_pool2d", "adaptive_avg_pool2d", "dropout", "dropout2d")
HEAD_MODULES = (
    *AVERAGING, nn.Linear, nn.Flatten, nn.MaxPool2d, nn.AdaptiveMaxPool2d,
    nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d,
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.Softmax, nn.LeakyReLU, nn.ELU,
)  # fmt: skip
HEAD_CALLS = (
    *AVERAGING_CALLS, "mean", "flatten", "view", "reshape", "squeeze", "size", "getattr", "getitem",
    "contiguous", "permute", "transpose", "relu", "relu_",
    "linear", "softmax", "log_softmax", "sigmoid", "layer_norm", "unsqueeze",
    "max_pool2d", "adaptive_max_pool2d",
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
    maps = [node for node in find_common_nodes(graph) if is_spatial(node)]
    if not maps:
        raise InputError(f"{name} has no map (N, K, h, w) that its logits come from")
    chosen = maps[-1]
    while calls_any(trunk, chosen, AVERAGING, AVERAGING_CALLS):
        chosen = chosen.all_input_nodes[0]
    if not any(has_weights(trunk, node) for node in find_dependents(graph, chosen)):
        chosen = find_class_convolution_input(trunk, chosen, name)
    else:
        for node in find_dependents(graph, chosen):
            if not fits_head(trunk, node):
                raise InputError(
                    f"{name} does not end in a pooled-linear or flattened head: {node.target} comes after "
                    "its last map"
                )
    output.replace_input_with(output.all_input_nodes[0], chosen)
    output.args = (chosen,)
    graph.eliminate_dead_code()
    trunk.delete_all_unused_submodules()
    trunk.recompile()
    return trunk


def find_common_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that every way from the images to the output leads through, in order."""
    nodes = list(graph.nodes)
    to = {node: int(node.op == "placeholder") for node in nodes}
    for node in nodes:
        if node.op != "placeholder":
            to[node] = sum(to[source] for source in node.all_input_nodes)
    back = {node: int(node.op == "output") for node in nodes}
    for node in reversed(nodes):
        if node.op != "output":
            back[node] = sum(back[user] for user in node.users)
    every = to[nodes[-1]]
    return [node for node in nodes if to[node] * back[node] == every]


def is_spatial(node: fx.Node) -> bool:
    """Whether a node gives a map of more than one cell."""
    shape: tuple[int, ...] = getattr(node.meta.get("tensor_meta"), "shape", ())
    return node.op not in ("placeholder", "output") and len(shape) == 4 and shape[2] * shape[3] > 1


def find_dependents(graph: fx.Graph, chosen: fx.Node) -> list[fx.Node]:
    """The nodes that depend on one."""
    reached = {chosen}
    for node in graph.nodes:
        if node.op != "output" and any(source in reached for source in node.all_input_nodes):
            reached.add(node)
    return [node for node in graph.nodes if node in reached - {chosen}]


def calls_any(
    model: fx.GraphModule, node: fx.Node, modules: tuple[type[nn.Module], ...], calls: tuple[str, ...]
) -> bool:
    """Whether a node calls a module or a function of the given kinds."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), modules)
    called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and called in calls


def fits_head(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is something that heads which pool or flatten are made of."""
    if calls_any(model, node, HEAD_MODULES, HEAD_CALLS):
        return True
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)


def has_weights(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node calls a module that has learnt something."""
    return (
        node.op == "call_module"
        and next(model.get_submodule(str(node.target)).parameters(), None) is not None
    )


def find_class_convolution_input(model: fx.GraphModule, chosen: fx.Node, name: str) -> fx.Node:
    """What the last 1×1 convolution reads, where the map is one a class already (SqueezeNet)."""
    node = chosen
    while not isinstance(
        convolution := model.get_submodule(str(node.target)) if node.op == "call_module" else None, nn.Conv2d
    ):
        if len(node.all_input_nodes) != 1:
            raise InputError(
                f"{name} ends in a map that no single layer makes: its classes cannot be replaced"
            )
        node = node.all_input_nodes[0]
    if convolution.kernel_size != (1, 1):
        raise InputError(f"{name} ends in a convolution of {convolution.kernel_size}, not 1×1")
    source = node.all_input_nodes[0]
    while calls_any(model, source, AVERAGING, AVERAGING_CALLS):
        source = source.all_input_nodes[0]
    return source


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
