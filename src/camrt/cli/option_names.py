"""Arguments of camrt's functions, as errors name them, in the words of the command line."""

from __future__ import annotations

import re

__all__ = ["OPTIONS", "name_options"]

SAME = (
    *(
        "activation",
        "annotations",
        "backend",
        "base",
        "batch_size",
        "batches",
        "call_deadline",
        "device",
        "draw",
    ),
    *(
        "examples",
        "fuse",
        "grid",
        "infidelity_squares",
        "kind",
        "labels",
        "layout",
        "limit",
        "load_deadline",
        "lr",
        "max_memory",
        "output",
    ),
    *(
        "overwrite",
        "plans",
        "precision",
        "preprocessing",
        "pxap",
        "resume",
        "seed",
        "sensitivity_draws",
        "sensitivity_radius",
        "size",
        "stages",
        "step",
    ),
    *("threads", "top_k"),
)
OPTIONS: dict[str, str] = {name: f"--{name.replace('_', '-')}" for name in SAME} | {
    "target": "--layer",
    "targets": "--target",
    "trusted": "--trust",
}
"""The option for each argument that has one."""

_PHRASES = {
    "engine.targets() of the model without target= lists them": "camrt inspect lists them",
    "engine.targets() lists them": "camrt inspect lists them",
    "pass device=": "give device=",
    "pass output=": "give output=",
    "pass preprocessing= to camrt.load": "give preprocessing=",
    "labels= to camrt.load": "labels=",
    "preprocessing= to camrt.load": "preprocessing=",
    "load it with camrt.load(preprocessing=...)": "give preprocessing=",
}
_VALUE = r"'(?P<text>[^'\s]*)'|(?P<quoted>'[^'\n]*')|(?P<true>True\b)|(?P<other>-?[\d.]+[\w.]*)"
_ARGUMENT = re.compile(rf"(?<![\w.\-/:=])(?P<name>{'|'.join(OPTIONS)})=(?:{_VALUE}|(?=[\s),.;:]|$))")


def name_options(text: str) -> str:
    """A message with every "name=" and "name=value" of an argument as the option of the command line."""
    for phrase, other in _PHRASES.items():
        text = text.replace(phrase, other)
    return _ARGUMENT.sub(_option, text)


def _option(found: re.Match[str]) -> str:
    value = found["text"] or found["quoted"] or found["other"]
    return OPTIONS[found["name"]] + (f" {value}" if value else "")
