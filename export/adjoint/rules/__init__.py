"""One rule an operator, by what the operators do."""

from camrt.export.adjoint.rules import (  # noqa: F401
    activations,
    arithmetic,
    linear,
    moving,
    normalising,
    quantised,
    reducing,
    resizing,
    spatial,
)
