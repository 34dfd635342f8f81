"""COCO's curves from the libraries that define them: pycocotools, and faster_coco_eval with the same interface."""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

import numpy as np

from mnvision.annotations import Annotations
from mnvision.metrics.average_precision import Curves
from mnvision.metrics.detections import DetectionArrays, to_xywh
from mnvision.types import UserError


def library_curves(
    library: str, annotations: Annotations, detections: DetectionArrays, *, image_ids: np.ndarray
) -> Curves:
    """Precision and recall as a library computes them.

    Args:
        library: ``pycocotools`` or ``faster_coco_eval``.
        annotations: The ground truth. Labels stand in for the category ids.
        detections: The detections in the pictures to evaluate.
        image_ids: int64 [I], the pictures to evaluate.

    Raises:
        UserError: If the library cannot be imported.
    """
    try:
        make_coco = importlib.import_module(f"{library}.coco" if library == "pycocotools" else library).COCO
        make_eval = (
            importlib.import_module("pycocotools.cocoeval").COCOeval
            if library == "pycocotools"
            else importlib.import_module(library).COCOeval_faster
        )
    except ImportError as error:
        raise UserError(
            f"COCO evaluation: the backend {library} cannot be imported ({error}). Install it with `pip install "
            f"{library.replace('_', '-')}`, or use the backend numpy, which gives the same numbers."
        ) from error

    truth_rows = {
        "image_id": np.repeat(annotations.image_ids, np.diff(annotations.offsets)),
        "category_id": annotations.labels,
        "bbox": to_xywh(annotations.boxes),
        "area": annotations.areas,
        "iscrowd": annotations.crowd.astype(np.int64),
    }
    boxes = to_xywh(detections.boxes)
    found_rows = {
        "image_id": detections.image_ids,
        "category_id": detections.labels,
        "bbox": boxes,
        "area": boxes[:, 2] * boxes[:, 3],
        "iscrowd": np.zeros(len(detections), np.int64),
        "score": detections.scores,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = make_coco(), make_coco()
        for coco, rows in ((truth, truth_rows), (found, found_rows)):
            coco.dataset = {
                "images": [{"id": image_id} for image_id in annotations.image_ids.tolist()],
                "categories": [{"id": label, "name": name} for label, name in enumerate(annotations.classes, start=1)],
                "annotations": _as_dicts(rows),
            }
            coco.createIndex()
        evaluation = make_eval(truth, found, iouType="bbox")
        evaluation.params.imgIds = image_ids.tolist()
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(
        precision=np.asarray(evaluation.eval["precision"])[..., -1], recall=np.asarray(evaluation.eval["recall"])
    )


def _as_dicts(columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows as dicts, numbered from 1: to these libraries a match with id 0 is no match."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"id": number, **dict(zip(columns, row, strict=True))} for number, row in enumerate(rows, start=1)]
