from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from mnvision.data.classification_transforms import ClassTransform
from mnvision.errors import UserError
from mnvision.ops.picture import Picture
from mnvision.types import Preprocessing

CENTRE = Preprocessing(size=32, mean=(120.0, 110.0, 100.0), fit="crop", crop_share=0.875)
WHOLE = Preprocessing(size=32, mean=(120.0, 110.0, 100.0))


def pixels(height: int = 80, width: int = 100) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_none_is_the_centre_and_the_same_from_a_file_and_its_pixels():
    data = cv2.imencode(".jpg", pixels(400, 500)[..., ::-1])[1].tobytes()
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    transform = ClassTransform("none", preprocessing=CENTRE)
    got = transform(Picture.from_bytes(data), rng(0))
    np.testing.assert_array_equal(got, transform(Picture.from_array(decoded), rng(1)))
    # 0.875 * 400 = 350 pixels, from column 75 and row 25; 8 fits into 350 / 32, and the corners move to its multiples.
    part = decoded[24 : 24 + 344, 72 : 72 + 344].reshape(43, 8, 43, 8, 3).mean(axis=(1, 3))
    expected = cv2.resize(part.round().astype(np.uint8), (32, 32), interpolation=cv2.INTER_LINEAR)
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_flip_is_the_evaluation_view_or_its_mirror():
    picture = Picture.from_array(pixels())
    plain = ClassTransform("none", preprocessing=CENTRE)(picture, rng())
    transform = ClassTransform("flip", preprocessing=CENTRE)
    got = [transform(picture, rng(k)) for k in range(100)]
    mirrored = sum(int((one == plain[:, ::-1]).all()) for one in got)
    assert mirrored + sum(int((one == plain).all()) for one in got) == 100
    assert 30 < mirrored < 70


def test_crop_shifts_a_small_picture_by_up_to_an_eighth():
    image = pixels(32, 32)
    transform = ClassTransform("crop", preprocessing=WHOLE)
    padded = cv2.copyMakeBorder(image, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=(120, 110, 100))
    places = {(y, x): padded[y : y + 32, x : x + 32] for y in range(9) for x in range(9)}
    seen = set()
    for k in range(60):
        got = transform(Picture.from_array(image), rng(k))
        match = [
            (place, turned)
            for place, part in places.items()
            for turned in (False, True)
            if (got == (part[:, ::-1] if turned else part)).all()
        ]
        assert len(match) == 1
        seen.add(match[0])
    assert len(seen) > 35
    assert {turned for _, turned in seen} == {False, True}


def test_crop_of_other_sizes_resizes_first_so_that_the_share_is_shown():
    flat = np.zeros((80, 160, 3), np.uint8)
    flat[:, :, 0] = np.arange(160)
    preprocessing = Preprocessing(size=28, fit="crop", crop_share=0.875)  # the shorter side becomes 32
    for k in range(20):
        got = ClassTransform("crop", preprocessing=preprocessing)(Picture.from_array(flat), rng(k))
        assert got.shape == (28, 28, 3)
        # 27 columns apart at 80 / 32 = 2.5 levels a column.
        assert abs(abs(int(got[0, -1, 0]) - int(got[0, 0, 0])) - 67.5) <= 2


def test_jitter_shows_about_what_evaluation_shows():
    """A ramp of a level a column, 200 wide: the centre of 0.5 is columns 50 to 150, and a tenth is ten of them."""
    ramp = np.arange(200, dtype=np.uint8)[None, :, None].repeat(200, axis=0).repeat(3, axis=2)
    preprocessing = Preprocessing(size=50, fit="crop", crop_share=0.5)
    transform = ClassTransform("jitter", preprocessing=preprocessing, color=0)
    seen = np.array([np.sort(transform(Picture.from_array(ramp), rng(k))[0, :, 0]) for k in range(200)]).astype(int)
    middles, spans = (seen[:, 0] + seen[:, -1]) / 2, seen[:, -1] - seen[:, 0]
    assert (middles.min(), middles.max()) == (pytest.approx(90, abs=1.5), pytest.approx(110, abs=1.5))
    assert (spans.min(), spans.max()) == (pytest.approx(90 - 2, abs=2), pytest.approx(110 - 2, abs=2))


@pytest.mark.parametrize("policy", ["flip", "crop", "jitter", "light", "strong"])
def test_results_depend_on_the_generator_alone_and_leave_torch_alone(policy):
    transform = ClassTransform(policy, preprocessing=CENTRE, randaugment=5)
    data = cv2.imencode(".jpg", pixels()[..., ::-1])[1].tobytes()
    first = []
    for k in range(8):
        torch.manual_seed(k)
        before = torch.get_rng_state()
        first.append(transform(Picture.from_bytes(data), rng(k)))
        assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    np.random.seed(99)
    for k in reversed(range(8)):
        np.testing.assert_array_equal(transform(Picture.from_bytes(data), rng(k)), first[k])
    assert len({one.tobytes() for one in first}) > 5
    assert all(one.shape == (32, 32, 3) and one.dtype == np.uint8 and one.flags.c_contiguous for one in first)


def test_smallest_area_is_respected():
    ramp = np.zeros((100, 100, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(100) * 2, np.arange(100)[:, None] * 2

    def shown(**options) -> np.ndarray:
        transform = ClassTransform("strong", preprocessing=WHOLE, randaugment=0, erasing=0, **options)
        views = [transform(Picture.from_array(ramp), rng(k)).astype(int) for k in range(200)]
        # Levels are two a pixel, and the first and the last pixel centre are 31/32 of the window apart.
        return np.array([np.ptp(v[..., 0]) / 62 * 32 * np.ptp(v[..., 1]) / 62 * 32 for v in views]) / 10_000

    assert 0.06 < shown().min() < 0.15
    assert 0.55 < shown(min_area=0.6).min() < 0.68


def test_each_part_acts_when_it_is_set():
    picture = Picture.from_array(np.full((64, 64, 3), 60, np.uint8))
    erased = ClassTransform("flip", preprocessing=WHOLE, erasing=1.0)(picture, rng())
    assert set(map(tuple, erased.reshape(-1, 3).tolist())) == {(60, 60, 60), (120, 110, 100)}
    for options in ({"color": 1.0}, {"randaugment": 9}):
        transform = ClassTransform("flip", preprocessing=WHOLE, **options)
        assert any((transform(picture, rng(k)) != 60).any() for k in range(20)), options
    assert ClassTransform("strong", preprocessing=WHOLE, randaugment=0, erasing=0)(picture, rng()).tolist() == (
        np.full((32, 32, 3), 60).tolist()
    )


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("stron", {}, "did you mean strong"),
        ("strong", {"randaugment": 11}, "randaugment is 11. Expected a whole number of 0..10"),
        ("strong", {"min_area": 0.0}, r"min_area is 0.0. Expected above 0.0 up to 1.0"),
        ("flip", {"min_area": 0.5}, "use light or strong"),
        ("none", {"erasing": 0.5}, "augment=none changes nothing, but erasing is set"),
        ("light", {"pad": 3}, "pad is 3 with data.augment=light"),
    ],
)
def test_wrong_settings_are_refused(policy, options, message):
    with pytest.raises(UserError, match=message):
        ClassTransform(policy, preprocessing=WHOLE, **options)
