from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mnvision.annotations import Annotations
from mnvision.data.coco import read_coco
from mnvision.data.dataset import DetectionDataset
from mnvision.data.loaders import EpochSampler
from mnvision.data.shapes import make_shapes
from mnvision.errors import UserError
from mnvision.ops.image import read_image, resize_image
from mnvision.types import Preprocessing

PREPROCESSING = Preprocessing(size=64, mean=(100.0, 110.0, 120.0))


@pytest.fixture
def shapes(tmp_path: Path) -> tuple[Annotations, Path]:
    root = make_shapes(tmp_path / "shapes", seed=0, train_images=12, val_images=1, image_size=96)
    return read_coco(root / "annotations" / "train.json", image_folder=root / "train"), root / "train"


def build(shapes: tuple[Annotations, Path], **options) -> DetectionDataset:
    return DetectionDataset(shapes[0], **{"image_folder": shapes[1], "preprocessing": PREPROCESSING, **options})


def test_item_is_the_resized_picture_and_scaled_boxes(shapes):
    annotations, folder = shapes
    dataset = build(shapes)
    assert len(dataset) == 12
    seen_empty = False
    for i in range(12):
        image, target = dataset[i]
        assert image.dtype == torch.uint8
        assert image.shape == (3, 64, 64)
        expected = resize_image(read_image(folder / annotations.file_name(i)), 64)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
        rows = annotations.rows(i)
        np.testing.assert_allclose(target.boxes, annotations.boxes[rows] * 64 / 96, rtol=1e-6)
        np.testing.assert_array_equal(target.labels, annotations.labels[rows])
        assert (target.boxes.dtype, target.labels.dtype, target.crowd.dtype) == (
            torch.float32,
            torch.int64,
            torch.bool,
        )
        assert target.boxes.shape == (rows.stop - rows.start, 4)
        assert target.image_id == annotations.image_ids[i]
        assert target.original_size == (96, 96)
        seen_empty |= len(target.boxes) == 0
    assert seen_empty
    with pytest.raises(IndexError):
        dataset[12]


def test_degenerate_boxes_are_left_out_and_crowds_marked(shapes):
    annotations, _ = shapes
    rows = annotations.rows(int(np.argmax(np.diff(annotations.offsets))))
    annotations.usable[rows.start] = False
    annotations.crowd[rows.start + 1] = True
    index = int(np.searchsorted(annotations.offsets, rows.start, side="right")) - 1
    target = build(shapes)[index][1]
    assert len(target.boxes) == rows.stop - rows.start - 1
    assert target.crowd.tolist() == [True] + [False] * (len(target.boxes) - 1)


def test_augmentation_depends_on_seed_epoch_and_index_alone(shapes):
    def pixels(dataset, order, epoch):
        return {i: dataset[epoch, i][0].numpy().tobytes() for i in order}

    first = pixels(build(shapes, augment="ssd", seed=1), range(12), 4)
    other = build(shapes, augment="ssd", seed=1)
    pixels(other, range(5), 0)  # a history
    assert pixels(other, reversed(range(12)), 4) == first
    assert other[3][0].numpy().tobytes() == other[0, 3][0].numpy().tobytes()
    for changed in (pixels(other, range(12), 5), pixels(build(shapes, augment="ssd", seed=2), range(12), 4)):
        assert sum(changed[i] == first[i] for i in range(12)) <= 1


# --- bad pictures


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def resize(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros((96, 90, 3), np.uint8))


BREAKAGES: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "cut short"),
    (lambda path: path.write_bytes(b""), "empty"),
    (lambda path: path.unlink(), "not found"),
    (resize, "is 90 x 96 pixels, but its annotations say 96 x 96"),
]


@pytest.mark.parametrize(("breakage", "message"), BREAKAGES)
def test_bad_picture_is_an_error_that_names_it(shapes, breakage, message):
    annotations, folder = shapes
    path = folder / annotations.file_name(5)
    breakage(path)
    with pytest.raises(UserError, match=rf"(?s){path.name}.*{message}|{message}.*{path.name}"):
        build(shapes)[5]


@pytest.mark.parametrize(("breakage", "message"), BREAKAGES)
def test_skip_substitutes_in_training_counts_and_tells(shapes, caplog, breakage, message):
    annotations, folder = shapes
    for index in (5, 7):
        breakage(folder / annotations.file_name(index))
    dataset = build(shapes, bad_images="skip", substitute=True, augment="flip", seed=3)
    good = [int(annotations.image_ids[i]) for i in range(12) if i not in (5, 7)]
    with caplog.at_level(logging.WARNING):
        drawn = [dataset[epoch, 5][1].image_id for epoch in range(6)]
    assert set(drawn) <= set(good)
    assert len(set(drawn)) > 1
    assert caplog.text.count(annotations.file_name(5)) == 1  # told once, not every epoch
    assert message.split()[0] in caplog.text
    again = build(shapes, bad_images="skip", substitute=True, augment="flip", seed=3)
    assert [again[epoch, 5][1].image_id for epoch in range(6)] == drawn
    caplog.clear()
    dataset[6, 7]
    assert dataset.report_bad_images() == 2
    assert "2 of 12 pictures skipped (replaced by others)" in caplog.text
    assert dataset.report_bad_images() == 0  # since the last report


def test_skip_in_validation_leaves_a_blank_under_the_same_id(shapes, caplog):
    annotations, folder = shapes
    index = int(np.argmax(np.diff(annotations.offsets)))
    truncate(folder / annotations.file_name(index))
    dataset = build(shapes, bad_images="skip")
    image, target = dataset[index]
    assert target.image_id == annotations.image_ids[index]
    assert target.boxes.shape == (0, 4)
    assert target.original_size == (96, 96)
    assert image.shape == (3, 64, 64)
    assert image[:, 3, 5].tolist() == [100, 110, 120]
    assert (image == image[:, :1, :1]).all()
    assert dataset.report_bad_images() == 1
    assert "their objects count as not found" in caplog.text


def test_skip_gives_up_when_nothing_can_be_read(shapes):
    for path in shapes[1].iterdir():
        path.unlink()
    with pytest.raises(UserError, match="21 pictures in a row.*Is the picture folder right"):
        build(shapes, bad_images="skip", substitute=True)[0]


def test_exif_is_named_where_it_swaps_the_sides(tmp_path: Path):
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    data = cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    (tmp_path / "phone.jpg").write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])

    def annotate(height: int, width: int) -> Annotations:
        file = tmp_path / "a.json"
        file.write_text(
            f'{{"images": [{{"id": 1, "file_name": "phone.jpg", "width": {width}, "height": {height}}}],'
            ' "annotations": [], "categories": [{"id": 1, "name": "x"}]}'
        )
        return read_coco(file, image_folder=tmp_path)

    options = {"image_folder": tmp_path, "preprocessing": PREPROCESSING}
    assert DetectionDataset(annotate(60, 40), **options)[0][1].original_size == (60, 40)
    with pytest.raises(UserError, match="is 40 x 60 pixels, but .* say 60 x 40: its EXIF orientation turns it"):
        DetectionDataset(annotate(40, 60), **options)[0]
    with pytest.raises(UserError, match="say 30 x 60, and no EXIF orientation explains it"):
        DetectionDataset(annotate(60, 30), **options)[0]


def test_wrong_choice(shapes):
    with pytest.raises(UserError, match="data.bad_images is 'ignore'. Expected one of error, skip"):
        build(shapes, bad_images="ignore")


# --- sampler


def test_sampler_sends_the_epoch_and_shuffles_by_it():
    sampler = EpochSampler(20, shuffle=True, seed=5)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert {e for e, _ in keys} == {epoch}
        assert sorted(i for _, i in keys) == list(range(20))
        assert keys == list(sampler)
        orders.append([i for _, i in keys])
    assert orders[0] != orders[1] != orders[2]
    # Seed and epoch are not simply added: seed 5 at epoch 1 is not seed 6 at epoch 0.
    assert [i for _, i in EpochSampler(20, shuffle=True, seed=6)] != orders[1]


@pytest.mark.parametrize(("size", "ranks"), [(20, 4), (23, 4), (7, 3), (2, 4)])
def test_ranks_share_training_pictures_without_overlap(size, ranks):
    seen = set()
    for epoch in range(30):
        parts = []
        for rank in range(ranks):
            sampler = EpochSampler(size, shuffle=True, ranks=ranks, rank=rank)
            sampler.set_epoch(epoch)
            parts.append([i for _, i in sampler])
            assert len(parts[-1]) == len(sampler)
        assert len({len(part) for part in parts}) == 1
        together = [i for part in parts for i in part]
        if size >= ranks:
            assert len(together) == len(set(together)) == size // ranks * ranks
        seen |= set(together)
    assert seen == set(range(size))  # what is left out waits for another epoch


@pytest.mark.parametrize(("size", "ranks"), [(20, 1), (20, 4), (23, 4), (2, 5)])
def test_validation_sees_every_picture_in_file_order(size, ranks):
    parts = [[i for _, i in EpochSampler(size, shuffle=False, ranks=ranks, rank=rank)] for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    assert set().union(*parts) == set(range(size))
    if ranks == 1:
        assert parts == [list(range(size))]
