from __future__ import annotations

import re

import numpy as np
import pytest

from mnvision.data.landmarks import read_landmarks
from mnvision.errors import UserError

CELEBA = """2
lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y
000002.jpg  69  110   107  112    81  135    70  151   108  153
000001.jpg  69  109   106  113    77  142    73  152   108  154
"""
CSV = "file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\nmy a.jpg,1.5,2,3,4,5,6,7,8,9,10\n"


def test_reads_celebas_list(tmp_path):
    (tmp_path / "list.txt").write_text(CELEBA)
    found = read_landmarks(tmp_path / "list.txt")
    assert found.file_names.tolist() == [b"000001.jpg", b"000002.jpg"]
    assert found.points.dtype == np.float32
    assert found.points[0].tolist() == [[69, 109], [106, 113], [77, 142], [73, 152], [108, 154]]
    asked = found.of(np.array([b"000002.jpg", b"000009.jpg", b"0"]))
    assert asked[0, 0].tolist() == [69, 110]
    assert np.isnan(asked[1:]).all()


@pytest.mark.parametrize("text", [CSV, CSV.split("\n", 1)[1], CSV.replace(",", ";"), CSV.replace(",", "\t")])
def test_reads_tables(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    found = read_landmarks(tmp_path / "list.csv")
    assert found.file_names.tolist() == [b"my a.jpg"]
    assert found.points[0].tolist() == [[1.5, 2], [3, 4], [5, 6], [7, 8], [9, 10]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has landmarks of 0 pictures. Expected a line for each picture"),
        (CSV.split("\n")[0] + "\n", "has landmarks of 0 pictures"),
        (CSV + "b.jpg,1,2,3\n", "line 3 is 'b.jpg,1,2,3'; expected a file name and ten numbers"),
        (CSV + "b.jpg,1,2,3,4,5,6,7,8,9,nan\n", "line 3 is"),
        (CSV + CSV.split("\n")[1] + "\n", "line 3 names 'my a.jpg' again, as line 2"),
        (CELEBA.replace("2\n", "3\n", 1), "has landmarks of 2 pictures. Expected the 3 pictures of its first line"),
    ],
)
def test_what_is_wrong_with_a_list(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_landmarks(tmp_path / "list.csv")


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="list of landmarks not found"):
        read_landmarks(tmp_path / "none.csv")
