"""Checks of settings that several protocols make."""

from __future__ import annotations

from camrt.errors import InputError

__all__ = ["check_integer"]


def check_integer(name: str, value: object, minimum: int, maximum: int | None = None) -> None:
    """Refuses what is not a whole number within bounds.

    Raises:
        InputError: It is not.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < minimum
        or (maximum and value > maximum)
    ):
        bounds = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise InputError(f"{name}={value!r} must be a whole number {bounds}")
