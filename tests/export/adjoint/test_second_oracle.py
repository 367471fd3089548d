"""The adjoint against another implementation of the same idea: the onnx-ad package, fixed batches only."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from camrt.export.adjoint import GRADIENT, WEIGHTING, build_adjoint_model
from camrt.export.graph.index import Graph, set_shape
from camrt.export.heads.cut import build_head_model
from camrt.export.rewrites.interface import LOGITS, standardise
from helpers.oracles.classifiers import HEADS, classifier
from helpers.tolerances import assert_close

pytestmark = pytest.mark.peers
onnx_ad = pytest.importorskip("onnx_ad")
COUNT, CHANNELS, CELLS = 3, 3, (4, 5)


@pytest.mark.parametrize("name", HEADS)
def test_the_same_gradient(name):
    small = classifier(name, cells=CELLS, channels=CHANNELS)
    model = onnx.ModelProto()
    model.CopyFrom(small.model)
    graph = Graph(model, standardise(model).probe_shape(COUNT))
    head = build_head_model(model, graph, "activation", LOGITS, input_name="map", batch=COUNT)
    set_shape(head.graph.input[0], [COUNT, CHANNELS, *CELLS])
    classes = graph.shape(LOGITS)[1]
    set_shape(head.graph.output[0], [COUNT, classes])
    theirs = onnx_ad.reverse(onnx.shape_inference.infer_shapes(head))
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((COUNT, CHANNELS, *CELLS), np.float32)
    weighting = rng.standard_normal((COUNT, classes), np.float32)
    ours = run(build_adjoint_model(model, graph, "activation", input_name="map", batch=COUNT),
               [GRADIENT], {"map": maps, WEIGHTING: weighting})[0]  # fmt: skip
    seed, output = (next(value.name for value in values if value.name.startswith("adj_"))
                    for values in (theirs.graph.input, theirs.graph.output))  # fmt: skip
    feeds = {"map": maps, seed: weighting}
    found = run(
        theirs,
        [output],
        {name: feeds[name] for name in (v.name for v in theirs.graph.input) if name in feeds},
    )
    # one column a seed, the tensor's numbers in row-major order
    assert_close(ours.reshape(-1), found[0][:, 0], np.float32, factor=8)


def run(model, names, feeds):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shapes = {value.name: value.shape for value in session.get_inputs()}
    for name, shape in shapes.items():
        if name not in feeds:  # the logits of the forward pass, which it does not read
            feeds[name] = np.zeros([size if isinstance(size, int) else 1 for size in shape], np.float32)
    return session.run(names, feeds)
