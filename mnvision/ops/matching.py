"""Which anchor learns which ground truth box."""

from __future__ import annotations

import torch
from torch import Tensor

from mnvision.ops.boxes import area, intersection, iou, to_corners
from mnvision.types import Targets

IGNORED = -1


def match(anchors: Tensor, targets: Targets, *, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Match the anchors to the ground truth of every picture of a batch at once (SSD, section 2.2).

    An anchor takes the box that it overlaps most if that overlap reaches ``threshold``; besides, every box takes the
    anchor that overlaps it most, whatever the overlap (where several boxes want the same anchor, the last one of the
    picture has it). Anchors of which half or more lies in a crowd region learn nothing.

    Args:
        anchors: [A, 4] cxcywh in input pixels.
        targets: A padded batch; rows with label 0 are padding.
        threshold: Smallest IoU of a match.

    Returns:
        labels: int64 [B, A]: 1..K where matched, 0 for background, ``IGNORED`` where the anchor learns nothing.
        index: int64 [B, A]: row of the matched box in ``targets.boxes``; meaningless where the label is not positive.
    """
    batch, count = targets.labels.shape
    corners = to_corners(anchors)
    if count == 0:
        nothing = targets.labels.new_zeros(batch, len(anchors))
        return nothing, nothing
    real = (targets.labels > 0) & ~targets.crowd  # [B, M]
    # Boxes come first and anchors last, so that the long axis is the contiguous one.
    overlap = iou(targets.boxes, corners).masked_fill_(~real.unsqueeze(-1), -1.0)  # [B, M, A]
    best, index = overlap.max(dim=1)  # [B, A]
    # amax instead of plain scatter: the same result on every device when boxes share their best anchor.
    order = torch.where(real, torch.arange(count, device=real.device), IGNORED)
    forced = torch.full_like(index, IGNORED).scatter_reduce_(1, overlap.argmax(dim=2), order, "amax")  # [B, A]
    index = torch.where(forced >= 0, forced, index)
    positive = (best >= threshold) | (forced >= 0)
    labels = torch.where(positive, targets.labels.gather(1, index), 0)
    if bool(targets.crowd.any()):
        crowd = targets.crowd & (targets.labels > 0)
        inside = intersection(targets.boxes, corners) / area(corners)  # share of each anchor, [B, M, A]
        hidden = inside.masked_fill_(~crowd.unsqueeze(-1), 0.0).amax(dim=1) >= 0.5
        labels = torch.where(hidden & ~positive, IGNORED, labels)
    return labels, index
