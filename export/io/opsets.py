"""Which operator sets a model may use: those that the installed onnx and onnxruntime both know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

import onnx
from onnx import TensorProto, helper

from camrt.errors import ModelFileError, UnsafeModelError, UnsupportedModelError
from camrt.export.graph.traversal import node_label, normalise_domain
from camrt.export.limits import quote_name
from camrt.export.onnx_sessions import open_session

__all__ = [
    "OLDEST_OPSET",
    "check_operators",
    "check_versions",
    "newest_opset",
    "normalise_domains",
    "read_opsets",
]

OLDEST_OPSET = 7
_ALWAYS_TAKEN = 22  # by every onnxruntime that camrt may be installed with (1.27 on)

_DOMAINS = ("", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")

# Operators that ONNX Runtime's optimiser saves in files of sets that do not have them yet, unchanged since.
_EARLY = frozenset({"LayerNormalization"})

_LAST_VERSION = 2**31 - 1  # that onnx and its runtimes can count to

# Operators that make the runtime open other files.
_READING_OTHER_FILES = {("com.microsoft", "EPContext")}


def read_opsets(model: onnx.ModelProto) -> dict[str, int]:
    """The version of each operator set that a model imports.

    Raises:
        ModelFileError: One set in two versions, or in one that there cannot be.
    """
    versions: dict[str, int] = {}
    for item in model.opset_import:
        domain = normalise_domain(item.domain)
        if not 0 <= item.version <= _LAST_VERSION:
            raise ModelFileError(
                f"imports version {item.version} of operator set {quote_name(domain or 'ai.onnx')}, "
                "which there is not"
            )
        if versions.setdefault(domain, item.version) != item.version:
            raise ModelFileError(f"imports two versions of operator set {quote_name(domain or 'ai.onnx')}")
    return versions


def normalise_domains(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Spells the default operator set '' everywhere, in place: what reads 'ai.onnx' may take it for another.

    Args:
        model: The model, whose `read_opsets` are known to agree.
        nodes: Every node of it.
    """
    for node in nodes:
        if node.domain == "ai.onnx":
            node.ClearField("domain")
    spelt = {normalise_domain(item.domain): item.version for item in model.opset_import}
    if len(spelt) < len(model.opset_import) or any(item.domain == "ai.onnx" for item in model.opset_import):
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(*item) for item in spelt.items())


def check_versions(model: onnx.ModelProto, versions: Mapping[str, int]) -> None:
    """Check the IR version and the default operator set's version.

    Args:
        model: The model.
        versions: Its operator sets, from `read_opsets`.

    Raises:
        ModelFileError: Either is missing.
        UnsupportedModelError: Either is older or newer than what is installed takes.
    """
    if model.ir_version < 1:
        raise ModelFileError("states no ONNX version (ir_version), so it is not an ONNX file or is cut short")
    opset = versions.get("")
    if opset is None:
        raise ModelFileError(
            "imports no ONNX operator set (opset_import), so it is incomplete: download or export it again"
        )
    if opset < OLDEST_OPSET:
        raise UnsupportedModelError(
            f"uses ONNX opset {opset}; camrt takes {OLDEST_OPSET} to {newest_opset()}: "
            "convert it with onnx.version_converter, or export it again"
        )
    known = onnx.defs.onnx_opset_version()
    if opset > known or not _runtime_takes(opset, _oldest_ir(opset)):
        raise UnsupportedModelError(
            f"uses ONNX opset {opset}; onnx {onnx.__version__} and onnxruntime {_runtime_version()}, "
            f"installed here, take {OLDEST_OPSET} to {newest_opset()}: upgrade them, or export with an "
            "older opset"
        )
    if model.ir_version > _oldest_ir(_ALWAYS_TAKEN) and not _runtime_takes(opset, model.ir_version):
        raise UnsupportedModelError(
            f"uses ONNX IR version {model.ir_version}, newer than onnxruntime {_runtime_version()} takes: "
            "upgrade onnxruntime, or export with an older onnx"
        )


def check_operators(nodes: Iterable[onnx.NodeProto], versions: Mapping[str, int]) -> None:
    """Check that every operator is one that the runtime has by itself.

    Args:
        nodes: Every node of the model, after inlining.
        versions: The model's operator sets, from `read_opsets`.

    Raises:
        ModelFileError: An operator of a set that the model does not import, or without a name.
        UnsafeModelError: An operator that opens other files.
        UnsupportedModelError: A custom operator, or one that the operator set does not have.
    """
    for node in nodes:
        domain = normalise_domain(node.domain)
        if not node.op_type:
            raise ModelFileError(f"{node_label(node)} has no operator")
        if domain not in _DOMAINS:
            raise UnsupportedModelError(
                f"{node_label(node)} uses the custom operator {quote_name(node.op_type)} of "
                f"{quote_name(domain)}; "
                "camrt never loads custom operator libraries: export with standard ONNX operators"
            )
        if (domain, node.op_type) in _READING_OTHER_FILES:
            raise UnsafeModelError(f"{node_label(node)} makes the runtime open another file")
        if domain not in versions:
            raise ModelFileError(
                f"{node_label(node)} is of operator set {quote_name(domain)}, which the file does not import"
            )
        runtime_s = domain.startswith("com.microsoft") or (domain == "" and node.op_type in _EARLY)
        if not runtime_s and not onnx.defs.has(node.op_type, versions[domain], domain):
            raise UnsupportedModelError(
                f"{node_label(node)} is not an operator of {domain or 'ONNX'} opset {versions[domain]}"
            )


@cache
def newest_opset() -> int:
    """The newest default operator set that the installed onnx and onnxruntime both take."""
    newest = onnx.defs.onnx_opset_version()
    while newest > _ALWAYS_TAKEN and not _runtime_takes(newest, _oldest_ir(newest)):
        newest -= 1
    return newest


def _oldest_ir(opset: int) -> int:
    return helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True)


def _onnxruntime() -> Any:
    return import_module("onnxruntime")  # slow to import, and seldom needed here


def _runtime_version() -> str:
    return str(_onnxruntime().__version__)


@lru_cache(maxsize=64)
def _runtime_takes(opset: int, ir_version: int) -> bool:
    """Whether onnxruntime loads a model of one Identity node; it has no call that says so."""
    if opset <= _ALWAYS_TAKEN and ir_version <= _oldest_ir(_ALWAYS_TAKEN):
        return True
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        open_session(probe.SerializeToString(), options)
    except Exception:  # onnxruntime's exceptions have no public base
        return False
    return True
