"""The data of a geolocation run on tar shards: cells from the places of all training pictures, which are streamed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mnvision.annotations import PlacedPictures
from mnvision.data.mixing import Mixing
from mnvision.data.place_datamodule import PlaceDataModule
from mnvision.data.shard_datamodule import ShardDataModule, StreamCollate
from mnvision.data.shard_dataset import list_samples
from mnvision.data.shard_files import with_index
from mnvision.data.shard_labels import BadSampleError, bad_shard
from mnvision.data.shard_places import PlaceReader, are_at_hand, places_of_shards
from mnvision.data.splits import Split
from mnvision.errors import UserError
from mnvision.ops.s2 import find_cells, leaf_cells
from mnvision.types import Batch, Labels

log = logging.getLogger(__name__)


class PlaceShardDataModule(PlaceDataModule, ShardDataModule):
    """Pictures with places in tar shards: the places as `PlaceDataModule` has them, the shards as `ShardDataModule`.

    Among its ``options`` are ``latitude_key`` and ``longitude_key``, see `PlaceReader`, and no ``label_from``.
    """

    _instead_of_balanced = "data.balanced=false"
    _checked = "data.latitude_key and data.longitude_key"

    def setup(self, stage: str | None = None) -> None:
        """Read the places of the training pictures, unless the cells are known, and list the validation pictures.

        Raises:
            UserError: If something is asked for that a stream cannot do, or no training picture lies in a cell.
        """
        super().setup(stage)
        if self._class_table is None:
            self._refuse_strange(find_cells(self._learnt[1], self.cells))

    @property
    def label_of(self) -> PlaceReader:
        """What reads the place of a sample."""
        return PlaceReader(latitude=self._options["latitude_key"], longitude=self._options["longitude_key"])

    @functools.cached_property
    def _learnt(self) -> tuple[np.ndarray, np.ndarray]:
        """The places of the training pictures, float64 [N, 2], and the finest cells around them, uint64 [N]."""
        shards, place_of = with_index(self._shards("train"))[0], self.label_of
        # Where a checkpoint brings the cells, they serve the constant answers alone.
        if self._class_table is not None and not are_at_hand(shards, place_of=place_of):
            raise UserError(f"the {len(shards)} training shards were not read on this machine, and are behind URLs")
        places = places_of_shards(shards, place_of=place_of, bad_samples=self.bad_images, cache=self._cache())
        return places, leaf_cells(places)

    def _read(self, split: Split) -> tuple[PlacedPictures, np.ndarray]:
        """The listed pictures of a split without cells, and the finest cells around them.

        Raises:
            UserError: A shard cannot be read, or a sample has no place and ``bad_images`` is ``error``.
        """
        if split in self._raw:
            return self._raw[split]
        shards, _ = with_index(self._shards(split))
        names, places, rows = list_samples(shards, label_of=self.label_of, cache=self._cache())
        bad = [isinstance(place, BadSampleError) for place in places]
        if any(bad):
            first = bad.index(True)
            reason = f"sample {bytes(names[first]).decode('utf-8').partition('/')[2]}: {places[first]}"
            if self.bad_images == "error":
                raise bad_shard(shards[rows[first, 0]].location, reason)
            log.warning("%s: %d of %d pictures left out: they have no place (%s)", split, sum(bad), len(bad), reason)
        good = np.flatnonzero(~np.array(bad))
        if not len(good):
            raise UserError(f"{shards[0].location}: no picture has a place. Expected {self.label_of.expected}")
        coordinates = np.array([places[row] for row in good.tolist()], dtype=np.float64)
        self._places[split] = rows[good]
        pictures = PlacedPictures(names[good], np.full(len(good), -1), (), coordinates=coordinates)
        self._raw[split] = pictures, leaf_cells(coordinates)
        return self._raw[split]

    def _own_classes(self) -> None:
        """None: cells are no classes that an index could name."""

    def _stream_collate(self) -> StreamCollate:
        return PlaceStreamCollate(self.mixing, cells=self.cells)


class PlaceStreamCollate(StreamCollate):
    """`StreamCollate` for samples with places, whose cells are looked up.

    Args:
        mixing: See `ClassCollate`.
        cells: uint64 [K].
    """

    def __init__(self, mixing: Mixing | None = None, *, cells: np.ndarray) -> None:
        super().__init__(mixing)
        self.cells = cells

    def __call__(self, samples: Sequence[Any]) -> Batch:
        """The batch of some samples ``((pixels, number), place, key)``."""
        items, places, keys = zip(*samples, strict=True)
        coordinates = np.array(places, dtype=np.float64)  # [B, 2]
        labels = find_cells(leaf_cells(coordinates), self.cells)
        batch = super().__call__(list(zip(items, labels, keys, strict=True)))
        assert isinstance(batch.targets, Labels)
        batch.targets.places = torch.from_numpy(coordinates).float()
        return batch
