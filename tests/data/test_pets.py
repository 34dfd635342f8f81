from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnvision.data.pets import read_pets
from mnvision.errors import UserError

TRAINVAL = "Abyssinian_1 1 1 1\nboston_terrier_2 2 2 1\n"
TEST = "boston_terrier_1 2 2 1\n"
BOX = "<object><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>5</ymax></bndbox></object>"


def write(root: Path, *, trainval=TRAINVAL, test=TEST, whole="#Image CLASS-ID SPECIES BREED ID\nPug_1 3 2 2\n") -> Path:
    (root / "annotations/xmls").mkdir(parents=True)
    (root / "images").mkdir()
    for name, text in {"trainval": trainval, "test": test, "list": whole}.items():
        (root / f"annotations/{name}.txt").write_text(text)
        for line in text.splitlines():
            (root / f"images/{line.split()[0]}.jpg").touch()
    (root / "annotations/xmls/Abyssinian_1.xml").write_text(f"<annotation>{BOX}</annotation>")
    return root


def test_reads_the_lists(tmp_path):
    got = read_pets(write(tmp_path), "train")
    assert got.classes == ("Abyssinian", "boston_terrier", "Pug")
    assert (got.labels.tolist(), got.file_names.tolist()) == (
        [0, 1],
        [b"images/Abyssinian_1.jpg", b"images/boston_terrier_2.jpg"],
    )
    np.testing.assert_array_equal(got.boxes, [[0, 1, 3, 5], [np.nan] * 4])  # VOC counts pixels from 1, inclusive
    test = read_pets(tmp_path, "test")
    assert (test.labels.tolist(), test.boxes) == ([1], None)
    assert read_pets(tmp_path, "train", boxes=False, classes=["Abyssinian"]).labels.tolist() == [0]


@pytest.mark.parametrize(
    ("trainval", "words"),
    [
        ("Abyssinian_1 0 1 1\n", "trainval.txt: line 1 is 'Abyssinian_1 0 1 1'. Expected NAME CLASS-ID"),
        ("Abyssinian_1\n", "line 1 is"),
        ("Abyssinian_1 1 1 1\nAbyssinian_1 1 1 1\n", "line 2 lists Abyssinian_1 again"),
        ("Abyssinian_1 2 1 1\n", "has the class id 2, which is Abyssinian"),
        ("Abyssinian_1 1 1 1\n" + TEST, "both splits 'trainval.txt' and 'test.txt'"),
        ("Abyssinian_1 7 1 1\n", "use 3 ids up to 7"),
    ],
)
def test_wrong_lists(tmp_path, trainval, words):
    with pytest.raises(UserError, match=words):
        read_pets(write(tmp_path, trainval=trainval), "train")


def test_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"list of pictures not found: .*trainval.txt"):
        read_pets(tmp_path, "train")
    (write(tmp_path) / "images/boston_terrier_1.jpg").unlink()
    with pytest.raises(UserError, match=r"picture not found: .*boston_terrier_1.jpg, which .*test.txt names"):
        read_pets(tmp_path, "test")
