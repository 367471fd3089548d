"""What README.md and the pages show is run: their Python as it stands, their commands on stand-ins."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from markdown_it import MarkdownIt
from onnx import TensorProto, helper, numpy_helper
from onnx import save as save_model
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from helpers.annotated_images import COLOURS, draw_square
from helpers.calm_models import calm_model
from helpers.peer_libraries import import_peer, mend_torchvision

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for place in (".", "docs", "engine", "evaluation", "examples", "export", "kernels", "training")
    for path in (ROOT / place).glob("**/*.md" if place == "docs" else "*.md")
    if path.name != "CHANGELOG.md"
)
pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="the tests are not beside README.md"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(language: str) -> list[Block]:
    """All blocks in a language, in order."""
    found = []
    for document in DOCUMENTS:
        for token in MarkdownIt().parse((ROOT / document).read_text("utf-8")):
            if token.type == "fence" and token.info == language:
                assert token.map is not None
                found.append(Block(document, token.map[0] + 1, language, token.content))
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            if words := shlex.split(command, comments=True):
                yield words


SHELL = [(block, words) for block in blocks("sh") for words in commands(block)]
PYTHON = [
    block
    for block in blocks("python")
    if block.document != "docs/serving.md"  # asked of a service, by tests/engine/serving/test_document.py
]


# ---------------------------------------------------------------- stand-ins for what the documents name


def pooled_model(path: Path, classes: int, side: int | str) -> None:
    """A classifier of images: a convolution that sees colours, ReLU, mean, one linear layer."""
    rng = np.random.default_rng(5)
    trunk = rng.standard_normal((8, 3, 32, 32)) * 0.002
    weights = {"trunk": trunk, "shift": np.full(8, 0.1), "weight": rng.standard_normal((classes, 8))}
    nodes = [
        helper.make_node("Conv", ["input", "trunk", "shift"], ["convolved"], strides=[32, 32]),
        helper.make_node("Relu", ["convolved"], ["A"]),
        helper.make_node("GlobalAveragePool", ["A"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("Gemm", ["vector", "weight"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documents name."""
    folder = tmp_path_factory.mktemp("documents")
    rng = np.random.default_rng(1)
    pooled_model(folder / "resnet50.onnx", len(COLOURS), 224)
    (folder / "classes.txt").write_text("".join(f"{colour}\n" for colour in COLOURS))
    for number, colour in enumerate(COLOURS):
        (folder / "photos" / colour).mkdir(parents=True)
        for copy in range(3):
            image = Image.fromarray(draw_square(rng, number)[0])
            image.save(folder / "photos" / colour / f"{copy}.png")
    for name in ("cat.jpg", "dog.jpg"):
        Image.fromarray(draw_square(rng, 0)[0]).save(folder / name)
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------- Python


def module_and_example() -> dict[str, Any]:
    """What the blocks on torch modules start from."""
    torch = pytest.importorskip("torch", reason="the block is on a torch module")
    pytest.importorskip("onnxscript", reason="the block exports a torch module")
    torch.manual_seed(0)
    layers = {
        "layer3": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, 8), torch.nn.ReLU()),
        "layer4": torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, 2, 1), torch.nn.ReLU()),
        "pool": torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        "fc": torch.nn.Linear(8, 3),
    }
    module = torch.nn.Sequential()
    for name, layer in layers.items():
        module.add_module(name, layer)
    return {"module": module.eval(), "example": torch.zeros(2, 3, 224, 224), "names": list(COLOURS)}


def module_and_batch() -> dict[str, Any]:
    """What the page on other libraries starts from."""
    mend_torchvision()  # they import it
    names = module_and_example()
    return {"module": names["module"], "batch": names["example"].normal_()}


def written_rows() -> dict[str, Any]:
    """What the block on rows opens, as the command above it wrote it."""
    for module in ("pandas", "pyarrow"):
        pytest.importorskip(module, reason="the block needs the extra runs")
    arguments = "explain resnet50.onnx photos/ --preprocessing imagenet --write maps --out rows"
    assert CliRunner().invoke(app, arguments.split()).exit_code == 0
    return {}


def transformer_file(path: Path) -> None:
    """A vision transformer of 4×4 tokens."""
    models = import_peer("torchvision").models
    pytest.importorskip("onnxscript", reason="the page is on an exported transformer")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = models.VisionTransformer(32, 8, 3, 2, 16, 24, num_classes=5).eval()
    torch.nn.init.normal_(net.heads.head.weight)  # as it is made, it is zero
    camrt.to_onnx(net, torch.zeros(1, 3, 32, 32), path)


def calm_engine() -> dict[str, Any]:
    """What the block on CALM models starts from: as many classes as ImageNet has."""
    calm_model(classes=1000).save(Path("calm.onnx"), side=8)
    return {
        "engine": camrt.load("calm.onnx"),
        "batch": np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32),
    }


def evaluated_engine() -> dict[str, Any]:
    """What the block on evaluation starts from."""
    for module in ("matplotlib", "pyarrow", "skimage", "scipy"):
        pytest.importorskip(module, reason="the block needs the extra evaluate")
    engine = camrt.load("resnet50.onnx", preprocessing="imagenet", labels="classes.txt")
    maps = np.random.default_rng(0).random((2, 8, 8))
    boxes = [np.array([[1, 1, 5, 5]]), np.array([[0, 2, 4, 8]])]
    return {"engine": engine, "maps": maps, "boxes": boxes, "masks": [np.eye(8, dtype=np.uint8)] * 2}


def scans_file(path: Path) -> None:
    """A classifier of images of 240×240 pixels with one logit."""
    pooled_model(path, 1, 240)


def make_files(document: str) -> None:
    """The files that a page names."""
    text = (ROOT / document).read_text("utf-8")
    for name, make in FILES.items():
        if name in text:
            make(Path(name))


FILES = {"vit.onnx": transformer_file, "scans.onnx": scans_file}
"""Files that few pages name."""
BEFORE = {
    "module, example": module_and_example,
    "cam(input_tensor=batch": module_and_batch,
    'kind="counterfactual"': calm_engine,
    "engine.evaluate(": evaluated_engine,
    "camrt.open_run(": written_rows,
}
"""What stands before a block in its reader's program, by words of it."""


LIBRARIES = (
    "openvino",
    "pytorch_grad_cam",
    "torch",
    "torchcam",
    "captum",
    "pyarrow",
    "pandas",
    "datasets",
    "fastapi",
    "timm",
)
"""What a block may import that is not everywhere."""


@pytest.mark.parametrize("document", dict.fromkeys(block.document for block in PYTHON))
def test_python(document: str) -> None:
    """A document's blocks run one after the other, as its reader would run them."""
    names: dict[str, Any] = {"camrt": camrt}
    shown = [block for block in PYTHON if block.document == document]
    here = [block for block in shown if not re.search(r"cuda|tensorrt", block.text)]
    if not here:
        pytest.skip("the block needs a GPU")
    make_files(document)
    for block in here:
        for words, before in BEFORE.items():
            if words in block.text:
                names |= before()
        for library in LIBRARIES:
            if re.search(rf"^(import|from) {library}\b|=\"{library}\"", block.text, re.MULTILINE):
                pytest.importorskip(library)
        exec(compile("\n" * block.line + block.text, block.document, "exec"), names)
        for expression, shape in re.findall(r"^(\S+)  # \(([\d, ]+)\) ", block.text, re.MULTILINE):
            assert eval(expression, names).shape == tuple(map(int, shape.split(",")))


def test_the_tests_that_are_named_are_there() -> None:
    """docs/security.md names a test behind each promise."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/security.md").read_text("utf-8"))
    assert len(named) > 20
    for file, test in named:
        content = (ROOT / file).read_text("utf-8")
        assert not test or f"\ndef {test}(" in content, f"{file}::{test}"


MAPS = {"docs/architecture.md": "", "engine/README.md": "engine"}
"""Documents that say which file answers which question, and the folder that names are relative to."""


@pytest.mark.parametrize("document", MAPS)
def test_the_files_that_maps_of_the_house_name_are_there(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    named = {
        name
        for part in re.findall(
            r"`[^`\n]+`|^ .*\[\".*$", text, re.MULTILINE
        )  # in code, and in nodes of the picture
        for name in re.findall(r"[\w/]+\.(?:py|cpp)\b|\b\w+/(?:\w+\b)?", part)
    }
    assert len(named) > 20
    places = (ROOT / MAPS[document], ROOT)
    assert [name for name in sorted(named) if not any((place / name).exists() for place in places)] == []
    assert "```mermaid\nflowchart" in text


def test_there_are_blocks_to_run() -> None:
    assert {block.document for block in PYTHON} >= {"README.md", "docs/gpu.md", "docs/explaining.md"}
    assert {block.document for block, words in SHELL if words[0] == "camrt"} >= {
        "README.md",
        "docs/guides/calm.md",
    }


# ---------------------------------------------------------------- commands


QUICKLY = {
    "train": [
        *("--backbone", "tiny", "--size", "32", "--epochs", "1", "--batch-size", "2"),
        *("--set", "workers=0", "--accelerator", "cpu"),
    ],
    "evaluate": ["--limit", "2", "--step", "10000", "--examples", "1"],
    "axioms": [],
    "walls": ["--limit", "2"],
    "sanity": ["--limit", "2", "--stages", "1", "--methods", "pixab"],
}
"""Options that make a command quick, which the documents leave at what serves a reader."""
NEEDS = {
    "train": ("torch", "lightning"),
    "export": ("torch", "lightning", "onnxscript"),
    "evaluate": ("matplotlib", "pyarrow", "skimage", "scipy"),
    "reproduce": ("matplotlib", "pyarrow"),
}


@pytest.mark.parametrize(
    "words", [pytest.param(words, id=f"{block} {' '.join(words)}") for block, words in SHELL]
)
def test_a_command_is_understood(words: list[str]) -> None:
    """Files and modules that are run are there, and options of camrt exist and have such values."""
    if words[0] == "python":
        if words[1:2] == ["-m"] and words[2].startswith("camrt"):
            assert importlib.util.find_spec(words[2]) is not None
        elif words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file()
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file()
    elif words[0] == "cmake":
        presets = json.loads((ROOT / "CMakePresets.json").read_text("utf-8"))
        kind = "buildPresets" if "--build" in words else "configurePresets"
        assert words[words.index("--preset") + 1] in {preset["name"] for preset in presets[kind]}
    elif words[0] == "camrt":
        command, rest = typer.main.get_command(app), words[1:]
        context = command.make_context("camrt", list(rest), resilient_parsing=False)
        while hasattr(command, "commands"):
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, list(rest), parent=context)
    else:
        assert words[0] in ("pip", "pytest", "export", "cd", ".", "ray", "nsys") or "=" in words[0], words


READERS = ["README.md", "docs/cpu.md", "docs/explaining.md", "docs/scaling.md", "docs/tutorial.md"]
READERS += [document for document in DOCUMENTS if document.startswith("docs/guides/")]
"""Pages whose commands are run, in order; those of others need a cluster, a card, a data set or hours."""


@pytest.mark.parametrize("document", READERS)
def test_a_pages_commands_run_one_after_the_other(document: str) -> None:
    if importlib.util.find_spec("lightning") is not None:
        mend_torchvision()  # Lightning imports it
    make_files(document)
    for block, words in SHELL:
        if block.document != document or words[0] != "camrt":
            continue
        kind = words[1]
        needs = [*NEEDS.get(kind, ()), *(("openvino",) if "openvino" in words else ())]
        if any(importlib.util.find_spec(library) is None for library in needs):
            continue
        name = words[2] if kind == "evaluate" and words[2] in QUICKLY else kind
        quickly = [] if "--theory" in words else QUICKLY.get(name, [])
        result = CliRunner().invoke(app, [*words[1:], *quickly])
        assert result.exit_code == 0, f"{block}: {' '.join(words)}\n{result.output}\n{result.exception!r}"
        assert "problems with" not in result.output, result.output
