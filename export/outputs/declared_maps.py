"""What a file says of the maps that it holds, in its metadata, and the file without them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import onnx

from camrt.errors import ModelFileError
from camrt.export.graph.upkeep import drop_unused

__all__ = [
    "MAPS_KEY",
    "DeclaredMap",
    "DeclaredMaps",
    "read_declared_maps",
    "remove_maps",
    "write_declared_maps",
]

MAPS_KEY: Final = "camrt.maps"
"""The metadata key, whose value is a JSON object: see `DeclaredMaps`."""
MOST_MAPS = 256
LONGEST_NAME = 80  # characters of a method's


@dataclass(frozen=True, kw_only=True)
class DeclaredMap:
    """The maps of one method.

    Attributes:
        method: Its name.
        options: The method with its options, as `repr` gives it.
        saliency: The output of saliency maps.
        raw: That of raw maps; None where there is none.
    """

    method: str
    options: str
    saliency: str
    raw: str | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs."""
        return (self.saliency,) if self.raw is None else (self.saliency, self.raw)


@dataclass(frozen=True, kw_only=True)
class DeclaredMaps:
    """The maps that a file holds.

    Attributes:
        maps: They.
        target: The input that says which classes are explained; None where it is the predicted one.
        several: Whether that input is (N, T) rather than (N,), and maps (N, T, H, W) rather than (N, H, W).
        layer: The tensors that maps are made at, in the file.
    """

    maps: tuple[DeclaredMap, ...]
    target: str | None
    several: bool
    layer: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """All outputs of maps."""
        return tuple(name for one in self.maps for name in one.outputs)

    def describe(self) -> str:
        """A sentence for who loads the file."""
        listing = ", ".join(
            f"{one.method} ({', '.join(f'{name!r:.80}' for name in one.outputs)})" for one in self.maps
        )
        chosen = f"of the classes in {self.target!r:.80}" if self.target else "of the predicted class"
        return f"the file holds maps itself, {chosen}: {listing}; they were left out here"


def read_declared_maps(model: onnx.ModelProto) -> DeclaredMaps | None:
    """What a file says of its maps; None when it says nothing.

    Raises:
        ModelFileError: What it says cannot be read, or names inputs or outputs that are not there.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == MAPS_KEY), None)
    if text is None:
        return None
    try:
        found = from_json(json.loads(text))
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"the file's metadata entry {MAPS_KEY} cannot be read: {error!r:.200}"
        ) from error
    inputs, outputs = ({value.name for value in part} for part in (model.graph.input, model.graph.output))
    for name in found.outputs:
        if name not in outputs:
            raise ModelFileError(
                f"the file's metadata entry {MAPS_KEY} names an output {name!r:.80} that is not there"
            )
    if found.target is not None and (found.target not in inputs or len(inputs) < 2):
        raise ModelFileError(
            f"the file's metadata entry {MAPS_KEY} names {found.target!r:.80} for the input of classes, and "
            "there is no such one beside the images"
        )
    if not outputs - set(found.outputs):
        raise ModelFileError(f"the file's metadata entry {MAPS_KEY} leaves no output that is the model's own")
    return found


def from_json(content: Mapping[str, Any]) -> DeclaredMaps:
    """What the entry's JSON object says.

    Raises:
        ValueError: More methods than there are, or a name that is none; as KeyError and TypeError.
    """
    if len(content["maps"]) > MOST_MAPS:
        raise ValueError(f"more than {MOST_MAPS} methods")
    for one in content["maps"]:
        name = one["method"]
        if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST_NAME:
            raise ValueError("a method's name that is none")
    maps = tuple(
        DeclaredMap(
            method=str(one["method"]),
            options=str(one["options"]),
            saliency=str(one["saliency"]),
            raw=None if one["raw"] is None else str(one["raw"]),
        )
        for one in content["maps"]
    )
    target = content["target"]
    return DeclaredMaps(
        maps=maps,
        target=None if target is None else str(target),
        several=bool(content["several"]),
        layer=tuple(map(str, content["layer"])),
    )


def write_declared_maps(model: onnx.ModelProto, maps: DeclaredMaps) -> None:
    """Notes in a file which maps it holds."""
    model.metadata_props.add(key=MAPS_KEY, value=json.dumps(asdict(maps)))


def remove_maps(model: onnx.ModelProto) -> DeclaredMaps | None:
    """Takes the maps that a file holds out of it, in place: what is left is the model's own.

    Returns:
        What it held; None of a file that says nothing of maps.

    Raises:
        ModelFileError: See `read_declared_maps`.
    """
    found = read_declared_maps(model)
    if found is None:
        return None
    for values, names in ((model.graph.output, found.outputs), (model.graph.input, (found.target,))):
        for index in reversed(range(len(values))):
            if values[index].name in names:
                del values[index]
    for index in reversed(range(len(model.metadata_props))):
        if model.metadata_props[index].key == MAPS_KEY:
            del model.metadata_props[index]
    drop_unused(model)
    return found
