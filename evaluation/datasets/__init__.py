"""Annotated images: boxes and masks read from the usual formats, with every fault listed and none hidden.

`read_dataset` recognises the format; each format has its own file.
"""

from __future__ import annotations

from camrt.evaluation.datasets.class_index import ClassIndex
from camrt.evaluation.datasets.format_detection import KINDS
from camrt.evaluation.datasets.reader import read_dataset
from camrt.evaluation.datasets.samples import Box, Dataset, Mask, Problem, Sample, union_pixels

__all__ = [
    "KINDS",
    "Box",
    "ClassIndex",
    "Dataset",
    "Mask",
    "Problem",
    "Sample",
    "read_dataset",
    "union_pixels",
]
