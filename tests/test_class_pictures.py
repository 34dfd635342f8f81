"""Captions fit and say right or wrong; diagrams show what they are given."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mnvision.class_figures import MOST_CLASSES, confusion_picture, reliability_picture
from mnvision.class_pictures import (
    NEUTRAL,
    RIGHT,
    WRONG,
    Caption,
    _fitted,
    _length,
    captions,
    draw_label,
    mistakes_sheet,
)
from mnvision.metrics.classification import Bin
from mnvision.types import UserError


def grey(height=240, width=320):
    return np.full((height, width, 3), 90, np.uint8)


def has(image, color):
    return bool((image == color).all(axis=2).any())


def test_captions_say_what_is_right_and_what_wrong():
    assert captions("beagle", 0.934, truth="beagle") == [Caption("beagle", "93%", RIGHT)]
    assert captions("beagle", 0.5, truth="basset") == [Caption("beagle", "50%", WRONG), Caption("is: basset")]
    assert captions("beagle", 0.5) == [Caption("beagle", "50%", NEUTRAL)]
    assert captions(None, 0.0, truth="basset") == [Caption("no prediction", "", WRONG), Caption("is: basset")]


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (240, 320), (900, 300), (1200, 1600)])
def test_a_caption_stands_under_the_picture(size):
    image = grey(*size)
    drawn = draw_label(image, captions("toy poodle", 0.75, truth="toy poodle"))
    width = max(size[1], 224)
    picture_height = round(size[0] * width / size[1])
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] == width
    assert 20 <= drawn.shape[0] - picture_height < width * 0.15
    assert (drawn[:picture_height] == 90).all()
    strip = drawn[picture_height:]
    assert has(strip, RIGHT)
    assert (strip[0] == 24).all()
    assert (strip[-1] == 24).all()
    assert (strip[:, 0] == 24).all()
    assert (strip[:, -1] == 24).all()  # letters stay inside
    assert (strip.min(axis=2) > 150).mean() > 0.01
    two = draw_label(image, captions("toy poodle", 0.75, truth="beagle"))
    assert len(two) > len(drawn)
    assert has(two, WRONG)
    assert not has(two, RIGHT)


def test_long_names_are_shortened_in_the_middle():
    assert _fitted("beagle", 200, scale=0.5, weight=1) == ("beagle", 0.5)
    text = "soft-coated wheaten terrier"
    same, smaller = _fitted(text, round(_length(text, 0.5, 1) * 0.85), scale=0.5, weight=1)
    assert same == text
    assert 0.375 <= smaller < 0.5
    for room in (round(share * _length(text, 0.5, 1)) for share in (0.15, 0.3, 0.5, 0.65)):
        cut, scale = _fitted(text, room, scale=0.5, weight=1)
        assert _length(cut, scale, 1) <= room
        assert ".." in cut
    assert cut.startswith("soft")
    assert cut.endswith("r")


def test_a_sheet_keeps_pictures_whole_and_captions_in_line():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    images = [
        np.full((*size, 3), color, np.uint8) for size, color in zip([(10, 90), (90, 10), (50, 50)], colors, strict=True)
    ]
    lines = [captions("a", 0.9, truth="b"), captions("b", 0.8), captions("c", 0.7, truth="c")]
    sheet = mistakes_sheet(images, lines, columns=2, cell=200)
    assert sheet.shape == (2 * 205 + 5, 2 * 205 + 5, 3)
    for index, (color, image) in enumerate(zip(colors, images, strict=True)):
        rows, columns = np.nonzero((sheet == color).all(axis=2))
        assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(image.shape[1] / image.shape[0], rel=0.1)
        left, top = 5 + index % 2 * 205, 5 + index // 2 * 205
        assert left <= columns.min() <= columns.max() < left + 200
        assert top <= rows.min() <= rows.max() < top + 165
    squares = [np.nonzero((sheet[:205] == color).all(axis=2))[0].max() for color in (WRONG, NEUTRAL)]
    assert squares[0] == squares[1]


def test_what_is_no_picture_is_refused():
    with pytest.raises(UserError, match="expected a uint8"):
        draw_label(np.zeros((5, 5), np.uint8), captions("a", 0.5))
    with pytest.raises(UserError, match="at least one line"):
        draw_label(grey(), [])
    with pytest.raises(UserError, match="2 images and captions of 1"):
        mistakes_sheet([grey()] * 2, [captions("a", 0.5)])
    with pytest.raises(UserError, match="got 0 images"):
        mistakes_sheet([], [])


def test_real_pictures_are_drawn(shared_data):
    paths = sorted((shared_data / "stanford_dogs3" / "Images").glob("*beagle/*.jpg"))[:3]
    images = [cv2.imread(str(path))[..., ::-1] for path in paths]
    sheet = mistakes_sheet(images, [captions("toy poodle", 0.9, truth="beagle")] * 3, columns=3)
    assert sheet.shape == (268, 3 * 262 + 6, 3)


@pytest.mark.parametrize("classes", [1, 2, 40, 120])
def test_confusions_are_drawn_for_the_classes_with_most_mistakes(classes):
    matrix = np.diag(np.full(classes, 10))
    if classes > 40:
        matrix[100, 110], matrix[3, 90] = 5, 1
    names = [f"a rather long name of class ${index}" for index in range(classes)]
    figure = confusion_picture(matrix, names)
    figure.canvas.draw()
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [label.get_text() for label in axes.get_xticklabels()]
    assert len(labels) == min(classes, MOST_CLASSES)
    assert all(label.endswith(f"${index}") for label, index in zip(labels, range(30), strict=False))
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("10") == len(labels)
    if classes > 40:
        assert [label.rsplit("$")[1] for label in labels[-4:]] == ["36", "90", "100", "110"]
        assert sorted(texts)[-1] == "5"
        [cell] = [text.get_position() for text in axes.texts if text.get_text() == "5"]
        assert cell == (39, 38)  # x is the prediction, y the truth
        assert axes.get_title() == "the 40 most confused of 120 classes"


def test_calibration_is_drawn():
    bins = [Bin(index / 15, (index + 1) / 15, 0, 0.0, 0.0) for index in range(15)]
    figure = reliability_picture(bins)
    assert figure.axes[0].get_title() == "no labelled pictures"
    bins[7], bins[14] = Bin(7 / 15, 8 / 15, 3, 0.5, 1 / 3), Bin(14 / 15, 1.0, 1, 0.75, 1.0)
    figure = reliability_picture(bins)
    assert figure.axes[0].get_title() == f"expected calibration error {(3 * (0.5 - 1 / 3) + 0.25) / 4:.3f}, 4 pictures"
    upper, lower = figure.axes
    assert [bar.get_height() for bar in upper.containers[0]] == pytest.approx([1 / 3, 1.0])
    assert [bar.get_height() for bar in lower.containers[0]] == [3, 1]
