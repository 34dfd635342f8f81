from __future__ import annotations

import numpy as np
import pytest

from mnvision.data import views
from mnvision.data.windows import Window
from mnvision.ops.picture import shown_window
from mnvision.types import Preprocessing


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("fit", "share", "expected"),
    [
        ("crop", 1.0, (100, 0, 500, 400)),
        ("crop", 0.875, (125, 25, 475, 375)),  # 0.875 * 400 = 350
        ("stretch", 1.0, (0, 0, 600, 400)),
        ("stretch", 0.5, (150, 100, 450, 300)),
    ],
)
def test_central(fit, share, expected):
    preprocessing = Preprocessing(size=32, fit=fit, crop_share=share)
    assert shown_window((400, 600), preprocessing) == expected


def test_central_of_a_tiny_picture_is_a_pixel():
    assert shown_window((1, 3), Preprocessing(size=32, fit="crop", crop_share=0.2)) == (1, 0, 2, 1)


def test_random_resized_crop_covers_its_ranges_evenly_and_stays_inside():
    random = rng()
    windows = np.array([views.random_resized_crop((300, 400), area=(0.1, 0.3), rng=random) for _ in range(3000)])
    across, down = (windows[:, 2:] - windows[:, :2]).T
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, 2:] <= (400, 300)).all()
    areas, logs = across * down / 120_000, np.log(across / down)
    assert areas.min() > 0.098
    assert areas.max() < 0.302
    # Uniform in area and in the logarithm of the aspect: means and deviations of the uniform distribution. At these
    # areas every try fits: 0.3 * 120,000 pixels at 3/4 are 219 high.
    np.testing.assert_allclose([areas.mean(), areas.std()], [0.2, 0.2 / 12**0.5], atol=0.004)
    width = np.log(16 / 9)
    np.testing.assert_allclose([logs.mean(), logs.std()], [0, width / 12**0.5], atol=0.012)
    starts = windows[:, 0] / (400 - across)
    np.testing.assert_allclose([starts.mean(), starts.min(), starts.max()], [0.5, 0, 1], atol=0.02)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 1000), (433, 0, 566, 100)),  # 4/3 of 100 is 133
        ((1000, 100), (0, 433, 100, 566)),  # 100 / (3/4) is 133
    ],
)
def test_random_resized_crop_falls_back_to_the_centre(size, expected):
    assert views.random_resized_crop(size, area=(1, 1), rng=rng()) == expected


def test_jitter_moves_and_scales_a_window_evenly():
    """A window of 100 x 50 in the middle of a large picture; whole pixels allow a small error."""
    window, random = Window(450, 275, 550, 325), rng()
    seen = np.array([views.jitter(window, size=(600, 1000), share=0.1, rng=random) for _ in range(4000)])
    across, down = (seen[:, 2:] - seen[:, :2]).T
    assert (np.abs(across / down - 2) < 0.05).all()  # its shape stays
    assert (across.min(), across.max()) == (90, 110)
    moved = (seen[:, :2] + seen[:, 2:]) / 2 - (500, 300)
    for column, limit in enumerate((10, 5)):
        assert abs(np.abs(moved[:, column]).max() - limit) <= 0.5
        np.testing.assert_allclose([moved[:, column].mean(), moved[:, column].std()], [0, limit / 3**0.5], atol=0.25)


def test_jitter_stays_in_the_picture():
    random = rng()
    seen = np.array([views.jitter(Window(0, 0, 40, 30), size=(30, 40), share=0.3, rng=random) for _ in range(500)])
    assert (seen[:, :2] >= 0).all()
    assert (seen[:, 2:] <= (40, 30)).all()
    # A whole picture has no room: it gets smaller by up to 0.3, evenly, and moves.
    across = seen[:, 2] - seen[:, 0]
    np.testing.assert_allclose([across.mean(), across.min(), across.max()], [0.85 * 40, 28, 40], atol=0.7)
    assert (across == 40).mean() < 0.1
    assert views.jitter(Window(1, 0, 2, 1), size=(1, 3), share=0.1, rng=random)[3] == 1


def test_pad_and_crop_reaches_every_place_equally():
    image = np.arange(1, 17, dtype=np.uint8).reshape(4, 4, 1).repeat(3, axis=2)
    random = rng()
    first = [int(views.pad_and_crop(image, size=4, pad=1, fill=(99, 99, 99), rng=random)[1, 1, 0]) for _ in range(900)]
    # The pixel at (1, 1) of the crop is row r, column c of the picture for r, c in 0..2: 1..3, 5..7, 9..11.
    values, counts = np.unique(first, return_counts=True)
    assert values.tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert counts.min() > 60
    corner = views.pad_and_crop(image, size=6, pad=1, fill=(7, 8, 9), rng=random)
    assert corner[0, 0].tolist() == [7, 8, 9]
    np.testing.assert_array_equal(corner[1:5, 1:5], image)


def test_mirror_turns_half():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    random = rng()
    turned = 0
    for _ in range(200):
        got = views.mirror(image, rng=random)
        turned += int((got == image[:, ::-1]).all())
        assert (got == image).all() or (got == image[:, ::-1]).all()
    assert 70 < turned < 130


def test_erase_fills_one_rectangle_of_the_stated_area():
    image = np.zeros((100, 100, 3), np.uint8)
    random = rng()
    for _ in range(200):
        got = views.erase(image, fill=(1, 2, 3), rng=random)
        rows, columns = np.nonzero(got[..., 0])
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert len(rows) == area  # a full rectangle
        assert 0.018 < area / 10_000 < 0.34
        assert got[rows[0], columns[0]].tolist() == [1, 2, 3]
    assert not image.any()


def test_a_whole_picture_is_never_erased():
    image = np.full((10, 10, 3), 7, np.uint8)
    whole = {"area": (1.0, 1.0), "aspect": (1.0, 1.0), "rng": np.random.default_rng(0)}
    assert (views.erase(image, fill=(0, 0, 0), **whole) == image).all()
