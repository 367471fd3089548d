"""What loading a file finds out about it, and how that is kept for the next process.

An entry of the cache (`camrt.export.io.cache_folder`) holds the graph as it was standardised, without the
weights that stand in the file as they are, and what was read off it and compared, as JSON. Its key is a hash
of the file's bytes and of all that the analysis depends on beside them: the options, the versions of camrt
and of what runs and reads graphs, and the processor, whose arithmetic was compared.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

import camrt
from camrt.engine.heads.comparison import Comparison
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.plain_values import decode_plain, encode_plain
from camrt.errors import ModelFileError
from camrt.export.geometry.builtin_preprocessing import BuiltinPreprocessing
from camrt.export.geometry.spatial_steps import SpatialStep
from camrt.export.graph.held_weights import copy_without_weights, held_weight, hold_weight, is_held_type
from camrt.export.graph.index import Graph, ShapeObserver
from camrt.export.heads.cut import TargetTensor
from camrt.export.io.cache_folder import find_cache_folder, read_entry, write_entry
from camrt.export.io.model_bytes import ModelBytes, read_bytes
from camrt.export.limits import element_bits
from camrt.export.rewrites.interface import Interface

__all__ = ["Analysis", "AnalysisStore", "find_store"]

Array = npt.NDArray[Any]
FORMAT = 1
PLAIN_CLASSES: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (BuiltinPreprocessing, Comparison, Interface, Preprocessing, SpatialStep, TargetTensor)
}
LARGE_WEIGHT_BYTES = 1 << 12  # smaller ones are written into the entry
APART = frozenset({"model", "shapes", "types", "weights"})  # fields that are not kept as plain values
GAP_BYTES = 4  # between weights at least: protobuf has a tag and a length there
PREFIX_BYTES = 64  # of a weight, by which it is looked for
MOST_PLACES = 16  # where its first bytes are found, that are compared whole
INSTALLED = frozenset({"site-packages", "dist-packages"})  # folders whose files change with their version
MAX_OPTIONS = 1 << 16  # characters of the options: more are not worth a key


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What was found out about a file.

    Attributes:
        model: Its graph, standardised.
        input_shape: The shape of images that it was indexed at.
        shapes: Those of its tensors, inferred or found by running it.
        types: Their element types.
        interface: What it takes and gives.
        preprocessing: How images become its input, when known.
        front: What it does to images by itself.
        candidates: Where it could be cut.
        targets: Where it is.
        tensors: For each target the tensor (N, K, h, w) in the graph.
        unfactored: Why the heads of some targets, by their number, are run as graphs.
        notes: What loading changed or could not change, in sentences.
        comparisons: What was compared with the model's own answers.
        weights: Arrays that the graph's initializers stand for (`camrt.export.graph.held_weights`).
    """

    model: onnx.ModelProto
    input_shape: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, int]
    interface: Interface
    preprocessing: Preprocessing | None
    front: BuiltinPreprocessing
    candidates: tuple[TargetTensor, ...]
    targets: tuple[TargetTensor, ...]
    tensors: tuple[str, ...]
    unfactored: Mapping[int, str]
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    weights: tuple[Array, ...] = ()

    def index(self, observer: ShapeObserver) -> Graph:
        """The graph's index, as it was.

        Args:
            observer: Finds the shapes that the graph turns out not to have at other sizes.
        """
        return Graph(self.model, self.input_shape, observer, (dict(self.shapes), dict(self.types)))


@dataclass(frozen=True)
class AnalysisStore:
    """Where the analysis of a file is kept.

    Attributes:
        folder: The folder of the cache.
        key: The entry's.
    """

    folder: Path
    key: str

    def read(self, data: bytearray) -> Analysis | None:
        """The analysis that is kept there; None where none is.

        Args:
            data: The bytes of the model's file; where there is one, they become its weights.
        """
        content = read_entry(self.folder, self.key)
        if content is None:
            return None
        try:
            return unpack_analysis(content, self.key, data)
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            return None  # another program's, or damaged before its checksum was taken

    def write(self, analysis: Analysis, path: Path, sha256: str) -> None:
        """Keeps an analysis.

        Args:
            analysis: It.
            path: The model's file, which is read once more for where its weights stand.
            sha256: Of the model; nothing is kept where the file has another: it was changed, or has external
                data.
        """
        try:
            source = read_bytes(path)
        except ModelFileError:
            return
        if source.sha256 == sha256:
            write_entry(self.folder, self.key, pack_analysis(analysis, self.key, source.data))


def find_store(source: ModelBytes, options: Mapping[str, Any]) -> AnalysisStore | None:
    """Where the analysis of a file with some options is kept; None where it cannot be.

    Args:
        source: The file.
        options: Everything else that the analysis depends on.
    """
    folder = find_cache_folder()
    if folder is None:
        return None
    try:
        given = json.dumps(encode_plain(dict(sorted(options.items()))))
    except TypeError:
        return None
    if len(given) > MAX_OPTIONS:
        return None
    parts = [FORMAT, *environment(), source.sha256, given]
    return AnalysisStore(folder, hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest())


@cache
def environment() -> tuple[str, ...]:
    """What an analysis depends on beside the file and the options."""
    versions = [f"{part.__name__} {part.__version__}" for part in (camrt, np, onnx, onnxruntime)]
    return (*versions, last_change(), processor())


def last_change() -> str:
    """When the newest file of the rooms that analyse graphs was changed, of a version in development."""
    newest = 0
    if INSTALLED & set(Path(camrt.__file__).parts):
        return ""
    for room in ("engine", "export", "kernels"):
        for place in getattr(camrt, room).__path__:
            for folder, _, names in os.walk(place):
                for name in names:
                    if name.endswith(".py"):
                        newest = max(newest, os.stat(os.path.join(folder, name)).st_mtime_ns)  # noqa: PTH116, PTH118
    return str(newest)


def processor() -> str:
    """The kind of processor, as far as that can be told cheaply."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            lines = file.read(1 << 13).splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))]
    return "\n".join([platform.machine(), *dict.fromkeys(told)])


def pack_analysis(analysis: Analysis, key: str, data: bytes | bytearray) -> bytes:
    """An analysis as an entry's bytes.

    Args:
        analysis: It.
        key: The entry's.
        data: The bytes of the model's file.
    """
    light = copy_without_weights(analysis.model)
    found, hint = [], 0
    for number, tensor in enumerate(analysis.model.graph.initializer):
        light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        held, bits = held_weight(tensor), element_bits(tensor.data_type) or 0
        values = tensor.raw_data if held is None else held.reshape(-1).view(np.uint8).data
        whole = len(values) >= LARGE_WEIGHT_BYTES and 8 * len(values) == math.prod(tensor.dims) * bits
        start = find_bytes(data, values, hint) if whole else None
        if start is not None:
            found.append((start, len(values), number))
            hint = start + len(values)
    places: list[tuple[int, int, int]] = []
    for start, length, number in sorted(found):
        if start >= GAP_BYTES + (sum(places[-1][:2]) if places else 0):
            places.append((start, length, number))
    elsewhere = set(range(len(light.graph.initializer))) - {number for _, _, number in places}
    for number in elsewhere:
        tensor = analysis.model.graph.initializer[number]
        held = held_weight(tensor)
        light.graph.initializer[number].CopyFrom(
            tensor if held is None else numpy_helper.from_array(held, tensor.name)
        )
    plain = {name: encode_plain(getattr(analysis, name)) for name in plain_names()}
    told = {"shapes": dict(analysis.shapes), "types": dict(analysis.types), "analysis": plain}
    text = json.dumps({"key": key, "weights": places, **told}).encode()
    graph: bytes = light.SerializeToString()
    return len(text).to_bytes(8, "little") + text + graph


def unpack_analysis(content: bytes, key: str, data: bytearray) -> Analysis:
    """The inverse of `pack_analysis`.

    Raises:
        ValueError: These are no such bytes, or belong to another file; as ArithmeticError, LookupError,
            RecursionError and TypeError.
    """
    size = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + size])
    if told["key"] != key:
        raise ValueError("an entry of another key")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content[8 + size :])
    except Exception as error:  # protobuf's own, which ships without types
        raise ValueError("no model") from error
    large: list[tuple[onnx.TensorProto, int]] = []
    end = 0
    for start, length, number in told["weights"]:
        tensor = model.graph.initializer[number]
        if not end + GAP_BYTES <= start <= start + length <= len(data):
            raise ValueError("a weight that is not there, or lies in another one")
        if 8 * length != math.prod(tensor.dims) * (element_bits(tensor.data_type) or 0):
            raise ValueError("a weight of another size")
        end = start + length
        if is_held_type(tensor):
            large.append((tensor, start))
        else:
            tensor.raw_data = bytes(data[start:end])
    plain = {name: decode_plain(told["analysis"][name], PLAIN_CLASSES) for name in plain_names()}
    return Analysis(
        model=model,
        shapes={str(name): tuple(map(int, sizes)) for name, sizes in told["shapes"].items()},
        types={str(name): int(kind) for name, kind in told["types"].items()},
        weights=tuple(hold_in_place(large, data)),
        **plain,
    )


def hold_in_place(large: Iterable[tuple[onnx.TensorProto, int]], data: bytearray) -> Iterator[Array]:
    """Makes the bytes of a file the memory of its weights: no runtime reads floats at an odd address.

    Args:
        large: Initializers, and where their numbers begin, in order and `GAP_BYTES` apart at least.
        data: The bytes; each weight is moved to the address before it that a float may lie at.

    Yields:
        The arrays, on that memory.
    """
    view = memoryview(data)
    skew = np.frombuffer(data, np.uint8).ctypes.data % 4
    for tensor, start in large:
        length = 4 * math.prod(tensor.dims)
        place = start - (start + skew) % 4
        view[place : place + length] = view[start : start + length]
        values = np.frombuffer(data, "<f4", length // 4, place).reshape(tuple(tensor.dims))
        hold_weight(tensor, values)
        yield values


def plain_names() -> list[str]:
    """The fields of an analysis that are kept as plain values."""
    return [field.name for field in fields(Analysis) if field.name not in APART]


def find_bytes(data: bytes | bytearray, wanted: bytes | memoryview, hint: int) -> int | None:
    """Where some bytes stand in others; None where they do not, or are hard to find.

    Args:
        data: Where to look.
        wanted: What to look for.
        hint: From where to look first: tensors mostly stand in the order of the graph.
    """
    prefix, whole = bytes(wanted[:PREFIX_BYTES]), np.frombuffer(data, np.uint8)
    compared = np.frombuffer(wanted, np.uint8)
    for begin in dict.fromkeys((hint, 0)):
        start = data.find(prefix, begin)
        for _ in range(MOST_PLACES):
            if start < 0:
                break
            if np.array_equal(whole[start : start + len(wanted)], compared):
                return start
            start = data.find(prefix, start + 1)
    return None
