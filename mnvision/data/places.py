"""Reads lists of pictures and the places where they were taken: CSV files with a column each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnvision.annotations import PlacedPictures
from mnvision.data.csv_rows import CsvTable, open_list, picture_names
from mnvision.data.labelled import encode_names
from mnvision.errors import line_error

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
    rows, said, names, lines = [], list[str](), list[str](), list[int]()
    with open_list(file, of="places") as text:
        table = CsvTable(text, file=file)
        for key, column in columns._asdict().items():
            table.require(column, f"Name it in data.{key}_column")
        for latitude, longitude, name, split in table.rows(
            [columns.latitude, columns.longitude, columns.file, columns.split], of="place"
        ):
            rows.append([latitude, longitude])
            names.append(name)
            said.append(split)
            lines.append(table.line)
    coordinates = _coordinates(rows, columns=columns, lines=lines, file=file)
    if columns.file is not None:
        names = picture_names(names, lines=lines, file=file)
    pictures = PlacedPictures(
        file_names=encode_names(names, source=file),
        labels=np.full(len(rows), -1),
        classes=(),
        coordinates=coordinates,
    )
    return PlaceRows(pictures, None if columns.split is None else said)


def _coordinates(cells: list[list[str]], *, columns: PlaceColumns, lines: list[int], file: Path) -> np.ndarray:
    """Latitudes and longitudes float64 [I, 2], or what is wrong with the first bad line."""
    try:
        if any("_" in cell for pair in cells for cell in pair):  # NumPy reads 1_0 as 10
            raise ValueError
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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
