"""What methods ask about the attention of a vision transformer, bound to one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from camrt.engine.arrays import all_index_pairs, arange_like, concat, constant_like, library
from camrt.engine.attention import AttentionGraphs
from camrt.engine.heads.base import Masks
from camrt.engine.nan_rows import fill_nan_rows, find_nan_rows
from camrt.engine.passes import PassCounts
from camrt.engine.scores import ScoreKind, ScoreReader
from camrt.errors import MethodError
from camrt.export.adjoint import GRADIENT, WEIGHTING
from camrt.export.adjoint.attention_weights import HeadFusion
from camrt.export.heads.kept_tokens import KEPT

__all__ = ["AttentionQueries"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class AttentionQueries:
    """What a method may ask; see `camrt.engine.queries.HeadQueries`, which makes it.

    Attributes:
        graphs: The model's graphs of attention.
        images: (N, C, H, W).
        logits: (N, C).
        logits_output: Name of the graphs' logits.
        has_logits: False for a CALM model.
        batch_size: Rows a batch.
        passes: Where passes are counted.
        make_reader: What reads the targets' scores of a kind off logits.
        mix: Scores as they are held against rivals.
    """

    graphs: AttentionGraphs
    images: Array
    logits: Array
    logits_output: str
    has_logits: bool
    batch_size: int
    passes: PassCounts
    make_reader: Callable[[ScoreKind], ScoreReader]
    mix: Callable[[Array], Array]

    @property
    def prefix(self) -> int:
        """Tokens in front that belong to no cell."""
        return self.graphs.prefix

    @property
    def cells(self) -> tuple[int, int]:
        """(h, w) of the other tokens."""
        return self.graphs.cells

    def weights(self, fusion: HeadFusion) -> list[Array]:
        """For each layer (N, L, L): the weights with which tokens attend to tokens, heads taken together."""
        self.passes.full += len(self.images)
        return self.graphs.weights[fusion](self.images)

    def relevance(self, target: int) -> Array:
        """(N, L): LeGrad's relevance of the tokens for target number `target`."""
        reader = self.make_reader("logit")
        if not self.has_logits or not reader.is_linear:
            raise MethodError(
                "attention's gradients are those of logits: ask for no contrast that weights them"
            )
        every = arange_like(len(self.images), self.images)
        weighting = reader.weighting(self.logits, every, target)
        self.passes.full_adjoint += len(self.images)
        logits, relevance = self.graphs.relevance(
            self.images, [self.logits_output, GRADIENT], {WEIGHTING: weighting}
        )
        return fill_nan_rows(relevance, find_nan_rows(logits))

    def scores_of_kept_tokens(self, masks: Masks, kind: ScoreKind) -> Array:
        """(N, M, T): the scores when of the last block's tokens so much is kept, masks (M, L)."""
        reader, count = self.make_reader(kind), len(masks)
        (tokens,) = self.graphs.tokens(self.images)
        self.passes.full += len(self.images)
        listed = constant_like(masks, tokens)
        owners, places = all_index_pairs(len(tokens), count, tokens)
        parts = []
        for start in range(0, len(owners), self.batch_size):
            of_image, place = (index[start : start + self.batch_size] for index in (owners, places))
            self.passes.head += len(place)
            (logits,) = self.graphs.kept(tokens[of_image], None, {KEPT: listed[place][:, :, None]})
            parts.append(reader.read(logits, of_image))
        answers = concat(parts)
        return self.mix(library(answers).reshape(answers, (len(tokens), count, -1)))

    def to_cells(self, numbers: Array) -> Array:
        """Numbers (N, L) of tokens as a map (N, h, w), without those of tokens that belong to no cell."""
        found = numbers[:, self.prefix :]
        return library(found).reshape(found, (len(found), *self.cells))
