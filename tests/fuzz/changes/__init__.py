"""Changes to model files, by kind: each takes a model and a source of chance, and says what it did."""

from fuzz.changes import attributes, between, declarations, flow, functions, metadata, nodes, stored, tensors
from fuzz.changes.parts import KINDS, WEIGHTS_BESIDE, all_graphs
from fuzz.changes.raw_bytes import BYTES

__all__ = [
    "BYTES", "KINDS", "WEIGHTS_BESIDE", "all_graphs", "attributes", "between", "declarations", "flow",
    "functions", "metadata", "nodes", "stored", "tensors",
]  # fmt: skip
