"""What the three papers print, as data: a figure that they do not print is None.

Figures are copied as printed, misprints included; what is known to be wrong with them is a table's remark.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from camrt.engine.class_sets import imagenet_nodes
from camrt.evaluation.metrics.channel_overlap import PUBLISHED_OVERLAP
from camrt.evaluation.metrics.patch_tasks import PUBLISHED_DEPENDENCE, PUBLISHED_LOCALISATION
from camrt.evaluation.papers.box_ablation import BoxSetting, box_table
from camrt.evaluation.papers.published_table import PublishedColumn, PublishedRow, PublishedTable, build_rows

__all__ = ["CALM", "PIXAB", "PUBLISHED", "SAME_MAP", "WALLS"]

CALM = "Keep CALM and Improve Visual Feature Attribution (ICCV 2021)"
WALLS = "CAM-Based Methods Can See through Walls (ECML-PKDD 2024)"
PIXAB = "Pixab-CAM: Attend Pixel, not Channel (ICLR 2022 submission)"

SAME_MAP = (
    "where a linear layer follows global pooling, as in the paper's Inception-v3, gradients are the same at "
    "every cell, so that Grad-CAM, XGrad-CAM, HiResCAM and CAM are one map up to a factor; that the paper "
    "prints different figures for gradcam and xgradcam cannot be reproduced"
)

_PIXEL_METHODS = {
    "gradient": "vanilla gradient",
    "integrated": "integrated gradients",
    "smoothgrad": "SmoothGrad",
    "vargrad": "variance gradient",
}
_CALM_ROWS = {
    "cam": "CAM",
    "cam+y": "CAM+Y",
    "calm-em": "CALM_EM",
    "calm-em+y": "CALM_EM+Y",
    "calm-ml": "CALM_ML",
    "calm-ml+y": "CALM_ML+Y",
    "calm": "CALM, this model",
    "calm+y": "CALM+Y, this model",
}
_EITHER_LOSS = (
    "a CALM model's figure is in the row 'CALM, this model', beside both of the paper's: a file need not say "
    "which loss made it, and with the current parameters as the teacher both losses have the same gradient"
)

_CUES = (
    PublishedColumn("1", "mPxAP, one part differs, %"),
    PublishedColumn("2", "mPxAP, two parts, %"),
    PublishedColumn("3", "mPxAP, three parts, %"),
    PublishedColumn("mean", "mPxAP, all pairs, %"),
)

_CALM_1 = PublishedTable(
    "calm-1",
    "Cue localisation: do maps of two birds differ where the birds differ?",
    CALM,
    "Table 1",
    "CUB-200-2011's test images, ResNet50 with maps of 28×28; 31, 64 and 96 pairs of classes",
    _CUES,
    build_rows(
        _PIXEL_METHODS | _CALM_ROWS,
        _CUES,
        {
            "gradient": (10.0, 13.7, 15.3, 13.9),
            "integrated": (12.0, 15.1, 17.3, 15.7),
            "smoothgrad": (11.8, 15.5, 18.6, 16.5),
            "vargrad": (16.7, 21.1, 23.1, 21.4),
            "cam": (24.1, 28.3, 32.2, 29.6),
            "calm-ml": (23.6, 26.7, 28.8, 27.3),
            "calm-em": (30.4, 33.3, 36.3, 34.3),
            "calm": (None,) * 4,
        },
    ),
    (
        "the mean is weighted by the pairs of each group: (31·30.4 + 64·33.3 + 96·36.3) / 191 = 34.3",
        "average precision is exact, and each pair has its own; the paper's code never empties its bins "
        "between pairs, and for CALM loses pixels below 1e-7",
        _EITHER_LOSS,
    ),
)

_ACCURACY = (PublishedColumn("accuracy", "accuracy, %", ("CUB", "OpenImages", "ImageNet")),)
_CALM_2 = PublishedTable(
    "calm-2",
    "Classification: what attribution costs in accuracy",
    CALM,
    "Table 2",
    "the best class is the true one; ResNet50 with maps of 28×28",
    _ACCURACY,
    build_rows(
        _CALM_ROWS | {"model": "this model, neither"},
        _ACCURACY,
        {
            "cam": (70.6, 72.1, 74.5),
            "calm-em": (71.8, 70.1, 70.4),
            "calm-ml": (59.6, 70.9, 70.6),
            "calm": (None,) * 3,
            "model": (None,) * 3,
        },
    ),
    ("for CALM_EM on ImageNet the paper's project page says 70.5", _EITHER_LOSS),
)

_OTHERS = {name.lower(): name for name in ("HaS", "ACoL", "SPG", "ADL", "CutMix", "InCA")}
_LOCALISED = _OTHERS | _CALM_ROWS

_MEANS = (
    PublishedColumn("maxboxaccv2", "MaxBoxAccV2, %", ("ImageNet", "CUB")),
    PublishedColumn("pxap", "PxAP, %", ("OpenImages",)),
    PublishedColumn("grand", "mean of the three data sets", ("as printed",)),
)
_CALM_3 = PublishedTable(
    "calm-3",
    "Localisation by boxes and masks, means over three networks",
    CALM,
    "Table 3",
    "ImageNet and CUB by boxes, OpenImages30k by masks; means of VGG16, Inception-v3 and ResNet50",
    _MEANS,
    build_rows(
        _LOCALISED,
        _MEANS,
        {
            "has": (62.6, 60.6, 57.4, None),
            "acol": (61.1, 60.0, 56.3, None),
            "spg": (62.2, 57.5, 59.1, None),
            "adl": (61.6, 61.1, 56.9, None),
            "cutmix": (62.2, 60.8, 59.5, None),
            "inca": (63.1, 63.4, None, None),
            "cam": (62.4, 61.1, 60.0, 61.2),
            "cam+y": (60.6, 63.4, 60.0, 60.1),
            "calm-em": (62.5, 52.5, 62.7, 59.2),
            "calm-em+y": (62.8, 65.4, 62.7, 63.6),
            "calm-ml": (62.6, 61.3, 62.3, None),
            "calm-ml+y": (62.7, 68.0, 62.3, None),
            "calm": (None,) * 4,
            "calm+y": (None,) * 4,
        },
    ),
    (
        "the mean printed for CAM+Y, 60.1, is a misprint: its own columns give 61.3",
        "a Gaussian in the middle of every image scores 52.5 on ImageNet, 59.7 on CUB, 45.8 on OpenImages",
        _EITHER_LOSS,
    ),
)

_NODES = (PublishedColumn("classes", "classes under the node", digits=0, better=""),)
_CALM_4 = PublishedTable(
    "calm-4",
    "The supersets of ImageNet's classes: nodes of WordNet",
    CALM,
    "Table 4",
    "ImageNet's 1000 classes",
    _NODES,
    tuple(
        PublishedRow(name, name, MappingProxyType({"classes": (printed,)}))
        for name, (printed, _) in imagenet_nodes().items()
    ),
    (
        "the paper prints 120 rows, of which pot and power tool stand there twice",
        "eight nodes have more classes in the hypernym graph published beside the paper's code, for an "
        "unstated reason; ship, truck and stringed instrument agree when classes of their inner nodes and "
        "shared ones are taken off",
    ),
)

_NETWORKS = ("VGG", "Inception", "ResNet")
_BY_NETWORK = (
    PublishedColumn(
        "maxboxaccv2", "MaxBoxAccV2, %", tuple(f"{s} {n}" for s in ("ImageNet", "CUB") for n in _NETWORKS)
    ),
    PublishedColumn("pxap", "PxAP, %", tuple(f"OpenImages {n}" for n in _NETWORKS)),
)
_CALM_5 = PublishedTable(
    "calm-5",
    "Localisation by boxes and masks, each network by itself",
    CALM,
    "Table 5",
    "ImageNet and CUB by boxes, OpenImages30k by masks; VGG16, Inception-v3 and ResNet50",
    _BY_NETWORK,
    build_rows(
        _LOCALISED,
        _BY_NETWORK,
        {
            "has": (60.6, 63.7, 63.4, 63.7, 53.4, 64.6, 58.1, 58.1, 55.9),
            "acol": (57.4, 63.7, 62.3, 57.4, 56.2, 66.4, 54.3, 57.2, 57.3),
            "spg": (59.9, 63.3, 63.3, 56.3, 55.9, 60.4, 58.3, 62.3, 56.7),
            "adl": (59.9, 61.4, 63.7, 66.3, 58.8, 58.3, 58.7, 56.9, 55.2),
            "cutmix": (59.5, 63.9, 63.3, 62.3, 57.4, 62.8, 58.1, 62.6, 57.7),
            "inca": (61.3, 62.8, 65.1, 66.7, 60.3, 63.2, None, None, None),
            "cam": (60.0, 63.4, 63.7, 63.7, 56.7, 63.0, 58.3, 63.2, 58.5),
            "cam+y": (59.4, 62.1, 60.4, 63.6, 59.1, 67.4, 58.3, 63.2, 58.5),
            "calm-em": (62.3, 62.2, 63.1, 54.9, 42.2, 60.3, 61.3, 64.4, 62.5),
            "calm-em+y": (62.8, 62.3, 63.4, 64.8, 60.3, 71.0, 61.3, 64.4, 62.5),
            "calm": (None,) * 9,
            "calm+y": (None,) * 9,
        },
    ),
    _CALM_3.remarks[1:],
)

_SHARES = ("CUB", "OpenImages", "ImageNet")
_REMOVAL = tuple(
    PublishedColumn(f"{share}", f"R_k, k = {share} %", _SHARES, 2, "lower") for share in (10, 30, 50, 70, 90)
)
_CALM_FIGURE_5 = PublishedTable(
    "calm-figure-5",
    "Remove and classify: accuracy left, relative to erasing random pixels",
    CALM,
    "Figure 5",
    "ResNet50 with maps of 28×28; read off the figure, ±0.05",
    _REMOVAL,
    build_rows(
        _PIXEL_METHODS | _CALM_ROWS,
        _REMOVAL,
        {
            "gradient": (None,) * 15,
            "integrated": (None,) * 15,
            "smoothgrad": (None,) * 15,
            "vargrad": (None,) * 15,
            "cam": (.48, None, .66, .47, None, .38, .72, None, .28, 1.06, None, .30, 1.22, None, .50),
            "calm-em": (.05, .64, .55, .04, .45, .27, .15, .46, .27, .40, .64, .44, 1.4, 1.4, .47),
            "calm-ml": (.05, .90, .34, .03, .75, .20, .12, .78, .33, .28, .74, .49, .34, 1.2, 1.17),
            "calm": (None,) * 15,
        },
    ),
    (
        "pixels are replaced by those of the blurred image, as the paper says; its code takes zeros",
        "each method is measured on its own model in the paper: CAM and gradients on a CAM classifier",
        _EITHER_LOSS,
    ),
)  # fmt: skip

_CAM_TITLES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "score": "Score-CAM",
    "ablation": "Ablation-CAM",
    "xgradcam": "XGrad-CAM",
    "pixab": "Pixab-CAM",
    "hirescam": "HiResCAM",
    "eigen": "Eigen-CAM",
    "layercam": "LayerCAM",
}

_MU = (
    PublishedColumn("mu", "μ", ("STACK-GEN",), 2, "lower"),
    PublishedColumn("spread", "standard deviation of μ", ("STACK-GEN",), 2, ""),
)
_WALLS = PublishedTable(
    "walls",
    "μ, the share of a map's norm where the model cannot see",
    WALLS,
    None,
    "VGG16 whose dense layer is masked, so that the lowest 54 of 224 rows are dead; 100 images",
    _MU,
    build_rows(
        _CAM_TITLES,
        _MU,
        {
            "gradcam": (0.22, 0.12),
            **dict.fromkeys(
                ("gradcam++", "xgradcam", "hirescam", "score", "ablation", "eigen", "layercam"), (None, None)
            ),
        },
    ),
    (
        "the figures of the paper's table are not known, but for the one its notebook prints; it says that "
        "all methods except HiResCAM are clearly positive",
        "HiResCAM and LayerCAM multiply by the gradient cell by cell, and are zero at cells that the model "
        "ignores: on the paper's grid of 14×14 their μ is exactly 0",
    ),
)

_PIXAB_SETTING = "Inception-v3, maps of 8×8"
_DAP = tuple(
    PublishedColumn(f"{task}-{measure}", f"{task.upper()} {measure.upper()}, %")
    for task in ("dap1", "dap2")
    for measure in ("pg", "ol")
)
_PATCHES = PublishedTable(
    "pixab-6",
    "Finding the adversarial patch of a class, on images (DAP1) and on zeros (DAP2)",
    PIXAB,
    "Table 6",
    f"{_PIXAB_SETTING}, 500 images each",
    _DAP,
    build_rows(_CAM_TITLES, _DAP, PUBLISHED_LOCALISATION),
    (
        "PG: the highest pixel lies in the patch; OL: the share of the map's sum that does",
        "how patches are attacked and where they lie is not printed: levels need not agree, the order may",
        SAME_MAP,
    ),
)

_SETS = ("ImageNet", "VOC07", "COCO14", "MOD")
_FAITHFUL = (
    PublishedColumn("drop", "average drop, %", _SETS, 1, "lower"),
    PublishedColumn("increase", "increase in confidence, %", _SETS),
    PublishedColumn("compactness", "compactness, cells", _SETS, 1, "lower"),
)
_FAITHFULNESS = PublishedTable(
    "pixab-3",
    "Average drop, increase in confidence, and compactness",
    PIXAB,
    "Table 3",
    f"{_PIXAB_SETTING}, 1,000 images of each data set",
    _FAITHFUL,
    build_rows(
        _CAM_TITLES,
        _FAITHFUL,
        {
            "gradcam": (34.8, 24.1, 24.5, 20.0, 22.0, 31.3, 33.1, 37.6, 14.7, 13.7, 14.2, 11.3),
            "gradcam++": (33.7, 22.4, 22.8, 21.3, 22.1, 33.3, 31.0, 35.2, 18.4, 19.8, 20.4, 16.9),
            "score": (33.2, 22.8, 23.6, 22.8, 22.2, 32.5, 30.8, 35.0, 19.4, 21.1, 21.7, 19.4),
            "ablation": (32.7, 21.2, 22.4, 20.1, 24.5, 33.3, 32.9, 37.6, 16.3, 17.9, 18.3, 14.5),
            "xgradcam": (33.7, 22.1, 23.2, 20.3, 23.8, 32.7, 33.0, 36.8, 17.8, 18.7, 19.4, 16.2),
            "pixab": (30.2, 19.4, 19.1, 18.9, 24.2, 36.2, 35.9, 39.7, 15.4, 16.1, 16.6, 12.6),
        },
    ),
    (
        "compactness is the sum over the map's own cells, at most 64 in the paper; on a grid of another size "
        "compare its share of the cells, which results.json holds",
        SAME_MAP,
    ),
)

_CURVES = (
    PublishedColumn("deletion", "deletion", digits=3, better="lower"),
    PublishedColumn("insertion", "insertion", digits=3),
)
_DELETION = PublishedTable(
    "pixab-4",
    "Deletion and insertion",
    PIXAB,
    "Table 4",
    _PIXAB_SETTING,
    _CURVES,
    build_rows(
        _CAM_TITLES,
        _CURVES,
        {
            "gradcam": (0.090, 0.433),
            "gradcam++": (0.094, 0.428),
            "score": (0.101, 0.425),
            "ablation": (0.088, 0.457),
            "xgradcam": (0.093, 0.434),
            "pixab": (0.082, 0.469),
        },
    ),
    ("the paper names no step and no blur; RISE's are taken", SAME_MAP),
)

_DOA = (PublishedColumn("doa", "DOA, 1 − cosine", digits=3),)
_DEPENDENCE = PublishedTable(
    "pixab-2",
    "Difference of a map from the plain sum of the activation's channels (DOA)",
    PIXAB,
    "Table 2",
    f"{_PIXAB_SETTING}, 500 images of four patches on zeros",
    _DOA,
    build_rows(_CAM_TITLES, _DOA, {key: (value,) for key, value in PUBLISHED_DEPENDENCE.items()}),
    (SAME_MAP,),
)

_COP = (
    PublishedColumn("0.5", "COP, channels of 100, active above 0.5", digits=0, better="lower"),
    PublishedColumn("0.25", "COP, active above 0.25", (), 0, "lower"),
    PublishedColumn("0.75", "COP, active above 0.75", (), 0, "lower"),
)
_OVERLAP = PublishedTable(
    "pixab-1",
    "Channels that cover the class's patch and another one as well (COP)",
    PIXAB,
    "Table 1",
    f"{_PIXAB_SETTING}, 500 images of four patches on zeros",
    _COP,
    build_rows(_CAM_TITLES, _COP, {key: (value,) for key, value in PUBLISHED_OVERLAP.items()}),
    ("from what level on a pixel of a channel is active is not printed: three levels are counted", SAME_MAP),
)

_OL = (PublishedColumn("energy", "object localisation, %", digits=2),)
_OBJECTS = PublishedTable(
    "pixab-5",
    "Object localisation: the share of a map's sum in boxes that people drew",
    PIXAB,
    "Table 5",
    f"{_PIXAB_SETTING}, 1,000 images of ImageNet's validation split",
    _OL,
    build_rows(
        _CAM_TITLES,
        _OL,
        {
            "gradcam": (46.39,),
            "gradcam++": (48.17,),
            "score": (50.77,),
            "ablation": (51.32,),
            "xgradcam": (47.19,),
            "pixab": (53.22,),
        },
    ),
    (
        "a map that knows nothing scores the boxes' share of the image: compare with that, and the centre",
        SAME_MAP,
    ),
)


def _box_rows(wanted: Mapping[str, BoxSetting]) -> tuple[PublishedRow, ...]:
    return tuple(
        PublishedRow(
            name,
            name,
            MappingProxyType(
                {}
                if setting.published is None
                else {column.name: (value,) for column, value in zip(_DAP, setting.published, strict=True)}
            ),
        )
        for name, setting in wanted.items()
    )


def _boxes(number: int, title: str, perspectives: str, several: bool, *remarks: str) -> PublishedTable:
    settings = {
        setting.name: setting
        for setting in box_table(("N2",), ("coverage",))
        if setting.perspectives == perspectives and (len(setting.boxes) > 1) == several
    }
    return PublishedTable(
        f"pixab-{number}",
        f"Boxes of Pixab-CAM on adversarial patches: {title}",
        PIXAB,
        f"Table {number}",
        f"{_PIXAB_SETTING}, 500 images each",
        _DAP,
        _box_rows(settings),
        remarks,
    )


_THREE = "of boxes with a side of 3 the paper says only that PG drops to about 48 to 50 and OL to about 41"
_BOXES = (
    _boxes(7, "deletion alone", "deletion", False),
    _boxes(8, "preservation alone", "preservation", False),
    _boxes(9, "both perspectives", "both", False, _THREE),
    _boxes(10, "several boxes together", "both", True),
)

_BRAIN = (
    PublishedColumn("drop", "average drop, %", (), better="lower"),
    PublishedColumn("compactness", "compactness, cells", (), better="lower"),
)
_FIGURE_12 = PublishedTable(
    "pixab-figure-12",
    "Brain tumours: six methods on VGG-16 whose last layer alone was trained",
    PIXAB,
    "Figure 12",
    "VGG-16 with ImageNet's weights, its last layer trained on 253 brain MRI images",
    _BRAIN,
    tuple(PublishedRow(key, _CAM_TITLES[key], MappingProxyType({})) for key in PUBLISHED_LOCALISATION),
    (
        "the paper shows maps and prints no figures: average drop and compactness are what its Table 3 has "
        "of other images",
        "the paper states no setting: four fifths of each class, Adam with 0.001, 30 epochs, batches of 32",
    ),
)

PUBLISHED: Mapping[str, PublishedTable] = MappingProxyType(
    {
        table.name: table
        for table in (
            _CALM_1,
            _CALM_2,
            _CALM_3,
            _CALM_4,
            _CALM_5,
            _CALM_FIGURE_5,
            _WALLS,
            _OVERLAP,
            _DEPENDENCE,
            _FAITHFULNESS,
            _DELETION,
            _OBJECTS,
            _PATCHES,
            *_BOXES,
            _FIGURE_12,
        )
    }
)
"""The tables by name, in the order of the papers."""
