"""The command `camrt doctor`: what is installed, what computes, and what is missing for which feature."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

import typer

from camrt.cli.output import add_row, make_console, report_errors, strip_control
from camrt.errors import BackendError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["FEATURES", "add_command", "missing_packages"]

FEATURES = {
    "torch": "explain torch modules and .pt2 files; camrt.to_onnx",
    "evaluate": "camrt evaluate, camrt reproduce; superpixels of lime and kernelshap, aise",
    "plot": "figures (explanation.plot, PDF, SVG), colour maps of matplotlib",
    "xarray": "explanation.to_xarray",
    "concepts": "camrt concepts",
    "runs": "--write maps, .parquet lists, addresses such as s3://",
    "zarr": "camrt.open_run(FOLDER).to_zarr",
    "ray": "camrt explain and camrt evaluate --ray",
    "serve": "camrt serve",
    "openvino": "--backend openvino",
    "gpu": "torch modules on a GPU, kernels in Triton",
    "tensorrt": "--backend tensorrt, camrt export --to tensorrt",
    "tensorrt-rtx": "--backend tensorrt-rtx, camrt export --to tensorrt-rtx",
    "train": "camrt train, camrt export of its runs",
    "backbones": "camrt train --backbone torchvision:NAME or timm:NAME",
}
"""What each extra is for."""

CORE = ("numpy", "onnx", "onnxruntime", "pillow", "rich", "typer")


def doctor() -> None:
    """Show versions, what computes here, and what is missing for which feature."""
    from rich.table import Table

    with report_errors():
        console = make_console()
        for name, value in describe_installation():
            console.print(f"{name:<12}{strip_control(value)}", markup=False, soft_wrap=True)
        table = Table("for", "extra", "state")
        for extra, purpose in FEATURES.items():
            missing = missing_packages(extra)
            state = f"missing: {', '.join(missing)}" if missing else "ready"
            add_row(table, purpose, extra, state, bold=bool(missing))
        console.print(table)
        console.print(
            "what is missing comes with pip install 'camrt[EXTRA]', from a clone '.[EXTRA]'",
            markup=False,
            soft_wrap=True,
        )


def describe_installation() -> Iterator[tuple[str, str]]:
    """What is there, each by its name."""
    import onnxruntime

    from camrt.engine.options import resolve_threads
    from camrt.engine.tensorrt_plans.cuda_devices import list_cuda_devices
    from camrt.export.io.cache_folder import find_cache_folder
    from camrt.kernels import IMPLEMENTATION
    from camrt.kernels.processors import usable_processors

    yield "camrt", f"{installed_version('camrt')}, Python {platform.python_version()}, {platform.platform()}"
    yield "packages", ", ".join(f"{name} {installed_version(name)}" for name in CORE)
    native = IMPLEMENTATION == "native"
    yield (
        "kernels",
        "native (C++)" if native else "reference (NumPy), far slower: see camrt.kernels.IMPLEMENTATION",
    )
    asked, processors = resolve_threads(None), usable_processors()
    yield "threads", f"{asked} (CAMRT_THREADS)" if asked else f"{processors}, as many as processors"
    yield "providers", f"of ONNX Runtime: {', '.join(onnxruntime.get_available_providers())}"
    try:
        cards = ", ".join(map(str, list_cuda_devices()))
    except BackendError:
        cards = "none that NVIDIA's driver knows of"
    yield "GPU", cards
    folder = find_cache_folder()
    yield "cache", "off (CAMRT_CACHE)" if folder is None else str(folder)


def installed_version(package: str) -> str:
    """The version of a package that is installed; "missing" where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def missing_packages(extra: str) -> list[str]:
    """What an extra of camrt asks for and is not installed, or is too old, as pip would be told it."""
    from packaging.utils import canonicalize_name

    missing: list[str] = []
    for requirement in extra_requirements(extra):
        if canonicalize_name(requirement.name) == "camrt":
            missing += [one for inner in sorted(requirement.extras) for one in missing_packages(inner)]
            continue
        found = installed_version(requirement.name)
        if found == "missing":
            missing.append(requirement.name)
        elif not requirement.specifier.contains(found, prereleases=True):
            missing.append(f"{requirement.name}{requirement.specifier} (here is {found})")
    return list(dict.fromkeys(missing))


def extra_requirements(extra: str) -> Iterator[Requirement]:
    """What an extra asks for on this system."""
    from packaging.requirements import Requirement

    for text in requires("camrt") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield requirement


def add_command(main: typer.Typer) -> None:
    """Adds the command to the command line."""
    main.command()(doctor)
