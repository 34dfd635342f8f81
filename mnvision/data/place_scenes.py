"""Drawings of places: how a scene looks depends smoothly on where it is, and on light, season and chance.

Sky and ground change over continents, mountains over countries, houses over regions, and a tower and its flag over a
few kilometres, so that a network can learn the place at every scale.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from mnvision.ops.geo import EARTH_RADIUS, to_vectors

# Wave lengths in km, and what changes over them.
_SCALES = {
    "sky": (9_000, 20_000),
    "ground": (5_000, 12_000),
    "mountain": (1_200, 3_000),
    "peaks": (1_500, 3_000),
    "wall": (300, 700),
    "roof": (300, 700),
    "form": (300, 700),
    "tower": (12, 40),
    "flag": (12, 40),
}
_WAVES = 3  # summed in a field
_SKY, _SNOW = np.array([150.0, 190.0, 235.0]), np.array([235.0, 240.0, 245.0])  # RGB


class Weather(NamedTuple):
    """What a picture shows beside its place.

    Attributes:
        light: Factor of all colours.
        winter: 0 (summer) to 1.
        shift: Of the horizon, as a share of the picture's height.
    """

    light: float
    winter: float
    shift: float


class World:
    """Smooth fields over the earth: three numbers from 0 to 1 for each thing of ``_SCALES``.

    Each is a sum of waves cos(w x + p), x being the unit vector of the place.

    Args:
        seed: Of the waves.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng((seed, 7))
        self._waves = {}
        for name, (shortest, longest) in _SCALES.items():
            directions = rng.normal(size=(3, _WAVES, 3))
            directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
            lengths = rng.uniform(shortest, longest, size=(3, _WAVES, 1))
            self._waves[name] = (
                directions * 2 * np.pi * EARTH_RADIUS / lengths,
                rng.uniform(0, 2 * np.pi, size=(3, _WAVES)),
            )

    def at(self, place: np.ndarray) -> dict[str, np.ndarray]:
        """The fields at a place [2]: float64 [3] each."""
        vector = to_vectors(place)
        sums = {name: np.cos(waves @ vector + phases).sum(axis=-1) for name, (waves, phases) in self._waves.items()}
        return {name: (1 + np.tanh(total)) / 2 for name, total in sums.items()}


def draw_place(place: np.ndarray, *, world: World, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw the scene at a place.

    Args:
        place: float64 [2], latitude and longitude in degrees.
        world: The earth that it is on.
        rng: Of light, season and chance.
        size: Side of the picture in pixels.

    Returns:
        uint8 [size, size, 3] RGB.
    """
    fields = world.at(place)
    latitude = float(place[0])
    # Month by month the two hemispheres have their winters at opposite times; the tropics have none.
    season = np.cos(rng.uniform(0, 2 * np.pi)) * np.sign(latitude)
    weather = Weather(
        light=float(rng.uniform(0.75, 1.15)),
        winter=float(np.clip(season * (abs(latitude) - 20) / 40, 0, 1)),
        shift=float(rng.uniform(-0.05, 0.05)),
    )
    image = np.empty((size, size, 3), np.float32)
    horizon = round((0.5 + weather.shift) * size)
    _draw_ground_and_sky(image, fields, latitude=latitude, weather=weather, horizon=horizon)
    _draw_mountains(image, fields, weather=weather, horizon=horizon, rng=rng)
    _draw_houses(image, fields, horizon=horizon, rng=rng)
    _draw_tower(image, fields, horizon=horizon, rng=rng)
    image *= weather.light
    image += rng.normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _colour(field: np.ndarray) -> tuple[float, ...]:
    return tuple((30 + 200 * field).tolist())


def _draw_ground_and_sky(
    image: np.ndarray, fields: dict[str, np.ndarray], *, latitude: float, weather: Weather, horizon: int
) -> None:
    """The sky is paler towards the poles; the ground has stripes, and snow in winter."""
    size = len(image)
    deep = np.array([40.0, 110.0, 220.0]) * (1 - abs(latitude) / 90) + _SKY * abs(latitude) / 90
    sky = 0.6 * deep + 0.4 * np.array(_colour(fields["sky"]))
    heights = np.linspace(0, 1, max(1, horizon))[:, None, None]
    image[:horizon] = (1 - 0.4 * heights) * sky + 0.4 * heights * 255
    ground = np.array(_colour(fields["ground"]))
    rows, columns = np.mgrid[horizon:size, 0:size] / size
    angle = np.pi * fields["form"][0]
    stripes = np.sin(2 * np.pi * (4 + 8 * fields["form"][1]) * (rows * np.cos(angle) + columns * np.sin(angle)))
    image[horizon:] = (ground + 25 * stripes[..., None]) * (1 - 0.7 * weather.winter) + _SNOW * 0.7 * weather.winter


def _draw_mountains(
    image: np.ndarray,
    fields: dict[str, np.ndarray],
    *,
    weather: Weather,
    horizon: int,
    rng: np.random.Generator,
) -> None:
    """A ridge with as many peaks, and as high, as the country has."""
    size = len(image)
    count = 2 + round(4 * fields["peaks"][0])
    height = (0.05 + 0.3 * fields["peaks"][1]) * size
    across = np.linspace(-0.1, 1.1, 2 * count + 1) * size + rng.uniform(-0.04, 0.04) * size
    up = np.where(np.arange(2 * count + 1) % 2 == 1, height, 0.2 * height)
    up = up * rng.uniform(0.85, 1.15, size=len(up))
    ridge = np.stack((across, horizon - up), axis=-1)
    outline = np.concatenate((ridge, [[across[-1], horizon], [across[0], horizon]])).round().astype(np.int32)
    cv2.fillPoly(image, [outline], _colour(fields["mountain"]))
    for x, y in ridge[1::2]:
        snow = 0.15 * size * weather.winter
        if snow > 1:
            top = np.array([[x, y], [x - snow, y + snow], [x + snow, y + snow]]).round().astype(np.int32)
            cv2.fillPoly(image, [top], tuple(_SNOW.tolist()))


def _draw_houses(image: np.ndarray, fields: dict[str, np.ndarray], *, horizon: int, rng: np.random.Generator) -> None:
    """Houses of the region's walls and roofs, as wide and steep as it builds them."""
    size = len(image)
    width = (0.1 + 0.14 * fields["form"][2]) * size
    steep = 0.3 + 0.9 * fields["form"][1]
    for left in rng.uniform(-0.05, 0.9, size=4) * size:
        foot = horizon + rng.uniform(0.05, 0.3) * size
        top = foot - width * rng.uniform(0.8, 1.2)
        wall = np.array([[left, top], [left + width, top], [left + width, foot], [left, foot]])
        roof = np.array([[left, top], [left + width, top], [left + width / 2, top - steep * width]])
        cv2.fillPoly(image, [wall.round().astype(np.int32)], _colour(fields["wall"]))
        cv2.fillPoly(image, [roof.round().astype(np.int32)], _colour(fields["roof"]))


def _draw_tower(image: np.ndarray, fields: dict[str, np.ndarray], *, horizon: int, rng: np.random.Generator) -> None:
    """A tower that stands where this part of town sees it, with the flag of the district."""
    size = len(image)
    middle = (0.15 + 0.7 * fields["tower"][0]) * size + rng.normal(0, 0.01) * size
    height, half = (0.15 + 0.3 * fields["tower"][1]) * size, 0.03 * size
    box = np.array([middle - half, horizon - height, middle + half, horizon + 0.05 * size]).round().astype(int).tolist()
    cv2.rectangle(image, box[:2], box[2:], (60.0, 60.0, 60.0), cv2.FILLED)
    flag = [box[2], box[1], box[2] + round(0.16 * size), box[1] + round(0.1 * size)]
    cv2.rectangle(image, flag[:2], flag[2:], _colour(fields["flag"]), cv2.FILLED)
