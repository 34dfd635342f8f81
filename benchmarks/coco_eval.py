"""How much faster the COCO evaluation is than pycocotools, and whether the twelve numbers are the same.

Made-up data of the size of COCO's val2017: 5,000 pictures, 80 classes, about 7 boxes a picture, 100 detections a
picture. Some detections are jittered boxes of the ground truth, sometimes several of one box, the rest are anywhere.
Both sides start from arrays in memory and are timed to the end, everything that they need to load included:
pycocotools with ``COCO.createIndex``, ``COCO.loadRes``, ``evaluate``, ``accumulate`` and ``summarize``.

    python benchmarks/coco_eval.py            # a minute or two, almost all of it pycocotools
    python benchmarks/coco_eval.py --quick    # a tenth of the pictures
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable

import numpy as np

from mnvision.annotations import Annotations
from mnvision.metrics.coco import COCO_NUMBERS, coco_evaluate, coco_table
from mnvision.metrics.detections import DetectionArrays, to_xywh

CLASSES = 80
DETECTIONS = 100  # a picture
SIDE = 640.0


def make_problem(pictures: int, *, seed: int) -> tuple[Annotations, DetectionArrays]:
    """A ground truth and detections whose overlaps, sizes, class frequencies and scores look like real ones."""
    rng = np.random.default_rng(seed)
    counts = np.minimum(rng.geometric(1 / 8.3, pictures) - 1, 60)  # mean 7, some pictures empty
    picture = np.repeat(np.arange(pictures), counts)
    # A few classes a picture, common ones more often: a picture's boxes choose among three draws of its own.
    frequency = 1 / np.arange(1, CLASSES + 1)
    themes = rng.choice(CLASSES, size=(pictures, 3), p=frequency / frequency.sum())
    labels = themes[picture, rng.integers(0, 3, len(picture))] + 1
    boxes = _random_boxes(rng, len(picture))
    sizes = boxes[:, 2:] - boxes[:, :2]
    annotations = Annotations(
        image_ids=np.sort(rng.choice(600_000, pictures, replace=False)).astype(np.int64),
        file_names=np.full(pictures, b"-"),
        sizes=np.full((pictures, 2), SIDE, np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=labels.astype(np.int64),
        areas=sizes.prod(axis=1) * rng.uniform(0.3, 1.0, len(boxes)),  # a segment is smaller than its box
        crowd=rng.random(len(boxes)) < 0.01,
        usable=np.ones(len(boxes), np.bool_),
        classes=tuple(f"class {number}" for number in range(1, CLASSES + 1)),
        category_ids=tuple(range(1, CLASSES + 1)),
    )

    total = pictures * DETECTIONS
    where = np.repeat(np.arange(pictures), DETECTIONS)
    true = (rng.random(total) < 0.4) & (counts[where] > 0)
    source = annotations.offsets[where] + (rng.random(total) * counts[where]).astype(np.int64)
    source = np.minimum(source, len(boxes) - 1)
    side = np.tile(sizes[source], 2)
    found = np.where(true[:, None], boxes[source] + rng.normal(0, 0.1, (total, 4)) * side, _random_boxes(rng, total))
    found = np.concatenate([np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])], axis=1)
    right = true & (rng.random(total) < 0.85)
    guesses = np.where(
        rng.random(total) < 0.7, themes[where, rng.integers(0, 3, total)], rng.integers(0, CLASSES, total)
    )
    scores = np.where(right, rng.beta(2, 2, total), rng.beta(1, 6, total))
    return annotations, DetectionArrays(
        image_ids=annotations.image_ids[where],
        labels=np.where(right, annotations.labels[source], guesses + 1).astype(np.int64),
        boxes=found.astype(np.float32),
        scores=scores.astype(np.float32),
    )


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """float64 [count, 4] xyxy inside the picture, small ones more often than large ones."""
    size = SIDE * np.exp(rng.uniform(np.log(0.015), np.log(0.8), count))[:, None] * rng.uniform(0.7, 1.4, (count, 2))
    size = np.minimum(size, SIDE - 1)
    start = rng.random((count, 2)) * (SIDE - size)
    return np.concatenate([start, start + size], axis=1).round(2)


def pycocotools_numbers(annotations: Annotations, detections: DetectionArrays) -> dict[str, float]:
    """The twelve numbers by pycocotools alone, through none of our code but the change of box format."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    image_ids = np.repeat(annotations.image_ids, np.diff(annotations.offsets)).tolist()
    columns = (annotations.labels, to_xywh(annotations.boxes), annotations.areas, annotations.crowd.astype(int))
    rows = zip(image_ids, *(column.tolist() for column in columns), strict=True)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image_id} for image_id in annotations.image_ids.tolist()],
        "categories": [{"id": number} for number in annotations.category_ids],
        "annotations": [
            {"id": i, "image_id": image_id, "category_id": label, "bbox": box, "area": area, "iscrowd": crowd}
            for i, (image_id, label, box, area, crowd) in enumerate(rows, start=1)
        ],
    }
    truth.createIndex()
    table = (detections.image_ids[:, None], to_xywh(detections.boxes), detections.scores[:, None])
    evaluation = COCOeval(
        truth, truth.loadRes(np.concatenate([*table, detections.labels[:, None]], axis=1)), iouType="bbox"
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(COCO_NUMBERS, evaluation.stats.tolist(), strict=True))


def timed(run: Callable[[], dict[str, float]], *, repeats: int) -> tuple[dict[str, float], float]:
    """What a function returns, and the median of its seconds; its prints are swallowed."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            numbers = run()
        seconds.append(time.perf_counter() - start)
    return numbers, float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="500 pictures in place of 5,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours, of which the median counts")
    parser.add_argument("--library", action="store_true", help="also time the backend faster_coco_eval")
    options = parser.parse_args()

    annotations, detections = make_problem(500 if options.quick else 5000, seed=options.seed)
    print(
        f"{len(annotations)} pictures, {CLASSES} classes, {len(annotations.boxes)} boxes, {len(detections)} detections"
    )
    ours, ours_seconds = timed(lambda: coco_evaluate(annotations, detections), repeats=options.repeats)
    print(f"{coco_table(ours)}\n\n{'mnvision':<17} {ours_seconds:7.2f} s")

    others = {"pycocotools": lambda: pycocotools_numbers(annotations, detections)}
    if options.library:
        others["faster_coco_eval"] = lambda: coco_evaluate(annotations, detections, backend="faster_coco_eval")
    for name, run in others.items():
        numbers, seconds = timed(run, repeats=1)
        difference = max(abs(ours[number] - numbers[number]) for number in COCO_NUMBERS)
        print(f"{name:<17} {seconds:7.2f} s   {seconds / ours_seconds:5.1f} x   largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
