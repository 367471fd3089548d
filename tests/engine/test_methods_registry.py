from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import Method, make_method, methods
from camrt.engine.methods.cam import CAM, ActivationCAM
from camrt.engine.methods.eigen import EigenCAM, EigenGradCAM, KernelPCACAM
from camrt.engine.methods.gradients import GradCAMElementWise, GradCAMPlusPlus
from camrt.engine.methods.pixab import PixabCAM
from camrt.engine.methods.score import ScoreCAM
from camrt.errors import MethodError

SPELLINGS = {
    "cam": CAM,
    "CAM": CAM,
    "Cam": CAM,
    "activation": ActivationCAM,
    "Activation-CAM": ActivationCAM,
    "score": ScoreCAM,
    "SCORE": ScoreCAM,
    "scorecam": ScoreCAM,
    "Score-CAM": ScoreCAM,
    "score_cam": ScoreCAM,
    "Score CAM": ScoreCAM,
    "ScoreCAM": ScoreCAM,
    "Pixab_CAM": PixabCAM,
    "Pixab-CAM": PixabCAM,
    "eigen": EigenCAM,
    "EigenCAM": EigenCAM,
    "EigenGradCAM": EigenGradCAM,
    "KPCA_CAM": KernelPCACAM,
    "GradCAMPlusPlus": GradCAMPlusPlus,
    "GradCAMpp": GradCAMPlusPlus,
    "grad-cam++": GradCAMPlusPlus,
    "GradCAMElementWise": GradCAMElementWise,
    "gradcam-elementwise": GradCAMElementWise,
}


@pytest.mark.parametrize(("name", "method"), SPELLINGS.items())
def test_spellings(name: str, method: type[Method]) -> None:
    assert type(make_method(name, {})) is method


UNKNOWN: dict[str, tuple[Any, str]] = {
    "near": ("pixap", r"unknown method 'pixap'; did you mean 'pixab'\? \(methods: cam, calm, activation, "),
    "near-with-cam": ("Scor-CAM", r"unknown method 'Scor-CAM'; did you mean 'score'\?"),
    "far": ("zzz", r"unknown method 'zzz' \(methods: cam, calm, activation, eigen, score, ablation, pixab"),
    "empty": ("", r"unknown method '' \(methods"),
    "number": (3, r"unknown method 3 \(methods"),
    "nothing": (None, r"unknown method None \(methods"),
}


@pytest.mark.parametrize(("name", "text"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_methods(name: Any, text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method(name, {})


OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown": (
        "pixab",
        {"box": 2},
        r"pixab has no option 'box'; did you mean boxes=\?; its options are absolute, assignment, boxes, "
        "contrast, counterfactual, denominators, normalisation, perspectives, postprocess, rivals, score, "
        "smooth, strength$",
    ),
    "several-unknown": ("cam", {"z": 1, "a": 2}, "cam has no option 'a', 'z'; its options are"),
    "the-name": ("cam", {"name": "pixab"}, "cam has no option 'name'"),
    "another-s": ("eigen", {"score": "logit"}, "eigen has no option 'score'"),
    "postprocess": (
        "cam",
        {"postprocess": "none"},
        "cam: postprocess='none' is not understood; choose from ",
    ),
    "capitals": ("cam", {"normalisation": "MAX"}, "choose from 'max', 'minmax'"),
    "score": (
        "ablation",
        {"score": "logits"},
        "ablation: score='logits' is not understood; choose from 'logit', ",
    ),
    "no-score": ("ablation", {"score": None}, "ablation: score=None is not understood"),
    "optional-score": (
        "score",
        {"score": "logits"},
        "score: score='logits' is not understood; choose from 'logit', 'probability', None",
    ),
    "definition": ("score", {"definition": "gradcam"}, "choose from 'paper', 'grad-cam', 'torchcam'"),
    "denominators": (
        "pixab",
        {"denominators": "N4"},
        "denominators='N4' is not understood; choose from 'N1'",
    ),
    "assignment": ("pixab", {"assignment": "even"}, "choose from 'coverage', 'same', 'anchor'"),
    "perspectives": ("pixab", {"perspectives": "none"}, "choose from 'both', 'deletion', 'preservation'"),
    "unhashable": ("pixab", {"perspectives": ["both"]}, r"perspectives=\['both'\] is not understood"),
    "array": ("pixab", {"perspectives": np.array(["both", "x"])}, "is not understood"),
    "centred": ("eigen", {"centred": "no"}, "eigen: centred='no' must be True or False"),
    "centred-number": ("eigen", {"centred": 1}, "eigen: centred=1 must be True or False"),
    **{
        f"boxes-{name}": ("pixab", {"boxes": boxes}, r"boxes=.* must be one or more \(height, width\) pairs")
        for name, boxes in {
            "none": (),
            "nothing": None,
            "number": 2,
            "one-pair": (2, 2),
            "zero": ((0, 1),),
            "negative": ((1, 1), (1, -2)),
            "fraction": ((1.5, 1),),
            "text": ("12",),
            "three": ((1, 2, 3),),
        }.items()
    },
}


@pytest.mark.parametrize(("name", "options", "text"), OPTIONS.values(), ids=OPTIONS)
def test_bad_options(name: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method(name, options)


def test_a_method_object_is_taken_as_it_is() -> None:
    method = PixabCAM(boxes=((3, 3),))
    assert make_method(method, {}) is method
    with pytest.raises(
        MethodError, match=r"options \(score\) go into the method itself.*PixabCAM\(score=\.\.\.\)"
    ):
        make_method(method, {"score": "logit"})


@pytest.mark.parametrize("name", methods())
def test_methods_are_frozen_values(name: str) -> None:
    method = methods()[name]
    assert is_dataclass(method)
    assert method.name == name
    assert method() == make_method(name, {})
    assert hash(method()) == hash(make_method(name, {}))
    with pytest.raises(FrozenInstanceError):
        method().postprocess = "library"
    with pytest.raises(TypeError):
        method("native")  # type: ignore[misc]  # options are named
    assert repr(method()).startswith(method.__name__ + "(")
    assert {field.name for field in fields(method)} >= {"postprocess", "normalisation"}


def test_the_registry_cannot_be_changed_from_outside() -> None:
    camrt.methods().clear()
    assert "pixab" in camrt.methods()


def test_boxes_are_pairs_of_integers() -> None:
    method = PixabCAM(boxes=[[np.int64(1), 2], (3, 3)])
    assert method.boxes == ((1, 2), (3, 3))
    assert all(type(side) is int for shape in method.boxes for side in shape)
    assert method == PixabCAM(boxes=((1, 2), (3, 3)))
