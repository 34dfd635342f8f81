from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from mnvision.data.classes import adopt_classes, describe
from mnvision.data.coco import read_coco
from mnvision.errors import UserError

# Ids with gaps and out of order, a picture without boxes in the middle, boxes of one picture apart from each other.
CONTENT = {
    "images": [
        {"id": 30, "file_name": "c.jpg", "width": 100, "height": 50},
        {"id": 10, "file_name": "äpfel/a.jpg", "width": 40, "height": 60},
        {"id": 20, "file_name": "b.jpg", "width": 10, "height": 10},
    ],
    "annotations": [
        {"id": 0, "image_id": 20, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 7.5, "iscrowd": 0},
        {"id": 5, "image_id": 30, "category_id": 18, "bbox": [0.5, 0, 10.25, 20], "iscrowd": 1},
        {"id": 6, "image_id": 20, "category_id": 18, "bbox": [0, 0, 5, 5], "area": 20},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 18, "name": "dog"}],
}


def read(folder: Path, content: object, **options):
    file = folder / "instances.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_coco(file, **{"image_folder": None, **options})


def with_box(box: list, **changes) -> dict:
    content = copy.deepcopy(CONTENT)
    content["annotations"].append({"id": 99, "image_id": 10, "category_id": 3, "bbox": box, **changes})
    return content


def test_reads_ids_with_gaps_in_file_order(tmp_path: Path):
    got = read(tmp_path, CONTENT)
    assert got.classes == ("car", "dog", "toothbrush")
    assert got.category_ids == (3, 18, 90)
    assert got.image_ids.tolist() == [30, 10, 20]
    assert [got.file_name(i) for i in range(3)] == ["c.jpg", "äpfel/a.jpg", "b.jpg"]
    assert got.sizes.tolist() == [[50, 100], [60, 40], [10, 10]]
    assert got.offsets.tolist() == [0, 1, 1, 3]
    assert got.boxes.tolist() == [[0.5, 0, 10.75, 20], [1, 2, 4, 6], [0, 0, 5, 5]]
    assert got.labels.tolist() == [2, 3, 2]
    assert got.areas.tolist() == [10.25 * 20, 7.5, 20]
    assert got.crowd.tolist() == [True, False, False]
    assert got.usable.all()
    assert got.file_names.dtype.kind == "S"
    assert (got.boxes.dtype, got.labels.dtype, got.sizes.dtype) == (np.float64, np.int64, np.int32)
    assert describe(got) == "3 images, 3 boxes, 3 classes, 1 empty images, 1 crowd, 0 degenerate"


def test_class_subset_keeps_every_picture(tmp_path: Path):
    got = read(tmp_path, CONTENT, classes=["toothbrush", "car"])
    assert got.classes == ("toothbrush", "car")
    assert got.category_ids == (90, 3)
    assert len(got) == 3
    assert got.offsets.tolist() == [0, 0, 0, 1]
    assert got.labels.tolist() == [1]
    assert got.areas.tolist() == [7.5]


@pytest.mark.parametrize(
    "box",
    [
        [1, 1, 0, 5],
        [1, 1, 5, 0],
        [5, 5, -3, 4],
        [float("nan"), 0, 5, 5],
        [0, 0, float("inf"), 5],
        [40, 0, 5, 5],  # the picture is 40 wide
        [0, -9, 5, 9],
    ],
)
def test_degenerate_box_is_kept_marked_and_reported(tmp_path: Path, caplog, box: list):
    with caplog.at_level(logging.WARNING):
        got = read(tmp_path, with_box(box))
    assert got.usable.tolist() == [True, False, True, True]
    assert got.rows(1) == slice(1, 2)
    assert len(caplog.records) == 1
    assert "instances.json: 1 of 4 boxes are degenerate" in caplog.text
    assert "annotation 99, image 10" in caplog.text


@pytest.mark.parametrize("box", [[-2, -2, 10, 10], [39.5, 59.5, 20, 20], [0, 0, 40, 60]])
def test_box_partly_outside_is_usable(tmp_path: Path, box: list):
    assert read(tmp_path, with_box(box)).usable.all()


@pytest.mark.parametrize("empty", [{**CONTENT, "annotations": []}, {**CONTENT, "annotations": [], "images": []}])
def test_no_boxes_at_all(tmp_path: Path, empty: dict):
    got = read(tmp_path, empty)
    assert got.boxes.shape == (0, 4)
    assert got.offsets.tolist() == [0] * (len(got) + 1)
    assert got.labels.dtype == np.int64


def edited(section: str, index: int, **changes) -> dict:
    content = copy.deepcopy(CONTENT)
    entry = content[section][index]
    entry.update(changes)
    for key in [key for key, value in changes.items() if value == "REMOVE"]:
        del entry[key]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "is not JSON"),
        ("[]", "a JSON list.*results file"),
        ({"images": [], "categories": []}, "'annotations', but it is missing"),
        ({**CONTENT, "annotations": {"1": 2}}, "'annotations', but it is a dict"),
        ({**CONTENT, "images": ["a.jpg"]}, r"images\[0\] is 'a.jpg'"),
        ({**CONTENT, "categories": []}, "lists no categories"),
        (edited("annotations", 1, category_id=4), "annotation 5 has category_id 4, which 'categories' does not list"),
        (edited("annotations", 2, image_id=11), "annotation 6 has image_id 11, which 'images' does not list"),
        (edited("images", 1, id=30), "id 30 is used 2 times in 'images'"),
        (edited("categories", 1, id=90), "id 90 is used 2 times in 'categories'"),
        (edited("images", 1, width="REMOVE"), r"images\[1\] has no 'width' \(it has: file_name, height, id\)"),
        (edited("images", 2, height=0), "image 20 is 10 x 0 pixels"),
        (edited("images", 2, id="b"), r"'id' of images\[2\] is 'b', expected a whole number"),
        (edited("images", 2, id=1.5), r"'id' of images\[2\] is 1.5, expected a whole number"),
        (edited("images", 0, file_name=None), r"'file_name' of images\[0\] is None"),
        (edited("annotations", 1, bbox=[1, 2, 3]), r"bbox of annotation 5 is \[1, 2, 3\], expected \[x, y, width"),
        (edited("annotations", 1, bbox="REMOVE"), r"annotations\[1\] has no 'bbox'"),
        (edited("annotations", 1, bbox=[1, 2, "x", 3]), "bbox of annotation 5"),
        (edited("annotations", 2, area=[1]), r"area of annotations\[2\] is \[1\]"),
    ],
)
def test_wrong_file_is_one_clear_error(tmp_path: Path, content: object, message: str):
    with pytest.raises(UserError, match=rf"instances.json: (?s:.)*{message}"):
        read(tmp_path, content)


def test_missing_files_and_folders(tmp_path: Path):
    with pytest.raises(UserError, match=r"annotation file not found: .*absent.json.*check data.root"):
        read_coco(tmp_path / "absent.json", image_folder=None)
    with pytest.raises(UserError, match="annotation file is a folder"):
        read_coco(tmp_path, image_folder=None)
    with pytest.raises(UserError, match=r"picture folder not found: .*train2017"):
        read(tmp_path, CONTENT, image_folder=tmp_path / "train2017")
    with pytest.raises(UserError, match=r"picture not found: .*c.jpg, the first one"):
        read(tmp_path, CONTENT, image_folder=tmp_path)


def test_unknown_class_names_the_nearest(tmp_path: Path):
    with pytest.raises(UserError, match="is no class 'toothbrsh'.*nearest: toothbrush"):
        read(tmp_path, CONTENT, classes=["toothbrsh"])
    with pytest.raises(UserError, match="none twice"):
        read(tmp_path, CONTENT, classes=["car", "car"])


def test_categories_of_one_name_are_told_apart(tmp_path: Path, caplog):
    got = read(tmp_path, edited("categories", 0, name="dog"))
    assert got.classes == ("car", "dog (id 18)", "dog (id 90)")
    assert "share a name" in caplog.text


def test_adopt_classes_renumbers_a_split_with_fewer_classes(tmp_path: Path):
    val = read(tmp_path, {**CONTENT, "categories": [c for c in CONTENT["categories"] if c["id"] != 3]})
    assert val.labels.tolist() == [1, 2, 1]
    got = adopt_classes(val, classes=("car", "dog", "toothbrush"), category_ids=(3, 18, 90), name="val.json")
    assert got.labels.tolist() == [2, 3, 2]
    assert got.category_ids == (3, 18, 90)
    with pytest.raises(UserError, match=r"val.json: category 90 \('toothbrush'\) does not exist"):
        adopt_classes(val, classes=("dog",), category_ids=(18,), name="val.json")
    with pytest.raises(UserError, match=r"category 18 \('dog'\) is called 'cat'"):
        adopt_classes(val, classes=("cat",), category_ids=(18,), name="val.json")


def test_real_file_equals_a_plain_reading(shared_data: Path):
    folder = shared_data / "coco128"
    file = folder / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    got = read_coco(file, image_folder=folder / "val2017")
    assert (len(got), len(got.boxes), len(got.classes)) == (128, 898, 80)
    assert got.category_ids[-1] == 90
    for i, image in enumerate(content["images"]):
        expected = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        rows = got.rows(i)
        assert got.file_name(i) == image["file_name"]
        assert [got.category_ids[k - 1] for k in got.labels[rows]] == [a["category_id"] for a in expected]
        xywh = np.array([a["bbox"] for a in expected]).reshape(-1, 4)
        np.testing.assert_allclose(got.boxes[rows][:, :2], xywh[:, :2])
        np.testing.assert_allclose(got.boxes[rows][:, 2:] - got.boxes[rows][:, :2], xywh[:, 2:], atol=1e-9)


def test_real_crowds_and_segment_areas(shared_data: Path):
    file = shared_data / "cocoapi100" / "instances_val2014_100.json"
    got = read_coco(file, image_folder=None)
    rows = json.loads(file.read_text())["annotations"]
    assert got.crowd.sum() == sum(a["iscrowd"] for a in rows) > 0
    np.testing.assert_allclose(np.sort(got.areas), np.sort([a["area"] for a in rows]))
