"""JPEGs decoded in part: the rows that are wanted, within a stated difference, and nothing that is damaged."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mnvision.errors import UserError
from mnvision.ops import fast_jpeg
from mnvision.ops.fast_jpeg import decode_rows
from mnvision.ops.jpeg import jpeg_header
from mnvision.ops.picture import Picture

pytest.importorskip("simplejpeg")


def smooth(height: int, width: int) -> np.ndarray:
    """A picture of gradients, which JPEG keeps well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1).astype(np.uint8)


def jpeg(image: np.ndarray, **options) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 40, 99, 150, 200])
def test_the_first_rows_are_those_of_the_whole_picture(rows, factor, subsampling):
    data = jpeg(smooth(201, 130), subsampling=subsampling)
    found = decode_rows(data, jpeg_header(data), rows=rows, factor=factor)
    whole = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    shown = -(-rows // factor)
    assert found.shape[1:] == (-(-130 // factor), 3)
    assert shown <= len(found) < shown + 48 // factor + 1
    wanted = cv2.resize(whole[: 201 // factor * factor, : 130 // factor * factor], (130 // factor, 201 // factor))
    common = min(shown, len(wanted))
    difference = found[:common, : wanted.shape[1]].astype(int) - wanted[:common]
    assert np.abs(difference).max() <= 12
    assert np.abs(difference).mean() < 2


def test_it_stops_early():
    data = jpeg(smooth(400, 60))
    assert len(decode_rows(data, jpeg_header(data), rows=100, factor=1)) == 128  # 112 and two more rows of blocks' 16


def test_what_it_leaves_to_others(monkeypatch):
    image = smooth(64, 64)
    for data in (jpeg(image, progressive=True), jpeg(image)[:-40], jpeg(image)[:-2]):
        assert decode_rows(data, jpeg_header(data), rows=64, factor=1) is None
    data = jpeg(image)
    monkeypatch.setattr(fast_jpeg, "_decoder", lambda: None)
    assert decode_rows(data, jpeg_header(data), rows=64, factor=1) is None


def test_a_file_that_is_cut_short_is_an_error_all_the_same():
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    data = jpeg(noise)
    with pytest.raises(UserError, match="cut short"):
        Picture.from_bytes(data[: len(data) // 2].tobytes()).cut((0, 100, 200, 200), width=50, height=50, reduced=True)


def test_a_turned_picture_is_left_to_others():
    image = smooth(80, 60)
    turned = Image.Exif()
    turned[0x0112] = 6
    data = jpeg(image, exif=turned)
    found = Picture.from_bytes(data.tobytes()).cut((0, 0, 80, 60), width=80, height=60, reduced=True)
    assert np.abs(found.astype(int) - np.rot90(image, -1)).mean() < 3
