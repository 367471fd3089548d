"""One rule an operator, by what the operators do."""

from camrt.export.adjoint.rules import (  # noqa: F401
    attending,
    elementwise,
    linear,
    moving,
    normalising,
    quantised,
    reducing,
    spatial,
)
