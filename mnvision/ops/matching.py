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
    return _ignore_crowds(labels, corners, targets), index


def match_regions(boxes: Tensor, targets: Targets, *, high: float, low: float, best: bool) -> tuple[Tensor, Tensor]:
    """Match anchors or proposals to the ground truth as Faster R-CNN does (arXiv:1506.01497, section 3.1.2).

    A region takes the box that it overlaps most if that overlap reaches ``high``; below ``low`` it is background;
    between them it learns nothing. Regions of which half or more lies in a crowd learn nothing either.

    Args:
        boxes: [A, 4] or [B, A, 4] xyxy in input pixels.
        targets: A padded batch; rows with label 0 are padding.
        high: Smallest IoU of a match.
        low: IoU below which a region is background.
        best: Match every region that no other overlaps a box more than, too, whatever the overlap.

    Returns:
        labels: int64 [B, A]: 1..K where matched, 0 for background, ``IGNORED`` where the region learns nothing.
        index: int64 [B, A]: row of the matched box in ``targets.boxes``; meaningless where the label is not positive.
    """
    batch, count = targets.labels.shape
    if count == 0:
        nothing = targets.labels.new_zeros(batch, boxes.shape[-2])
        return nothing, nothing
    real = (targets.labels > 0) & ~targets.crowd  # [B, M]
    overlap = iou(targets.boxes, boxes).masked_fill_(~real.unsqueeze(-1), -1.0)  # [B, M, A]
    most, index = overlap.max(dim=1)  # [B, A]
    labels = torch.where(most >= high, targets.labels.gather(1, index), 0)
    labels = torch.where((most >= low) & (most < high), IGNORED, labels)
    if best:
        peak = overlap.amax(dim=2, keepdim=True)
        chosen = ((overlap == peak) & (peak > 0)).any(dim=1)  # [B, A]
        labels = torch.where(chosen, targets.labels.gather(1, index), labels)
    return _ignore_crowds(labels, boxes, targets), index


def sample(labels: Tensor, *, count: int, positive_share: float, generator: torch.Generator | None = None) -> Tensor:
    """Choose at random which regions of each picture are learnt from.

    Args:
        labels: int64 [B, A] as ``match_regions`` gives them.
        count: Regions a picture.
        positive_share: Share of them that may be positive; background fills the rest.
        generator: The source of the choice, on the labels' device; None: PyTorch's own.

    Returns:
        bool [B, A].
    """
    limit = min(int(count * positive_share), labels.shape[1])
    positive, order = _draw(labels > 0, limit, generator)
    chosen = torch.zeros_like(labels, dtype=torch.bool).scatter_(1, order, positive)
    room = count - positive.sum(1, keepdim=True)
    negative, order = _draw(labels == 0, min(count, labels.shape[1]), generator)
    negative &= torch.arange(negative.shape[1], device=labels.device) < room
    return chosen.scatter_(1, order, negative | chosen.gather(1, order))


def _draw(allowed: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Up to ``count`` of the allowed ones of each row in random order: which of the indices [B, count] are real."""
    draws = torch.rand(allowed.shape, device=allowed.device, generator=generator)
    keys, order = torch.where(allowed, draws, -1.0).topk(count, dim=1)
    return keys >= 0, order


def _ignore_crowds(labels: Tensor, corners: Tensor, targets: Targets) -> Tensor:
    """Labels [B, A] with ``IGNORED`` where half or more of an unmatched region [..., A, 4] xyxy lies in a crowd."""
    if not bool(targets.crowd.any()):
        return labels
    crowd = targets.crowd & (targets.labels > 0)
    inside = intersection(targets.boxes, corners) / area(corners).unsqueeze(-2).clamp(min=1e-6)  # [B, M, A]
    hidden = inside.masked_fill_(~crowd.unsqueeze(-1), 0.0).amax(dim=1) >= 0.5
    return torch.where(hidden & (labels <= 0), IGNORED, labels)
