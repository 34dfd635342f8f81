"""What part of a picture a classifier sees: chosen on the picture's size alone, before a pixel is decoded.

Sizes are (height, width) in pixels; every random choice comes from the generator that is passed in.
"""

from __future__ import annotations

import cv2
import numpy as np

from mnvision.data.windows import Window

ASPECTS = (3 / 4, 4 / 3)  # width over height
TRIES = 10


def random_resized_crop(
    size: tuple[int, int],
    *,
    area: tuple[float, float],
    aspect: tuple[float, float] = ASPECTS,
    rng: np.random.Generator,
) -> Window:
    """A part of random area and aspect at a random place: the augmentation of Inception, arXiv 1409.4842, section 6.

    Ten tries; if none fits into the picture, the largest part in its centre whose aspect is allowed.

    Args:
        size: Of the picture.
        area: Smallest and largest share of the picture's area; uniform in between.
        aspect: Smallest and largest width over height; its logarithm is uniform in between.
        rng: The source of every random choice.
    """
    height, width = size
    if (drawn := _drawn((height, width), most=(height, width), area=area, aspect=aspect, rng=rng)) is not None:
        return drawn
    across = min(width, max(round(height * aspect[1]), 1))
    down = min(height, max(round(width / aspect[0]), 1))
    left, top = (width - across) // 2, (height - down) // 2
    return Window(left, top, left + across, top + down)


def jitter(window: Window, *, size: tuple[int, int], share: float, rng: np.random.Generator) -> Window:
    """A window of the same shape, larger or smaller by up to a share of its sides, and moved by up to that share.

    It stays within the picture: where there is no room around the window, it only gets smaller, and moves within it.

    Args:
        window: Within the picture.
        size: Of the picture.
        share: Above 0, below 1.
        rng: The source of every random choice.
    """
    width, height = window.right - window.left, window.bottom - window.top
    scale = rng.uniform(1 - share, min(1 + share, size[1] / width, size[0] / height))
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    x, y = rng.uniform(-share, share, 2)
    left = int(np.clip(round(window.left + width * (0.5 + x) - across / 2), 0, size[1] - across))
    top = int(np.clip(round(window.top + height * (0.5 + y) - down / 2), 0, size[0] - down))
    return Window(left, top, left + across, top + down)


def pad_and_crop(
    image: np.ndarray, *, size: int, pad: int, fill: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """A random ``size`` x ``size`` part of a picture with ``pad`` pixels of one colour around it.

    Args:
        image: uint8 [H, W, 3]; with its padding at least ``size`` pixels high and wide.
        size: Side of the part.
        pad: Width of the border in pixels.
        fill: Its colour.
        rng: The source of every random choice.
    """
    if pad > 0:
        image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=fill)
    top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def mirror(image: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Every second picture with left and right exchanged."""
    return cv2.flip(image, 1) if rng.random() < 0.5 else image


def erase(
    image: np.ndarray,
    *,
    fill: tuple[int, ...],
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
    rng: np.random.Generator,
) -> np.ndarray:
    """A copy with a random rectangle of one colour in it: random erasing, arXiv 1708.04896, section 3.2.

    The rectangle is drawn like a random resized crop; where ten tries give none that fits, nothing is erased.
    """
    height, width = image.shape[:2]
    drawn = _drawn((height, width), most=(height - 1, width - 1), area=area, aspect=aspect, rng=rng)
    if drawn is not None:
        left, top, right, bottom = drawn
        image = image.copy()
        image[top:bottom, left:right] = fill
    return image


def _drawn(
    size: tuple[int, int],
    *,
    most: tuple[int, int],
    area: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> Window | None:
    """A part of random area and aspect, no larger than ``most``, at a random place; None after ten that do not fit."""
    height, width = size
    for _ in range(TRIES):
        pixels = height * width * rng.uniform(*area)
        ratio = np.exp(rng.uniform(*np.log(aspect)))
        across, down = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
        if 0 < across <= most[1] and 0 < down <= most[0]:
            left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
            return Window(left, top, left + across, top + down)
    return None
