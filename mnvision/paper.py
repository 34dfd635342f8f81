"""The tables of the MobileNet paper (Howard et al. 2017, arXiv:1704.04861) as it prints them.

Figures are strings with the paper's own digits. What stands beside them is never written here: each row names one of
our models, which ``counts`` builds and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MILLION, BILLION, PERCENT = 10**6, 10**9, 0.01


class Model(NamedTuple):
    """One of our models, or a part of it.

    Attributes:
        task: A task of ``create_model``, or ``torchvision``.
        alpha: Width multiplier.
        size: Side of the input in pixels.
        classes: Classes without background.
        variant: Of MobileNet V1; or the name of torchvision's model.
        form: Of the task's head.
        part: Path of the module that is counted alone; empty for the whole.
        kind: Layer type that is counted alone; empty for all.
    """

    task: str = "classify"
    alpha: float = 1.0
    size: int = 224
    classes: int = 1000
    variant: str = "standard"
    form: str | None = None
    part: str = ""
    kind: str = ""

    @property
    def whole(self) -> Model:
        """The model of which this is a part."""
        return self._replace(part="", kind="")


class Quantity(NamedTuple):
    """A column.

    Attributes:
        key: What ``counts`` calls it; of a measured one the name in ``metrics.json`` without its split.
        title: Heading, with the unit.
        unit: What one printed unit is worth; None for text.
        measured: Whether it is the outcome of a training: ours then comes from recorded runs alone.
    """

    key: str
    title: str
    unit: float | None = None
    measured: bool = False


class Row(NamedTuple):
    """A row.

    Attributes:
        key: Unique in its table, and stable: recorded results name it.
        label: As the paper prints it.
        printed: A figure for each of the table's quantities; empty where the paper prints none.
        model: Ours of the same kind, if there is one.
    """

    key: str
    label: str
    printed: tuple[str, ...]
    model: Model | None = None


class Note(NamedTuple):
    """What to know of some rows.

    Attributes:
        rows: Their keys.
        text: A sentence; ``{mult_adds:,}``, ``{parameters:,}`` and other counts stand for those of ``model``.
        model: By default that of the first row.
    """

    rows: tuple[str, ...]
    text: str
    model: Model | None = None


class Table(NamedTuple):
    """A table; the keys of its rows are ``<key>/<row>``."""

    key: str
    title: str
    quantities: tuple[Quantity, ...]
    rows: Sequence[Row]
    notes: tuple[Note, ...] = ()
    source: str = "paper"


TOP1 = Quantity("top1", "ImageNet top-1, %", PERCENT, measured=True)
MULT_ADDS = Quantity("mult_adds", "mult-adds, M", MILLION)
PARAMETERS = Quantity("parameters", "parameters, M", MILLION)
COSTS = (TOP1, MULT_ADDS, PARAMETERS)

TABLES: list[Table] = [
    Table(
        "table4",
        "Table 4. Depthwise separable against full convolution",
        COSTS,
        [
            Row("conv", "Conv MobileNet", ("71.7", "4866", "29.3"), Model(variant="full_conv")),
            Row("1.0-224", "MobileNet", ("70.6", "569", "4.2"), Model()),
        ],
        (
            Note(
                ("conv",),
                "4866 leaves the fully connected layer out ({mult_adds:,} without it); the 569 below holds it.",
                Model(variant="full_conv", part="backbone"),
            ),
        ),
    ),
    Table(
        "table5",
        "Table 5. Narrow against shallow",
        COSTS,
        [
            Row("0.75-224", "0.75 MobileNet", ("68.4", "325", "2.6"), Model(alpha=0.75)),
            Row("shallow", "Shallow MobileNet", ("65.3", "307", "2.9"), Model(variant="shallow")),
        ],
    ),
    Table(
        "table6",
        "Table 6. Width multiplier",
        COSTS,
        [
            Row("1.0-224", "1.0 MobileNet-224", ("70.6", "569", "4.2"), Model()),
            Row("0.75-224", "0.75 MobileNet-224", ("68.4", "325", "2.6"), Model(alpha=0.75)),
            Row("0.5-224", "0.5 MobileNet-224", ("63.7", "149", "1.3"), Model(alpha=0.5)),
            Row("0.25-224", "0.25 MobileNet-224", ("50.6", "41", "0.5"), Model(alpha=0.25)),
        ],
    ),
    Table(
        "table7",
        "Table 7. Resolution",
        COSTS,
        [
            Row("1.0-224", "1.0 MobileNet-224", ("70.6", "569", "4.2"), Model()),
            Row("1.0-192", "1.0 MobileNet-192", ("69.1", "418", "4.2"), Model(size=192)),
            Row("1.0-160", "1.0 MobileNet-160", ("67.2", "290", "4.2"), Model(size=160)),
            Row("1.0-128", "1.0 MobileNet-128", ("64.4", "186", "4.2"), Model(size=128)),
        ],
        (Note(("1.0-160",), "290 is cut off, not rounded: the exact count is {mult_adds:,}."),),
    ),
]
