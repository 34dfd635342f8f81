"""The box around all objects of a picture, from annotations in Pascal VOC's XML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mnvision.errors import UserError, file_error

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def union_boxes(files: Sequence[Path], *, first_pixel: int, required: bool = True) -> np.ndarray:
    """The union of the objects' boxes of each picture.

    In the files xmax and ymax are the last pixels that belong to a box; here they are its right and lower edges, and
    the left edge of the first pixel is 0.

    Args:
        files: One XML file a picture.
        first_pixel: The number of a picture's first pixel in the files: 1 for Pascal VOC, 0 where they count from 0.
        required: Whether every file must be there; else a picture without one gets NaN.

    Returns:
        float64 [I, 4] xyxy in original pixels.

    Raises:
        UserError: A file is missing, not XML, or has no object with four numbers as corners, in order.
    """
    boxes = np.full((len(files), 4), math.nan)
    for row, file in enumerate(files):
        try:
            boxes[row] = _union(file.read_bytes(), file=file)
        except FileNotFoundError:
            if required:
                raise UserError(
                    f"annotation file not found: {file}. Expected the box of a picture; unpack the annotations in"
                    " full, or do without boxes"
                ) from None
    return boxes + np.array([0, 0, 1, 1]) - first_pixel


def _union(content: bytes, *, file: Path) -> tuple[float, ...]:
    """The corners as the file counts pixels."""
    try:
        top = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise file_error(file, f"is not XML ({error}). Expected an annotation; was it copied in full?") from error
    boxes = [[item.findtext(f"bndbox/{key}") for key in _CORNERS] for item in top.iterfind("object")]
    try:
        corners = [[float(text) for text in box if text is not None] for box in boxes]
    except ValueError:
        corners = []
    if not corners or any(len(box) != 4 or not (box[0] <= box[2] and box[1] <= box[3]) for box in corners):
        raise file_error(
            file,
            f"its objects have the boxes {boxes}. Expected at least one object with numbers in order as xmin, ymin,"
            " xmax, ymax; correct the file",
        )
    xmin, ymin, xmax, ymax = zip(*corners, strict=True)
    return min(xmin), min(ymin), max(xmax), max(ymax)
