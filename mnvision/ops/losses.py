"""SSD's losses, for all pictures of a batch at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mnvision.ops.matching import IGNORED

ClassLoss = Literal["softmax", "sigmoid", "focal"]


def class_cross_entropy(logits: Tensor, labels: Tensor, *, kind: ClassLoss) -> Tensor:
    """Cross-entropy [N] of logits [N, K+1] with labels int64 [N], 0 being background.

    ``softmax`` is a choice among the K+1 columns. ``sigmoid`` sums K+1 independent yes-or-no questions, background
    being a question of its own, as TensorFlow's detectors have it.
    """
    if kind == "softmax":
        return F.cross_entropy(logits, labels, reduction="none")
    # BCE against a one-hot row: softplus(x) everywhere, less x in the label's column.
    return F.softplus(logits).sum(-1) - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def hardest_negatives(logits: Tensor, labels: Tensor, *, ratio: float, kind: ClassLoss) -> Tensor:
    """Flat indices into [B * A] of the background anchors that are most wrong, ``ratio`` a positive (SSD, 2.2).

    Counted per picture: one without objects contributes none.

    Args:
        logits: float32 [B, A, K+1].
        labels: int64 [B, A]: positive, 0 background, negative ignored.
        ratio: Negatives per positive.
        kind: Form of the class loss, which ranks the anchors.
    """
    if kind == "softmax":
        wrong = -logits.softmax(-1)[..., 0]  # ranks as the loss does, in one fused pass; logsumexp takes five
    else:
        # softplus of the object columns as -log sigmoid(-x), which is vectorised
        wrong = -logits[..., 1:].neg().sigmoid_().log_().sum(-1) - F.logsigmoid(logits[..., 0])
    wrong.masked_fill_(labels != 0, -torch.inf)
    wanted = ((labels > 0).sum(1, keepdim=True) * ratio).floor()  # [B, 1]
    most = min(int(wanted.max()), labels.shape[1])
    values, order = wrong.topk(most, dim=1)
    rank = torch.arange(most, device=labels.device)
    keep = (rank < wanted) & (values > -torch.inf)
    rows = torch.arange(len(labels), device=labels.device).unsqueeze(1) * labels.shape[1]
    return (order + rows)[keep]


def mined_class_loss(logits: Tensor, labels: Tensor, *, ratio: float, kind: ClassLoss) -> Tensor:
    """Sum of the class loss over all positives and the hardest negatives of each picture.

    Which anchors count is decided without gradient; only their rows are then differentiated, a few dozen of some two
    thousand, which is where the time of the usual form goes.

    Args:
        logits: float32 [B, A, K+1].
        labels: int64 [B, A], see ``matching.match``.
        ratio: Negatives per positive.
        kind: ``softmax`` or ``sigmoid``.
    """
    negatives = hardest_negatives(logits, labels, ratio=ratio, kind=kind)
    positives = (labels.flatten() > 0).nonzero().squeeze(1)
    chosen = torch.cat((positives, negatives))
    rows = logits.flatten(0, 1).index_select(0, chosen)
    return class_cross_entropy(rows, labels.flatten().index_select(0, chosen), kind=kind).sum()


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sum of the sigmoid focal loss over all anchors and the K object columns (arXiv:1708.02002, equation 5).

    Column 0 takes no part: background is the absence of every class.

    Args:
        logits: float32 [B, A, K+1].
        labels: int64 [B, A]; ignored anchors are left out.
        alpha: Weight of the positive columns, 1 - alpha of the negative ones.
        gamma: How strongly easy columns are faded out.
    """
    objects = logits[..., 1:]
    # Nearly every column of every anchor is a negative: sum them all as such, then put the positive ones right.
    negative = _focal(objects, alpha=1 - alpha, gamma=gamma).sum(-1)
    positive = labels > 0
    columns = objects[positive].gather(-1, labels[positive].unsqueeze(-1) - 1)
    right = _focal(-columns, alpha=alpha, gamma=gamma) - _focal(columns, alpha=1 - alpha, gamma=gamma)
    return negative[labels != IGNORED].sum() + right.sum()


def _focal(logits: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Focal loss of answering no: ``-alpha p^gamma log(1 - p)``; that of yes is the one of negated logits."""
    # Below 1 the slope of p^gamma has no end as p goes to 0, where the logarithm's has.
    fade = logits.sigmoid() ** gamma if gamma >= 1 else (gamma * F.logsigmoid(logits)).exp()
    return alpha * fade * F.softplus(logits)


def box_loss(offsets: Tensor, wanted: Tensor) -> Tensor:
    """Sum of smooth L1 between predicted and wanted offsets, both [N, 4]."""
    return F.smooth_l1_loss(offsets, wanted, reduction="sum")
