"""The pictures of a split with classes or places as the samples of tar shards."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, get_args

import numpy as np

from mnvision.annotations import LabelledPictures, PlacedPictures
from mnvision.data.dataset import BadImages
from mnvision.data.shard_writer import ShardItem, suffix_of, write_shards
from mnvision.errors import UserError

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 5.0


def shards_from(
    pictures: LabelledPictures,
    image_folder: str | Path | None,
    folder: str | Path,
    *,
    name: str = "train",
    pictures_per_shard: int = 10_000,
    max_bytes: int | None = None,
    seed: int | None = 0,
    bad_images: BadImages = "error",
) -> Path:
    """Write a split as shards; pictures whose class nobody knows are left out.

    The key of a picture is its file name up to the last dot, with other dots as ``_``; where two meet, the later one
    gets its place in the split appended. Boxes go into ``KEY.json`` as ``{"box": [x1, y1, x2, y2]}``. Pictures with
    places have no class: their ``KEY.json`` is ``{"lat": LATITUDE, "lon": LONGITUDE}`` in degrees, see `PlaceReader`.

    Args:
        pictures: The split.
        image_folder: The folder that its file names are relative to; None where it holds the pixels.
        folder: Where to.
        name: See `write_shards`, as for the next two.
        pictures_per_shard: The most samples in a shard.
        max_bytes: The largest shard.
        seed: Of the order; None keeps that of the split.
        bad_images: Whether a file that is missing or no picture is an ``error``, or left out with a warning (``skip``).

    Returns:
        The path of the index.

    Raises:
        UserError: As `write_shards`, or a picture is bad.
    """
    if bad_images not in get_args(BadImages):
        raise UserError(f"bad_images is {bad_images!r}. Expected one of {', '.join(get_args(BadImages))}")
    if image_folder is None and pictures.pixels is None:
        raise UserError("image_folder is None, but the split holds no pixels. Expected the folder of its pictures")
    placed = isinstance(pictures, PlacedPictures)
    rows = np.flatnonzero((pictures.labels >= 0) | placed)
    if len(rows) < len(pictures):
        log.warning("%d of %d pictures left out: their class is not known", len(pictures) - len(rows), len(pictures))
    if seed is not None:
        rows = np.random.default_rng(seed).permutation(rows)
    items = _items(pictures, rows.tolist(), folder=Path(image_folder or "."), skip=bad_images == "skip")
    return write_shards(
        items,
        folder,
        classes=None if placed else pictures.classes,
        name=name,
        pictures_per_shard=pictures_per_shard,
        max_bytes=max_bytes,
    )


def _items(pictures: LabelledPictures, rows: list[int], *, folder: Path, skip: bool) -> Iterator[ShardItem]:
    used: set[str] = set()
    bad, shown = 0, time.monotonic()
    for done, row in enumerate(rows):
        if time.monotonic() - shown > _PROGRESS_SECONDS:
            shown = time.monotonic()
            log.info("%d of %d pictures (%d%%)", done, len(rows), 100 * done // len(rows))
        file_name = pictures.file_name(row)
        try:
            picture = pictures.pixels[row] if pictures.pixels is not None else _read_picture(folder / file_name)
        except UserError as error:
            if not skip:
                raise
            bad += 1
            log.warning("left out: %s", error)
            continue
        key = _key(file_name)
        key = f"{key}-{row}" if key in used else key
        used.add(key)
        yield ShardItem(key, picture, *_known(pictures, row))
    if bad:
        log.warning("%d of %d pictures left out: missing, or no pictures", bad, len(rows))


def _known(pictures: LabelledPictures, row: int) -> tuple[int | None, dict[str, Any] | None]:
    """The class of a picture, and what else is known of it."""
    if isinstance(pictures, PlacedPictures):
        return None, dict(zip(("lat", "lon"), pictures.coordinates[row].tolist(), strict=True))
    box = [] if pictures.boxes is None else pictures.boxes[row].tolist()
    return int(pictures.labels[row]), {"box": box} if box and not any(map(math.isnan, box)) else None


def _key(file_name: str) -> str:
    return str(PurePath(file_name).with_suffix("").as_posix()).lstrip("/").replace(".", "_")


def _read_picture(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the picture {path}: {error.strerror or error}. Check the path") from None
    if suffix_of(data) is None:
        raise UserError(f"{path} is no picture ({len(data):,} bytes). Expected JPEG, PNG, WebP, BMP, TIFF, PGM or PPM")
    return data
