"""The tables of the MobileNet paper (Howard et al. 2017, arXiv:1704.04861) as it prints them.

Figures are strings with the paper's own digits. Ours are never written here: each row names one of our models, which
``counts`` builds and counts. The notes say where the paper's own figures do not agree with each other.
"""

from __future__ import annotations

from mnvision.printed import Model, Note, Quantity, Row, Table

MILLION, BILLION, PERCENT = 10**6, 10**9, 0.01

TOP1 = Quantity("top1", "ImageNet top-1, %", PERCENT, measured=True)
MULT_ADDS = Quantity("mult_adds", "mult-adds, M", MILLION)
PARAMETERS = Quantity("parameters", "parameters, M", MILLION)
COSTS = (TOP1, MULT_ADDS, PARAMETERS)
BODY = Model(part="backbone")
SQUEEZENET = Model(backbone="squeezenet", variant="1.0")
INNER = "backbone.blocks.6"  # the first of the five blocks of 512 channels at 14x14


def _body_rows() -> tuple[Row, ...]:
    """Table 1: each of the paper's words has a row, and the five equal blocks have one each."""
    printed = [
        ("64", "s1", 112, 112),
        ("128", "s2", 112, 56),
        ("128", "s1", 56, 56),
        ("256", "s2", 56, 28),
        ("256", "s1", 28, 28),
        ("512", "s2", 28, 14),
        *[("512", "s1", 14, 14)] * 5,
        ("1024", "s2", 14, 7),
        ("1024", "s2", 7, 7),
    ]
    rows = [Row("conv", "1", ("Conv / s2", "3x3x3x32", "224x224x3", "", ""), Model(part="backbone.stem"))]
    inputs = "32"
    for number, (outputs, stride, side, reduced) in enumerate(printed, start=1):
        block = f"backbone.blocks.{number - 1}"
        depthwise = (f"Conv dw / {stride}", f"3x3x{inputs} dw", f"{side}x{side}x{inputs}", "", "")
        pointwise = ("Conv / s1", f"1x1x{inputs}x{outputs}", f"{reduced}x{reduced}x{inputs}", "", "")
        rows.append(Row(f"{number}-dw", f"{2 * number}", depthwise, Model(part=f"{block}.depthwise")))
        rows.append(Row(f"{number}-pw", f"{2 * number + 1}", pointwise, Model(part=f"{block}.pointwise")))
        inputs = outputs
    return (
        *rows,
        Row("pool", "", ("Avg Pool / s1", "Pool 7x7", "7x7x1024", "", ""), Model(part="pooling")),
        Row("fc", "28", ("FC / s1", "1024x1000", "1x1x1024", "", ""), Model(part="head")),
        Row("softmax", "", ("Softmax / s1", "Classifier", "1x1x1000", "", ""), Model(part="softmax")),
    )


STRUCTURE: tuple[Table, ...] = (
    Table(
        "table1",
        "Table 1. MobileNet body architecture",
        (Quantity("type", "type / stride"), Quantity("filter", "filter shape"), Quantity("input", "input size"))
        + (MULT_ADDS, PARAMETERS),
        _body_rows(),
        (
            Note(
                ("13-dw",),
                "Printed with stride 2, though a map of 7x7 comes in and one of 7x7 goes out: the stride is 1. With 2 "
                "the network would have 533,833,216 mult-adds and not {whole_mult_adds:,}.",
            ),
        ),
    ),
    Table(
        "table2",
        "Table 2. Resources by layer type",
        (
            Quantity("share_mult_adds", "share of mult-adds, %", PERCENT),
            Quantity("share_parameters", "share of parameters, %", PERCENT),
            MULT_ADDS,
            PARAMETERS,
        ),
        (
            Row("conv-1x1", "Conv 1x1", ("94.86", "74.59", "", ""), Model(kind="conv 1x1")),
            Row("conv-dw-3x3", "Conv DW 3x3", ("3.06", "1.06", "", ""), Model(kind="conv dw 3x3")),
            Row("conv-3x3", "Conv 3x3", ("1.19", "0.02", "", ""), Model(kind="conv 3x3")),
            Row("fully-connected", "Fully Connected", ("0.18", "24.33", "", ""), Model(kind="fully connected")),
        ),
        (
            Note(
                ("conv-3x3",),
                "1.19 must be 1.91 with two digits swapped: {mult_adds:,} of {whole_mult_adds:,} mult-adds are "
                "{share_mult_adds:.3%}, and the printed column adds up to 99.29 %.",
            ),
        ),
    ),
    Table(
        "table3",
        "Table 3. One layer of 512 channels at 14x14, each row a change on top of the one above",
        (MULT_ADDS, PARAMETERS),
        (
            Row("conv", "Convolution", ("462", "2.36"), Model(variant="full_conv", part=INNER)),
            Row("separable", "Depthwise Separable Conv", ("52.3", "0.27"), Model(part=INNER)),
            Row("alpha-0.75", "alpha = 0.75", ("29.6", "0.15"), Model(alpha=0.75, part=INNER)),
            Row("rho-0.714", "rho = 0.714", ("15.1", "0.15"), Model(alpha=0.75, size=160, part=INNER)),
        ),
        (Note(("rho-0.714",), "Rho 0.714 is an input of 160, and here a map of 10x10."),),
    ),
)

MODELS: tuple[Table, ...] = (
    Table(
        "table4",
        "Table 4. Depthwise separable against full convolution",
        COSTS,
        (
            Row("conv", "Conv MobileNet", ("71.7", "4866", "29.3"), Model(variant="full_conv")),
            Row("1.0-224", "MobileNet", ("70.6", "569", "4.2"), Model()),
        ),
        (
            Note(
                ("conv",),
                "4866 leaves the fully connected layer out ({mult_adds:,} without it); the 569 below it holds it.",
                Model(variant="full_conv", part="backbone"),
            ),
        ),
    ),
    Table(
        "table5",
        "Table 5. Narrow against shallow",
        COSTS,
        (
            Row("0.75-224", "0.75 MobileNet", ("68.4", "325", "2.6"), Model(alpha=0.75)),
            Row("shallow", "Shallow MobileNet", ("65.3", "307", "2.9"), Model(variant="shallow")),
        ),
    ),
    Table(
        "table6",
        "Table 6. Width multiplier",
        COSTS,
        (
            Row("1.0-224", "1.0 MobileNet-224", ("70.6", "569", "4.2"), Model()),
            Row("0.75-224", "0.75 MobileNet-224", ("68.4", "325", "2.6"), Model(alpha=0.75)),
            Row("0.5-224", "0.5 MobileNet-224", ("63.7", "149", "1.3"), Model(alpha=0.5)),
            Row("0.25-224", "0.25 MobileNet-224", ("50.6", "41", "0.5"), Model(alpha=0.25)),
        ),
    ),
    Table(
        "table7",
        "Table 7. Resolution",
        COSTS,
        (
            Row("1.0-224", "1.0 MobileNet-224", ("70.6", "569", "4.2"), Model()),
            Row("1.0-192", "1.0 MobileNet-192", ("69.1", "418", "4.2"), Model(size=192)),
            Row("1.0-160", "1.0 MobileNet-160", ("67.2", "290", "4.2"), Model(size=160)),
            Row("1.0-128", "1.0 MobileNet-128", ("64.4", "186", "4.2"), Model(size=128)),
        ),
        (Note(("1.0-160",), "290 is cut off, not rounded: the exact count is {mult_adds:,}."),),
    ),
    Table(
        "table8",
        "Table 8. Beside popular models",
        COSTS,
        (
            Row("1.0-224", "1.0 MobileNet-224", ("70.6", "569", "4.2"), Model()),
            Row("googlenet", "GoogleNet", ("69.8", "1550", "6.8"), Model(task="torchvision", variant="googlenet")),
            Row("vgg16", "VGG 16", ("71.5", "15300", "138"), Model(task="torchvision", variant="vgg16")),
        ),
        (
            Note(
                ("googlenet",),
                "Counted on torchvision's GoogLeNet without the auxiliary classifiers, whose 5x5 branches are 3x3: "
                "{mult_adds:,} mult-adds and {parameters:,} weights.",
            ),
            Note(
                ("vgg16",),
                "15300 are the convolutions alone: {mult_adds:,} mult-adds on torchvision's VGG16.",
                Model(task="torchvision", variant="vgg16", part="features"),
            ),
        ),
    ),
    Table(
        "table9",
        "Table 9. A smaller MobileNet beside popular models",
        COSTS,
        (
            Row("0.5-160", "0.50 MobileNet-160", ("60.2", "76", "1.32"), Model(alpha=0.5, size=160)),
            Row("squeezenet", "Squeezenet", ("57.5", "1700", "1.25"), SQUEEZENET),
            Row("alexnet", "AlexNet", ("57.2", "720", "60"), Model(task="torchvision", variant="alexnet")),
        ),
        (
            Note(("0.5-160",), "76 is cut off, not rounded: the exact count is {mult_adds:,}."),
            Note(
                ("squeezenet",),
                "SqueezeNet 1.0 has {mult_adds:,} mult-adds at 224x224, about half of 1700; its parameters are "
                "{trainable:,} with biases.",
            ),
            Note(
                ("alexnet",),
                "Torchvision's AlexNet is the variant of one tower (arXiv:1404.5997): {mult_adds:,} mult-adds and "
                "{parameters:,} weights.",
            ),
        ),
    ),
)

BASELINES = Table(
    "baselines",
    "What a separable convolution is measured against (ours alone)",
    (MULT_ADDS, PARAMETERS),
    (
        Row("separable-1.0-224", "1.0 MobileNet-224", ("", ""), Model()),
        Row("flattened-1.0-224", "1.0 flattened-224", ("", ""), Model(variant="flattened")),
        Row("conv-1.0-224", "1.0 full convolution-224", ("", ""), Model(variant="full_conv")),
        Row("separable-0.5-160", "0.5 MobileNet-160", ("", ""), Model(alpha=0.5, size=160)),
        Row("flattened-0.5-160", "0.5 flattened-160", ("", ""), Model(alpha=0.5, size=160, variant="flattened")),
        Row("conv-0.2-160", "0.2 full convolution-160", ("", ""), Model(alpha=0.2, size=160, variant="full_conv")),
        Row("squeezenet-1.1-224", "SqueezeNet 1.1", ("", ""), SQUEEZENET._replace(variant="1.1")),
        Row("squeezenet-1.0-224", "SqueezeNet 1.0", ("", ""), SQUEEZENET),
    ),
    (
        Note(
            ("separable-0.5-160", "flattened-0.5-160", "conv-0.2-160", "squeezenet-1.1-224", "squeezenet-1.0-224"),
            "Chosen for 1.2 to 1.3 million parameters, as those of Table 9 are.",
        ),
        Note(
            ("flattened-1.0-224", "flattened-0.5-160"),
            "Each separable block as a flattened convolution (arXiv:1412.5474). At stride 2 its line across the "
            "channels runs on the map before the stride, hence more mult-adds at about the same parameters.",
        ),
    ),
)
