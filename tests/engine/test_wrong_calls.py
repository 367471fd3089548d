"""Calls as people make them who have not read the documentation: each is answered, or told what to do."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import camrt
from camrt.engine.images import streams
from camrt.errors import (
    CamrtError,
    ImageError,
    InputError,
    MethodError,
    ModelFileError,
    NoSuchImageError,
    StorageError,
    TargetError,
)


class Given:
    """An engine, batches and explanations that the calls below use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = camrt.load("default", verify=False)
        interface = self.engine.interface
        self.classes = interface.num_classes
        shape = (2, 3, interface.height, interface.width)
        self.batch = np.random.default_rng(0).standard_normal(shape, np.float32)
        self.pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
        self.image = Image.fromarray(self.pixels)
        self.path = folder / "a.png"
        self.image.save(self.path)
        self.bytes = self.path.read_bytes()
        self.weights = np.ones((2, self.classes), np.float32)
        self.numbers = self.engine.explain(self.batch, "gradcam")
        self.drawn = self.engine.explain([self.image] * 2, "gradcam", targets=[[0, 1], [1, 2]])
        assert self.engine.labels is not None
        self.labels = self.engine.labels

    def closed(self) -> Any:
        file = self.path.open("rb")
        file.close()
        return file


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(tmp_path_factory.mktemp("calls"))


Call = Callable[[Given], Any]

NO_IMAGE = "expected a file, its bytes, a Pillow image or a uint8 array"
NO_BATCH = r"a batch is a float32 array \(N, C, H, W\) or a list of images, not "

NOT_IMAGES: dict[str, tuple[Callable[[Given], Any], str]] = {
    "nothing": (lambda _: None, NO_IMAGE),
    "number": (lambda _: 3, NO_IMAGE),
    "address": (lambda _: "https://a.org/cat.jpg", "is an address, and camrt downloads nothing: fetch"),
    "address of a file": (lambda _: "file:///cat.jpg", "give the path that follows file://"),
    "data address": (lambda _: "data:image/png;base64,AAAA", "is an address"),
    "folder": (lambda g: g.folder, "is a folder, not an image"),
    "NUL": (lambda _: "a\0b", "no such file"),
    "bytes that are none": (lambda _: b"none", "the image: not an image that Pillow can read"),
    "no bytes": (lambda _: b"", "empty, it holds not a single byte"),
    "text file": (lambda _: io.StringIO("words"), "gives str, not bytes: open the file with 'rb'"),
    "closed file": (lambda g: g.closed(), "cannot be read: .*closed"),
    "memoryview": (lambda g: memoryview(g.bytes), "a memoryview: say bytes"),
    "masked array": (lambda g: np.ma.masked_array(g.pixels), r"masked array, .* fill it"),
    "objects": (lambda g: np.array([g.image, None], object), "must be uint8"),
    "truth values": (lambda g: g.pixels > 9, "must be uint8"),
    "complex numbers": (lambda g: g.pixels.astype(complex), "must be uint8"),
    "dates": (lambda _: np.zeros((4, 4), "datetime64[s]"), "must be uint8"),
    "numbers for the model": (lambda g: g.batch[0], "numbers for the model go in one array"),
    "lists": (lambda _: [[1.0, 2.0], [3.0]], "got a list: numbers for the model go in one array"),
    "generator": (lambda g: (one for one in [g.image]), NO_IMAGE),
    "set": (lambda g: {g.path}, NO_IMAGE),
    "class": (lambda _: Image.Image, NO_IMAGE),
}

NOT_BATCHES: dict[str, tuple[Callable[[Given], Any], str]] = {
    **{name: NOT_IMAGES[name] for name in ("address", "folder", "bytes that are none", "text file")},
    "nothing": (lambda _: None, f"{NO_BATCH}NoneType"),
    "number": (lambda _: 3, f"{NO_BATCH}int"),
    "dict": (lambda g: {"images": g.batch}, f"{NO_BATCH}dict; make a list"),
    "set": (lambda g: {str(g.path)}, f"{NO_BATCH}set; make a list"),
    "generator": (lambda g: (one for one in [g.image]), f"{NO_BATCH}generator; make a list"),
    "map": (lambda g: map(str, [g.path]), f"{NO_BATCH}map; make a list"),
    "empty list": (lambda _: [], "the batch is empty"),
    "empty array": (lambda g: g.batch[:0], "the batch is empty"),
    "memoryview": (lambda g: memoryview(g.bytes), "a memoryview; say numpy.asarray"),
    "memoryview of numbers": (lambda g: memoryview(g.batch), "a memoryview; say numpy.asarray"),
    "masked array": (lambda g: np.ma.masked_array(g.batch), "a masked array, .* fill it"),
    "masked, of pixels": (lambda g: np.ma.masked_array(g.pixels), "a masked array, .* fill it"),
    "objects": (lambda g: np.array([g.image, None], object), r"this one object; images .* list\(batch\)"),
    "array of paths": (lambda g: np.array([str(g.path)]), r"images and their paths go in a list"),
    "complex numbers": (lambda g: g.batch.astype(complex), "float32 model inputs, this one complex128"),
    "dates": (lambda _: np.zeros(3, "datetime64[s]"), "float32 model inputs, this one datetime64"),
    "truth values": (lambda g: g.batch > 0, "float32 model inputs, this one bool"),
    "pixels": (lambda g: g.pixels[None], "for raw pixels pass a list of images"),
    "lists of numbers": (lambda _: [[1.0, 2.0], [3.0, 4.0]], "numbers for the model go in one array"),
    "ragged lists": (lambda _: [[1.0, 2.0], [3.0]], "numbers for the model go in one array"),
    "one image's numbers": (lambda g: g.batch[0], r"batch of one: image\[None\]"),
    "channels last": (lambda g: g.batch.transpose(0, 2, 3, 1), r"transpose\(0, 3, 1, 2\)"),
    "NaN": (lambda g: g.batch * np.nan, "NaN or infinity"),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_image(name: str, given: Given) -> None:
    make, message = NOT_IMAGES[name]
    with pytest.raises(ImageError, match=message):
        given.engine.predict([make(given)])
    if name != "nothing":  # which stands for the image that was explained
        with pytest.raises(ImageError, match=message):
            given.numbers.overlay(0, image=make(given))


@pytest.mark.parametrize("name", NOT_BATCHES)
def test_what_is_no_batch(name: str, given: Given) -> None:
    make, message = NOT_BATCHES[name]
    calls: list[Callable[[Any], Any]] = [
        given.engine.predict,
        lambda batch: given.engine.explain(batch, "gradcam"),
        lambda batch: given.engine.explain_all(batch, ["gradcam"]),
        lambda batch: given.engine.channel_weights(batch, "gradcam"),
        lambda batch: given.engine.input_gradients(batch, given.weights),
    ]
    for call in calls:
        with pytest.raises((InputError, ImageError), match=message):
            call(make(given))


@pytest.mark.parametrize(
    "make",
    [
        lambda g: str(g.path),
        lambda g: g.path,
        lambda g: g.image,
        lambda g: g.bytes,
        lambda g: bytearray(g.bytes),
        lambda g: io.BytesIO(g.bytes),
        lambda g: g.path.open("rb"),
    ],
    ids=["text", "path", "Pillow", "bytes", "bytearray", "BytesIO", "file"],
)
@pytest.mark.filterwarnings("ignore:unclosed file")
def test_per_image_in_any_form(make: Call, given: Given) -> None:
    """By itself or in a list; of an open file from its beginning, so that it can be given twice."""
    expected = given.engine.predict([given.pixels])
    one = make(given)
    for batch in (one, [one], (one,)):
        np.testing.assert_array_equal(given.engine.predict(batch), expected)
    drawing = given.drawn.overlay(0, image=given.path)
    np.testing.assert_array_equal(given.drawn.overlay(0, image=one), drawing)


def test_a_stream_that_cannot_go_back_is_read_once_and_no_further_than_allowed(given, monkeypatch):
    class Endless(io.RawIOBase):
        """As a socket: no end, and no way back."""

        taken = 0

        def read(self, size: int = -1, /) -> bytes:
            assert size >= 0
            self.taken += size
            return bytes(size)

    monkeypatch.setattr(streams, "MAX_FILE_BYTES", 1000)
    endless = Endless()
    with pytest.raises(ImageError, match="more than 1000 bytes"):
        given.engine.predict([endless])
    assert endless.taken == 1001
    with pytest.raises(ImageError, match="more than 1000 bytes"):
        given.engine.predict(bytes(1001))


# ---------------------------------------------------------------- classes

NAMES: dict[str, tuple[Callable[[tuple[str, ...]], Any], Any]] = {
    "a name": (lambda names: names[3], [3, 3]),
    "in capitals": (lambda names: names[3].upper(), [3, 3]),
    "a name each": (lambda names: [names[3], names[4]], [3, 4]),
    "a tuple": (lambda names: (names[3], names[4]), [3, 4]),
    "two names each": (lambda names: [[names[3], names[4]], [names[0], names[1]]], [[3, 4], [0, 1]]),
    "names and numbers": (lambda names: [[names[3], 4], [0, names[1]]], [[3, 4], [0, 1]]),
    "an array": (lambda names: np.array([names[3], names[4]]), [3, 4]),
    "an array of objects": (lambda names: np.array([names[3], 4], object), [3, 4]),
    "a function": (lambda names: lambda logits: [names[3]] * len(logits), [3, 3]),
    "indices": (lambda _: memoryview(np.array([3, 4])), [3, 4]),
}


@pytest.mark.parametrize("name", NAMES)
def test_classes_by_their_names(name: str, given: Given) -> None:
    make, expected = NAMES[name]
    found = given.engine.explain(given.batch, "gradcam", targets=make(given.labels))
    np.testing.assert_array_equal(found.targets, expected)
    np.testing.assert_array_equal(
        found.maps, given.engine.explain(given.batch, "gradcam", targets=np.array(expected)).maps
    )
    weights, _ = given.engine.channel_weights(given.batch, "gradcam", targets=make(given.labels))
    assert weights.shape[:-1] == np.shape(expected)


def test_the_most_probable_classes(given: Given) -> None:
    order = np.argsort(-given.engine.predict(given.batch), axis=1)
    for k in (1, 3, given.classes):
        found = given.engine.explain(given.batch, "pixab", top_k=k)
        np.testing.assert_array_equal(found.targets, order[:, :k])
        assert found.maps.shape[:2] == (2, k)
        assert found.passes == given.engine.explain(given.batch, "pixab").passes
    (together,) = given.engine.explain_all(given.batch, ["gradcam"], top_k=2)
    np.testing.assert_array_equal(together.targets, order[:, :2])
    assert given.engine.channel_weights(given.batch, "gradcam", top_k=2)[0].shape[:2] == (2, 2)


TARGETS: dict[str, tuple[Any, str]] = {
    "no class's name": ("zebra crossing", "targets='zebra crossing': no class of that name"),
    "a name that is nearly one": ("guinea pigs", "no class of that name; did you mean 'guinea pig'"),
    "digits": ("3", "an index is a number: 3"),
    "no name": ("", "no class of that name"),
    "a name among others": (["nothing", "other"], "targets='nothing': no class of that name"),
    "a function that gives one": (lambda _: "zebra crossing", "no class of that name"),
    "fractions": ([3.0, 1.0], "class indices .whole numbers., these are float64"),
    "truth values": (np.array([True, False]), "class indices .whole numbers., these are bool"),
    "complex": (1j, "these are complex"),
    "dates": (np.zeros(2, "datetime64[s]"), "these are datetime64"),
    "bytes": (b"cat", "class indices"),
    "set": ({1}, "class indices"),
    "dict": ({0: 1}, "class indices"),
    "nothing in a list": ([None, None], "class indices"),
    "too large a number": (2**70, "class indices"),
    "below 0": (-1, "class -1 is out of range"),
    "beyond the last": (999, "class 999 is out of range"),
    "ragged": ([[1], [1, 2]], "rows of different lengths"),
    "another number of them": ([1, 2, 3], "targets have shape"),
    "masked": (np.ma.masked_array([1, 2], [0, 1]), "masked array"),
    "empty": ([], "class indices"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_no_class(name: str, given: Given) -> None:
    targets, message = TARGETS[name]
    for call in (given.engine.explain, given.engine.channel_weights):
        with pytest.raises(TargetError, match=message):
            call(given.batch, "gradcam", targets=targets)
    with pytest.raises(TargetError, match=message):
        given.engine.explain_all(given.batch, ["gradcam"], targets=targets)


@pytest.mark.parametrize("k", [0, -1, 10_000, 1.5, "3", True, [1]])
def test_what_is_no_number_of_classes(k: Any, given: Given) -> None:
    with pytest.raises(TargetError, match="must be a whole number from 1 to 33"):
        given.engine.explain(given.batch, "gradcam", top_k=k)


def test_targets_and_top_k(given: Given) -> None:
    with pytest.raises(TargetError, match="targets= or top_k=, not both"):
        given.engine.explain(given.batch, "gradcam", targets=1, top_k=2)


def test_names_of_a_model_that_has_none(given: Given) -> None:
    nameless = camrt.load("default", verify=False)
    nameless.labels = None
    with pytest.raises(
        TargetError, match=r"class names are not known: give an index, or labels= to camrt\.load"
    ):
        nameless.explain(given.batch, "gradcam", targets="cat")


# ---------------------------------------------------------------- labels

LABELS: dict[str, Callable[[tuple[str, ...]], Any]] = {
    "by index": lambda names: dict(enumerate(names)),
    "by index, in another order": lambda names: dict(reversed(list(enumerate(names)))),
    "by index in text": lambda names: {str(index): name for index, name in enumerate(names)},
    "by NumPy's index": lambda names: {np.int64(index): name for index, name in enumerate(names)},
    "generator": lambda names: (name for name in names),
    "array": lambda names: np.array(names),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_in_any_form(name: str, given: Given) -> None:
    engine = camrt.load("default", verify=False, labels=LABELS[name](given.labels))
    assert engine.labels == given.labels


@pytest.mark.parametrize("content", [list, lambda names: dict(enumerate(names))], ids=["array", "object"])
def test_labels_in_json(content: Any, given: Given, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content(given.labels)), "utf-8-sig")
    assert camrt.load("default", verify=False, labels=path).labels == given.labels


BAD_LABELS: dict[str, tuple[Any, str]] = {
    "incomplete": ({0: "a"}, "names no class 1, 2, 3, 4, 5, ...: a model with 33 classes needs all"),
    "turned around": ({"a": 0}, "turn it around: {index: name for name, index"),
    "beyond the last": ({33: "a"}, "has the key 33; classes are 0 to 32"),
    "number": (3, "must be the class names in order, a mapping"),
    "set": ({"a", "b"}, "must be the class names in order, a mapping"),
    "bytes": (bytes(33), "must be the class names in order, a mapping"),
    "too few": (["a"], "1 labels were given for a model with 33 classes"),
    "nothing in them": ([None] * 33, "a label is text, and None is not"),
    "no file": ("cat", "labels='cat': cannot be read: no such file"),
    "address": ("https://a.org/labels.txt", "is an address, and camrt downloads nothing"),
    "folder": (".", "cannot be read: Is a directory"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_what_are_no_labels(name: str) -> None:
    labels, message = BAD_LABELS[name]
    with pytest.raises(InputError, match=message):
        camrt.load("default", labels=labels)


# ---------------------------------------------------------------- everything else

CALLS: dict[str, tuple[Call, type[CamrtError], str]] = {
    # camrt.load
    "load nothing": (lambda _: camrt.load(None), InputError, "must be the path of a file, or a torch module"),
    "load no name": (lambda _: camrt.load(""), InputError, "path='' must be the path of a file"),
    "load a number": (lambda _: camrt.load(3), InputError, "must be the path of a file"),
    "load bytes": (lambda g: camrt.load(g.bytes), InputError, "must be the path of a file"),
    "load an open file": (
        lambda g: camrt.load(io.BytesIO(g.bytes)),
        InputError,
        "must be the path of a file",
    ),
    "load a list": (lambda _: camrt.load(["a.onnx"]), InputError, "must be the path of a file"),
    "load a folder": (lambda g: camrt.load(g.folder), ModelFileError, "is a folder; give the .onnx file"),
    "load an image": (lambda g: camrt.load(g.path), ModelFileError, "looks like a PNG image"),
    "load an address": (
        lambda _: camrt.load("https://a.org/net.onnx"),
        ModelFileError,
        "is an address, and camrt downloads nothing: fetch the file",
    ),
    "load an address of torch's": (
        lambda _: camrt.load("https://a.org/net.pt2", trusted=True),
        ModelFileError,
        "is an address, and camrt downloads nothing: fetch the file",
    ),
    "load a bucket": (lambda _: camrt.load("s3://a/net.onnx"), ModelFileError, "downloads nothing"),
    "a target that is a number": (lambda _: camrt.load("default", target=3), InputError, "must be a name"),
    "a device that is a number": (
        lambda _: camrt.load("default", device=0),
        InputError,
        "must be 'cpu', 'cuda'",
    ),
    "a grid that is a number": (lambda _: camrt.load("default", grid=7), InputError, "two whole numbers"),
    "a grid of a network without tokens": (
        lambda _: camrt.load("default", grid=(4, 4), cache=False),
        InputError,
        "no tensor of this model holds so many: leave grid= out",
    ),
    "a grid that is text": (lambda _: camrt.load("default", grid="7x7"), InputError, "two whole numbers"),
    "threads that are true": (
        lambda _: camrt.load("default", threads=True),
        InputError,
        "threads=True must be",
    ),
    # explain
    "target=": (lambda g: g.engine.explain(g.batch, target=3), MethodError, "did you mean targets="),
    "topk=": (lambda g: g.engine.explain(g.batch, topk=3), MethodError, "did you mean top_k="),
    "layer=": (lambda g: g.engine.explain(g.batch, layer="x"), MethodError, r"camrt\.load's target="),
    "sizes=": (lambda g: g.engine.explain(g.batch, sizes=3), MethodError, "did you mean size="),
    "a misspelt option": (
        lambda g: g.engine.explain(g.batch, "smoothgrad", draw=3),
        MethodError,
        "did you mean draws=",
    ),
    "channel_weights(target=)": (
        lambda g: g.engine.channel_weights(g.batch, target=3),
        MethodError,
        "did you mean targets=",
    ),
    "explain_all(target=)": (
        lambda g: g.engine.explain_all(g.batch, ["cam"], target=3),
        MethodError,
        "no argument 'target'; did you mean targets=",
    ),
    "explain_all(boxes=)": (
        lambda g: g.engine.explain_all(g.batch, ["pixab"], boxes=3),
        MethodError,
        "options go into a method that is an object",
    ),
    "methods in a dict": (lambda g: g.engine.explain_all(g.batch, {"cam": {}}), InputError, "must be a list"),
    "a number of methods": (lambda g: g.engine.explain_all(g.batch, 3), InputError, "must be a list"),
    "no methods": (
        lambda g: g.engine.explain_all(g.batch, iter(())),
        InputError,
        "must be a list .* is empty",
    ),
    # input_gradients and probabilities
    "no weighting": (lambda g: g.engine.input_gradients(g.batch, None), InputError, "must be an array"),
    "a class for a weighting": (
        lambda g: g.engine.input_gradients(g.batch, 3),
        InputError,
        "must be an array",
    ),
    "a weighting of too many": (
        lambda g: g.engine.input_gradients(g.batch, np.ones((3, 33))),
        InputError,
        r"has shape \(2, 33\)",
    ),
    "a masked weighting": (
        lambda g: g.engine.input_gradients(g.batch, np.ma.ones((2, 33))),
        InputError,
        "masked array",
    ),
    "a complex weighting": (
        lambda g: g.engine.input_gradients(g.batch, g.weights * 1j),
        InputError,
        "must be of real numbers",
    ),
    "a function that gives no weighting": (
        lambda g: g.engine.input_gradients(g.batch, lambda _: None),
        InputError,
        "must be an array",
    ),
    "logits of another model": (
        lambda g: g.engine.probabilities(np.ones((2, 5))),
        InputError,
        r"must have shape \(..., 33\), not \(2, 5\)",
    ),
    "no logits": (lambda g: g.engine.probabilities(None), InputError, "the logits must be an array"),
    "text for logits": (lambda g: g.engine.probabilities("a"), InputError, "the logits must be an array"),
    "a number for logits": (lambda g: g.engine.probabilities(1.5), InputError, "the logits must be an array"),
    "ragged logits": (
        lambda g: g.engine.probabilities([[1.0], [1.0, 2.0]]),
        InputError,
        "rows of different lengths",
    ),
    "masked logits": (lambda g: g.engine.probabilities(np.ma.ones((2, 33))), InputError, "masked array"),
    # an explanation
    "overlay beyond": (
        lambda g: g.drawn.overlay(3),
        NoSuchImageError,
        "no image 3: the explanation has 2",
    ),
    "overlay before": (lambda g: g.drawn.overlay(-3), NoSuchImageError, "there is no image -3"),
    "overlay of text": (
        lambda g: g.drawn.overlay("a.png"),
        NoSuchImageError,
        "'a.png' is no number of an image",
    ),
    "overlay of a fraction": (
        lambda g: g.drawn.overlay(1.0),
        NoSuchImageError,
        "1.0 is no number of an image",
    ),
    "overlay of nothing": (lambda g: g.drawn.overlay(None), NoSuchImageError, "None is no number"),
    "overlay of all": (
        lambda g: g.drawn.overlay(slice(None)),
        NoSuchImageError,
        "is no number of an image",
    ),
    "overlay of true": (lambda g: g.drawn.overlay(True), NoSuchImageError, "is no number of an image"),
    "overlay of no target": (lambda g: g.drawn.overlay(0, 5), NoSuchImageError, "no target of an image 5"),
    "overlay of a class": (lambda g: g.drawn.overlay(0, "cat"), NoSuchImageError, "no number of a target"),
    "overlay without an image": (lambda g: g.numbers.overlay(0), InputError, "give overlay"),
    "opacity in text": (
        lambda g: g.drawn.overlay(0, opacity="a"),
        InputError,
        r"opacity must be in \[0, 1\]",
    ),
    "opacity of none": (
        lambda g: g.drawn.overlay(0, opacity=None),
        InputError,
        r"opacity must be in \[0, 1\]",
    ),
    "opacity in an array": (lambda g: g.drawn.overlay(0, opacity=np.ones(3)), InputError, "opacity must be"),
    "opacity beyond 1": (
        lambda g: g.drawn.overlay(0, opacity=50),
        InputError,
        r"opacity must be in \[0, 1\]",
    ),
    "label beyond": (lambda g: g.drawn.label(5), NoSuchImageError, "there is no image 5"),
    "label of text": (lambda g: g.drawn.label("cat"), NoSuchImageError, "is no number of an image"),
    "label of no target": (lambda g: g.numbers.label(0, 1), NoSuchImageError, "no target of an image 1"),
    "answer beyond": (lambda g: g.drawn.answer(5), NoSuchImageError, "there is no image 5"),
    "on_original beyond": (lambda g: g.drawn.on_original(5), NoSuchImageError, "there is no image 5"),
    "on_original of numbers": (lambda g: g.numbers.on_original(0), InputError, "given as numbers"),
    "sheet beyond": (lambda g: g.drawn.sheet(5), NoSuchImageError, "there is no image 5"),
    "no columns": (lambda g: g.drawn.sheet(0, 0), InputError, "columns must be a whole number, at least 1"),
    "columns in text": (lambda g: g.drawn.sheet(0, "2"), InputError, "columns must be a whole number"),
    "half a column": (lambda g: g.drawn.sheet(0, 1.5), InputError, "columns must be a whole number"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_told(name: str, given: Given) -> None:
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message) as raised:
        call(given)
    assert len(str(raised.value)) < 600
    assert isinstance(pickle.loads(pickle.dumps(raised.value)), error)


def test_what_counts_from_the_end(given: Given) -> None:
    assert given.drawn.label(-1, -1) == given.drawn.label(1, 1)
    assert given.drawn.answer(np.int64(-1)) == given.drawn.answer(1)
    np.testing.assert_array_equal(given.drawn.overlay(-1), given.drawn.overlay(1))
    np.testing.assert_array_equal(given.drawn.sheet(-1, np.int64(2)), given.drawn.sheet(1, 2))


def test_gradients_and_probabilities_of_what_is_no_array_of_numpy(given: Given) -> None:
    expected = given.engine.input_gradients(given.batch, given.weights)
    for found, right in zip(
        given.engine.input_gradients(given.batch, given.weights.tolist()), expected, strict=True
    ):
        np.testing.assert_array_equal(found, right)
    logits = given.engine.predict(given.path)
    np.testing.assert_array_equal(
        given.engine.probabilities(logits.astype(float).tolist()), given.engine.probabilities(logits)
    )
    found, _ = given.engine.input_gradients([given.path], given.weights[:1])
    np.testing.assert_array_equal(found, logits)


# ---------------------------------------------------------------- where results are saved

SAVES: dict[str, tuple[Call, type[CamrtError], str]] = {
    "where nothing can be": (lambda g: g.drawn.save("/proc/x"), StorageError, "/proc/x.*cannot be written"),
    "a file": (lambda g: g.drawn.save(g.path), StorageError, "is there and no folder: name a folder"),
    "below a file": (
        lambda g: g.drawn.save(g.path / "sub"),
        StorageError,
        "cannot be written: Not a directory",
    ),
    "a device": (lambda g: g.drawn.save("/dev/null"), StorageError, "is there and no folder"),
    "nothing": (lambda g: g.drawn.save(None), InputError, "must be the path of a folder"),
    "a number": (lambda g: g.drawn.save(3), InputError, "must be the path of a folder"),
    "bytes": (lambda g: g.drawn.save(b"out"), InputError, "must be the path of a folder"),
    "no name": (lambda g: g.drawn.save(""), InputError, "is no path; '.' is the folder"),
    "NUL": (lambda g: g.drawn.save("a\0b"), InputError, "is no path"),
    "an address": (lambda g: g.drawn.save("http://a.org/b"), InputError, "writes on this machine only"),
    "too long a name": (lambda g: g.drawn.save(g.folder / ("a" * 300)), StorageError, "name too long"),
    "an archive elsewhere": (
        lambda g: g.drawn.save(g.folder / "o", name="../b"),
        InputError,
        "without folders",
    ),
    "an archive in a folder": (
        lambda g: g.drawn.save(g.folder / "o", name="a/b"),
        InputError,
        "without folders",
    ),
    "a number for an archive": (lambda g: g.drawn.save(g.folder / "o", name=3), InputError, "name of a file"),
    "no archive's name": (lambda g: g.drawn.save(g.folder / "o", name=""), InputError, "name of a file"),
    "one stem": (lambda g: g.drawn.save(g.folder / "o", "a"), InputError, "expected 2 stems"),
    "a number for a stem": (lambda g: g.drawn.save(g.folder / "o", 3), InputError, "expected 2 stems"),
    "numbers for stems": (lambda g: g.drawn.save(g.folder / "o", [1, 2]), InputError, "a stem is text"),
    "one image": (
        lambda g: g.drawn.save(g.folder / "o", images=g.image),
        InputError,
        "expected 2 images to draw on, one an image, got 1",
    ),
    "a number for images": (
        lambda g: g.drawn.save(g.folder / "o", images=3),
        InputError,
        "expected 2 images",
    ),
    "opacity": (lambda g: g.drawn.save(g.folder / "o", opacity=7), InputError, "opacity must be in"),
}


@pytest.mark.parametrize("name", SAVES)
def test_where_nothing_can_be_saved(name: str, given: Given) -> None:
    call, error, message = SAVES[name]
    with pytest.raises(error, match=message):
        call(given)
    assert not (given.folder / "o").exists() or not list((given.folder / "o").iterdir())


def test_stems_and_images_in_any_form(given: Given, tmp_path: Path) -> None:
    paths = [tmp_path / "cat.jpg", tmp_path / "dog.jpg"]
    written = given.numbers.save(tmp_path / "out", (path for path in paths), images=iter([given.bytes] * 2))
    names = [path.name for path in written]
    assert [name.partition("_")[0] for name in names[:2]] == ["cat", "dog"]
    assert names[2:] == ["explanation.npz"]
