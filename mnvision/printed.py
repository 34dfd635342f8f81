"""What a printed table is made of, and which of our models stands beside each of its rows."""

from __future__ import annotations

from typing import NamedTuple

# The option of each backbone that says which of its forms is meant.
VARIANTS = {"mobilenet_v1": "variant", "squeezenet": "version"}


class Model(NamedTuple):
    """One of our models, or a part of it.

    Attributes:
        task: A task of ``create_model``, or ``torchvision``.
        alpha: Width multiplier.
        size: Side of the input in pixels.
        classes: Classes without background.
        variant: Of the backbone, see ``VARIANTS``, empty for its own; or the name of torchvision's model.
        form: Of the task's head.
        part: Path of the module that is counted alone; empty for the whole.
        kind: Layer type that is counted alone; empty for all.
        backbone: A key of ``VARIANTS``.
    """

    task: str = "classify"
    alpha: float = 1.0
    size: int = 224
    classes: int = 1000
    variant: str = ""
    form: str | None = None
    part: str = ""
    kind: str = ""
    backbone: str = "mobilenet_v1"

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
        rows: Their keys; none where it concerns the whole table.
        text: A sentence; ``{mult_adds:,}``, ``{parameters:,}`` and other counts stand for those of ``model``.
        model: By default that of the first row.
    """

    rows: tuple[str, ...]
    text: str
    model: Model | None = None


class Table(NamedTuple):
    """A table.

    Attributes:
        key: Such as ``table6``; the full key of a row is ``table6/1.0-224``.
        title: Its heading.
        quantities: Its columns.
        rows: In the paper's order.
        notes: Printed below it, numbered.
        source: Where its printed figures come from.
    """

    key: str
    title: str
    quantities: tuple[Quantity, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...] = ()
    source: str = "paper"

    def row_key(self, row: Row) -> str:
        """The key of a row among those of all tables."""
        return f"{self.key}/{row.key}"
