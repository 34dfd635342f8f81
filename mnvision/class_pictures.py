"""Pictures for people: what a classifier says under a photograph, and its worst mistakes on one sheet."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mnvision.types import UserError
from mnvision.visualize import Color, Image, check_image, contact_sheet

RIGHT: Color = (18, 163, 124)
WRONG: Color = (224, 82, 60)
NEUTRAL: Color = (139, 143, 153)
_PAPER: Color = (24, 24, 24)
_INK: Color = (245, 245, 245)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LEAST_WIDTH = 224  # pixels: smaller pictures are enlarged, for letters need room


class Caption(NamedTuple):
    """A line under a picture.

    Attributes:
        text: What is said; letters beyond ASCII lose their accents, or become question marks.
        value: What stands at its right end, such as a probability.
        color: Of the square before it; none where None.
    """

    text: str
    value: str = ""
    color: Color | None = None


def captions(
    prediction: str | None, probability: float, *, truth: str | None = None, known: bool = True
) -> list[Caption]:
    """The lines of a picture: the class predicted, and the right one where the prediction is not.

    Args:
        prediction: The class; None where there is no prediction.
        probability: Of that class, 0..1.
        truth: The right class, if it is known.
        known: Whether the right class should be named at all; without it no prediction is right or wrong.
    """
    judged = known and truth is not None
    color = NEUTRAL if not judged else RIGHT if prediction == truth else WRONG
    lines = [Caption(prediction or "no prediction", f"{probability:.0%}" if prediction else "", color)]
    if judged and prediction != truth:
        lines.append(Caption(f"is: {truth}"))
    return lines


def draw_label(image: Image, lines: Sequence[Caption]) -> Image:
    """A picture with a strip of text under it; letters grow with the picture, and long lines are shortened.

    Args:
        image: uint8 [H, W, 3] RGB. One narrower than 224 pixels is enlarged first.
        lines: At least one.

    Returns:
        uint8 [H', W', 3] RGB.

    Raises:
        UserError: If the image is not a uint8 RGB picture, or there are no lines.
    """
    check_image(image)
    if not lines:
        raise UserError("Drawing: a caption needs at least one line, got none.")
    height, width = image.shape[:2]
    if width < _LEAST_WIDTH:
        size = (_LEAST_WIDTH, max(1, round(height * _LEAST_WIDTH / width)))
        grown = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if width < 100 else cv2.INTER_LINEAR)
        image = grown.astype(np.uint8, copy=False)
    return np.concatenate([image, _strip(lines, width=image.shape[1])])


def mistakes_sheet(
    images: Sequence[Image],
    lines: Sequence[Sequence[Caption]],
    *,
    columns: int = 5,
    cell: int = 256,
) -> Image:
    """Pictures with their captions on one sheet, in the order given.

    Args:
        images: uint8 [H, W, 3] RGB, of any sizes.
        lines: What stands under each, as :func:`captions` gives it.
        columns: How many pictures to a row.
        cell: Width and height of a picture with its caption, in pixels.

    Returns:
        uint8 RGB.

    Raises:
        UserError: If there are no images, there is not one list of lines for each, or an image is no RGB picture.
    """
    if len(images) != len(lines):
        raise UserError(f"Mistakes: got {len(images)} images and captions of {len(lines)}; expected as many.")
    most = max((len(some) for some in lines), default=1)
    cells = []
    for image, some in zip(images, lines, strict=True):
        strip = _strip([*some, *[Caption("")] * (most - len(some))], width=cell)
        cells.append(np.concatenate([_framed(image, width=cell, height=cell - len(strip)), strip]))
    return contact_sheet(cells, columns=columns, cell=cell)


def _framed(image: Image, *, width: int, height: int) -> Image:
    """A picture as large as the frame allows, its aspect kept, in the middle of a dark ground."""
    check_image(image)
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    frame = np.full((height, width, 3), _PAPER, np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    frame[top : top + size[1], left : left + size[0]] = small
    return frame


def _strip(lines: Sequence[Caption], *, width: int) -> Image:
    """The lines on a dark ground: uint8 [h, width, 3]."""
    capital = cv2.getTextSize("X", _FONT, 1.0, 1)[0][1]
    letters = max(9.0, width / 24)  # the height of a capital in pixels
    scale, pitch, margin = letters / capital, round(letters * 1.9), round(letters * 0.8)
    weight = max(1, round(letters / 11))
    strip = np.full((pitch * len(lines) + margin, width, 3), _PAPER, np.uint8)
    for number, line in enumerate(lines):
        base = round(margin / 2 + pitch * number + pitch / 2 + letters / 2)
        left, right = margin, width - margin
        if line.color is not None:
            side = round(letters)
            cv2.rectangle(strip, (left, base - side), (left + side - 1, base - 1), line.color, cv2.FILLED)
        left += round(letters * 1.5)  # the texts of all lines begin below each other
        if line.value:
            right -= _length(line.value, scale, weight)
            cv2.putText(strip, line.value, (right, base), _FONT, scale, _INK, weight, cv2.LINE_AA)
            right -= round(letters * 0.6)
        text, smaller = _fitted(plain_letters(line.text), right - left, scale=scale, weight=weight)
        cv2.putText(strip, text, (left, base), _FONT, smaller, _INK, weight, cv2.LINE_AA)
    return strip


def _fitted(text: str, room: int, *, scale: float, weight: int) -> tuple[str, float]:
    """A text that fits: in letters down to three quarters as high, then with dots for its middle."""
    long = _length(text, scale, weight)
    if long <= room:
        return text, scale
    smaller = max(0.75, room / long) * scale
    while smaller > 0.75 * scale and _length(text, smaller, weight) > room:
        smaller = max(0.75 * scale, smaller * 0.98)
    kept = text
    for count in range(len(text), 0, -1):
        if _length(kept, smaller, weight) <= room:
            break
        kept = text[: count // 2].rstrip() + ".." + text[len(text) - (count - 1) // 2 :].lstrip()
    return kept, smaller


def _length(text: str, scale: float, weight: int) -> int:
    return cv2.getTextSize(text, _FONT, scale, weight)[0][0]


def plain_letters(text: str) -> str:
    """Letters that OpenCV's font has.

    >>> plain_letters("Caf\u00e9 \u72d7")
    'Cafe ?'
    """
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return bare.encode("ascii", errors="replace").decode()
