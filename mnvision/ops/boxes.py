"""Boxes as tensors: overlap, coordinates, and the offsets that a detector regresses."""

from __future__ import annotations

import torch
from torch import Tensor

OffsetWeights = tuple[float, float, float, float]
# Faster R-CNN's and SSD's scale factors of (dx, dy, dw, dh): offsets come out near unit variance.
OFFSET_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# exp() of a size offset is cut here, as every detector does, so that a wild prediction stays finite.
MAX_LOG_RATIO = 4.135166556742356  # log(1000 / 16)


def to_centers(boxes: Tensor) -> Tensor:
    """Turn corners [..., 4] xyxy into centre and size [..., 4] cxcywh."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def to_corners(boxes: Tensor) -> Tensor:
    """Turn centre and size [..., 4] cxcywh into corners [..., 4] xyxy."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((center - half, center + half), dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Area [...] of boxes [..., 4] xyxy; never negative."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Shared area of every pair, [..., M, N], of boxes a [..., M, 4] and b [..., N, 4], both xyxy."""
    # Coordinates first and contiguous: the strided columns of [N, 4] would keep every operation from vectorising.
    ax1, ay1, ax2, ay2 = a.movedim(-1, 0).contiguous().unsqueeze(-1).unbind(0)  # [..., M, 1]
    bx1, by1, bx2, by2 = b.movedim(-1, 0).contiguous().unsqueeze(-2).unbind(0)  # [..., 1, N]
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    return width.mul_(height)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [..., M, N] of boxes a [..., M, 4] and b [..., N, 4], both xyxy.

    Two empty boxes have an overlap of 0, not NaN.

    >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6]]))
    tensor([[0.3333, 0.0000]])
    """
    shared = intersection(a, b)
    union = area(a).unsqueeze(-1) + area(b).unsqueeze(-2) - shared
    return shared.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def encode(boxes: Tensor, anchors: Tensor, *, weights: OffsetWeights = OFFSET_WEIGHTS) -> Tensor:
    """Write boxes as offsets from anchors (SSD, arXiv:1512.02325, equation 2, times ``weights``).

    Args:
        boxes: [..., 4] xyxy in input pixels, of positive width and height.
        anchors: [..., 4] cxcywh in input pixels.
        weights: Factors of (dx, dy, dw, dh).

    Returns:
        [..., 4] (dx, dy, dw, dh), unitless.
    """
    boxes = to_centers(boxes)
    shift = (boxes[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    ratio = (boxes[..., 2:].clamp(min=1e-3) / anchors[..., 2:]).log()
    return torch.cat((shift, ratio), dim=-1) * boxes.new_tensor(weights)


def decode(offsets: Tensor, anchors: Tensor, *, weights: OffsetWeights = OFFSET_WEIGHTS) -> Tensor:
    """Turn offsets [..., 4] back into boxes [..., 4] xyxy in input pixels; the inverse of ``encode``."""
    offsets = offsets / offsets.new_tensor(weights)
    center = offsets[..., :2] * anchors[..., 2:] + anchors[..., :2]
    size = offsets[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * anchors[..., 2:]
    return to_corners(torch.cat((center, size), dim=-1))
