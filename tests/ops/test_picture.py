from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnvision.errors import UserError
from mnvision.ops.image import decode_image, read_image, stretch
from mnvision.ops.picture import Picture, resize_smoothly

# How far a reduced decode may be from averaging decoded pixels, on one crop: mean absolute difference of 255, and PSNR
# in dB. On 264 crops of COCO and Stanford Dogs at factors 2, 4 and 8: 0.4 and 50 dB on average, 1.35 and 38.7 at worst.
MOST_DIFFERENCE, LEAST_PSNR = 2.0, 36.0


def smooth(height: int = 400, width: int = 600) -> np.ndarray:
    """A picture with structure at many scales: noise of 8 to 64 pixels, enlarged and summed; asymmetric."""
    rng, total = np.random.default_rng(0), np.zeros((height, width, 3))
    for cell in (8, 16, 32, 64):
        noise = rng.uniform(-1, 1, (height // cell + 1, width // cell + 1, 3))
        total += cell**0.5 * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 12 * total, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, *, orientation: int = 1, quality: int = 90) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + data[2:]


def differences(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean absolute difference of 255, and PSNR in dB."""
    gap = first.astype(float) - second
    return float(np.abs(gap).mean()), float(10 * np.log10(255**2 / max((gap**2).mean(), 1e-9)))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decoding_shows_the_same_window_in_the_same_colours(factor: int, orientation: int):
    data = jpeg(smooth(), orientation=orientation)
    picture = Picture.from_bytes(data)
    height, width = picture.size
    assert (height, width) == decode_image(data).shape[:2]
    size = 300 // factor
    window = (width - 331, height - 345, width - 17, height - 31)
    exact = picture_from(data).cut(window, width=size, height=size)
    got = picture.cut(window, width=size, height=size, reduced=True)
    assert picture._pixels is None  # it was not decoded in full
    difference, psnr = differences(got, exact)
    assert difference < MOST_DIFFERENCE
    assert psnr > LEAST_PSNR
    assert differences(got[:, ::-1], exact)[1] < 20  # the bound tells a mirrored picture,
    assert differences(got[..., ::-1], exact)[1] < 20  # and exchanged channels


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_incomplete_cells_stay_where_they_are(factor: int, orientation: int):
    """Sides that are no multiples of the factor: of a turned picture, the incomplete cells would change sides."""
    data = jpeg(smooth(401, 603), orientation=orientation)
    picture = Picture.from_bytes(data)
    height, width = picture.size
    size = 300 // factor
    window = (width - 331, height - 345, width - 17, height - 31)
    got = picture.cut(window, width=size, height=size, reduced=True)
    difference, psnr = differences(got, picture_from(data).cut(window, width=size, height=size))
    assert difference < MOST_DIFFERENCE
    assert psnr > LEAST_PSNR


def picture_from(data: bytes) -> Picture:
    """The same picture, from its decoded pixels."""
    return Picture.from_array(decode_image(data))


@pytest.mark.parametrize(("folder", "size"), [("coco128/val2017", 96), ("stanford_dogs3/Images", 96)])
def test_reduced_decoding_of_real_pictures_stays_within_the_stated_difference(
    shared_data: Path, folder: str, size: int
):
    rng, found = np.random.default_rng(0), []
    for file in sorted((shared_data / folder).rglob("*.jpg"))[::12]:
        picture = Picture.from_path(file)
        side = min(picture.size)
        if side < 2 * size:
            continue
        left, top = (int(rng.integers(length - side + 1)) for length in picture.size[::-1])
        window = (left, top, left + side, top + side)
        got = picture.cut(window, width=size, height=size, reduced=True)
        exact = Picture.from_array(read_image(file)).cut(window, width=size, height=size)
        found.append(differences(got, exact))
    assert len(found) >= 5
    difference, psnr = np.array(found).T
    assert difference.max() < MOST_DIFFERENCE
    assert psnr.min() > LEAST_PSNR


def test_a_file_and_its_pixels_give_the_same_without_reduced_decoding(tmp_path: Path):
    data = jpeg(smooth(), orientation=6)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    window, size = (30, 20, 390, 560), {"width": 90, "height": 90}
    expected = picture_from(data).cut(window, **size)
    np.testing.assert_array_equal(Picture.from_path(path).cut(window, **size), expected)
    np.testing.assert_array_equal(Picture.from_bytes(data).cut(window, **size), expected)


def test_shrinking_by_less_than_two_is_plain_bilinear():
    image = smooth(90, 120)
    got = Picture.from_array(image).cut((10, 5, 100, 80), width=50, height=40)
    np.testing.assert_array_equal(got, stretch(image[5:80, 10:100], width=50, height=40))


def test_shrinking_by_a_power_of_two_is_the_mean_of_its_cells():
    image = smooth(64, 96)
    got = Picture.from_array(image).cut((9, 6, 73, 38), width=16, height=8)
    # The corner moves down to multiples of 4: column 8, row 4.
    means = image[4:36, 8:72].reshape(8, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(got - means).max() <= 0.5 + 1e-6
    assert np.abs(got - image[6:38, 9:73].reshape(8, 4, 16, 4, 3).mean(axis=(1, 3))).max() > 1


def test_each_side_is_averaged_by_itself():
    lines = np.zeros((16, 160, 3), np.uint8)
    lines[:, ::4] = 200
    got = resize_smoothly(lines, width=20, height=16)
    np.testing.assert_array_equal(got, 50)  # plain bilinear interpolation would see black columns only


def test_other_formats_and_odd_sizes_are_cut_too():
    image = smooth(101, 67)
    data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    for reduced in (False, True):
        got = Picture.from_bytes(data).cut((0, 0, 67, 101), width=13, height=13, reduced=reduced)
        np.testing.assert_array_equal(got, Picture.from_array(image).cut((0, 0, 67, 101), width=13, height=13))
    odd = Picture.from_bytes(jpeg(image)).cut((0, 0, 67, 101), width=13, height=13, reduced=True)
    assert differences(odd, got)[1] > 28


def test_a_box_comes_first_with_its_margin_and_stays_inside():
    image = smooth(100, 200)
    picture = Picture.from_array(image, box=np.array([150.0, 20.0, 190.0, 40.0]), margin=0.5)
    assert picture.size == (40, 70)  # rows 10..50, columns 130..200 (210 is outside)
    np.testing.assert_array_equal(picture.cut((0, 0, 70, 40), width=70, height=40), image[10:50, 130:200])
    nothing = Picture.from_array(image, box=np.array([300.0, 300, 310, 310]))
    assert nothing.size == (1, 1)


def test_a_box_of_a_jpeg_is_cut_at_reduced_scale_too():
    data, box = jpeg(smooth()), np.array([101.0, 51.0, 501.0, 351.0])
    cut = {"window": (3, 1, 397, 299), "width": 90, "height": 70}
    got = Picture.from_bytes(data, box=box).cut(**cut, reduced=True)
    exact = Picture.from_array(decode_image(data), box=box).cut(**cut)
    assert differences(got, exact)[1] > LEAST_PSNR


@pytest.mark.parametrize("kept", [0.5, 0.9])
@pytest.mark.parametrize("size", [30, 380])
def test_a_truncated_jpeg_is_refused_by_name_at_any_scale(kept: float, size: int):
    data = jpeg(smooth())
    picture = Picture.from_bytes(data[: int(len(data) * kept)], name="cut.jpg")
    with pytest.raises(UserError, match=r"cut.jpg is cut short"):
        picture.cut((0, 0, 400, 400), width=size, height=size, reduced=True)


def test_missing_and_foreign_files_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"not found: .*absent.jpg"):
        Picture.from_path(tmp_path / "absent.jpg")
    with pytest.raises(UserError, match="page"):
        Picture.from_bytes(b"<html>", name="page")
