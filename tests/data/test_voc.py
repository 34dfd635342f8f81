from __future__ import annotations

import logging
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnvision.data.classes import describe
from mnvision.data.datamodule import DetectionDataModule
from mnvision.data.voc import VocFolders, read_voc, voc_classes
from mnvision.errors import UserError
from mnvision.types import Preprocessing


def an_object(name="dog", box=(1, 1, 10, 20), extra="") -> str:
    corners = "".join(f"<{key}>{v}</{key}>" for key, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


def xml(*objects: str, size="<size><width>40</width><height>30</height></size>", filename="x.jpg") -> str:
    return f"<annotation><filename>{filename}</filename>{size}{''.join(objects)}</annotation>"


PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
DIFFICULT = "<difficult>1</difficult>"
PICTURES = {
    "b": xml(an_object("dog", (5, 6, 10, 20)), an_object("cat", (1, 1, 40, 30), DIFFICULT + PART)),
    "a": xml(),
    "c": xml(an_object("cat", ("2.5", 3, 4, 5), "<difficult>0</difficult>"), filename="somewhere.png"),
}
LISTS = {"train": "b\na  1\n\nc -1\n", "val": "c\n"}


def write(root: Path, *, pictures=PICTURES, lists=LISTS) -> Path:
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in lists.items():
        (root / f"ImageSets/Main/{name}.txt").write_text(text)
    for name, text in pictures.items():
        (root / f"Annotations/{name}.xml").write_text(text)
        suffix = ".png" if ".png" in text else ".jpg"
        cv2.imwrite(str(root / f"JPEGImages/{name}{suffix}"), np.zeros((30, 40, 3), np.uint8))
    return root


def test_reads_a_split_in_the_order_of_its_list(tmp_path):
    got = read_voc(write(tmp_path), "train")
    assert got.classes == ("cat", "dog")
    assert got.category_ids == (1, 2)
    assert got.image_ids.tolist() == [1, 2, 3]
    assert [got.file_name(i) for i in range(3)] == ["b.jpg", "a.jpg", "c.png"]
    assert got.sizes.tolist() == [[30, 40]] * 3
    assert got.offsets.tolist() == [0, 2, 2, 3]
    assert got.boxes.tolist() == [[4, 5, 10, 20], [0, 0, 40, 30], [1.5, 2, 4, 5]]  # pixels from 1, inclusive
    assert got.areas.tolist() == [6 * 15, 40 * 30, 2.5 * 3]
    assert got.labels.tolist() == [2, 1, 1]
    assert got.crowd.tolist() == [False, True, False]
    assert got.usable.all()
    assert got.file_names.dtype.kind == "S"
    kinds = [got.boxes.dtype, got.labels.dtype, got.sizes.dtype, got.offsets.dtype, got.areas.dtype]
    assert kinds == [np.float64, np.int64, np.int32, np.int64, np.float64]
    assert describe(got) == "3 images, 3 boxes, 2 classes, 1 empty images, 1 crowd, 0 degenerate"


def test_difficult_objects_can_count(tmp_path):
    assert not read_voc(write(tmp_path), "train", ignore_difficult=False).crowd.any()


def test_a_choice_of_classes_keeps_every_picture(tmp_path):
    got = read_voc(write(tmp_path), "train", classes=["cat"])
    assert (got.classes, got.category_ids, got.labels.tolist()) == (("cat",), (1,), [1, 1])
    assert got.offsets.tolist() == [0, 1, 1, 2]
    got = read_voc(tmp_path, "val", known=["cat", "dog"], classes=["dog", "cat"])
    assert (got.classes, got.labels.tolist()) == (("dog", "cat"), [2])


def test_a_list_of_empty_pictures(tmp_path):
    got = read_voc(write(tmp_path, lists={"train": "a\n"}), "train", known=["cat"])
    assert (got.boxes.shape, got.labels.shape, got.offsets.tolist()) == ((0, 4), (0,), [0, 0])


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), ("nan", 1, 5, 5), (1, 1, "inf", 5), (41, 1, 50, 5), (1, -9, 5, 0)],
)
def test_degenerate_boxes_stay_and_their_file_is_named(tmp_path, caplog, box):
    write(tmp_path, pictures={**PICTURES, "a": xml(an_object("dog", box))})
    with caplog.at_level(logging.WARNING):
        got = read_voc(tmp_path, "train")
    assert got.usable.tolist() == [True, True, False, True]
    assert "1 of 4 boxes are degenerate" in caplog.text
    assert str(tmp_path / "Annotations/a.xml") in caplog.text


@pytest.mark.parametrize("box", [(40, 30, 41, 31), (1, 1, 2, 2), (0, 0, 1, 1)])
def test_boxes_at_the_border_are_usable(tmp_path, box):
    assert read_voc(write(tmp_path, pictures={**PICTURES, "a": xml(an_object("dog", box))}), "train").usable.all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><size>", "is not XML"),
        ("", "is not XML"),
        (xml(size=""), "<size> has width missing, height missing.*real size"),
        (xml(size="<size><width>0</width><height>30</height></size>"), "<size> has width 0, height 30.*real size"),
        (xml(size="<size><width>4</width><height>x</height></size>"), "<size> has width 4, height x"),
        (xml(an_object(box=(1, 1, "wide", 2))), "<xmax> of object 1 .'dog'. is 'wide', expected a number"),
        (xml("<object><name>dog</name></object>"), "<xmin> of object 1 .'dog'. is missing"),
        (xml(an_object(), an_object(name=" ")), "object 2 has no <name>"),
        (xml(an_object("dgo")), "class 'dgo'; expected one of those to learn or detect .cat, dog."),
    ],
)
def test_wrong_annotations_are_refused_by_name(tmp_path, text, words):
    write(tmp_path, pictures={**PICTURES, "a": text})
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "Annotations/a.xml")) + f".*{words}"):
        read_voc(tmp_path, "train", known=["cat", "dog"])


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("Annotations/a.xml", "annotation file not found"),
        ("JPEGImages/b.jpg", "picture not found"),
        ("ImageSets/Main/train.txt", "list of pictures not found.*the lists there: val"),
    ],
)
def test_missing_files_are_named(tmp_path, path, words):
    (write(tmp_path) / path).unlink()
    with pytest.raises(UserError, match=f"(?=.*{re.escape(path)}){words}"):
        read_voc(tmp_path, "train")


def test_other_refusals(tmp_path):
    write(tmp_path, lists={"train": "a\nb\na\n", "val": "b\n"})
    with pytest.raises(UserError, match=r"train\.txt: names a twice"):
        read_voc(tmp_path, "train")
    with pytest.raises(UserError, match="no class 'cta'.*nearest: cat"):
        read_voc(tmp_path, "val", classes=["cta"])
    with pytest.raises(UserError, match="none twice"):
        read_voc(tmp_path, "val", classes=["cat", "cat"])
    with pytest.raises(UserError, match="picture folder not found.*Photos"):
        read_voc(tmp_path, "val", folders=VocFolders(images="Photos"))


# the data module


def module(root: Path, **options) -> DetectionDataModule:
    defaults = {"name": "voc", "preprocessing": Preprocessing(size=48), "batch_size": 2, "num_workers": 0}
    return DetectionDataModule(root=root, **{**defaults, **options})


@pytest.mark.parametrize("splits", [("train", "val"), ("val",)])
def test_the_classes_are_those_of_the_training_split(tmp_path, splits):
    data = module(write(tmp_path))
    for split in splits:
        data.load_split(split)
    assert data.val_annotations.classes == ("cat", "dog")
    assert data.val_annotations.labels.tolist() == [1]
    assert data.image_folder("val") == tmp_path / "JPEGImages"


def test_batches(tmp_path):
    data = module(write(tmp_path), augment="none", classes=["dog", "cat"])
    data.setup()
    (batch,) = data.val_dataloader()
    assert batch.images.shape == (1, 3, 48, 48)
    assert batch.targets.labels.tolist() == [[2]]
    assert data.classes == ("dog", "cat")
    assert [len(batch.images) for batch in data.train_dataloader()] == [2]


def test_a_checkpoint_s_classes_are_found_by_name(tmp_path):
    (write(tmp_path) / "ImageSets/Main/train.txt").unlink()  # not needed then
    data = module(tmp_path, class_table=(["dog", "bird", "cat"], [18, 16, 17]))
    assert data.load_split("val").labels.tolist() == [3]
    assert data.category_ids == (18, 16, 17)
    with pytest.raises(UserError, match=r"c\.xml: has an object of class 'cat'"):
        module(tmp_path, class_table=(["dog"], [1])).load_split("val")


def test_a_test_split_is_read_when_it_is_asked_for(tmp_path):
    data = module(write(tmp_path), test_split="val")
    data.setup()
    assert not hasattr(data, "test_annotations")
    assert data.load_split("test").classes == ("cat", "dog")
    assert [len(batch.images) for batch in data.evaluation_dataloader("test")] == [1]
    with pytest.raises(UserError, match=r"list of pictures not found.*test\.txt.*the lists there: train, val"):
        module(tmp_path).load_split("test")


def test_an_unset_root_says_what_is_expected():
    with pytest.raises(UserError, match=r"'voc', which holds JPEGImages/ and ImageSets/Main/train\.txt"):
        module(None)


# real pictures


def test_blood_cells(shared_data, caplog):
    root = shared_data / "bccd"
    if not root.is_dir():
        pytest.skip("the BCCD data set is not there")
    known = voc_classes(root, "train")
    assert known == ("Platelets", "RBC", "WBC")
    with caplog.at_level(logging.WARNING):
        splits = [read_voc(root, name, known=known) for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [205, 87, 72]
    assert sum(len(split.boxes) for split in splits) == 4888
    degenerate = [
        split.file_name(i) for split in splits for i in range(len(split)) if not split.usable[split.rows(i)].all()
    ]
    assert sorted(degenerate) == ["BloodImage_00338.jpg", "BloodImage_00343.jpg"]
    assert sum(int((~split.usable).sum()) for split in splits) == 2
    assert "BloodImage_00338.xml" in caplog.text
    assert "BloodImage_00343.xml" in caplog.text
