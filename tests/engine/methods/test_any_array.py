"""Methods and scores give the same numbers for arrays of NumPy and of torch, and wait for no device."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from camrt.engine.arrays import clip_min, library
from camrt.engine.contrast import Contrast
from camrt.engine.images.framing import Framing
from camrt.engine.methods import make_method, methods
from camrt.engine.scores import ScoreReader, probabilities
from camrt.errors import TargetError
from helpers.few_passes import FEW_PASSES, PRODUCTS
from helpers.tolerances import assert_close

torch = pytest.importorskip("torch")

from helpers.gpu_sync_guard import forbid_gpu_sync  # noqa: E402

N, T, K, H, W, C = 3, 2, 6, 5, 4, 7
IMAGE = (3, 9, 7)


@dataclass
class Answers:
    """A stand-in for questions: whatever is asked, numbers drawn from the question's own seed."""

    put: Any
    flat: bool = False
    batch_size: int = 4
    threads: int | None = 1
    has_logits: bool = True
    runs: list[int] = field(default_factory=list)
    """How many rows each asking for gradients at the images had."""

    def drawn(self, seed: int, *shape: int) -> Any:
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    @property
    def framing(self):
        return Framing.whole(tuple(self.images.shape[2:]))

    @property
    def activations(self):
        maps = self.drawn(1, N, K, H, W)
        maps[0, 2] = 0.0
        maps[1, 1, 2, 3] = np.nan
        return self.put(maps)

    @property
    def targets(self):
        return self.put(np.random.default_rng(2).integers(0, C, (N, T)))

    def supported_kind(self, kind):
        return kind

    def scores(self, kind):
        own = np.abs(self.drawn(3, N, T))
        own[0, 0] = 0.0
        return self.put(own)

    def scores_of_zero_activation(self, kind):
        return self.put(np.abs(self.drawn(4, N, T)) / 9)

    def scores_without_channels(self, kind):
        return self.put(self.drawn(5, N, K, T))

    def scores_with_boxes(self, boxes, kind, *, delete, keep):
        pair = (self.drawn(6, N, len(boxes), T), self.drawn(7, N, len(boxes), T))
        return tuple(
            self.put(one) if wanted else None for one, wanted in zip(pair, (delete, keep), strict=True)
        )

    def gradients(self, kind):
        for target in range(T):
            made = self.put(
                self.drawn(8 + target, N, K, 1, 1) if self.flat else self.drawn(8 + target, N, K, H, W)
            )
            if self.flat:
                made = (
                    made.expand(N, K, H, W) if torch.is_tensor(made) else np.broadcast_to(made, (N, K, H, W))
                )
            yield made

    head = SimpleNamespace(gradient_passes=lambda: (1, "as of any head"))

    def gradients_and_curvatures(self, kind):
        for number, gradient in enumerate(self.gradients(kind)):
            yield gradient, self.put(self.drawn(40 + number, N, K, H, W))

    def relevance(self):
        yield from self.gradients("logit")

    def multipliers(self):
        yield from self.gradients("logit")

    def about(self, rows, owners):
        """Gradients and scores of every image that is asked about, which depend on it."""
        assert rows.shape == (owners.shape[0], *IMAGE)
        shift = library(rows).mean(rows, axis=(1, 2, 3))[:, None, None, None]
        return SimpleNamespace(
            activations=self.activations[owners] + shift,
            gradients=lambda kind: (one[owners] + shift for one in self.gradients(kind)),
            scores=lambda kind: self.scores(kind)[owners],
            scores_of_targets=lambda kind: self.scores(kind)[owners] + abs(shift[:, :, 0, 0]),
            framing=self.framing,
            threads=self.threads,
        )

    def scores_with_masks(self, masks, kind):
        assert masks.shape == (H * W, H, W)
        return self.put(self.drawn(54, N, len(masks), T))

    def full_gradients(self, target, kind, scaling):
        assert scaling in ("paper", "authors")
        return self.put(self.drawn(50 + target, N, *IMAGE)), self.put(self.drawn(52 + target, N, *IMAGE[1:]))

    def class_maps(self):
        return self.put(self.drawn(12, N, T, H, W))

    def scores_of_masked_images(self, kind, **_):
        return self.put(self.drawn(13, N, K, T))

    def scores_of_masked_copies(self, kind, count, make_masks, *, background=None, shared=True):
        """Scores that depend on every pixel of the masks, and on what hides."""
        pixels, own = self.put(self.drawn(22, IMAGE[1] * IMAGE[2])), self.put(self.drawn(23, N, 1, T))
        for start in range(0, count, self.batch_size):
            masks = make_masks(start, min(start + self.batch_size, count))
            xp = library(masks)
            assert masks.shape[-2:] == IMAGE[1:]
            assert masks.dtype == xp.float32
            assert masks.ndim == (3 if shared else 4)
            scores = (xp.reshape(masks, (*masks.shape[:-2], -1)) @ pixels)[..., None] * own
            yield start, masks, scores if background is None else scores + xp.mean(background)

    def scores_of_zero_image(self, kind):
        return self.put(self.drawn(14, N, T))

    @property
    def images(self):
        return self.put(self.drawn(15, N, *IMAGE))

    @property
    def logits(self):
        drawn = self.drawn(16, N, C)
        drawn[1, [2, 5]] = 9.0
        return self.put(drawn)

    @property
    def attention(self):
        """What is asked about the attention of a vision transformer."""

        def scores_of_kept_tokens(masks, kind):
            assert masks.shape == (H * W, H * W + 1)
            return self.put(self.drawn(35, N, H * W, T))

        def weights(fusion):
            return [self.put(np.abs(self.drawn(seed, N, H * W + 1, H * W + 1))) for seed in (30, 31, 32)]

        return SimpleNamespace(
            prefix=1,
            cells=(H, W),
            scores_of_kept_tokens=scores_of_kept_tokens,
            weights=weights,
            relevance=lambda target: self.put(np.abs(self.drawn(33 + target, N, H * W + 1))),
            to_cells=lambda numbers: library(numbers).reshape(numbers[:, 1:], (N, H, W)),
        )

    def log_joint(self):
        drawn = self.drawn(17, N, C, H, W) - 5
        drawn[0, 1, 2] = -np.inf
        return self.put(drawn)

    def image_gradients(self, rows, image, target, kind, *, relu="plain", extra_inputs=None):
        """A gradient that depends on everything it is asked for."""
        assert all(values.shape[0] == rows.shape[0] for values in (extra_inputs or {}).values())
        assert rows.shape == (image.shape[0], *IMAGE)
        assert rows.dtype == library(rows).float32
        self.runs.append(len(rows))
        slope, start = (self.put(self.drawn(seed + target, N, *IMAGE)) for seed in (18, 20))
        gradient = rows * slope[image] + start[image] * (1 if kind == "logit" else 2)
        return clip_min(gradient, 0.0) if relu == "guided" else gradient


METHODS = [
    ("cam", {}),
    ("activation", {}),
    ("eigen", {}),
    ("eigen", {"centred": False}),
    ("kpca", {}),
    ("kpca", {"kernel": "rbf", "gamma": 0.5}),
    ("kpca", {"kernel": "poly", "degree": 2}),
    ("kpca", {"kernel": "cosine"}),
    ("kpca", {"kernel": "linear"}),
    ("fem", {}),
    ("fem", {"definition": "grad-cam", "sigmas": 1}),
    ("random", {"seed": 3}),
    ("recipro", {}),
    ("recipro", {"gaussian": True, "score": "logit"}),
    ("gradcam", {}),
    ("gradcam++", {}),
    ("gradcam++", {"definition": "grad-cam"}),
    ("gradcam++", {"normalise_alpha": True}),
    ("xgradcam", {}),
    ("hirescam", {}),
    ("layercam", {}),
    ("gradcam-elementwise", {}),
    ("smoothgradcam++", {"draws": 3}),
    ("smoothgradcam++", {"definition": "torchcam", "draws": 2, "score": "probability", "noise": 1}),
    ("shapley", {}),
    ("lift", {}),
    ("relevance", {}),
    ("shapley", {"score": "probability"}),
    ("eigengradcam", {}),
    ("segeigen", {}),
    ("score", {}),
    ("score", {"definition": "torchcam"}),
    ("score", {"passes": 3}),
    ("rise", {"passes": 7, "cells": 3}),
    ("rise", {"passes": 7, "cells": 3, "definition": "openvino"}),
    ("occlusion", {}),
    ("lime", {"passes": 9, "cells": 2}),
    ("lime", {"passes": 5, "cells": 3, "baseline": 0.3, "ridge": np.float64(0.5)}),
    ("kernelshap", {"passes": 9, "cells": 3}),
    ("kernelshap", {"passes": 20, "cells": 2}),
    ("aise", {"passes": 12}),
    ("sscam", {"draws": 2}),
    ("sscam", {"draws": 2, "definition": "torchcam", "passes": 6}),
    ("iscam", {"draws": 3}),
    ("occlusion", {"window": (3, 2), "stride": 2, "baseline": 0.5, "definition": "captum"}),
    ("ablation", {}),
    ("pixab", {}),
    ("pixab", {"score": "logit", "assignment": "anchor", "boxes": ((2, 3),)}),
    ("pixab", {"perspectives": "preservation", "denominators": "N1"}),
    ("opticam", {"steps": 5}),
    ("opticam", {"steps": 2, "score": "probability", "learning_rate": np.float64(0.3)}),
    ("gradient", {"blur": 3}),
    ("gradient", {"score": "probability"}),
    ("integrated", {"steps": 3, "blur": 1}),
    ("integrated-textbook", {"steps": 4, "blur": 1}),
    ("smoothgrad", {"draws": 3, "blur": 1}),
    ("vargrad", {"draws": 5, "noise": np.float64(0.5), "seed": 2, "blur": 3}),
    ("gradient-times-input", {"colours": "sum"}),
    ("expected-gradients", {"draws": 3, "noise": 0.2}),
    ("expected-gradients", {"draws": 2, "references": np.ones((2, *IMAGE))}),
    ("blur-integrated", {"steps": 3, "blur": 1}),
    ("guided-integrated", {"steps": 3, "blur": 1}),
    ("rollout", {}),
    ("rollout", {"heads": "max", "discard": 0.5, "read": "mean"}),
    ("legrad", {}),
    ("vit-recipro", {}),
    ("vit-recipro", {"gaussian": False, "front": False, "score": "probability"}),
    ("deeplift", {"colours": "max"}),
    ("deeplift", {"references": np.ones((2, *IMAGE))}),
    ("lrp", {"rule": "composite", "epsilon": 0.1}),
    ("fullgrad", {}),
    ("fullgrad", {"definition": "authors", "blur": 3}),
    ("guided", {}),
    *((name, FEW_PASSES.get(name, {})) for name in PRODUCTS),
    ("sess-gradcam", {"scales": 2}),
    ("calm", {}),
    ("calm", {"kind": "conditional"}),
    ("calm", {"kind": "posterior"}),
    ("calm", {"kind": "saliency"}),
    ("calm", {"kind": "subset"}),
    ("calm", {"kind": "subset", "classes": "all", "average": True}),
    ("calm", {"kind": "subset", "classes": (1, 4), "average": True}),
    ("calm", {"kind": "counterfactual"}),
    ("calm", {"kind": "counterfactual", "against": np.int64(3)}),
]
"""Every method of the registry, see `test_every_method_is_here`."""

# Adam divides by the gradient's own size, so that rounding grows with every step.
LOOSER = {"opticam": 200, "guided-opticam": 200}


def test_every_method_is_here():
    assert {name for name, _ in METHODS} == set(methods())


@pytest.mark.parametrize("flat", [False, True], ids=["gradients of their own", "one gradient a channel"])
@pytest.mark.parametrize(("name", "options"), METHODS, ids=str)
def test_methods(name, options, flat):
    method = make_method(name, options)
    with np.errstate(all="ignore"):
        ours, own = method.raw(Answers(np.asarray, flat))
        theirs, scores = method.raw(Answers(torch.from_numpy, flat))
    assert torch.is_tensor(theirs)
    assert torch.is_tensor(scores)
    assert theirs.dtype == torch.float32
    assert ours.dtype == np.float32
    assert_close(theirs.numpy(), ours, np.float32, factor=LOOSER.get(name, 8))
    assert_close(scores.numpy(), own, np.float32)


@pytest.mark.parametrize("put", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 99])
@pytest.mark.parametrize(
    "name",
    ["integrated", "integrated-textbook", "smoothgrad", "vargrad", "expected-gradients", "blur-integrated"],
)
def test_images_are_altered_in_full_batches(name, batch_size, put):
    options = {"draws": 5} if name in ("smoothgrad", "vargrad", "expected-gradients") else {"steps": 4}
    method = make_method(name, options)
    ask = Answers(put, batch_size=batch_size)
    maps, _ = method.raw(ask)
    runs = [min(batch_size, 5 * N - start) for start in range(0, 5 * N, batch_size)]
    assert ask.runs == runs * T
    one, _ = method.raw(Answers(put, batch_size=1))
    assert_close(np.asarray(maps), np.asarray(one), np.float32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        case
        for case in METHODS
        if methods()[case[0]].sums_channels and not hasattr(methods()[case[0]], "wrapper")
    ],
    ids=str,
)
def test_products_sum_to_the_map(name, options):
    method, ask = make_method(name, options), Answers(np.asarray)
    with np.errstate(all="ignore"):
        maps, scores = method.raw(ask)
        products, again = method.weighted_activations(ask)
        summed = np.stack([product.sum(axis=1) for product in products], axis=1)
    assert_close(summed, maps, np.float32, factor=8)
    assert np.array_equal(again, scores)


def test_classes_out_of_range_are_told_from_what_the_host_knows():
    for options in ({"kind": "subset", "classes": (C,)}, {"kind": "counterfactual", "against": C}):
        with forbid_gpu_sync(), pytest.raises(TargetError, match="is out of range"):
            make_method("calm", options).raw(Answers(shapes_alone))


def shapes_alone(values):
    """A tensor without numbers: to look at one, or to mix it with tensors elsewhere, is an error."""
    return torch.empty(values.shape, dtype=torch.from_numpy(values).dtype, device="meta")


EIGENVECTORS = "aten._linalg_eigh.default"
BY_EIGENVECTORS = {"eigen", "kpca", "eigengradcam", "segeigen"}
BY_EIGENVECTORS |= {name for name, map_ in PRODUCTS.items() if map_ in BY_EIGENVECTORS}
SENT = {"smoothgrad", "vargrad", "smoothgradcam++", "expected-gradients"}
SENT |= {"rise", "lime", "kernelshap", "sscam"}
"""Methods that send what they drew, for which tensors without numbers have no way that does not wait."""
UNSEEN = [
    (name, options)
    for name, options in METHODS
    if not name.startswith(("guided-", "sess-"))  # there is no kernel for tensors without numbers,
    and name not in SENT
    and "references" not in options  # which are sent at each call
]


@pytest.mark.parametrize(
    ("name", "options", "put"),
    [(*case, torch.from_numpy) for case in METHODS if case[0] != "aise"]  # its search looks at values
    + [(*case, shapes_alone) for case in UNSEEN if case[0] != "aise"],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_no_method_waits(name, options, put):
    """Tensors on the CPU run every line; those without numbers show that all lie in one place too."""
    method = make_method(name, options)
    for flat in (False, True):
        expected, _ = method.raw(Answers(put, flat))  # constants are copied once
        if name in BY_EIGENVECTORS:
            with forbid_gpu_sync(), pytest.raises(AssertionError, match=EIGENVECTORS):
                method.raw(Answers(put, flat))
        with forbid_gpu_sync(allowed=(EIGENVECTORS,)):
            maps, scores = method.raw(Answers(put, flat))
        assert maps.shape == expected.shape
        assert maps.device == scores.device == expected.device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("name", "options"), METHODS, ids=str)
def test_methods_on_a_gpu(name, options):
    if name.startswith(("guided-", "sess-")):
        pytest.importorskip("triton")
    method, put = make_method(name, options), cached(lambda values: torch.from_numpy(values).to("cuda"))
    with np.errstate(all="ignore"):
        expected, _ = method.raw(Answers(np.asarray))
    method.raw(Answers(put))
    torch.cuda.set_sync_debug_mode("default" if name in BY_EIGENVECTORS else "error")  # as its docstring says
    try:
        maps, _ = method.raw(Answers(put))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close(maps.cpu().numpy(), expected, np.float32, factor=5 * LOOSER.get(name, 8))


def cached(put):
    """What is asked for again is not sent again."""
    kept = {}

    def get(values):
        key = (values.tobytes(), values.shape, values.dtype)
        if key not in kept:
            kept[key] = put(values)
        return kept[key]

    return get


tensor = torch.arange(6.0)
WAITS = [
    ("aten._local_scalar_dense", tensor.sum().item),
    ("aten._local_scalar_dense", lambda: bool((tensor > 2).any())),
    ("aten._local_scalar_dense", lambda: [0, 1][(tensor > 2).any()]),
    ("aten.equal", lambda: torch.equal(tensor, tensor)),
    ("aten.nonzero", lambda: torch.nonzero(tensor)),
    ("aten.masked_select", lambda: torch.masked_select(tensor, tensor > 2)),
    ("aten.index.Tensor waits for a GPU: a mask", lambda: tensor[tensor > 2]),
    ("aten.index_put_.default waits for a GPU: a mask", lambda: tensor.clone().__setitem__(tensor > 2, 0.0)),
    ("aten._unique2", lambda: torch.unique(tensor)),
    ("aten.repeat_interleave", lambda: torch.repeat_interleave(tensor, torch.ones(6, dtype=torch.int64))),
    ("aten._linalg_eigh", lambda: torch.linalg.eigh(torch.eye(3))),
    ("Tensor.__array__", lambda: np.asarray(tensor)),
    ("Tensor.tolist", tensor.tolist),
    ("Tensor.cpu", tensor.cpu),
    ("torch's tensor", lambda: torch.tensor(1.0)),
    ("torch's asarray", lambda: torch.asarray(np.ones(3), device="meta")),
    ("torch's new_tensor", lambda: tensor.new_tensor(1.0)),
    ("aten._to_copy.default waits for a GPU: it copies from cpu to meta", lambda: tensor.to("meta")),
    ("aten.copy_.default", lambda: torch.empty(6, device="meta").copy_(tensor)),
    ("an index of the host's numbers", lambda: tensor[[0, 2]]),
    ("an index of the host's numbers", lambda: tensor[None, np.array([0, 2])]),
]


# Names must be the same in every worker: a function's own has its address in it.
@pytest.mark.parametrize(("words", "wait"), WAITS, ids=[f"{i}-{words}" for i, (words, _) in enumerate(WAITS)])
def test_what_waits_is_refused(words, wait):
    wait()
    with forbid_gpu_sync(), pytest.raises(AssertionError, match=words):
        wait()


def test_what_does_not_wait_is_not_refused():
    places = torch.tensor([1, 2])
    one = torch.tensor(1.0)
    with forbid_gpu_sync():
        assert tensor[places].shape == (2,)
        assert torch.where(tensor > 2, tensor, one).shape == (6,)
        tensor.clone()[places] = 0.0
        tensor.to("meta", non_blocking=True)
        tensor.to(torch.float64)
        torch.repeat_interleave(tensor, 2)
        torch.asarray(tensor)
        torch.zeros(3), torch.arange(3), torch.full((2,), 1.0), torch.from_numpy(np.ones(2))
    assert tensor.tolist() == [0, 1, 2, 3, 4, 5]


CONTRASTS = {
    "none": Contrast(),
    "classes": Contrast((1, 2), 0.5),
    "similar": Contrast("similar", 0.6, 2),
    "weighted": Contrast("similar-weighted", negated=True),
}


@pytest.mark.parametrize("kind", ["logit", "probability"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=CONTRASTS)
def test_scores(kind, activation, contrast):
    rng = np.random.default_rng(0)
    logits = (20 * rng.standard_normal((N, C))).astype(np.float32)
    targets, image = rng.integers(0, C, (N, T)), np.array([2, 0, 1])
    there, rows, chosen = map(torch.from_numpy, (logits, image, targets))
    ours = ScoreReader(targets, kind, activation, contrast.find_rivals(targets, logits))
    contrast.find_rivals(chosen, there)  # constants are copied once
    with forbid_gpu_sync():
        theirs = ScoreReader(chosen, kind, activation, contrast.find_rivals(chosen, there))
        read = theirs.read(there, rows)
    assert_close(read.numpy(), ours.read(logits, image))
    for target in range(T):
        found = theirs.weighting(there, rows, target).numpy()
        assert_close(found, ours.weighting(logits, image, target))
    assert_close(probabilities(there, activation).numpy(), probabilities(logits, activation))
