"""Reads five landmarks of each picture: a CSV file, or CelebA's own list of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnvision.data.csv_rows import open_list, plain_path
from mnvision.data.labelled import encode_names
from mnvision.errors import file_error, line_error


class Landmarks(NamedTuple):
    """The landmarks of pictures.

    Attributes:
        file_names: bytes [I], UTF-8, sorted.
        points: float32 [I, 5, 2] (x, y) in pixels: eyes, nose, corners of the mouth, left to right as seen.
    """

    file_names: np.ndarray
    points: np.ndarray

    def of(self, names: np.ndarray) -> np.ndarray:
        """The landmarks of pictures by their names bytes [N]: float32 [N, 5, 2], NaN where there are none."""
        found = np.full((len(names), 5, 2), np.nan, np.float32)
        if len(self.file_names):
            places = np.minimum(np.searchsorted(self.file_names, names), len(self.file_names) - 1)
            known = self.file_names[places] == names
            found[known] = self.points[places[known]]
        return found


def read_landmarks(file: str | Path) -> Landmarks:
    """Read a line a picture: its file name, then x and y of five landmarks.

    The words are set apart by commas, semicolons, tabs or blanks. A first line without numbers is a header, as is
    CelebA's: a line with the number of pictures, and one that names ten columns (``list_landmarks_align_celeba.txt``).

    Args:
        file: UTF-8.

    Raises:
        UserError: The file is missing or has no line; a line (given by its number) is wrong or names a picture again;
            there are not as many as its first line says.
    """
    file = Path(file)
    line = "a line for each picture: file, x1, y1 ... x5, y5"
    with open_list(file, of="landmarks", expected=line, check="data.landmarks") as text:
        lines = text.read().splitlines()
    rows = [(number, _words(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    promised = int(rows.pop(0)[1][0]) if rows and len(rows[0][1]) == 1 and rows[0][1][0].isdecimal() else None
    if rows and not any(_is_number(word) for word in rows[0][1]):
        rows.pop(0)
    found: dict[str, tuple[int, list[float]]] = {}
    for number, (name, *words) in rows:
        name = plain_path(name)
        values = [float(word) for word in words if _is_number(word)]
        if len(words) != 10 or len(values) != 10 or not name:
            raise line_error(file, number, f"is {lines[number - 1]!r}; expected a file name and ten numbers")
        if name in found:
            raise line_error(
                file, number, f"names {name!r} again, as line {found[name][0]}; expected every picture once"
            )
        found[name] = number, values
    if not found or promised not in (None, len(found)):
        said = "a line for each picture" if promised is None else f"the {promised} pictures of its first line"
        raise file_error(file, f"has landmarks of {len(found)} pictures. Expected {said}: was it copied in full?")
    names = encode_names(list(found), source=file)
    points = np.array([values for _, values in found.values()], dtype=np.float32).reshape(-1, 5, 2)
    order = np.argsort(names, kind="stable")
    return Landmarks(names[order], points[order])


def _words(line: str) -> list[str]:
    mark = next((mark for mark in ",;\t" if mark in line), None)
    return [word.strip() for word in line.split(mark)]


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
