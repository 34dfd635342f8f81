"""Reads a CSV file of pictures and their attributes: a column for the file, and one for each attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.attribute_values import NO, UNKNOWN, YES, check_attributes, codes_of, decode_values, part_of_groups
from mnvision.data.csv_rows import CsvTable, open_list, picture_names
from mnvision.data.labelled import encode_names
from mnvision.data.splits import VAL_SHARE, Split, warn_of_words
from mnvision.errors import UserError, file_error

MinusOne = Literal["no", "unknown"]
_WORDS = ("train", "val", "test")  # of the column for the split
_PLAIN = {"1": YES, "1.0": YES, "true": YES, "0": NO, "0.0": NO, "false": NO, "": UNKNOWN, "nan": UNKNOWN}


@dataclass(frozen=True)
class AttributeColumns:
    """Names of the columns that are no attributes, where the file has them."""

    file: str = "file"
    split: str | None = None  # says train, val or test
    group: str | None = None  # what belongs together, such as a person's name: never in two parts


@dataclass(frozen=True)
class _Table:
    """A whole file: cells of the columns that are no attributes, and the values of those that are."""

    pictures: LabelledPictures
    splits: np.ndarray | None
    groups: np.ndarray | None


def read_attribute_list(
    file: str | Path,
    *,
    split: Split | None = None,
    folder: str | Path | None = None,
    columns: AttributeColumns | None = None,
    attributes: Sequence[str] | None = None,
    minus_one: MinusOne | None = None,
    val_share: float = VAL_SHARE,
    seed: int = 0,
) -> LabelledPictures:
    """Read a list of pictures and their attributes.

    The first line names the columns, which commas, semicolons or tabs set apart. A value is 1 (or true), 0 (or false),
    or empty (or nan) where it is not known. What -1 means has to be said: in some files it stands for no, as CelebA
    has it, in others for what is not known.

    Args:
        file: The list, UTF-8.
        split: Take the rows whose column for the split says this. Without such a column, or where it never says
            ``val``, a share of the training pictures is held out, group by group. None takes all rows.
        folder: What the paths are relative to; the folder of the list where None.
        columns: Names of the columns that are no attributes.
        attributes: The columns to read, in this order; all that are left where None.
        minus_one: ``no`` or ``unknown``; None: -1 is refused.
        val_share: Part to hold out.
        seed: Of what is held out.

    Raises:
        UserError: The list is missing, empty, not UTF-8, or lacks a column; a line is wrong (with its number); a
            picture is listed twice; there is no such split, or a group is in two; one of three pictures that are
            looked for is missing.
    """
    file, columns = Path(file), columns or AttributeColumns()
    if minus_one not in (None, *get_args(MinusOne)):
        raise UserError(f"data.minus_one is {minus_one!r}. Expected no, unknown, or null where -1 does not occur")
    meanings = _PLAIN | ({} if minus_one is None else dict.fromkeys(("-1", "-1.0"), _minus(minus_one)))
    with open_list(file, of="attributes") as text:
        table = _read(CsvTable(text, file=file), columns=columns, attributes=attributes, meanings=meanings)
    pictures = table.pictures if split is None else _take(table, split, share=val_share, seed=seed, file=file)
    return check_attributes(pictures, folder=file.parent if folder is None else Path(folder), source=file)


def _minus(meaning: MinusOne) -> int:
    return NO if meaning == "no" else UNKNOWN


def _read(
    table: CsvTable, *, columns: AttributeColumns, attributes: Sequence[str] | None, meanings: Mapping[str, int]
) -> _Table:
    named = {"file": columns.file, "split": columns.split, "group": columns.group}
    for kind, name in named.items():
        table.require(name, f"Name it in data.{kind}_column")
    chosen = attributes or [name for name in table.header if name and name not in named.values()]
    for name in chosen:
        table.require(name, "Every list has to have the attributes to learn; data.classes chooses among them")
    names, splits, groups, lines, codes = list[str](), list[str](), list[str](), list[int](), bytearray()
    for name, said, group, *values in table.rows([*named.values(), *chosen]):
        row = codes_of(values, meanings=meanings)
        if isinstance(row, int):  # perhaps written in capitals
            row = codes_of([value.lower() for value in values], meanings=meanings)
        if isinstance(row, int):
            hint = "; give data.minus_one=no or data.minus_one=unknown" if values[row] in ("-1", "-1.0") else ""
            raise table.wrong(
                f"has {values[row]!r} for {chosen[row]}. Expected 1, 0, or nothing where it is not known{hint}"
            )
        codes += row
        for column, value in ((names, name), (splits, said)):
            column.append(value)
        groups.append(group or f"line {table.line}")  # whose group nobody knows is alone in it
        lines.append(table.line)
    names = picture_names(names, lines=lines, file=table.file)
    labels = decode_values(codes, attributes=max(1, len(chosen)))
    return _Table(
        LabelledPictures(encode_names(names, source=table.file), labels, tuple(chosen)),
        splits=None if columns.split is None else np.array(splits),
        groups=None if columns.group is None else np.array(groups),
    )


def _take(table: _Table, split: Split, *, share: float, seed: int, file: Path) -> LabelledPictures:
    pictures, groups = table.pictures, table.groups
    if table.splits is not None:
        if groups is not None:
            _refuse_shared_groups(groups, table.splits, file=file)
        warn_of_words(table.splits.tolist(), words=_WORDS, file=file)
        said = set(table.splits.tolist())
        held = "val" not in said and split != "test"
        word = "train" if held else split
        if word not in said:
            raise file_error(file, f"has no picture of the split {word!r}. Its splits: {', '.join(sorted(said))}")
        rows = table.splits == word
        pictures, groups = pictures.take(rows), None if groups is None else groups[rows]
        if not held:
            return pictures
    return part_of_groups(pictures, split, groups=groups, share=share, seed=seed, name=str(file))


def refuse_shared_people(train: Path, measured: Path, *, columns: AttributeColumns) -> None:
    """Refuse two lists that share a group, such as a person, in ``columns.group``.

    Raises:
        UserError: They do; names one.
    """
    if columns.group is None:
        return
    shared = sorted(set(_groups_of(train, columns=columns)) & set(_groups_of(measured, columns=columns)))
    if shared:
        raise file_error(
            measured,
            f"{len(shared)} groups of data.group_column={columns.group} are in {train.name}, too, the first is"
            f" '{shared[0]}'. Expected every group in one list, or give data.group_column=null",
        )


def _groups_of(file: Path, *, columns: AttributeColumns) -> list[str]:
    with open_list(file, of="attributes") as text:
        return [group for [group] in CsvTable(text, file=file).rows([columns.group]) if group]


def _refuse_shared_groups(groups: np.ndarray, splits: np.ndarray, *, file: Path) -> None:
    """What was trained on cannot be measured on, and a person is one however many pictures there are."""
    for first, second in combinations(_WORDS, 2):  # rows that say anything else are left out
        shared = np.intersect1d(groups[splits == first], groups[splits == second])
        if len(shared):
            raise file_error(
                file,
                f"{len(shared)} groups are in both splits {first!r} and {second!r}, the first is '{shared[0]}'."
                " Expected every group in one split, or give data.group_column=null",
            )
