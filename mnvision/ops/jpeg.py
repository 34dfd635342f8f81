"""What the header of a JPEG file says, read without decoding a pixel.

The layout of markers and segments is that of ITU-T T.81, annex B; the orientation is tag 0x0112 of EXIF 2.32, 4.6.4.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

# Baseline, extended and progressive Huffman, and the arithmetic two: what libjpeg decodes.
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_ROW_BY_ROW = (0xC0, 0xC1)
_OTHER_FRAMES = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF))
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a segment; SOI, 0xD8, among them
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
_ORIENTATION = 0x0112


class JpegHeader(NamedTuple):
    """What a decoder goes by.

    Attributes:
        height: Before the picture is turned, in pixels.
        width: Likewise.
        orientation: Of EXIF, 1..8.
        height_at: Where the two bytes of the height are in the file.
        baseline: Whether it is coded row by row: not progressive, and not arithmetic.
    """

    height: int
    width: int
    orientation: int
    height_at: int = 0
    baseline: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) of the picture once it is turned as its orientation asks."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def jpeg_header(data: bytes | np.ndarray) -> JpegHeader | None:
    """Read a JPEG's size and orientation.

    Thumbnails lie inside an APP1 segment, which is stepped over as a whole, so their sizes are never taken.

    Args:
        data: The bytes of a file, or at least those up to its frame header.

    Returns:
        None where this is no JPEG, its header is cut short or damaged, or of a kind whose size only decoding tells
        (a height of 0, more than 8 bits, lossless).
    """
    view = np.frombuffer(data, np.uint8).data
    if bytes(view[:2]) != b"\xff\xd8":
        return None
    try:
        return _read(view)
    except (IndexError, struct.error):  # cut short
        return None


def _read(view: memoryview) -> JpegHeader | None:
    orientation, at = None, 2
    while True:
        while view[at] != 0xFF:  # decoders step over stray bytes
            at += 1
        while view[at] == 0xFF:  # any number of fill bytes may precede a marker
            at += 1
        marker, at = view[at], at + 1
        if marker in _BARE or marker == 0:
            continue
        if marker in (_SCAN, _END) or marker in _OTHER_FRAMES:
            return None
        (length,) = struct.unpack_from(">H", view, at)
        if length < 2:
            return None
        if marker in _FRAMES:
            bits, height, width = struct.unpack_from(">BHH", view, at + 2)
            usable = bits == 8 and height > 0 and width > 0
            return JpegHeader(height, width, orientation or 1, at + 3, marker in _ROW_BY_ROW) if usable else None
        if marker == _APP1 and orientation is None and bytes(view[at + 2 : at + 8]) == b"Exif\0\0":
            orientation = _exif_orientation(view[at + 8 : at + length])
        at += length


def _exif_orientation(tiff: memoryview) -> int | None:
    """The orientation in an EXIF segment's TIFF structure; None where it holds none, 1 where it is nonsense.

    Whatever type the entry claims, its first two bytes count, as they do for the decoder (OpenCV).
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(tiff[:4]))
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, value = struct.unpack_from(f"{order}H6xH", tiff, entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # cut short
        pass
    return None
