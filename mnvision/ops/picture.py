"""A picture that is cut before it is decoded, so that a large JPEG need not be decoded at its full scale."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mnvision.errors import UserError
from mnvision.ops.fast_jpeg import decode_rows
from mnvision.ops.image import decode_image, read_bytes, resize_image, stretch
from mnvision.ops.jpeg import jpeg_header
from mnvision.types import Preprocessing

Corners = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels

_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


class Picture:
    """A picture file, its bytes, or its pixels: tells its size from the header, and decodes what is cut out of it.

    Make one with ``from_path``, ``from_bytes`` or ``from_array``. All sizes and windows are those of the picture as it
    is seen (EXIF orientation applied), or of the part around ``box`` where there is one.

    Args:
        data: The bytes of a picture file; None where there are pixels.
        pixels: uint8 [H, W, 3] RGB; None where there are bytes.
        name: What to call the picture in an error.
        box: xyxy in pixels; the picture is cut to it before anything else.
        margin: How much more to take on each of the four sides, relative to the box's width and height.

    Raises:
        UserError: The file is missing, or the picture has to be decoded for its size and cannot be.
    """

    def __init__(
        self,
        *,
        data: np.ndarray | None,
        pixels: np.ndarray | None,
        name: str = "the picture",
        box: np.ndarray | None = None,
        margin: float = 0.0,
    ):
        self.name = name
        self._data, self._pixels = data, pixels
        header = jpeg_header(data) if data is not None and pixels is None else None
        self._header = header
        height, width = header.upright if header is not None else self._decoded().shape[:2]
        self._full = (int(height), int(width))
        self._part = (0, 0, self._full[1], self._full[0]) if box is None else _around(box, margin, size=self._full)

    @classmethod
    def from_path(cls, path: str | Path, *, box: np.ndarray | None = None, margin: float = 0.0) -> Picture:
        """The picture in a file."""
        return cls(data=read_bytes(path), pixels=None, name=str(path), box=box, margin=margin)

    @classmethod
    def from_bytes(
        cls, data: bytes, *, name: str = "the picture", box: np.ndarray | None = None, margin: float = 0.0
    ) -> Picture:
        """The picture that the bytes of a file hold."""
        return cls(data=np.frombuffer(data, np.uint8), pixels=None, name=name, box=box, margin=margin)

    @classmethod
    def from_array(cls, pixels: np.ndarray, *, box: np.ndarray | None = None, margin: float = 0.0) -> Picture:
        """A decoded picture, uint8 [H, W, 3] RGB."""
        return cls(data=None, pixels=pixels, box=box, margin=margin)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        left, top, right, bottom = self._part
        return bottom - top, right - left

    def cut(self, window: Corners, *, width: int, height: int, reduced: bool = False) -> np.ndarray:
        """Cut a window out and resize it.

        Shrinking by two or more averages first: by the largest of 2, 4 and 8 that leaves both sides at least as long
        as asked, and then bilinearly. For this the window's corners move down to multiples of that number.

        Args:
            window: left, top, right, bottom, inside the picture.
            width: Of the result in pixels.
            height: Of the result in pixels.
            reduced: Let a JPEG be decoded no further than the window, at 1/2, 1/4 or 1/8 of its scale, which drops the
                high frequencies of its blocks in place of averaging, and by quicker transforms. The pixels then differ
                a little from those of a decoded picture.

        Returns:
            uint8 [height, width, 3] RGB.

        Raises:
            UserError: The picture cannot be decoded.
        """
        left, top, right, bottom = window
        x, y = self._part[:2]
        factor = next((k for k in (8, 4, 2) if right - left >= k * width and bottom - top >= k * height), 1)
        # In cells of ``factor`` pixels a side; the same cells whether the JPEG decoder averages or we do.
        columns = slice((x + left) // factor, (x + left) // factor + (right - left) // factor)
        rows = slice((y + top) // factor, (y + top) // factor + (bottom - top) // factor)
        if reduced and (small := self._decoded_at(factor, rows=rows.stop * factor)) is not None:
            return resize_smoothly(small[rows, columns], width=width, height=height)
        part = self._decoded()[_times(rows, factor), _times(columns, factor)]
        if factor > 1:
            part = cv2.resize(part, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        return resize_smoothly(part, width=width, height=height)

    def pixels(self) -> np.ndarray:
        """All of it, decoded: uint8 [H, W, 3] RGB."""
        left, top, right, bottom = self._part
        return self._decoded()[top:bottom, left:right]

    def fit(self, preprocessing: Preprocessing) -> np.ndarray:
        """What evaluation and prediction see of it: the same for a file and for its pixels.

        With ``fit="stretch"`` there is no averaging: see `mnvision.ops.image.resize_image`.

        Returns:
            uint8 [size, size, 3] RGB.
        """
        left, top, right, bottom = window = shown_window(self.size, preprocessing)
        if preprocessing.fit == "stretch":
            return resize_image(self.pixels()[top:bottom, left:right], preprocessing.size)
        return self.cut(window, width=preprocessing.size, height=preprocessing.size)

    def _decoded(self) -> np.ndarray:
        """The whole picture, uint8 [H, W, 3] RGB."""
        if self._pixels is None:
            assert self._data is not None  # one of the two is always given
            pixels = decode_image(self._data, name=self.name)
            if self._header is not None and pixels.shape[:2] != self._full:
                raise UserError(
                    f"{self.name} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but its header says"
                    f" {self._full[1]} x {self._full[0]}. Save it again as JPEG or PNG, or take it out"
                )
            self._pixels = pixels
        return self._pixels

    def _decoded_at(self, factor: int, *, rows: int) -> np.ndarray | None:
        """At least the first rows of the JPEG at ``1 / factor`` of its scale, in RGB; None where that does not work."""
        if self._data is None or self._header is None or self._pixels is not None:
            return None
        if self._header.orientation == 1:
            found = decode_rows(self._data, self._header, rows=rows, factor=factor)
            if found is not None:
                return found
        if factor == 1:
            return None
        if self._header.orientation > 1 and any(side % factor for side in self._full):
            return None  # the decoder's incomplete cells would come to lie on the other side
        try:
            small = cv2.imdecode(self._data, _REDUCED[factor])
        except cv2.error:
            return None  # decoding it in full raises what a user can read
        expected = tuple(-(-side // factor) for side in self._full)
        return cv2.cvtColor(small, cv2.COLOR_BGR2RGB) if small is not None and small.shape[:2] == expected else None


def shown_window(size: tuple[int, int], preprocessing: Preprocessing) -> Corners:
    """The part of a picture that evaluation and prediction look at: its centre, as ``preprocessing`` says.

    Args:
        size: (height, width) in pixels.
        preprocessing: See there.

    >>> shown_window((300, 400), Preprocessing(224, fit="crop", crop_share=0.875))
    (69, 19, 331, 281)
    """
    height, width = size
    share, shorter = preprocessing.crop_share, min(size)
    across = max(round(share * (shorter if preprocessing.fit == "crop" else width)), 1)
    down = max(round(share * (shorter if preprocessing.fit == "crop" else height)), 1)
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def resize_smoothly(image: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """Resize bilinearly, and average first along each side that shrinks by two or more."""
    x, y = (_power_of_two(old // new) for old, new in zip(image.shape[1::-1], (width, height), strict=True))
    if x > 1 or y > 1:
        smaller = (-(-image.shape[1] // x), -(-image.shape[0] // y))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    return stretch(image, width=width, height=height)


def _power_of_two(number: int) -> int:
    """The largest power of two up to a number; 1 of 0."""
    return 1 << max(number.bit_length() - 1, 0)


def _times(cells: slice, factor: int) -> slice:
    return slice(cells.start * factor, cells.stop * factor)


def _around(box: np.ndarray, margin: float, *, size: tuple[int, int]) -> Corners:
    """The whole pixels that a box and its margin touch, inside the picture; at least one."""
    x1, y1, x2, y2 = (float(corner) for corner in box)
    more_x, more_y = margin * (x2 - x1), margin * (y2 - y1)
    height, width = size
    left = min(max(int(np.floor(x1 - more_x)), 0), width - 1)
    top = min(max(int(np.floor(y1 - more_y)), 0), height - 1)
    right = min(max(int(np.ceil(x2 + more_x)), left + 1), width)
    return left, top, right, min(max(int(np.ceil(y2 + more_y)), top + 1), height)
