"""Reading an ONNX file that somebody else made.

    file = read_model("resnet50.onnx")
    file.model.graph

Nothing is executed, written or unpickled. The file is refused, with the reason and what to do, when it is
not ONNX, is incomplete, reaches outside its folder, or asks for far more memory or time than its size
suggests. Each step counts before it calls anything that could take long:

    bytes -> fields -> parse -> versions -> locations -> functions -> operator sets -> order -> structure
          -> external data -> stored tensors -> expansion of runtimes' operators, sizes of results
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import onnx

from camrt.errors import CamrtError, ModelFileError, UnsafeModelError
from camrt.export.expanding import expand_operators
from camrt.export.graph.topological_sort import sort_nodes
from camrt.export.graph.traversal import graph_tensors, walk_nodes
from camrt.export.io.external_data import check_locations, read_external_data
from camrt.export.io.graph_checks import (
    check_graph,
    check_tensors,
    clear_duplicate_names,
    open_empty_dimensions,
    remove_initializers_from_inputs,
)
from camrt.export.io.model_bytes import ModelBytes, read_bytes
from camrt.export.io.operand_checks import check_operands
from camrt.export.io.opsets import check_operators, check_versions, normalise_domains, read_opsets
from camrt.export.io.schema_checks import check_attributes, check_signatures
from camrt.export.io.wire_format import check_field_count
from camrt.export.limits import ReadingLimits
from camrt.export.rewrites.float_types import cast_floats, needs_float32
from camrt.export.rewrites.local_functions import inline_functions
from camrt.export.rewrites.old_opsets import raise_opset

__all__ = ["ModelFile", "ReadingLimits", "parse_model", "read_model"]


@dataclass(frozen=True)
class ModelFile:
    """A model file that has been read and checked.

    Attributes:
        path: The file, links resolved.
        model: The model: external data loaded, local functions inlined, training information dropped, nodes
            in topological order, no initializer among the graph's inputs, operators standard ones where they
            can be written so (`expanding`), of operator set 9 at least, and in float32 where the layers of
            the file are of doubles or bfloat16.
        sha256: Of the file's bytes followed by the external data that was read, in the order of the model.
        notes: What a reader of the results should know of it.
    """

    path: Path
    model: onnx.ModelProto
    sha256: str
    notes: tuple[str, ...] = ()


# Imported by name: protobuf ships without types.
_DecodeError: type[Exception] = import_module("google.protobuf.message").DecodeError

_DEFAULT_LIMITS = ReadingLimits()


def read_model(path: str | os.PathLike[str], *, limits: ReadingLimits = _DEFAULT_LIMITS) -> ModelFile:
    """Read and check an ONNX file, with its external data.

    Args:
        path: The model file. It may itself be a symbolic link; its external data may not.
        limits: What a file may ask for.

    Returns:
        The model, whole.

    Raises:
        ModelFileError: Missing, not a regular file, not ONNX, incomplete, inconsistent, or over 2 GiB.
        UnsafeModelError: External data outside the model's folder, or a claim beyond the limits.
        UnsupportedModelError: An operator or a version that the installed onnx and onnxruntime do not take.
    """
    return parse_model(read_bytes(path, limits=limits), limits=limits)


def parse_model(source: ModelBytes, *, limits: ReadingLimits = _DEFAULT_LIMITS) -> ModelFile:
    """The model of a file's bytes, checked, with its external data; see `read_model`."""
    given, path, digest, size = source.given, source.path, source.digest.copy(), len(source.data)
    try:
        model = _parse(source.data, limits)
        del source
        notes = _check_and_complete(model, path.parent, digest, size, limits)
    except CamrtError as error:
        raise type(error)(f"{given}: {error}") from None
    return ModelFile(path, model, digest.hexdigest(), notes)


def _parse(data: bytearray, limits: ReadingLimits) -> onnx.ModelProto:
    check_field_count(data, limits.max_fields)
    model = onnx.ModelProto()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # protobuf's "unexpected end-group tag"
            used = model.ParseFromString(memoryview(data))
    except _DecodeError as error:
        raise ModelFileError(f"is not an ONNX file, or is damaged: {error}") from None
    if used != len(data):
        raise ModelFileError("is not an ONNX file, or is damaged: something follows the model")
    if not model.HasField("graph"):
        raise ModelFileError("has no graph, so it is not an ONNX file or is cut short")
    return model


def _check_and_complete(
    model: onnx.ModelProto, folder: Path, digest: hashlib._Hash, size: int, limits: ReadingLimits
) -> tuple[str, ...]:
    """Check a parsed model, inline its functions and read its external data, in place; returns notes."""
    model.ClearField("training_info")
    graph = model.graph
    check_versions(model, read_opsets(model))
    for function in model.functions:
        check_locations(walk_nodes(function.node, limits.max_depth, function.attribute_proto).tensors)
    inline_functions(model, limits)

    found = walk_nodes(graph.node, limits.max_depth)
    if len(found.nodes) > limits.max_nodes_after_inlining:
        raise UnsafeModelError(
            f"has {len(found.nodes)} nodes; at most {limits.max_nodes_after_inlining} are allowed"
        )
    remove_initializers_from_inputs(graph)
    open_empty_dimensions(graph)
    normalise_domains(model, found.nodes)
    raise_opset(model)
    if sort_nodes(graph):
        found = walk_nodes(graph.node, limits.max_depth)  # they are new objects
    tensors = [*graph_tensors(graph), *found.tensors]
    versions = read_opsets(model)
    check_graph(graph, limits)
    check_operators(found.nodes, versions)
    check_attributes(found.nodes)
    check_signatures(found.nodes, versions)
    check_locations(tensors)
    read_external_data(tensors, folder, digest, size, limits)
    check_tensors(tensors, limits)
    check_operands(graph)
    types = expand_operators(model, versions, limits)
    check_signatures(
        walk_nodes(graph.node, limits.max_depth).nodes, versions
    )  # what runtimes' own nodes have become
    check_operands(graph)
    clear_duplicate_names(graph)
    if not needs_float32(graph, types):
        return ()
    cast_floats(model, onnx.TensorProto.FLOAT)
    return ("the file's layers of doubles or bfloat16, which runtimes lack, are computed in float32",)
