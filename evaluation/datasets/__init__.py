"""Annotated pictures: boxes and masks read from the usual formats, with every fault listed and none hidden.

`read_dataset` recognises the format; each format has its own file.
"""

from __future__ import annotations

from camrt.evaluation.datasets.classes import ClassIndex
from camrt.evaluation.datasets.reading import read_dataset
from camrt.evaluation.datasets.recognising import KINDS
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
