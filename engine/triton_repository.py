"""A repository of NVIDIA Triton Inference Server: an ONNX file, and what the server must know of it.

    DIR/resnet50/config.pbtxt
    DIR/resnet50/labels.txt
    DIR/resnet50/1/model.onnx

The server's ONNX Runtime backend runs the file as it is. What it takes and gives is read off its graph.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import onnx
from onnx import TensorProto

from camrt.engine.options import LABELS_KEY, resolve_labels
from camrt.errors import InputError, UnsupportedModelError
from camrt.export.graph.traversal import graph_tensors, walk_nodes
from camrt.export.io.atomic_files import storage_errors, write_atomic
from camrt.export.io.model_bytes import read_bytes
from camrt.export.io.model_file import parse_model
from camrt.export.limits import ReadingLimits, quote_name

__all__ = ["add_to_triton_repository"]

# Imported by name: protobuf ships without types.
_escape: Callable[..., str] = import_module("google.protobuf.text_encoding").CEscape

MODEL_FILE = "model.onnx"
CONFIG_FILE = "config.pbtxt"
LABEL_FILE = "labels.txt"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
MOST_ROWS = 65536  # far above what a card takes at once
TYPES: dict[int, str] = {
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.UINT16: "TYPE_UINT16",
    TensorProto.UINT32: "TYPE_UINT32",
    TensorProto.UINT64: "TYPE_UINT64",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT16: "TYPE_INT16",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.BFLOAT16: "TYPE_BF16",
}
"""Element types, as the server's `model_config.proto` names them."""
SCORES = (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def add_to_triton_repository(
    path: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    max_batch: int = 32,
) -> Path:
    """Puts an ONNX file into a repository of NVIDIA Triton Inference Server.

    Where the file takes any number of images, requests are batched (`dynamic_batching`). A model that the
    repository has gets its next version, which the server then serves. The metadata that camrt keeps in the
    file becomes the configuration's parameters, where clients find the preprocessing.

    Args:
        path: The file, plain or with maps in it. It is copied as it is, with its external data.
        repository: The folder that `tritonserver --model-repository` is given; made if missing.
        name: The model's name on the server; the file's own name if not said.
        labels: Class names in order; those in the file's metadata if not said.
        max_batch: The most images that are run at once.

    Returns:
        The folder of the version that was written.

    Raises:
        InputError: A name, number or labels that make no sense for the file.
        ModelFileError: The file cannot be read, see `camrt.load`.
        UnsafeModelError: As there.
        UnsupportedModelError: As there, or the file does not say the shape of an output, or the server lacks
            its type.
        StorageError: The repository cannot be written to.

    Source:
        docs/user_guide/model_repository.md and model_configuration.md of triton-inference-server/server.

    Example:
        camrt.export.add_to_triton_repository("resnet50.onnx", "models", max_batch=16)
    """
    if isinstance(max_batch, bool) or not isinstance(max_batch, int) or not 1 <= max_batch <= MOST_ROWS:
        raise InputError(f"max_batch={max_batch!r} must be a whole number in [1, {MOST_ROWS}]")
    source = read_bytes(path)
    parse_model(source)  # raises what is wrong with it
    model = onnx.ModelProto.FromString(bytes(source.data))
    known = Path(path).stem if name is None else name
    if not NAME.fullmatch(known):
        raise InputError(
            f"{quote_name(known)} is no name of a model on the server: it must begin with a letter or digit "
            "and hold letters, digits, _, . and - alone; name= says another (--triton-name)"
        )
    metadata = {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith("camrt.")}
    scores, names = find_labels(model, labels, metadata)
    metadata.pop(LABELS_KEY, None)
    external = list_external_files(model)
    if MODEL_FILE in external:
        raise UnsupportedModelError(
            f"{path}: its weights lie in a file called {MODEL_FILE}, as the model is called on the server: "
            "save it with its weights under another name"
        )
    config = write_config(model, known, scores if names else "", max_batch, metadata)
    folder = Path(repository) / known
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / CONFIG_FILE, config.encode())
        if names:
            lines = "".join(" ".join(label.split()) + "\n" for label in names)
            write_atomic(folder / LABEL_FILE, lines.encode())
        return add_version(folder, bytes(source.data), source.path.parent, external)


def find_labels(
    model: onnx.ModelProto, labels: Sequence[str] | None, metadata: dict[str, str]
) -> tuple[str, tuple[str, ...] | None]:
    """The output of class scores, and the classes' names where they are known.

    Raises:
        InputError: Names that do not fit it, or no output that they could belong to.
    """
    if labels is None and LABELS_KEY not in metadata:
        return "", None
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if tensor.elem_type in SCORES and len(tensor.shape.dim) in (1, 2):
            classes = tensor.shape.dim[1].dim_value if len(tensor.shape.dim) == 2 else 1
            return value.name, resolve_labels(labels, metadata, classes)
    raise InputError("labels were given, and no output of the file has one number for each image and class")


def write_config(
    model: onnx.ModelProto, name: str, scores: str, max_batch: int, metadata: dict[str, str]
) -> str:
    """The text of the configuration; the output `scores` has a file of labels."""
    given = {weights.name for weights in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    firsts = [value.type.tensor_type.shape.dim[:1] for value in (*inputs, *model.graph.output)]
    batched = all(first and not first[0].dim_value for first in firsts)
    lines = [
        f"name: {quote(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {quote(MODEL_FILE)}",
        f"max_batch_size: {max_batch if batched else 0}",
    ]
    for kind, values in (("input", inputs), ("output", model.graph.output)):
        for value in values:
            lines.append(f"{kind} {{\n{describe_tensor(value, batched, labelled=value.name == scores)}}}")
    if batched:
        lines.append("dynamic_batching {\n}")
    for key, text in metadata.items():
        lines.append(f"parameters {{\n  key: {quote(key)}\n  value {{ string_value: {quote(text)} }}\n}}")
    return "\n".join(lines) + "\n"


def describe_tensor(value: onnx.ValueInfoProto, batched: bool, *, labelled: bool) -> str:
    """What an input or output is, in the words of the server's configuration.

    Raises:
        UnsupportedModelError: The file does not say its shape, or the server lacks its type.
    """
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise UnsupportedModelError(
            f"the file does not say which shape {quote_name(value.name)} has, which the server must know: "
            "run onnx.shape_inference over it, or export it again"
        )
    if tensor.elem_type not in TYPES:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise UnsupportedModelError(
            f"{quote_name(value.name)} is of type {kind}, which Triton Inference Server does not take"
        )
    dims = [dim.dim_value or -1 for dim in tensor.shape.dim][1 if batched else 0 :]
    lines = [f"name: {quote(value.name)}", f"data_type: {TYPES[tensor.elem_type]}", f"dims: {dims or [1]}"]
    if not dims:  # the server has no empty shapes: a number for each image is sent as (N, 1)
        lines.append("reshape { shape: [] }")
    if labelled:
        lines.append(f"label_filename: {quote(LABEL_FILE)}")
    return "".join(f"  {line}\n" for line in lines)


def quote(text: str) -> str:
    """A string of protobuf's text format."""
    return f'"{_escape(text, as_utf8=True)}"'


def list_external_files(model: onnx.ModelProto) -> list[str]:
    """The files beside the model that its weights lie in, relative to its folder."""
    graph, limits = model.graph, ReadingLimits()
    return sorted(
        {
            entry.value
            for item in (*graph_tensors(graph), *walk_nodes(graph.node, limits.max_depth).tensors)
            for entry in item.tensor.external_data
            if item.tensor.data_location == TensorProto.EXTERNAL and entry.key == "location"
        }
    )


def add_version(folder: Path, content: bytes, beside: Path, external: Sequence[str]) -> Path:
    """Writes the next version of a model; it takes its place whole."""
    with tempfile.TemporaryDirectory(prefix=".camrt-", dir=folder) as scratch:
        draft = Path(scratch) / "version"
        draft.mkdir()
        (draft / MODEL_FILE).write_bytes(content)
        for name in external:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(beside / name, draft / name, follow_symlinks=False)
        versions = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
        place = folder / str(max(versions, default=0) + 1)
        draft.rename(place)
    return place
