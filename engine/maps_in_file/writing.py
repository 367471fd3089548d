"""`camrt.export.with_maps`: a model's file that gives its maps too."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import onnx
from onnx import TensorProto, helper

from camrt.default import resolve_model_path
from camrt.engine.build import AnalysedFile, analyse_file
from camrt.engine.call_limits import check_deadline_option, check_memory
from camrt.engine.cuts import find_cut_tensors
from camrt.engine.head_making import CutTensors, ModelToCut, find_class_rows
from camrt.engine.heads import Head
from camrt.engine.heads.calm import CalmHead
from camrt.engine.images.preprocess import METADATA_KEY
from camrt.engine.maps_in_file.calm_answers import CalmAnswers
from camrt.engine.maps_in_file.class_row_answers import ClassRowAnswers
from camrt.engine.maps_in_file.comparison import OwnFile, compare_with_engine
from camrt.engine.maps_in_file.factored_answers import FactoredAnswers
from camrt.engine.maps_in_file.file_graph import FileGraph
from camrt.engine.maps_in_file.finishing import not_finite
from camrt.engine.maps_in_file.head_answers import HeadAnswers
from camrt.engine.maps_in_file.map_tensors import MapTensors, Targets, choose_targets
from camrt.engine.maps_in_file.method_maps import check_method
from camrt.engine.maps_in_file.outputs import OutputWriter
from camrt.engine.methods import MapShape, Method, make_method
from camrt.engine.options import LABELS_KEY, resolve_threads
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.errors import InputError, MethodError, ModelFileError
from camrt.export.budget import Budget, default_max_memory, within_budget
from camrt.export.graph.index import opset as version_of
from camrt.export.heads.factoring import Factors
from camrt.export.internal_errors import report_internal_errors
from camrt.export.io.atomic_files import write_atomic
from camrt.export.io.model_bytes import ModelBytes, read_bytes
from camrt.export.io.model_file import parse_model
from camrt.export.outputs.declared_maps import MAPS_KEY, DeclaredMap, DeclaredMaps, write_declared_maps
from camrt.export.rewrites.input_form import IMAGES, INTEGER_RANGES
from camrt.export.rewrites.interface import LOGITS

__all__ = ["with_maps"]

TARGET = "target"
SALIENCY, RAW = "saliency", "raw"
OPSETS = range(17, 22)
MOST_PASSES = 1024
READING_OPTIONS = (
    "target",
    "grid",
    "threads",
    "labels",
    "preprocessing",
    "output",
    "activation",
    "layout",
    "verify",
)
MOST_BYTES = (1 << 31) - 1  # that a file of protobuf may have


def with_maps(
    path: str | os.PathLike[str],
    methods: str | Method | Sequence[str | Method],
    out: str | os.PathLike[str],
    *,
    targets: Targets = "one",
    raw: bool = False,
    opset: int | None = None,
    most_passes: int = MOST_PASSES,
    load_deadline: float = 180.0,
    max_memory: int | None = None,
    **options: Any,
) -> Path:
    """Writes a model's file that gives saliency maps beside its own outputs, wherever ONNX files run.

    What is added are standard operators behind the model's own nodes, which stay as they are: so its outputs
    are the same, bit for bit, wherever a runtime runs nodes as they are written. ONNX Runtime puts nodes
    together, and may round the last bits otherwise in a file that has more of them: then there is a
    `RoundingWarning`. The file is compared with `Engine.explain` on noise before it takes its place.

    It has the model's own input, and one more, `target`, int64 (N,): for each image the class to explain, or
    -1 for the predicted one. That input is always needed. ONNX could give it a default (an initializer of the
    same name), which ONNX Runtime alone follows: OpenVINO and TensorRT make a constant of such an input, and
    onnxruntime-web does not offer it to be set. A class that there is not has a map of zeros and raw maps of
    NaN; a `target` of another length than the batch is an error of the runtime's.

    Beside the model's own, its outputs are `saliency` (N, H, W), float32 in [0, 1], and, with `raw`, `raw`
    (N, h, w): what `explain` calls `maps` and `raw`. Of several methods they are `saliency_NAME` and
    `raw_NAME`. A map that is constant, or has nothing positive, or is not finite, is zeros, as in `explain`.

    Args:
        path: An ONNX file, or the word "default".
        methods: One or several methods, by name or, with options, as themselves: activation, cam, gradcam,
            gradcam++, xgradcam, hirescam, layercam, gradcam-elementwise, ablation, pixab,
            score; of CALM models calm; of the image's own pixels gradient and guided.
        out: Where the file goes.
        targets: "one" class an image; "several", for which `target` is (N, T), and outputs are (N, T, H, W);
            or "predicted", for which there is no such input.
        raw: Whether raw maps are outputs too.
        opset: ONNX operator set of the file, 17 to 21; None for the model's own, 17 at least.
        most_passes: How many altered activations of an image may be run through what follows the cut, of a
            head that is not answered by algebra: at once, which is what such a file needs memory for. As many
            masked images may be run through the whole model, which Score-CAM does one after another.
        load_deadline: Seconds that all of it may take; infinity for no bound.
        max_memory: Bytes that may be allocated at once, as in `camrt.load`.
        **options: Of `camrt.load`, for how the model is read: `target` (the layer), `grid`, `output`,
            `activation`, `layout`, `preprocessing`, `labels`, `threads`, `verify`. Preprocessing and labels
            are noted in the file's metadata.

    Returns:
        Where the file is.

    Raises:
        InputError: A wrong option, or an input or output of the model has the name of one that is added.
        MethodError: A method that is not written into files, or that this model has not, or that needs more
            passes.
        CamrtError: As `camrt.load`.

    Example:
        camrt.export.with_maps("resnet50.onnx", "pixab", "resnet50_maps.onnx")
    """
    chosen = [make_method(one, {}) for one in ([methods] if isinstance(methods, (str, Method)) else methods)]
    check_options(chosen, targets, opset, most_passes)
    unknown = sorted(set(options) - set(READING_OPTIONS))
    if unknown:
        raise InputError(
            f"with_maps has no option {', '.join(map(repr, unknown))}; of camrt.load's it takes "
            f"{', '.join(READING_OPTIONS)}"
        )
    memory = default_max_memory() if max_memory is None else check_memory(max_memory)
    check_deadline_option("load_deadline", load_deadline)
    plan = MapPlan(tuple(chosen), targets, raw, most_passes)
    with within_budget(Budget(memory, load_deadline, "writing maps into the file", "load_deadline")):
        content = build_file(read_bytes(resolve_model_path(path)), plan, opset, options)
    place = Path(out)
    write_atomic(place, content)
    return place


def build_file(given: ModelBytes, plan: MapPlan, opset: int | None, options: Mapping[str, Any]) -> bytes:
    """The bytes of a model's file with maps, compared with the engine.

    Args:
        given: The model's file.
        plan: What to add.
        opset: See `with_maps`.
        options: Of `camrt.load`.
    """
    with report_internal_errors(f"{given.given}: the file"):
        file = parse_model(given)
    if any(entry.key == MAPS_KEY for entry in file.model.metadata_props):
        raise InputError(f"{file.path.name} holds maps already: start from the model's own file")
    own = OwnFile.of(file.model)
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    threads = resolve_threads(options.get("threads"))
    runtime, analyst = OnnxRuntime(threads=threads), OnnxRuntime(threads=threads, few_runs=True)
    with report_internal_errors(f"{file.path}: the graph"):
        analysed = analyse_file(file, runtime, analyst, **{**options, "threads": threads})
        declared = add_maps(model, analysed, plan)
        note_usage(model, analysed)
        model = convert(model, opset)
        content = serialise(model)
        del model  # as large as the file
    engine = analysed.make_engine(file, runtime, threads=threads)
    compare_with_engine(content, own, engine, plan.methods, declared)
    return content


def note_usage(model: onnx.ModelProto, analysed: AnalysedFile) -> None:
    """Notes in a file how images become its input and what its classes are called, where that is known.

    It is read where there is no camrt that could be told.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if analysed.found.preprocessing is not None:
        metadata[METADATA_KEY] = analysed.found.preprocessing.to_json()
    if analysed.labels is not None:
        metadata[LABELS_KEY] = json.dumps(analysed.labels, ensure_ascii=False)
    helper.set_model_props(model, metadata)


@dataclass(frozen=True)
class MapPlan:
    """What a file is to hold; see `with_maps`."""

    methods: tuple[Method, ...]
    targets: Targets
    raw: bool
    most_passes: int

    def declare(self, layer: tuple[str, ...]) -> DeclaredMaps:
        """What the file says of it."""
        ends = [""] if len(self.methods) == 1 else [f"_{method.name}" for method in self.methods]
        return DeclaredMaps(
            maps=tuple(
                DeclaredMap(
                    method=method.name,
                    options=repr(method),
                    saliency=f"{SALIENCY}{end}",
                    raw=f"{RAW}{end}" if self.raw else None,
                )
                for method, end in zip(self.methods, ends, strict=True)
            ),
            target=None if self.targets == "predicted" else TARGET,
            several=self.targets == "several",
            layer=layer,
        )


def check_options(methods: list[Method], targets: str, opset: int | None, most_passes: int) -> None:
    """Refuses wrong options of `with_maps`."""
    if not methods:
        raise InputError("methods=[] must name at least one method")
    for method in methods:
        check_method(method)
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise InputError(f"methods: {', '.join(names)}: each may be given once, since outputs bear its name")
    if targets not in get_args(Targets):
        raise InputError(f"targets={targets!r} must be one of {', '.join(map(repr, get_args(Targets)))}")
    if opset is not None and opset not in OPSETS:
        raise InputError(f"opset={opset!r} must be a whole number from {OPSETS[0]} to {OPSETS[-1]}")
    if isinstance(most_passes, bool) or not isinstance(most_passes, int) or most_passes < 0:
        raise InputError(f"most_passes={most_passes!r} must be a whole number >= 0")


def add_maps(model: onnx.ModelProto, analysed: AnalysedFile, plan: MapPlan) -> DeclaredMaps:
    """Adds the maps to a model, in place.

    Args:
        model: The model as it was read.
        analysed: What was found out about it.
        plan: What to add.

    Returns:
        What was added, which the model's metadata says too.
    """
    found, interface = analysed.found, analysed.found.interface
    declared = plan.declare(tuple(one.name for one in found.targets))
    check_names(model, declared)
    for target, cut in zip(found.targets, analysed.checked.cuts, strict=True):
        for method in plan.methods:
            check_cost(method, MapShape(*target.shape), cut.head, plan.most_passes)
    aliases = {
        f"camrt_tokens_{number}": one.name
        for number, one in enumerate(found.targets)
        if one.layout != "map" or one.mirrored
    }
    make = FileGraph(model, analysed.graph, interface, aliases)
    logits = make.floats(LOGITS)
    if declared.target is not None:
        shape = ["N", "T"] if declared.several else ["N"]
        model.graph.input.append(helper.make_tensor_value_info(TARGET, TensorProto.INT64, shape))
    targets, valid = choose_targets(make, logits, declared.target, declared.several)
    broken = not_finite(make, logits, [1])  # (N, 1)
    whole = ModelToCut(
        model=found.model, graph=analysed.graph, interface=interface, batch_size=1, threads=None
    )
    heads = [
        make_answers(
            whole,
            find_cut_tensors(whole, tensor, found.unfactored.get(number), splits_last_layer=False),
            cut.head,
            MapTensors(
                make=make,
                activation=make.floats(tensor),
                logits=logits,
                targets=targets,
                one_target=not declared.several,
                channels=target.shape[0],
                classes=interface.num_classes,
                cells=target.shape[1:] if interface.fixed_size else None,
                link=interface.inverse_link,
                has_logits=interface.joint is None,
            ),
        )
        for number, (tensor, target, cut) in enumerate(
            zip(found.tensors, found.targets, analysed.checked.cuts, strict=True)
        )
    ]
    spoilt = None
    if interface.element not in INTEGER_RANGES:
        sums = make.reduce_sum(make.tensor(IMAGES), [2, 3], keepdims=False)
        spoilt = not_finite(make, sums, [1])
    writer = OutputWriter(make, analysed, declared.several, valid, broken, spoilt)
    for method, outputs in zip(plan.methods, declared.maps, strict=True):
        writer.add(method, outputs, heads)
    make.finish()
    write_declared_maps(model, declared)
    return declared


def make_answers(whole: ModelToCut, cut: CutTensors, head: Head, tensors: MapTensors) -> HeadAnswers:
    """What answers about a head, as the engine's does."""
    if isinstance(head, CalmHead):
        return CalmAnswers(tensors, whole, cut)
    layer = find_class_rows(cut.factors)
    if layer is not None and isinstance(cut.factors, Factors):
        return ClassRowAnswers(tensors, whole, cut, cut.factors, layer)
    if isinstance(cut.factors, Factors) and whole.interface.joint is None:
        return FactoredAnswers(tensors, whole, cut, cut.factors)
    return HeadAnswers(tensors, whole, cut)


def check_names(model: onnx.ModelProto, declared: DeclaredMaps) -> None:
    """Refuses a model that has a tensor of the name of an input or output that is added."""
    used = {name for node in model.graph.node for name in node.output}
    used |= {value.name for value in (*model.graph.input, *model.graph.initializer)}
    for name in (declared.target, *declared.outputs):
        if name in used:
            raise InputError(f"the model has a tensor {name!r} already, which is what an added one is called")


def check_cost(method: Method, shape: MapShape, head: Head, most_passes: int) -> None:
    """Refuses a method that the head has not, or that needs too many passes."""
    cost = method.cost(head, shape)
    for passes, where in ((cost.head, "what follows the cut"), (cost.full, "the whole model")):
        if passes > most_passes:
            raise MethodError(
                f"{method.name}: needs {passes} passes an image through {where} ({cost.why}); at most "
                f"{most_passes} are allowed: raise most_passes= (--most-passes), or take another method"
            )


def convert(model: onnx.ModelProto, opset: int | None) -> onnx.ModelProto:
    """The model in an operator set.

    Raises:
        InputError: It is in a newer one.
    """
    current = version_of(model)
    if opset is None or opset == current:
        return model
    if opset < current:
        raise InputError(
            f"opset={opset}: the model is of operator set {current}, and is not brought to older ones"
        )
    return onnx.version_converter.convert_version(model, opset)


def serialise(model: onnx.ModelProto) -> bytes:
    """A file's bytes.

    Raises:
        ModelFileError: There would be too many.
    """
    if model.ByteSize() > MOST_BYTES:
        raise ModelFileError("the file would be larger than 2 GiB, which ONNX files cannot be")
    content: bytes = model.SerializeToString(deterministic=True)
    return content
