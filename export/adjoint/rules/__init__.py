"""One rule an operator, by what the operators do."""

from camrt.export.adjoint.rules import (  # noqa: F401
    activations,
    arithmetic,
    attention,
    branching,
    einsum,
    linear,
    moving,
    normalising,
    padding,
    picking,
    quantised,
    recurrent,
    reducing,
    resizing,
    sampling,
    spatial,
    trigonometric,
)
