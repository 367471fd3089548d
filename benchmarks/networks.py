"""The networks benchmarks run on: torchvision's shapes with seeded random weights, exported once."""

from __future__ import annotations

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["Network", "build_network", "export_network", "quantise_network", "torchvision_models"]

_KEPT: list[Any] = []  # torch keeps definitions of operators as long as the object that made them


def torchvision_models() -> Any:
    """The models of torchvision, whose own operators do not load beside a torch built for the CPU."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision
    return torchvision.models


@dataclass(frozen=True)
class Network:
    """A torch module and the file it was exported to.

    Attributes:
        module: In eval mode.
        layer: The module whose output the maps are made at.
        path: ONNX file, dynamic batch, logits out.
    """

    module: torch.nn.Module
    layer: torch.nn.Module
    path: Path


def build_network(name: str, folder: Path | None = None) -> Network:
    """ResNet-18 or VGG-16 with seeded weights whose activations keep a natural scale."""
    torch.manual_seed(0)
    module: Any = getattr(torchvision_models(), name)(weights=None)
    calibrate(module)
    layer = module.layer4 if name.startswith("resnet") else module.features
    folder = folder or Path(tempfile.mkdtemp(prefix="camrt-benchmark-"))
    path = folder / f"{name}.onnx"
    if not path.exists():
        write_onnx(module, path)
    return Network(module, layer, path)


def export_network(name: str, folder: Path) -> Path:
    """A network of torchvision's or timm's with seeded weights, as an ONNX file of open batch size."""
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    library = torchvision_models()
    if hasattr(library, name):
        module: Any = getattr(library, name)(weights=None)
    else:
        import timm

        module = timm.create_model(name, pretrained=False)
    calibrate(module)
    write_onnx(module, path)
    return path


def write_onnx(module: torch.nn.Module, path: Path) -> None:
    """Exports a module that takes images of 224×224, with an open batch size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, 224, 224),),
            str(path),
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1, max=4096)},),
            external_data=False,
            verbose=False,
        )


def quantise_network(path: Path) -> Path:
    """The same network in int8, by ONNX Runtime's static quantisation with Q/DQ nodes."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    quantised = path.with_name(f"{path.stem}-int8.onnx")

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(random_images(8)[:, None])

        def get_next(self) -> Any:
            row = next(self.rows, None)
            return None if row is None else {"input": row}

    if not quantised.exists():
        quantize_static(path, quantised, Images(), quant_format=QuantFormat.QDQ, per_channel=True)
    return quantised


def calibrate(module: torch.nn.Module) -> None:
    """Gives batch norms the statistics of a random batch, so that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(1)
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    module.train(bool(norms))
    with torch.no_grad():
        if norms:
            module(torch.randn(16, 3, 224, 224, generator=generator))
    module.eval()


def random_images(count: int) -> np.ndarray:
    """Smooth random images in a model's input space, (count, 3, 224, 224) float32."""
    coarse = torch.randn(count, 3, 14, 14, generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.interpolate(coarse, (224, 224), mode="bicubic").numpy()
