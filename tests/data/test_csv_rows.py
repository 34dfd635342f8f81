"""What all lists have in common: the same rows, and the same messages, whichever reader reads them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mnvision.annotations import LabelledPictures
from mnvision.data.attribute_lists import AttributeColumns, read_attribute_list
from mnvision.data.csv_rows import CsvTable, open_list
from mnvision.data.lists import Columns, read_list
from mnvision.data.pairs import read_pair_list
from mnvision.data.places import PlaceColumns, read_places
from mnvision.errors import UserError

PICTURES = LabelledPictures(np.array([b"a.jpg", b"b.jpg", b"c, d.jpg"]), np.array([0, 0, 1]), ("ann", "bob"))
# Of each reader: a header, two rows below it, and what it makes of them.
KINDS = {
    "list": ("file,label", "a.jpg,dog", "b.jpg,cat"),
    "attributes": ("file,hat", "a.jpg,1", "b.jpg,0"),
    "places": ("file,lat,lon", "a.jpg,1.5,2", "b.jpg,3,4"),
    "pairs": ("first,second,same", "a.jpg,b.jpg,1", '"c, d.jpg",a.jpg,0'),
}


def read(kind: str, file: Path):
    if kind == "list":
        found = read_list(file)
        return found.file_names.tolist(), found.labels.tolist()
    if kind == "attributes":
        found = read_attribute_list(file)
        return found.file_names.tolist(), found.labels.tolist()
    if kind == "places":
        found = read_places(file).pictures
        return found.file_names.tolist(), found.coordinates.tolist()
    found = read_pair_list(file, PICTURES)
    return found.first.tolist(), found.second.tolist(), found.same.tolist()


EXPECTED = {
    "list": ([b"a.jpg", b"b.jpg"], [1, 0]),
    "attributes": ([b"a.jpg", b"b.jpg"], [[1], [0]]),
    "places": ([b"a.jpg", b"b.jpg"], [[1.5, 2], [3, 4]]),
    "pairs": ([0, 2], [1, 0], [True, False]),
}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path) -> str:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    return request.param


def written(folder: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    file = folder / "list.csv"
    file.write_bytes(end.join([*lines, ""]).encode(encoding))
    return file


def message(kind: str, file: Path) -> str:
    with pytest.raises(UserError) as error:
        read(kind, file)
    text = str(error.value)
    assert text.startswith(f"{file}: ")
    return text.removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines,
        lambda lines: ["", *lines[:2], "", "  ", "," * lines[0].count(","), lines[2], ""],
        lambda lines: [line.replace(",", " ,  ") if '"' not in line else line for line in lines],
        lambda lines: (
            [f"{lines[0]},note", f'{lines[1]},"two\nlines, ""quoted"""', f"{lines[2]},1"]
            if "hat" not in lines[0]
            else lines
        ),
        lambda lines: [f"./{line}" if line[1] == "." else line for line in lines],
        lambda lines: [lines[0], *(line.replace("a.jpg", ".//a.jpg") for line in lines[1:])],
    ],
    ids=["as it is", "empty lines", "blanks", "a cell of two lines", "dot", "slashes"],
)
@pytest.mark.parametrize(("end", "encoding"), [("\n", "utf-8"), ("\r\n", "utf-8-sig")])
def test_the_same_rows_however_they_are_written(kind, tmp_path, change, end, encoding):
    file = written(tmp_path, *change(list(KINDS[kind])), end=end, encoding=encoding)
    assert read(kind, file) == EXPECTED[kind]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_marks(kind, tmp_path, mark):
    """Where semicolons part the cells, a cell may hold a comma, and so may a name in the header."""
    lines = [line.replace('"', "").replace(", ", "@").replace(",", mark).replace("@", ", ") for line in KINDS[kind]]
    if kind != "attributes":
        lines = [f'"a note, with, many, commas"{mark}{lines[0]}', *(f"1,2{mark}{line}" for line in lines[1:])]
    assert read(kind, written(tmp_path, *lines)) == EXPECTED[kind]


def test_a_line_counts_from_where_its_row_begins(kind, tmp_path):
    header, first, second = KINDS[kind]
    # The header in line 2, a row in lines 3 to 5, and one with a cell too many in lines 7 to 8.
    note = '"1\n\n"' if kind == "attributes" else '"1\n2\n3"'
    lines = ["", f"{header},note", f"{first},{note}", "", f'{second},"1\n2",3']
    width = header.count(",") + 2
    expected = f"line 7 has {width + 1} cells, expected {width}: {header.replace(',', ', ')}, note. Correct the line"
    assert message(kind, written(tmp_path, *lines)) == expected


def test_a_mark_that_is_not_closed_is_named_where_it_is(kind, tmp_path):
    header, first, second = KINDS[kind]
    others = ['"' + second.replace('"', ""), *[first] * 3]
    found = message(kind, written(tmp_path, header, first, *others))
    assert found.startswith("line 3 is not CSV (")
    assert "is a quotation mark missing" in found
    long = message(kind, written(tmp_path, header, *others, *[first] * 20_000))  # more than a cell may hold
    assert long.startswith("line 2 is not CSV (field larger than field limit")


def test_a_header_alone(kind, tmp_path):
    header = KINDS[kind][0]
    what = {"places": "place", "pairs": "pair"}.get(kind, "picture")
    expected = f"names no {what} below its first line, a header. Expected a line for each"
    assert message(kind, written(tmp_path, header)) == expected
    assert message(kind, written(tmp_path, header, "", "," * header.count(","))) == expected


def test_a_column_that_is_missing_or_there_twice(kind, tmp_path):
    header, first, _ = KINDS[kind]
    column = header.split(",")[0]
    wrong = header.replace(column, column + "s")
    advice = "Expected first, second, same, and fold" if kind == "pairs" else "Name it in data.file_column"
    expected = (
        f"has no column '{column}' in its first line, a header. Its columns: {wrong.replace(',', ', ')}; did you "
    )
    assert message(kind, written(tmp_path, wrong, first)).startswith(f"{expected}mean {column}s. {advice}")
    twice = message(kind, written(tmp_path, f"{header},{column}", f"{first},a.jpg"))
    assert twice.startswith(f"has two columns '{column}' in its first line, a header. Expected one: {advice}")
    assert "Its columns: none" in message(kind, written(tmp_path))


def test_each_column_names_its_key(tmp_path):
    file = written(tmp_path, "file,label,lat,lon,hat", "a.jpg,b,1,2,1")
    for key, run in {
        "file": lambda: read_list(file, columns=Columns(file="x")),
        "label": lambda: read_list(file, columns=Columns(label="x")),
        "split": lambda: read_list(file, columns=Columns(split="x")),
        "latitude": lambda: read_places(file, columns=PlaceColumns(latitude="x")),
        "longitude": lambda: read_places(file, columns=PlaceColumns(longitude="x")),
        "group": lambda: read_attribute_list(file, columns=AttributeColumns(group="x")),
    }.items():
        with pytest.raises(UserError, match=f"has no column 'x' .*Name it in data.{key}_column"):
            run()
    with pytest.raises(UserError, match=r"has no column 'hats' .*; did you mean hat\. Every list .* data\.classes"):
        read_attribute_list(file, attributes=["hats"])


def test_text_that_is_not_utf_8_is_named_by_its_line(kind, tmp_path):
    header, first, second = KINDS[kind]
    file = written(tmp_path, header, *[first] * 3000)  # more than is read at once
    file.write_bytes(file.read_bytes() + second.replace("b.jpg", "bär.jpg").replace("c, d", "ä").encode("latin-1"))
    assert message(kind, file) == "line 3002 is not UTF-8 text (byte 0xe4). Save the file as UTF-8"
    assert message(kind, written(tmp_path, header, first, encoding="utf-16")).startswith("line 1 is not UTF-8 text")


def test_a_list_that_is_not_there(kind, tmp_path):
    (tmp_path / "other.tsv").touch()
    names = {"list": "pictures"}.get(kind, kind)
    expected = re.escape(f"list of {names} not found: {tmp_path / 'none.csv'}. Expected a CSV file")
    with pytest.raises(UserError, match=f"{expected}.*; check .*; the lists there: other.tsv"):
        read(kind, tmp_path / "none.csv")
    with pytest.raises(UserError, match="not found"):
        read(kind, tmp_path)


def test_a_spreadsheets_empty_columns_are_no_attributes(tmp_path):
    (tmp_path / "a.jpg").touch()
    found = read_attribute_list(written(tmp_path, "file,hat,,", "a.jpg,TRUE,,"))
    assert (found.classes, found.labels.tolist()) == (("hat",), [[1.0]])


def test_errors_of_those_who_read_are_their_own(tmp_path):
    file = written(tmp_path, "a,b", "1,2", "3,4")
    with pytest.raises(ValueError, match="is the reader's"), open_list(file, of="numbers"):
        raise ValueError("this is the reader's")
    with open_list(file, of="numbers") as text:
        table = CsvTable(text, file=file)
        assert [(table.line, cells) for cells in table.rows(["b", None])] == [(2, ["2", ""]), (3, ["4", ""])]
