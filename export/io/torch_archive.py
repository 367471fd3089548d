"""What a file of `torch.export.save` (.pt2) holds that runs when it is opened, found without torch.

torch unpickles parts of such a file (the inputs it was exported with, weights and constants that are marked
so, objects of one's own), hands the sizes written in its graph to a reader of expressions that evaluates
them, calls what the graph's nodes name among all of Python that torch can see, and links libraries that are
in it. Its documentation says of `torch.export.load`: never load data from an untrusted source. So camrt opens
none that its caller does not vouch for. What is plainly damaged, or made to exhaust the machine, is refused
in any case. Nothing here runs or unpacks anything but the lists of weights, which are JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from camrt.errors import CamrtError, ModelFileError, UnsafeModelError
from camrt.export.budget import check_deadline, reserve
from camrt.export.io.file_kinds import describe_missing
from camrt.export.limits import human_bytes, human_count, quote_name

__all__ = ["SUFFIX", "TorchArchive", "open_archive"]

SUFFIX = ".pt2"

MAX_MEMBERS = 100_000
MAX_LISTING_BYTES = 16 << 20  # bytes of the zip file's own list of its members
MAX_CONFIG_BYTES = 64 << 20  # bytes of a list of weights
MAX_COMPRESSION_RATIO = 100  # torch compresses nothing

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What the standard library raises of a zip file that is damaged."""
_GRAPHS = ("serialized_exported_program.json",)  # what torch 2.7 and older wrote
_PICKLED_NAMES = ("custom_obj_", "opaque_obj_")


@dataclass(frozen=True)
class TorchArchive:
    """A `.pt2` file that the caller has declared trusted.

    Attributes:
        path: The file.
        sha256: Of its bytes.
        runs: The parts of it that run when it is opened, in words.
    """

    path: Path
    sha256: str
    runs: tuple[str, ...]


def open_archive(path: str | os.PathLike[str], *, trusted: bool) -> TorchArchive:
    """Looks through a file of `torch.export.save`, and refuses it where nobody vouches for it.

    Args:
        path: The file.
        trusted: Whether the caller trusts whoever made it as one trusts the author of a program.

    Raises:
        ModelFileError: It is missing, damaged, or no such file.
        UnsafeModelError: It is made to exhaust the machine; or `trusted` is false.
        MemoryLimitError: Unpacked it is larger than the call at hand may allocate.
    """
    place = Path(path)
    try:
        if place.exists() and not place.is_file():
            raise ModelFileError(f"{str(place)!r} is no file of torch.export.save, but a folder or a device")
        with _Bounded(place) as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                check_deadline()
                digest.update(block)
            with zipfile.ZipFile(file) as archive:
                members = _members(place, archive, file.seek(0, io.SEEK_END))
                runs = _what_runs(place, archive, members)
    except CamrtError:
        raise
    except FileNotFoundError:
        raise ModelFileError(f"{str(place)!r} cannot be read: {describe_missing(path)}") from None
    except OSError as error:
        raise ModelFileError(f"{str(place)!r} cannot be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise ModelFileError(
            f"{str(place)!r} is no file of torch.export.save, or damaged: {error}"
        ) from error
    if not trusted:
        raise UnsafeModelError(
            f"{str(place)!r} was not opened: a {SUFFIX} file runs code when torch loads it (here: "
            f"{'; '.join(runs)}), with all that its writer wants. If you trust whoever made it as the author "
            "of a program, say trusted=True (on the command line --trust); else ask for an ONNX file, of "
            "which nothing runs: camrt.to_onnx writes it where the model was built"
        )
    return TorchArchive(place, digest.hexdigest(), runs)


class _Bounded(io.FileIO):
    """A file that refuses to be read in pieces larger than a sound archive's list of members."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_LISTING_BYTES:
            raise zipfile.BadZipFile(
                f"its list of members takes {human_bytes(size)}, more than {human_bytes(MAX_LISTING_BYTES)}"
            )
        return super().read(size) or b""


def _members(path: Path, archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """The members of an archive, if their number, names and sizes are sound.

    Raises:
        ModelFileError: They are not.
        UnsafeModelError: They are made to exhaust the machine, or to be written outside a folder.
    """
    members = archive.infolist()
    name = repr(str(path))
    if len(members) > MAX_MEMBERS:
        raise UnsafeModelError(
            f"{name} has {human_count(len(members))} members, more than {human_count(MAX_MEMBERS)}"
        )
    seen: set[str] = set()
    for member in members:
        check_deadline()
        given = member.orig_filename
        parts = given.replace("\\", "/").split("/")
        if ".." in parts or given.startswith(("/", "\\")) or ":" in parts[0] or "\0" in given:
            raise UnsafeModelError(f"{name} has a member {quote_name(given)}, whose name leads out of it")
        if given in seen:
            raise ModelFileError(f"{name} is damaged: it has two members {quote_name(given)}")
        seen.add(given)
        if member.flag_bits & 1:
            raise ModelFileError(f"{name} is no file of torch.export.save: {quote_name(given)} is encrypted")
    packed, unpacked = (
        sum(sizes) for sizes in ([m.compress_size for m in members], [m.file_size for m in members])
    )
    if packed > size:
        raise UnsafeModelError(
            f"{name} is damaged or a decompression bomb: its members take {human_bytes(packed)}, the whole "
            f"file {human_bytes(size)}"
        )
    if unpacked > MAX_COMPRESSION_RATIO * size:
        raise UnsafeModelError(
            f"{name} is a decompression bomb: {human_bytes(size)} would become {human_bytes(unpacked)}"
        )
    if unpacked > size:
        reserve(unpacked, f"what is packed in {name}")
    return members


def _what_runs(path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> tuple[str, ...]:
    """The parts of an archive that run when torch opens it, in words.

    Raises:
        ModelFileError: It has no graph, or its list of weights is damaged.
    """
    graphs, pickles, libraries = [], [], []
    for member in members:
        place = PurePosixPath(member.filename)
        if place.name in _GRAPHS or (place.parent.name == "models" and place.suffix == ".json"):
            graphs.append(member.filename)
        elif place.suffix in (".pt", ".pkl") or place.name.startswith(_PICKLED_NAMES):
            pickles.append(member.filename)
        elif "aotinductor" in place.parts:
            libraries.append(member.filename)
        elif place.name.endswith("_config.json"):
            pickles += [str(place.parent / own) for own in _pickled(path, archive, member)]
    if not graphs:
        raise ModelFileError(f"{str(path)!r} is no file of torch.export.save: it has no graph")
    return tuple(
        f"{what} {_listed(found)}"
        for what, found in (
            ("pickles", sorted(set(pickles))),
            ("expressions and names of functions in", graphs),
            ("compiled libraries", libraries),
        )
        if found
    )


def _pickled(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> list[str]:
    """The weights or constants that a list of them marks as pickles."""
    if member.file_size > MAX_CONFIG_BYTES:
        raise UnsafeModelError(
            f"{str(path)!r}: {quote_name(member.filename)} is {human_bytes(member.file_size)} large, more "
            "than "
            f"{human_bytes(MAX_CONFIG_BYTES)}"
        )
    with archive.open(member) as file:
        text = bytearray()
        while block := file.read(1 << 20):
            check_deadline()
            text += block
    try:
        content: Any = json.loads(text)
        entries = content["config"].values()
        return [str(entry["path_name"]) for entry in entries if entry["use_pickle"]]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{str(path)!r} is damaged: {quote_name(member.filename)}: {error!r:.80}"
        ) from error


def _listed(names: list[str]) -> str:
    shown = ", ".join(quote_name(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
