"""COCO problems as the files state them, and their numbers by plain pycocotools: what the metric is held against."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mnvision.annotations import Annotations
from mnvision.metrics.coco import COCO_NUMBERS
from mnvision.metrics.detections import DetectionArrays

Dataset = dict[str, list[dict[str, Any]]]
Results = list[dict[str, Any]]


def make_annotations(dataset: Dataset) -> Annotations:
    """The arrays that a reader makes of an annotation file: corners are left + width, top + height."""
    category_ids = [category["id"] for category in dataset["categories"]]
    image_ids = [image["id"] for image in dataset["images"]]
    rows = [[row for row in dataset["annotations"] if row["image_id"] == image_id] for image_id in image_ids]
    flat = [row for image_rows in rows for row in image_rows]
    xywh = np.array([row["bbox"] for row in flat], dtype=np.float64).reshape(-1, 4)
    return Annotations(
        image_ids=np.array(image_ids, dtype=np.int64),
        file_names=np.array([f"{image_id}.jpg".encode() for image_id in image_ids], dtype=bytes),
        sizes=np.full((len(image_ids), 2), 100, dtype=np.int32),
        offsets=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        labels=np.array([category_ids.index(row["category_id"]) + 1 for row in flat], dtype=np.int64),
        areas=np.array([row["area"] for row in flat], dtype=np.float64),
        crowd=np.array([row["iscrowd"] for row in flat], dtype=np.bool_),
        usable=(xywh[:, 2:] > 0).all(axis=1),
        classes=tuple(category["name"] for category in dataset["categories"]),
        category_ids=tuple(category_ids),
    )


def make_arrays(results: Results, dataset: Dataset) -> DetectionArrays:
    category_ids = [category["id"] for category in dataset["categories"]]
    xywh = np.array([row["bbox"] for row in results], dtype=np.float64).reshape(-1, 4)
    return DetectionArrays(
        image_ids=np.array([row["image_id"] for row in results], dtype=np.int64),
        labels=np.array([category_ids.index(row["category_id"]) + 1 for row in results], dtype=np.int64),
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        scores=np.array([row["score"] for row in results], dtype=np.float64),
    )


def pycocotools_numbers(dataset: Dataset, results: Results) -> dict[str, float]:
    """The twelve numbers and those of each class, by pycocotools on the dicts as they are."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(dataset)
        truth.createIndex()
        if results:
            found = truth.loadRes(copy.deepcopy(results))
        else:  # which loadRes cannot read
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = dict(zip(COCO_NUMBERS, evaluation.stats.tolist(), strict=True))
    precision = evaluation.eval["precision"]
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    for index, category_id in enumerate(evaluation.params.catIds):
        for key, values in (("map", precision[:, :, index, 0, -1]), ("map_50", precision[0, :, index, 0, -1])):
            values = values[values > -1]
            numbers[f"{key}/{names[category_id]}"] = float(np.mean(values)) if len(values) else -1.0
    return numbers


def make_dataset(
    annotations: list[dict[str, Any]], *, images: int = 3, categories: tuple[int, ...] = (1, 7)
) -> Dataset:
    """A file of which only the annotations matter; ``area`` and ``iscrowd`` may be left out."""
    return {
        "images": [{"id": number} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": f"class {number}"} for number in categories],
        "annotations": [
            {"id": i, "area": float(row["bbox"][2] * row["bbox"][3]), "iscrowd": 0, **row}
            for i, row in enumerate(annotations, start=1)
        ],
    }


def random_problem(seed: int) -> tuple[Dataset, Results]:
    """A small nasty problem: gaps in the ids, ids in no order, crowds, areas unlike w * h, ties, duplicates, crowding.

    Boxes are jittered copies of few boxes, on a coarse grid for even seeds, so that equal overlaps and overlaps of
    exactly one half are common.
    """
    rng = np.random.default_rng(seed)
    decimals = 0 if seed % 2 == 0 else 2
    image_ids = rng.permutation(1000)[: rng.integers(1, 7)].tolist()
    category_ids = rng.permutation(np.arange(1, 30))[: rng.integers(1, 5)].tolist()
    scale = rng.choice([20.0, 60.0, 200.0])  # small, medium and large by COCO's bounds
    anchors = np.concatenate([rng.uniform(0, scale, (6, 2)), rng.uniform(0.3, 1.5, (6, 2)) * scale], axis=1)

    def box() -> list[float]:
        xywh = anchors[rng.integers(len(anchors))] + rng.choice([0.0, 0.03, 0.15]) * scale * rng.normal(size=4)
        return [*xywh[:2].round(decimals).tolist(), *np.maximum(xywh[2:], 0).round(decimals).tolist()]

    annotations = []
    for _ in range(rng.integers(0, 30)):
        bbox = box()
        area = float(bbox[2] * bbox[3] * rng.choice([1.0, 0.3, rng.uniform(0, 1.2)]))
        image_id, category_id = (int(rng.choice(ids)) for ids in (image_ids, category_ids))
        crowd = int(rng.random() < 0.15)
        row = {"image_id": image_id, "category_id": category_id, "bbox": bbox, "area": area, "iscrowd": crowd}
        annotations += [row] * (1 + (rng.random() < 0.1))
    results = [
        {
            "image_id": int(rng.choice(image_ids)),
            "category_id": int(rng.choice(category_ids)),
            "bbox": box(),
            "score": float(rng.random().__round__(1 if rng.random() < 0.7 else 6)),
        }
        for _ in range(rng.choice([0, 5, 40, 400], p=[0.05, 0.25, 0.5, 0.2]))
    ]
    dataset = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids],
        "annotations": [{**row, "id": i} for i, row in enumerate(annotations, start=1)],
    }
    return dataset, results
