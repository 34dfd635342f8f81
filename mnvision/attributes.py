"""What a run on attributes does of its own: what judges it, and what it prints, draws and writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.class_pictures import NEUTRAL, RIGHT, WRONG, Caption, draw_label, mistakes_sheet
from mnvision.data.splits import Split
from mnvision.files import csv_text, write_text
from mnvision.metrics.attribute_tables import attribute_table, number_table
from mnvision.metrics.attributes import AttributeMetric, AttributeRow
from mnvision.models.attributes import AttributeNetwork
from mnvision.models.base import ModelSpec, TaskModel, check_finite
from mnvision.outputs import pixels_of, write_picture
from mnvision.report_plans import ATTRIBUTES

logger = logging.getLogger(__name__)

CHOSEN_BY = "score_threshold"  # how much predict tells of a picture
COLUMNS: Mapping[str, str] = {"mean AP": "val/mean_ap", "balanced": "val/balanced_accuracy"}  # of an epoch's line
PLAN = ATTRIBUTES
MISTAKES = 25  # on the sheet
LINES = 8  # under a picture
LOGGED_ATTRIBUTES = 120


class Found(NamedTuple):
    """The probability of each attribute of a picture, and from which one on it counts as present."""

    probabilities: list[float]
    threshold: float


def make_metric(pictures: LabelledPictures) -> AttributeMetric:
    """Average precision and its like; that of each attribute is logged where they are not too many to read."""
    return AttributeMetric(pictures, by_attribute=len(pictures.classes) <= LOGGED_ATTRIBUTES)


def summary(metric: AttributeMetric, numbers: Mapping[str, float]) -> str:
    """The few numbers, and those of each attribute: of many the best and the worst."""
    return f"{number_table(numbers)}\n\n{attribute_table(metric.per_attribute(), ends=20)}"


def by_class(metric: AttributeMetric) -> tuple[dict[str, float], dict[str, float]]:
    """Average precision of each attribute, and that of a constant answer."""
    rows = metric.per_attribute()
    return {row.name: row.ap for row in rows}, {row.name: row.share for row in rows}


def write_results(metric: AttributeMetric, folder: Path) -> None:
    """Write ``predictions.json``, and the numbers of each attribute as ``attributes.csv``."""
    write_text(folder / "predictions.json", json.dumps(metric.results()))
    rows = [[*row] for row in metric.per_attribute()]
    write_text(folder / "attributes.csv", csv_text([AttributeRow._fields, *rows]))


def write_pictures(
    model: TaskModel, data: Any, split: Split, *, metric: AttributeMetric, folder: Path, count: int
) -> list[Path]:
    """Write some pictures of a split, spread evenly over it, with what was told of them; and the worst mistakes."""
    dataset, results = data.dataset(split, training=False), metric.results()
    places = np.linspace(0, len(results) - 1, min(count, len(results))).round().astype(int)
    written = []
    for row in [results[place] for place in np.unique(places).tolist()]:
        image = pixels_of(dataset, row["image_id"])
        if image is not None:
            path = folder / "pictures" / f"{row['image_id']:06d}.jpg"
            write_picture(path, draw_label(image, [*judged_lines(row["attributes"]), _name(row["file"])]))
            written.append(path)
    files = {row["image_id"]: row["file"] for row in results}
    images, texts = [], []
    for mistake in metric.mistakes(MISTAKES) if count else []:
        image = pixels_of(dataset, mistake.image_id)
        if image is not None:
            images.append(image)
            said = Caption(metric.names[mistake.attribute], f"{mistake.probability:.0%}", WRONG)
            texts.append(
                [said, Caption(f"is: {'present' if mistake.present else 'absent'}"), _name(files[mistake.image_id])]
            )
    if images:
        write_picture(folder / "mistakes.jpg", mistakes_sheet(images, texts))
    return written


def judged_lines(attributes: Mapping[str, Mapping[str, Any]]) -> list[Caption]:
    """The lines of a picture whose attributes are known: mistakes first, then what was found rightly, surest first.

    Green is what was found and is there, red what was found and is not there, or is there and was not found; grey is
    what was found where the truth is not known.

    Args:
        attributes: ``probability`` and ``truth`` by name, as :meth:`AttributeMetric.results` gives them.
    """
    lines: list[tuple[int, float, Caption]] = []
    for name, one in attributes.items():
        probability, truth = one["probability"], one["truth"]
        told = probability is not None and probability >= 0.5
        text = f"{probability:.0%}" if probability is not None else "-"
        if truth is None:
            if told:
                lines.append((2, -probability, Caption(name, text, NEUTRAL)))
        elif told != truth:
            lines.append((0, 0.0, Caption(f"{'missed' if truth else 'not there'}: {name}", text, WRONG)))
        elif told:
            lines.append((1, -probability, Caption(name, text, RIGHT)))
    return _shortened([line for *_, line in sorted(lines, key=lambda line: line[:2])])


def predict(model: AttributeNetwork, images: Sequence[np.ndarray], *, cfg: Mapping[str, Any]) -> list[Found]:
    """The probabilities of the attributes of pictures uint8 [H, W, 3].

    Raises:
        UserError: They are not finite.
    """
    probabilities = model.predict(images)
    check_finite(probabilities, what="probabilities")
    return [Found(row, cfg["score_threshold"]) for row in probabilities.tolist()]


def draw(image: np.ndarray, found: Found, *, spec: ModelSpec) -> np.ndarray:
    """The attributes that are there, the likeliest first, under a copy of the picture."""
    named = sorted(zip(found.probabilities, spec.classes, strict=True), key=lambda one: -one[0])
    lines = [Caption(name, f"{score:.0%}", NEUTRAL) for score, name in named if score >= found.threshold]
    return draw_label(image, _shortened(lines))


def entry(found: Found, *, spec: ModelSpec) -> dict[str, Any]:
    """A picture's part of ``predictions.json``: all probabilities, and the names of what is there."""
    named = list(zip(spec.classes, found.probabilities, strict=True))
    return {
        "present": [name for name, score in named if score >= found.threshold],
        "probabilities": {name: round(score, 5) for name, score in named},
    }


def write_entries(
    entries: Sequence[dict[str, Any]], found: Sequence[Any], folder: Path, *, model: TaskModel, cfg: Mapping[str, Any]
) -> str:
    """Write ``predictions.csv``: a line a picture, and a column of probabilities for each attribute."""
    names = list(entries[0]["probabilities"]) if entries else []
    rows = [[picture["file"], *(picture["probabilities"][name] for name in names)] for picture in entries]
    write_text(folder / "predictions.csv", csv_text([["file", *names], *rows]))
    return f"{sum(len(picture['present']) for picture in entries)} attributes in {len(entries)} pictures"


def _shortened(lines: list[Caption]) -> list[Caption]:
    """As many lines as there is room for, and at least one."""
    if len(lines) > LINES:
        return [*lines[: LINES - 1], Caption(f"and {len(lines) - LINES + 1} more")]
    return lines or [Caption("no attribute")]


def _name(file: str) -> Caption:
    """The line by which a picture is found again."""
    path = PurePath(file)
    return Caption(f"{path.parent.name}/{path.name}" if path.parent.name else path.name)
