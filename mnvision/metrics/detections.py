"""The detections of many pictures as flat arrays, and as COCO's results file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnvision.annotations import Annotations
from mnvision.files import write_text
from mnvision.types import UserError


@dataclass(frozen=True, eq=False)
class DetectionArrays:
    """The detections of any number of pictures, in any order; among equal scores the order decides.

    Attributes:
        image_ids: int64 [D], the data set's own ids of the pictures.
        labels: int64 [D], 1..K.
        boxes: float [D, 4] xyxy in original image pixels.
        scores: float [D], finite.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, rows: np.ndarray) -> DetectionArrays:
        """The given rows (indices or a mask), in the given order."""
        return DetectionArrays(self.image_ids[rows], self.labels[rows], self.boxes[rows], self.scores[rows])


def check_detections(detections: DetectionArrays, annotations: Annotations) -> None:
    """Refuse detections that cannot be compared with the annotations.

    Raises:
        UserError: If shapes disagree, a label is not among the classes, a picture is unknown, or a number not finite.
    """
    count = len(detections)
    shapes = {name: np.shape(array) for name, array in vars(detections).items()}
    expected = {"image_ids": (count,), "labels": (count,), "boxes": (count, 4), "scores": (count,)}
    if shapes != expected:
        raise UserError(f"Detections: the arrays have the shapes {shapes}, expected {expected}.")

    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            raise UserError(
                f"Detections: {what}, in {int(bad.sum())} of {count} rows; the first is row {row} (image id "
                f"{detections.image_ids[row]}, label {detections.labels[row]}, box {detections.boxes[row].tolist()}, "
                f"score {detections.scores[row]})."
            )

    classes = len(annotations.classes)
    refuse((detections.labels < 1) | (detections.labels > classes), f"label outside 1..{classes}")
    refuse(~np.isin(detections.image_ids, annotations.image_ids), "image id that the annotations do not have")
    refuse(
        ~(np.isfinite(detections.scores) & np.isfinite(detections.boxes).all(axis=1)),
        "score or box that is not finite: the model has probably diverged",
    )


def to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Corners to left, top, width, height: float [N, 4] -> float64 [N, 4].

    A file states widths with few decimals, and ``(left + width) - left`` seldom gives them back to the last bit. Where
    the width rounded to six decimals leads to the same corner, it is taken to be the one that was stated, so that
    overlaps are computed from the very numbers of the file.
    """
    boxes = boxes.astype(np.float64, copy=False)
    start, end = boxes[:, :2], boxes[:, 2:]
    size = end - start
    stated = np.round(size, 6)
    return np.concatenate([start, np.where(start + stated == end, stated, size)], axis=1)


def to_results(detections: DetectionArrays, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's results format: one dict a detection, with the data set's own category ids and boxes xywh in pixels."""
    ids = np.asarray(category_ids, dtype=np.int64)[detections.labels - 1]
    columns = (detections.image_ids, ids, to_xywh(detections.boxes), detections.scores)
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for image_id, category_id, box, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def write_predictions(results: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Write COCO results as JSON; the file appears whole or not at all.

    Args:
        results: As :func:`to_results` gives them.
        path: The file; its folder is made if need be.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path)
    write_text(path, json.dumps(list(results), allow_nan=False), what="the predictions")
    return path
