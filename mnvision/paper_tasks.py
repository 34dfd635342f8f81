"""The tables of the MobileNet paper's tasks (10 to 14), and the sixteen models of its Figures 4 and 5."""

from __future__ import annotations

from mnvision.paper import BASELINES, BILLION, BODY, COSTS, MODELS, MULT_ADDS, PARAMETERS, PERCENT, STRUCTURE
from mnvision.printed import Model, Note, Quantity, Row, Table

CELLS = 26_263  # classes of the first PlaNet (Weyand et al. 2016, arXiv:1602.05314)
MULT_ADDS_BILLION = Quantity("mult_adds", "mult-adds, B", BILLION)
PLANET = Model(task="geolocate", classes=CELLS)
DOGS = Model(classes=120)
SSD = Model(task="ssd", size=300, classes=90)
FASTER_RCNN = Model(task="faster_rcnn", form="c4", size=300, classes=90)

TASKS: tuple[Table, ...] = (
    Table(
        "table10",
        "Table 10. Stanford Dogs",
        (Quantity("top1", "top-1, %", PERCENT, measured=True), MULT_ADDS, PARAMETERS),
        (
            Row("inception-v3", "Inception V3", ("84", "5000", "23.2")),
            Row("1.0-224", "1.0 MobileNet-224", ("83.3", "569", "3.3"), DOGS),
            Row("0.75-224", "0.75 MobileNet-224", ("81.9", "325", "1.9"), DOGS._replace(alpha=0.75)),
            Row("1.0-192", "1.0 MobileNet-192", ("81.9", "418", "3.3"), DOGS._replace(size=192)),
            Row("0.75-192", "0.75 MobileNet-192", ("80.5", "239", "1.9"), DOGS._replace(alpha=0.75, size=192)),
        ),
        (
            Note(
                ("1.0-224", "1.0-192"),
                "The printed mult-adds are those of 1,000 classes (Tables 6 and 7), the parameters those of 120; with "
                "120 classes the first of these has {mult_adds:,} mult-adds.",
            ),
            Note((), "The paper pretrained on a large set of dog pictures from the web, not on ImageNet."),
        ),
    ),
    Table(
        "table11",
        "Table 11. PlaNet: pictures of Im2GPS's test set placed within a distance, and the text's costs",
        tuple(
            Quantity(f"within_{distance}km", f"within {distance} km, %", PERCENT, measured=True)
            for distance in (2500, 750, 200, 25, 1)
        )
        + (MULT_ADDS_BILLION, PARAMETERS),
        (
            Row("im2gps", "Im2GPS", ("51.9", "35.4", "32.1", "21.9", "2.5", "", "")),
            Row("planet", "PlaNet", ("77.6", "64.0", "51.1", "31.7", "11.0", "5.74", "52")),
            Row(
                "planet-mobilenet",
                "PlaNet MobileNet",
                ("79.3", "60.3", "45.2", "31.7", "11.4", "0.58", "13"),
                PLANET,
            ),
        ),
        (
            Note(
                ("planet-mobilenet",),
                'The text says "0.58 Million" mult-adds and must mean Billion: the body alone has {mult_adds:,}.',
                BODY,
            ),
            Note(
                ("planet-mobilenet",),
                f"Ours has the {CELLS:,} cells of PlaNet's own paper: {{mult_adds:,}} mult-adds and {{parameters:,}} "
                "weights. The paper's 13 M, of which 10 M in the last layer, are about 9,800 cells; how many the "
                "updated PlaNet has is not published.",
            ),
            Note(
                ("planet-mobilenet",),
                "With 9,800 cells ours has {mult_adds:,} mult-adds and {parameters:,} weights, which round to the "
                "printed 0.58 B and 13 M.",
                PLANET._replace(classes=9_800),
            ),
            Note(
                ("planet",),
                "An updated version, not that of PlaNet's own paper, which prints 71.3, 53.6, 37.6, 24.5 and 8.4 % and "
                "has 97 M parameters.",
            ),
        ),
    ),
    Table(
        "table12",
        "Table 12. Face attributes (ours: the body)",
        (Quantity("mean_ap", "mean AP, %", PERCENT, measured=True), MULT_ADDS, PARAMETERS),
        (
            Row("1.0-224", "1.0 MobileNet-224", ("88.7", "568", "3.2"), BODY),
            Row("0.5-224", "0.5 MobileNet-224", ("88.1", "149", "0.8"), BODY._replace(alpha=0.5)),
            Row("0.25-224", "0.25 MobileNet-224", ("87.2", "45", "0.2"), BODY._replace(alpha=0.25)),
            Row("1.0-128", "1.0 MobileNet-128", ("88.1", "185", "3.2"), BODY._replace(size=128)),
            Row("0.5-128", "0.5 MobileNet-128", ("87.7", "48", "0.8"), BODY._replace(alpha=0.5, size=128)),
            Row("0.25-128", "0.25 MobileNet-128", ("86.4", "15", "0.2"), BODY._replace(alpha=0.25, size=128)),
            Row("baseline", "Baseline", ("86.9", "1600", "7.5")),
        ),
        (
            Note(("0.25-224",), "45 does not fit: the body has {mult_adds:,} mult-adds."),
            Note(("0.5-128",), "48 is cut off, not rounded: the exact count is {mult_adds:,}."),
            Note(("0.25-128",), "15 does not fit: the body has {mult_adds:,} mult-adds."),
            Note(("baseline",), "The text gives the baseline 75 million parameters, the table 7.5."),
        ),
    ),
    Table(
        "table13",
        "Table 13. COCO object detection",
        (Quantity("map", "mAP, %", PERCENT, measured=True), MULT_ADDS_BILLION, PARAMETERS),
        (
            Row("ssd300-deeplab-vgg", "SSD 300, deeplab-VGG", ("21.1", "34.9", "33.1")),
            Row("ssd300-inception-v2", "SSD 300, Inception V2", ("22.0", "3.8", "13.7")),
            Row("ssd300-mobilenet", "SSD 300, MobileNet", ("19.3", "1.2", "6.8"), SSD),
            Row("frcnn300-vgg", "Faster-RCNN 300, VGG", ("22.9", "64.3", "138.5")),
            Row("frcnn300-inception-v2", "Faster-RCNN 300, Inception V2", ("15.4", "118.2", "13.3")),
            Row("frcnn300-mobilenet", "Faster-RCNN 300, MobileNet", ("16.4", "25.2", "6.1"), FASTER_RCNN),
            Row("frcnn600-vgg", "Faster-RCNN 600, VGG", ("25.7", "149.6", "138.5")),
            Row("frcnn600-inception-v2", "Faster-RCNN 600, Inception V2", ("21.9", "129.6", "13.3")),
            Row(
                "frcnn600-mobilenet",
                "Faster-RCNN 600, MobileNet",
                ("19.8", "30.5", "6.1"),
                FASTER_RCNN._replace(size=600),
            ),
        ),
        (
            Note(
                ("frcnn300-mobilenet", "frcnn600-mobilenet"),
                "The weights alone are {parameters:,}; with biases and BatchNorm's gamma and beta they are "
                "{trainable:,}, which round to 6.1. Counted with 300 proposals.",
            ),
            Note((), "The paper tested on 8,000 pictures of COCO 2014 held out as minival, not on val2017."),
        ),
    ),
    Table(
        "table14",
        "Table 14. Distilled from FaceNet (ours: the body)",
        (Quantity("accuracy_1e-4", "1e-4 accuracy, %", PERCENT, measured=True), MULT_ADDS, PARAMETERS),
        (
            Row("facenet", "FaceNet", ("83", "1600", "7.5")),
            Row("1.0-160", "1.0 MobileNet-160", ("79.4", "286", "4.9"), BODY._replace(size=160)),
            Row("1.0-128", "1.0 MobileNet-128", ("78.3", "185", "5.5"), BODY._replace(size=128)),
            Row("0.75-160", "0.75 MobileNet-128", ("75.2", "166", "3.4"), BODY._replace(alpha=0.75, size=160)),
            Row("0.75-128", "0.75 MobileNet-128", ("72.5", "108", "3.8"), BODY._replace(alpha=0.75, size=128)),
        ),
        (
            Note(
                ("1.0-160", "1.0-128", "0.75-160", "0.75-128"),
                "The paper does not describe the head. Neither the pooled nor the flattened map with a layer of 128 "
                "features behind it gives the printed parameters; the body alone has {parameters:,} at alpha 1.",
            ),
            Note(("1.0-160",), "286 does not fit: the body has {mult_adds:,} mult-adds."),
            Note(
                ("0.75-160",),
                "Printed as 0.75 MobileNet-128 like the row below; 166 is that of an input of 160: {mult_adds:,}.",
            ),
            Note(("0.75-128",), "108 does not fit: the body has {mult_adds:,} mult-adds."),
        ),
    ),
)

# ImageNet top-1 in percent by alpha and input, for 224, 192, 160 and 128: models that TF-slim's authors retrained in
# February 2018 (tensorflow/models, research/slim/nets/mobilenet_v1.md, Apache-2.0). Not the runs of the paper.
SLIM_TOP1 = {
    "1.0": ("70.9", "70.0", "68.0", "65.2"),
    "0.75": ("68.4", "67.2", "65.3", "62.1"),
    "0.5": ("63.3", "61.7", "59.1", "56.3"),
    "0.25": ("49.8", "47.7", "45.5", "41.5"),
}
SIXTEEN = Table(
    "figure4",
    "Figures 4 and 5. The sixteen models",
    COSTS,
    tuple(
        Row(
            f"{alpha}-{size}",
            f"{alpha} MobileNet-{size}",
            (top1, "", ""),
            Model(alpha=float(alpha), size=size),
        )
        for alpha, accuracies in SLIM_TOP1.items()
        for size, top1 in zip((224, 192, 160, 128), accuracies, strict=True)
    ),
    (
        Note(
            (),
            "The paper's figures carry no numbers, and its tables hold eight of the sixteen. These accuracies are of "
            "the models that TF-slim's authors retrained in February 2018, with 1,001 classes (tensorflow/models, "
            "research/slim/nets/mobilenet_v1.md, Apache-2.0): not the paper's runs.",
        ),
    ),
    source="TF-slim",
)
TABLES = (*STRUCTURE, *MODELS, *TASKS, SIXTEEN, BASELINES)
