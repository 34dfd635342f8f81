"""Draws scenes of coloured shapes on textured grounds, and says where each shape can be seen.

The form alone tells the class: colour, shading, size, tilt and ground say nothing about it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

CLASSES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")

_COUNTS = np.array([2, 5, 6, 6, 5, 3, 2, 1, 1]) / 31  # how often 0, 1, ... 8 shapes are tried
_SMALLEST, _LARGEST = 0.2, 0.5  # longer side of a shape, before it is tilted, as a part of the picture's side
_MIN_INSIDE = 0.8  # of each shape, within the picture
_MIN_VISIBLE = 0.6  # of each shape, not hidden by others
_MIN_CONTRAST = 100.0  # distance between shape and ground in RGB, of 441 possible
_MAX_TILT = 30.0  # degrees
_TRIES = 25
_FINE = 4  # shapes are drawn this many times larger, then averaged: smooth edges


class Scene(NamedTuple):
    """A picture and its truth.

    Attributes:
        image: uint8 [S, S, 3] RGB.
        boxes: int64 [N, 4] x, y, width, height in pixels: the extent of what can be seen of each shape.
        labels: int64 [N], positions in `CLASSES`.
        areas: int64 [N], numbers of visible pixels.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray


def draw_scene(rng: np.random.Generator, *, size: int) -> Scene:
    """Draw a scene of 0 to 8 shapes, one over the other.

    A shape goes only where it stays at least 80% within the picture and leaves those below it at least 60% visible, so
    every shape that is drawn can be recognised, and is annotated.
    """
    image = _ground(rng, size=size)
    owner = np.zeros((size, size), dtype=np.uint8)  # who is seen: 0 the ground, k the shape k
    labels: list[int] = []
    whole = np.zeros(len(_COUNTS))  # pixels of shape k within the picture, before others hid some of them
    visible = whole.copy()
    for _ in range(rng.choice(len(_COUNTS), p=_COUNTS)):
        label = int(rng.integers(len(CLASSES)))
        for _ in range(_TRIES):
            shape = _Shape.draw(rng, label=label, size=size)
            cover, seen = _clip(shape.cover, shape.corner, size=size)
            solid = cover >= 0.5
            hidden = np.bincount(owner[seen][solid], minlength=len(whole))
            left = visible - hidden
            inside = solid.sum() >= _MIN_INSIDE * (shape.cover >= 0.5).sum()
            if inside and (left[1:] >= _MIN_VISIBLE * whole[1:]).all():
                _paint(image, shape, rng=rng)
                labels.append(label)
                owner[seen][solid] = len(labels)
                visible = left
                visible[len(labels)] = whole[len(labels)] = solid.sum()
                break
    boxes = [cv2.boundingRect((owner == k + 1).astype(np.uint8)) for k in range(len(labels))]
    return Scene(
        image=_photograph(image, rng=rng),
        boxes=np.array(boxes, dtype=np.int64).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        areas=visible[1 : len(labels) + 1].astype(np.int64),
    )


# --- forms


@cache
def _outlines(name: str) -> tuple[np.ndarray, ...]:
    """The closed outlines of a form, points [P, 2] (x, y down) within -1..1; a second outline is a hole."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    if name == "circle":
        return (_on_circle(turn),)
    if name == "ring":
        return _on_circle(turn), 0.55 * _on_circle(turn)
    if name == "square":
        return (np.array([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),)
    if name == "triangle":
        return (_centred(_on_circle(np.deg2rad([-90, 30, 150]))),)
    if name == "star":
        reach = np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]
        return (_centred(reach * _on_circle(np.deg2rad(36 * np.arange(10) - 90))),)
    if name == "cross":
        a = 0.34
        corner = np.array([[a, -1], [a, -a], [1, -a]])
        quarter = np.array([[0, 1], [-1, 0]])
        return (np.concatenate([corner @ np.linalg.matrix_power(quarter, k) for k in range(4)]),)
    if name == "heart":
        x = 16 * np.sin(turn) ** 3
        y = -13 * np.cos(turn) + 5 * np.cos(2 * turn) + 2 * np.cos(3 * turn) + np.cos(4 * turn)
        return (_centred(np.stack([x, y], axis=1)),)
    if name == "moon":  # a disc without a smaller disc on its right: where the two circles meet, and both arcs there
        shift, radius = 0.5, 0.8
        tip = np.arccos((1 + shift**2 - radius**2) / (2 * shift))
        inner = np.arctan2(np.sin(tip), np.cos(tip) - shift)
        outside = _on_circle(np.linspace(tip, 2 * np.pi - tip, 64))
        inside = radius * _on_circle(np.linspace(2 * np.pi - inner, inner, 64)) + [shift, 0]
        return (_centred(np.concatenate([outside, inside])),)
    raise ValueError(f"no form {name!r}")


def _on_circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _centred(points: np.ndarray) -> np.ndarray:
    """Moved and scaled to fill -1..1 in its longer direction."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) / ((high - low).max() / 2)


# --- drawing


class _Shape(NamedTuple):
    """A shape in its place: outlines [P, 2] (x, y) in picture pixels, and how far each pixel of a patch is covered."""

    outlines: list[np.ndarray]
    centre: np.ndarray  # (x, y) in picture pixels
    radius: float
    corner: np.ndarray  # where the patch lies: picture pixel (x, y) of its left upper corner
    cover: np.ndarray  # float32 [h, w] in 0..1

    @classmethod
    def draw(cls, rng: np.random.Generator, *, label: int, size: int) -> _Shape:
        """Draw a shape of a class with random place, size, tilt and proportions."""
        radius = size * np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST))) / 2
        centre = rng.uniform(0.5 * radius, size - 0.5 * radius, size=2)
        tilt = np.deg2rad(rng.uniform(-_MAX_TILT, _MAX_TILT))
        stretch = np.array([1.0, rng.uniform(0.85, 1.0)])[rng.permutation(2)]
        rotation = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        outlines = [centre + radius * (points * stretch) @ rotation for points in _outlines(CLASSES[label])]
        corner = np.floor(outlines[0].min(axis=0)).astype(int) - 1
        width, height = np.ceil(outlines[0].max(axis=0)).astype(int) + 1 - corner
        patch = np.zeros((height * _FINE, width * _FINE), dtype=np.uint8)
        cv2.fillPoly(patch, _fixed_point(outlines, corner), 255, shift=_BITS)
        return cls(outlines, centre, radius, corner, _average(patch))

    def rim(self, width: float) -> np.ndarray:
        """The part of ``cover`` that lies within ``width`` pixels of the outline."""
        patch = np.zeros([_FINE * n for n in self.cover.shape], dtype=np.uint8)
        thickness = max(round(2 * width * _FINE), 1)
        cv2.polylines(patch, _fixed_point(self.outlines, self.corner), True, 255, thickness, shift=_BITS)
        return _average(patch) * self.cover


_BITS = 4  # OpenCV's fixed point: 1/16 of a fine pixel


def _fixed_point(outlines: list[np.ndarray], corner: np.ndarray) -> list[np.ndarray]:
    return [np.round((points - corner) * _FINE * 2**_BITS).astype(np.int32) for points in outlines]


def _average(patch: np.ndarray) -> np.ndarray:
    height, width = patch.shape
    return cv2.resize(patch, (width // _FINE, height // _FINE), interpolation=cv2.INTER_AREA) / np.float32(255)


def _clip(patch: np.ndarray, corner: np.ndarray, *, size: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The part of a patch within the picture, and where that is."""
    (x1, y1), (x2, y2) = np.maximum(corner, 0), np.minimum(corner + patch.shape[1::-1], size)
    return patch[y1 - corner[1] : y2 - corner[1], x1 - corner[0] : x2 - corner[0]], (slice(y1, y2), slice(x1, x2))


def _paint(image: np.ndarray, shape: _Shape, *, rng: np.random.Generator) -> None:
    """Paint a shape into the float32 picture: often a soft shadow, a shaded body, sometimes stripes and a rim."""
    size, radius = len(image), shape.radius
    cover, seen = _clip(shape.cover, shape.corner, size=size)
    colour = _contrasting(image[seen], cover, rng=rng)

    if rng.random() < 0.6:
        margin = int(0.3 * radius) + 2
        soft = cv2.copyMakeBorder(shape.cover, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
        soft = cv2.GaussianBlur(soft, (0, 0), 0.07 * radius + 0.5)
        shift = np.round([0.08 * radius, 0.1 * radius]).astype(int)
        shadow, below = _clip(soft, shape.corner - margin + shift, size=size)
        image[below] *= cv2.merge([1 - np.float32(rng.uniform(0.25, 0.5)) * shadow] * 3)

    across = _ramp(rng.uniform(0, 2 * np.pi), size=size, centre=shape.centre)[seen] / np.float32(radius)
    light = 1 + np.float32(rng.uniform(0.05, 0.2)) * np.clip(across, -1, 1)
    if rng.random() < 0.2:
        light *= 1 + np.float32(0.12) * np.sign(np.sin(across * np.float32(rng.uniform(6, 14))))
    body = [np.minimum(channel * light, 255) for channel in colour]
    if rng.random() < 0.5:
        rim, _ = _clip(shape.rim(0.07 * radius), shape.corner, size=size)
        edge = np.minimum(colour * np.float32(rng.choice([0.6, 1.35])), 255)
        body = [inner + rim * (outer - inner) for inner, outer in zip(body, edge, strict=True)]
    image[seen] += cv2.merge([cover] * 3) * (cv2.merge(body) - image[seen])


def _contrasting(ground: np.ndarray, cover: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """A vivid colour float32 [3] that stands out from what lies below a shape."""
    mean = np.einsum("hwc,hw->c", ground, cover) / cover.sum()
    while True:  # hues all around the circle: one that is far enough always comes soon
        colour = _rgb(rng.uniform(0, 360), rng.uniform(0.6, 1), rng.uniform(0.6, 1))
        if np.linalg.norm(colour - mean) >= _MIN_CONTRAST:
            return colour


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """A colour float32 [3] in 0..255 from degrees, 0..1, 0..1."""
    pixel = np.array([[[hue % 360, min(max(saturation, 0), 1), min(max(value, 0), 1)]]], dtype=np.float32)
    return 255 * cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]


# --- grounds


def _ramp(angle: float, *, size: int, centre: np.ndarray | float = 0.0) -> np.ndarray:
    """The way from ``centre`` along a direction, in pixels: float32 [size, size]."""
    x, y = np.arange(size, dtype=np.float32) - np.broadcast_to(centre, 2).astype(np.float32)[:, None]
    return np.float32(np.cos(angle)) * x[None, :] + np.float32(np.sin(angle)) * y[:, None]


def _clouds(rng: np.random.Generator, *, size: int, cells: int) -> np.ndarray:
    """Smooth noise, float32 [size, size] in 0..1."""
    total = np.zeros((size, size), dtype=np.float32)
    for octave in range(3):
        grid = rng.random((cells * 2**octave + 1,) * 2, dtype=np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) / 2**octave
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def _ground(rng: np.random.Generator, *, size: int) -> np.ndarray:
    """A picture of two related, quiet colours mixed by a texture: float32 [size, size, 3] in 0..255."""
    angle = rng.uniform(0, 2 * np.pi)
    u, v = _ramp(angle, size=size), _ramp(angle + np.pi / 2, size=size)
    wave = 2 * np.pi / (size * rng.uniform(0.06, 0.25))
    kind = rng.choice(["gradient", "stripes", "checks", "waves", "dots", "clouds", "grain"])
    if kind == "gradient":
        mix = (u - u.min()) / (u.max() - u.min())
    elif kind == "stripes":
        mix = 0.5 + 0.5 * np.clip(3 * np.sin(wave * u), -1, 1)
    elif kind == "checks":
        mix = 0.5 + 0.5 * np.clip(8 * np.sin(wave * u) * np.sin(wave * v), -1, 1)
    elif kind == "waves":
        mix = 0.5 + 0.5 * np.sin(wave * (u + 0.04 * size * np.sin(0.6 * wave * v)))
    elif kind == "dots":
        mix = np.clip(6 * (np.sin(wave * u) * np.sin(wave * v) - 0.45), 0, 1)
    else:
        mix = _clouds(rng, size=size, cells=int(rng.integers(2, 6) if kind == "clouds" else rng.integers(24, 48)))
    hue, saturation, value = rng.uniform(0, 360), rng.uniform(0.04, 0.42), rng.uniform(0.25, 0.95)
    step = rng.uniform(0.06, 0.2) * (-1 if value > 0.6 else 1)
    first = _rgb(hue, saturation, value)
    second = _rgb(hue + rng.uniform(-30, 30), saturation + rng.uniform(-0.1, 0.1), value + step)
    light = 1 + rng.uniform(0, 0.12) * (_clouds(rng, size=size, cells=2) - 0.5)  # no ground is perfectly even
    # Channel by channel: numpy is several times slower where the innermost axis has three entries.
    return cv2.merge([(a + (b - a) * mix) * light for a, b in zip(first, second, strict=True)])


def _photograph(image: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """What a camera adds: exposure, sometimes a soft focus, a little grain: uint8 of a float32 picture."""
    image = image * np.float32(rng.uniform(0.85, 1.1))
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.0))
    grain = np.float32(rng.uniform(0, 7)) * rng.standard_normal(image.shape[:2], dtype=np.float32)
    image += cv2.merge([grain + np.float32(0.5)] * 3)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)
