from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from mnvision.data.labelled import describe_labelled
from mnvision.data.stanford_dogs import read_stanford_dogs
from mnvision.errors import UserError


def save_list(file: Path, entries: list[tuple[str, int]]) -> None:
    cells = np.empty((len(entries), 1), dtype=object)
    cells[:, 0] = [name for name, _ in entries]
    savemat(file, {"file_list": cells, "labels": np.array([[label] for _, label in entries], dtype=np.uint8)})


def write(root: Path, *, train=(("n1-Pug/a.jpg", 1), ("n2-toy-dog/b.jpg", 2)), test=(("n1-Pug/c.jpg", 1),)) -> Path:
    (root / "lists").mkdir()
    save_list(root / "lists/train_list.mat", list(train))
    save_list(root / "lists/test_list.mat", list(test))
    for name, _ in (*train, *test):
        (root / "Images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "Images" / name).touch()
    return root


def test_the_real_layout(shared_data):
    root = shared_data / "stanford_dogs3"
    parts = {split: read_stanford_dogs(root, split) for split in ("train", "val", "test")}
    line = "pictures, 3 classes, {0} of each, {1} with a box"
    assert {split: describe_labelled(part) for split, part in parts.items()} == {
        "train": "270 " + line.format(90, 270),
        "val": "30 " + line.format(10, 30),
        "test": "120 " + line.format(40, 120),
    }
    assert parts["train"].classes == ("beagle", "Siberian_husky", "toy_poodle")
    names = {part.file_name(i): part.boxes[i].tolist() for part in parts.values() for i in range(len(part))}
    assert len(names) == 420
    # Its one object has the corners 76 99 464 377, counted from 0; they belong to it.
    assert names["Images/n02088364-beagle/n02088364_10206.jpg"] == [76, 99, 465, 378]
    assert all(b"husky" in name for name in parts["test"].file_names[parts["test"].labels == 1])


def test_boxes_lie_in_their_pictures(shared_data):
    import cv2

    root = shared_data / "stanford_dogs3"
    pictures = read_stanford_dogs(root, "val")
    for i in range(len(pictures)):
        height, width = cv2.imread(str(root / pictures.file_name(i))).shape[:2]
        xmin, ymin, xmax, ymax = pictures.boxes[i]
        assert 0 <= xmin < xmax <= width
        assert 0 <= ymin < ymax <= height


def test_classes_of_a_choice(shared_data):
    got = read_stanford_dogs(shared_data / "stanford_dogs3", "test", classes=["toy_poodle"], boxes=False)
    assert (len(got), got.classes, set(got.labels.tolist()), got.boxes) == (40, ("toy_poodle",), {0}, None)


def test_lists_in_a_folder_of_their_own(tmp_path):
    got = read_stanford_dogs(write(tmp_path), "train", boxes=False)
    assert (got.classes, got.file_names.tolist()) == (
        ("Pug", "toy-dog"),
        [b"Images/n1-Pug/a.jpg", b"Images/n2-toy-dog/b.jpg"],
    )


def test_the_box_is_the_union_of_the_objects(tmp_path):
    write(tmp_path)
    boxes = (
        "<xmin>0</xmin><ymin>5</ymin><xmax>4</xmax><ymax>9</ymax>",
        "<xmin>2</xmin><ymin>1</ymin><xmax>8</xmax><ymax>6</ymax>",
    )
    objects = "".join(f"<object><bndbox>{box}</bndbox></object>" for box in boxes)
    (tmp_path / "Annotation/n1-Pug").mkdir(parents=True)
    (tmp_path / "Annotation/n1-Pug/c").write_text(f"<annotation>{objects}</annotation>")
    assert read_stanford_dogs(tmp_path, "test").boxes.tolist() == [[0, 1, 9, 10]]
    (tmp_path / "Annotation/n1-Pug/c").write_text("<annotation></annotation>")
    with pytest.raises(UserError, match="n1-Pug/c: its objects have the boxes"):
        read_stanford_dogs(tmp_path, "test")
    with pytest.raises(UserError, match="annotation file not found: .*n1-Pug/a"):
        read_stanford_dogs(tmp_path, "train")


def test_names_that_would_be_alike_stay_whole(tmp_path):
    write(tmp_path, train=[("n1-Pug/a.jpg", 1), ("n2-Pug/b.jpg", 2), ("n3-Tyke/b.jpg", 3)])
    assert read_stanford_dogs(tmp_path, "train", boxes=False).classes == ("n1-Pug", "n2-Pug", "Tyke")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ([("n1-Pug/a.jpg", 1), ("n1-Pug/c.jpg", 1)], "both splits 'train_list.mat' and 'test_list.mat'.*n1-Pug/c.jpg"),
        ([("n1-Pug/a.jpg", 2)], "use 2 labels up to 2 for 1 folders"),
        ([("n2-Pug/a.jpg", 1)], "has the label 1, which is n2-Pug"),
        ([("n1-Pug/a.jpg", 1), ("n3-Pug/a.jpg", 3)], "use 2 labels up to 3"),
        ([("n1-Pug/a.jpg", 0)], "Expected a label from 1 on"),
        ([("a.jpg", 1)], "named FOLDER/NAME.jpg"),
    ],
)
def test_lists_that_contradict(tmp_path, train, words):
    with pytest.raises(UserError, match=words):
        read_stanford_dogs(write(tmp_path, train=train), "test", boxes=False)


def test_what_is_missing_or_broken(tmp_path):
    with pytest.raises(UserError, match="list of pictures not found: .*train_list.mat"):
        read_stanford_dogs(tmp_path, "train")
    write(tmp_path)
    with pytest.raises(UserError, match="folder not found: .*Annotation.*unpack annotation.tar"):
        read_stanford_dogs(tmp_path, "train")
    (tmp_path / "Images/n1-Pug/a.jpg").unlink()
    with pytest.raises(UserError, match="picture not found: .*n1-Pug/a.jpg, which .*train_list.mat names"):
        read_stanford_dogs(tmp_path, "train", boxes=False)
    (tmp_path / "lists/train_list.mat").write_bytes(b"not a matrix" * 20)
    with pytest.raises(UserError, match="is not a list of Stanford Dogs"):
        read_stanford_dogs(tmp_path, "train")
