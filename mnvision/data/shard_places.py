"""The places of pictures in shards: read from a sample, and once from all of them before a training."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnvision.cache import cache_dir
from mnvision.data.dataset import BadImages
from mnvision.data.places import LIMITS
from mnvision.data.shard_dataset import read_labels
from mnvision.data.shard_files import Shard, is_url
from mnvision.data.shard_labels import BadSampleError, Losses, bad_shard, picture_of
from mnvision.data.tar import Sample, ShardError
from mnvision.errors import UserError

log = logging.getLogger(__name__)

_FORMAT = 1  # raise it when the same shards give other places
_PROGRESS_SECONDS = 5.0


class PlaceReader:
    """The place of a sample: two fields of its member ``json``, such as ``{"lat": 48.8584, "lon": 2.2945}``.

    They are numbers, or text that is one; latitudes from -90 to 90 and longitudes from -180 to 180 degrees, south and
    west being negative.

    Args:
        latitude: The name of the one field.
        longitude: That of the other.
    """

    members = ("json",)

    def __init__(self, *, latitude: str = "lat", longitude: str = "lon") -> None:
        self.fields = (latitude, longitude)
        self.expected = f"KEY.json with {latitude} and {longitude}, as data.latitude_key and data.longitude_key say"

    def __call__(self, sample: Sample) -> tuple[float, float]:
        """Latitude and longitude in degrees.

        Raises:
            BadSampleError: They are missing, or no place on earth.
        """
        if "json" not in sample.members:
            raise BadSampleError("no_label", "it has no member json")
        try:
            known = json.loads(sample.members["json"])
        except (ValueError, RecursionError) as error:
            raise BadSampleError("bad_label", f"its json cannot be read ({error})") from None
        if not isinstance(known, dict):
            raise BadSampleError("bad_label", f"its json is no object but {str(known)[:40]!r}")
        latitude, longitude = (_degrees(known, *one) for one in zip(self.fields, LIMITS.tolist(), strict=True))
        return latitude, longitude


def _degrees(known: Mapping[str, Any], field: str, limit: float) -> float:
    value = known.get(field)
    if value is None:
        has = ", ".join(list(known)[:10]) or "nothing"
        raise BadSampleError(
            "no_label",
            f"its json has no {field!r}, but {has}; data.latitude_key and data.longitude_key name the fields",
        )
    try:
        number = float("text" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not abs(number) <= limit:  # NaN is wrong, too
        raise BadSampleError(
            "bad_label", f"its {field} is {str(value)[:40]!r}, expected -{limit:g} to {limit:g} degrees"
        )
    return number


def places_of_shards(
    shards: Sequence[Shard], *, place_of: PlaceReader, bad_samples: BadImages, cache: Path | None = None
) -> np.ndarray:
    """The places of all samples that have a picture and a place: float64 [I, 2].

    They are remembered shard by shard in the cache folder, so that a shard is read once on a machine: a local one until
    it changes, one behind a URL until its index says that it has. Pictures are passed over, and not decoded.

    Args:
        shards: Which.
        place_of: What reads a place.
        bad_samples: ``skip`` counts and logs the samples that have none; ``error`` raises.
        cache: See `open_shard`.

    Raises:
        UserError: A sample or a shard is bad under ``error``, or there is no place in any.
    """
    found, read, shown = [], 0, time.monotonic()
    losses = Losses(len(shards))
    for number, shard in enumerate(shards):
        places = _remembered(shard, place_of)
        # A run that skips remembers bad samples as well: read again, the first one can be named.
        if places is None or (bad_samples == "error" and np.isnan(places).any()):
            places = _read(number, shard, place_of=place_of, bad_samples=bad_samples, cache=cache, losses=losses)
            read += 1
        found.append(places[~np.isnan(places[:, 0])])
        if time.monotonic() - shown > _PROGRESS_SECONDS:
            shown = time.monotonic()
            log.info("places of %d of %d shards (%d%%)", number + 1, len(shards), 100 * (number + 1) // len(shards))
    losses.report()
    places = np.concatenate(found)
    if not len(places):
        raise UserError(
            f"none of the {len(shards)} shards ({shards[0].location}, ...) holds a picture with a place. Expected "
            f"{place_of.expected}"
        )
    log.info("places of %d pictures in %d shards, %d of which were read now", len(places), len(shards), read)
    return places


def are_at_hand(shards: Sequence[Shard], *, place_of: PlaceReader) -> bool:
    """Whether the places of shards can be had without fetching any."""
    return all(not is_url(shard.location) or _memory(shard, place_of).is_file() for shard in shards)


def _read(
    number: int, shard: Shard, *, place_of: PlaceReader, bad_samples: BadImages, cache: Path | None, losses: Losses
) -> np.ndarray:
    """The places of a shard's samples in order, NaN where one is bad: float64 [N, 2]; remembered if it is whole."""

    def lose(kind: str, reason: object, samples: int = 1) -> None:
        if bad_samples == "error":
            raise bad_shard(shard.location, reason)
        losses.add(kind, shard=number, name=shard.location, reason=str(reason), samples=samples)

    places: list[tuple[float, float]] = []
    try:
        for sample, place in read_labels(shard, label_of=place_of, cache=cache):
            if not sample.whole:
                continue  # it is lost with the rest of its shard
            try:
                picture_of(sample)
                if isinstance(place, BadSampleError):
                    raise place
                places.append(place)
            except BadSampleError as error:
                lose(error.kind, f"sample {sample.key}: {error}")
                places.append((np.nan, np.nan))
    except ShardError as error:
        lose(error.kind, error, samples=1 if shard.samples is None else shard.samples - len(places))
        return np.array(places, dtype=np.float64).reshape(-1, 2)
    array = np.array(places, dtype=np.float64).reshape(-1, 2)
    _remember(array, _memory(shard, place_of))
    return array


def _memory(shard: Shard, place_of: PlaceReader) -> Path:
    """The file that remembers a shard's places."""
    known: tuple[Any, ...] = (shard.location, shard.bytes, shard.sha256)
    if not is_url(shard.location):
        path = os.path.abspath(shard.location)
        try:
            status = os.stat(path)
            known = (path, status.st_size, status.st_mtime_ns)
        except OSError:  # it is not there, as reading it will tell
            known = (path,)
    digest = hashlib.sha256(json.dumps([_FORMAT, *known, *place_of.fields]).encode()).hexdigest()
    return cache_dir() / "shard_places" / f"{digest[:32]}.npy"


def _remembered(shard: Shard, place_of: PlaceReader) -> np.ndarray | None:
    try:
        places = np.load(_memory(shard, place_of))
    except (OSError, ValueError, EOFError):
        return None
    return places if places.ndim == 2 and places.shape[1] == 2 else None


def _remember(places: np.ndarray, file: Path) -> None:
    part = file.with_suffix(f".{os.getpid()}.npy")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, places)
        part.replace(file)
    except OSError as error:  # reading again costs time alone
        log.warning("cannot remember places in %s: %s", file, error.strerror or error)
        with contextlib.suppress(OSError):
            part.unlink()
