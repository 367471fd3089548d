"""What makes the demo page ready to be served."""

from __future__ import annotations

import subprocess
import sys

import pytest

from camrt.errors import StorageError
from helpers.demo_page import FOLDER, load_builder

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="Node.js or docs/demo is missing")


def test_another_archive_is_refused(tmp_path):
    builder = load_builder()
    (tmp_path / builder.ARCHIVE).write_bytes(b"another")
    with pytest.raises(StorageError, match=r"is not onnxruntime-web [\d.]+ as published"):
        builder.build(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_without_npm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="npm is missing: install Node"):
        load_builder().build(tmp_path / "out", tmp_path)


def test_what_npm_says_is_told(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    command = [
        sys.executable,
        str(FOLDER / "build.py"),
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: npm could not fetch onnxruntime-web")
    assert "no network" in result.stderr
