"""Gradients of an exported graph, as a second graph of plain operators."""

from camrt.export.adjoint.bias_gradients import BIAS_EPSILONS, BIAS_MAP
from camrt.export.adjoint.curvature_graph import CURVATURE, RISE, build_curvature_model
from camrt.export.adjoint.gradient_graph import (
    GRADIENT,
    WEIGHTING,
    build_adjoint_model,
    find_feature_vectors,
    is_gradient,
)
from camrt.export.adjoint.propagation import EPSILON, REFERENCE, build_propagation_model
from camrt.export.adjoint.registry import BackwardRule, BiasScaling, PropagationRule, ReluRule
from camrt.export.adjoint.step_functions import find_straight_through

__all__ = [
    "BIAS_EPSILONS",
    "BIAS_MAP",
    "CURVATURE",
    "EPSILON",
    "GRADIENT",
    "REFERENCE",
    "RISE",
    "WEIGHTING",
    "BackwardRule",
    "BiasScaling",
    "PropagationRule",
    "ReluRule",
    "build_adjoint_model",
    "build_curvature_model",
    "build_propagation_model",
    "find_feature_vectors",
    "find_straight_through",
    "is_gradient",
]
