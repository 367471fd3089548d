"""Methods and scores give the same numbers for arrays of NumPy and of torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tolerances import assert_close

from camrt.engine.methods import build
from camrt.engine.scores import ScoreReader, probabilities

torch = pytest.importorskip("torch")

N, T, K, H, W, C = 3, 2, 6, 5, 4, 7


@dataclass
class Answers:
    """A stand-in for questions: whatever is asked, numbers drawn from the question's own seed."""

    put: Any
    flat: bool

    def drawn(self, seed: int, *shape: int) -> Any:
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    @property
    def activations(self):
        maps = self.drawn(1, N, K, H, W)
        maps[0, 2] = 0.0
        maps[1, 1, 2, 3] = np.nan
        return self.put(maps)

    @property
    def targets(self):
        return self.put(np.random.default_rng(2).integers(0, C, (N, T)))

    def scores(self, kind):
        own = np.abs(self.drawn(3, N, T))
        own[0, 0] = 0.0
        return self.put(own)

    def scores_of_nothing(self, kind):
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

    def class_maps(self):
        return self.put(self.drawn(12, N, T, H, W))

    def scores_of_masked(self, kind, **_):
        constant = np.zeros((N, K), bool)
        constant[0, 2] = True
        return self.put(self.drawn(13, N, K, T)), self.put(constant)

    def scores_of_empty_picture(self, kind):
        return self.put(self.drawn(14, N, T))


METHODS = [
    ("cam", {}),
    ("activation", {}),
    ("eigen", {}),
    ("eigen", {"centred": False}),
    ("gradcam", {}),
    ("gradcam++", {}),
    ("gradcam++", {"definition": "grad-cam"}),
    ("gradcam++", {"normalise_alpha": True}),
    ("xgradcam", {}),
    ("hirescam", {}),
    ("layercam", {}),
    ("score", {}),
    ("score", {"definition": "torchcam"}),
    ("ablation", {}),
    ("pixab", {}),
    ("pixab", {"score": "logit", "assignment": "anchor", "boxes": ((2, 3),)}),
    ("pixab", {"perspectives": "preservation", "denominators": "N1"}),
]


@pytest.mark.parametrize("flat", [False, True], ids=["gradients of their own", "one gradient a channel"])
@pytest.mark.parametrize(("name", "options"), METHODS, ids=str)
def test_methods(name, options, flat):
    method = build(name, options)
    with np.errstate(all="ignore"):
        ours, own = method.raw(Answers(np.asarray, flat))
        theirs, scores = method.raw(Answers(torch.from_numpy, flat))
    assert torch.is_tensor(theirs)
    assert torch.is_tensor(scores)
    assert_close(theirs.numpy(), ours, np.float32, factor=8)
    assert_close(scores.numpy(), own, np.float32)


@pytest.mark.parametrize("kind", ["logit", "probability"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_scores(kind, activation):
    rng = np.random.default_rng(0)
    logits = (20 * rng.standard_normal((N, C))).astype(np.float32)
    targets, image = rng.integers(0, C, (N, T)), np.array([2, 0, 1])
    ours = ScoreReader(targets, kind, activation)
    theirs = ScoreReader(torch.from_numpy(targets), kind, activation)
    there, rows = torch.from_numpy(logits), torch.from_numpy(image)
    assert_close(theirs.read(there, rows).numpy(), ours.read(logits, image))
    for target in range(T):
        found = theirs.weighting(there, rows, target).numpy()
        assert_close(found, ours.weighting(logits, image, target))
    assert_close(probabilities(there, activation).numpy(), probabilities(logits, activation))
