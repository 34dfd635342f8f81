"""How far from the truth pictures are placed: a metric that is fed batch by batch and counts every picture once."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mnvision.annotations import PlacedPictures
from mnvision.metrics.gathering import gather_columns, joined
from mnvision.metrics.ranks import KEPT, condense
from mnvision.ops.geo import DISTANCES, FARTHEST, haversine
from mnvision.ops.processes import rank_and_size
from mnvision.ops.s2 import cell_levels, find_cells, group_cells, leaf_cells, read_tokens
from mnvision.types import Labels, UserError

logger = logging.getLogger(__name__)

WITHIN = tuple(f"within_{distance}km" for distance in DISTANCES)
GEOLOCATION_NUMBERS = (*WITHIN, "median_km", "top1")


class Answers(Protocol):
    """What a geolocator says of B pictures: see ``models.geolocator.Located``."""

    @property
    def probabilities(self) -> Tensor:
        """Those of the cells, float [B, K]."""

    @property
    def places(self) -> Tensor:
        """Latitude and longitude in degrees, float [B, 2]."""


class PlacedColumns(NamedTuple):
    """N predictions.

    Attributes:
        image_ids: int64 [N], the place of each picture in its split.
        places: float32 [N, 2], the answers; NaN where there is none.
        top: int32 [N, min(5, K)], the best cells, best first; -1 where the prediction was not finite.
        probabilities: float32 [N, min(5, K)], theirs.
        right: bool [N, L], whether the best parent of each level is that of the true place.
        first: bool [N], whether the right cell comes first.
    """

    image_ids: np.ndarray
    places: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray
    right: np.ndarray
    first: np.ndarray

    def take(self, rows: np.ndarray) -> PlacedColumns:
        """Some of the pictures, by index."""
        return PlacedColumns(*(column[rows] for column in self))


class GeolocationMetric:
    """Distances and cells of a geolocator's answers, from one process or several.

    Every picture counts once: of one that arrives twice (a distributed sampler pads its shards) the first prediction is
    kept. A picture outside every cell has no right cell, and its distance counts as any other's. An answer that is not
    finite counts as on the other side of the earth. Only pictures that arrived are evaluated; :meth:`compute` logs a
    warning if they are not all.

    The cells' probabilities are also summed to coarser levels, see PlaNet's section 3: ``parent/level_4`` is the share
    of pictures for which the best cell of level 4 is the right one. A cell that is coarser stands for itself there; a
    picture whose parent holds no cell at all is wrong.

    After a run in several processes, all must call :meth:`compute` before any asks for more than its numbers.

    Args:
        pictures: The whole split. A picture's id is its place in it.
    """

    def __init__(self, pictures: PlacedPictures) -> None:
        self.pictures = pictures
        cells = read_tokens(pictures.classes)
        leaves = leaf_cells(pictures.coordinates)
        levels = cell_levels(cells)
        self.levels = list(range(int(levels.min()), int(levels.max())))  # at the last one, cells are their own parents
        self._groups: list[Tensor] = []  # of each level, int64 [K]
        truths = []
        for level in self.levels:
            groups, parents = group_cells(cells, level)
            self._groups.append(torch.from_numpy(groups))
            truths.append(find_cells(leaves, parents))
        shape = (len(self.levels), len(pictures))
        self._truths = torch.from_numpy(np.array(truths, dtype=np.int64).reshape(shape))
        self._warned: int | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._batches: list[tuple[Tensor, ...]] = []
        self._gathered: PlacedColumns | None = None

    @torch.no_grad()
    def update(self, predictions: Answers, targets: Labels) -> None:
        """Add the predictions of a batch; nothing is copied off the device before :meth:`compute`.

        Args:
            predictions: The cells' probabilities, and the places.
            targets: The labels and ids of the same pictures.

        Raises:
            UserError: If there is not one row for each picture and one column for each cell.
        """
        probabilities = predictions.probabilities.detach().float()
        expected = (len(targets.labels), len(self.pictures.classes))
        if tuple(probabilities.shape) != expected or tuple(predictions.places.shape) != (expected[0], 2):
            raise UserError(
                f"GeolocationMetric.update: probabilities of shape {list(probabilities.shape)} and places of shape "
                f"{list(predictions.places.shape)}, expected {list(expected)} and {[expected[0], 2]}."
            )
        self._gathered = None
        if not len(probabilities):
            return
        ids, labels = targets.image_ids.detach().long(), targets.labels.detach().long()
        top, best, _, rank = condense(probabilities, labels)
        finite = top[:, 0] >= 0
        self._batches.append(
            (
                ids,
                torch.where(finite[:, None], predictions.places.detach().float(), torch.nan),
                top,
                best,
                self._right_parents(probabilities, ids) & finite[:, None],
                (rank < 1) & (labels >= 0),
            )
        )

    def compute(self) -> dict[str, float]:
        """The numbers named in ``GEOLOCATION_NUMBERS``, then ``parent/level_...`` and ``constant/within_...``.

        With several processes all must call it, and all get the same numbers.

        ``within_25km`` is the share of pictures whose answer lies within 25 km of the truth, ``median_km`` the median
        of the distances, ``top1`` the share of the pictures in a cell for which the right cell comes first, and
        ``constant/within_25km`` the share within 25 km of the best constant answer of the training pictures, where it
        is known. -1 stands for what is not defined.

        Raises:
            UserError: If an id cannot be one of this split.
        """
        # Gathered anew each time: whether another process still has an up to date copy cannot be known here.
        self._gathered = self._gather()
        self._warn()
        columns, distances = self._predictions(), self.distances()
        numbers = dict.fromkeys(GEOLOCATION_NUMBERS, -1.0) | {f"parent/level_{level}": -1.0 for level in self.levels}
        if len(distances):
            numbers |= {f"within_{one}km": float((distances <= one).mean()) for one in DISTANCES}
            numbers["median_km"] = float(np.median(distances))
            if (inside := self.pictures.labels[columns.image_ids] >= 0).any():
                numbers["top1"] = float(columns.first[inside].mean())
            means = columns.right.mean(axis=0).tolist()
            numbers |= {f"parent/level_{level}": mean for level, mean in zip(self.levels, means, strict=True)}
        return numbers | {f"constant/{name}": value for name, value in self.constant_shares().items()}

    def constant_shares(self) -> dict[str, float]:
        """The share within each distance of its best constant answer, by name; empty where there is none."""
        if self.pictures.constants is None:
            return {}
        truth = self.pictures.coordinates[self._predictions().image_ids]
        if not len(truth):
            return dict.fromkeys(WITHIN, -1.0)
        pairs = zip(WITHIN, DISTANCES, self.pictures.constants, strict=True)
        return {name: float((haversine(truth, answer) <= distance).mean()) for name, distance, answer in pairs}

    def distances(self) -> np.ndarray:
        """From the answers to the truth: float64 [N] in km, in the order of the split."""
        columns = self._predictions()
        found = haversine(columns.places.astype(np.float64), self.pictures.coordinates[columns.image_ids])
        return np.nan_to_num(found, nan=FARTHEST)

    def results(self) -> list[dict[str, Any]]:
        """A row a picture for a file of predictions, in the order of the split.

        Its ``image_id``, ``file``, ``truth`` and ``place`` (latitude and longitude; None where the prediction was not
        finite), ``distance_km``, the true ``cell`` (None where it lies in none), and ``cells``: at most five of
        ``label`` and ``probability``, best first.
        """
        columns, classes, rows = self._predictions(), self.pictures.classes, []
        for row, (image_id, distance) in enumerate(
            zip(columns.image_ids.tolist(), self.distances().tolist(), strict=True)
        ):
            best = zip(columns.top[row].tolist(), columns.probabilities[row].tolist(), strict=True)
            label, place = int(self.pictures.labels[image_id]), columns.places[row]
            rows.append(
                {
                    "image_id": image_id,
                    "file": self.pictures.file_name(image_id),
                    "truth": self.pictures.coordinates[image_id].tolist(),
                    "place": [round(value, 6) for value in place.tolist()] if np.isfinite(place).all() else None,
                    "distance_km": round(distance, 3),
                    "cell": classes[label] if label >= 0 else None,
                    "cells": [{"label": classes[one], "probability": round(p, 6)} for one, p in best if one >= 0],
                }
            )
        return rows

    def _right_parents(self, probabilities: Tensor, ids: Tensor) -> Tensor:
        """Whether the best parents are the right ones: bool [B, L]."""
        device = probabilities.device
        if not self.levels:
            return torch.zeros(len(ids), 0, dtype=torch.bool, device=device)
        if self._truths.device != device:
            self._truths, self._groups = self._truths.to(device), [groups.to(device) for groups in self._groups]
        right = []
        for groups, truth in zip(self._groups, self._truths, strict=True):
            sums = probabilities.new_zeros(len(ids), int(groups.max()) + 1).index_add_(1, groups, probabilities)
            right.append(sums.argmax(dim=1) == truth[ids.clamp(0, len(truth) - 1)])
        return torch.stack(right, dim=1)

    def _warn(self) -> None:
        columns = self._predictions()
        seen, total = len(columns.image_ids), len(self.pictures)
        if rank_and_size()[0] == 0:
            if seen < total and seen != self._warned:
                logger.warning("Geolocation of %d pictures of %d: the others were not predicted.", seen, total)
            if broken := int((columns.top[:, 0] < 0).sum()):
                logger.warning(
                    "Geolocation: %d of %d predictions are not finite and count as wrong; the model has probably "
                    "diverged.",
                    *(broken, seen),
                )
        self._warned = seen

    def _predictions(self) -> PlacedColumns:
        if self._gathered is None:
            if rank_and_size()[1] > 1:
                raise RuntimeError(
                    "GeolocationMetric: call compute() on every process first; it gathers the predictions."
                )
            self._gathered = self._gather()
        return self._gathered

    def _gather(self) -> PlacedColumns:
        """All pictures seen by any process, each once, in the order of the split."""
        kept = min(KEPT, len(self.pictures.classes))
        empty = PlacedColumns(
            np.zeros(0, np.int64),
            np.zeros((0, 2), np.float32),
            np.zeros((0, kept), np.int32),
            np.zeros((0, kept), np.float32),
            np.zeros((0, len(self.levels)), bool),
            np.zeros(0, bool),
        )
        batches = list(zip(*self._batches, strict=True)) or [()] * len(empty)
        shard = tuple(joined(column, empty=none) for column, none in zip(batches, empty, strict=True))
        columns = PlacedColumns(*gather_columns(shard))
        wrong = (columns.image_ids < 0) | (columns.image_ids >= len(self.pictures))
        if wrong.any():
            raise UserError(
                f"Geolocation: image id {columns.image_ids[wrong.argmax()]}, expected 0..{len(self.pictures) - 1}: "
                "evaluate with the pictures that were read"
            )
        return columns.take(np.unique(columns.image_ids, return_index=True)[1])
