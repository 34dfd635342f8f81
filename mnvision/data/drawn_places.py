"""Geotagged pictures that mnvision draws for itself: towns and the land between them, on an earth of its own.

Nothing is downloaded, and a network learns in minutes to tell where a picture was taken.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnvision.data.generated import make_once, picture_parameters, write_jpeg
from mnvision.data.place_scenes import World, draw_place
from mnvision.files import csv_text
from mnvision.ops.geo import EARTH_RADIUS, to_places, to_vectors

LIST = "places.csv"
STAMP = "drawn_places.json"
TOWNS = 40

_FORMAT = 1  # raise it when the same parameters give other pictures
_SPLITS = {"train": 300_001, "val": 700_001}  # and the numbers of their first pictures
_IN_TOWN = 0.75  # of the pictures


def places_folder_name(*, seed: int, train_images: int, val_images: int, image_size: int) -> str:
    """A folder name that tells sets of different parameters apart, such as ``v1-seed0-4000+1000-96px``."""
    return f"v{_FORMAT}-seed{seed}-{train_images}+{val_images}-{image_size}px"


def make_places(root: str | Path, *, seed: int, train_images: int, val_images: int, image_size: int) -> Path:
    """Make the data set in a folder, unless it is there already.

    The same parameters give the same bytes; see `mnvision.data.generated.make_once`. Picture ``i`` of a split depends
    on the seed, the split and ``i`` alone.

    Args:
        root: The folder: gets ``train/``, ``val/``, ``places.csv`` (file, lat, lon, split) and ``drawn_places.json``,
            which records the parameters.
        seed: Of the earth and of the pictures.
        train_images: Number of training pictures.
        val_images: Number of validation pictures.
        image_size: Side of the pictures in pixels.

    Returns:
        ``root``.

    Raises:
        UserError: A number is too small, or as ``make_once``.
    """
    parameters = picture_parameters(
        version=_FORMAT, seed=seed, train_images=train_images, val_images=val_images, image_size=image_size
    )

    def fill(folder: Path) -> None:
        rows = [["file", "lat", "lon", "split"]]
        for split, count in (("train", train_images), ("val", val_images)):
            rows += _draw_split(folder, split, count=count, seed=seed, size=image_size)
        (folder / LIST).write_text(csv_text(rows), encoding="utf-8")

    count = f"{train_images} + {val_images}"
    return make_once(Path(root), name="drawn_places", parameters=parameters, stamp=STAMP, count=count, fill=fill)


def draw_coordinates(rng: np.random.Generator, *, seed: int) -> np.ndarray:
    """One place [2] where somebody takes a picture: mostly in one of the towns, else anywhere between 60 S and 75 N.

    Args:
        rng: Of the picture.
        seed: Of the earth, which has its towns where it has them. Large ones are more often seen, and the extent of
            each is its own, from half a kilometre to 20 km.
    """
    earth = np.random.default_rng((seed, 11))
    centers = _anywhere(earth, count=TOWNS)
    spreads = np.exp(earth.uniform(np.log(0.5), np.log(20.0), size=TOWNS))  # km
    weights = 1 / np.sqrt(np.arange(1, TOWNS + 1))
    if rng.random() >= _IN_TOWN:
        return _anywhere(rng, count=1)[0]
    town = rng.choice(TOWNS, p=weights / weights.sum())
    # Beside the centre on the plane that touches the earth there.
    return to_places(to_vectors(centers[town]) + rng.normal(size=3) * spreads[town] / EARTH_RADIUS)


def _anywhere(rng: np.random.Generator, *, count: int) -> np.ndarray:
    """Places [count, 2], evenly over the area between 60 S and 75 N."""
    low, high = np.sin(np.radians(-60.0)), np.sin(np.radians(75.0))
    latitudes = np.degrees(np.arcsin(rng.uniform(low, high, size=count)))
    return np.stack((latitudes, rng.uniform(-180, 180, size=count)), axis=-1)


def _draw_split(folder: Path, split: str, *, count: int, seed: int, size: int) -> list[list[str]]:
    """Draw the pictures of a split; returns their rows of the list."""
    (folder / split).mkdir()
    world, rows = World(seed), []
    for i in range(count):
        rng = np.random.default_rng((seed, _SPLITS[split], i))
        place = draw_coordinates(rng, seed=seed).round(6)
        image = draw_place(place, world=world, rng=rng, size=size)
        name = f"{split}/{_SPLITS[split] + i:06d}.jpg"
        write_jpeg(folder / name, image)
        rows.append([name, *(f"{degrees:.6f}" for degrees in place.tolist()), split])
    return rows
