from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mnvision.data.labelled import describe_labelled
from mnvision.data.lists import Columns, read_list
from mnvision.errors import UserError


def write(folder: Path, text: str, *, name: str = "list.csv", pictures: bool = True) -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    for picture in ("a.jpg", "b.jpg", "c.jpg", "my d.jpg") if pictures else ():
        (folder / picture).touch()
    return file


BOXED = """file,label,xmin,ymin,xmax,ymax,split
a.jpg,dog,1,2,3.5,4,train
"my d.jpg",cat,,,,,test
c.jpg,,0,0,9,9,train
"""


def test_reads_csv(tmp_path):
    got = read_list(write(tmp_path, BOXED))
    assert got.file_names.tolist() == [b"a.jpg", b"my d.jpg", b"c.jpg"]
    assert (got.labels.tolist(), got.classes) == ([1, 0, -1], ("cat", "dog"))
    np.testing.assert_array_equal(got.boxes, [[1, 2, 3.5, 4], [np.nan] * 4, [0, 0, 9, 9]])
    assert describe_labelled(got).endswith("2 classes, 1 of each, 1 without a class, 2 with a box")


def test_the_column_splits(tmp_path):
    file = write(tmp_path, BOXED.replace("c.jpg,,", "c.jpg,dog,"))
    own = Columns(split="split")
    assert read_list(file, split="test", columns=own).file_names.tolist() == [b"my d.jpg"]
    assert read_list(file, split="test", columns=own).classes == ("cat", "dog")
    parts = [read_list(file, split=one, columns=own, val_share=0.5).file_names.tolist() for one in ("train", "val")]
    assert sorted(map(len, parts)) == [1, 1]
    assert sorted(parts[0] + parts[1]) == [b"a.jpg", b"c.jpg"]  # no val: held out of train, never of test
    words = Columns(split="split", splits=("test", "train", "x"))
    assert read_list(file, split="val", columns=words).file_names.tolist() == [b"a.jpg", b"c.jpg"]
    with pytest.raises(UserError, match="no picture of the split 'x'. Its splits: test, train"):
        read_list(file, split="test", columns=words)


def test_other_names_and_marks(tmp_path):
    file = write(tmp_path, "breed;Path\ndog;a.jpg\ncat;b.jpg\n")
    got = read_list(file, columns=Columns(file="Path", label="breed"))
    assert (got.file_names.tolist(), got.labels.tolist(), got.boxes) == ([b"a.jpg", b"b.jpg"], [1, 0], None)
    assert read_list(file, columns=Columns(file="Path", label=None)).labels.tolist() == [-1, -1]
    with pytest.raises(UserError, match=r"has no column 'path' in its first line.*breed, Path; did you mean Path"):
        read_list(file, columns=Columns(file="path", label="breed"))


def test_spreadsheets_write_a_mark_and_carriage_returns(tmp_path):
    got = read_list(write(tmp_path, "\ufefffile,label\r\na.jpg,1\r\n\r\nb.jpg,0\r\n"))
    assert (got.labels.tolist(), got.classes) == ([1, 0], ("0", "1"))


@pytest.mark.parametrize(
    ("text", "names", "labels", "classes"),
    [
        ("a.jpg dog\n# no\n\nmy d.jpg  cat\n", [b"a.jpg", b"my d.jpg"], [1, 0], ("cat", "dog")),
        ("a.jpg\tbig dog\nmy d.jpg\tcat\n", [b"a.jpg", b"my d.jpg"], [0, 1], ("big dog", "cat")),
        ("./a.jpg\nmy d.jpg\n", [b"a.jpg", b"my d.jpg"], [-1, -1], ()),
        ("a.jpg 2\nb.jpg 0\nc.jpg -1\n", [b"a.jpg", b"b.jpg", b"c.jpg"], [2, 0, -1], ("0", "1", "2")),
    ],
)
def test_reads_plain_text(tmp_path, text, names, labels, classes):
    got = read_list(write(tmp_path, text, name="train.txt"))
    assert (got.file_names.tolist(), got.labels.tolist(), got.classes) == (names, labels, classes)


def test_known_names_number_the_labels(tmp_path):
    file = write(tmp_path, "a.jpg 1\nb.jpg 0\n", name="val.txt")
    assert read_list(file, known=["x", "y", "z"]).labels.tolist() == [1, 0]
    assert read_list(file, known=["1", "7", "0"]).labels.tolist() == [0, 2]  # names before numbers
    got = read_list(file, known=["x", "y", "z"], classes=["y"])
    assert (got.file_names.tolist(), got.labels.tolist(), got.classes) == ([b"a.jpg"], [0], ("y",))


def test_numbers_that_are_names(tmp_path):
    file = write(tmp_path, "a.jpg 1\nb.jpg 01\nc.jpg 30000000\nmy d.jpg -1\n", name="train.txt")
    got = read_list(file, numbers=False)
    assert (got.labels.tolist(), got.classes) == ([1, 0, 2, -1], ("01", "1", "30000000"))


def test_numbers_that_can_count_no_classes(tmp_path):
    file = write(tmp_path, "a.jpg 99999\nb.jpg 7\n", name="train.txt")
    assert len(read_list(file).classes) == 100_000  # of which the list leaves out many
    for number in ("100000", "99999999999999999999"):
        file = write(tmp_path, f"a.jpg 7\nb.jpg {number}\n", name="train.txt")
        message = f"line 2 has the label {number}, and the list 2 pictures; expected numbers that count .* below 100000"
        with pytest.raises(UserError, match=message):
            read_list(file)
        with pytest.raises(UserError, match=f"line 2 has the label {number}; expected 0 to 8, one of 9 classes"):
            read_list(file, known=list("abcdefghi"))


def test_the_folder_of_the_pictures(tmp_path):
    (tmp_path / "lists").mkdir()
    file = write(tmp_path / "lists", "a.jpg 0\n", name="l.txt", pictures=False)
    (tmp_path / "a.jpg").touch()
    assert len(read_list(file, folder=tmp_path)) == 1
    with pytest.raises(UserError, match=f"picture not found: {tmp_path / 'lists' / 'a.jpg'}, which {file} names"):
        read_list(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na.jpg,0\nb.jpg\n", "line 3 has 1 cells, expected 2"),
        ("file,label\n\n,0\n", "line 3 names the picture ''"),
        ('file,label\n"a.jpg,0\n', "line 2 is not CSV"),
        (
            "file,label\na.jpg,0\nb.jpg,1\na.jpg,0\n",
            "line 4 lists 'a.jpg' again, first in line 2; expected every picture once",
        ),
        ("file,label,split\na.jpg,0,train\na.jpg,0,val\n", "line 3 .*in line 2 for the split 'train', here for 'val'"),
        ("file,label\na.jpg,0\nb.jpg,-2\n", "line 3 has the label -2; expected 0 to 0"),
        ("file,label,xmin\na.jpg,0,1\n", "has the columns xmin alone"),
        ("file,label,xmin,ymin,xmax,ymax\na.jpg,0,1,2,x,4\n", "line 2 has the box .*'x'.*expected four numbers"),
        ("file,label,xmin,ymin,xmax,ymax\na.jpg,0,1,2,1,4\n", "line 2 has the box .*expected xmin < xmax"),
        ("file,label,xmin,ymin,xmax,ymax\na.jpg,0,1,2,nan,4\n", "line 2 has the box"),
        ("file,label\n", "names no picture below its first line, a header"),
        ("", "has no column 'file'"),
    ],
)
def test_wrong_lines_are_named(tmp_path, text, words):
    file = write(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(str(file)) + f": {words}"):
        read_list(file, columns=Columns(split="split" if ",split" in text else None))


def test_unknown_classes_are_named_with_their_line(tmp_path):
    file = write(tmp_path, "a.jpg dog\nb.jpg dgo\n", name="l.txt")
    with pytest.raises(UserError, match="line 2 has the class 'dgo'; expected one of the 2 classes.*did you mean dog"):
        read_list(file, known=["cat", "dog"])
    write(tmp_path, "a.jpg 0\nb.jpg 2\n", name="l.txt")
    with pytest.raises(UserError, match="line 2 has the label 2; expected 0 to 1, one of 2 classes"):
        read_list(file, known=["cat", "dog"])
    write(tmp_path, "a.jpg 0\nb.jpg\n", name="l.txt")
    with pytest.raises(UserError, match="line 2 has no label, and line 1 has one"):
        read_list(file)


def test_files_that_are_no_list(tmp_path):
    with pytest.raises(UserError, match="list of pictures not found.*check data.root, data.train, data.val"):
        read_list(tmp_path / "no.csv")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_list(tmp_path / "x.txt")
