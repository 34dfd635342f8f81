"""What is drawn is where it should be, inside the picture and readable."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from mnvision.types import Detections, UserError
from mnvision.visualize import _place_chips, _rectangle, class_color, contact_sheet, draw_detections

CLASSES = ("cat", "dog")


def grey(height=240, width=320):
    return np.full((height, width, 3), 90, np.uint8)


def detections(*rows):
    """Rows of (x1, y1, x2, y2, score, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(boxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long())


def test_a_box_is_drawn_at_its_place_in_the_color_of_its_class():
    image = grey()
    drawn = draw_detections(image, detections((100, 120, 180, 200, 0.9, 2)), CLASSES)
    assert drawn.dtype == np.uint8
    assert drawn.shape == image.shape
    assert (image == 90).all()  # the picture given is left alone
    for x, y in ((100, 160), (179, 160), (140, 199), (140, 120)):
        assert tuple(drawn[y, x]) == class_color(1)
    for x, y in ((98, 160), (181, 160), (140, 202), (140, 160)):
        assert tuple(drawn[y, x]) == (90, 90, 90)


def test_without_detections_the_picture_stays_as_it_is():
    image = grey()
    none = detections()
    unseen = detections(
        (10, 10, 50, 50, 0.29, 1),
        (-50, 10, -1, 50, 0.9, 1),
        (400, 10, 450, 50, 0.9, 1),
        (float("nan"), 1, 9, 9, 0.9, 1),
    )
    for found in (none, unseen):
        drawn = draw_detections(image, found, CLASSES, score_threshold=0.3)
        assert (drawn == image).all()
        assert drawn is not image


@pytest.mark.parametrize("score", [0.3, 0.31])
def test_a_score_at_the_threshold_is_drawn(score):
    found = detections((10, 10, 50, 50, score, 1))
    assert (draw_detections(grey(), found, CLASSES, score_threshold=np.float32(score)) != 90).any()


def test_lines_grow_with_the_picture():
    def width(side):
        box = (side * 0.4, side * 0.4, side * 0.9, side * 0.9, 0.9, 1)
        row = draw_detections(grey(side, side), detections(box), CLASSES)[round(side * 0.65)]
        return (row == class_color(0)).all(axis=1).sum() / 2

    assert [width(100), width(480), width(2000)] == [1, 2, 9]


def test_ground_truth_is_white_and_black_and_under_the_detections():
    box = np.array([[100.0, 120, 180, 200]])
    drawn = draw_detections(grey(), detections(), CLASSES, ground_truth=box)
    edge = {tuple(pixel) for pixel in drawn[160, 100:101]} | {tuple(pixel) for pixel in drawn[120:200, 100]}
    assert edge == {(0, 0, 0), (255, 255, 255)}
    assert (drawn[125:195, 105:175] == 90).all()
    assert (drawn == draw_detections(grey(), detections(), CLASSES, ground_truth=torch.tensor(box))).all()

    both = draw_detections(grey(), detections((100, 120, 180, 200, 0.9, 1)), CLASSES, ground_truth=box)
    assert (both[125:195, 100] == class_color(0)).all()
    assert (draw_detections(grey(), detections(), CLASSES, ground_truth=np.zeros((0, 4))) == 90).all()


def test_colors_are_stable_distinct_and_light_enough_for_black_letters():
    assert class_color(0) == (53, 167, 255)  # a color that people have seen is not to change
    colors = [class_color(index) for index in range(200)]
    assert len(set(colors)) == 200
    hues = [colorsys.rgb_to_hsv(*color)[0] for color in colors]
    gaps = [abs((second - first + 0.5) % 1 - 0.5) for first, second in zip(hues[:20], hues[1:21], strict=True)]
    assert min(gaps) > 0.1
    for color in colors:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(color) / 255]
        contrast = (np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05) / 0.05  # WCAG 2, against black
        assert contrast > 4.5


@pytest.mark.parametrize("size", [(40, 60), (240, 320), (480, 200), (1500, 2000)])
def test_chips_stay_inside_and_off_each_other(size):
    height, width = size
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-0.1, 1.0, (60, 4)) * [width, height, width, height]
    boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:]) + 1
    boxes[0], boxes[1] = (-5, -5, width + 5, height + 5), (width - 4, height - 4, width, height)
    image, text = grey(height, width), "traffic light 0.87"
    found = [(box, (1, 2, 3), text) for row in boxes if (box := _rectangle(row, image)) is not None]
    chips = _place_chips(found, image)
    assert chips or width < 100
    covered = np.zeros((height, width), np.int64)
    for chip in chips:
        left, top, right, bottom = chip.place
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert left < chip.origin[0] < right
        assert top < chip.origin[1] < bottom
        assert chip.text == text
        assert covered[top:bottom, left:right].astype(bool).mean() < 0.25
        covered[top:bottom, left:right] += 1


def test_a_lone_chip_sits_on_its_box():
    image = grey()
    box = _rectangle(np.array([100.0, 120, 180, 200]), image)
    [chip] = _place_chips([(box, (1, 2, 3), "cat 0.90")], image)
    assert (chip.place[0], chip.place[3]) == (100, 120)
    top_box = _rectangle(np.array([100.0, 0, 180, 200]), image)
    [chip] = _place_chips([(top_box, (1, 2, 3), "cat 0.90")], image)
    assert chip.place[1] >= 0
    assert 100 <= chip.place[0] <= 180


def test_letters_are_drawn_in_the_chip():
    found = detections((100, 120, 180, 200, 0.9, 1))
    image = grey()
    [chip] = _place_chips([(_rectangle(found.boxes[0].numpy(), image), class_color(0), "cat 0.90")], image)
    left, top, right, bottom = chip.place
    inside = draw_detections(image, found, CLASSES)[top:bottom, left:right].reshape(-1, 3).astype(int)
    ground = (inside == class_color(0)).all(axis=1).mean()
    dark = (inside.sum(axis=1) < 120).mean()
    assert 0.3 < ground < 0.9
    assert dark > 0.03


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (8, 8), (20, 30)])
def test_the_smallest_pictures_are_drawn_on(size):
    image = grey(*size)
    found = detections((0, 0, size[1], size[0], 0.9, 1), (0.2, 0.2, 0.3, 0.3, 0.5, 2))
    assert draw_detections(image, found, CLASSES, ground_truth=found.boxes).shape == image.shape


def test_a_label_beyond_the_names_is_shown_by_its_number():
    drawn = draw_detections(grey(), detections((50, 80, 180, 200, 0.9, 7)), CLASSES)
    assert (drawn == class_color(6)).all(axis=2).any()


def test_views_and_empty_ground_truth_are_taken():
    image = grey()[:, ::-1]  # not contiguous
    found = detections((50, 80, 180, 200, 0.9, 1))
    assert (draw_detections(image, found, CLASSES, ground_truth=[]) != 90).any()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_only_rgb_pictures_are_drawn_on(image):
    with pytest.raises(UserError, match=r"expected a uint8 \[H, W, 3\] RGB picture, got"):
        draw_detections(image, detections(), CLASSES)
    with pytest.raises(UserError, match="expected a uint8"):
        contact_sheet([image], columns=1, cell=10)


def test_contact_sheet_keeps_aspect_and_order():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sizes = [(10, 20), (300, 100), (50, 50)]
    images = [np.full((*size, 3), color, np.uint8) for size, color in zip(sizes, colors, strict=True)]
    sheet = contact_sheet(images, columns=2, cell=80)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * 82 + 2, 2 * 82 + 2, 3)
    expected = [(80, 40, 2, 22), (27, 80, 84 + 26, 2), (80, 80, 2, 84)]  # width, height, left, top
    for color, (width, height, left, top) in zip(colors, expected, strict=True):
        rows, columns = np.nonzero((sheet == color).all(axis=2))
        assert (columns.min(), rows.min()) == (left, top)
        assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (width, height)
    assert contact_sheet(images[:1], columns=5, cell=80).shape == (84, 84, 3)


@pytest.mark.parametrize(("count", "columns", "cell"), [(0, 1, 10), (1, 0, 10), (1, 1, 0)])
def test_contact_sheet_needs_something_of_each(count, columns, cell):
    with pytest.raises(UserError, match=f"got {count} images, {columns} columns and cells of {cell} pixels"):
        contact_sheet([grey()] * count, columns=columns, cell=cell)
