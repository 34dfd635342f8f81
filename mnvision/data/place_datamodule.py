"""The data of a geolocation run: pictures with places, whose classes are the cells that the earth is divided into."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnvision.annotations import PlacedPictures
from mnvision.data.class_datamodule import ClassDataModule
from mnvision.data.class_dataset import ClassCollate, Item
from mnvision.data.drawn_places import LIST
from mnvision.data.labelled import check_pictures, class_counts, refuse_shared
from mnvision.data.mixing import Mixing
from mnvision.data.places import PlaceColumns, read_places
from mnvision.data.splits import Split, take_split
from mnvision.errors import UserError
from mnvision.ops.geo import best_constants, mean_places
from mnvision.ops.partition import adaptive_cells
from mnvision.ops.s2 import cell_centers, cell_levels, cell_tokens, find_cells, leaf_cells, read_tokens
from mnvision.types import Batch, Labels
from mnvision.wording import counted, noun_of

log = logging.getLogger(__name__)

_DRAWN = PlaceColumns(split="split")  # those of the drawn places' list
_WORDS = ("train", "val", "test")
_CROWDED = 0.05  # of the pictures: fewer in cells that may not be divided are said, and no warning


class PlaceDataModule(ClassDataModule):
    """Training, validation and test pictures with places; see `ClassDataModule` for the arguments.

    Among its ``options`` are the task's keys of the partition (``max_photos``, ``min_photos``, ``min_level``,
    ``max_level``, ``answer``). The cells follow from the training pictures unless ``classes`` or a checkpoint's
    ``class_table`` name them. A picture outside every cell has the label -1: it has no loss, and its distance counts.
    """

    noun = noun_of("geolocate")
    _checked = "the columns of data.train"  # where a wrong place may come from

    def load_split(self, split: Split) -> PlacedPictures:
        """The pictures of a split with their cells, read when first asked for.

        Raises:
            UserError: A file or folder is missing or wrong, the cells are, or there is no such split.
        """
        known = self._splits.get(split)
        if isinstance(known, PlacedPictures):
            return known
        pictures, leaves = self._read(split)
        labels = find_cells(leaves, self.cells)
        constants = self._constants if split != "train" else None
        placed = replace(pictures, labels=labels, classes=self.classes, constants=constants)
        log.info("%s: %s", split, describe_placed(placed))
        if split == "train":
            self._refuse_strange(labels)
        self._splits[split] = placed
        return placed

    def listed(self, split: Split) -> PlacedPictures:
        """The pictures of a split and their places, without cells."""
        return self._read(split)[0]

    @functools.cached_property
    def cells(self) -> np.ndarray:
        """The cells: uint64 [K]."""
        if self._class_table is not None:
            return read_tokens(self._class_table[0])
        if self._classes is not None:
            try:
                return read_tokens(self._classes)
            except UserError as error:
                raise UserError(f"data.classes: {error}") from error
        _, leaves = self._learnt
        names = ("max_photos", "min_photos", "min_level", "max_level")
        cells, counts = adaptive_cells(leaves, **{name: self._options[name] for name in names})
        most = self._options["max_photos"]
        crowded = counts[counts > most]
        if len(crowded):
            share = crowded.sum() / counts.sum()
            log.log(
                logging.WARNING if share > _CROWDED else logging.INFO,
                "%s of task.max_level=%d with more than task.max_photos=%d pictures, %.0f %% of all: places within one "
                "are not told apart; give a higher level",
                *(counted(len(crowded), "cell"), self._options["max_level"], most, 100 * share),
            )
        return cells

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The tokens of the K cells."""
        return tuple(cell_tokens(self.cells))

    @property
    def counts(self) -> np.ndarray:
        """Training pictures in each cell, int64 [K]."""
        labels = find_cells(self._learnt[1], self.cells)
        return np.bincount(labels[labels >= 0], minlength=len(self.cells))

    @property
    def task_options(self) -> dict[str, Any]:
        """The place that stands for each cell, as ``task.answer`` says."""
        places = cell_centers(self.cells)
        if self._options["answer"] == "mean":
            coordinates, leaves = self._learnt
            means = mean_places(coordinates, find_cells(leaves, self.cells), count=len(self.cells))
            places = np.where(np.isnan(means), places, means)
        return {"places": places.tolist()}

    def _collate(self, split: Split, *, training: bool) -> ClassCollate:
        return PlaceCollate(self.mixing if training else None, coordinates=self.load_split(split).coordinates)

    @property
    def _learnt(self) -> tuple[np.ndarray, np.ndarray]:
        """The places of the training pictures, float64 [N, 2], and the finest cells around them, uint64 [N]."""
        pictures, leaves = self._read("train")
        return pictures.coordinates, leaves

    def _refuse_strange(self, labels: np.ndarray) -> None:
        """Refuse training pictures of which none lies in a cell."""
        if not (labels >= 0).any():
            raise UserError(
                f"{self.root} (train): no picture lies in one of the {len(self.cells)} cells. Expected pictures of "
                f"the places to learn; check data.classes and {self._checked}"
            )

    @functools.cached_property
    def _raw(self) -> dict[Split, tuple[PlacedPictures, np.ndarray]]:
        return {}

    def _read(self, split: Split) -> tuple[PlacedPictures, np.ndarray]:
        """The pictures of a split without cells, and the finest cells around them."""
        if split in self._raw:
            return self._raw[split]
        root = self._folder()
        if self.format == "drawn_places":
            rows = read_places(root / LIST, columns=_DRAWN)
            file, pictures = root / LIST, rows.pictures
            pictures = self._part(pictures, split, said=rows.splits, file=file)
        else:
            file, pictures = self._listed(split, root=root)
        check_pictures(pictures, folder=self.image_folder(split), source=file)
        self._raw[split] = pictures, leaf_cells(pictures.coordinates)
        return self._raw[split]

    def _listed(self, split: Split, *, root: Path) -> tuple[Path, PlacedPictures]:
        options = self._options
        columns = PlaceColumns(*(options[f"{name}_column"] for name in ("file", "latitude", "longitude", "split")))
        if columns.split is not None and (options["val"] or options["test"]):
            raise UserError(
                f"data.split_column={columns.split} says what is measured on, and so do data.val and data.test; give "
                "one of them"
            )
        if split != "train" and options[split] is not None:
            file = root / options[split]
            found = read_places(file, columns=columns).pictures
            if (root / options["train"]).is_file():  # what is measured on must not have been trained on
                learnt = read_places(root / options["train"], columns=columns).pictures
                refuse_shared({"train": learnt, split: found}, name=str(root))
            return file, found
        file = root / options["train"]
        rows = read_places(file, columns=columns)
        if split == "train" and options["val"] is not None:
            return file, rows.pictures
        return file, self._part(rows.pictures, split, said=rows.splits, file=file)

    def _part(self, pictures: PlacedPictures, split: Split, *, said: list[str] | None, file: Path) -> PlacedPictures:
        share, seed = self._val_share, self._split_seed
        taken = take_split(pictures, split, said=said, words=_WORDS, share=share, seed=seed, file=file)
        assert isinstance(taken, PlacedPictures)
        return taken

    @functools.cached_property
    def _constants(self) -> np.ndarray | None:
        """The best constant answers of the training pictures; None where these are not at hand."""
        try:
            coordinates, _ = self._learnt
        except UserError as error:
            log.info("no constant answers to compare with: %s", error)
            return None
        return best_constants(coordinates)


class PlaceCollate(ClassCollate):
    """Makes batches of pictures with the places where they were taken.

    Args:
        mixing: See `ClassCollate`.
        coordinates: Those of the split, float64 [I, 2].
    """

    def __init__(self, mixing: Mixing | None = None, *, coordinates: np.ndarray) -> None:
        super().__init__(mixing)
        self.coordinates = coordinates

    def __call__(self, items: Sequence[Item]) -> Batch:
        """The batch of some items."""
        batch = super().__call__(items)
        assert isinstance(batch.targets, Labels)
        batch.targets.places = torch.from_numpy(self.coordinates[batch.targets.image_ids.numpy()]).float()
        return batch


def describe_placed(pictures: PlacedPictures) -> str:
    """One line about a split, such as ``900 pictures, 80 cells of levels 2 to 9, 3 to 50 pictures each``."""
    parts = [f"{counted(len(pictures), 'picture')}, {counted(len(pictures.classes), 'cell')}"]
    if pictures.classes:
        levels = cell_levels(read_tokens(pictures.classes))
        counts = class_counts(pictures)
        parts[0] += f" of levels {levels.min()} to {levels.max()}"
        parts.append(f"{counts.min():,} to {counts.max():,} pictures each")
    if outside := int((pictures.labels < 0).sum()):
        parts.append(f"{outside:,} in no cell")
    return ", ".join(parts)
