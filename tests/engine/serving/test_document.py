"""docs/serving.md, word for word, asked of a service; and what deploy/ has for KServe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
import yaml
from markdown_it import MarkdownIt
from PIL import Image

import camrt
from camrt.cli.main import app
from camrt.default import model_path, scene_path
from helpers.served import Served, serve

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "serving.md"
pytestmark = [
    pytest.mark.skipif(not DOCUMENT.exists(), reason="the tests are not beside README.md"),
    pytest.mark.skipif(find_spec("kserve") is None, reason="kserve is not installed"),
]


def fenced(language: str) -> list[str]:
    return [
        token.content
        for token in MarkdownIt().parse(DOCUMENT.read_text("utf-8"))
        if token.type == "fence" and token.info == language
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The service of the document, `camrt serve default flowers.onnx`, with the picture that it names."""
    folder = tmp_path_factory.mktemp("document")
    shutil.copy(model_path(), folder / "flowers.onnx")
    shutil.copy(scene_path(), folder / "cat.jpg")
    with serve(folder, "default", str(folder / "flowers.onnx")) as process:
        yield process


def run(served: Served, command: list[str], text: str) -> str:
    """What a block prints, on the service's ports in place of the usual ones."""
    text = text.replace("localhost:8080", served.http).replace("localhost:8081", served.grpc)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, text],
        cwd=served.log.parent,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_it_prints_when_it_begins(served: Served) -> None:
    (shown,) = fenced("text")
    printed = (served.log.parent / "out").read_text()
    printed = printed.replace(served.http, "127.0.0.1:8080").replace(served.grpc, "127.0.0.1:8081")
    assert printed == shown


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(served: Served) -> None:
    health, first, second = (
        run(served, ["bash", "-euo", "pipefail", "-c"], block) for block in fenced("bash")
    )
    assert health.startswith('{"ready":true}')
    assert camrt.load("default").explain(scene_path()).label(0) in first
    with Image.open(served.log.parent / "overlay.png") as drawn:
        assert drawn.format == "PNG"
    names = [output["name"] for output in json.loads(second)["outputs"]]
    assert names == ["saliency", "probabilities"]


@pytest.mark.skipif(find_spec("tritonclient") is None, reason="tritonclient is not installed")
def test_triton_clients(served: Served) -> None:
    over_http, over_grpc = (run(served, [sys.executable, "-c"], block) for block in fenced("python"))
    assert f"b'{camrt.load('default').explain(scene_path()).label(0)}'" in over_http
    assert "(1, 3, 128, 128)" in over_http
    assert over_grpc == "(2, 128, 128)\n"


def test_metrics_that_it_names_are_there(served: Served) -> None:
    page = served.ask("/metrics").body.decode()
    named = {word for word in DOCUMENT.read_text("utf-8").split("`") if word.startswith("camrt_")}
    assert len(named) > 8
    assert [name for name in named if f"# TYPE {name} " not in page] == []


def test_options_that_it_names_are_there() -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    text = DOCUMENT.read_text("utf-8")
    named = {word.split()[0].rstrip(":") for word in text.split("`") if word.startswith("--")}
    assert len(named) > 8
    assert named - options == set()


def test_the_inference_service() -> None:
    """Predictor and explainer run the image with options that there are, in containers that KServe knows."""
    service = yaml.safe_load((ROOT / "deploy/kserve/inference_service.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    serve_command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    for role in ("predictor", "explainer"):
        (container,) = service["spec"][role]["containers"]
        assert container["name"] == "kserve-container"
        assert container["securityContext"]["runAsNonRoot"]
        given = serve_command.make_context("serve", list(container["args"])).params
        assert given["models"] == ["/mnt/models/flowers.onnx"]
        assert given["name"] == [service["metadata"]["name"]]
        mounted = {volume["name"] for volume in service["spec"][role]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == mounted
    assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] > float(given["grace"])


def test_the_image_runs_as_nobody_in_particular() -> None:
    lines = (ROOT / "deploy/kserve/Dockerfile").read_text().splitlines()
    assert "USER 1000" in lines
    assert any(line.startswith("COPY constraints.txt") for line in lines)
    assert "torch" not in "".join(line for line in lines if not line.startswith("#"))
