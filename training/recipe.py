"""Everything a training run is asked to do, as one value that can be written down and read back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, Self, get_args, get_type_hints

from camrt.errors import InputError
from camrt.export.io.atomic_files import write_atomic
from camrt.export.io.text_files import read_text_file

__all__ = ["RECIPES", "Recipe"]

RunHead = Literal["cam", "calm-ml", "calm-em"]

MAX_BYTES: Final = 1 << 20  # of a file of settings

RECIPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "paper-cub": {"lr": 3e-5},
    "paper-openimages": {"lr": 5e-5},
    "paper-imagenet": {"lr": 7e-5},
    "wsol-cub": {"lr": 3e-5, "batch_size": 32, "epochs": 50, "step_every": 15},
    "wsol-openimages": {
        "lr": 5e-5,
        "batch_size": 32,
        "epochs": 10,
        "step_every": 3,
        "weight_decay": 5e-4,
    },
    "wsol-imagenet": {"lr": 7e-5, "batch_size": 32, "epochs": 10, "step_every": 3},
    "scratch": {
        "lr": 0.05,
        "new_layer_factor": 1.0,
        "batch_size": 64,
        "epochs": 30,
        "schedule": "cosine",
        "warmup": 1,
        "size": 64,
        "canvas": 72,
        "map_stride": None,
    },
}
"""Named settings: the paper's, which differ in their learning rate; those of the WSOL benchmark, which the
paper's localisation runs are of, but for the learning rate, which it searches; and one without pretrained
weights."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a run; the defaults are those of "Keep CALM and Improve Visual Feature Attribution".

    (Specification A6: supplement C of the paper for the learning rates, the released code for what the paper
    leaves open.)

    Attributes:
        head: "cam"; or "calm-ml" or "calm-em", CALM trained by marginal likelihood or
            expectation-maximisation.
        backbone: "small" or "tiny", networks of ours for a machine without a GPU; "resnet50", "vgg16",
            "vgg16_bn" or "inception_v3" as in the paper; "torchvision:NAME" or "timm:NAME".
        pretrained: "none"; "imagenet", torchvision's or timm's own weights; or a file of weights for the
            trunk: .safetensors, or another run, whose head is dropped.
        map_stride: Pixels of the image that a cell of the map stands for; None leaves the backbone's own.
        size: Side of the images the network takes.
        canvas: Side that images are squashed to before a part of `size` is cut out.
        epochs: How many times each image is shown.
        batch_size: Images a step, of one process.
        lr: Base learning rate of SGD, for what was trained before.
        new_layer_factor: What new layers' learning rate is of the base.
        groups: How new layers are told, see `camrt.training.ParameterGroups`.
        momentum: SGD's.
        nesterov: SGD's.
        weight_decay: SGD's.
        schedule: "step" multiplies the learning rate by `step_factor` at the start of epoch `step_every` and
            its multiples, counting from 1; "cosine" takes it to zero; "constant" leaves it.
        step_every: See there.
        step_factor: See there.
        warmup: Epochs over which the learning rate rises from zero.
        gradient_clip: Largest norm of the gradient; 0 does not clip.
        reference_calm: The released code's form of the CALM head, see `CALMHead`.
        teacher_decay: For "calm-em", an extension: the posterior comes from an exponential moving average of
            the weights with this decay a step; 0 takes the current weights, as the paper does.
        validation_share: Share of each class that is held out, where the data has no folder for it.
        patience: Epochs without a better validation loss after which training ends; 0 never ends early.
        keep: Which epoch's weights the run leaves: "best", that with the smallest validation loss, or "last".
        seed: Of weights, order, views and dropout.
        precision: Lightning's, such as "32-true", "16-mixed", "bf16-mixed".
        workers: Processes that read images.
        checkpoint_steps: Steps between checkpoints, beside that after each epoch; 0 for none.
    """

    head: RunHead = "calm-em"
    backbone: str = "resnet50"
    pretrained: str = "none"
    map_stride: int | None = 8
    size: int = 224
    canvas: int = 256
    epochs: int = 40
    batch_size: int = 64
    lr: float = 7e-5
    new_layer_factor: float = 10.0
    groups: Literal["pretrained", "reference"] = "pretrained"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    step_every: int = 30
    step_factor: float = 0.1
    warmup: int = 0
    gradient_clip: float = 0.0
    reference_calm: bool = False
    teacher_decay: float = 0.0
    validation_share: float = 0.1
    patience: int = 0
    keep: Literal["best", "last"] = "best"
    seed: int = 0
    precision: str = "32-true"
    workers: int = 2
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = check_setting(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        least = {"size": 1, "canvas": self.size, "epochs": 1, "batch_size": 1, "step_every": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name}={getattr(self, name)} must be at least {low}")
        for name in (
            "lr", "new_layer_factor", "momentum", "weight_decay", "step_factor", "warmup", "gradient_clip",
            "teacher_decay", "validation_share", "patience", "seed", "workers", "checkpoint_steps",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must not be negative, and finite")
        for name in ("teacher_decay", "validation_share", "momentum"):
            if getattr(self, name) >= 1:
                raise InputError(f"{name}={getattr(self, name)} must be below 1")
        if self.nesterov and not self.momentum:
            object.__setattr__(self, "nesterov", False)
        if self.teacher_decay and self.head != "calm-em":
            raise InputError(f"teacher_decay is for head 'calm-em', not {self.head!r}")
        if self.reference_calm and self.head == "cam":
            raise InputError("reference_calm is for CALM heads, not for 'cam'")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """A recipe from settings by name; `recipe` may name one of `RECIPES`, which the others change.

        Without it, a network without pretrained weights gets "scratch", any other "paper-imagenet".

        Raises:
            InputError: An unknown setting, or one of the wrong type or out of range.
        """
        given = dict(settings)
        name = given.pop("recipe", None)
        if name is None:
            name = "paper-imagenet" if given.get("pretrained", "none") != "none" else "scratch"
        if name not in RECIPES:
            raise InputError(f"recipe {name!r} is not known; there are {', '.join(RECIPES)}")
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [str(key) for key in given if key not in known]:
            raise InputError(
                f"unknown setting {', '.join(map(repr, unknown))}; there are recipe, {', '.join(known)}"
            )
        return cls(**{**RECIPES[name], **given})

    @classmethod
    def read(cls, path: Path, changes: Mapping[str, Any]) -> Self:
        """A recipe from a YAML file, with some settings changed.

        Raises:
            InputError: The file cannot be read, is no mapping, or as `of` says.
        """
        import yaml

        try:
            content = yaml.safe_load(read_text_file(path, MAX_BYTES))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise InputError(f"{path} cannot be read as YAML: {error}") from error
        if not isinstance(content, dict):
            raise InputError(f"{path} must hold settings by name, 'lr: 0.01' and so on")
        return cls.from_settings({**content, **changes})

    def write(self, path: Path) -> None:
        """Writes the settings, all of them, as YAML that `read` takes."""
        import yaml

        write_atomic(path, yaml.safe_dump(dataclasses.asdict(self), sort_keys=False).encode())

    def lr_factor(self, step: int, steps: int) -> float:
        """What the learning rate is of its base in a step.

        Args:
            step: Steps before it.
            steps: Steps an epoch.
        """
        epoch = step / steps
        if epoch < self.warmup:
            return (step + 1) / (self.warmup * steps)
        if self.schedule == "step":
            return float(self.step_factor ** ((int(epoch) + 1) // self.step_every))
        if self.schedule == "cosine":
            return 0.5 + 0.5 * math.cos(math.pi * (epoch - self.warmup) / max(self.epochs - self.warmup, 1))
        return 1.0


def check_setting(name: str, value: Any, hint: Any) -> Any:
    """A setting's value, if it is of its type; whole numbers stand for real ones.

    Raises:
        InputError: It is not.
    """
    choices = get_args(hint) if hint is not None else ()
    if choices and NoneType in choices:
        if value is None:
            return None
        hint = next(kind for kind in choices if kind is not NoneType)
        choices = ()
    if choices:
        if value not in choices:
            raise InputError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{name}={value!r} must be of type {hint.__name__}")
    return value
