"""From a torch module to an ONNX file that says what it is and gives the same logits."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from camrt.engine.arrays import to_numpy
from camrt.engine.images.preprocess import METADATA_KEY, Preprocessing
from camrt.engine.options import resolve_labels
from camrt.engine.torch_models.model import TorchModel, flatten_output, to_float32
from camrt.errors import BackendError, InputError
from camrt.export.io.atomic_files import open_draft
from camrt.export.onnx_sessions import open_session
from camrt.export.outputs.declared_heads import HEAD_KEY, PROVENANCE_KEY

__all__ = ["export_graph", "to_onnx"]

Array = npt.NDArray[Any]

# Largest difference between the file's logits and the module's, relative to the largest logit. Both sides
# round; in half precision a runtime may add up in another type.
TOLERANCES = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
DEFAULT_TOLERANCE = 1e-4


@runtime_checkable
class Exportable(Protocol):
    """A classifier that says itself what its file gives, as `camrt.training.Classifier` does."""

    def exported_outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, C, H, W) to the file's outputs by name, class scores (N, classes) among them."""

    def exported_head(self) -> dict[str, Any]:
        """What those outputs are, for the file's metadata."""


class NamedOutputs(torch.nn.Module):
    """A module with chosen tensors for its outputs.

    Args:
        module: The module.
        output: Which of its outputs are the logits, see `camrt.engine.torch_models.model.flatten_output`.
    """

    def __init__(self, module: torch.nn.Module, output: str) -> None:
        super().__init__()
        self.module = module
        self.output = output

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (N, C, H, W) to the outputs, in order."""
        return tuple(self.named(images).values())

    def named(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name."""
        if isinstance(self.module, Exportable):
            return self.module.exported_outputs(images)
        return {"logits": flatten_output(self.module(images))[self.output]}


def to_onnx(
    module: torch.nn.Module,
    example: Any,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | Mapping[int, str] | str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
    output: str | None = None,
    opset: int | None = None,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a classifier as an ONNX file with its labels and preprocessing, for `camrt.load`.

    The module is exported in evaluation mode and is then as it was. The file is written beside its place, run
    by ONNX Runtime on the example and on a batch of another size, and takes its place only when its outputs
    are the module's; a file that stood there stays otherwise.

    The file of a `camrt.training.Classifier` says what it is. Of CAM it gives `logits` and `class_maps` (N,
    C, h, w); of CALM `probabilities`, p(y|x), `log_joint`, log p(y,z|x), (N, C, h, w), and
    `place_probabilities`, p(z|x), (N, 1, h, w).

    Args:
        module: The classifier.
        example: A batch (N, C, H, W) as the module takes it, an array or a tensor.
        path: Where the file goes.
        labels: Class names, as `camrt.load` takes them.
        preprocessing: How images become the module's input: a `camrt.Preprocessing`, a name, or its fields.
        output: Which output holds the class scores, when several could.
        opset: ONNX operator set; None leaves it to torch.
        dynamic_batch: Whether the file takes batches of any size, or only of the example's.
        dynamic_size: Whether it takes images of any height and width, or only of the example's.
        provenance: Where the weights come from, to be noted in the file.

    Returns:
        The path.

    Raises:
        BackendError: onnxscript is missing, the export failed, or the file's logits are others.
        InputError: A wrong option.
        UnsupportedModelError: The module is no classifier.
    """
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"module={module!r:.80} must be a torch module: no file is read here, since opening one of "
            "torch's may run code in it"
        )
    if find_spec("onnxscript") is None:
        raise BackendError(
            "torch exports to ONNX by onnxscript, which is missing: pip install 'camrt[torch]'"
        )
    images = np.asarray(example.detach().cpu() if isinstance(example, torch.Tensor) else example, np.float32)
    if images.ndim != 4 or not len(images):
        raise InputError(f"example must be a batch (N, C, H, W), this one has shape {images.shape}")
    parameter = next(module.parameters(), None)
    device = "cpu" if parameter is None else str(parameter.device)
    torch_model = TorchModel(module, type(module).__name__, device, None)
    several = images if len(images) > 1 or not dynamic_batch else np.repeat(images, 2, axis=0)
    with torch_model.evaluation_mode(gradients=False):
        logits = torch_model.pick_logits(torch_model.to_tensor(images), output)
        names = resolve_labels(labels, {}, logits.shape[1])
        steps = Preprocessing.coerce(preprocessing, (images.shape[2], images.shape[3]))
        outputs = NamedOutputs(module, torch_model.output)
        given = list(outputs.named(torch_model.to_tensor(images)))
        model = export_graph(
            outputs, torch_model.to_tensor(several), opset, dynamic_batch, dynamic_size, given
        )
        batches = [images, np.concatenate([images, images[:1]])[::-1]] if dynamic_batch else [images]
        if dynamic_size:
            batches.append(np.concatenate([images, images[:, :, ::-1]], axis=2))
        expected = [
            dict(
                zip(
                    given,
                    (
                        to_numpy(to_float32(one))
                        for one in torch_model.call(torch_model.to_tensor(batch), outputs)
                    ),
                    strict=True,
                )
            )
            for batch in batches
        ]
        _, kind = torch_model.device_and_dtype()
    metadata = {} if names is None else {"camrt.labels": json.dumps(names, ensure_ascii=False)}
    if steps is not None:
        metadata[METADATA_KEY] = steps.to_json()
    if isinstance(module, Exportable):
        metadata[HEAD_KEY] = json.dumps(module.exported_head())
    if provenance is not None:
        metadata[PROVENANCE_KEY] = json.dumps(provenance, ensure_ascii=False)
    onnx.helper.set_model_props(model, metadata)
    place = Path(path)
    allowed = TOLERANCES.get(kind, DEFAULT_TOLERANCE)
    write_checked(model, place, list(zip(batches, expected, strict=True)), allowed)
    return place


def export_graph(
    module: torch.nn.Module,
    example: torch.Tensor,
    opset: int | None,
    dynamic_batch: bool,
    dynamic_size: bool = False,
    outputs: Sequence[str] = ("logits",),
) -> onnx.ModelProto:
    """The module's graph, from `input` to its outputs, without a word about where it was made.

    Raises:
        BackendError: torch cannot export it, or not with an open batch axis where that was asked for.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    axes: dict[int, Any] = {0: torch.export.Dim("batch")} if dynamic_batch else {}
    if dynamic_size:
        axes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        log.setLevel(logging.ERROR)  # likewise
        torch.backends.mha.set_fastpath_enabled(False)  # a fused operator that ONNX does not have
        try:
            program = torch.onnx.export(
                module,
                (example,),
                input_names=["input"],
                output_names=list(outputs),
                dynamic_shapes=(axes,) if axes else None,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            hint = "; dynamic_batch=False exports it for one batch size" if dynamic_batch else ""
            raise BackendError(f"torch could not export the module to ONNX: {error}{hint}") from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            log.setLevel(level)
    assert program is not None  # only the exporter that this call does not use answers with None
    model = program.model_proto
    strip_source_info(model)
    if dynamic_batch and model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"):
        raise BackendError(
            f"the module's code fixes the batch size at {len(example)} when it is exported, as len(x), "
            "int(...) and .tolist() do: write x.shape[0] there, or pass dynamic_batch=False"
        )
    return model


def write_checked(
    model: onnx.ModelProto, path: Path, known: list[tuple[Array, dict[str, Array]]], allowed: float
) -> None:
    """Writes a model beside its place, and moves it there when it gives the known outputs.

    Raises:
        StorageError: It cannot be written.
        BackendError: It does not, or ONNX Runtime refuses it, or it is too large for one file.
    """
    with open_draft(path, ".onnx") as draft:
        draft.file.write(model.SerializeToString())
        draft.file.flush()
        for batch, expected in known:
            name, difference = largest_difference(draft.path, batch, expected)
            if not difference <= allowed:
                raise BackendError(
                    f"ONNX Runtime's {name} of the exported file differ from torch's by {difference:.3g} of "
                    f"the largest, more than {allowed:g}, on a batch of {len(batch)}: {path} was not written"
                )


def largest_difference(path: Path, batch: Array, expected: Mapping[str, Array]) -> tuple[str, float]:
    """The output of a file that differs most from what was expected, and by how much of its largest value."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    try:
        session = open_session(path, options)
        wanted = {"tensor(float16)": np.float16, "tensor(double)": np.float64}
        (given,) = session.get_inputs()
        images = batch.astype(wanted.get(given.type, np.float32))
        found = session.run(list(expected), {given.name: images})
    except Exception as error:
        raise BackendError(f"ONNX Runtime does not run the exported file: {error}") from error
    differences: dict[str, float] = {}
    for (name, wanted_values), values in zip(expected.items(), found, strict=True):
        answer = np.asarray(values, np.float32)
        if answer.shape != wanted_values.shape:
            raise BackendError(
                f"the exported file gives {name} of shape {answer.shape}, torch {wanted_values.shape}"
            )
        scale = max(float(np.abs(wanted_values).max()), 1e-6)
        difference = float(np.abs(answer - wanted_values).max()) / scale
        differences[name] = difference if np.isfinite(difference) else np.inf
    worst = max(differences, key=differences.__getitem__)
    return worst, differences[worst]


def strip_source_info(model: onnx.ModelProto) -> None:
    """Drops what the exporter notes about the source files, paths of the exporting machine among it."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    for node in graph.node:
        node.doc_string = ""
        node.ClearField("metadata_props")
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.doc_string = ""
        value.ClearField("metadata_props")
    for weights in graph.initializer:
        weights.doc_string = ""
        weights.ClearField("metadata_props")
    graph.ClearField("metadata_props")
