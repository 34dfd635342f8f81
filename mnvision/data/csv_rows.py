"""Reads what all lists have in common: a text file, the rows of a CSV file below its header, names of pictures."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from mnvision.errors import UserError, did_you_mean, file_error, line_error


@contextmanager
def open_list(
    file: Path,
    *,
    of: str,
    expected: str = "a CSV file",
    check: str = "data.root, data.train, data.val and data.test",
) -> Iterator[TextIO]:
    """Open a list, UTF-8 with or without a byte order mark.

    Args:
        file: The list.
        of: What it lists, for the messages.
        expected: What the file has to be.
        check: The keys that name it.

    Raises:
        UserError: It is not there, cannot be read, or is not UTF-8 (with the line).
    """
    if not file.is_file():
        there = sorted(path.name for kind in ("*.csv", "*.tsv", "*.txt") for path in file.parent.glob(kind))
        have = f"; the lists there: {', '.join(there[:10])}" if there else ""
        raise UserError(f"list of {of} not found: {file}. Expected {expected}; check {check}{have}")
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError:
        data = file.read_bytes()
        try:
            data.decode()
        except UnicodeDecodeError as error:  # the first one counted the bytes from the middle of the file
            line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
            raise line_error(file, line, f"is not UTF-8 text (byte {byte:#04x}). Save the file as UTF-8") from None
    except OSError as error:
        raise file_error(file, f"cannot be read: {error.strerror or error}") from error


class CsvTable:
    """The rows of a CSV file, one after the other, below a header that names its columns.

    Commas, semicolons or tabs set cells apart, whichever the header has most of. A cell in quotation marks may hold
    them, and line breaks. Rows of empty cells are passed over, as are blanks around a cell.

    Attributes:
        header: Names of the columns.
        line: On which line, from 1 on, the row that was read last begins.

    Args:
        text: The file, opened with ``newline=""``.
        file: What it is called, for the messages.
    """

    def __init__(self, text: TextIO, *, file: Path) -> None:
        self.file, self.line, first = file, 0, ""
        for first in text:
            if first.strip():
                break
            self.line += 1
        bare = re.sub('"[^"]*"?', "", first)
        self._rows = self._read(csv.reader(chain([first], text), delimiter=max(",;\t", key=bare.count), strict=True))
        self.header = [name.strip() for name in next(self._rows, [])]

    def require(self, name: str | None, advice: str) -> None:
        """Refuse a header without a column of this name, or with two; None is no column.

        Args:
            name: Of the column.
            advice: What to do, such as ``Name it in data.file_column``.
        """
        if name is None or (count := self.header.count(name)) == 1:
            return
        if count:
            raise file_error(self.file, f"has two columns {name!r} in its first line, a header. Expected one: {advice}")
        raise file_error(
            self.file,
            f"has no column {name!r} in its first line, a header. Its columns: {', '.join(self.header) or 'none'}"
            f"{did_you_mean(name, self.header).rstrip('?')}. {advice}",
        )

    def rows(self, names: Sequence[str | None], *, of: str = "picture") -> Iterator[list[str]]:
        """The cells of these columns of each row; an empty one for None.

        Args:
            names: Of columns that are there.
            of: What a row is of, for the message.

        Raises:
            UserError: A row has more or fewer cells than the header, or is not CSV; there is no row.
        """
        width, found = len(self.header), False
        places = [width if name is None else self.header.index(name) for name in names]
        for cells in self._rows:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != width:
                raise self.wrong(f"has {len(cells)} cells, expected {width}: {', '.join(self.header)}")
            cells.append("")
            found = True
            yield [cells[place].strip() for place in places]
        if not found:
            raise file_error(self.file, f"names no {of} below its first line, a header. Expected a line for each")

    def wrong(self, problem: str) -> UserError:
        """What is wrong with the row that was read last, to be raised."""
        return line_error(self.file, self.line, f"{problem}. Correct the line")

    def _read(self, reader: Any) -> Iterator[list[str]]:
        """All rows; a broken one is named by the line on which it begins, however far it goes on."""
        before = end = self.line
        try:
            for cells in reader:
                self.line, end = end + 1, before + reader.line_num
                yield cells
        except csv.Error as error:
            self.line = end + 1
            raise self.wrong(f"is not CSV ({error}): is a quotation mark missing, or one too many?") from error


def picture_names(
    names: Sequence[str], *, lines: Sequence[int], file: Path, splits: Sequence[str] | None = None
) -> list[str]:
    """The paths of the pictures that a list names, see ``plain_path``.

    Args:
        names: As the list has them.
        lines: On which line each is.
        file: The list, for the messages.
        splits: What the list says of the split of each, for the messages.

    Raises:
        UserError: A name is empty or no path, or a picture is listed twice.
    """
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        if not name or "\0" in name:
            raise line_error(file, lines[i], f"names the picture {name!r}; expected the path of a file")
        name = plain_path(name)
        j = first.setdefault(name, i)
        if j != i:
            where = f"first in line {lines[j]}"
            if splits is not None and splits[i] != splits[j]:
                where += f" for the split {splits[j]!r}, here for {splits[i]!r}"
            raise line_error(file, lines[i], f"lists {name!r} again, {where}; expected every picture once")
    return list(first)


def plain_path(name: str) -> str:
    """A path without ``./`` and doubled slashes."""
    return name if not name.startswith("./") and "//" not in name else Path(name).as_posix()
