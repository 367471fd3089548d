"""`python -m camrt` and `camrt` are the command line."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command line; Ctrl-C ends it quietly even while it is being imported."""
    try:
        from camrt.cli.main import app

        app(prog_name="camrt")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
