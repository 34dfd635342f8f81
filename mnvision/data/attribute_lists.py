"""Reads a CSV file of pictures and their attributes: a column for the file, and one for each attribute."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, TextIO, get_args

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.attribute_values import NO, UNKNOWN, YES, check_attributes, codes_of, decode_values, part_of_groups
from mnvision.data.labelled import encode_names
from mnvision.data.splits import VAL_SHARE, Split
from mnvision.errors import UserError, did_you_mean, file_error

MinusOne = Literal["no", "unknown"]
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
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            table = _read(text, columns=columns, attributes=attributes, meanings=meanings, file=file)
    except FileNotFoundError:
        there = sorted(path.name for path in file.parent.glob("*.csv"))
        have = f"; the lists there: {', '.join(there[:10])}" if there else ""
        raise UserError(
            f"list of attributes not found: {file}. Expected a CSV file; check data.root, data.train, data.val and"
            f" data.test{have}"
        ) from None
    except UnicodeDecodeError as error:
        raise file_error(file, f"is not UTF-8 text ({error}). Save it as UTF-8") from error
    pictures = table.pictures if split is None else _take(table, split, share=val_share, seed=seed, file=file)
    return check_attributes(pictures, folder=file.parent if folder is None else Path(folder), source=file)


def _minus(meaning: MinusOne) -> int:
    return NO if meaning == "no" else UNKNOWN


def _read(
    text: TextIO,
    *,
    columns: AttributeColumns,
    attributes: Sequence[str] | None,
    meanings: Mapping[str, int],
    file: Path,
) -> _Table:
    first = text.readline()
    mark = next((mark for mark in ",;\t" if mark in first), ",")
    reader = csv.reader(chain([first], text), delimiter=mark, strict=True)
    codes, lines = bytearray(), dict[str, int]()  # the line of each picture
    others: dict[str, list[str]] = {name: [] for name in (columns.split, columns.group) if name is not None}

    def wrong(message: str) -> UserError:
        return file_error(file, f"line {reader.line_num} {message}")

    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, wanted=(columns.file, *others, *(attributes or ())), file=file)
        chosen = attributes or [name for name in header if name != columns.file and name not in others]
        places = [header.index(name) for name in chosen]
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise wrong(f"has {len(cells)} cells, expected {len(header)}. Correct the line")
            cells = [cell.strip() for cell in cells]
            name = cells[header.index(columns.file)]
            if not name or "\0" in name:
                raise wrong(f"names the file {name!r}. Expected the path of a picture")
            if name in lines:
                raise wrong(f"lists {name!r} again, as line {lines[name]}. Expected every picture once")
            row = codes_of([cells[place].lower() for place in places], meanings=meanings)
            if isinstance(row, int):
                said = cells[places[row]]
                hint = "; give data.minus_one=no or data.minus_one=unknown" if said in ("-1", "-1.0") else ""
                raise wrong(f"has {said!r} for {chosen[row]}. Expected 1, 0, or nothing where it is not known{hint}")
            lines[name] = reader.line_num
            codes += row
            for column, values in others.items():
                values.append(cells[header.index(column)])
    except csv.Error as error:
        raise wrong(f"is not CSV ({error}). Correct the line") from error
    labels = decode_values(codes, attributes=max(1, len(chosen)))
    pictures = LabelledPictures(encode_names([*lines], source=file), labels, tuple(chosen))
    arrays: dict[str | None, np.ndarray | None] = {name: np.array(values) for name, values in others.items()}
    return _Table(pictures, splits=arrays.get(columns.split), groups=arrays.get(columns.group))


def _check_header(header: list[str], *, wanted: Sequence[str], file: Path) -> None:
    for name in wanted:
        if name not in header:
            raise file_error(
                file,
                f"has no column {name!r} in its first line, a header. Its columns: {', '.join(header) or 'none'}"
                f"{did_you_mean(name, header).rstrip('?')}. Check data.file_column, data.split_column,"
                " data.group_column and data.classes",
            )
    if len(set(header)) < len(header):
        raise file_error(file, f"names a column twice: {', '.join(header)}. Expected names that differ")


def _take(table: _Table, split: Split, *, share: float, seed: int, file: Path) -> LabelledPictures:
    pictures, groups = table.pictures, table.groups
    if table.splits is not None:
        if groups is not None:
            _refuse_shared_groups(groups, table.splits, file=file)
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
    """The groups of a list that was read without an error."""
    with file.open(encoding="utf-8-sig", newline="") as text:
        first = text.readline()
        mark = next((mark for mark in ",;\t" if mark in first), ",")
        rows = csv.reader(chain([first], text), delimiter=mark)
        place = [name.strip() for name in next(rows)].index(str(columns.group))
        return [cells[place].strip() for cells in rows if cells]


def _refuse_shared_groups(groups: np.ndarray, splits: np.ndarray, *, file: Path) -> None:
    """What was trained on cannot be measured on, and a person is one however many pictures there are."""
    words = np.unique(splits).tolist()
    for place, first in enumerate(words):
        for second in words[place + 1 :]:
            shared = np.intersect1d(groups[splits == first], groups[splits == second])
            if len(shared):
                raise file_error(
                    file,
                    f"{len(shared)} groups are in both splits {first!r} and {second!r}, the first is '{shared[0]}'."
                    " Expected every group in one split, or give data.group_column=null",
                )
