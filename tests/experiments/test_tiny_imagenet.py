import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from camrt.errors import ImageError, InputError

pytest.importorskip("torch")

from experiments.default_classes import CLASSES, LABELS, class_of_wnid
from experiments.tiny_imagenet import ARCHIVE, read_tiny_imagenet


def png(colour, side=64):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def archive(folder, entries, boxes=None):
    with zipfile.ZipFile(folder / ARCHIVE, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
        if boxes is not None:
            file.writestr("boxes.json", json.dumps(boxes))


def test_labels_and_wnids_agree():
    indices = class_of_wnid()
    assert len(indices) == sum(len(wnids) for wnids in CLASSES.values()) == 38
    assert sorted(set(indices.values())) == list(range(len(LABELS))) == list(range(33))
    assert LABELS[indices["n02123045"]] == LABELS[indices["n02123394"]] == "cat"


def test_images_classes_and_boxes_are_read(tmp_path):
    entries = {
        "train/n07753592/b.png": png((255, 255, 0)),
        "train/n02123045/a.png": png((10, 20, 30)),
        "train/n04560804/left_out.png": png((0, 0, 0)),
        "val/n02123045/c.png": png((0, 0, 0)),
    }
    archive(tmp_path, entries, {"train/n02123045/a.png": [[0, 10, 63, 58]]})
    images = read_tiny_imagenet(tmp_path, "train")
    assert [images.labels[index] for index in images.classes] == ["cat", "banana"]
    assert images.pixels[0, :, 5, 6].tolist() == [10, 20, 30]
    assert images.boxes[0].tolist() == [[10, 0, 59, 64]], "(x0, y0, x1, y1) inclusive becomes half-open rows"
    assert images.boxes[1].shape == (0, 4)
    assert len(images) == 2
    assert images.pixels.shape == (2, 3, 64, 64)
    assert images.classes.dtype == np.int64


def test_a_missing_folder_and_a_missing_archive_are_named(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        read_tiny_imagenet(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match=ARCHIVE):
        read_tiny_imagenet(tmp_path, "train")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_archive_without_the_split_is_named(tmp_path, split):
    archive(tmp_path, {"other/n02123045/a.png": png((0, 0, 0))}, {})
    with pytest.raises(InputError, match=split):
        read_tiny_imagenet(tmp_path, split)


def test_a_file_that_is_no_archive_is_named(tmp_path):
    (tmp_path / ARCHIVE).write_bytes(b"not a zip file")
    with pytest.raises(InputError, match="expected archive"):
        read_tiny_imagenet(tmp_path, "train")


def test_an_archive_without_boxes_is_named(tmp_path):
    archive(tmp_path, {"train/n02123045/a.png": png((0, 0, 0))})
    with pytest.raises(InputError, match=r"boxes\.json"):
        read_tiny_imagenet(tmp_path, "train")


@pytest.mark.parametrize(
    ("data", "message"), [(b"no image", "decoded"), (png((0, 0, 0), 32), "32×32")], ids=["broken", "size"]
)
def test_bad_images_are_named(tmp_path, data, message):
    archive(tmp_path, {"train/n02123045/a.png": data}, {})
    with pytest.raises(ImageError, match=message):
        read_tiny_imagenet(tmp_path, "train")
