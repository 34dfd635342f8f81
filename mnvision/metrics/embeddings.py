"""How good embeddings are: verification of pairs and identification in a gallery, fed batch by batch."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnvision.annotations import LabelledPictures, PairedPictures, Pairs
from mnvision.metrics.gathering import gather_columns, joined
from mnvision.metrics.identification import identify
from mnvision.metrics.verification import (
    VERIFICATION_NUMBERS,
    JudgedPairs,
    Roc,
    Verification,
    is_testable,
    roc_curve,
    squared_distances,
    verification_numbers,
    verify,
)
from mnvision.ops.folds import folds_in_order
from mnvision.ops.processes import rank_and_size
from mnvision.types import Labels, UserError

logger = logging.getLogger(__name__)

IDENTIFICATION_NUMBERS = ("rank1", "map")


class WrongPair(NamedTuple):
    """A pair that was told wrong: the places of its pictures, what it is, its distance and the threshold of its fold.

    The distance is NaN where an embedding is not finite.
    """

    first: int
    second: int
    same: bool
    distance: float
    threshold: float


class EmbeddingMetric:
    """Verification and identification by the embeddings of a split, from one process or several.

    Every picture counts once: of one that arrives twice (a distributed sampler pads its shards) the first embedding is
    kept. Pairs of which a picture did not arrive are left out, with a warning. Embeddings are brought to unit length;
    of one that cannot be, because it is zero or not finite, all pairs are wrong and it finds nothing.

    Pairs of one fold have no others to choose a threshold by. Without ``threshold_from`` they are cut into ten folds in
    their order, whose people may be the same.

    After a run in several processes, all must call :meth:`compute` before any asks for more than its numbers.

    Args:
        truth: The whole split: labels are identities. A picture's id is its place in it. Without pairs there is no
            verification.

    Attributes:
        threshold_from: Judged pairs of other pictures, such as :meth:`judged` of the validation split's metric: they
            choose the thresholds of all folds. To be set before :meth:`compute`.
    """

    def __init__(self, truth: LabelledPictures) -> None:
        self.truth = truth
        self.pairs: Pairs | None = truth.pairs if isinstance(truth, PairedPictures) else None
        self.threshold_from: JudgedPairs | None = None
        self._warned: set[str] = set()
        self.reset()

    @property
    def one_fold(self) -> bool:
        """Whether the pairs are all of one fold."""
        return self.pairs is not None and len(np.unique(self.pairs.folds)) == 1

    def reset(self) -> None:
        """Forget all embeddings."""
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._gathered: tuple[np.ndarray, np.ndarray] | None = None

    @torch.no_grad()
    def update(self, predictions: Tensor, targets: Labels) -> None:
        """Add the embeddings of a batch; nothing is copied off the device before :meth:`compute`.

        Args:
            predictions: float [B, D].
            targets: The identities and ids of the same pictures.

        Raises:
            UserError: If there is not one row for each picture.
        """
        if predictions.ndim != 2 or len(predictions) != len(targets.image_ids):
            raise UserError(
                f"EmbeddingMetric.update: embeddings of shape {list(predictions.shape)}, expected "
                f"[{len(targets.image_ids)}, D]: a row for each picture."
            )
        self._gathered = None
        if len(predictions):
            self._batches.append((targets.image_ids.detach().long(), predictions.detach().float()))

    def compute(self) -> dict[str, float]:
        """The numbers named in ``VERIFICATION_NUMBERS`` and ``IDENTIFICATION_NUMBERS``; -1 where undefined.

        With several processes all must call it, and all get the same numbers. Those of verification are left out where
        the split has no pairs; see ``verification_numbers``. ``map`` is the mean average precision.

        Raises:
            UserError: If ids or widths cannot be those of embeddings of this split.
        """
        # Gathered anew each time: whether another process still has an up to date copy cannot be known here.
        self._gathered = self._gather()
        self._warn()
        ids, embeddings = self._gathered
        found = identify(embeddings, self.truth.labels[ids])
        numbers = dict(zip(IDENTIFICATION_NUMBERS, found[1:], strict=True)) if found.queries else {}
        named: tuple[str, ...] = IDENTIFICATION_NUMBERS
        if self.pairs is not None:
            named = (*VERIFICATION_NUMBERS, *named)
            numbers |= self.verification()
        return {name: numbers.get(name, -1.0) for name in named}

    def judged(self) -> JudgedPairs:
        """The distances of the pairs of which both pictures arrived; infinite or -1 where they must count as wrong."""
        pairs, distances = self._distances()
        alone = self.threshold_from is None and len(np.unique(pairs.folds)) < 2
        folds = folds_in_order(pairs.same) if alone else pairs.folds
        return JudgedPairs(_wrong_if_nan(distances, pairs.same), pairs.same, folds)

    def verification(self) -> dict[str, float]:
        """The numbers of verification that are defined."""
        return verification_numbers(self.judged(), threshold_from=self.threshold_from)

    def roc(self) -> Roc | None:
        """FAR and VAL of all thresholds; None without same and different pairs."""
        judged = self.judged()
        return roc_curve(judged) if 0 < judged.same.sum() < len(judged.same) else None

    def verified(self) -> Verification | None:
        """Accuracy and threshold of each fold; None without pairs to test, or to choose a threshold by."""
        judged, other = self.judged(), self.threshold_from
        return verify(judged, threshold_from=other) if is_testable(judged, threshold_from=other) else None

    def hardest_pairs(self, count: int) -> list[WrongPair]:
        """The pairs that were told wrong, those farthest from the threshold of their fold first."""
        pairs, distances = self._distances()
        if (verified := self.verified()) is None:
            return []
        threshold = verified.thresholds[np.searchsorted(verified.folds, self.judged().folds)]
        with np.errstate(invalid="ignore"):
            wrong = (distances < threshold) != pairs.same
        wrong |= np.isnan(distances)
        margin = np.where(np.isnan(distances), np.inf, np.abs(distances - threshold))
        rows = np.flatnonzero(wrong)
        rows = rows[np.argsort(-margin[rows], kind="stable")][:count]
        columns = (pairs.first, pairs.second, pairs.same, distances, threshold)
        return [WrongPair(*row) for row in zip(*(column[rows].tolist() for column in columns), strict=True)]

    def embeddings(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids int64 [N], rising, and embeddings float32 [N, D] of unit length of the pictures that arrived.

        Rows that have no length are NaN.
        """
        if self._gathered is None:
            if rank_and_size()[1] > 1:
                raise RuntimeError("EmbeddingMetric: call compute() on every process first; it gathers the embeddings.")
            self._gathered = self._gather()
        return self._gathered

    def results(self) -> list[dict[str, Any]]:
        """A row a pair for a file: the files, ``same``, ``distance`` (None where it is not finite) and ``fold``."""
        pairs, distances = self._distances()
        name = self.truth.file_name
        columns = (pairs.first, pairs.second, pairs.same, distances, pairs.folds)
        return [
            {
                "first": name(first),
                "second": name(second),
                "same": same,
                "distance": None if np.isnan(distance) else round(distance, 6),
                "fold": fold + 1,
            }
            for first, second, same, distance, fold in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def _distances(self) -> tuple[Pairs, np.ndarray]:
        """The pairs of which both pictures arrived, and their distances; NaN where one is not known."""
        ids, embeddings = self.embeddings()
        if self.pairs is None:
            raise RuntimeError("EmbeddingMetric: the split has no pairs")
        row_of = np.full(len(self.truth), -1, dtype=np.int64)
        row_of[ids] = np.arange(len(ids))
        first, second = row_of[self.pairs.first], row_of[self.pairs.second]
        there = (first >= 0) & (second >= 0)
        return self.pairs.take(there), squared_distances(embeddings, first[there], second[there])

    def _warn(self) -> None:
        """Say once of each what is missing or broken."""
        ids, embeddings = self.embeddings()
        problems = []
        if len(ids) < len(self.truth):
            left_out = 0 if self.pairs is None else len(self.pairs) - len(self._distances()[0])
            problems.append(
                f"{len(ids)} pictures of {len(self.truth)}: the others were not predicted"
                + (f", and {left_out} pairs are left out" if left_out else "")
            )
        if broken := int(np.isnan(embeddings).any(axis=1).sum()):
            problems.append(
                f"{broken} of {len(ids)} embeddings are not finite, or zero, and count as wrong; the model has "
                "probably diverged"
            )
        if rank_and_size()[0] == 0:
            for problem in set(problems) - self._warned:
                logger.warning("Embeddings: %s.", problem)
        self._warned.update(problems)

    def _gather(self) -> tuple[np.ndarray, np.ndarray]:
        """All pictures seen by any process, each once, in the order of the split; embeddings of unit length or NaN."""
        ids = joined([batch[0] for batch in self._batches], empty=np.zeros(0, np.int64))
        widths = {batch[1].shape[1] for batch in self._batches}
        if len(widths) > 1:
            raise UserError(f"Embeddings: batches of different widths, {sorted(widths)}; expected one.")
        vectors = joined([batch[1] for batch in self._batches], empty=np.zeros((0, 0), np.float32))
        # A process without a picture does not know the width; rows of one column would not concatenate.
        ids, flat, width = gather_columns((ids, vectors.reshape(-1), np.array(sorted(widths), np.int64)))
        if len(np.unique(width)) > 1:
            raise UserError(f"Embeddings: processes with different widths, {np.unique(width).tolist()}; expected one.")
        total = len(self.truth)
        strange = (ids < 0) | (ids >= total)
        if strange.any():
            raise UserError(
                f"Embeddings: the image id {ids[strange][0]} is outside 0..{total - 1}; evaluate with the pictures "
                "that were read."
            )
        vectors = flat.reshape(len(ids), int(width[0]) if len(width) else 0)
        ids, rows = np.unique(ids, return_index=True)
        return ids, _unit_length(vectors[rows])


def _unit_length(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; NaN where that cannot be."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        length = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
        unit = vectors / length
    return np.where(np.isfinite(unit).all(axis=1, keepdims=True), unit, np.nan).astype(np.float32)


def _wrong_if_nan(distances: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Unknown distances as those that no threshold tells right."""
    return np.where(np.isnan(distances), np.where(same, np.inf, -1.0), distances)
