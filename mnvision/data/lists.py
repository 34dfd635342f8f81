"""Reads a list of pictures and their classes: a CSV file with a header, or plain text with a picture a line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.csv_rows import CsvTable, open_list, picture_names
from mnvision.data.labelled import check_pictures, encode_names, keep_classes, warn_of_empty_classes
from mnvision.data.pictures import SUFFIXES
from mnvision.data.splits import VAL_SHARE, HoldOut, Split, part_of, take_split
from mnvision.errors import UserError, did_you_mean, file_error, line_error

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_MOST_CLASSES = 100_000  # that numbers count, where there are no more pictures: any list may leave classes out
_TOO_GREAT = 10**18


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a CSV file; a box has four, which may be missing."""

    file: str = "file"
    label: str | None = "label"  # None: the classes are not known
    split: str | None = None  # None: the list is not split
    splits: tuple[str, str, str] = ("train", "val", "test")  # what the split's column says
    box: tuple[str, str, str, str] = _CORNERS


@dataclass
class _Rows:
    """What a list says, a row a picture."""

    files: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] | None = None  # None: it has no column for them
    boxes: list[tuple[float, ...]] | None = None
    lines: list[int] = field(default_factory=list)


def read_list(
    file: str | Path,
    *,
    split: Split | None = None,
    folder: str | Path | None = None,
    columns: Columns | None = None,
    known: Sequence[str] | None = None,
    numbers: bool = True,
    classes: Sequence[str] | None = None,
    val_share: float = VAL_SHARE,
    seed: int = 0,
    hold_out: HoldOut = part_of,
) -> LabelledPictures:
    """Read a list of pictures and their classes.

    A file that ends in ``.csv`` or ``.tsv`` begins with a header that names its columns, which commas, semicolons or
    tabs set apart. Any other is plain text: each line is a path, or a path and a label behind a blank or tab; empty
    lines and those that begin with ``#`` are passed over. All lines have a label or none has; in a CSV file a label
    may be left empty. A picture without a label gets -1.

    Labels are names of classes, or integers from 0 on that count them. They are names where all of them are ``known``
    names, else integers where all look like it, unless ``numbers`` is False. The table of classes is what is known,
    else the sorted names, or the numbers from 0 to the greatest, of the whole list, whatever the split.

    Pictures keep the order of the list. A box is given in pixels of the original picture, xmin and ymin of its left
    and upper edge, xmax and ymax of its right and lower one; a row may leave its four cells empty and gets NaN.

    Args:
        file: The list, UTF-8.
        split: Take the rows whose column for the split says this. Without such a column, or where it never says
            ``val``, a share of the training pictures is held out, see `mnvision.data.splits.split_rows`. None takes
            all rows.
        folder: What the paths are relative to; the folder of the list where None.
        columns: Names of the columns of a CSV file.
        known: Names of all classes, in the order of their labels.
        numbers: Whether labels that look like numbers count the classes. False, for identities: ``01``, ``1`` and
            ``90071992`` are names of three; -1, as everywhere, is nobody.
        classes: Names of the classes to use, in the order of their labels; the pictures of the others are left out.
        val_share: Part to hold out.
        seed: Of what is held out.
        hold_out: What does that.

    Raises:
        UserError: The list is missing, empty, not UTF-8, or lacks a column; a line is wrong (with its number); a
            picture is listed twice; a class is unknown; there is no such split; one of three pictures that are
            looked for is missing; a number would make more classes than there can be.
    """
    file, columns = Path(file), columns or Columns()
    with open_list(file, of="pictures", expected="a CSV file or plain text") as text:
        if file.suffix.lower() in (".csv", ".tsv"):
            rows = _read_csv(CsvTable(text, file=file), columns=columns)
        else:
            rows = _read_plain(text, file=file)
    names = picture_names(rows.files, lines=rows.lines, file=file, splits=rows.splits)
    labels, table = _labels(rows, known=known, numbers=numbers, file=file)
    pictures = LabelledPictures(
        file_names=encode_names(names, source=file),
        labels=labels,
        classes=table,
        boxes=None if rows.boxes is None else np.array(rows.boxes, dtype=np.float64).reshape(-1, 4),
    )
    if split is not None:
        pictures = take_split(
            pictures,
            split,
            said=rows.splits,
            words=columns.splits,
            share=val_share,
            seed=seed,
            file=file,
            hold_out=hold_out,
        )
    if classes is not None:
        pictures = keep_classes(pictures, classes=classes, file=file)
    check_pictures(pictures, folder=file.parent if folder is None else Path(folder), source=file)
    warn_of_empty_classes(pictures, name=str(file))
    return pictures


def _read_csv(table: CsvTable, *, columns: Columns) -> _Rows:
    for kind, name in (("file", columns.file), ("label", columns.label), ("split", columns.split)):
        table.require(name, f"Name it in data.{kind}_column")
    box = [name for name in columns.box if name in table.header]
    if 0 < len(box) < 4:
        raise file_error(
            table.file, f"has the columns {', '.join(box)} alone; expected all of {', '.join(columns.box)}"
        )
    rows, said = _Rows(boxes=[] if box else None), list[str]()
    for name, label, split, *corners in table.rows([columns.file, columns.label, columns.split, *box]):
        rows.files.append(name)
        rows.labels.append(label)
        rows.lines.append(table.line)
        said.append(split)
        if rows.boxes is not None:
            rows.boxes.append(_box(corners, table=table))
    return rows if columns.split is None else replace(rows, splits=said)


def _read_plain(text: TextIO, *, file: Path) -> _Rows:
    rows = _Rows()
    for number, name, label in _plain_lines(text):
        rows.files.append(name)
        if rows.labels and bool(label) != bool(rows.labels[0]):
            got, before = ("a label", "none") if label else ("no label", "one")
            raise _line_error(file, number, f"has {got}, and line {rows.lines[0]} has {before}: {name!r}")
        rows.labels.append(label)
        rows.lines.append(number)
    return rows


def _plain_lines(text: TextIO) -> Iterator[tuple[int, str, str]]:
    """Line number, path and label; a path that ends like a picture is no label, so that it may hold blanks."""
    for number, line in enumerate(text, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        head, _, tail = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
        if head and not tail.lower().endswith(tuple(SUFFIXES)):
            yield number, head.strip(), tail.strip()
        else:
            yield number, line, ""


def _box(cells: list[str], *, table: CsvTable) -> tuple[float, ...]:
    if not any(cells):
        return (math.nan,) * 4
    try:
        xmin, ymin, xmax, ymax = box = tuple(float(cell) for cell in cells)
    except ValueError:
        raise table.wrong(f"has the box {cells}; expected four numbers, or four empty cells") from None
    if not (xmin < xmax and ymin < ymax and all(map(math.isfinite, box))):
        raise table.wrong(f"has the box {cells}; expected xmin < xmax and ymin < ymax in pixels")
    return box


def _labels(
    rows: _Rows, *, known: Sequence[str] | None, numbers: bool, file: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 [I] and the table of classes."""
    nobody = {""} if numbers else {"", "-1"}
    given = set(rows.labels) - nobody
    names = sorted(given) if known is None else known
    numbers = numbers and all(_INTEGER.fullmatch(label) for label in given)
    if numbers and given and not (known is not None and given <= set(known)):
        labels = np.array([_number(label) for label in rows.labels], dtype=np.int64)
        if known is None:
            names = _counted(labels, rows=rows, file=file)
        wrong = (labels < -1) | (labels >= len(names))
        if wrong.any():
            i = int(np.argmax(wrong))
            raise _line_error(
                file,
                rows.lines[i],
                f"has the label {rows.labels[i]}; expected 0 to {len(names) - 1}, one of {len(names)} classes, or -1"
                " for a picture whose class is not known",
            )
        return labels, tuple(names)
    place = {name: label for label, name in enumerate(names)} | dict.fromkeys(nobody, -1)
    strange = given - place.keys()
    if strange:
        i = next(i for i, label in enumerate(rows.labels) if label in strange)
        raise _line_error(
            file,
            rows.lines[i],
            f"has the class {rows.labels[i]!r}; expected one of the {len(names)} classes to learn or recognise"
            f"{did_you_mean(rows.labels[i], names, known=True)}",
        )
    return np.array([place[label] for label in rows.labels], dtype=np.int64), tuple(names)


def _number(label: str) -> int:
    """The number of a class; -1 where it is not known."""
    return int(label or -1) if len(label) < 19 else _TOO_GREAT  # more digits may be more than an array holds


def _counted(labels: np.ndarray, *, rows: _Rows, file: Path) -> list[str]:
    """The numbers from 0 to the greatest label as names; refuses such as can be no number of a class."""
    i, most = int(np.argmax(labels)), max(_MOST_CLASSES, len(labels))
    if labels[i] >= most:
        raise _line_error(
            file,
            rows.lines[i],
            f"has the label {rows.labels[i]}, and the list {len(labels)} pictures; expected numbers that count the "
            f"classes from 0 on, below {most}. If these are names, put a letter before each",
        )
    return [str(label) for label in range(int(labels[i]) + 1)]


def _line_error(file: Path, line: int, message: str) -> UserError:
    return line_error(file, line, f"{message}. Correct the line")
