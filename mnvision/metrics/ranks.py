"""What is kept of a classifier's predictions: the best five classes of each picture, and the rank of the right one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnvision.annotations import LabelledPictures
from mnvision.types import UserError

KEPT = 5  # classes of each picture


class RankedPictures(NamedTuple):
    """N predictions, 64 bytes each; one that is not finite has no classes, probabilities of 0, and a rank of 5 or more.

    Attributes:
        image_ids: int64 [N], the place of each picture in its split.
        labels: int64 [N]; -1 where the class is not known.
        top: int32 [N, min(5, K)], the best classes, best first; -1 where there is no prediction.
        probabilities: float32 [N, min(5, K)], theirs.
        truth: float32 [N], the probability of the right class.
        rank: int32 [N], how many classes come before the right one; of equals it comes last.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray
    truth: np.ndarray
    rank: np.ndarray

    def take(self, rows: np.ndarray) -> RankedPictures:
        """Some of the pictures, by index or by a mask [N]."""
        return RankedPictures(*(column[rows] for column in self))


def no_pictures(classes: int) -> RankedPictures:
    """Columns of no rows, of the right types and widths."""
    ids, kept = np.zeros(0, np.int64), min(KEPT, classes)
    top, probabilities = np.zeros((0, kept), np.int32), np.zeros((0, kept), np.float32)
    return RankedPictures(ids, ids, top, probabilities, np.zeros(0, np.float32), np.zeros(0, np.int32))


def condense(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The last four columns of ``RankedPictures``, on the device of what is given.

    Args:
        probabilities: float32 [B, K].
        labels: int64 [B]; where one is -1, rank and probability of the right class mean nothing.
    """
    classes = probabilities.shape[1]
    finite = probabilities.isfinite().all(dim=1)
    probabilities = probabilities.nan_to_num(0.0, 0.0, 0.0)
    # The columns in their order, but with the right class at the end: a stable sort then ranks it last among equals.
    last = torch.where(labels >= 0, labels, classes - 1)[:, None]
    columns = torch.arange(classes - 1, device=labels.device)[None]
    columns = torch.cat([columns + (columns >= last), last], dim=1)
    values, order = probabilities.gather(1, columns).sort(dim=1, descending=True, stable=True)
    truth = probabilities.gather(1, last)
    rank = (probabilities >= truth).sum(dim=1) - 1
    return (
        torch.where(finite[:, None], columns.gather(1, order[:, :KEPT]), -1).int(),
        torch.where(finite[:, None], values[:, :KEPT], 0.0),
        torch.where(finite, truth[:, 0], 0.0),
        torch.where(finite, rank, max(classes, KEPT)).int(),
    )


def check_ranked(columns: RankedPictures, pictures: LabelledPictures) -> None:
    """Refuse what cannot be predictions of these pictures.

    Raises:
        UserError: If an id is unknown, a label another one than the picture's, or a probability outside 0..1.
    """

    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            raise UserError(
                f"Classification: {what}, in {int(bad.sum())} of {len(bad)} rows; the first is row {row} (image id "
                f"{columns.image_ids[row]}, label {columns.labels[row]}, probabilities "
                f"{columns.probabilities[row].tolist()})."
            )

    total = len(pictures)
    refuse((columns.image_ids < 0) | (columns.image_ids >= total), f"image id outside 0..{total - 1}")
    refuse(
        columns.labels != pictures.labels[columns.image_ids],
        "label that is not the one of the picture: evaluate with the pictures that were read",
    )
    outside = (columns.probabilities < -1e-3).any(axis=1) | (columns.probabilities > 1.001).any(axis=1)
    refuse(outside | (columns.truth < -1e-3), "probability outside 0..1: expected the output of softmax")
