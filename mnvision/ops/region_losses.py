"""The four losses of Faster R-CNN (Ren et al. 2015, arXiv:1506.01497, section 3.1.2), in plain float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mnvision.ops.boxes import OffsetWeights, encode, to_centers, to_corners
from mnvision.ops.matching import match_regions, sample
from mnvision.types import Targets


def proposal_losses(
    objectness: Tensor,
    offsets: Tensor,
    targets: Targets,
    *,
    anchors: Tensor,
    weights: OffsetWeights,
    high: float,
    low: float,
    count: int,
    beta: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Objectness and box loss of the anchors, over a sample of them.

    Args:
        objectness: [B, A], logits.
        offsets: [B, A, 4].
        targets: The ground truth, padded.
        anchors: [A, 4], centre and size.
        weights: Factors of the offsets.
        high: An anchor that overlaps a box so much is to find it.
        low: An anchor that overlaps none so much is background; those between are ignored.
        count: Anchors to sample from each picture.
        beta: Where the box loss turns from squared to absolute.
        generator: Of the sample; None takes PyTorch's own.
    """
    with torch.no_grad():
        corners = to_corners(anchors)
        labels, index = match_regions(corners, targets, high=high, low=low, best=True)
        chosen = sample(labels, count=count, positive_share=0.5, generator=generator)
        batch, rows = chosen.nonzero(as_tuple=True)
        positive = labels[batch, rows] > 0
        at = batch[positive], rows[positive]
        wanted = encode(targets.boxes[at[0], index[at]], anchors[at[1]], weights=weights)
    sampled = max(1, len(rows))
    loss = F.smooth_l1_loss(offsets[at], wanted, beta=beta, reduction="sum")
    found = F.binary_cross_entropy_with_logits(objectness[batch, rows], positive.float(), reduction="sum")
    return found / sampled, loss / sampled


def region_losses(
    logits: Tensor, offsets: Tensor, labels: Tensor, proposals: Tensor, *, boxes: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Class and box loss of sampled proposals.

    Args:
        logits: [R, K+1] with background in column 0.
        offsets: [R, K, 4] of each class's box from the proposal.
        labels: int64 [R], 1..K; 0 is background.
        proposals: [R, 4] xyxy.
        boxes: [R, 4] xyxy, what they match.
        beta: Where the box loss turns from squared to absolute.
    """
    count = max(1, len(labels))
    rows = (labels > 0).nonzero().squeeze(1)
    wanted = encode(boxes[rows], to_centers(proposals[rows]))
    loss = F.smooth_l1_loss(offsets[rows, labels[rows] - 1], wanted, beta=beta, reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum") / count, loss / count
