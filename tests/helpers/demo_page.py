"""The demo page, built into a folder and served from there by a plain file server."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from camrt.errors import StorageError

__all__ = ["FOLDER", "build_page", "load_builder", "serve_folder"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "demo"


def load_builder() -> ModuleType:
    """The module that builds the page."""
    spec = importlib.util.spec_from_file_location("demo_build", FOLDER / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_page(out: Path, model: Path | None = None) -> None:
    """Writes the page, with a model to begin with; skips the test where onnxruntime-web is not to be had."""
    if not FOLDER.is_dir():
        pytest.skip("Node.js or docs/demo is missing")
    builder, cache = load_builder(), ROOT / "build" / "npm"
    archive = cache / builder.ARCHIVE
    if not archive.exists() and (os.environ.get("CAMRT_REGISTRY") != "1" or shutil.which("npm") is None):
        pytest.skip("onnxruntime-web is missing: CAMRT_REGISTRY=1 allows npm to fetch it")
    try:
        builder.build(out, cache, model)
    except StorageError as error:
        if archive.exists():
            raise
        pytest.skip(f"npm could not fetch onnxruntime-web: {error}")


class FileHandler(http.server.SimpleHTTPRequestHandler):
    """Files alone, without a word about them; JavaScript and WebAssembly as what they are on every system."""

    extensions_map = {  # noqa: RUF012 - as its base has it
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base calls it
        """Says nothing."""


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """The address of a folder on this machine."""
    handler = functools.partial(FileHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
