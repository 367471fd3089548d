"""What a file that is not ONNX looks like, so that the message can say what to do with it."""

from __future__ import annotations

import os
import re

__all__ = ["describe_kind", "describe_missing", "is_address"]

_TO_ONNX = "export it to ONNX first"
_TORCH = "with torch.onnx.export, from the code that built the model: camrt never unpickles"

# (offset, bytes, what it is, what to do)
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89PNG\r\n", "a PNG image", "give the model's file, not an image"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the model's file, not an image"),
    (0, b"GIF8", "a GIF image", "give the model's file, not an image"),
    (0, b"\x89HDF\r\n", "an HDF5 file (Keras weights?)", _TO_ONNX),
    (0, b"\x93NUMPY", "a NumPy array", _TO_ONNX),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", "unpack it first"),
    (0, b"%PDF", "a PDF document", "give the model's file"),
    (0, b"ftrt", "a TensorRT engine", "give the ONNX file that it was built from"),
    (4, b"TFL3", "a TensorFlow Lite model", "convert it with tf2onnx first"),
    (4, b"ORTM", "an ONNX Runtime .ort file", "give the .onnx file that it was made from"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` to fetch the file itself"),
)


def describe_kind(head: bytes) -> tuple[str, str] | None:
    """Recognise a file by its first bytes.

    Args:
        head: The first few kilobytes of the file.

    Returns:
        What it looks like and what to do, or None when nothing is recognised (an ONNX file has no signature).
    """
    for offset, signature, kind, advice in _SIGNATURES:
        if head.startswith(signature, offset):
            return kind, advice
    if head.startswith(b"PK\x03\x04"):
        if b"data.pkl" in head or b"/version" in head or b".format_version" in head:
            return "a PyTorch .pt file", f"{_TO_ONNX}, {_TORCH}"
        if b"model.weights.h5" in head:
            return "a Keras .keras file", _TO_ONNX
        return "a zip archive", "unpack it first"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle (an old PyTorch .pt?)", f"{_TO_ONNX}, {_TORCH}"
    if head[8:10] in (b'{"', b"{ ") and head[4:8] == b"\0\0\0\0":
        return "a safetensors file, which has weights and no graph", _TO_ONNX
    start = head[:256].lstrip()
    if start[:1] == b"<" and b"html" in start.lower():
        return "a web page, perhaps the error page of a download", "download the model again"
    if (
        start
        and all(byte in b"\t\n\r\f" or byte >= 0x20 for byte in head[:256])
        and b"\x7f" not in head[:256]
    ):
        return "text", "give the binary .onnx file"
    return None


_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/|data:")


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether what was given as a path is an address on a network."""
    return _ADDRESS.match(os.fspath(path)) is not None


def describe_missing(path: str | os.PathLike[str]) -> str:
    """What to say of a file that is not there: of an address, that nothing is downloaded.

    Args:
        path: What was taken for the path of a file.
    """
    found = _ADDRESS.match(os.fspath(path))
    if found is None:
        return "no such file"
    if found["scheme"] == "file":
        return "is an address: give the path that follows file://"
    return "is an address, and camrt downloads nothing: fetch the file, and give its path"
