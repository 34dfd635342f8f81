"""How well attributes are told: a metric that is fed batch by batch and counts every picture once."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnvision.annotations import LabelledPictures
from mnvision.metrics.classification import unique_names
from mnvision.metrics.gathering import gather_columns, joined
from mnvision.ops.processes import rank_and_size
from mnvision.types import Labels, UserError

logger = logging.getLogger(__name__)

ATTRIBUTE_NUMBERS = ("mean_ap", "balanced_accuracy", "cross_entropy")
_LEAST = float(np.finfo(np.float32).eps)  # a probability below this counts as it in the logarithm


class AttributeRow(NamedTuple):
    """One attribute; -1 stands for what is not defined.

    Attributes:
        name: Of the attribute; a name that several share is followed by its place.
        ap: Average precision; not defined where no picture has the attribute.
        balanced_accuracy: Mean of the shares of right answers among those who have it and those who lack it, at a
            probability of 0.5.
        cross_entropy: Mean over the pictures of which it is known.
        share: Of these, how many have it: the average precision of a constant answer.
        pictures: Of which it is known.
    """

    name: str
    ap: float
    balanced_accuracy: float
    cross_entropy: float
    share: float
    pictures: int


class Mistake(NamedTuple):
    """A picture, an attribute of it that was told wrongly, whether it is there, and the probability that it is."""

    image_id: int
    attribute: int
    present: bool
    probability: float


class AttributeMetric:
    """Average precision, balanced accuracy and cross-entropy of attributes, from one process or several.

    Every picture counts once: of one that arrives twice (a distributed sampler pads its shards) the first prediction is
    kept. Values that are not known do not count. Only pictures that arrived are evaluated; :meth:`compute` logs a
    warning if they are not all. A probability that is not finite counts as surely wrong.

    After a run in several processes, all must call :meth:`compute` before any asks for more than its numbers.

    Args:
        pictures: The whole split. A picture's id is its place in it.
        by_attribute: Let :meth:`compute` give the average precision of each attribute as well.
    """

    def __init__(self, pictures: LabelledPictures, *, by_attribute: bool = True) -> None:
        self.pictures = pictures
        self.by_attribute = by_attribute
        self.names = unique_names(pictures.classes)
        self._warned: int | None = None  # the number of pictures in the last warning
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._gathered: tuple[np.ndarray, np.ndarray] | None = None

    @torch.no_grad()
    def update(self, predictions: Tensor, targets: Labels) -> None:
        """Add the predictions of a batch; nothing is copied off the device before :meth:`compute`.

        Args:
            predictions: float [B, A], the probabilities of the attributes.
            targets: The labels and ids of the same pictures; the truth is that of the split.

        Raises:
            UserError: If there is not one row for each picture and one column for each attribute.
        """
        expected = (len(targets.image_ids), len(self.pictures.classes))
        if tuple(predictions.shape) != expected:
            raise UserError(
                f"AttributeMetric.update: predictions of shape {list(predictions.shape)}, expected {list(expected)}: "
                "a row for each picture, a column for each attribute."
            )
        self._gathered = None
        if len(predictions):
            self._batches.append((targets.image_ids.detach().long(), predictions.detach().float()))

    def compute(self) -> dict[str, float]:
        """The numbers named in ``ATTRIBUTE_NUMBERS``, then ``ap/<attribute>`` of each; -1 where undefined.

        With several processes all must call it, and all get the same numbers.

        Each is the mean over the attributes for which it is defined: ``mean_ap`` of the average precision (the
        MobileNet paper's measure, section 4.5), ``balanced_accuracy`` and ``cross_entropy`` (its second footnote)
        likewise.

        Raises:
            UserError: If pictures or probabilities cannot be those of this split.
        """
        # Gathered anew each time: whether another process still has an up to date copy cannot be known here.
        self._gathered = self._gather()
        self._warn()
        rows = self.per_attribute()
        columns = (
            [row.ap for row in rows],
            [row.balanced_accuracy for row in rows],
            [row.cross_entropy for row in rows],
        )
        numbers = {name: _mean(values) for name, values in zip(ATTRIBUTE_NUMBERS, columns, strict=True)}
        if self.by_attribute:
            numbers |= {f"ap/{row.name}": row.ap for row in rows}
        return numbers

    def per_attribute(self) -> list[AttributeRow]:
        """The numbers of each attribute, in the order of the labels."""
        ids, probabilities = self._predictions()
        rows = []
        for name, truth, told in zip(self.names, self.pictures.labels[ids].T, probabilities.T, strict=True):
            known = np.isfinite(truth)
            present = truth[known] == 1
            scores = np.where(np.isfinite(told[known]), told[known], np.where(present, 0.0, 1.0)).astype(np.float64)
            right = np.where(present, scores, 1 - scores)
            rows.append(
                AttributeRow(
                    name,
                    average_precision(scores, present),
                    _balanced(scores >= 0.5, present),
                    float(-np.log(np.maximum(right, _LEAST)).mean()) if len(scores) else -1.0,
                    float(present.mean()) if len(scores) else -1.0,
                    len(scores),
                )
            )
        return rows

    def mistakes(self, count: int) -> list[Mistake]:
        """The answers that the model was surest of and that are wrong, worst first, one a picture."""
        ids, probabilities = self._predictions()
        if not len(ids):
            return []
        truth = self.pictures.labels[ids]
        errors = np.nan_to_num(np.abs(probabilities - truth), nan=0.0)  # 0 where the truth or the answer is unknown
        worst = errors.argmax(axis=1)
        sizes = errors.max(axis=1)
        order = [row for row in np.argsort(-sizes, kind="stable").tolist() if sizes[row] > 0.5][:count]
        return [
            Mistake(int(ids[row]), int(worst[row]), bool(truth[row, worst[row]]), float(probabilities[row, worst[row]]))
            for row in order
        ]

    def results(self) -> list[dict[str, Any]]:
        """A row a picture for a file of predictions, in the order of the split.

        Its ``image_id``, ``file``, and ``attributes``: of each its ``probability`` (None where it was not finite) and
        ``truth`` (true, false, or None where it is not known).
        """
        ids, probabilities = self._predictions()
        rows = []
        for image_id, told in zip(ids.tolist(), probabilities.tolist(), strict=True):
            truth = self.pictures.labels[image_id].tolist()
            rows.append(
                {
                    "image_id": image_id,
                    "file": self.pictures.file_name(image_id),
                    "attributes": {
                        name: {
                            "probability": round(probability, 6) if np.isfinite(probability) else None,
                            "truth": bool(value) if np.isfinite(value) else None,
                        }
                        for name, probability, value in zip(self.names, told, truth, strict=True)
                    },
                }
            )
        return rows

    def _warn(self) -> None:
        ids, probabilities = self._predictions()
        if rank_and_size()[0] == 0:
            if len(ids) < len(self.pictures) and len(ids) != self._warned:
                logger.warning(
                    "Attributes of %d pictures of %d: the others were not predicted.", len(ids), len(self.pictures)
                )
            if broken := int((~np.isfinite(probabilities)).any(axis=1).sum()):
                logger.warning(
                    "Attributes: %d of %d predictions are not finite and count as wrong; the model has probably "
                    "diverged.",
                    broken,
                    len(ids),
                )
        self._warned = len(ids)

    def _predictions(self) -> tuple[np.ndarray, np.ndarray]:
        if self._gathered is None:
            if rank_and_size()[1] > 1:
                raise RuntimeError(
                    "AttributeMetric: call compute() on every process first; it gathers the predictions."
                )
            self._gathered = self._gather()
        return self._gathered

    def _gather(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids int64 [N] and probabilities float32 [N, A] of all processes, each picture once, in the split's order."""
        ids = joined([ids for ids, _ in self._batches], empty=np.zeros(0, np.int64))
        told = joined([rows for _, rows in self._batches], empty=np.zeros((0, len(self.names)), np.float32))
        ids, probabilities = gather_columns((ids, told))
        total = len(self.pictures)
        if ((ids < 0) | (ids >= total)).any():
            raise UserError(f"Attributes: image ids outside 0..{total - 1}; evaluate with the pictures that were read.")
        if (np.nan_to_num(probabilities) < -1e-3).any() or (np.nan_to_num(probabilities) > 1.001).any():
            raise UserError("Attributes: probabilities outside 0..1: expected the output of a sigmoid.")
        ids, first = np.unique(ids, return_index=True)
        return ids, probabilities[first]


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """Sum over the thresholds of precision times the gain in recall; -1 where nothing is present.

    Neither interpolated nor a trapezoid, so that it is scikit-learn's ``average_precision_score``; equal scores are one
    threshold, so that the order of the pictures does not matter.

    Args:
        scores: float [N], the higher the likelier.
        present: bool [N].

    >>> round(average_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])), 4)
    0.8333
    """
    total = int(present.sum())
    if not total:
        return -1.0
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(present[order])
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf) != 0)  # of each group of equal scores
    precision = hits[last] / (last + 1)
    recall = hits[last] / total
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def _balanced(said: np.ndarray, present: np.ndarray) -> float:
    if present.all() or not present.any():
        return -1.0
    return float((said[present].mean() + (~said[~present]).mean()) / 2)


def _mean(values: list[float]) -> float:
    """Of the values that are defined; -1 where none is."""
    defined = [value for value in values if value >= 0]
    return float(np.mean(defined)) if defined else -1.0
