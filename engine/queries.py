"""The four questions, bound to one batch: what methods ask and heads answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

from camrt.engine.arrays import (
    arange_like,
    concat,
    library,
    repeat,
    zeros,
)
from camrt.engine.attention import NO_ATTENTION, AttentionGraphs
from camrt.engine.attention_queries import AttentionQueries
from camrt.engine.contrast import Rivals
from camrt.engine.heads.base import Boxes, Head, Masks, QueryContext
from camrt.engine.images.framing import Framing
from camrt.engine.masked_channels import ChannelMasking, run_masked_channels
from camrt.engine.masked_copies import run_masked_copies
from camrt.engine.nan_rows import fill_nan_rows, find_nan_rows
from camrt.engine.passes import PassCounts
from camrt.engine.runtime import Runner
from camrt.engine.scores import ScoreKind, ScoreReader
from camrt.errors import MethodError
from camrt.export.adjoint import BIAS_MAP, GRADIENT, WEIGHTING, BackwardRule, BiasScaling
from camrt.export.heads.cut import ACTIVATION, JOINT
from camrt.export.outputs.output_form import InverseLink
from camrt.export.rewrites.interface import LOGITS

__all__ = ["NO_JOINT", "NO_PROBABILITIES", "HeadQueries", "Need"]

NO_PROBABILITIES = (
    "this model's answers are plain numbers (activation='none'), which have no probabilities: ask for "
    "score='logit', which is the number itself, or load it with activation='softmax' or 'sigmoid'"
)
NO_WEIGHTED = (
    "contrast='similar-weighted' weights classes by their logits, and these scores are probabilities: ask "
    "for score='logit' where the model has logits, or for contrast='similar'"
)
NO_GRAPH = (
    "DeepLIFT and LRP are rules for the operators of an ONNX file, and this is a torch module: write its "
    "file with camrt.to_onnx(module, example, 'model.onnx'), and load that"
)
NO_JOINT = (
    "needs a CALM model, whose file holds log p(y,z|x): train one with camrt train --head calm-em, and write "
    "its file with camrt export"
)

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


class Need(Enum):
    """What a method must declare that it asks for, since the pass through the trunk has to fetch it."""

    PIXELS = "maps on the image's own grid of H×W pixels, wherever the model is cut"
    JOINT = "p(y,z|x) of a CALM model, which has a grid of its own"
    ALTERATIONS = "what follows the cut's answers to altered activations, or class maps"
    GRADIENTS = "gradients of the score with respect to the activation"
    ATTENTION = "attention weights of a vision transformer"


@dataclass(frozen=True, kw_only=True)
class HeadQueries:
    """What a method may ask about a batch. All arrays lie where the engine computes.

    Attributes:
        images: (N, C, H, W) float32, as the model takes them.
        activations: (N, K, h, w) float32 at the cut.
        logits: (N, C) float32.
        targets: (N, T) target classes.
        activation: How logits become probabilities.
        has_logits: False for a CALM model, whose scores are probabilities p(y|x) and never anything else.
        head: What answers questions about altered activations.
        model: Graph images -> logits.
        logits_output: Name of that graph's logits.
        adjoints: Graphs images, weighting -> gradient with respect to the images, by their rule.
        batch_size: Rows a batch.
        threads: Threads of the native kernels; None lets them choose.
        passes: Where passes are counted.
        extras: Further tensors of the trunk pass.
        framing: The images' (H, W), and the part of them that maps show.
        needs: What the method has declared; it can ask for no more.
        run_trunk: Other images (B, C, H, W) -> the activation, the logits and `extras` of them, by name.
        rivals: What the targets' scores are held against, in every answer; None where they are their own.
        attention_graphs: The attention of a vision transformer; None of a torch module.
    """

    images: Array
    activations: Array
    logits: Array
    targets: Array
    activation: InverseLink
    has_logits: bool
    head: Head
    model: Runner
    logits_output: str
    adjoints: Mapping[BackwardRule, Runner]
    batch_size: int
    threads: int | None
    passes: PassCounts
    extras: dict[str, Array]
    framing: Framing
    needs: frozenset[Need]
    run_trunk: Callable[[Array], dict[str, Array]]
    rivals: Rivals | None = None
    attention_graphs: AttentionGraphs | None = None

    def require(self, need: Need) -> None:
        """Refuses a question that the method has not declared.

        Raises:
            MethodError: It has not.
        """
        if need not in self.needs:
            raise MethodError(f"the method asks for {need.value}: add {need} to the `needs` of its class")

    def for_target(self, target: int) -> HeadQueries:
        """The same questions about target number `target` alone."""
        return replace(
            self,
            targets=self.targets[:, target : target + 1],
            rivals=None if self.rivals is None else self.rivals.for_target(target),
        )

    def about(self, rows: Array, batch_index: Array) -> HeadQueries:
        """The same questions about other images, for a pass each through the whole model.

        Args:
            rows: (B, C, H, W), no more than are run at once.
            batch_index: (B,) the image each of them comes from, whose targets are meant.
        """
        self.passes.full += len(rows)
        found = self.run_trunk(rows)
        return replace(
            self,
            images=rows,
            activations=found.pop(ACTIVATION),
            logits=found.pop(LOGITS),
            extras=found,
            targets=self.targets[batch_index],
            rivals=None if self.rivals is None else self.rivals.for_images(batch_index),
        )

    def scores(self, kind: ScoreKind) -> Array:
        """(N, T): the scores of the images as they are."""
        return self._mixed(self._context(kind).scores)

    def scores_of_targets(self, kind: ScoreKind) -> Array:
        """(N, T): the targets' own scores, whatever they are held against."""
        return replace(self, rivals=None).scores(kind)

    def scores_without_channels(self, kind: ScoreKind) -> Array:
        """(N, K, T): the scores with channel k of the activation set to zero."""
        self.require(Need.ALTERATIONS)
        return self._mixed(self.head.scores_without_channels(self._context(kind)))

    def scores_with_boxes(
        self, boxes: Boxes, kind: ScoreKind, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        """(N, P, T) twice: with each box of cells set to zero, and with nothing but the box kept."""
        self.require(Need.ALTERATIONS)
        deleted, kept = self.head.scores_with_boxes(self._context(kind), boxes, delete=delete, keep=keep)
        return (
            None if deleted is None else self._mixed(deleted),
            None if kept is None else self._mixed(kept),
        )

    def scores_with_masks(self, masks: Masks, kind: ScoreKind) -> Array:
        """(N, P, T): the scores with the activation's cells, in all channels, times each mask (P, h, w)."""
        self.require(Need.ALTERATIONS)
        return self._mixed(self.head.scores_with_masks(self._context(kind), masks))

    def scores_of_zero_activation(self, kind: ScoreKind) -> Array:
        """(N, T): the scores of an all-zero activation."""
        self.require(Need.ALTERATIONS)
        return self._mixed(self.head.scores_of_zero_activation(self._context(kind)))

    def gradients(self, kind: ScoreKind) -> Iterator[Array]:
        """For each target in turn (N, K, h, w): the gradient of its score with respect to the activation.

        NaN for images whose logits are not finite. The arrays may be read-only.

        Raises:
            AdjointError: An operator behind the cut has no derivative, or camrt has no rule for it.
        """
        self.require(Need.GRADIENTS)
        broken = find_nan_rows(self.logits)
        for gradient in self.head.gradients(replace(self._context(kind), reader=self._reader(kind))):
            yield fill_nan_rows(gradient, broken)

    def gradients_and_curvatures(self, kind: ScoreKind) -> Iterator[tuple[Array, Array]]:
        """For each target in turn the gradient of its score, and the score's Hessian times the activation.

        Both are (N, K, h, w), and NaN for images whose logits are not finite.

        Raises:
            AdjointError: An operator behind the cut has no second derivative, or camrt has no rule for it.
        """
        self.require(Need.GRADIENTS)
        broken = find_nan_rows(self.logits)
        if self.head.curvature is None:
            raise MethodError(
                f"second derivatives of the head of this model ({self.head.kind}) are not taken"
            )
        context = replace(self._context(kind), reader=self._reader(kind))
        for gradient, product in self.head.curvature(context):
            yield fill_nan_rows(gradient, broken), fill_nan_rows(product, broken)

    def multipliers(self) -> Iterator[Array]:
        """For each target in turn (N, K, h, w): DeepLIFT's multipliers of its logit against no activation.

        NaN for images whose logits are not finite.

        Raises:
            AdjointError: An operator behind the cut has no rule.
        """
        yield from self._handed_back(self.head.multipliers, "DeepLIFT")

    def relevance(self) -> Iterator[Array]:
        """For each target in turn (N, K, h, w): LRP's relevance of its logit, held against other classes'.

        NaN for images whose logits are not finite.

        Raises:
            AdjointError: An operator behind the cut has no rule.
        """
        yield from self._handed_back(self.head.relevance, "LRP")

    def _handed_back(
        self, ask: Callable[[QueryContext], Iterator[Array]] | None, name: str
    ) -> Iterator[Array]:
        self.require(Need.GRADIENTS)
        if ask is None:
            raise MethodError(
                f"{name}'s rule is of graphs, and the head is {self.head.kind}: write the module's file with "
                "camrt.to_onnx, and explain that"
            )
        broken = find_nan_rows(self.logits)
        for found in ask(replace(self._context("logit"), reader=self._reader("logit"))):
            yield fill_nan_rows(found, broken)

    def image_gradients(
        self,
        rows: Array,
        batch_index: Array,
        target: int,
        kind: ScoreKind,
        *,
        relu: BackwardRule = "plain",
        extra_inputs: Mapping[str, Array] | None = None,
    ) -> Array:
        """(B, C, H, W): the gradient of the score of target number `target` with respect to altered images.

        They are run in batches of `batch_size`; a probability needs a pass more for its softmax. NaN where
        the gradient's logits are not finite.

        Args:
            rows: (B, C, H, W) altered images.
            batch_index: (B,) the image each of them comes from, whose target is meant.
            target: Column of `targets`.
            kind: Logit or probability.
            relu: How ReLUs pass gradients on, or another rule for all nodes, see `camrt.export.adjoint`.
            extra_inputs: What such a rule takes beside images, a row each.

        Raises:
            AdjointError: An operator of the model has no derivative, or camrt has no rule for it.
            MethodError: The model is no ONNX file, whose graph alone has such rules.
        """
        reader = self._reader(kind)
        if relu not in self.adjoints:
            raise MethodError(NO_GRAPH)
        parts = []
        for start in range(0, len(rows), self.batch_size):
            block, owners = (
                rows[start : start + self.batch_size],
                batch_index[start : start + self.batch_size],
            )
            if reader.is_linear:
                logits = zeros((len(block), self.logits.shape[1]), self.logits)  # any: it is linear in them
            else:
                self.passes.full += len(block)
                logits = self.model(block, [self.logits_output])[0]
            feeds = {WEIGHTING: reader.weighting(logits, owners, target)}
            for name, values in (extra_inputs or {}).items():
                feeds[name] = values[start : start + self.batch_size]
            self.passes.full_adjoint += len(block)
            found, gradient = self.adjoints[relu](block, [self.logits_output, GRADIENT], feeds)
            parts.append(fill_nan_rows(gradient, find_nan_rows(found)))
        return concat(parts)

    def full_gradients(self, target: int, kind: ScoreKind, scaling: BiasScaling) -> tuple[Array, Array]:
        """The gradient (N, C, H, W) of the score of target number `target`, and what biases make (N, H, W).

        NaN where the logits are not finite.

        Raises:
            AdjointError: An operator of the model has no derivative, or camrt has no rule for it.
        """
        batch_index = arange_like(len(self.images), self.images)
        weighting = self._reader(kind).weighting(self.logits, batch_index, target)
        self.passes.full_adjoint += len(self.images)
        outputs = [self.logits_output, GRADIENT, BIAS_MAP]
        found, gradient, of_biases = self.adjoints[scaling](self.images, outputs, {WEIGHTING: weighting})
        broken = find_nan_rows(found)
        return fill_nan_rows(gradient, broken), fill_nan_rows(of_biases, broken)

    @property
    def attention(self) -> AttentionQueries:
        """What is asked about the attention of a vision transformer.

        Raises:
            MethodError: It is none, or a torch module.
        """
        self.require(Need.ATTENTION)
        if self.attention_graphs is None:
            raise MethodError(f"the method {NO_ATTENTION}")
        return AttentionQueries(
            graphs=self.attention_graphs,
            images=self.images,
            logits=self.logits,
            logits_output=self.logits_output,
            has_logits=self.has_logits,
            batch_size=self.batch_size,
            passes=self.passes,
            make_reader=self._reader,
            mix=self._mixed,
        )

    def class_maps(self) -> Array:
        """(N, T, h, w): the targets' class maps.

        Raises:
            MethodError: The head is not a linear layer behind global pooling.
        """
        self.require(Need.ALTERATIONS)
        context = self._context("logit")
        maps = self.head.class_maps(context)
        if maps is None:
            raise MethodError(
                "'cam' needs a linear layer behind global pooling, and this model's head is "
                f"{self.head.kind}; 'pixab' and 'ablation' work on any head"
            )
        return maps if self.rivals is None else self.rivals.mix_maps(maps, context.scores)

    def scores_of_masked_images(
        self,
        kind: ScoreKind,
        *,
        order: Literal["upsample-first", "normalise-first"],
        align_corners: bool,
        epsilon: float,
        maps: Array | None = None,
        alter: Callable[[Array, Array], None] | None = None,
    ) -> Array:
        """Scores of the images masked by each channel of the activation, upsampled and normalised.

        Args:
            kind: Logit or probability.
            order: Whether a mask is upsampled or normalised first, see `masked_batch`.
            align_corners: How it is upsampled.
            epsilon: Added to the range that it is divided by.
            maps: (N, K, h, w) what masks in place of the activation's channels.
            alter: Changes masked images in place before they are run, given them and the image each is of.

        Returns:
            (N, K, T); of a constant channel, whose mask is nowhere, zero, found without a pass where values
            are seen.
        """
        return run_masked_channels(
            self.images,
            self.activations if maps is None else maps,
            ChannelMasking(order, align_corners, epsilon, self.framing, self.threads),
            alter=alter,
            targets=self.targets.shape[1],
            batch_size=self.batch_size,
            run=self._row_scores(kind),
            rows=self.model.allocate_rows,
        )

    def scores_of_masked_copies(
        self,
        kind: ScoreKind,
        count: int,
        make_masks: Callable[[int, int], Array],
        *,
        background: Array | None = None,
        shared: bool = True,
    ) -> Iterator[tuple[int, Array, Array]]:
        """Scores of copies of each image under masks of any kind, see `run_masked_copies`.

        Args:
            kind: Logit or probability.
            count: Number of masks.
            make_masks: Masks from a number to before another: (M, H, W) float32, or (N, M, H, W).
            background: What shows where a mask is 0, (N, C, H, W); None for zeros.
            shared: Whether all images have the same masks.

        Yields:
            The number of a block's first mask, its masks, and their scores (N, M, T).
        """
        yield from run_masked_copies(
            self.images,
            count,
            make_masks,
            background=background,
            shared=shared,
            targets=self.targets.shape[1],
            batch_size=self.batch_size,
            run=self._row_scores(kind),
            rows=self.model.allocate_rows,
        )

    def _row_scores(self, kind: ScoreKind) -> Callable[[Array, Array], Array]:
        """What runs altered images, given the image that each is of, and reads their scores (B, T)."""
        reader = self._reader(kind)

        def run(rows: Array, batch_index: Array) -> Array:
            self.passes.full += len(rows)
            return reader.read(self.model(rows, [self.logits_output])[0], batch_index)

        return run

    def scores_of_zero_image(self, kind: ScoreKind) -> Array:
        """(N, T): the scores of an image of zeros, in the model's input space; one pass for them all."""
        self.passes.full += 1
        xp, count = library(self.images), len(self.images)
        logits = self.model(xp.zeros_like(self.images[:1]), [self.logits_output])[0]
        return self._reader(kind).read(repeat(logits, count, axis=0), arange_like(count, logits))

    def log_joint(self) -> Array:
        """(N, C, h, w): log p(y,z|x) of a CALM model.

        Raises:
            MethodError: It is none.
        """
        self.require(Need.JOINT)
        if JOINT not in self.extras:
            raise MethodError(f"'calm' {NO_JOINT}")
        return self.extras[JOINT]

    def supported_kind(self, kind: ScoreKind) -> ScoreKind:
        """A kind of score where the model has it: a logit in place of a probability of plain numbers."""
        return "logit" if self.activation == "none" else kind

    def _reader(self, kind: ScoreKind) -> ScoreReader:
        if kind == "probability" and self.activation == "none":
            raise MethodError(NO_PROBABILITIES)
        kind = kind if self.has_logits else "probability"
        if kind == "probability" and self.rivals is not None and self.rivals.weighted:
            raise MethodError(NO_WEIGHTED)
        return ScoreReader(self.targets, kind, self.activation, self.rivals)

    def _mixed(self, scores: Array) -> Array:
        """Scores (..., T) of what a head answers for every class that takes part in them."""
        return scores if self.rivals is None else self.rivals.mix(scores)

    def _context(self, kind: ScoreKind) -> QueryContext:
        """What a head is asked with: for every class that takes part in a score, as for targets."""
        return QueryContext(
            self.activations, self.logits, self._reader(kind).one_by_one, self.passes, self.extras
        )
