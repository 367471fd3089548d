"""Shares of a score handed back from layer to layer, by other rules than the gradient's: DeepLIFT and LRP."""

from camrt.export.adjoint.propagation.graph import EPSILON, REFERENCE, build_propagation_model

__all__ = ["EPSILON", "REFERENCE", "build_propagation_model"]
