"""JPEGs decoded no further than needed: only the rows down to a crop's end, at the scale that it asks for.

The decoder (simplejpeg, libjpeg-turbo's own interface) has no such choice: it is handed the file with a smaller height
in its header, and stops there. For training alone: quicker transforms move pixels by a little.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import numpy as np

from mnvision.ops.jpeg import JpegHeader

_ROWS = 16  # of a block row with halved colour; it is decoded as a whole
_END = b"\xff\xd9"


def decode_rows(data: np.ndarray, header: JpegHeader, *, rows: int, factor: int) -> np.ndarray | None:
    """The first rows of a JPEG, not turned, at a reduced scale.

    Args:
        data: uint8 [N], the bytes of the file.
        header: What they say.
        rows: How many are needed at least, in pixels of the full scale.
        factor: 1, 2, 4 or 8.

    Returns:
        uint8 [H', ceil(width / factor), 3] RGB with ``H' >= rows / factor``; None where it has to be done otherwise:
        without the package, for a progressive or damaged file, or one that is cut short.
    """
    decoder = _decoder()
    # Without its end mark a file is cut short, which decoding part of it would not show.
    if decoder is None or not header.baseline or data[-2:].tobytes() != _END:
        return None
    # Two block rows more: the last ones would be interpolated against nothing.
    rows = min(-(-rows // _ROWS) * _ROWS + _ROWS, header.height)
    content = data.tobytes()
    if rows < header.height:
        at = header.height_at
        content = content[:at] + rows.to_bytes(2, "big") + content[at + 2 :]
    height, width = -(-rows // factor), -(-header.width // factor)
    try:
        pixels = decoder.decode_jpeg(
            content,
            "RGB",
            fastdct=True,
            fastupsample=True,
            min_height=height,
            min_width=width,
            min_factor=float(factor),
            strict=False,  # what follows the last row that it knows of surprises it
        )
    except ValueError:
        return None  # decoding it in full raises what a user can read
    return pixels if pixels.shape == (height, width, 3) else None


@functools.cache
def _decoder() -> ModuleType | None:
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:  # no wheel for this machine: OpenCV does it all
        return None
