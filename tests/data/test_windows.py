from __future__ import annotations

import cv2
import numpy as np
import pytest

from mnvision.data import windows
from mnvision.data.windows import Truth, Window

SIZE = (120, 200)  # height, width


def truth(boxes: list, crowd: list | None = None) -> Truth:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    flags = np.zeros(len(array), bool) if crowd is None else np.array(crowd)
    return Truth(array, np.arange(1, len(array) + 1), flags)


def generators(count: int = 300):
    return (np.random.default_rng((7, k)) for k in range(count))


def iou(box: np.ndarray, window: Window) -> float:
    """Written apart from the code under test, by counting pixels of whole-number boxes."""
    grid = np.zeros((2, 1200, 1200), bool)
    for layer, (x1, y1, x2, y2) in enumerate([box, window]):
        grid[layer, int(y1) + 500 : int(y2) + 500, int(x1) + 500 : int(x2) + 500] = True
    return grid.all(axis=0).sum() / grid.any(axis=0).sum()


def test_zoom_out_contains_the_picture_and_is_at_most_fourfold():
    whole = windows.whole_picture(SIZE)
    zooms = []
    for rng in generators():
        got = windows.zoom_out(whole, truth([[0, 0, 200, 120]]), rng=rng)
        assert got.left <= 0
        assert got.top <= 0
        assert got.right >= 200
        assert got.bottom >= 120
        zooms.append(((got.right - got.left) / 200, (got.bottom - got.top) / 120))
    zooms = np.array(zooms)
    assert zooms.max() <= 4.02
    assert zooms.max() > 3.5
    assert zooms.min() < 1.2
    np.testing.assert_allclose(zooms[:, 0], zooms[:, 1], atol=0.02)  # the aspect stays


def test_zoom_out_leaves_no_box_thinner_than_one_percent():
    whole = windows.whole_picture(SIZE)
    seen = [windows.zoom_out(whole, truth([[10, 10, 13, 100]]), rng=rng) for rng in generators()]
    widths = np.array([w.right - w.left for w in seen])
    assert (3 / widths >= 0.0099).all()
    assert widths.max() > 270  # it does go to the limit of 1.5
    # A box that is thinner to begin with, or a crowd, does not forbid to zoom.
    for boxes in (truth([[10, 10, 11, 100]]), truth([[10, 10, 13, 100]], crowd=[True])):
        assert max(w.right - w.left for w in (windows.zoom_out(whole, boxes, rng=r) for r in generators())) > 700


@pytest.mark.parametrize("bound", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_crop_keeps_its_promises(monkeypatch, bound):
    monkeypatch.setattr(windows, "MIN_OVERLAPS", (bound,))
    whole = windows.whole_picture(SIZE)
    boxes = truth([[20, 10, 120, 110], [130, 20, 190, 60]])
    cropped = 0
    for rng in generators(100):
        got = windows.random_crop(whole, boxes, picture_size=SIZE, rng=rng)
        if got == whole:
            continue
        cropped += 1
        width, height = got.right - got.left, got.bottom - got.top
        assert got.left >= 0
        assert got.top >= 0
        assert got.right <= 200
        assert got.bottom <= 120
        assert 0.5 <= width / height <= 2
        assert width * height >= 0.1 * 200 * 120
        inside = [
            box
            for box in boxes.boxes
            if got.left < (box[0] + box[2]) / 2 < got.right and got.top < (box[1] + box[3]) / 2 < got.bottom
        ]
        assert inside
        assert max(iou(box, got) for box in inside) >= bound - 1e-9
    # A crop that agrees with a box to 0.9 is seldom drawn; the others must be found nearly always.
    assert cropped > (1 if bound == 0.9 else 80 if bound <= 0.5 else 30)


def test_crop_takes_every_bound_and_none():
    whole = windows.whole_picture(SIZE)
    boxes = truth([[0, 0, 200, 120]])
    kept = sum(windows.random_crop(whole, boxes, picture_size=SIZE, rng=rng) == whole for rng in generators(700))
    assert 60 < kept < 350  # a seventh by choice, and some more where no crop is similar enough


def test_crop_without_boxes_or_with_crowds_alone():
    far = Window(-600, -360, 200, 120)  # zoomed out: most crops would miss the picture
    for boxes in (truth([]), truth([[10, 10, 50, 50]], crowd=[True])):
        crops = {windows.random_crop(far, boxes, picture_size=SIZE, rng=rng) for rng in generators(60)}
        assert len(crops) > 30
        for crop in crops:
            assert crop.right > 0
            assert crop.bottom > 0


def test_truth_in_a_window_keeps_rows_together():
    boxes = truth(
        [[0, 0, 10, 10], [40, 40, 60, 60], [45, 0, 90, 10], [0, 0, 52, 60], [0, 0, 40, 40]],
        crowd=[False, False, False, True, True],
    )
    got = windows.truth_in(Window(50, 40, 100, 100), boxes)
    # The second has its centre on the edge: outside. The first crowd touches, the other one does not.
    assert got.labels.tolist() == [4]
    got = windows.truth_in(Window(49, 0, 100, 100), boxes)
    assert got.labels.tolist() == [2, 3, 4]
    assert got.crowd.tolist() == [False, False, True]
    np.testing.assert_array_equal(got.boxes, boxes.boxes[[1, 2, 3]])


def test_follow_clips_and_drops_what_has_no_extent():
    boxes = truth([[-5, 10, 30, 40], [150, 0, 300, 60], [201, 0, 220, 20], [20, 20, 20.01, 90]])
    got = windows.follow(boxes, source=Window(0, 0, 200, 120), target=Window(10, 20, 110, 80))
    assert got.labels.tolist() == [1, 2]
    np.testing.assert_allclose(got.boxes, [[10, 25, 25, 40], [85, 20, 110, 50]])


@pytest.mark.parametrize(
    "window",
    [Window(0, 0, 200, 120), Window(30, 20, 150, 100), Window(-100, -60, 300, 180), Window(-37, 11, 111, 201)],
)
def test_boxes_follow_the_pixels(window):
    """A white block is cut and pasted; its pixels must lie where its box says."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[40:80, 60:120] = 255
    part, source, target = windows.cut(image, window, size=300)
    canvas = windows.paste(part, target, size=300, fill=(90, 100, 110))
    got = windows.follow(truth([[60, 40, 120, 80]]), source=source, target=target)
    bright = (canvas > 127).all(axis=2).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(bright)
    np.testing.assert_allclose(got.boxes[0], [x, y, x + w, y + h], atol=1.0)
    outside = np.ones((300, 300), bool)
    outside[target.top : target.bottom, target.left : target.right] = False
    assert (canvas[outside] == (90, 100, 110)).all()
    assert outside.any() == (window not in [Window(0, 0, 200, 120), Window(30, 20, 150, 100)])


def test_a_sliver_of_the_picture_can_be_cut():
    part, source, target = windows.cut(np.zeros((120, 200, 3), np.uint8), Window(-700, -400, 1, 1), size=64)
    assert part.shape == (1, 1, 3)
    assert source == Window(0, 0, 1, 1)
    assert target == Window(63, 63, 64, 64)


def test_flip_moves_pixels_and_boxes_alike():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 5:15] = 255
    before = truth([[5, 10, 15, 20]])
    flipped, got = windows.flip(image, before, axis="x")
    np.testing.assert_array_equal(got.boxes, [[45, 10, 55, 20]])
    assert flipped[10:20, 45:55].min() == 255
    assert flipped.sum() == image.sum()
    np.testing.assert_array_equal(before.boxes, [[5, 10, 15, 20]])  # the input is left alone
    again, back = windows.flip(flipped, got, axis="x")
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(back.boxes, before.boxes)
    fallen, got = windows.flip(image, before, axis="y")
    np.testing.assert_array_equal(got.boxes, [[5, 20, 15, 30]])
    assert fallen[20:30, 5:15].min() == 255
    assert fallen.sum() == image.sum()


def test_jitter_keeps_to_its_limits():
    whole = windows.whole_picture(SIZE)
    seen = np.array([windows.jitter(whole, rng=rng) for rng in generators(600)])
    sides = (seen[:, 2:] - seen[:, :2]) / SIZE[::-1]
    scales, aspects = np.sqrt(sides.prod(axis=1)), sides[:, 0] / sides[:, 1]
    assert 0.69 < scales.min() < 0.72
    assert 1.18 < scales.max() < 1.21
    assert 0.78 < aspects.min() < 0.82
    assert 1.22 < aspects.max() < 1.27
    # The shorter of picture and window lies within the longer, on each axis, and anywhere there.
    low, high = seen[:, :2], seen[:, 2:] - SIZE[::-1]
    assert (((low >= 0) & (high <= 0)) | ((low <= 0) & (high >= 0))).all()
    spare = np.abs(seen[:, 0])[np.abs(sides[:, 0] - 1) > 0.1]
    assert spare.min() == 0
    assert spare.max() > 40
