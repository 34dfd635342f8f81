"""Draws simple faces: who it is (an `Identity`) and how the picture was taken (a `Shot`) are drawn from numbers.

Lengths are in halves of the face's height: its chin is at y = 1, the top of its head at y = -1, x goes to the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

SIDE = 112  # pixels
_FINE = 3  # faces are drawn this many times larger, then averaged: smooth edges
_BITS = 4  # OpenCV's fixed point: 1/16 of a fine pixel
_DARK, _WHITE, _GOLD = np.array([30.0, 24, 22]), np.array([244.0, 242, 238]), np.array([236.0, 196, 60])
# Of hair, each as likely as the other: black, brown, red, grey, and twice blond.
_HAIR = np.array([[28, 24, 26], [92, 58, 36], [160, 74, 34], [150, 148, 150], [222, 188, 112], [206, 164, 84]], float)
_BLOND = (4, 5)
_IRIS = np.array([[70, 44, 26], [60, 96, 140], [76, 112, 66], [110, 118, 124]], float)
_TURN = np.linspace(0, 2 * np.pi, 48, endpoint=False)


@dataclass(frozen=True)
class Identity:
    """A person: what stays the same in all of the pictures. Colours are float [3] RGB."""

    width: float
    jaw: float  # how much wider than an ellipse the face is below the eyes
    skin: np.ndarray
    hair: np.ndarray
    blond: bool
    volume: float
    long: bool
    bald: bool
    fringe: bool
    parting: float
    gap: float  # between the middles of the eyes and that of the face
    eye: tuple[float, float, float]  # height on the face, half width, half height
    tilt: float
    iris: np.ndarray
    brow: tuple[float, float, float]  # height above the eye, thickness, tilt
    nose: tuple[float, float]  # length, half width
    mouth: tuple[float, float, float]  # height on the face, half width, thickness of the lips
    lips: np.ndarray
    ear: float
    freckles: np.ndarray  # [F, 2]; F may be 0
    beard: bool
    moustache: bool
    glasses: float  # how often they are worn
    round_glasses: bool
    earrings: float  # likewise

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Identity:
        """A person at random."""
        shade, tone = rng.uniform(0.3, 1.0), rng.uniform(-12, 12)
        skin = np.array([90.0, 56, 40]) + shade * np.array([155.0, 150, 142]) + np.array([tone, 0, -tone])
        place = int(rng.integers(len(_HAIR)))
        beard = rng.random() < 0.3
        spots = rng.integers(14, 30) if rng.random() < 0.25 else 0
        return cls(
            width=rng.uniform(0.66, 0.88),
            jaw=rng.uniform(-0.16, 0.16),
            skin=np.clip(skin, 30, 250),
            hair=np.clip(_HAIR[place] + rng.uniform(-14, 14, 3), 10, 250),
            blond=place in _BLOND,
            volume=rng.uniform(0.08, 0.26),
            long=rng.random() < 0.4,
            bald=rng.random() < 0.15,
            fringe=rng.random() < 0.35,
            parting=rng.uniform(-0.6, 0.6),
            gap=rng.uniform(0.27, 0.42),
            eye=(rng.uniform(-0.16, 0.04), rng.uniform(0.1, 0.16), rng.uniform(0.055, 0.1)),
            tilt=rng.uniform(-0.25, 0.25),
            iris=_IRIS[rng.integers(len(_IRIS))] + rng.uniform(-12, 12, 3),
            brow=(rng.uniform(0.13, 0.22), rng.choice([0.02, 0.075]) * rng.uniform(0.8, 1.2), rng.uniform(-0.3, 0.3)),
            nose=(rng.uniform(0.24, 0.42), rng.uniform(0.07, 0.16)),
            mouth=(rng.uniform(0.46, 0.6), rng.uniform(0.2, 0.34), rng.uniform(0.025, 0.065)),
            lips=np.clip(skin * [0.86, 0.52, 0.52] + rng.uniform(-10, 10, 3), 20, 240),
            ear=rng.uniform(0.1, 0.2),
            freckles=rng.uniform([-0.5, 0.05], [0.5, 0.4], (spots, 2)),
            beard=beard,
            moustache=rng.random() < (0.5 if beard else 0.15),
            glasses=0.7 if rng.random() < 0.3 else 0.08,
            round_glasses=rng.random() < 0.5,
            earrings=0.75 if rng.random() < 0.3 else 0.05,
        )

    @property
    def thick_brows(self) -> bool:
        """Whether the brows are of the thicker kind."""
        return self.brow[1] > 0.04


class Shot(NamedTuple):
    """A picture of a person: what differs from one to the next."""

    scale: float  # of half the face's height, relative to the picture's side
    centre: tuple[float, float]  # relative to the picture's side
    roll: float  # radians
    yaw: float  # how far the features move across the face
    glasses: bool
    hat: bool
    earrings: bool
    smiling: bool
    open_mouth: bool
    closed_eyes: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, person: Identity) -> Shot:
        """A picture at random."""
        chances = (person.glasses, 0.2, person.earrings, 0.5, 0.3, 0.15)
        return cls(
            rng.uniform(0.29, 0.35),
            (rng.uniform(0.45, 0.55), rng.uniform(0.49, 0.57)),
            rng.normal(0, 0.1),
            rng.uniform(-0.1, 0.1),
            *(bool(rng.random() < chance) for chance in chances),
        )


def draw_face(person: Identity, shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """A picture uint8 [112, 112, 3] RGB of a person before a random ground in random light.

    Args:
        person: Who it is.
        shot: How the picture was taken.
        rng: Of what tells nothing: colours of ground, clothes, hat and frames, light, grain.
    """
    side = SIDE * _FINE
    first, last = rng.uniform(40, 230, (2, 3))
    ramp = (first + np.linspace(0, 1, side)[:, None] * (last - first)).astype(np.uint8)  # [S, 3]
    across = rng.random() < 0.5
    canvas = np.ascontiguousarray(np.broadcast_to(ramp if across else ramp[:, None], (side, side, 3)))
    for _ in range(rng.integers(0, 5)):  # things in the background
        middle, size = rng.uniform(0, side, 2), rng.uniform(10, 60)
        cv2.circle(canvas, middle.astype(int).tolist(), int(size), rng.uniform(40, 230, 3).tolist(), cv2.FILLED)
    _Pen(canvas, shot).draw(person, clothes=rng.uniform(20, 235, 3), things=rng.uniform(10, 200, 3))
    image = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    y, x = np.linspace(-1, 1, SIDE)[:, None], np.linspace(-1, 1, SIDE)
    light = rng.uniform(0.65, 1.15) * (1 + strength * (np.cos(angle) * x + np.sin(angle) * y))
    tint = rng.uniform(0.93, 1.07, 3)
    grain = rng.uniform(0, 8) * rng.standard_normal((SIDE, SIDE), dtype=np.float32) + 0.5
    light = light.astype(np.float32)
    image *= cv2.merge([light * np.float32(share) for share in tint])
    if rng.random() < 0.3:
        cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.9), dst=image)
    return np.clip(image + cv2.merge([grain.astype(np.float32)] * 3), 0, 255).astype(np.uint8)


class _Pen:
    """Draws in lengths of the face onto a canvas, turned and moved as a picture has it."""

    def __init__(self, canvas: np.ndarray, shot: Shot) -> None:
        self.canvas, self.shot = canvas, shot
        side = len(canvas)
        cos, sin = np.cos(shot.roll), np.sin(shot.roll)
        self.turn = shot.scale * side * np.array([[cos, sin], [-sin, cos]])
        self.move = np.array(shot.centre) * side

    def fill(self, points: np.ndarray, colour: np.ndarray) -> None:
        """A filled outline [P, 2]."""
        fixed = np.round((points @ self.turn + self.move) * 2**_BITS).astype(np.int32)
        cv2.fillPoly(self.canvas, [fixed], colour.tolist(), shift=_BITS)

    def line(self, points: np.ndarray, colour: np.ndarray, width: float, *, closed: bool = False) -> None:
        """A line through points [P, 2]."""
        fixed = np.round((points @ self.turn + self.move) * 2**_BITS).astype(np.int32)
        thick = max(1, round(width * self.shot.scale * len(self.canvas)))
        cv2.polylines(self.canvas, [fixed], closed, colour.tolist(), thick, shift=_BITS)

    def draw(self, person: Identity, *, clothes: np.ndarray, things: np.ndarray) -> None:
        """All of a person, from the back to the front."""
        shot, shadow = self.shot, 0.8 * person.skin
        outline = _ellipse(0, 0, person.width, 1.0)
        outline[:, 0] *= 1 + person.jaw * np.sin(np.pi * np.clip(outline[:, 1], 0, 1))
        wide = person.width + person.volume
        if person.long and not person.bald:
            self.fill(_box(0, 0.3, wide, 1.0), 0.85 * person.hair)
        self.fill(_box(0, 1.0, 0.36, 0.5), shadow)
        self.fill(_ellipse(0, 2.1, 1.5, 0.85), clothes)
        if not person.bald:
            self.fill(_ellipse(0, -0.25, wide, 0.85 + person.volume), person.hair)
        for side in (-1, 1):
            self.fill(_ellipse(side * person.width, 0.05, person.ear * 0.8, person.ear * 1.3), shadow)
            if shot.earrings:
                self.fill(_ellipse(side * (person.width + 0.03), 0.16 + person.ear * 1.3, 0.08, 0.1), _GOLD)
        self.fill(outline, person.skin)
        if person.beard:
            lower = outline[outline[:, 1] > 0.24]
            top = person.mouth[0] + 0.1  # below the mouth, so that a moustache can be told from it
            self.fill(np.concatenate([lower, [[-0.32, top], [0.32, top]]]), 0.75 * person.hair)
        for spot in person.freckles:
            self.fill(_ellipse(spot[0] + shot.yaw, spot[1], 0.028, 0.028), 0.66 * person.skin)
        self._features(person)
        self._hair_or_hat(person, outline, things)
        if shot.glasses:
            self._glasses(person, 0.6 * things)

    def _features(self, person: Identity) -> None:
        shot, (height, wide, high) = self.shot, person.eye
        for side in (-1, 1):
            x = side * person.gap + shot.yaw
            lid = _ellipse(x, height, wide, 0.02 if shot.closed_eyes else high, turn=side * person.tilt)
            self.fill(lid, _DARK if shot.closed_eyes else _WHITE)
            if not shot.closed_eyes:
                self.fill(_ellipse(x + 0.3 * shot.yaw, height, 0.9 * high, 0.9 * high), person.iris)
                self.fill(_ellipse(x + 0.3 * shot.yaw, height, 0.45 * high, 0.45 * high), _DARK)
            rise, thick, tilt = person.brow
            brow = np.array([[x - 1.3 * wide, 0], [x, -0.04], [x + 1.3 * wide, 0]])
            brow[:, 1] += height - rise + side * tilt * (brow[:, 0] - x)
            self.line(brow, 0.7 * person.hair, thick)
        long, half = person.nose
        bridge, tip = [shot.yaw, height + 0.06], [1.5 * shot.yaw, height + long]
        nose = np.array([bridge, [1.5 * shot.yaw + half, tip[1]], [1.5 * shot.yaw - half, tip[1]]])
        self.fill(nose, 0.88 * person.skin)
        self.line(nose[1:] + [0, 0.01], 0.62 * person.skin, 0.03)
        level, half, thick = person.mouth
        curve = 0.2 if shot.smiling else -0.06
        across = np.linspace(-1, 1, 15)
        upper = np.stack([half * across + shot.yaw, level - curve * across**2 + 0.5 * curve], axis=1)
        if person.moustache:
            self.line(upper[2:-2] - [0, 0.1], 0.65 * person.hair, 0.09)
        if shot.open_mouth:
            lower = upper[::-1] + np.stack([0 * across, 0.22 * (1 - across**2)], axis=1)
            self.fill(np.concatenate([upper, lower]), np.array([86.0, 20, 26]))
            self.line(np.concatenate([upper, lower]), person.lips, thick, closed=True)
        else:
            self.line(upper, person.lips, 1.6 * thick)

    def _hair_or_hat(self, person: Identity, outline: np.ndarray, things: np.ndarray) -> None:
        wide, brim = person.width + person.volume, -0.52
        if self.shot.hat:
            dome = _ellipse(0, brim, wide, 0.72 + person.volume)
            self.fill(dome[dome[:, 1] <= brim + 1e-9], things)
            self.line(np.array([[-wide - 0.15, brim], [wide + 0.15, brim]]), 0.7 * things, 0.14)
        elif not person.bald:
            low = -0.34 if person.fringe else -0.66
            top = outline[outline[:, 1] < low]
            top = top[np.argsort(top[:, 0])]
            parting = [person.parting * person.width, low - (0.0 if person.fringe else 0.2)]
            self.fill(np.concatenate([top, [parting]]), person.hair)

    def _glasses(self, person: Identity, colour: np.ndarray) -> None:
        height, half = person.eye[0], min(person.gap - 0.05, 0.27)
        for side in (-1, 1):
            x = side * person.gap + self.shot.yaw
            shape = _ellipse(x, height, half, half) if person.round_glasses else _box(x, height, half, 0.7 * half)
            self.line(shape, colour, 0.06, closed=True)
            self.line(np.array([[x + side * half, height], [side * person.width, height - 0.04]]), colour, 0.05)
        gap = person.gap - half
        self.line(np.array([[self.shot.yaw - gap, height], [self.shot.yaw + gap, height]]), colour, 0.05)


def _ellipse(x: float, y: float, wide: float, high: float, *, turn: float = 0.0) -> np.ndarray:
    """An outline [48, 2] around (x, y) with its half axes."""
    points = np.stack([wide * np.cos(_TURN), high * np.sin(_TURN)], axis=1)
    cos, sin = np.cos(turn), np.sin(turn)
    return points @ np.array([[cos, sin], [-sin, cos]]) + [x, y]


def _box(x: float, y: float, wide: float, high: float) -> np.ndarray:
    """The corners of a rectangle around (x, y) with its half sides."""
    return np.array([[x - wide, y - high], [x + wide, y - high], [x + wide, y + high], [x - wide, y + high]])
