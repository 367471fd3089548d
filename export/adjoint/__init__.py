"""Gradients of an exported graph, as a second graph of plain operators."""

from camrt.export.adjoint.building import GRADIENT, WEIGHTING, adjoint_model, vectors_of
from camrt.export.adjoint.rounding import passed_roundings
from camrt.export.adjoint.steps import ReluRule

__all__ = ["GRADIENT", "WEIGHTING", "ReluRule", "adjoint_model", "passed_roundings", "vectors_of"]
