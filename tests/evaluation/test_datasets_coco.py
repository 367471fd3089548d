"""COCO instances: boxes, polygons and run lengths against slow oracles, and every kind of fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from camrt.errors import DataError, InputError
from camrt.evaluation.datasets import Box, Dataset, read_dataset
from camrt.evaluation.datasets.regions import PolygonRegion, RunLengthRegion, decode_run_lengths
from helpers.oracles.regions import compress_run_lengths, near_edge, polygon, run_lengths

WIDTH, HEIGHT = 20, 10
LABELS = ("cat", "dog")
SQUARE = [2, 3, 6, 3, 6, 8, 2, 8]


def image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


def content(*annotations: Any, **more: Any) -> dict[str, Any]:
    full = [
        {"id": k, "image_id": 1, "category_id": 8, **annotation}
        if isinstance(annotation, dict)
        else annotation
        for k, annotation in enumerate(annotations, 1)
    ]
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": full,
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
        **more,
    }


def read(root: Path, data: Any) -> Dataset:
    image(root / "a.png")
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    (root / "annotations.json").write_bytes(text)
    return read_dataset(root, labels=LABELS, num_classes=2)


def problems(dataset: Dataset) -> list[str]:
    return [str(problem).removeprefix(f"{dataset.root}/") for problem in dataset.problems]


# ---- what is read ----


def test_boxes_and_polygons(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        content(
            {"bbox": [2, 3, 4, 5], "segmentation": [SQUARE, [10, 0, 12, 0, 12, 2, 10, 2]]},
            {"bbox": [0.5, 0, 19.5, 10], "category_id": 7},
        ),
    )
    (sample,) = found.samples
    assert not found.problems
    assert sample.boxes == (Box(1, 2, 3, 6, 8), Box(0, 0.5, 0, 20, 10))
    assert sample.label is None
    (mask,) = sample.masks
    assert mask.label == 1
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:8, 2:6] = 1
    expected[0:2, 10:12] = 1
    np.testing.assert_array_equal(mask.pixels((HEIGHT, WIDTH)), expected)
    assert mask.pixels((HEIGHT, WIDTH)).dtype == np.uint8


@pytest.mark.parametrize("text", [False, True])
def test_a_crowd_is_to_be_ignored(tmp_path: Path, text: bool) -> None:
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[4:, 5:15] = True
    counts: Any = compress_run_lengths(run_lengths(crowd)) if text else run_lengths(crowd)
    rle = {"size": [HEIGHT, WIDTH], "counts": counts}
    found = read(tmp_path, content({"bbox": [5, 4, 10, 6], "segmentation": rle, "iscrowd": 1}))
    (sample,) = found.samples
    assert not found.problems
    assert sample.boxes == ()
    assert sample.label == 1
    np.testing.assert_array_equal(sample.masks[0].pixels((HEIGHT, WIDTH)), 255 * crowd)


def test_images_are_found_where_coco_has_them(tmp_path: Path) -> None:
    image(tmp_path / "val" / "b.png")
    image(tmp_path / "images" / "c.png")
    data = content(
        images=[
            {"id": "x", "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "c.png"},
        ]
    )
    data["annotations"] = [{"id": 1, "image_id": "x", "category_id": 7, "bbox": [0, 0, 1, 1]}]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(data))
    found = read_dataset(tmp_path, labels=LABELS, num_classes=2)
    assert not found.problems
    assert [(sample.name, len(sample.boxes)) for sample in found.samples] == [
        ("images/c.png", 0),
        ("val/b.png", 1),
    ]


# ---- faults ----


@pytest.mark.parametrize(
    ("annotation", "kept", "words"),
    [
        ({"bbox": [1, 1, 5]}, (0, 0), "annotation 1: bbox must be [x, y, width, height]"),
        ({"bbox": "1 1 5 5"}, (0, 0), "annotation 1: bbox must be"),
        ({}, (0, 0), "annotation 1: bbox must be"),
        ({"bbox": [1, 1, "5", 5]}, (0, 0), "a box's edges must be finite numbers"),
        ({"bbox": [1, True, 5, 5]}, (0, 0), "a box's edges must be finite numbers"),
        ({"bbox": [1, 1, float("nan"), 5]}, (0, 0), "a box's edges must be finite numbers"),
        ({"bbox": [1, 1, 1.7e308, 5]}, (1, 0), "reaches outside"),
        ({"bbox": [1.7e308, 1, 1.7e308, 5]}, (0, 0), "a box's edges must be finite numbers"),
        ({"bbox": [1, 1, 10**400, 5]}, (0, 0), "a box's edges must be finite numbers"),
        ({"bbox": [1, 1, 0, 5]}, (0, 0), "annotation 1: box (1, 1, 1, 6) is empty"),
        ({"bbox": [1, 1, -1, 5]}, (0, 0), "is inverted"),
        ({"bbox": [1, 1, 5, 5], "image_id": 2}, (0, 0), "annotation 1: there is no image 2"),
        ({"bbox": [1, 1, 5, 5], "image_id": [[]]}, (0, 0), "annotation 1: there is no image"),
        (
            {"bbox": [1, 1, 5, 5], "category_id": 9},
            (0, 0),
            "category 9: it is not in the list of categories; its 1",
        ),
        ({"bbox": [1, 1, 5, 5], "category_id": {}}, (0, 0), "category_id must be a number or text"),
        (
            {"bbox": [1, 1, 5, 5], "id": None},
            (0, 0),
            "annotation at position 0: must be an object with an id",
        ),
        ({"bbox": [1, 1, 5, 5], "iscrowd": 2}, (0, 0), "iscrowd must be 0 or 1"),
        ({"bbox": [1, 1, 5, 5], "iscrowd": 1}, (0, 0), "a crowd without a segmentation"),
        ({"bbox": [1, 1, 5, 5], "segmentation": "x"}, (1, 0), "must be a list of polygons or run lengths"),
        ({"bbox": [1, 1, 5, 5], "segmentation": [5]}, (1, 0), "a polygon must be a list"),
        ({"bbox": [1, 1, 5, 5], "segmentation": [[1, 2, 3, 4]]}, (1, 0), "a polygon must be a list"),
        ({"bbox": [1, 1, 5, 5], "segmentation": [SQUARE[:-1]]}, (1, 0), "a polygon must be a list"),
        ({"bbox": [1, 1, 5, 5], "segmentation": [[*SQUARE, 1, None]]}, (1, 0), "must be finite numbers"),
        ({"segmentation": [[1, 1, 5, 1, 9, 1]]}, (0, 0), "annotation 1: a polygon has no area"),
        ({"segmentation": [[31, 1, 35, 1, 39, 5]]}, (0, 0), "a polygon is outside the image"),
        ({"segmentation": [[1, 1, 1e300, 1, 9, 5]]}, (0, 0), "further outside the image than"),
        (
            {"segmentation": [[1, 1, 25, 1, 9, 5]]},
            (0, 1),
            "a polygon reaches outside the image; it is clipped",
        ),
        (
            {"segmentation": {"size": [20, 10], "counts": [200]}},
            (0, 0),
            "size must be the image's, [10, 20]",
        ),
        ({"segmentation": {"size": [10, 20], "counts": [100]}}, (0, 0), "do not add up to the image's 200"),
        ({"segmentation": {"size": [10, 20], "counts": [300, -100]}}, (0, 0), "must not be negative"),
        ({"segmentation": {"size": [10, 20], "counts": [10**3000]}}, (0, 0), "do not add up"),
        ({"segmentation": {"size": [10, 20], "counts": [1.5]}}, (0, 0), "a list of whole numbers or text"),
        ({"segmentation": {"size": [10, 20], "counts": "é"}}, (0, 0), "compressed run lengths hold no 'é'"),
        ({"segmentation": {"size": [10, 20], "counts": "o"}}, (0, 0), "run lengths break off"),
        ({"segmentation": {"size": [10, 20], "counts": "o" * 50}}, (0, 0), "too long"),
        (5, (0, 0), "annotation at position 0: must be an object with an id"),
    ],
)
def test_what_is_wrong_in_an_annotation_is_listed(
    tmp_path: Path, annotation: Any, kept: tuple[int, int], words: str
) -> None:
    found = read(tmp_path, content(annotation, {"bbox": [0, 0, 20, 10]}))
    assert problems(found)[0].startswith("annotations.json: ")
    assert words in problems(found)[0]
    assert len(found.problems) == 1
    (sample,) = found.samples
    assert (len(sample.boxes), len(sample.masks)) == (kept[0] + 1, kept[1])


@pytest.mark.parametrize(
    ("more", "kept", "words"),
    [
        ({"images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 20}]}, 0, "the same turned"),
        (
            {"images": [{"id": 1, "file_name": "a.png", "width": "20", "height": 10}]},
            0,
            "image 1: the stated width and",
        ),
        ({"images": [{"id": 1, "file_name": "../a.png"}]}, None, "image 1: the image '../a.png' is not"),
        ({"images": [{"id": 1, "file_name": "b.png"}]}, None, "image 1: the image 'b.png' is missing"),
        ({"images": [{"id": 1, "file_name": ["a.png"]}]}, None, "image 1: file_name must be text"),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, 1, "image at position 1: its id 1 was there"),
        (
            {"images": [{"id": k, "file_name": "a.png"} for k in (1, 2)]},
            1,
            "image 2: another image has the file",
        ),
        ({"categories": [{"id": 8, "name": "wolf"}]}, 0, "category 8: no class is called 'wolf'; its 1 ann"),
        ({"categories": [{"id": 8, "name": 5}]}, 0, "category 8: its name must be text"),
        ({"categories": None}, 0, "there is no list of categories"),
        ({"categories": [{"id": 9, "name": "wolf"}, {"id": 8, "name": "dog"}] * 2}, 1, "its id 9 was there"),
    ],
)
def test_what_is_wrong_in_the_lists_is_listed(
    tmp_path: Path, more: dict[str, Any], kept: int | None, words: str
) -> None:
    found = read(tmp_path, content({"bbox": [0, 0, 20, 10]}, **more))
    assert words in problems(found)[0]
    assert [len(sample.boxes) for sample in found.samples] == ([] if kept is None else [kept])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"images": [],\n "annotations": [}', "annotations.json:2: not JSON: Expecting value (column 18)"),
        (b'{"images": [],\n "\xff": []}', "annotations.json:2: not UTF-8"),
        (b"[" * 200_000, "annotations.json: not JSON that can be read"),
        (b"[" + b"9" * 5000 + b"]", "annotations.json: not JSON that can be read"),
        (b"[]", "annotations.json: not COCO instances"),
        (b'{"images": {}, "annotations": []}', "annotations.json: not COCO instances"),
        (b"", "annotations.json:1: not JSON"),
    ],
)
def test_a_file_that_is_not_coco_leaves_the_images(tmp_path: Path, raw: bytes, words: str) -> None:
    found = read(tmp_path, raw)
    assert words in problems(found)[0]
    assert [(sample.name, sample.boxes) for sample in found.samples] == [("a.png", ())]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a.png", "8", "../x"]),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner)
    ),
    max_leaves=12,
)
KEYS = ["id", "image_id", "category_id", "bbox", "segmentation", "iscrowd"]


@settings(max_examples=60, deadline=None)
@given(
    annotation=st.dictionaries(st.sampled_from(KEYS), JSON),
    entry=st.dictionaries(st.sampled_from(["id", "file_name", "width", "height"]), JSON),
    category=st.dictionaries(st.sampled_from(["id", "name"]), JSON),
)
def test_no_json_value_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, annotation: Any, entry: Any, category: Any
) -> None:
    data = content(annotation, {"bbox": [0, 0, 20, 10]})
    data["images"].append(entry)
    data["categories"].append(category)
    found = read(tmp_path_factory.mktemp("json"), data)
    for sample in found.samples:
        for mask in sample.masks:
            assert mask.pixels((HEIGHT, WIDTH)).shape == (HEIGHT, WIDTH)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("coco")
    expected = {}
    images, annotations = [], []
    for name in data.draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True)):
        image(root / f"{name}.png")
        images.append({"id": name, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT})
        boxes, masks = [], []
        for _ in range(data.draw(st.integers(0, 3))):
            x0, y0 = (
                data.draw(st.integers(0, 4 * WIDTH - 1)) / 4,
                data.draw(st.integers(0, 4 * HEIGHT - 1)) / 4,
            )
            width = data.draw(st.integers(1, int(4 * (WIDTH - x0)))) / 4
            height = data.draw(st.integers(1, int(4 * (HEIGHT - y0)))) / 4
            label = data.draw(st.integers(0, 1))
            bits = data.draw(st.integers(0, 2 ** (WIDTH * HEIGHT) - 1))
            mask = np.array([bits >> k & 1 for k in range(WIDTH * HEIGHT)], bool).reshape(HEIGHT, WIDTH)
            boxes.append(Box(label, x0, y0, x0 + width, y0 + height))
            masks.append(mask)
            counts = run_lengths(mask)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": name,
                    "category_id": 7 + label,
                    "bbox": [x0, y0, width, height],
                    "segmentation": {
                        "size": [HEIGHT, WIDTH],
                        "counts": compress_run_lengths(counts) if data.draw(st.booleans()) else counts,
                    },
                }
            )
        expected[f"{name}.png"] = boxes, masks
    everything = content(images=images)
    everything["annotations"] = annotations
    (root / "annotations.json").write_text(json.dumps(everything))
    found = read_dataset(root, labels=LABELS, num_classes=2)
    assert not found.problems
    assert [sample.name for sample in found.samples] == sorted(expected)
    for sample in found.samples:
        boxes, masks = expected[sample.name]
        assert list(sample.boxes) == boxes
        for mask, pixels in zip(sample.masks, masks, strict=True):
            np.testing.assert_array_equal(mask.pixels((HEIGHT, WIDTH)), pixels)


# ---- polygons and run lengths by themselves ----

CORNERS = st.lists(st.tuples(st.floats(-4, 16), st.floats(-4, 12)), min_size=3, max_size=7)


@settings(max_examples=80, deadline=None)
@given(corners=CORNERS)
def test_a_polygon_has_the_pixels_whose_centre_it_holds(corners: list[tuple[float, float]]) -> None:
    ring = [float(value) for corner in corners for value in corner]
    clear = ~near_edge(ring, 8, 12, 1e-9)
    assume(clear.any())
    found = PolygonRegion((tuple(ring),)).pixels((8, 12))
    np.testing.assert_array_equal(found[clear], polygon(ring, 8, 12)[clear])


def test_polygons_that_share_an_edge_share_no_pixel() -> None:
    left, right = (0.5, 0.5, 4.5, 0.5, 4.5, 6.5, 0.5, 6.5), (4.5, 0.5, 8.5, 0.5, 8.5, 6.5, 4.5, 6.5)
    one, two = (PolygonRegion((ring,)).pixels((8, 10)) for ring in (left, right))
    assert not (one & two).any()
    assert (one | two).sum() == 6 * 8


@settings(max_examples=80, deadline=None)
@given(counts=st.lists(st.integers(0, 10**9), max_size=12))
def test_compressed_run_lengths(counts: list[int]) -> None:
    assert decode_run_lengths(compress_run_lengths(counts)) == counts


def test_a_known_text() -> None:
    """A square of 3×3 pixels at (1, 2) in 5×7, encoded by COCO's own tool."""
    counts = tuple(decode_run_lengths(";320009"))
    square = RunLengthRegion(counts, (5, 7)).pixels((5, 7))
    assert counts == (11, 3, 2, 3, 2, 3, 11)
    assert square[1:4, 2:5].all()
    assert square.sum() == 9


def test_run_lengths_are_of_one_size_only() -> None:
    with pytest.raises(DataError, match="are of 2×3 pixels, not 3×2"):
        RunLengthRegion((6,), (3, 2)).pixels((2, 3))


@pytest.mark.parametrize("size", [(0, 5), (5,), (2.5, 3)])
def test_a_size_is_two_whole_numbers(tmp_path: Path, size: Any) -> None:
    found = read(tmp_path, content({"segmentation": [SQUARE]}))
    with pytest.raises(InputError, match="height, width"):
        found.samples[0].masks[0].pixels(size)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of the tool's own
def test_as_cocos_own_tool() -> None:
    """Run lengths are the same; polygons differ only in pixels that an edge passes through."""
    tool = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((30, 40)) < rng.random()
        text = tool.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        np.testing.assert_array_equal(
            RunLengthRegion(tuple(decode_run_lengths(text)), (30, 40)).pixels((30, 40)), mask
        )
        angles, radius = np.sort(rng.random(8)) * 2 * np.pi, rng.uniform(6, 14, 8)
        corners = np.stack([20 + radius * np.cos(angles), 15 + radius * np.sin(angles)], axis=1)
        ring = corners.reshape(-1).tolist()
        theirs = tool.decode(tool.frPyObjects([ring], 30, 40))[:, :, 0].astype(bool)
        ours = PolygonRegion((tuple(ring),)).pixels((30, 40))
        clear = ~near_edge(ring, 30, 40, 0.75)
        np.testing.assert_array_equal(ours[clear], theirs[clear])
        assert abs(int(ours.sum()) - int(theirs.sum())) <= 0.06 * theirs.sum() + 5
