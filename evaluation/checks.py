"""Checks of settings that several protocols make."""

from __future__ import annotations

from camrt.errors import InputError

__all__ = ["check_whole"]


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Refuses what is not a whole number within bounds.

    Raises:
        InputError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most and value > most):
        bounds = f">= {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}={value!r} must be a whole number {bounds}")
