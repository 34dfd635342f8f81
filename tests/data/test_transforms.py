from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from mnvision.data import windows
from mnvision.data.transforms import Transform
from mnvision.data.windows import Truth
from mnvision.errors import UserError
from mnvision.ops.image import resize_image
from mnvision.types import Preprocessing

PREPROCESSING = Preprocessing(size=96, mean=(123.0, 117.0, 104.0))


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (80, 140, 3), dtype=np.uint8)


def marked() -> tuple[np.ndarray, Truth]:
    """Label k paints its box in grey level 40k, so that pixels tell which box is where."""
    image = np.zeros((80, 140, 3), np.uint8)
    boxes = np.array([[10, 10, 60, 40], [80, 20, 130, 70], [20, 50, 70, 75]], dtype=np.float64)
    for k, (x1, y1, x2, y2) in enumerate(boxes.astype(int), start=1):
        image[y1:y2, x1:x2] = 60 * k
    return image, Truth(boxes, np.array([1, 2, 3]), np.array([False, False, True]))


def test_none_is_exactly_the_resize_of_prediction():
    image, truth = marked()
    got, boxes = Transform("none", preprocessing=PREPROCESSING)(image, truth, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(got, resize_image(image, 96))
    np.testing.assert_allclose(boxes.boxes, truth.boxes * [96 / 140, 96 / 80, 96 / 140, 96 / 80])
    assert boxes.labels.tolist() == [1, 2, 3]


def test_flip_mirrors_half_of_the_pictures():
    image, truth = marked()
    transform = Transform("flip", preprocessing=PREPROCESSING)
    plain = resize_image(image, 96)
    mirrored = 0
    for k in range(200):
        got, boxes = transform(image, truth, rng=np.random.default_rng(k))
        if (got == plain).all():
            np.testing.assert_allclose(boxes.boxes[0, 0], 10 * 96 / 140)
        else:
            np.testing.assert_array_equal(got, plain[:, ::-1])
            np.testing.assert_allclose(boxes.boxes[0, 2], 96 - 10 * 96 / 140)
            mirrored += 1
    assert 70 < mirrored < 130


def test_vertical_flip_turns_half_of_the_pictures_upside_down_whatever_the_policy():
    image, truth = marked()
    transform = Transform("none", preprocessing=PREPROCESSING, vertical_flip=True)
    plain = resize_image(image, 96)
    turned = 0
    for k in range(200):
        got, boxes = transform(image, truth, rng=np.random.default_rng(k))
        if (got == plain).all():
            np.testing.assert_allclose(boxes.boxes[0, 1], 10 * 96 / 80)
        else:
            np.testing.assert_array_equal(got, plain[::-1])
            np.testing.assert_allclose(boxes.boxes[0, 3], 96 - 10 * 96 / 80)
            turned += 1
    assert 70 < turned < 130


def test_light_drops_a_box_whose_centre_it_does_not_show(monkeypatch):
    monkeypatch.setattr(windows, "jitter", lambda window, rng: windows.Window(15, 0, 100, 100))
    truth = Truth(np.array([[0.0, 0, 20, 20], [10, 0, 30, 20]]), np.array([1, 2]), np.array([False, False]))
    transform = Transform("light", preprocessing=PREPROCESSING)
    _, boxes = transform(np.zeros((100, 100, 3), np.uint8), truth, rng=np.random.default_rng(0))
    assert boxes.labels.tolist() == [2]


@pytest.mark.parametrize("policy", ["light", "ssd"])
def test_boxes_stay_on_their_pixels(policy):
    """Whatever is cropped, zoomed and mirrored: the middle of each box shows the grey level of its label."""
    image, truth = marked()
    transform = Transform(policy, preprocessing=PREPROCESSING, vertical_flip=True)
    transform._distort = None  # the colours are the markers here
    checked = 0
    for k in range(300):
        got, boxes = transform(image, truth, rng=np.random.default_rng(k))
        assert got.shape == (96, 96, 3)
        assert got.dtype == np.uint8
        assert len(boxes.boxes) == len(boxes.labels) == len(boxes.crowd)
        assert (boxes.boxes >= 0).all()
        assert (boxes.boxes <= 96).all()
        assert (boxes.boxes[:, 2:] > boxes.boxes[:, :2]).all()
        assert (boxes.crowd == (boxes.labels == 3)).all()
        for box, label in zip(boxes.boxes, boxes.labels, strict=True):
            if (box[2:] - box[:2]).min() < 4:
                continue
            x, y = ((box[:2] + box[2:]) / 2).astype(int)
            assert got[y, x, 0] == 60 * label
            checked += 1
    assert checked > 400


def test_ssd_fills_with_the_mean_which_colours_do_not_touch():
    image = np.full((80, 140, 3), 200, np.uint8)
    truth = Truth(np.array([[0.0, 0, 140, 80]]), np.array([1]), np.array([False]))
    transform = Transform("ssd", preprocessing=PREPROCESSING)
    filled, levels = 0, set()
    for k in range(100):
        got, _ = transform(image, truth, rng=np.random.default_rng(k))
        ground = (got == (123, 117, 104)).all(axis=2)
        filled += ground.any()
        assert len(np.unique(got[~ground], axis=0)) == 1  # the rest is one colour, whatever it became
        levels.add(int(got[~ground][0, 0]))
    assert 30 < filled < 70
    assert len(levels) > 5


def test_ssd_changes_colours_within_their_limits():
    """Brightness and contrast alone act on grey, which saturation and hue leave alone."""
    grey = np.full((40, 40, 3), 120, np.uint8)
    none = Truth(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    transform = Transform("ssd", preprocessing=Preprocessing(size=40, mean=(1, 2, 3)))
    values = set()
    for k in range(200):
        got, _ = transform(grey, none, rng=np.random.default_rng(k))
        inside = got[(got != (1, 2, 3)).any(axis=2)]
        assert np.ptp(inside) <= 1
        values.add(int(inside[0, 0]))
    # A grey picture is its own mean, so contrast does nothing either: 120 times 0.875 to 1.125.
    assert min(values) >= 104
    assert max(values) <= 136
    assert len(values) > 15


def test_each_colour_change_acts_on_its_own():
    """Each of four changes acts in every second picture, so one in sixteen stays as it is."""
    image = picture()
    distort = Transform("ssd", preprocessing=PREPROCESSING)._distort
    unchanged = 0
    for k in range(320):
        distort.set_random_state(np.random.default_rng(k), random.Random(k))
        unchanged += bool((distort(image=image)["image"] == image).all())
    assert 8 < unchanged < 36


def test_everything_comes_from_the_given_generator():
    image, truth = picture(), marked()[1]
    transform, other = (Transform("ssd", preprocessing=PREPROCESSING) for _ in range(2))
    first = [transform(image, truth, rng=np.random.default_rng(k)) for k in range(20)]
    np.random.seed(99)  # noqa: NPY002
    again = [other(image, truth, rng=np.random.default_rng(k)) for k in reversed(range(20))][::-1]
    for (a, x), (b, y) in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(x.boxes, y.boxes)
    assert len({a.tobytes() for a, _ in first}) >= 19


def test_the_input_is_not_written_to():
    image, truth = picture(), marked()[1]
    before = image.copy(), truth.boxes.copy()
    for policy in ("none", "flip", "light", "ssd"):
        for k in range(10):
            Transform(policy, preprocessing=PREPROCESSING)(image, truth, rng=np.random.default_rng(k))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(truth.boxes, before[1])


@pytest.mark.parametrize("policy", ["none", "flip", "light", "ssd"])
def test_pictures_without_boxes_and_of_one_pixel(policy):
    none = Truth(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    transform = Transform(policy, preprocessing=PREPROCESSING)
    for shape in ((80, 140, 3), (1, 1, 3), (300, 2, 3)):
        for k in range(20):
            got, boxes = transform(np.zeros(shape, np.uint8), none, rng=np.random.default_rng(k))
            assert got.shape == (96, 96, 3)
            assert boxes.boxes.shape == (0, 4)
            assert boxes.labels.dtype == np.int64


def test_boxes_beyond_the_picture_are_clipped_to_it():
    wild = Truth(np.array([[-50.0, -50, 70, 40], [100, 60, 900, 900]]), np.array([1, 2]), np.array([False, False]))
    got = Transform("none", preprocessing=PREPROCESSING)(picture(), wild, rng=np.random.default_rng(0))[1]
    np.testing.assert_allclose(got.boxes, [[0, 0, 48, 48], [100 * 96 / 140, 72, 96, 96]])


def test_unknown_policy():
    with pytest.raises(UserError, match="data.augment is 'sdd'. Expected one of none, flip, light, ssd"):
        Transform("sdd", preprocessing=PREPROCESSING)


def test_albumentations_is_imported_by_the_ssd_policy_alone():
    code = (
        "import sys; from mnvision.data.transforms import Transform; from mnvision.types import Preprocessing;"
        " Transform('flip', preprocessing=Preprocessing(32)); assert 'albumentations' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
