"""The libraries that evaluating needs and explaining does not."""

from __future__ import annotations

from camrt.engine.extras import MissingExtraError, import_extra

__all__ = ["MissingExtraError", "import_extra"]
