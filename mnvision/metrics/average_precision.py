"""COCO's precision and recall from flat arrays, in numpy alone.

The rules are those of ``pycocotools.cocoeval`` and the numbers are the same. The speed comes from three facts. Only
boxes that overlap by half can ever match, and they are few. The greedy choice in one picture does not depend on another
picture, so the best detections of all pictures and classes choose together, then the second best ones, and so on. And
a precision curve can only turn upwards where a detection matched: all others are merely counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS: Floats = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)  # per picture and class
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}

_PAIRS_AT_ONCE = 1 << 17  # box pairs compared in one go: bounds the memory and keeps the work in the cache


@dataclass(frozen=True)
class Boxes:
    """The boxes of all pictures: the ground truth, or what a detector found.

    Attributes:
        pictures: int64 [N], 0..I-1, numbered in the order of the image ids.
        classes: int64 [N], 0..K-1.
        xywh: float64 [N, 4], left, top, width and height in pixels.
        areas: float64 [N], square pixels.
    """

    pictures: Ints
    classes: Ints
    xywh: Floats
    areas: Floats

    def take(self, rows: Ints) -> Boxes:
        """The given rows, in the given order."""
        return Boxes(self.pictures[rows], self.classes[rows], self.xywh[rows], self.areas[rows])

    def groups(self, pictures: int) -> Ints:
        """int64 [N], one number for each class and picture; boxes are compared within their group alone."""
        return self.classes * pictures + self.pictures


@dataclass(frozen=True)
class Curves:
    """Precision and recall; -1 where a class has no box to be found.

    T IoU thresholds, R recall levels, K classes, A area ranges, M limits on the detections of a picture and class.

    Attributes:
        precision: float64 [T, R, K, A], with at most ``MAX_DETECTIONS[-1]`` detections.
        recall: float64 [T, K, A, M], the highest recall reached.
    """

    precision: Floats
    recall: Floats


@dataclass(frozen=True)
class _Pairs:
    """P pairs of a detection and a box of the ground truth that overlap enough to match; C detections have any.

    The pairs stand in the order of choosing: first those of the detections whose turn comes first, the pairs of one
    detection side by side, the one it likes best in front.
    """

    found: Ints  # [C], rows of the detections, ascending
    chooser: Ints  # [P], 0..C-1, whose pair it is
    turn: Ints  # [P], ascending: 0 for the best detection of each group, 1 for the second, ...
    truth: Ints  # [P], rows of the ground truth
    iou: Floats  # [P]


def coco_curves(truth: Boxes, crowd: Bools, found: Boxes, scores: NDArray, *, pictures: int, classes: int) -> Curves:
    """Precision and recall of a detector by COCO's rules.

    Args:
        truth: The ground truth. Of equally good boxes of a picture a detection takes the last one.
        crowd: bool [G], regions that swallow any number of detections and count for nothing.
        found: The detections. Equal scores keep their order.
        scores: float [D], finite.
        pictures: How many pictures there are (I).
        classes: How many classes there are (K).

    Source: ``COCOeval.evaluateImg`` and ``COCOeval.accumulate`` of the COCO API (pycocotools).
    """
    order = np.argsort(truth.groups(pictures), kind="stable")
    truth, crowd = truth.take(order), crowd[order]
    order = np.argsort(-scores, kind="stable")
    groups = found.groups(pictures)[order]
    by_group = np.argsort(groups, kind="stable")
    order, groups = order[by_group], groups[by_group]
    rank = _position_in_run(groups)
    kept = rank < MAX_DETECTIONS[-1]
    groups, rank, scores, found = groups[kept], rank[kept], scores[order[kept]], found.take(order[kept])

    pairs = _overlapping_pairs(truth, crowd, truth.groups(pictures), found, groups)
    curves = Curves(
        precision=np.full((len(IOU_THRESHOLDS), len(RECALL_LEVELS), classes, len(AREA_RANGES)), -1.0),
        recall=np.full((len(IOU_THRESHOLDS), classes, len(AREA_RANGES), len(MAX_DETECTIONS)), -1.0),
    )
    # Rows are ordered by class, so each class is a slice of the detections and a slice of the paired ones.
    starts = np.searchsorted(found.classes, np.arange(classes + 1))
    paired_starts = np.searchsorted(pairs.found, starts)
    by_score = [np.argsort(-scores[starts[k] : starts[k + 1]], kind="stable") for k in range(classes)]
    for a, (low, high) in enumerate(AREA_RANGES.values()):
        ignored = crowd | (truth.areas < low) | (truth.areas > high)
        inside = ~((found.areas < low) | (found.areas > high))
        match = _match(pairs, crowd=crowd, ignored=ignored)  # [C, T]
        hit = (match >= 0) & ~ignored[match]
        counted = np.where(match >= 0, hit, inside[pairs.found, None])
        wanted = np.bincount(truth.classes[~ignored], minlength=classes)
        for k in np.flatnonzero(wanted):
            rows = slice(starts[k], starts[k + 1])
            paired = slice(paired_starts[k], paired_starts[k + 1])
            curves.recall[:, k, a, :] = _recall(hit[paired], rank[pairs.found[paired]], wanted[k])
            curves.precision[:, :, k, a] = _precision(
                inside[rows],
                by_score[k],
                pairs.found[paired] - starts[k],
                hit=hit[paired],
                counted=counted[paired],
                wanted=wanted[k],
            )
    return curves


def _position_in_run(keys: Ints) -> Ints:
    """int64 [N], 0, 1, 2, ... within each run of equal keys."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    lengths = np.diff(starts, append=len(keys))
    return np.arange(len(keys)) - np.repeat(starts, lengths)


def _overlapping_pairs(truth: Boxes, crowd: Bools, truth_groups: Ints, found: Boxes, groups: Ints) -> _Pairs:
    """All pairs within a group that reach the lowest IoU threshold; both sides are sorted by group."""
    first = np.searchsorted(truth_groups, groups, "left")
    count = np.searchsorted(truth_groups, groups, "right") - first
    rows = np.flatnonzero(count)  # the detections with anything to compare with
    ends = np.cumsum(count[rows])
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(_PAIRS_AT_ONCE, total, _PAIRS_AT_ONCE))
    parts = []
    for block in np.split(rows, cuts):
        detection = np.repeat(block, count[block])
        box = np.repeat(first[block], count[block]) + _position_in_run(detection)
        iou = _iou(found.xywh[detection], truth.xywh[box], crowd[box])
        close = iou >= IOU_THRESHOLDS[0]
        parts.append((detection[close], box[close], iou[close]))
    detection, box, iou = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    new = np.diff(detection, prepend=-1) != 0
    paired, chooser = detection[new], np.cumsum(new) - 1
    turn = _position_in_run(groups[paired])[chooser]
    order = np.lexsort((-box, -iou, chooser, turn))
    return _Pairs(found=paired, chooser=chooser[order], turn=turn[order], truth=box[order], iou=iou[order])


def _iou(found: Floats, truth: Floats, crowd: Bools) -> Floats:
    """Overlap of row with row, [N]: over the union, or over the detection's own area if the other is a crowd.

    The operations and their order are those of pycocotools' ``bbIou``, so that no rounding differs.
    """
    (left, top, width, height), (left_, top_, width_, height_) = found.T.copy(), truth.T.copy()
    shared_width = np.minimum(width + left, width_ + left_) - np.maximum(left, left_)
    shared_height = np.minimum(height + top, height_ + top_) - np.maximum(top, top_)
    shared = np.where((shared_width > 0) & (shared_height > 0), shared_width * shared_height, 0.0)
    area = width * height
    union = np.where(crowd, area, area + width_ * height_ - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _match(pairs: _Pairs, *, crowd: Bools, ignored: Bools) -> Ints:
    """The row of the ground truth that each paired detection gets at each threshold, int64 [C, T]; -1 for none.

    A detection takes the free box with the highest IoU, one that is not ignored if it can. A taken box stays taken,
    crowds excepted.
    """
    # Ignored boxes go behind the others of the same detection.
    place = np.cumsum(np.diff(pairs.chooser, prepend=-1) != 0)
    order = np.argsort(place * 2 + ignored[pairs.truth], kind="stable")
    truth = pairs.truth[order]
    enough = pairs.iou[order, None] >= IOU_THRESHOLDS  # [P, T]

    match = np.full((len(pairs.found), len(IOU_THRESHOLDS)), -1)
    taken = np.zeros((len(ignored), len(IOU_THRESHOLDS)), np.bool_)
    turns = np.flatnonzero(np.diff(pairs.turn, prepend=-1))
    for begin, end in pairwise([*turns.tolist(), len(pairs.turn)]):
        chooser, box = pairs.chooser[begin:end], truth[begin:end]
        firsts = np.flatnonzero(np.diff(chooser, prepend=-1))
        free = enough[begin:end] & (crowd[box, None] | ~taken[box])
        position = np.where(free, np.arange(end - begin)[:, None], end - begin)
        choice = np.minimum.reduceat(position, firsts, axis=0)  # [detections of this turn, T]
        chosen = np.append(box, -1)[choice]
        match[chooser[firsts]] = chosen
        row, threshold = np.nonzero(chosen >= 0)
        taken[chosen[row, threshold], threshold] = True
    return match


def _recall(hit: Bools, rank: Ints, wanted: int) -> Floats:
    """The highest recall with at most 1, 10 and 100 detections of a picture, [T, M], from hits [C, T]."""
    return np.stack([np.count_nonzero(hit[rank < limit], axis=0) for limit in MAX_DETECTIONS], axis=1) / wanted


def _precision(inside: Bools, by_score: Ints, paired: Ints, *, hit: Bools, counted: Bools, wanted: int) -> Floats:
    """Precision at the recall levels, [T, R], of one class and area range.

    Args:
        inside: bool [D], whether a detection would count were it unmatched.
        by_score: int64 [D], the order of falling scores.
        paired: int64 [C], the detections that ``hit`` and ``counted`` speak of.
        hit: bool [C, T], matched to a box that counts.
        counted: bool [C, T], neither matched to an ignored box nor unmatched and outside the area range.
        wanted: How many boxes there are to be found.
    """
    place = np.empty(len(by_score), np.int64)
    place[by_score] = np.arange(len(by_score))
    place = place[paired]
    order = np.argsort(place)
    place, paired, hit, counted = place[order], paired[order], hit[order], counted[order]
    hits = np.cumsum(hit, axis=0).astype(np.float64)
    # All detections so far, as if none were matched; then the paired ones as they really count.
    so_far = np.cumsum(inside[by_score])[place, None] + np.cumsum(
        counted.astype(np.int64) - inside[paired, None], axis=0
    )
    precision = hits / (so_far + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    envelope = np.concatenate([envelope, np.zeros_like(envelope, shape=(1, hit.shape[1]))])  # past the last recall
    recall = hits / wanted
    return np.stack([envelope[np.searchsorted(recall[:, t], RECALL_LEVELS), t] for t in range(hit.shape[1])])
