"""What a classification run does of its own: what judges it, and what it prints, draws and writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.class_figures import confusion_picture, reliability_picture
from mnvision.class_pictures import Caption, captions, draw_label, mistakes_sheet
from mnvision.data.splits import Split
from mnvision.figures import save
from mnvision.files import csv_text, write_text
from mnvision.metrics.classification import ClassificationMetric
from mnvision.metrics.classification_tables import accuracy_table, classification_table, confusion_table
from mnvision.models.base import ModelSpec, TaskModel, check_finite
from mnvision.models.classifier import Classifier
from mnvision.outputs import pixels_of, write_picture
from mnvision.report_plans import CLASSIFICATION
from mnvision.wording import counted

logger = logging.getLogger(__name__)

CHOSEN_BY = "top_k"  # how much predict tells of a picture
COLUMNS: Mapping[str, str] = {"top-1": "val/top1", "top-5": "val/top5"}  # what the line of an epoch tells
PLAN = CLASSIFICATION
MISTAKES = 25  # on the sheet
LOGGED_CLASSES = 120  # of Stanford Dogs


class Found(NamedTuple):
    """The most likely classes of a picture: labels and probabilities, best first."""

    labels: list[int]
    scores: list[float]


def make_metric(pictures: LabelledPictures) -> ClassificationMetric:
    """Accuracy, calibration and confusions; each class's accuracy is logged where they are not too many to read."""
    return ClassificationMetric(pictures, by_class=len(pictures.classes) <= LOGGED_CLASSES)


def summary(metric: ClassificationMetric, numbers: Mapping[str, float]) -> str:
    """The few numbers, the best and the worst classes, and what is most often taken for what."""
    tables = [classification_table(numbers), accuracy_table(metric.per_class(), ends=10)]
    if confusions := metric.confusions(8):
        tables.append(f"most frequent mistakes\n{confusion_table(confusions, metric.names)}")
    return "\n\n".join(tables)


def by_class(metric: ClassificationMetric) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracy and precision of each class."""
    rows = metric.per_class()
    return {row.name: row.accuracy for row in rows}, {row.name: row.precision for row in rows}


def write_results(metric: ClassificationMetric, folder: Path) -> None:
    """Write ``predictions.json``, the confusion matrix as CSV, and the two drawings of the report page."""
    write_text(folder / "predictions.json", json.dumps(metric.results()))
    rows = [[name, *row] for name, row in zip(metric.names, metric.confusion().tolist(), strict=True)]
    write_text(folder / "confusion.csv", csv_text([["truth", *metric.names], *rows]))
    save(confusion_picture(metric.confusion(), metric.names), folder / "confusion")
    save(reliability_picture(metric.calibration()), folder / "calibration")


def write_pictures(
    model: TaskModel, data: Any, split: Split, *, metric: ClassificationMetric, folder: Path, count: int
) -> list[Path]:
    """Write some pictures of a split, spread evenly over it, with what they were taken for; and the worst mistakes."""
    dataset, classes = data.dataset(split, training=False), metric.names
    results = metric.results()
    places = np.linspace(0, len(results) - 1, min(count, len(results))).round().astype(int)
    written = []
    for row in [results[place] for place in np.unique(places).tolist()]:
        image = pixels_of(dataset, row["image_id"])
        if image is None:
            continue
        best = row["classes"][0] if row["classes"] else None
        lines = captions(best and best["label"], best["probability"] if best else 0.0, truth=row["truth"])
        lines.append(_name(row["file"]))
        path = folder / "pictures" / f"{row['image_id']:06d}.jpg"
        write_picture(path, draw_label(image, lines))
        written.append(path)
    files = {row["image_id"]: row["file"] for row in results}
    images, texts = [], []
    for mistake in metric.mistakes(MISTAKES) if count else []:
        image = pixels_of(dataset, mistake.image_id)
        if image is not None:
            images.append(image)
            lines = captions(classes[mistake.prediction], mistake.probability, truth=classes[mistake.truth])
            texts.append([*lines, _name(files[mistake.image_id])])
    if images:
        write_picture(folder / "mistakes.jpg", mistakes_sheet(images, texts))
    return written


def predict(model: Classifier, images: Sequence[np.ndarray], *, cfg: Mapping[str, Any]) -> list[Found]:
    """The ``top_k`` most likely classes of pictures uint8 [H, W, 3].

    Raises:
        UserError: The probabilities are not finite.
    """
    probabilities = model.predict(images)
    check_finite(probabilities, what="probabilities")
    scores, labels = probabilities.topk(min(cfg["top_k"], model.num_classes))
    return [Found(*row) for row in zip(labels.tolist(), scores.tolist(), strict=True)]


def draw(image: np.ndarray, found: Found, *, spec: ModelSpec) -> np.ndarray:
    """The most likely classes under a copy of the picture."""
    named = zip(found.labels, found.scores, strict=True)
    return draw_label(image, [line for label, score in named for line in captions(spec.classes[label], score)])


def entry(found: Found, *, spec: ModelSpec) -> dict[str, Any]:
    """A picture's part of ``predictions.json``."""
    columns = (found.labels, found.scores)
    named = [
        {"label": spec.classes[label], "probability": round(score, 5)} for label, score in zip(*columns, strict=True)
    ]
    return {"classes": named}


def write_entries(
    entries: Sequence[dict[str, Any]], found: Sequence[Found], folder: Path, *, model: TaskModel, cfg: Mapping[str, Any]
) -> str:
    """Write ``predictions.csv``: a line a picture, its classes and their probabilities from the best on."""
    most = max((len(picture["classes"]) for picture in entries), default=0)
    rows = [["file", *(title for rank in range(1, most + 1) for title in (f"label_{rank}", f"probability_{rank}"))]]
    for picture in entries:
        cells = (cell for one in picture["classes"] for cell in (one["label"], one["probability"]))
        rows.append([picture["file"], *cells])
    write_text(folder / "predictions.csv", csv_text(rows))
    return f"{counted(len(entries), 'picture')} classified"


def _name(file: str) -> Caption:
    """The line by which a picture is found again."""
    return Caption(PurePath(file).name)
