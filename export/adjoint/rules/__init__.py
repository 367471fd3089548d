"""One rule an operator, by what the operators do."""

from camrt.export.adjoint.rules import (  # noqa: F401
    activations,
    arithmetic,
    attention,
    conditionals,
    data_movement,
    einsum,
    indexing,
    linear,
    normalisation,
    padding,
    quantisation,
    recurrent,
    reductions,
    resizing,
    sampling,
    spatial,
    trigonometric,
)
