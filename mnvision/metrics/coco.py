"""COCO's twelve numbers: as a function of flat arrays, and as a metric that is fed batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from mnvision.annotations import Annotations
from mnvision.metrics.average_precision import AREA_RANGES, IOU_THRESHOLDS, MAX_DETECTIONS, Boxes, Curves, coco_curves
from mnvision.metrics.detections import DetectionArrays, check_detections, to_results, to_xywh
from mnvision.metrics.gathering import gather_columns, joined
from mnvision.metrics.reference import library_curves
from mnvision.ops.processes import rank_and_size
from mnvision.types import Detections, Targets, UserError

logger = logging.getLogger(__name__)

Backend = Literal["auto", "numpy", "faster_coco_eval", "pycocotools"]


class _Number(NamedTuple):
    """How one of COCO's numbers is cut out of the curves: indices, and all IoU thresholds where ``iou`` is None."""

    curve: Literal["precision", "recall"]
    iou: int | None = None
    area: int = 0
    limit: int = 2


_NUMBERS = {
    "map": _Number("precision"),
    "map_50": _Number("precision", iou=0),
    "map_75": _Number("precision", iou=5),
    "map_small": _Number("precision", area=1),
    "map_medium": _Number("precision", area=2),
    "map_large": _Number("precision", area=3),
    "mar_1": _Number("recall", limit=0),
    "mar_10": _Number("recall", limit=1),
    "mar_100": _Number("recall", limit=2),
    "mar_small": _Number("recall", area=1),
    "mar_medium": _Number("recall", area=2),
    "mar_large": _Number("recall", area=3),
}
COCO_NUMBERS = tuple(_NUMBERS)


def coco_evaluate(
    annotations: Annotations,
    detections: DetectionArrays,
    *,
    backend: Backend = "auto",
    image_ids: np.ndarray | None = None,
) -> dict[str, float]:
    """Average precision and recall by COCO's rules.

    Args:
        annotations: The ground truth. Crowds, stated areas and degenerate boxes count as in the reference evaluation.
        detections: The detections; a picture without any simply has none.
        backend: ``numpy`` (that is what ``auto`` means) is by far the fastest; ``faster_coco_eval`` and
            ``pycocotools`` ask those libraries and give the same numbers.
        image_ids: int64, the pictures to evaluate; all by default. Detections in other pictures are left out.

    Returns:
        The numbers named in ``COCO_NUMBERS``, then ``map/<class>`` and ``map_50/<class>`` of each class; -1 where
        there is nothing to be found.

    Raises:
        UserError: If the backend is unknown or missing, or the pictures or detections do not fit the annotations.
    """
    if backend not in get_args(Backend):
        raise UserError(
            f"COCO evaluation: unknown backend {backend!r}, expected one of {', '.join(get_args(Backend))}."
        )
    check_detections(detections, annotations)
    if image_ids is None:
        image_ids = annotations.image_ids
    else:
        unknown = np.setdiff1d(image_ids, annotations.image_ids)
        if len(unknown):
            raise UserError(
                f"COCO evaluation: {len(unknown)} of the image ids to evaluate are not among the {len(annotations)} of "
                f"the annotations; the first is {unknown[0]}. Use the annotations that belong to the pictures."
            )
        detections = detections.take(np.isin(detections.image_ids, image_ids))
    image_ids = np.unique(image_ids)
    if backend in ("auto", "numpy"):
        curves = _numpy_curves(annotations, detections, image_ids)
    else:
        curves = library_curves(backend, annotations, detections, image_ids=image_ids)
    return _summarise(curves, annotations.classes)


def _numpy_curves(annotations: Annotations, detections: DetectionArrays, image_ids: np.ndarray) -> Curves:
    truth_ids = np.repeat(annotations.image_ids, np.diff(annotations.offsets))
    rows = np.flatnonzero(np.isin(truth_ids, image_ids))
    truth = Boxes(
        pictures=np.searchsorted(image_ids, truth_ids[rows]),
        classes=annotations.labels[rows] - 1,
        xywh=to_xywh(annotations.boxes[rows]),
        areas=annotations.areas[rows],
    )
    xywh = to_xywh(detections.boxes)
    found = Boxes(
        pictures=np.searchsorted(image_ids, detections.image_ids),
        classes=detections.labels.astype(np.int64) - 1,
        xywh=xywh,
        areas=xywh[:, 2] * xywh[:, 3],
    )
    return coco_curves(
        truth,
        annotations.crowd[rows],
        found,
        detections.scores,
        pictures=len(image_ids),
        classes=len(annotations.classes),
    )


def _summarise(curves: Curves, classes: Sequence[str]) -> dict[str, float]:
    """The named numbers: means over everything that is defined, -1 where nothing is."""

    def mean(values: np.ndarray) -> float:
        defined = values[values > -1]
        return float(defined.mean()) if len(defined) else -1.0

    numbers = {}
    for name, number in _NUMBERS.items():
        thresholds = slice(None) if number.iou is None else number.iou
        if number.curve == "precision":
            numbers[name] = mean(curves.precision[thresholds, ..., number.area])
        else:
            numbers[name] = mean(curves.recall[thresholds, ..., number.area, number.limit])
    for index, name in enumerate(classes):
        numbers[f"map/{name}"] = mean(curves.precision[:, :, index, 0])
        numbers[f"map_50/{name}"] = mean(curves.precision[0, :, index, 0])
    return numbers


class CocoMetric:
    """COCO's numbers of a detector, collected batch by batch and, if there are several processes, from all of them.

    Every picture counts once: of a picture that arrives twice (a distributed sampler pads its shards) the first
    prediction is kept. Only pictures that arrived are evaluated, so a validation on a limited number of batches gives
    the numbers of those; :meth:`compute` logs a warning if they are not all.

    Args:
        annotations: The ground truth of the whole split.
        backend: As for :func:`coco_evaluate`.
    """

    def __init__(self, annotations: Annotations, *, backend: Backend = "auto") -> None:
        self.annotations = annotations
        self.backend: Backend = backend
        self._warned: int | None = None  # the number of pictures in the last warning
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._image_ids: list[Tensor] = []
        self._counts: list[int] = []
        self._columns: list[tuple[Tensor, Tensor, Tensor]] = []  # labels, boxes, scores of a batch, where they were
        self._gathered: tuple[np.ndarray, DetectionArrays] | None = None
        self._numbers: dict[str, float] | None = None

    def update(self, predictions: Sequence[Detections], targets: Targets) -> None:
        """Add the predictions of a batch; nothing is copied off the device before :meth:`compute`.

        Args:
            predictions: One for each picture, in original image pixels.
            targets: The ground truth of the same pictures, of which only the image ids are used.

        Raises:
            UserError: If there is not one prediction for each picture.
        """
        if len(predictions) != len(targets.image_ids):
            raise UserError(
                f"CocoMetric.update: {len(predictions)} predictions for {len(targets.image_ids)} pictures; expected "
                "one for each picture, an empty one where nothing was found."
            )
        self._gathered = self._numbers = None
        if not predictions:
            return
        self._image_ids.append(targets.image_ids.detach())
        self._counts.extend(len(prediction.scores) for prediction in predictions)
        self._columns.append(
            (
                torch.cat([prediction.labels for prediction in predictions]).detach().long(),
                torch.cat([prediction.boxes for prediction in predictions]).detach().float(),
                torch.cat([prediction.scores for prediction in predictions]).detach().float(),
            )
        )

    def compute(self) -> dict[str, float]:
        """The twelve numbers under the names in ``COCO_NUMBERS``.

        With several processes all must call it, and all get the same numbers.
        """
        # Gathered anew each time: whether another process still has an up to date copy cannot be known here.
        self._gathered, self._numbers = self._gather(), None
        numbers = self._all_numbers()
        return {name: numbers[name] for name in COCO_NUMBERS}

    def per_class(self, *, number: Literal["map", "map_50"] = "map") -> dict[str, float]:
        """The average precision of each class by its name, -1 where the class does not occur.

        With several processes, call :meth:`compute` on all of them before.
        """
        numbers = self._all_numbers()
        return {name: numbers[f"{number}/{name}"] for name in self.annotations.classes}

    def results(self) -> list[dict[str, Any]]:
        """All detections in COCO's results format, with original category ids, in the order of the annotations.

        With several processes, call :meth:`compute` on all of them before.
        """
        _, detections = self._predictions()
        ids = self.annotations.image_ids
        by_id = np.argsort(ids)
        position = by_id[np.searchsorted(ids, detections.image_ids, sorter=by_id)]
        return to_results(detections.take(np.argsort(position, kind="stable")), self.annotations.category_ids)

    def _all_numbers(self) -> dict[str, float]:
        if self._numbers is None:
            image_ids, detections = self._predictions()
            seen, total = len(image_ids), len(self.annotations)
            if seen < total and seen != self._warned and rank_and_size()[0] == 0:
                logger.warning("COCO evaluation of %d pictures of %d: the others were not predicted.", seen, total)
            self._warned = seen
            self._numbers = coco_evaluate(self.annotations, detections, backend=self.backend, image_ids=image_ids)
        return self._numbers

    def _predictions(self) -> tuple[np.ndarray, DetectionArrays]:
        if self._gathered is None:
            if rank_and_size()[1] > 1:
                raise RuntimeError("CocoMetric: call compute() on every process first; it gathers the predictions.")
            self._gathered = self._gather()
        return self._gathered

    def _gather(self) -> tuple[np.ndarray, DetectionArrays]:
        """The ids of all pictures seen by any process, each once, and their detections."""
        image_ids, counts, labels, boxes, scores = gather_columns(self._shard())
        unique, first = np.unique(image_ids, return_index=True)
        keep = np.zeros(len(image_ids), np.bool_)
        keep[first] = True
        detections = DetectionArrays(np.repeat(image_ids, counts), labels, boxes, scores)
        return unique, detections.take(np.repeat(keep, counts))

    def _shard(self) -> tuple[np.ndarray, ...]:
        """What this process has seen: image ids and counts [pictures]; labels, boxes and scores [detections]."""
        labels, boxes, scores = zip(*self._columns, strict=True) if self._columns else ((), (), ())
        return (
            joined(self._image_ids, empty=np.zeros(0, np.int64)),
            np.array(self._counts, dtype=np.int64),
            joined(labels, empty=np.zeros(0, np.int64)),
            joined(boxes, empty=np.zeros((0, 4), np.float32)),
            joined(scores, empty=np.zeros(0, np.float32)),
        )


def coco_table(numbers: Mapping[str, float]) -> str:
    """The twelve numbers as text, each with what it is measured at; a dash where one is undefined."""
    lines = [f"{'':<11} {'IoU':<10} {'area':<7} {'limit':>5} {'value':>8}"]
    areas = tuple(AREA_RANGES)
    for name, (_, iou, area, limit) in _NUMBERS.items():
        first, last = (0, -1) if iou is None else (iou, iou)
        span = f"{IOU_THRESHOLDS[first]:.2f}" + (f":{IOU_THRESHOLDS[last]:.2f}" if first != last else "")
        value = _text(numbers[name])
        lines.append(f"{name:<11} {span:<10} {areas[area]:<7} {MAX_DETECTIONS[limit]:>5} {value:>8}")
    return "\n".join(lines)


def class_table(ap: Mapping[str, float], *, ap_50: Mapping[str, float] | None = None, ends: int | None = None) -> str:
    """The average precision of each class as text, best first; classes that do not occur come last, with a dash.

    Args:
        ap: By class name, as :meth:`CocoMetric.per_class` gives it.
        ap_50: The same at an IoU of 0.50, for a second column.
        ends: Show only so many of the best and of the worst classes that occur; all classes by default.
    """
    columns = {"map": ap} if ap_50 is None else {"map": ap, "map_50": ap_50}
    names = sorted(ap, key=lambda name: -ap[name])
    width = max((len(name) for name in names), default=0)
    lines = [
        f"{name:<{width}}" + "".join(f" {_text(column[name]):>8}" for column in columns.values()) for name in names
    ]
    if ends is not None:
        lines = lines[: sum(value >= 0 for value in ap.values())]
        hidden = len(lines) - 2 * ends
        if hidden > 0:
            lines[ends : ends + hidden] = [f"... {hidden} more"]
    return "\n".join([" " * width + "".join(f" {title:>8}" for title in columns), *lines])


def _text(value: float) -> str:
    return f"{value:.4f}" if value >= 0 else "-"
