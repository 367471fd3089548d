"""A .pt2 file runs code when torch opens it: none is opened unless its caller says so."""

import contextlib
import importlib.util
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("torch", reason="torch is not installed")

import camrt
from camrt.cli.main import app
from camrt.errors import BackendError, InputError, MemoryLimitError, ModelFileError, UnsafeModelError
from camrt.evaluation.metrics.axioms import measure_axioms
from camrt.evaluation.metrics.randomisation import cascading_randomisation
from camrt.export.io.torch_archive import open_archive
from helpers.malicious_exports import (
    ATTACKS,
    GRAPH,
    SAMPLE,
    WEIGHTS,
    rewrite_members,
    write_exported,
    write_malicious,
)
from helpers.peer_libraries import mend_torchvision


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "ran"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_exported(tmp_path_factory.mktemp("sound") / "net.pt2")


@pytest.fixture
def copy(sound, tmp_path):
    """A copy of a sound file, to be changed."""
    path = tmp_path / "net.pt2"
    path.write_bytes(sound.read_bytes())
    return path


@pytest.mark.parametrize("way", ATTACKS)
def test_nothing_runs_without_trust(way, tmp_path, marker):
    path = write_malicious(tmp_path / "net.pt2", way, marker)
    with pytest.raises(UnsafeModelError, match=rf"{ATTACKS[way][1]}.*trusted=True.*--trust.*to_onnx"):
        camrt.load(path)
    assert not marker.exists()
    with contextlib.suppress(ModelFileError):  # what was put in is no weight; but it ran
        camrt.load(path, trusted=True)
    assert marker.exists(), "the file of this test does not run what it means to"


COMMANDS = {
    "explain": ("explain", "MODEL", "IMAGES"),
    "inspect": ("inspect", "MODEL"),
    "export": ("export", "MODEL", "--out", "OUT"),
    "export plans": ("export", "MODEL", "--out", "OUT", "--to", "tensorrt", "--trust"),
    "evaluate": ("evaluate", "MODEL", "IMAGES", "--out", "OUT"),
    "evaluate walls": ("evaluate", "walls", "MODEL", "IMAGES", "--out", "OUT"),
    "evaluate sanity": ("evaluate", "sanity", "MODEL", "IMAGES"),
    "evaluate axioms": ("evaluate", "axioms", "MODEL", "IMAGES"),
    "reproduce": ("reproduce", "MODEL", "IMAGES", "--out", "OUT"),
    "train": ("train", "--data", "IMAGES", "--out", "OUT", "--pretrained", "MODEL", "--backbone", "tiny"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_anything_without_trust(command, tmp_path, marker):
    if importlib.util.find_spec("lightning") is not None:
        mend_torchvision()  # Lightning imports it
    path = write_malicious(tmp_path / "net.pt2", "an expression", marker)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "photos" / name / "0.png")
    places = {"MODEL": str(path), "IMAGES": str(tmp_path / "photos"), "OUT": str(tmp_path / "out")}
    result = CliRunner().invoke(app, [places.get(word, word) for word in COMMANDS[command]])
    assert result.exit_code == 2, result.output
    assert result.output.startswith("error: "), result.output
    assert not marker.exists()


def test_no_function_runs_anything_without_trust(tmp_path, marker):
    path = write_malicious(tmp_path / "net.pt2", "an expression", marker)
    batch = np.zeros((1, 3, 16, 16), np.float32)
    for call in (measure_axioms, lambda *given: cascading_randomisation(*given, ["gradcam"])):
        with pytest.raises(ModelFileError):
            call(path, batch)
    with pytest.raises(InputError, match="must be a torch module"):
        camrt.to_onnx(path, batch, tmp_path / "net.onnx")
    assert not marker.exists()


def test_torch_is_not_imported_to_refuse(sound, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("camrt.engine.torch_models")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnsafeModelError):
        camrt.load(sound)
    with pytest.raises(BackendError, match=r"torch, which is missing: pip install 'camrt\[torch\]'"):
        camrt.load(sound, trusted=True)


def test_a_trusted_file_is_loaded_and_says_what_it_ran(sound, tmp_path):
    engine = camrt.load(sound, trusted=True, preprocessing="unit")
    note = next(note for note in engine.notes if "opened as trusted" in note)
    assert SAMPLE in note
    assert GRAPH in note
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "0.png")
    words = ["explain", sound, tmp_path / "0.png", "--preprocessing", "unit", "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [*map(str, words), "--trust"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "explanation.npz").is_file()


def test_trust_changes_nothing_for_a_file_of_onnx():
    with pytest.raises(InputError, match="trusted='yes' must be True or False"):
        camrt.load("default", trusted="yes")
    assert (
        camrt.load("default", trusted=True, verify=False).notes == camrt.load("default", verify=False).notes
    )


# ---------------------------------------------------------------- refused, trusted or not


def leads_out(members):
    members["../../outside"] = b""


def damaged_list(members):
    members[WEIGHTS] = b"{"


def nested_list(members):
    members[WEIGHTS] = b"[" * 100_000


def list_of_another_kind(members):
    members[WEIGHTS] = b'{"config": [1]}'


def no_graph(members):
    del members[GRAPH]


def many(members):
    members.update({f"data/weights/{number}": b"" for number in range(100_001)})


def bomb(members):
    members["data/weights/zeros"] = bytes(1 << 24)


DAMAGED = {
    "a name that leads out": (leads_out, UnsafeModelError, "whose name leads out"),
    "a list of weights cut short": (damaged_list, ModelFileError, "is damaged: .*_config.json"),
    "a nested list of weights": (nested_list, ModelFileError, "is damaged: .*_config.json"),
    "a list of weights of another kind": (list_of_another_kind, ModelFileError, "is damaged: .*_config.json"),
    "no graph": (no_graph, ModelFileError, "no file of torch.export.save: it has no graph"),
    "many members": (many, UnsafeModelError, "1000.. members, more than 100000"),
    "a bomb": (bomb, UnsafeModelError, "decompression bomb: .* would become 16.0 MiB"),
}


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_archives_are_refused_before_torch_reads_them(kind, trusted, copy):
    change, error, message = DAMAGED[kind]
    rewrite_members(copy, change, zipfile.ZIP_DEFLATED if kind == "a bomb" else zipfile.ZIP_STORED)
    with pytest.raises(error, match=message):
        open_archive(copy, trusted=trusted)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name(copy):
    with zipfile.ZipFile(copy, "a") as archive:
        archive.writestr(archive.namelist()[0], b"other")
    with pytest.raises(ModelFileError, match="two members"):
        open_archive(copy, trusted=True)


def test_members_that_overlap(copy):
    """Members may share their bytes, and then the file says that it holds more than it has."""
    with zipfile.ZipFile(copy, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        for number in range(9):
            twin = zipfile.ZipInfo(f"net/data/weights/twin_{number}")
            twin.header_offset, twin.CRC = largest.header_offset, largest.CRC
            twin.file_size = twin.compress_size = largest.file_size
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True
    with pytest.raises(UnsafeModelError, match="decompression bomb: its members take"):
        open_archive(copy, trusted=True)


def test_what_is_packed_counts_as_memory(copy):
    rewrite_members(
        copy, lambda members: members.update({"data/weights/zeros": bytes(200_000)}), zipfile.ZIP_DEFLATED
    )
    with pytest.raises(MemoryLimitError, match="what is packed in"):
        camrt.load(copy, trusted=True, max_memory=100_000)


def test_a_list_of_members_too_long_to_read(copy):
    """It is as long as the end of the file says, and is refused before it is read."""
    content = rewrite_members(copy, lambda members: None).read_bytes()
    end = 12 + content.rindex(b"PK\5\6")
    copy.write_bytes(bytes(20 << 20) + content[:end] + (17 << 20).to_bytes(4, "little") + content[end + 4 :])
    with pytest.raises(ModelFileError, match=r"list of members takes 17\.0 MiB"):
        open_archive(copy, trusted=True)


def test_cut_short_and_changed_bytes(sound, tmp_path):
    """Whatever bytes are changed, the archive is refused with an error of camrt's, or opened."""
    content, path = sound.read_bytes(), tmp_path / "net.pt2"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(sound) as archive:
        listing = archive.start_dir
    opened = 0
    for number in range(300):
        changed = bytearray(content)
        if number % 3 == 0:
            changed = changed[: rng.integers(len(content))]
        else:
            begin = listing if number % 3 == 1 else 0
            for _ in range(rng.integers(1, 6)):
                changed[rng.integers(begin, len(content))] = rng.integers(256)
        path.write_bytes(changed)
        try:
            open_archive(path, trusted=True)
            opened += 1
        except (ModelFileError, MemoryLimitError):
            pass
    assert 20 < opened < 280
    with pytest.raises(ModelFileError, match="a folder or a device"):
        open_archive(tmp_path, trusted=True)
