"""From a detector's raw output to final boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from mnvision.ops.boxes import OffsetWeights, decode, to_centers

# Shorter sides, in pixels, are no box: torchvision's limits.
SMALLEST_PROPOSAL = 1e-3
SMALLEST_BOX = 1e-2


class Candidates(NamedTuple):
    """The best (anchor, class) pairs of each picture, best first.

    Attributes:
        boxes: float32 [B, N, 4] xyxy in input pixels, clipped to the input.
        scores: float32 [B, N]; pairs under the threshold have -1.
        labels: int64 [B, N], 1..K.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def best_candidates(
    scores: Tensor, offsets: Tensor, anchors: Tensor, *, image_size: int, threshold: float, top_k: int
) -> Candidates:
    """Choose the ``top_k`` best (anchor, class) pairs of each picture, and decode only their boxes.

    Args:
        scores: float32 [B, A, K], without background.
        offsets: float32 [B, A, 4].
        anchors: [A, 4] cxcywh in input pixels.
        image_size: Side of the input in pixels.
        threshold: Pairs that score no more are marked with -1.
        top_k: Pairs kept a picture.
    """
    best, anchor, labels = _best_pairs(scores, top_k=top_k)
    boxes = decode(offsets.gather(1, anchor.unsqueeze(-1).expand(-1, -1, 4)), anchors[anchor])
    return Candidates(boxes.clamp(0, image_size), torch.where(best > threshold, best, -1.0), labels)


def best_class_candidates(
    scores: Tensor, offsets: Tensor, proposals: Tensor, *, image_size: int, threshold: float, top_k: int
) -> Candidates:
    """The same for proposals, whose every class has a box of its own; boxes without area are marked with -1, too.

    Args:
        scores: float32 [B, P, K], without background.
        offsets: float32 [B, P, K, 4].
        proposals: [B, P, 4] xyxy in input pixels.
        image_size: Side of the input in pixels.
        threshold: Pairs that score no more are marked with -1.
        top_k: Pairs kept a picture.
    """
    best, row, labels = _best_pairs(scores, top_k=top_k)
    pair = (row * scores.shape[-1] + labels - 1).unsqueeze(-1).expand(-1, -1, 4)  # into [P * K]
    around = to_centers(proposals).gather(1, row.unsqueeze(-1).expand(-1, -1, 4))
    boxes = decode(offsets.flatten(1, 2).gather(1, pair), around).clamp(0, image_size)
    usable = (best > threshold) & ((boxes[..., 2:] - boxes[..., :2]).amin(-1) >= SMALLEST_BOX)
    # Best first must hold again, since a box without area may be anywhere.
    best, order = torch.where(usable, best, -1.0).sort(dim=1, descending=True)
    return Candidates(boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4)), best, labels.gather(1, order))


def best_proposals(
    logits: Tensor,
    offsets: Tensor,
    anchors: Tensor,
    *,
    counts: Sequence[int],
    weights: OffsetWeights,
    image_size: int,
    threshold: float,
    top_k: int,
) -> Candidates:
    """Choose the ``top_k`` best anchors of each level of a region proposal network, and decode their boxes.

    Args:
        logits: float32 [B, A] of there being an object.
        offsets: float32 [B, A, 4].
        anchors: [A, 4] cxcywh in input pixels, level by level.
        counts: Anchors of each level.
        weights: Of the offsets, see ``boxes.encode``.
        image_size: Side of the input in pixels.
        threshold: Anchors of a smaller probability are marked with -1, and so are boxes without area.
        top_k: Anchors kept of a level.

    Returns:
        The candidates of all levels, best first; the label is the level, 1..L: suppression keeps levels apart.
    """
    start, kept, levels = 0, [], []
    for level, count in enumerate(counts, start=1):
        rows = logits[:, start : start + count].topk(min(top_k, count), dim=1).indices + start
        kept.append(rows)
        levels.append(torch.full_like(rows, level))
        start += count
    rows, labels = torch.cat(kept, dim=1), torch.cat(levels, dim=1)
    boxes = decode(offsets.gather(1, rows.unsqueeze(-1).expand(-1, -1, 4)), anchors[rows], weights=weights)
    boxes = boxes.clamp(0, image_size)
    scores = logits.gather(1, rows).sigmoid().nan_to_num(-1.0)
    usable = (scores >= threshold) & ((boxes[..., 2:] - boxes[..., :2]).amin(-1) >= SMALLEST_PROPOSAL)
    scores, order = torch.where(usable, scores, -1.0).sort(dim=1, descending=True)
    return Candidates(boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4)), scores, labels.gather(1, order))


def _best_pairs(scores: Tensor, *, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``top_k`` best (row, class) pairs of scores [B, A, K]: score, row and label (1..K), each [B, N]."""
    classes = scores.shape[-1]
    scores = scores.nan_to_num(-1.0)  # a NaN would come first and push real detections out
    # The best N pairs lie on at most N rows, those with the best maxima: two short selections, not one long one.
    _, rows = scores.amax(dim=-1).topk(min(top_k, scores.shape[1]), dim=1)  # [B, R]
    shortlist = scores.gather(1, rows.unsqueeze(-1).expand(-1, -1, classes)).flatten(1)  # [B, R*K]
    best, index = shortlist.topk(min(top_k, shortlist.shape[1]), dim=1)  # [B, N]
    return best, rows.gather(1, index // classes), index % classes + 1


def suppress(
    candidates: Candidates, *, iou: float, max_detections: int, image_size: int, few_labels: bool = False
) -> Candidates:
    """Greedy non-maximum suppression within each class of each picture.

    One call a picture, over all its classes: the work grows with the square of the boxes in a call, so a call for the
    whole batch would take as many times longer as there are pictures. Where thousands of boxes have a few labels, as
    the levels of a pyramid, a call for each label takes less again.

    Args:
        candidates: Best first.
        iou: Overlap above which the weaker of two boxes of a class is dropped.
        max_detections: Survivors of a picture at most.
        image_size: Side of the input in pixels.
        few_labels: Whether to make a call for each label.

    Returns:
        The survivors, best first, padded to ``max_detections`` a picture with boxes and labels 0 and scores -1.
    """
    boxes, scores, labels = candidates
    count = scores.shape[1]
    if boxes.is_meta:  # only shapes are asked for, as by the profiler
        most = min(max_detections, count)
        return Candidates(boxes[:, :most], scores[:, :most], labels[:, :most])
    counts = (scores > 0).sum(1).tolist()  # best first: the usable ones are a prefix
    alive = (
        _survivors_by_label(candidates, counts, iou=iou)
        if few_labels
        else _survivors(candidates, counts, iou=iou, image_size=image_size)
    )
    final, order = scores.masked_fill(~alive, -1.0).topk(min(max_detections, count), dim=1)
    empty = final < 0
    return Candidates(
        boxes=boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4)).masked_fill(empty.unsqueeze(-1), 0.0),
        scores=final,
        labels=labels.gather(1, order).masked_fill(empty, 0),
    )


def _survivors(candidates: Candidates, counts: Sequence[int], *, iou: float, image_size: int) -> Tensor:
    """Which of [B, N] candidates survive; only the first ``counts`` of each picture are usable."""
    boxes, scores, labels = candidates
    # Every class moves to a square of its own, so that boxes of different classes never overlap.
    # float64: with float32 the far squares would lose the fractions of a pixel. Apple's GPUs have none.
    device = torch.device("cpu") if boxes.device.type == "mps" else boxes.device
    apart = boxes.to(device).double() + (labels.to(device) * (image_size + 1)).unsqueeze(-1)
    ranks = scores.to(device).double()
    alive = torch.zeros_like(scores, dtype=torch.bool)
    for row, number in enumerate(counts):
        alive[row, torchvision.ops.nms(apart[row, :number], ranks[row, :number], iou).to(alive.device)] = True
    return alive


def _survivors_by_label(candidates: Candidates, counts: Sequence[int], *, iou: float) -> Tensor:
    """The same, label by label."""
    alive = torch.zeros_like(candidates.scores, dtype=torch.bool)
    for row, number in enumerate(counts):
        boxes, scores, labels = (values[row, :number] for values in candidates)
        for label in labels.unique().tolist():
            places = (labels == label).nonzero().squeeze(1)
            alive[row, places[torchvision.ops.nms(boxes[places], scores[places], iou)]] = True
    return alive
