"""The programs and notebooks of examples/ run, on small inputs."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import pytest

from camrt.default import scene_path
from helpers.peer_libraries import import_peer

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="the tests are not beside examples/")


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a program as `python examples/NAME` does, in this process."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert not ended.value.code


def test_every_program_and_notebook_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    there = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert [name for name in there if f"({name})" not in listed] == []
    assert len(there) >= 7


def test_service() -> None:
    pytest.importorskip("multipart", reason="FastAPI reads uploads by python-multipart")
    client = pytest.importorskip("fastapi.testclient").TestClient(
        runpy.run_path(str(EXAMPLES / "service.py"))["app"]
    )
    scene = scene_path().read_bytes()
    found = client.post("/explain", files={"picture": scene})
    assert found.status_code == 200
    assert found.headers["X-Class"] == "car"
    assert found.content.startswith(b"\x89PNG")
    bus = client.post("/explain", params={"method": "gradcam", "target": "bus"}, files={"picture": scene})
    assert bus.headers["X-Class"] == "bus"
    for expected, parameters, sent in (
        (415, {}, b"no picture"),
        (422, {"method": "nonesuch"}, scene),
        (422, {"target": "unicorn"}, scene),
        (413, {}, bytes(11 << 20)),
    ):
        wrong = client.post("/explain", params=parameters, files={"picture": sent})
        assert wrong.status_code == expected, wrong.text
        assert wrong.json()["detail"]


def test_folder_to_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes(scene_path().read_bytes())
    (photos / "c.jpg").write_bytes(b"no picture")
    run("folder_to_parquet.py", str(photos), str(tmp_path / "table.parquet"), monkeypatch=monkeypatch)
    rows = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert [row["class"] for row in rows] == ["car", "car", None]
    assert "c.jpg" in rows[2]["path"]
    assert rows[2]["error"]
    assert all(0 < row["peak_x"] < 1 and 0 < row["half_area"] < 1 for row in rows[:2])


def test_video_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("video_loop.py", "--frames", "3", monkeypatch=monkeypatch)
    assert "frames a second" in capsys.readouterr().out


def test_timm_zoo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import_peer("timm")
    arguments = ["--size", "32", "--times", "1", "--methods", "pixab,calm"]
    run("timm_zoo.py", "resnet10t", *arguments, monkeypatch=monkeypatch)
    shown = capsys.readouterr().out
    assert "resnet10t" in shown
    assert "–" in shown  # calm is not of this kind of head


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    if notebook.stem == "train_calm" and importlib.util.find_spec("lightning") is None:
        pytest.skip("Lightning is missing: pip install 'camrt[train]'")
    content = nbformat.read(notebook, as_version=4)
    if notebook.stem == "train_calm":  # Lightning imports torchvision
        mend = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        mend += "from helpers.peer_libraries import mend_torchvision; mend_torchvision()"
        content.cells.insert(0, nbformat.v4.new_code_cell(mend))
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(content, timeout=200, resources=folder).execute()  # raises what a cell raises


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
