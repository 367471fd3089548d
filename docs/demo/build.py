"""Makes the page of this folder ready to be served: onnxruntime-web, a model with maps, and a picture.

    python docs/demo/build.py build/demo
    python -m http.server --bind 127.0.0.1 --directory build/demo 8000

onnxruntime-web comes from the npm registry, once; its bytes are compared with the hash below. Any file server
will do that gives `.mjs` as JavaScript.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import camrt
from camrt.default import scene_path
from camrt.engine.images.style import DrawingStyle
from camrt.errors import CamrtError, StorageError

HERE = Path(__file__).parent
VERSION = "1.30.0"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
VENDORED = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Of onnxruntime-web, what runs in WebAssembly alone, and what runs on WebGPU."""
SECONDS = 120  # that npm may take
METHODS = ("calm", "pixab", "gradcam")
"""Whose maps the embedded classifier is given, the first at first."""


def fetch_runtime(cache: Path) -> Path:
    """The archive of onnxruntime-web, from the cache or the npm registry.

    Raises:
        StorageError: npm is missing or gives no such archive, or the archive is another one.
    """
    archive = cache / ARCHIVE
    if archive.exists():
        check_archive(archive)
        return archive
    if (npm := shutil.which("npm")) is None:
        raise StorageError(f"npm is missing: install Node.js, or put {ARCHIVE} into {cache}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [
            npm,
            "pack",
            f"onnxruntime-web@{VERSION}",
            "--pack-destination",
            str(Path(scratch).resolve()),
        ]
        try:
            subprocess.run(command, check=True, timeout=SECONDS, capture_output=True, text=True, cwd=scratch)
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", None) or error
            raise StorageError(f"npm could not fetch onnxruntime-web {VERSION}: {reason}") from error
        check_archive(Path(scratch) / ARCHIVE)
        (Path(scratch) / ARCHIVE).replace(archive)
    return archive


def check_archive(archive: Path) -> None:
    """Compares the archive with what was published.

    Raises:
        StorageError: It is another one.
    """
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != SHA512:
        raise StorageError(
            f"{archive} is not onnxruntime-web {VERSION} as published: remove it, and try again"
        )


def build(out: Path, cache: Path, model: Path | None = None) -> None:
    """Writes the page's folder.

    Args:
        out: The folder, made if missing.
        cache: Where the archive of onnxruntime-web is kept.
        model: The file with maps that the page begins with; the embedded classifier if not said.
    """
    archive = fetch_runtime(cache)
    (out / "ort").mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        for name in VENDORED:
            part = packed.extractfile(f"package/dist/{name}")
            assert part is not None
            (out / "ort" / name).write_bytes(part.read())
    for path in HERE.iterdir():
        if path.suffix in (".html", ".css", ".js", ".svg"):
            shutil.copy(path, out / path.name)
    style = DrawingStyle()
    (out / "look.js").write_text(
        "// How camrt draws maps when nothing else is said; written by build.py.\n\n"
        f"export const OPACITY = {style.opacity};\n"
        f"export const FADE = {style.faded}; // how far the picture beneath loses colour and light\n"
        "/** Red, green and blue of each level of saliency. */\n"
        f"export const COLOURS = Uint8Array.of({', '.join(map(str, style.colours.ravel().tolist()))});\n"
    )
    shutil.copy(scene_path(), out / "scene.jpg")
    if model is None:
        camrt.export.with_maps("default", METHODS, out / "model.onnx")
    else:
        shutil.copy(model, out / "model.onnx")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder that is written")
    parser.add_argument("--model", type=Path, help="ONNX file with maps that the page begins with")
    parser.add_argument(
        "--cache", type=Path, default=HERE.parents[1] / "build" / "npm", help="for what npm gives"
    )
    given = parser.parse_args()
    try:
        build(given.out, given.cache, given.model)
    except CamrtError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{given.out}: ready; python -m http.server --bind 127.0.0.1 --directory {given.out}")
