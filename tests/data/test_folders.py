from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest

from mnvision.annotations import LabelledPictures
from mnvision.data.folders import SplitFolders, read_classes, read_folders, read_unlabelled
from mnvision.data.labelled import adopt_labels, describe_labelled, keep_classes, refuse_shared
from mnvision.data.splits import part_of, split_rows
from mnvision.errors import UserError


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def named(pictures: LabelledPictures) -> dict[str, str]:
    """Class by file name."""
    labels = pictures.labels.tolist()
    return {pictures.file_name(i): pictures.classes[k] if k >= 0 else "?" for i, k in enumerate(labels)}


TRAIN = ("train/dog/b.JPEG", "train/dog/a.jpg", "train/cat/deep/er/x.png", "train/cat/y.jpg", "train/cat/notes.txt")
VAL = ("val/dog/a.jpg", "val/cat/.hidden.jpg", "val/.git/a.jpg")


def test_reads_a_folder_a_class(tmp_path):
    got = read_folders(touch(tmp_path, *TRAIN, *VAL), "train")
    assert got.classes == ("cat", "dog")
    assert got.file_names.tolist() == [
        b"train/cat/deep/er/x.png",
        b"train/cat/y.jpg",
        b"train/dog/a.jpg",
        b"train/dog/b.JPEG",
    ]
    assert (got.file_names.dtype.kind, got.labels.dtype) == ("S", np.int64)
    assert got.labels.tolist() == [0, 0, 1, 1]
    assert got.boxes is None
    assert got.pixels is None


def test_every_split_has_the_classes_of_training(tmp_path, caplog):
    got = read_folders(touch(tmp_path, *TRAIN, "val/dog/a.jpg"), "val")
    assert (got.classes, named(got)) == (("cat", "dog"), {"val/dog/a.jpg": "dog"})
    assert "no picture of 1 of 2 classes: cat" in caplog.text
    touch(tmp_path, "val/bird/a.jpg", "val/cats/a.jpg")
    with pytest.raises(UserError, match=r"val: the class 'bird' \(and 1 more\) is not among the 2 classes.*cat, dog"):
        read_folders(tmp_path, "val")
    assert named(read_folders(tmp_path, "val", classes=["dog"])) == {"val/dog/a.jpg": "dog"}


def test_an_empty_class_stays(tmp_path, caplog):
    (touch(tmp_path, *TRAIN) / "train/bird").mkdir()
    with caplog.at_level(logging.WARNING):
        got = read_classes(tmp_path, part="train")
    assert (got.classes, got.labels.tolist()) == (("bird", "cat", "dog"), [1, 1, 2, 2])
    assert "no picture of 1 of 3 classes: bird" in caplog.text


def test_a_choice_of_classes_gives_the_order(tmp_path):
    touch(tmp_path, *TRAIN, "train/bird/a.jpg")
    got = read_folders(tmp_path, "train", classes=["dog", "bird"], folders=SplitFolders(val="train"))
    assert got.classes == ("dog", "bird")
    assert named(got) == {"train/dog/a.jpg": "dog", "train/dog/b.JPEG": "dog", "train/bird/a.jpg": "bird"}
    with pytest.raises(UserError, match=r"there is no class 'bir', which data.classes asks for. The nearest: bird"):
        read_folders(tmp_path, "train", classes=["bir"])


def test_one_folder_is_split(tmp_path):
    touch(
        tmp_path, *(f"{name}/{i:02}.jpg" for name in ("dog", "train", "one") for i in range(1 if name == "one" else 20))
    )
    train, val = (read_folders(tmp_path, split, val_share=0.25, seed=3) for split in ("train", "val"))
    assert train.classes == val.classes == ("dog", "one", "train")  # a folder train with pictures alone is a class
    assert np.bincount(train.labels).tolist() == [15, 1, 15]
    assert np.bincount(val.labels).tolist() == [5, 0, 5]
    refuse_shared({"train": train, "val": val}, name="both")
    with pytest.raises(UserError, match="there is no test split"):
        read_folders(tmp_path, "test")


def test_a_missing_val_folder_is_held_out_of_training(tmp_path):
    touch(tmp_path, *(f"train/dog/{i}.jpg" for i in range(10)), "test/dog/a.jpg")
    parts = [set(named(read_folders(tmp_path, split, val_share=0.2))) for split in ("train", "val")]
    assert (len(parts[0]), len(parts[1]), len(parts[0] | parts[1])) == (8, 2, 10)
    assert set(named(read_folders(tmp_path, "test"))) == {"test/dog/a.jpg"}


def test_only_a_val_folder_can_be_evaluated(tmp_path):
    touch(tmp_path, "val/dog/a.jpg")
    assert named(read_folders(tmp_path, "val")) == {"val/dog/a.jpg": "dog"}
    with pytest.raises(UserError, match=r"folder not found: .*train\. .*the folders there: val"):
        read_folders(tmp_path, "train")


def test_a_test_folder_may_have_no_classes(tmp_path):
    touch(tmp_path, *TRAIN, *VAL, "test/2.jpg", "test/1.jpg")
    got = read_folders(tmp_path, "test")
    assert (got.file_names.tolist(), got.labels.tolist()) == ([b"test/1.jpg", b"test/2.jpg"], [-1, -1])
    assert got.classes == ("cat", "dog")
    (tmp_path / "val2").mkdir()
    touch(tmp_path, "val2/1.jpg")
    with pytest.raises(UserError, match="val2: there is no folder in it. Expected one for each class"):
        read_folders(tmp_path, "val", folders=SplitFolders(val="val2"))


def test_pictures_without_classes(tmp_path):
    got = read_unlabelled(touch(tmp_path, "b/ä.jpg", "a.PNG", "c.txt"))
    assert [got.file_name(i) for i in range(2)] == ["a.PNG", "b/ä.jpg"]
    assert (got.labels.tolist(), got.classes) == ([-1, -1], ())
    assert describe_labelled(got) == "2 pictures, 0 classes, 2 without a class"


def test_links_are_followed_but_not_in_circles(tmp_path, caplog):
    touch(tmp_path, "store/a.jpg", "root/dog/b.jpg")
    os.symlink(tmp_path / "store", tmp_path / "root/cat")
    os.symlink(tmp_path / "root/dog", tmp_path / "root/dog/again")
    got = read_classes(tmp_path / "root")
    assert named(got) == {"cat/a.jpg": "cat", "dog/b.jpg": "dog"}
    assert "dog/again: a link to a folder above it is not followed" in caplog.text


def test_pictures_beside_the_classes_are_named(tmp_path, caplog):
    assert len(read_classes(touch(tmp_path, "dog/a.jpg", "b.jpg"))) == 1
    assert "pictures that lie beside the folders, one for each class, are left out" in caplog.text


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match=f"folder not found: {tmp_path / 'none'}"):
        read_folders(tmp_path / "none", "train")
    with pytest.raises(UserError, match="there is no folder in it"):
        read_folders(tmp_path, "train")
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="there is no picture"):
        read_folders(tmp_path, "train")


def test_a_name_that_is_not_utf8(tmp_path):
    touch(tmp_path, "dog/a.jpg")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/dog/\xff.jpg"))).touch()
    with pytest.raises(UserError, match="is not UTF-8"):
        read_classes(tmp_path)


def test_another_table_renumbers(tmp_path):
    got = adopt_labels(read_classes(touch(tmp_path, *TRAIN) / "train"), classes=["dog", "ant", "cat"], name="x")
    assert (got.classes, got.labels.tolist()) == (("dog", "ant", "cat"), [2, 2, 0, 0])
    with pytest.raises(
        UserError, match=r"x: the class 'cat' is not among the 2 classes.*dog, cats\); did you mean cats"
    ):
        adopt_labels(read_classes(tmp_path / "train"), classes=["dog", "cats"], name="x")


def pictures(labels, classes=("a", "b", "c")) -> LabelledPictures:
    names = np.array([f"{i:03}.jpg" for i in range(len(labels))], dtype=np.bytes_)
    return LabelledPictures(names, np.array(labels, dtype=np.int64), classes)


def test_renumbering_keeps_what_is_not_known():
    assert adopt_labels(pictures([0, -1, 2]), classes="cba", name="x").labels.tolist() == [2, -1, 0]
    got = keep_classes(pictures([0, -1, 2, 1]), classes=["c", "a"], file=Path("x"))
    assert (got.labels.tolist(), got.file_names.tolist()) == ([1, -1, 0], [b"000.jpg", b"001.jpg", b"002.jpg"])


def test_one_line_about_a_split():
    assert describe_labelled(pictures([0, 0, 2, 2, 2, 1])) == "6 pictures, 3 classes, from 1 (b) to 3 (c) pictures"
    text = describe_labelled(pictures([0] * 1500 + [1, -1]))
    assert text == "1,502 pictures, 3 classes, from 0 (c) to 1,500 (a) pictures, 1 without a class"


def test_a_picture_in_two_splits_is_refused():
    both = pictures([0, 1, 2])
    with pytest.raises(UserError, match=r"x: 1 pictures are in both splits 'a' and 'b', the first is 001\.jpg"):
        refuse_shared({"a": both.take(np.array([0, 1])), "b": both.take(np.array([1, 2]))}, name="x")


def test_the_split_is_the_same_everywhere():
    """Of the five numbers that seed 0 draws first, .637 .270 .041 .017 .813, the fourth is the smallest."""
    labels = np.array([0, 1] * 5)
    assert np.flatnonzero(split_rows(labels, 0.2, 0)).tolist() == [6, 7]
    assert np.flatnonzero(split_rows(labels, 0.4, 0)).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(split_rows(labels[labels == 1], 0.4, 0)).tolist() == [2, 3]  # whatever else there is
    assert (split_rows(labels, 0.4, 1) != split_rows(labels, 0.4, 0)).any()


def test_every_class_keeps_a_picture_to_train_on():
    labels = np.array([3] + [5] * 2 + [-1] * 10 + [7] * 15)
    held = split_rows(labels, 0.1, 0)
    assert [int(held[labels == k].sum()) for k in (3, 5, -1, 7)] == [0, 1, 1, 2]
    held = split_rows(labels, 0.99, 0)
    assert [int((~held)[labels == k].sum()) for k in (3, 5, -1, 7)] == [1, 1, 1, 1]
    assert split_rows(labels[:0], 0.1, 0).tolist() == []


def test_the_split_does_not_depend_on_the_order():
    whole = pictures([0, 1] * 10)
    mixed = whole.take(np.random.default_rng(5).permutation(20))
    val, again = (part_of(p, "val", share=0.3, seed=0, name="x") for p in (whole, mixed))
    assert len(val) == 6
    assert sorted(val.file_names) == sorted(again.file_names)


@pytest.mark.parametrize(("share", "seed"), [(0, 0), (1, 0), (1.5, 0), (float("nan"), 0), (0.1, -1)])
def test_a_share_that_is_none(share, seed):
    with pytest.raises(UserError, match="Expected"):
        split_rows(np.zeros(3), share, seed)


def test_a_label_out_of_range_is_refused(tmp_path):
    from mnvision.data.labelled import check_pictures

    with pytest.raises(UserError, match=re.escape("x: the label of 001.jpg is 3. Expected 0 to 2, one of 3 classes")):
        check_pictures(pictures([0, 3]), folder=tmp_path, source=Path("x"))
