"""RefineCAM: the product of several layers' maps, of any method on activations."""

from __future__ import annotations

from dataclasses import make_dataclass
from functools import cache
from typing import Any

from camrt.engine.methods.base import Method
from camrt.engine.methods.wrapping import is_class_activation_map, title_of

__all__ = ["refined"]


@cache
def refined(map_class: type[Method]) -> type[Method] | None:
    """The class of RefineCAM on a method's maps, which is that method with `fuse="product"`.

    "How to Evaluate and Refine your CAM" (Domeniconi et al., 2026): each layer's saliency in [0, 1] and of
    the image's size, times the others', brought to [0, 1] again. None of a method whose maps are on no layer.
    """
    if not is_class_activation_map(map_class):
        return None
    stated: dict[str, Any] = {
        "name": f"refine-{map_class.name}",
        "fusion": "product",
        "__doc__": f"RefineCAM: the product of several layers' {title_of(map_class)} maps.",
        "__module__": __name__,
        "__reduce__": lambda self: (remake, (map_class, vars(self))),
    }
    name = f"Refine{map_class.__name__}"
    made = make_dataclass(name, [], bases=(map_class,), namespace=stated, frozen=True, kw_only=True)
    assert issubclass(made, Method)
    return made


def remake(map_class: type[Method], options: dict[str, Any]) -> Method:
    """A method as it was before it was pickled."""
    made = refined(map_class)
    assert made is not None
    return made(**options)
