"""What part of a picture to show: zooming out, cropping under an overlap constraint, flipping.

A window is a rectangle of whole pixels in the picture's own coordinates; it may reach beyond the picture. All choices
are made on boxes and sizes alone, and the picture is touched once, at the end: cut, resize, paste.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np

from mnvision.ops.image import stretch

# SSD, arXiv 1512.02325, section 2.2 (data augmentation): whole picture, an overlap of at least one of these, or any.
MIN_OVERLAPS = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
MAX_ZOOM = 4.0  # the expansion of section 3.6 fills up to 16 times the area: four times the side
MIN_ZOOMED_SIDE = 0.01  # of the canvas; zooming out stops before a box gets thinner
CROP_SCALES = (0.3, 1.0)  # of the width and of the height
MIN_CROP_AREA = 0.1
CROP_ASPECTS = (0.5, 2.0)
CROP_TRIES = 50
JITTER_SCALES = (0.7, 1.2)  # of both sides together
JITTER_ASPECTS = (0.8, 1.25)
MIN_SIDE = 0.1  # input pixels; a thinner box is no box


class Window(NamedTuple):
    """Whole pixels in the picture's coordinates, xyxy."""

    left: int
    top: int
    right: int
    bottom: int


class Truth(NamedTuple):
    """The boxes of a picture: boxes float64 [N, 4] xyxy in pixels, labels int64 [N], crowd bool [N]."""

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray

    def keep(self, rows: np.ndarray) -> Truth:
        """Some of the rows; boxes, labels and crowd always go together."""
        return Truth(self.boxes[rows], self.labels[rows], self.crowd[rows])


def whole_picture(size: tuple[int, int]) -> Window:
    """The window that shows a picture of ``size`` (height, width) as it is."""
    return Window(0, 0, size[1], size[0])


def zoom_out(window: Window, truth: Truth, *, rng: np.random.Generator) -> Window:
    """Put the window at a random place of a canvas up to four times as wide and high.

    The zoom is limited so that no box that is thicker than 1% of the window's side gets thinner than that.
    """
    left, top, right, bottom = window
    width, height = right - left, bottom - top
    boxes = truth.boxes[~truth.crowd]
    room = (boxes[:, 2:] - boxes[:, :2]) / (MIN_ZOOMED_SIDE * np.array([width, height]))
    limit = min(MAX_ZOOM, room[room >= 1].min(initial=MAX_ZOOM))
    zoom = rng.uniform(1, limit)
    x = left - round(rng.uniform(0, width * (zoom - 1)))
    y = top - round(rng.uniform(0, height * (zoom - 1)))
    return Window(x, y, max(x + round(width * zoom), right), max(y + round(height * zoom), bottom))


def random_crop(window: Window, truth: Truth, *, picture_size: tuple[int, int], rng: np.random.Generator) -> Window:
    """A part of the window that overlaps at least one box as much as a randomly chosen bound asks.

    A crop counts if it holds the centre of a box (crowds aside) whose IoU with the crop reaches the bound; without any
    box every crop counts that touches the picture. The first of 50 random crops that counts is taken; if none does,
    the window stays.
    """
    bound = MIN_OVERLAPS[rng.integers(len(MIN_OVERLAPS))]
    if bound is None:
        return window
    left, top, right, bottom = window
    extent = np.array([right - left, bottom - top])
    # All tries at once: [T, 2] in (x, y) order.
    sides = np.maximum(np.round(extent * rng.uniform(*CROP_SCALES, size=(CROP_TRIES, 2))), 1).astype(np.int64)
    starts = np.array([left, top]) + np.round((extent - sides) * rng.random((CROP_TRIES, 2))).astype(np.int64)
    aspects = sides[:, 0] / sides[:, 1]
    fits = (aspects >= CROP_ASPECTS[0]) & (aspects <= CROP_ASPECTS[1])
    fits &= sides.prod(axis=1) >= MIN_CROP_AREA * extent.prod()
    crops = np.concatenate([starts, starts + sides], axis=1)  # [T, 4]
    boxes = truth.boxes[~truth.crowd]
    if len(boxes):
        fits &= (_overlaps(crops, boxes) * _holds_centre(crops, boxes)).max(axis=1) >= max(bound, 1e-9)
    else:
        fits &= (crops[:, :2] < picture_size[::-1]).all(axis=1) & (crops[:, 2:] > 0).all(axis=1)
    if not fits.any():
        return window
    return Window(*crops[int(np.argmax(fits))].tolist())


def jitter(window: Window, *, rng: np.random.Generator) -> Window:
    """Scale by 0.7 to 1.2 and stretch by 0.8 to 1.25, at a random place.

    On each axis the shorter one of the given window and the new one lies within the longer one.
    """
    left, top, right, bottom = window
    extent = np.array([right - left, bottom - top])
    stretch_x = np.sqrt(rng.uniform(*JITTER_ASPECTS))
    sides = np.round(extent * rng.uniform(*JITTER_SCALES) * (stretch_x, 1 / stretch_x)).astype(np.int64)
    start = np.array([left, top]) + np.round((extent - sides) * rng.random(2)).astype(np.int64)
    return Window(*start.tolist(), *(start + sides).tolist())


def truth_in(window: Window, truth: Truth) -> Truth:
    """The boxes that a window shows: those whose centre it holds, and every crowd region that it touches."""
    corners = np.array([window], dtype=np.float64)
    boxes = truth.boxes
    touches = (boxes[:, :2] < corners[0, 2:]).all(axis=1) & (boxes[:, 2:] > corners[0, :2]).all(axis=1)
    return truth.keep(np.where(truth.crowd, touches, _holds_centre(corners, boxes)[0]))


def cut(image: np.ndarray, window: Window, *, size: int) -> tuple[np.ndarray, Window, Window]:
    """Cut out what the window shows of the picture, at the scale at which it appears in the input.

    Args:
        image: uint8 [H, W, 3].
        window: The part to show; it must touch the picture.
        size: Side of the network's input in pixels.

    Returns:
        The resized cut, uint8 [h, w, 3] with h, w <= size; where it comes from in the picture; where it goes in the
        input. Both are whole pixels, so boxes can follow exactly (see `follow`).
    """
    height, width = image.shape[:2]
    left, top, right, bottom = window
    source = Window(max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    x1, x2 = _span(source.left - left, source.right - left, scale=size / (right - left), size=size)
    y1, y2 = _span(source.top - top, source.bottom - top, scale=size / (bottom - top), size=size)
    part = image[source.top : source.bottom, source.left : source.right]
    return stretch(part, width=x2 - x1, height=y2 - y1), source, Window(x1, y1, x2, y2)


def paste(part: np.ndarray, target: Window, *, size: int, fill: tuple[int, ...]) -> np.ndarray:
    """Put a cut in its place of the input, uint8 [size, size, 3], and fill the rest with one colour."""
    if part.shape[:2] == (size, size):
        return part
    margins = (target.top, size - target.bottom, target.left, size - target.right)
    return cv2.copyMakeBorder(part, *margins, cv2.BORDER_CONSTANT, value=fill)


def follow(truth: Truth, *, source: Window, target: Window) -> Truth:
    """The boxes after ``source`` was moved to ``target``: clipped to it, and without those that have no extent left."""
    scale = (np.array(target[2:]) - target[:2]) / (np.array(source[2:]) - source[:2])
    corners = (truth.boxes.reshape(-1, 2, 2) - source[:2]) * scale + target[:2]
    boxes = np.clip(corners, target[:2], target[2:]).reshape(-1, 4)
    extent = boxes[:, 2:] - boxes[:, :2]
    return Truth(boxes, truth.labels, truth.crowd).keep((extent >= MIN_SIDE).all(axis=1))


def flip(image: np.ndarray, truth: Truth, *, axis: Literal["x", "y"]) -> tuple[np.ndarray, Truth]:
    """Mirror left and right (``x``) or turn upside down (``y``). Boxes are in pixels of ``image``."""
    boxes = truth.boxes.copy()
    if axis == "x":
        boxes[:, [0, 2]] = image.shape[1] - truth.boxes[:, [2, 0]]
        image = cv2.flip(image, 1)
    else:
        boxes[:, [1, 3]] = image.shape[0] - truth.boxes[:, [3, 1]]
        image = cv2.flip(image, 0)
    return image, Truth(boxes, truth.labels, truth.crowd)


def _span(start: int, stop: int, *, scale: float, size: int) -> tuple[int, int]:
    """Whole input pixels of a stretch of the window; at least one."""
    first = min(round(start * scale), size - 1)
    return first, max(min(round(stop * scale), size), first + 1)


def _holds_centre(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether each of [T, 4] crops holds the centre of each of [N, 4] boxes: bool [T, N]."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > crops[:, None, :2]) & (centres < crops[:, None, 2:])).all(axis=2)


def _overlaps(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of [T, 4] crops with [N, 4] boxes: [T, N]."""
    low = np.maximum(crops[:, None, :2], boxes[:, :2])
    high = np.minimum(crops[:, None, 2:], boxes[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (crops, boxes)]
    return shared / (areas[0][:, None] + areas[1] - shared)
