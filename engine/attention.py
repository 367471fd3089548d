"""A vision transformer's attention weights and their gradients: graphs made ready when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import onnx

from camrt.engine.head_making import ModelToCut
from camrt.engine.runtime import Backend, Runner
from camrt.engine.runtime.lazy_runner import LazyRunner
from camrt.errors import MethodError
from camrt.export.adjoint.attention_weights import (
    HeadFusion,
    build_attention_model,
    build_relevance_model,
    find_attention,
    spell_out_attention,
)
from camrt.export.graph.index import Graph
from camrt.export.heads.cut import TargetTensor
from camrt.export.heads.kept_tokens import (
    build_kept_tokens_model,
    build_tokens_model,
    find_block_tokens,
)

__all__ = ["NO_ATTENTION", "AttentionGraphs"]

NO_ATTENTION = (
    "reads attention weights off the graph of an ONNX file, and this is a torch module: write its file with "
    "camrt.to_onnx(module, example, 'model.onnx'), and load that"
)


class AttentionGraphs:
    """The attention of a vision transformer that is cut at tokens.

    Args:
        whole: The model.
        target: Where it is cut.
        runtime: What makes graphs ready to run.

    Attributes:
        prefix: Tokens in front that belong to no cell.
        cells: (h, w) of the others.
    """

    def __init__(self, whole: ModelToCut, target: TargetTensor, runtime: Backend) -> None:
        self._whole = whole
        self._runtime = runtime
        self._layout, self._name = target.layout, target.name
        self.prefix = target.prefix
        self.cells = target.shape[1:]

        def lazy(fusion: HeadFusion) -> Runner:
            return LazyRunner(lambda: self._make(lambda: self._build_weights(fusion), "attention weights"))

        self.weights: dict[HeadFusion, Runner] = {
            "mean": lazy("mean"),
            "max": lazy("max"),
            "min": lazy("min"),
        }
        self.tokens: Runner = LazyRunner(lambda: self._make(self._build_tokens, "tokens of the last block"))
        self.kept: Runner = LazyRunner(lambda: self._make(self._build_kept, "model behind its tokens"))
        self.relevance: Runner = LazyRunner(
            lambda: self._make(self._build_relevance, "attention's gradients")
        )

    def check_layout(self) -> None:
        """Refuses a cut at anything but tokens.

        Raises:
            MethodError: It is one.
        """
        if self._layout != "tokens":
            raise MethodError(
                "reads the attention weights of a vision transformer, and this model is cut at a map, not at "
                "tokens: 'gradcam' and 'pixab' explain it"
            )

    @cached_property
    def _spelled(self) -> tuple[onnx.ModelProto, Graph]:
        """The model without nodes that keep their attention weights to themselves, and its index."""
        return spell_out_attention(self._whole.model, self._whole.graph)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The attention weights, layer by layer.

        Raises:
            MethodError: There are none of all tokens.
        """
        self.check_layout()
        tokens = self.prefix + self.cells[0] * self.cells[1]
        found = tuple(find_attention(self._spelled[1], tokens))
        if not found:
            raise MethodError(
                f"no attention weights among all {tokens} tokens of an image are in this file's graph, a "
                f"softmax of {tokens}×{tokens} numbers: 'gradcam' and 'pixab' explain it"
            )
        return found

    def _make(self, build: Callable[[], onnx.ModelProto], label: str) -> Runner:
        return self._runtime.make_runner(build(), label=label, batch=self._whole.interface.batch)

    @cached_property
    def _block(self) -> str:
        """The tokens that a block reads: where the model is cut, or before its last attention."""
        return find_block_tokens(self._spelled[1], self._name, self.layers[-1])

    def _build_tokens(self) -> onnx.ModelProto:
        return build_tokens_model(self._whole.model, self._block)

    def _build_kept(self) -> onnx.ModelProto:
        whole = self._whole
        return build_kept_tokens_model(whole.model, whole.graph, self._block, whole.interface.batch)

    def _build_weights(self, fusion: HeadFusion) -> onnx.ModelProto:
        return build_attention_model(*self._spelled, self.layers, fusion)

    def _build_relevance(self) -> onnx.ModelProto:
        return build_relevance_model(
            *self._spelled,
            self.layers,
            batch=self._whole.interface.batch,
            supports_scatter_add=self._runtime.supports_scatter_add,
        )
