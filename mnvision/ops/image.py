"""Pictures: decoding and resizing. Training, evaluation and prediction share these.

Colour is RGB, pictures are uint8 [H, W, 3], and a size is (height, width) in pixels.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from torch import Tensor
from torch.nn import functional as F

from mnvision.errors import UserError

# ANYDEPTH keeps 16 bits, so that we scale them ourselves; without it OpenCV drops the low byte.
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
_ADVICE = "Replace the file, save it again as JPEG or PNG, or take it out (in training, data.bad_images=skip does so)"


def read_image(path: str | Path, *, apply_exif: bool = True) -> np.ndarray:
    """Read a picture file.

    Args:
        path: A JPEG, PNG, WebP, TIFF, BMP or whatever else OpenCV was built to read.
        apply_exif: Turn and mirror the picture as its EXIF orientation asks.

    Returns:
        uint8 [H, W, 3] RGB; see `decode_image` for how other kinds of pictures become this.

    Raises:
        UserError: The file is missing, empty, cut short, or not a picture.
    """
    return decode_image(read_bytes(path), name=str(path), apply_exif=apply_exif)


def read_bytes(path: str | Path) -> np.ndarray:
    """The bytes of a picture file, uint8 [N].

    Raises:
        UserError: The file is missing or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return np.frombuffer(file.read(), np.uint8)  # twice as fast as fromfile()
    except FileNotFoundError:
        raise UserError(f"picture not found: {path}. Check the picture folder and the file name") from None
    except OSError as error:
        raise UserError(f"cannot read the picture {path}: {error.strerror or error}. Check the path") from None


def decode_image(data: bytes | np.ndarray, *, name: str = "the picture", apply_exif: bool = True) -> np.ndarray:
    """Decode the bytes of a picture file.

    Grey becomes three equal channels; transparency is dropped, so the colours below it show; 16 bits become 8 by
    ``round(value / 257)``, which takes 65535 to 255; all eight EXIF orientations are applied. Damage inside a file
    that its format does not detect (a JPEG has no checksum) cannot be found here.

    Args:
        data: The bytes of the file.
        name: What to call the picture in an error, usually its path.
        apply_exif: Turn and mirror the picture as its EXIF orientation asks.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        UserError: The data is empty, cut short, not a picture, or holds neither 8 nor 16 bits a channel.
    """
    if len(data) == 0:
        raise UserError(f"{name} is empty: 0 bytes, expected a picture. {_ADVICE}")
    flags = _FLAGS if apply_exif else _FLAGS | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        raise UserError(f"{name} cannot be decoded: {error.err}. {_ADVICE}") from None
    if image is None:
        raise UserError(f"{name} is cut short, damaged, or no picture ({len(data):,} bytes). {_ADVICE}")
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(f"{name} holds {image.dtype} values, expected 8 or 16 bits a channel. {_ADVICE}")
    return image


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Stretch a picture to a square, whatever its aspect, by plain bilinear interpolation without smoothing.

    Pixel centres are at half integers, and shrinking does not average: the detectors whose weights we load were
    trained on pictures resized so.

    Args:
        image: uint8 [H, W, C].
        size: Side of the result in pixels.

    Returns:
        uint8 [size, size, C]; the input itself if it already has this size.
    """
    return stretch(image, width=size, height=size)


def stretch(image: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """``resize_image`` to any width and height."""
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def fit_batch(images: Tensor, size: int) -> Tensor:
    """A batch [B, 3, S, S], uint8 or float, in another size, averaged where it shrinks; itself where that is its own.

    Returns:
        float [B, 3, size, size] where the size changes.
    """
    if images.shape[-1] == size:
        return images
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
