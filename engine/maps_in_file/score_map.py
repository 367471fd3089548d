"""Score-CAM: the model is run under the mask of each channel in turn, in an ONNX `Loop`."""

from __future__ import annotations

from onnx import TensorProto, helper

from camrt.engine.maps_in_file.file_graph import FileGraph
from camrt.engine.maps_in_file.finishing import sampling_matrix
from camrt.engine.maps_in_file.head_answers import HeadAnswers
from camrt.engine.maps_in_file.map_tensors import ScoreWriter
from camrt.engine.methods.score import ScoreCAM
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError
from camrt.export.rewrites.input_form import IMAGES
from camrt.kernels.resampling import axis_table

__all__ = ["score_map"]

EPSILON = 1e-8  # added to the range of a mask, but for the paper's


def score_map(answers: HeadAnswers, method: ScoreCAM) -> str:
    """Channels weighted by the scores of the image under their masks."""
    tensors, make = answers.tensors, answers.make
    if method.passes is not None:
        raise MethodError("score: passes= is not written into files, which score every channel")
    if answers.moves_pixels:
        raise MethodError("score: the file moves its images' pixels itself, for which no masks are written")
    paper = method.definition == "paper"
    kind = method.score or ("probability" if paper and tensors.link != "none" else "logit")
    low, high = (
        make.reduce(one, tensors.activation, [2, 3], keepdims=False) for one in ("ReduceMin", "ReduceMax")
    )
    constant = make.unsqueeze(make.add("Equal", low, high), [1])  # (N, 1, K)
    masked = scores_under_masks(answers, method, kind)
    baseline = make.unsqueeze(score_of_zeros(answers, kind), [2])
    zero = make.number(0.0)
    if paper:
        weights = make.add("Sub", masked, baseline)
    else:
        weights = make.add("Softmax", make.add("Where", constant, baseline, masked), axis=2)
    return tensors.weighted_sum(make.add("Where", constant, zero, weights))


def score_of_zeros(answers: HeadAnswers, kind: ScoreKind) -> str:
    """(N, T): the scores of an image of zeros."""
    tensors, make = answers.tensors, answers.make
    images = make.tensor(IMAGES)
    sizes = make.shape_of(images)
    if answers.interface.batch is None:
        sizes = make.concat([make.indices([1]), make.sizes(images, 1, 4)], 0)
    logits = make.add("Expand", answers.run_model(make.zeros(sizes)), make.shape_of(tensors.logits))
    return ScoreWriter(tensors, kind).read(logits, 2)


def scores_under_masks(answers: HeadAnswers, method: ScoreCAM, kind: ScoreKind) -> str:
    """(N, T, K): the scores of the image times each channel, brought to its size and to [0, 1]."""
    tensors, make = answers.tensors, answers.make
    images = make.tensor(IMAGES)
    number, going, goes_on, row = (make.new_name() for _ in range(4))
    size = make.concat([tensors.images, make.indices([1]), make.sizes(images, 2, 4)], 0)
    with make.inner_nodes() as nodes:
        channel = make.add("Gather", tensors.activation, make.reshape(number, [1]), axis=1)
        if method.definition == "torchcam":
            mask = resized(answers, normalised(make, channel, EPSILON), size, align_corners=False)
        else:
            large = resized(answers, channel, size, align_corners=method.definition == "grad-cam")
            mask = normalised(make, large, 0.0 if method.definition == "paper" else EPSILON)
        logits = answers.run_model(make.add("Mul", images, mask))
        scores = ScoreWriter(tensors, kind).read(logits, 2)
        make.add_node("Identity", [scores], [row])
        make.add_node("Identity", [going], [goes_on])
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        nodes,
        "mask",
        [value(number, TensorProto.INT64, []), value(going, TensorProto.BOOL, [])],
        [value(goes_on, TensorProto.BOOL, []), value(row, TensorProto.FLOAT, None)],
    )
    stacked = make.add("Loop", make.constant(tensors.channels), make.constant(True), body=body)
    return make.transpose(stacked, [1, 2, 0])


def normalised(make: FileGraph, mask: str, epsilon: float) -> str:
    """Masks (N, 1, h, w) brought to [0, 1]; a constant one, or one that is not finite, is zeros."""
    low, high = (make.reduce(one, mask, [2, 3], keepdims=True) for one in ("ReduceMin", "ReduceMax"))
    span = make.add("Sub", high, low)
    fine = make.add(
        "And", make.add("Greater", span, make.number(0.0)), make.add("Not", make.add("IsInf", span))
    )
    below = make.add("Where", fine, make.add("Add", span, make.number(epsilon)), make.number(1.0))
    return make.add("Where", fine, make.add("Div", make.add("Sub", mask, low), below), make.number(0.0))


def resized(answers: HeadAnswers, mask: str, size: str, *, align_corners: bool) -> str:
    """Masks (N, 1, h, w) at the images' size [N, 1, H, W]."""
    make, cells, interface = answers.make, answers.tensors.cells, answers.interface
    if cells is None or interface.height is None or interface.width is None:
        mode = "align_corners" if align_corners else "half_pixel"
        return make.add("Resize", mask, "", "", size, mode="linear", coordinate_transformation_mode=mode)
    down, across = (
        sampling_matrix(axis_table(few, many, align_corners), few)
        for few, many in zip(cells, (interface.height, interface.width), strict=True)
    )
    return make.add("MatMul", make.constant(down), make.add("MatMul", mask, make.constant(across.T)))
