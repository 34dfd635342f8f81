from __future__ import annotations

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnvision.errors import UserError
from mnvision.ops.image import decode_image, read_image, resize_image

QUARTERS = np.zeros((40, 64, 3), np.uint8)
QUARTERS[:20, :32] = (255, 0, 0)
QUARTERS[20:, :32] = (0, 255, 0)
QUARTERS[:20, 32:] = (0, 0, 255)
QUARTERS[20:, 32:] = (255, 255, 255)

# What EXIF 2.32 (4.6.4) says of each value: where the stored row 0 and column 0 are seen. Undone with plain numpy.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],
    7: lambda stored: stored.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


def encode(image: np.ndarray, extension: str = ".png") -> bytes:
    """Encode an RGB(A) or grey picture."""
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    return cv2.imencode(extension, image, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()


def jpeg_with_orientation(image: np.ndarray, orientation: int) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    data = encode(image, ".jpg")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    data = jpeg_with_orientation(QUARTERS, orientation)
    expected = UPRIGHT[orientation](QUARTERS)
    got = decode_image(data)
    assert got.shape == expected.shape
    # JPEG blurs the borders between the quarters; a wrong turn would differ by 100 and more.
    assert np.abs(got.astype(int) - expected).mean() < 8
    assert decode_image(data, apply_exif=False).shape == QUARTERS.shape


def test_rgb_order_and_exact_values():
    image = decode_image(encode(QUARTERS))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, QUARTERS)


def test_grey_becomes_three_equal_channels():
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    np.testing.assert_array_equal(decode_image(encode(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_alpha_is_dropped():
    rgba = np.dstack([QUARTERS, np.zeros(QUARTERS.shape[:2], np.uint8)])
    np.testing.assert_array_equal(decode_image(encode(rgba)), QUARTERS)


def test_sixteen_bits_are_scaled_to_the_nearest_eighth_bit():
    values = np.array([[0, 128, 129, 257, 32768, 65535 - 129, 65535 - 128, 65535]], np.uint16)
    expected = np.array([0, 0, 1, 1, 128, 254, 255, 255])
    for image in (values, np.dstack([values] * 3)):
        np.testing.assert_array_equal(decode_image(encode(image))[0, :, 1], expected)


def test_float_picture_is_refused():
    data = encode(np.full((8, 8, 3), 0.5, np.float32), ".tiff")
    with pytest.raises(UserError, match="scan.tiff holds float32 values, expected 8 or 16 bits"):
        decode_image(data, name="scan.tiff")


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("kept", [0.1, 0.6, 0.98])
def test_truncated_file_is_refused_by_name(tmp_path: Path, extension: str, kept: float):
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    data = encode(noise, extension)
    path = tmp_path / f"cut{extension}"
    path.write_bytes(data)
    assert read_image(path).shape == noise.shape
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match=rf"cut\{extension} .*(?s:.)*data.bad_images=skip"):
        read_image(path)


def test_png_with_a_wrong_checksum_is_refused():
    data = bytearray(encode(QUARTERS))
    start = data.index(b"IDAT")
    length = struct.unpack(">I", data[start - 4 : start])[0]
    data[start + 4 + length // 2] ^= 0xFF
    with pytest.raises(UserError, match="damaged"):
        decode_image(bytes(data))


@pytest.mark.parametrize(("content", "word"), [(b"", "empty"), (b"<html>404</html>", "no picture"), (b"\xff\xd8", "")])
def test_not_a_picture(tmp_path: Path, content: bytes, word: str):
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"page.jpg.*{word}"):
        read_image(path)


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(UserError, match=r"not found: .*absent.jpg"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(UserError, match="cannot read"):
        read_image(tmp_path)


def test_resize_is_bilinear_with_half_pixel_centres():
    ramp = np.repeat(np.array([[0, 100, 200, 100]], np.uint8), 4, axis=0)[..., None].repeat(3, axis=2)
    # Halving: the centre of new pixel k lies at 2k + 1, midway between old centres 2k and 2k + 1.
    np.testing.assert_array_equal(resize_image(ramp, 2)[0, :, 0], [50, 150])
    assert resize_image(ramp, 4) is ramp
    tall = resize_image(np.zeros((100, 20, 3), np.uint8), 30)
    assert tall.shape == (30, 30, 3)


def test_resize_does_not_average_when_shrinking():
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::4] = 255
    # Every fourth column is white; at a quarter of the width only columns 4k+1 and 4k+2 are looked at: all black.
    assert resize_image(lines, 16).max() == 0


def test_real_pictures_agree_with_their_annotation(shared_data: Path):
    folder = shared_data / "coco128"
    images = json.loads((folder / "annotations" / "instances_val2017.json").read_text())["images"]
    for entry in images[:30]:
        image = read_image(folder / "val2017" / entry["file_name"])
        assert image.shape == (entry["height"], entry["width"], 3)
