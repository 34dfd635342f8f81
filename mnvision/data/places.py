"""Reads lists of pictures and the places where they were taken: CSV files with a column each."""

from __future__ import annotations

import csv
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnvision.annotations import PlacedPictures
from mnvision.data.labelled import encode_names
from mnvision.errors import UserError, did_you_mean, file_error, line_error

LIMITS = np.array([90.0, 180.0])  # of latitude and longitude, in degrees


class PlaceColumns(NamedTuple):
    """Names of the columns of a CSV file."""

    file: str | None = "file"  # None: the places alone are read
    latitude: str = "lat"
    longitude: str = "lon"
    split: str | None = None  # None: the list is not split


class PlaceRows(NamedTuple):
    """What a list says, a row a picture: its pictures, without classes yet; and what the split's column says."""

    pictures: PlacedPictures
    splits: list[str] | None


def read_places(file: str | Path, *, columns: PlaceColumns | None = None) -> PlaceRows:
    """Read a list of pictures and their places.

    The file begins with a header that names its columns, which commas, semicolons or tabs set apart. Latitudes run from
    -90 to 90 and longitudes from -180 to 180 degrees, south and west being negative.

    Args:
        file: The list, UTF-8.
        columns: Names of its columns.

    Raises:
        UserError: The list is missing, empty, not UTF-8, or lacks a column; a line is wrong (with its number); the two
            columns of places seem to be swapped; a picture is listed twice.
    """
    file, columns = Path(file), columns or PlaceColumns()
    if not file.is_file():
        there = sorted(path.name for path in file.parent.glob("*.csv"))
        have = f"; the lists there: {', '.join(there[:10])}" if there else ""
        raise UserError(
            f"list of places not found: {file}. Expected a CSV file; check data.root, data.train, data.val and "
            f"data.test{have}"
        )
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            first = text.readline()
            mark = next((mark for mark in ",;\t" if mark in first), ",")
            reader = csv.reader(chain([first], text), delimiter=mark, strict=True)
            header = [name.strip() for name in next(reader, [])]
            wanted = _places(header, columns=columns, file=file)
            rows, lines = [], []
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise line_error(file, reader.line_num, f"has {len(cells)} cells, expected {len(header)}")
                rows.append([cells[place].strip() for place in wanted])
                lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise file_error(file, f"is not UTF-8 text ({error}). Save it as UTF-8") from error
    except csv.Error as error:
        raise line_error(file, reader.line_num, f"is not CSV ({error})") from error
    if not rows:
        raise file_error(file, "names no place below its first line. Expected a picture a line")
    coordinates = _coordinates([row[:2] for row in rows], columns=columns, lines=lines, file=file)
    names = [row[2] if columns.file is not None else "" for row in rows]
    if columns.file is not None:
        _check_names(names, lines=lines, file=file)
    pictures = PlacedPictures(
        file_names=encode_names(names, source=file),
        labels=np.full(len(rows), -1),
        classes=(),
        coordinates=coordinates,
    )
    return PlaceRows(pictures, [row[-1] for row in rows] if columns.split is not None else None)


def _places(header: list[str], *, columns: PlaceColumns, file: Path) -> list[int]:
    """Where the columns are: latitude and longitude, then file and split if there are any."""
    keys = {
        columns.latitude: "latitude_column",
        columns.longitude: "longitude_column",
        columns.file: "file_column",
        columns.split: "split_column",
    }
    for name, key in keys.items():
        if name is not None and name not in header:
            raise file_error(
                file,
                f"has no column {name!r} in its first line, a header. Its columns: {', '.join(header) or 'none'}"
                f"{did_you_mean(name, header).rstrip('?')}. Name it in data.{key}",
            )
    wanted = (columns.latitude, columns.longitude, columns.file, columns.split)
    return [header.index(name) for name in wanted if name is not None]


def _coordinates(cells: list[list[str]], *, columns: PlaceColumns, lines: list[int], file: Path) -> np.ndarray:
    """Latitudes and longitudes float64 [I, 2], or what is wrong with the first bad line."""
    try:
        found = np.array(cells, dtype=np.float64)
    except ValueError:
        row = next(row for row, pair in enumerate(cells) if not all(map(_is_number, pair)))
        raise line_error(
            file, lines[row], f"has the place {cells[row]}; expected two numbers, in degrees with a decimal point"
        ) from None
    wrong = ~(np.abs(found) <= LIMITS)  # NaN is wrong, too
    if not wrong.any():
        return found
    row, column = (int(index[0]) for index in np.nonzero(wrong))
    name, limit = (("latitude", 90), ("longitude", 180))[column]
    problem = f"has the {name} {cells[row][column]!r}; expected -{limit} to {limit} degrees"
    if (np.abs(found[:, ::-1]) <= LIMITS).all():
        raise line_error(
            file,
            lines[row],
            f"{problem}. Correct the line; or, since all lines would be right with the two columns swapped, give "
            f"data.latitude_column={columns.longitude} data.longitude_column={columns.latitude}",
        )
    if column == 1 and 180 < found[row, 1] <= 360:
        problem += ", west being negative: take 360 from those above 180"
    raise line_error(file, lines[row], f"{problem}. Correct the line")


def _check_names(names: list[str], *, lines: list[int], file: Path) -> None:
    seen: dict[str, int] = {}
    for name, line in zip(names, lines, strict=True):
        if not name or "\0" in name:
            raise line_error(file, line, f"names the picture {name!r}; expected the path of a file")
        if name in seen:
            raise line_error(file, line, f"lists {name!r} again, first in line {seen[name]}; expected it once")
        seen[name] = line


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
