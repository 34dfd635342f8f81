"""From a detector's raw output to final boxes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from mnvision.ops.boxes import decode


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
    classes = scores.shape[-1]
    scores = scores.nan_to_num(-1.0)  # a NaN would come first and push real detections out
    # The best N pairs lie on at most N anchors, those with the best maxima: two short selections, not one long one.
    anchors_kept = min(top_k, scores.shape[1])
    _, rows = scores.amax(dim=-1).topk(anchors_kept, dim=1)  # [B, R]
    shortlist = scores.gather(1, rows.unsqueeze(-1).expand(-1, -1, classes)).flatten(1)  # [B, R*K]
    best, index = shortlist.topk(min(top_k, shortlist.shape[1]), dim=1)  # [B, N]
    anchor = rows.gather(1, index // classes)
    boxes = decode(offsets.gather(1, anchor.unsqueeze(-1).expand(-1, -1, 4)), anchors[anchor])
    return Candidates(
        boxes=boxes.clamp(0, image_size),
        scores=torch.where(best > threshold, best, -1.0),
        labels=index % classes + 1,
    )


def suppress(candidates: Candidates, *, iou: float, max_detections: int, image_size: int) -> Candidates:
    """Greedy non-maximum suppression within each class of each picture.

    One call a picture, over all its classes: the work grows with the square of the boxes in a call, so a call for the
    whole batch would take as many times longer as there are pictures.

    Returns:
        The survivors, best first, padded to ``max_detections`` a picture with boxes and labels 0 and scores -1.
    """
    boxes, scores, labels = candidates
    count = scores.shape[1]
    # Every class moves to a square of its own, so that boxes of different classes never overlap.
    # float64: with float32 the far squares would lose the fractions of a pixel. Apple's GPUs have none.
    device = torch.device("cpu") if boxes.device.type == "mps" else boxes.device
    apart = boxes.to(device).double() + (labels.to(device) * (image_size + 1)).unsqueeze(-1)
    ranks = scores.to(device).double()
    alive = torch.zeros_like(scores, dtype=torch.bool)
    for row, number in enumerate((scores > 0).sum(1).tolist()):  # best first: the usable ones are a prefix
        alive[row, torchvision.ops.nms(apart[row, :number], ranks[row, :number], iou).to(alive.device)] = True
    final, order = scores.masked_fill(~alive, -1.0).topk(min(max_detections, count), dim=1)
    empty = final < 0
    return Candidates(
        boxes=boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4)).masked_fill(empty.unsqueeze(-1), 0.0),
        scores=final,
        labels=labels.gather(1, order).masked_fill(empty, 0),
    )
