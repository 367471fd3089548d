"""The gallery of docs/gallery.md: every method on four photographs and three kinds of networks.

    python -m experiments.gallery PHOTOGRAPHS --cnn mobilenet_v2.onnx --cnn-labels classes.txt

PHOTOGRAPHS is a folder of those named in `SHOWN`, and others that the transformer learns beside them. Maps
are kept in `--work`, and a run that was cut off goes on where it was; drawing is done again each time.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from PIL import Image

import camrt
from camrt.engine.option_text import parse_options, split_method
from camrt.errors import CamrtError
from camrt.export.io.atomic_files import write_atomic
from experiments.photograph_transformer import train_transformer

__all__ = ["FAMILIES", "main"]

SHOWN: Final = ("cat", "coffee", "pizza", "taxis")
SIDE: Final = 480
TILE: Final = 190
FAMILIES: Final[Mapping[str, Mapping[str, str]]] = {
    "Deleting and keeping": {
        "pixab": "boxes of cells deleted and kept",
        "recipro": "nothing but one cell kept",
        "ablation": "one channel removed",
        "vit-recipro": "one cell's tokens kept, in a transformer's last block",
        "score:passes=256": "the image seen through each channel",
        "iscam:passes=16": "the same, integrated along the mask",
        "sscam:passes=16:draws=8": "the same under noise",
    },
    "The class's own map": {"cam": "classifiers that pool", "calm": "CALM models"},
    "Gradients at a layer": {
        "gradcam": "channels by their mean gradient",
        "gradcam++": "by their positive gradients",
        "xgradcam": "by gradients averaged with the activation as weight",
        "hirescam": "every place by its own gradient",
        "layercam": "by its own positive gradient",
        "gradcam-elementwise": "products rectified before they are summed",
        "smoothgradcam++": "at noisy copies",
        "shapley": "less half of how the gradient bends",
        "lift": "by what channels add, as DeepLIFT shares it out",
        "relevance": "by what LRP hands back to channels",
        "eigengradcam": "the first principal direction of gradient times activation",
        "segeigen": "of the gradient's magnitude times activation",
        "sess-gradcam": "Grad-CAM of sliding windows, fused",
        "opticam": "the weights under which the masked image scores highest",
    },
    "Without a class": {
        "activation": "the sum of the channels",
        "eigen": "their first principal direction",
        "kpca": "that of a kernel PCA",
        "fem": "where channels are rare and strong",
        "random": "channels at random: what a method has to be better than",
    },
    "Transformers' attention": {
        "rollout": "attention multiplied through the layers",
        "legrad": "what the class gains by attention",
    },
    "Masks over the image": {
        "rise:passes=500": "random masks",
        "occlusion": "a window hidden",
        "lime:passes=500": "a linear model of parts",
        "kernelshap:passes=500": "Shapley values of parts",
        "aise": "a bell of light",
    },
    "Pixels": {
        "gradient": "the plain gradient",
        "smoothgrad": "its mean under noise",
        "vargrad": "its variance under noise",
        "gradient-times-input": "times the image",
        "integrated-textbook": "integrated from an image of zeros",
        "integrated": "as CALM's code has it",
        "expected-gradients": "from several references",
        "blur-integrated": "from a blurred image",
        "guided-integrated": "along the least steep way",
        "deeplift": "differences from a reference, shared out",
        "lrp": "the logit handed back, layer by layer",
        "fullgrad": "with the biases of every layer",
        "guided": "positive gradients alone",
        "guided-gradcam": "times Grad-CAM's map",
    },
}
"""What is shown, in which order, and a few words on each."""


@dataclass(frozen=True)
class Network:
    """A classifier of the gallery, and how its page calls it."""

    name: str
    title: str
    engine: camrt.Engine


def square(image: Image.Image) -> Image.Image:
    """The middle of an image, as large as the gallery wants it."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    part = image.convert("RGB").crop((left, top, left + side, top + side))
    return part.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def explain(
    network: Network, method: str, images: list[Image.Image], kept: Path
) -> camrt.Explanation[Any] | None:
    """The explanations of the images, made once; None where the model does not admit the method."""
    if not kept.exists():
        name, *options = split_method(method)
        try:
            found = network.engine.explain(images, name, **parse_options(options))
        except CamrtError as refusal:
            write_atomic(kept.with_suffix(".txt"), str(refusal).encode())
            return None
        found.save(kept)
    return camrt.Explanation.load(kept)


def draw_strip(found: camrt.Explanation[Any], images: list[Image.Image]) -> bytes:
    """The overlays side by side, as WebP."""
    strip = Image.new("RGBA", ((TILE + 6) * len(images) - 6, TILE))
    for number, image in enumerate(images):
        overlay = found.overlay(number, image=image.resize((2 * TILE, 2 * TILE)))
        strip.paste(overlay.resize((TILE, TILE), Image.Resampling.LANCZOS), ((TILE + 6) * number, 0))
    file = io.BytesIO()
    strip.save(file, "WEBP", quality=55)
    return file.getvalue()


def main(
    photographs: Path,
    cnn: Annotated[Path, typer.Option(help="A convolutional classifier with preprocessing tf.")],
    cnn_labels: Annotated[Path, typer.Option(help="Its classes.")],
    out: Annotated[Path, typer.Option(help="The folder of documents.")] = Path("docs"),
    work: Annotated[Path, typer.Option(help="Where maps are kept.")] = Path("build/gallery"),
) -> None:
    """Make the gallery's pictures and its page."""
    everything = {path.stem: Image.open(path).convert("RGB") for path in sorted(photographs.glob("*.jpg"))}
    work.mkdir(parents=True, exist_ok=True)
    transformer = work / "transformer.onnx"
    if not transformer.exists():
        train_transformer(everything, transformer)
    networks = [
        Network("cnn", "MobileNetV2", camrt.load(cnn, preprocessing="tf", labels=cnn_labels)),
        Network("vit", "the transformer", camrt.load(transformer)),
        Network("calm", "the embedded CALM model", camrt.load("default")),
    ]
    images = [square(everything[name]) for name in SHOWN]
    pictures = out / "gallery"
    pictures.mkdir(parents=True, exist_ok=True)
    pages = [introduce(networks, images)]
    for family, methods in FAMILIES.items():
        pages.append(f"\n## {family}")
        for method, words in methods.items():
            pages.append(show_method(method, words, networks, images, work, pictures))
    write_atomic(out / "gallery.md", ("\n".join(pages) + "\n").encode())


def introduce(networks: list[Network], images: list[Image.Image]) -> str:
    """How the page begins: what it shows, and what the networks predict."""
    rows = []
    for network in networks:
        found = network.engine.explain(images, "activation")
        said = (f"{found.label(i).split(' ', 1)[-1]} {found.answer(i)}" for i in range(len(images)))
        rows.append(f"| {network.title} | {' | '.join(said)} |")
    return "\n".join([INTRODUCTION, *rows])


def show_method(
    method: str,
    words: str,
    networks: list[Network],
    images: list[Image.Image],
    work: Path,
    pictures: Path,
) -> str:
    """A method's part of the page; makes its pictures."""
    name, *options = split_method(method)
    note = f" ({', '.join(options)})" if options else ""
    lines = [f"\n### `{name}`\n\n{words[0].upper()}{words[1:]}{note}.\n"]
    for network in networks:
        kept = work / network.name / name / "explanation.npz"
        kept.parent.mkdir(parents=True, exist_ok=True)
        found = explain(network, method, images, kept)
        typer.echo(f"{network.name} {method}: {'not of this model' if found is None else 'drawn'}")
        if found is not None:
            file = f"{network.name}-{name.replace('+', 'p')}.webp"
            write_atomic(pictures / file, draw_strip(found, images))
            title = network.title.removeprefix("the ")
            lines.append(f"{title[0].upper()}{title[1:]}:\n\n![{name} of {network.title}](gallery/{file})\n")
    return "\n".join(lines)


INTRODUCTION: Final = """# Gallery

Every method on the same four photographs, for the class that each network predicts: MobileNetV2 (ImageNet),
a small vision transformer that was trained for some minutes on parts of these photographs and knows nothing
else, and the embedded CALM model. A picture shows what a map looks like and proves nothing:
[which explanation to trust](guides/evaluation.md) is measured. A network that is not shown for a method does
not admit it. The photographs are CC0, from Pexels by way of the samples of
[MAX-ResNet-50](https://github.com/IBM/MAX-ResNet-50) and
[MAX-Inception-ResNet-v2](https://github.com/IBM/MAX-Inception-ResNet-v2).

| predicted | cat | coffee | pizza | taxis |
| --- | --- | --- | --- | --- |"""

if __name__ == "__main__":
    typer.run(main)
