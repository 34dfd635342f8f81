"""Losses of attributes: binary cross-entropy of those that are known, and with what a teacher says of all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attribute_loss(logits: Tensor, labels: Tensor, *, positive_weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the values that are known; 0 where none is.

    Args:
        logits: float32 [B, A].
        labels: float32 [B, A], 0 or 1; NaN where it is not known.
        positive_weights: float [A], what a picture with the attribute counts in the sum; 1 without it.
    """
    known = labels.isfinite()
    wanted = torch.where(known, labels, 0.0)
    losses = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=positive_weights, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def attribute_distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean over attributes and pictures of the cross-entropy with the teacher's probabilities.

    ``-(q log p + (1 - q) log(1 - p))`` with ``q`` the sigmoid of the teacher's logit and ``p`` that of the student's:
    the MobileNet paper, section 4.5, whose measure this is too (its second footnote).

    Args:
        logits: float32 [B, A] of the student.
        teacher: float32 [B, A], logits of the teacher.
    """
    return F.binary_cross_entropy_with_logits(logits, teacher.sigmoid())
