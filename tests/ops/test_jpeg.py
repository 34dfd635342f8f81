from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnvision.ops.image import decode_image
from mnvision.ops.jpeg import jpeg_header


def jpeg(width: int = 60, height: int = 40, *, mode: str = "RGB", **options) -> bytes:
    """A JPEG of noise, written by Pillow."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def exif(orientation: int, *, order: str = ">", kind: int = 3, extra: bytes = b"") -> bytes:
    """An APP1 segment with an orientation; ``extra`` follows the TIFF structure, as a thumbnail does."""
    magic = b"MM\0*" if order == ">" else b"II*\0"
    # Two entries, so that the first one has to be stepped over: the image's width, then the orientation.
    entries = struct.pack(f"{order}HHIHH", 0x0100, 3, 1, 7, 0) + struct.pack(
        f"{order}HHIHH", 0x0112, kind, 1, orientation, 0
    )
    tiff = magic + struct.pack(f"{order}IH", 8, 2) + entries + struct.pack(f"{order}I", 0) + extra
    return segment(0xE1, b"Exif\0\0" + tiff)


def size_of(data: bytes | np.ndarray) -> tuple[int, int, int] | None:
    """Height, width and orientation."""
    header = jpeg_header(data)
    return None if header is None else header[:3]


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def after_start(data: bytes, inserted: bytes) -> bytes:
    return data[:2] + inserted + data[2:]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_size_of_each_kind(mode: str, progressive: bool):
    assert size_of(jpeg(mode=mode, progressive=progressive)) == (40, 60, 1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_both_byte_orders(orientation: int, order: str):
    data = after_start(jpeg(), exif(orientation, order=order))
    header = jpeg_header(data)
    assert header is not None
    assert header[:3] == (40, 60, orientation)
    assert header.upright == ((60, 40) if orientation in (5, 6, 7, 8) else (40, 60))
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation


def test_a_thumbnail_inside_exif_is_stepped_over():
    thumbnail = jpeg(width=16, height=8)
    assert size_of(after_start(jpeg(), exif(6, extra=thumbnail))) == (40, 60, 6)


def test_the_first_exif_segment_counts_and_other_app1_segments_do_not():
    other = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    assert size_of(after_start(jpeg(), other + exif(3) + exif(6))) == (40, 60, 3)


@pytest.mark.parametrize("inserted", [b"\xff\xff\xff", b"\0\1\2", b"\xff\x01", segment(0xFE, b"\xff\xc0" * 9)])
def test_fill_bytes_stray_bytes_and_comments_are_stepped_over(inserted: bytes):
    assert size_of(after_start(jpeg(), inserted)) == (40, 60, 1)


NO_ORIENTATION = segment(0xE1, b"Exif\0\0MM\0*")


@pytest.mark.parametrize("segments", [exif(0), exif(9), NO_ORIENTATION, segment(0xE1, b"Exif\0\0??\0*")])
def test_nonsense_in_exif_is_upright(segments: bytes):
    assert size_of(after_start(jpeg(), segments)) == (40, 60, 1)


@pytest.mark.parametrize(
    "segments",
    [exif(6, kind=4, order="<"), exif(6, kind=4), NO_ORIENTATION + exif(6), exif(3) + exif(6), exif(6) + exif(3)],
)
def test_odd_files_have_the_size_that_the_decoder_gives_them(segments: bytes):
    data = after_start(jpeg(), segments)
    header = jpeg_header(data)
    assert header is not None
    assert header.upright == decode_image(data).shape[:2]


def test_cut_short_before_the_frame_is_none_and_behind_it_is_not():
    data = jpeg()
    frame = data.index(b"\xff\xc0")
    for length in range(frame + 9):
        assert jpeg_header(data[:length]) is None, length
    assert size_of(data[: frame + 9]) == (40, 60, 1)


def test_what_only_a_decoder_can_tell_is_none():
    data = jpeg()
    frame = data.index(b"\xff\xc0")
    no_height = data[: frame + 5] + b"\0\0" + data[frame + 7 :]
    twelve_bits = data[: frame + 4] + b"\x0c" + data[frame + 5 :]
    lossless = data[: frame + 1] + b"\xc3" + data[frame + 2 :]
    for odd in (no_height, twelve_bits, lossless, b"\x89PNG\r\n", b"", b"\xff\xd8\xff\xe1\0\0"):
        assert jpeg_header(odd) is None


def test_bytes_and_arrays_are_read_alike():
    data = after_start(jpeg(), exif(8))
    assert jpeg_header(np.frombuffer(data, np.uint8)) == jpeg_header(data)


@pytest.mark.parametrize("folder", ["coco128/val2017", "stanford_dogs3/Images", "bccd"])
def test_real_files_agree_with_pillow(shared_data: Path, folder: str):
    files = sorted((shared_data / folder).rglob("*.jpg"))[::3]
    assert len(files) > 20
    for file in files:
        with Image.open(file) as picture:
            expected = (*picture.size[::-1], picture.getexif().get(0x0112, 1))
        assert size_of(file.read_bytes()) == expected, file
