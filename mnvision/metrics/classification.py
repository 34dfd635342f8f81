"""How well pictures are classified: a metric that is fed batch by batch and counts every picture once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnvision.annotations import LabelledPictures
from mnvision.metrics.gathering import gather_columns, joined
from mnvision.metrics.ranks import KEPT, RankedPictures, check_ranked, condense, no_pictures
from mnvision.ops.processes import rank_and_size
from mnvision.types import Labels, UserError

logger = logging.getLogger(__name__)

CLASSIFICATION_NUMBERS = ("top1", "top5", "top1_per_class", "ece", "nll")
BINS = 15  # of the calibration error
_LEAST = float(np.finfo(np.float32).tiny)  # a probability of 0 counts as this much in the logarithm


class ClassRow(NamedTuple):
    """One class; -1 stands for what is not defined.

    Attributes:
        name: Of the class; a name that several classes share is followed by the label.
        accuracy: Share of its pictures that were predicted right (its recall).
        precision: Share of the predictions of this class that are right.
        f1: Harmonic mean of the two.
        pictures: How many of the labelled ones are of this class.
    """

    name: str
    accuracy: float
    precision: float
    f1: float
    pictures: int


class Bin(NamedTuple):
    """The predictions with a confidence above ``low`` and up to ``high``; both means are 0 where there are none.

    Attributes:
        low: Least confidence, exclusive (of the first bin inclusive).
        high: Greatest confidence, inclusive.
        pictures: How many predictions.
        confidence: Mean probability of the predicted class.
        accuracy: Share of right predictions.
    """

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


class Mistake(NamedTuple):
    """A picture, its class, the class that it was taken for, and the probability of that one."""

    image_id: int
    truth: int
    prediction: int
    probability: float


class Confusion(NamedTuple):
    """So many ``pictures``, of the ``total`` of a class, were taken for another one."""

    truth: int
    prediction: int
    pictures: int
    total: int


class ClassificationMetric:
    """Accuracy, calibration and confusions of a classifier, from one process or several.

    Every picture counts once: of one that arrives twice (a distributed sampler pads its shards) the first prediction is
    kept. Pictures whose class is not known do not count. Only pictures that arrived are evaluated; :meth:`compute` logs
    a warning if they are not all.

    Of equal probabilities that of the right class comes last, so a picture is right only where its class is ahead of
    all others: a network that gives every class the same probability gets a top-1 of 0, not the share of class 0. A
    prediction that holds a number that is not finite is wrong whatever else it says: it has no class, its confidence
    counts as 1, and the probability of the right class as 0.

    After a run in several processes, all must call :meth:`compute` before any asks for more than its numbers.

    Args:
        pictures: The whole split. A picture's id is its place in it.
        by_class: Let :meth:`compute` give the accuracy of each class as well.
    """

    def __init__(self, pictures: LabelledPictures, *, by_class: bool = True) -> None:
        self.pictures = pictures
        self.by_class = by_class
        self.names = unique_names(pictures.classes)
        self._warned: int | None = None  # the number of pictures in the last warning
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._batches: list[tuple[Tensor, ...]] = []
        self._gathered: RankedPictures | None = None

    @torch.no_grad()
    def update(self, predictions: Tensor, targets: Labels) -> None:
        """Add the predictions of a batch; nothing is copied off the device before :meth:`compute`.

        Args:
            predictions: float [B, K], the probabilities of the classes.
            targets: The labels and ids of the same pictures.

        Raises:
            UserError: If there is not one row for each picture and one column for each class.
        """
        expected = (len(targets.labels), len(self.pictures.classes))
        if tuple(predictions.shape) != expected:
            raise UserError(
                f"ClassificationMetric.update: predictions of shape {list(predictions.shape)}, expected "
                f"{list(expected)}: a row for each picture, a column for each class."
            )
        self._gathered = None
        if len(predictions):
            ids, labels = targets.image_ids.detach().long(), targets.labels.detach().long()
            self._batches.append((ids, labels, *condense(predictions.detach().float(), labels)))

    def compute(self) -> dict[str, float]:
        """The numbers named in ``CLASSIFICATION_NUMBERS``, then ``top1/<class>`` of each class; -1 where undefined.

        With several processes all must call it, and all get the same numbers.

        ``top5`` is the share of pictures whose class is among the best five, and left out where there are no more,
        ``top1_per_class`` the mean of the accuracies of the classes that occur, ``ece`` the expected calibration error
        of 15 bins of equal width (C. Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599,
        equation 3), and ``nll`` the mean negative logarithm of the probability of the right class.

        Raises:
            UserError: If pictures, labels or probabilities cannot be those of this split.
        """
        # Gathered anew each time: whether another process still has an up to date copy cannot be known here.
        self._gathered = self._gather()
        self._warn()
        known = self._labelled()
        numbers = dict.fromkeys(CLASSIFICATION_NUMBERS, -1.0)
        accuracies = [row.accuracy for row in self.per_class()]
        if len(known.labels):
            bins = self.calibration()
            gaps = [one.pictures * abs(one.accuracy - one.confidence) for one in bins]
            numbers = {
                "top1": float((known.rank < 1).mean()),
                "top5": float((known.rank < KEPT).mean()),
                "top1_per_class": float(np.mean([accuracy for accuracy in accuracies if accuracy >= 0])),
                "ece": sum(gaps) / len(known.labels),
                "nll": float(-np.log(np.maximum(known.truth.astype(np.float64), _LEAST)).mean()),
            }
        if len(self.names) <= KEPT:
            del numbers["top5"]  # every class is among the best five
        if self.by_class:
            numbers |= {f"top1/{name}": value for name, value in zip(self.names, accuracies, strict=True)}
        return numbers

    def confusion(self) -> np.ndarray:
        """int64 [K, K]: the pictures of each class (rows) by the class predicted (columns), where there is one."""
        return np.bincount(self._pairs(), minlength=len(self.names) ** 2).reshape(len(self.names), -1)

    def confusions(self, most: int) -> list[Confusion]:
        """The pairs of classes that are most often taken for each other, most frequent first."""
        pairs, counts = np.unique(self._pairs(), return_counts=True)
        truth, prediction = np.divmod(pairs, len(self.names))
        totals = self._count(self._labelled().labels)[truth]
        wrong = np.flatnonzero(truth != prediction)
        order = wrong[np.lexsort((prediction[wrong], truth[wrong], totals[wrong], -counts[wrong]))][:most]
        columns = (column[order].tolist() for column in (truth, prediction, counts, totals))
        return [Confusion(*row) for row in zip(*columns, strict=True)]

    def per_class(self) -> list[ClassRow]:
        """Accuracy, precision, F1 and number of pictures of each class, in the order of the labels."""
        known = self._labelled()
        right = self._count(known.labels[known.rank < 1])
        present = self._count(known.labels)
        predicted = self._count(known.top[:, 0][known.top[:, 0] >= 0])
        columns = (
            _ratio(right, present),
            _ratio(right, predicted),
            np.where(present > 0, _ratio(2 * right, present + predicted), -1.0),
            present,
        )
        return [ClassRow(*row) for row in zip(self.names, *(column.tolist() for column in columns), strict=True)]

    def calibration(self) -> list[Bin]:
        """Confidence and accuracy of the labelled pictures in 15 bins of equal width, from 0 to 1."""
        known = self._labelled()
        confidence = np.where(known.top[:, 0] >= 0, known.probabilities[:, 0].astype(np.float64), 1.0)
        edges = np.arange(BINS + 1) / BINS
        places = np.searchsorted(edges[1:-1], confidence, side="left")
        counts = np.bincount(places, minlength=BINS)
        sums = (np.bincount(places, weights=weights, minlength=BINS) for weights in (confidence, known.rank < 1))
        means = [total / np.maximum(counts, 1) for total in sums]
        columns = (edges[:-1], edges[1:], counts, *means)
        return [Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def mistakes(self, count: int) -> list[Mistake]:
        """The mistakes that the model was surest of, worst first."""
        known = self._labelled()
        wrong = known.take((known.rank > 0) & (known.top[:, 0] >= 0))
        order = np.argsort(-wrong.probabilities[:, 0], kind="stable")[:count]
        columns = (wrong.image_ids, wrong.labels, wrong.top[:, 0], wrong.probabilities[:, 0])
        return [Mistake(*row) for row in zip(*(column[order].tolist() for column in columns), strict=True)]

    def results(self) -> list[dict[str, Any]]:
        """A row a picture for a file of predictions, in the order of the split.

        Its ``image_id``, ``file``, ``truth`` (None where the class is not known) and ``classes``: at most five of
        ``label`` and ``probability``, best first; none where the prediction was not finite.
        """
        columns, classes, rows = self._predictions(), self.pictures.classes, []
        for row, image_id in enumerate(columns.image_ids.tolist()):
            best = zip(columns.top[row].tolist(), columns.probabilities[row].tolist(), strict=True)
            label = int(columns.labels[row])
            rows.append(
                {
                    "image_id": image_id,
                    "file": self.pictures.file_name(image_id),
                    "truth": classes[label] if label >= 0 else None,
                    "classes": [{"label": classes[one], "probability": round(p, 6)} for one, p in best if one >= 0],
                }
            )
        return rows

    def _count(self, labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels, minlength=len(self.names))

    def _pairs(self) -> np.ndarray:
        """int64: truth * K + prediction of the labelled pictures that have a prediction."""
        known = self._labelled()
        return (known.labels * len(self.names) + known.top[:, 0])[known.top[:, 0] >= 0]

    def _labelled(self) -> RankedPictures:
        columns = self._predictions()
        return columns.take(columns.labels >= 0)

    def _warn(self) -> None:
        columns = self._predictions()
        seen, total = len(columns.image_ids), len(self.pictures)
        if rank_and_size()[0] == 0:
            if seen < total and seen != self._warned:
                logger.warning("Classification of %d pictures of %d: the others were not predicted.", seen, total)
            if broken := int((columns.top[:, 0] < 0).sum()):
                logger.warning(
                    "Classification: %d of %d predictions are not finite and count as wrong; the model has probably "
                    "diverged.",
                    broken,
                    seen,
                )
        self._warned = seen

    def _predictions(self) -> RankedPictures:
        if self._gathered is None:
            if rank_and_size()[1] > 1:
                raise RuntimeError(
                    "ClassificationMetric: call compute() on every process first; it gathers the predictions."
                )
            self._gathered = self._gather()
        return self._gathered

    def _gather(self) -> RankedPictures:
        """All pictures seen by any process, each once, in the order of the split."""
        empty = no_pictures(len(self.names))
        batches = list(zip(*self._batches, strict=True)) or [()] * len(empty)
        shard = tuple(joined(column, empty=none) for column, none in zip(batches, empty, strict=True))
        columns = RankedPictures(*gather_columns(shard))
        check_ranked(columns, self.pictures)
        return columns.take(np.unique(columns.image_ids, return_index=True)[1])


def unique_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes, with the label behind those that several share.

    >>> unique_names(["crane", "owl", "crane"])
    ('crane [0]', 'owl', 'crane [2]')
    """
    times = Counter(classes)
    return tuple(name if times[name] == 1 else f"{name} [{label}]" for label, name in enumerate(classes))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """-1 where nothing is divided."""
    return np.where(whole > 0, part / np.maximum(whole, 1), -1.0)
