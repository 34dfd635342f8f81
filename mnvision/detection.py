"""What a detection run does of its own: what judges it, and what it prints, draws and writes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnvision.annotations import Annotations
from mnvision.data.splits import Split
from mnvision.errors import UserError
from mnvision.metrics.coco import CocoMetric, class_table, coco_table
from mnvision.metrics.detections import write_predictions
from mnvision.models.base import ModelSpec, TaskModel
from mnvision.models.detector import Detector
from mnvision.ops.image import read_image
from mnvision.outputs import annotated_names, write_picture
from mnvision.report_plans import DETECTION
from mnvision.types import Detections
from mnvision.visualize import draw_detections

logger = logging.getLogger(__name__)

CHOSEN_BY = "score_threshold"  # how much predict tells of a picture
COLUMNS: Mapping[str, str] = {"AP": "val/map", "AP50": "val/map_50"}  # what the line of an epoch tells
PLAN = DETECTION
PICTURE_THRESHOLD = 0.5  # weaker detections are left out of the annotated pictures


def make_metric(annotations: Annotations) -> CocoMetric:
    """COCO's numbers."""
    return CocoMetric(annotations)


def summary(metric: CocoMetric, numbers: Mapping[str, float]) -> str:
    """COCO's table, and the average precision of the best and the worst classes."""
    return f"{coco_table(numbers)}\n\n{class_table(metric.per_class(), ends=10)}"


def by_class(metric: CocoMetric) -> tuple[dict[str, float], dict[str, float]]:
    """Average precision of each class, and that at an IoU of 0.50."""
    return metric.per_class(), metric.per_class(number="map_50")


def write_results(metric: CocoMetric, folder: Path) -> None:
    """Write ``predictions.json`` in COCO's results format."""
    write_predictions(metric.results(), folder / "predictions.json")


def write_pictures(
    model: TaskModel, data: Any, split: Split, *, metric: CocoMetric, folder: Path, count: int
) -> list[Path]:
    """Draw detections and ground truth of some pictures of a split into ``pictures/``."""
    return draw_pictures(model, data.load_split(split), data.image_folder(split), folder=folder, count=count)


def draw_pictures(
    model: TaskModel, annotations: Annotations, image_folder: Path, *, folder: Path, count: int
) -> list[Path]:
    """Draw the detections and the ground truth of some pictures, spread evenly over a split, into ``pictures/``.

    A picture that cannot be read is left out: the numbers of the run are there already.
    """
    chosen = np.unique(np.linspace(0, len(annotations) - 1, min(count, len(annotations))).round().astype(int)).tolist()
    sources = [image_folder / annotations.file_name(index) for index in chosen]
    written = []
    model.eval()
    for index, source, name in zip(chosen, sources, annotated_names(sources), strict=True):
        try:
            image = read_image(source)
        except UserError as error:
            logger.warning("not drawn: %s", error)
            continue
        rows = annotations.rows(index)
        drawn = draw_detections(
            image,
            model.predict([image])[0],
            annotations.classes,
            score_threshold=PICTURE_THRESHOLD,
            ground_truth=annotations.boxes[rows],
        )
        path = folder / "pictures" / name
        write_picture(path, drawn)
        written.append(path)
    return written


def predict(model: Detector, images: Sequence[np.ndarray], *, cfg: Mapping[str, Any]) -> list[Detections]:
    """The detections of pictures uint8 [H, W, 3] that score at least ``score_threshold``."""
    return model.predict(images, score_threshold=cfg["score_threshold"])


def draw(image: np.ndarray, found: Detections, *, spec: ModelSpec) -> np.ndarray:
    """Boxes on a copy of the picture."""
    return draw_detections(image, found, spec.classes)


def entry(found: Detections, *, spec: ModelSpec) -> dict[str, Any]:
    """A picture's part of ``predictions.json``; boxes are x1, y1, x2, y2 in pixels of the upright picture."""
    return {
        "detections": [
            {
                "label": spec.classes[label - 1],
                "category_id": spec.category_ids[label - 1],
                "score": round(score, 5),
                "box": [round(value, 2) for value in box],
            }
            for box, score, label in zip(
                found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
            )
        ]
    }


def write_entries(
    entries: Sequence[dict[str, Any]],
    found: Sequence[Detections],
    folder: Path,
    *,
    model: TaskModel,
    cfg: Mapping[str, Any],
) -> str:
    """Nothing more than the JSON file."""
    count = sum(len(picture["detections"]) for picture in entries)
    hint = "" if count else "; lower score_threshold shows weaker ones"
    return f"{count} detections in {len(entries)} pictures{hint}"
