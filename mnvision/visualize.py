"""Pictures for people: detections drawn on a photograph, and many pictures on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mnvision.types import Detections, UserError

Image = NDArray[np.uint8]
Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are the first ones outside

_WHITE: Color = (255, 255, 255)
_BLACK: Color = (0, 0, 0)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_color(index: int) -> Color:
    """The RGB colour of class 0, 1, ...: always the same, and far in hue from those of its neighbours.

    Hues are steps around a circle of the OKLCH colour space, where equal lightness looks equally light (B. Ottosson,
    "A perceptual color space for image processing", 2020): all are light enough for black letters.
    """
    angle = 2 * math.pi * (0.70 + index * 0.61803399)  # by the golden ratio, new hues keep falling into the widest gap
    lightness, chroma = ((0.72, 0.19), (0.84, 0.15), (0.62, 0.22))[index // 8 % 3]
    a, b = chroma * math.cos(angle), chroma * math.sin(angle)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (_encode(min(max(channel, 0.0), 1.0)) for channel in linear)
    return red, green, blue


def _encode(channel: float) -> int:
    return round(255 * (12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055))


def draw_detections(
    image: Image,
    detections: Detections,
    classes: Sequence[str],
    *,
    score_threshold: float = 0.0,
    ground_truth: NDArray | Tensor | None = None,
) -> Image:
    """Draw boxes with class and score on a copy of a picture; lines and letters grow with the picture.

    Args:
        image: uint8 [H, W, 3] RGB.
        detections: Boxes in pixels of this picture; what is outside of it is cut off.
        classes: The names of the labels 1, 2, ...
        score_threshold: Detections with lower scores are left out.
        ground_truth: float [N, 4] xyxy in pixels of this picture, drawn as dashed white boxes.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        UserError: If the image is not a uint8 RGB picture.
    """
    check_image(image)
    canvas = np.ascontiguousarray(image).copy()
    line = max(1, round(min(image.shape[:2]) / 220))
    scores, labels, boxes = (_array(values) for values in (detections.scores, detections.labels, detections.boxes))
    found = []
    for row in np.argsort(-scores, kind="stable"):
        label, rectangle = int(labels[row]), _rectangle(boxes[row], image)
        if scores[row] >= score_threshold and rectangle is not None:
            name = classes[label - 1] if 1 <= label <= len(classes) else f"label {label}"
            found.append((rectangle, class_color(label - 1), f"{name} {scores[row]:.2f}"))
    for box in () if ground_truth is None else _array(ground_truth).reshape(-1, 4):
        if (rectangle := _rectangle(box, image)) is not None:
            _draw_dashes(canvas, rectangle, line=max(1, line // 2))
    for rectangle, color, _ in reversed(found):  # the best ones come out on top
        _draw_frame(canvas, rectangle, _BLACK, line=line + 1)  # a thin dark rim parts the color from the picture
        _draw_frame(canvas, rectangle, color, line=line)
    for chip in reversed(_place_chips(found, image)):
        left, top, right, bottom = chip.place
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), chip.color, cv2.FILLED)
        cv2.putText(canvas, chip.text, chip.origin, _FONT, chip.scale, _BLACK, chip.weight, cv2.LINE_AA)
    return canvas


def contact_sheet(images: Sequence[Image], *, columns: int, cell: int) -> Image:
    """Lay out pictures in rows on a dark sheet, each as large as its cell allows, its aspect kept.

    Args:
        images: uint8 [H, W, 3] RGB, of any sizes.
        columns: How many pictures to a row.
        cell: Width and height of a cell in pixels.

    Returns:
        uint8 RGB; its cells are separated and framed by a gap of cell / 40 pixels.

    Raises:
        UserError: If there are no images, one is not a uint8 RGB picture, or ``columns`` or ``cell`` is not positive.
    """
    if not images or columns < 1 or cell < 1:
        raise UserError(
            f"Contact sheet: got {len(images)} images, {columns} columns and cells of {cell} pixels; expected at least "
            "one of each."
        )
    gap = max(1, cell // 40)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (cell + gap) + gap, columns * (cell + gap) + gap, 3), 24, np.uint8)
    for number, image in enumerate(images):
        check_image(image)
        scale = cell / max(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        top = gap + number // columns * (cell + gap) + (cell - height) // 2
        left = gap + number % columns * (cell + gap) + (cell - width) // 2
        sheet[top : top + height, left : left + width] = small
    return sheet


def check_image(image: Image) -> None:
    """Refuse with a UserError what is no uint8 [H, W, 3] RGB picture."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(f"Drawing: expected a uint8 [H, W, 3] RGB picture, got {image.dtype} {list(image.shape)}.")


class _Chip(NamedTuple):
    """A label on a coloured ground."""

    place: Rectangle
    text: str
    color: Color
    scale: float  # of the letters
    weight: int  # of their strokes
    origin: tuple[int, int]  # where the base line of the text begins


def _array(values: NDArray | Tensor) -> NDArray:
    return values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _rectangle(box: NDArray, image: Image) -> Rectangle | None:
    """A box cut to the picture and rounded to pixels; None if it is not finite or none of it is inside."""
    height, width = image.shape[:2]
    left, top, right, bottom = box.tolist()
    if not np.isfinite(box).all() or right <= 0 or bottom <= 0 or left >= width or top >= height:
        return None
    left, top = (min(max(round(start), 0), size - 1) for start, size in ((left, width), (top, height)))
    right, bottom = (
        min(max(round(end), start + 1), size) for start, end, size in ((left, right, width), (top, bottom, height))
    )
    return left, top, right, bottom


def _draw_frame(canvas: Image, box: Rectangle, color: Color, *, line: int) -> None:
    """A frame within the edges of the box."""
    left, top, right, bottom = box
    inside = canvas[top:bottom, left:right]
    for strip in (inside[:line], inside[-line:], inside[:, :line], inside[:, -line:]):
        strip[:] = color


def _draw_dashes(canvas: Image, box: Rectangle, *, line: int) -> None:
    """A frame of white dashes on black, so that it shows on any ground."""
    _draw_frame(canvas, box, _BLACK, line=line)
    left, top, right, bottom = box
    inside = canvas[top:bottom, left:right]
    down, across = (np.arange(length) // (4 * line + 2) % 2 == 0 for length in inside.shape[:2])
    for edge in (slice(None, line), slice(-line, None)):
        inside[edge, across] = _WHITE
        inside[down, edge] = _WHITE


def _place_chips(found: Sequence[tuple[Rectangle, Color, str]], image: Image) -> list[_Chip]:
    """Chips that touch their boxes, inside the picture, where they hide the least of the other boxes and chips.

    A chip that is larger than the picture, or would have to hide a part of an earlier one, is left out.
    """
    height, width = image.shape[:2]
    capital = cv2.getTextSize("X", _FONT, 1.0, 1)[0][1]  # the height of a letter, in pixels at scale 1
    letters = max(9.0, min(height, width) / 40)
    margin = max(2, round(letters / 4))
    boxes = np.array([box for box, _, _ in found], dtype=np.float64).reshape(-1, 4)
    box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    chips: list[_Chip] = []
    for box, color, text in found:
        scale = letters / capital
        weight = max(1, round(scale))
        (text_width, text_height), descent = cv2.getTextSize(text, _FONT, scale, weight)
        w, h = text_width + 2 * margin, text_height + descent + margin
        if w > width or h > height:
            continue
        left, top, right, bottom = box
        corners = [(left, top - h), (right - w, top - h), (left, bottom), (right - w, bottom)]  # above and below
        corners += [(right, top), (left - w, top), (left, top), (right - w, bottom - h)]  # beside and within
        starts = np.clip(corners, 0, [width - w, height - h])
        places = np.concatenate([starts, starts + [w, h]], axis=1)
        taken = np.array([chip.place for chip in chips]).reshape(-1, 4)
        hidden_chips = _shared(places, taken).max(axis=1, initial=0) / (w * h)
        hidden_boxes = (_shared(places, boxes) / np.minimum(box_areas, 4 * w * h)).sum(axis=1)
        best = int(np.argmin(hidden_chips * 10 + hidden_boxes))
        if hidden_chips[best] < 0.1:
            x, y = starts[best].tolist()
            origin = (x + margin, y + margin // 2 + text_height)
            chips.append(_Chip((x, y, x + w, y + h), text, color, scale, weight, origin))
    return chips


def _shared(first: NDArray, second: NDArray) -> NDArray:
    """The common area of each rectangle with each other one, [N, M]."""
    start = np.maximum(first[:, None, :2], second[None, :, :2])
    end = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.maximum(end - start, 0).prod(axis=2)
