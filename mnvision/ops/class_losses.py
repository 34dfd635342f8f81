"""Losses of a classifier: cross-entropy with labels, with mixed and doubtful ones, and with a teacher's output."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mnvision.types import Labels

Noise = Literal["none", "soft_bootstrap", "hard_bootstrap", "filter"]


def class_loss(
    logits: Tensor,
    targets: Labels,
    *,
    smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    noise: Noise = "none",
    trust: float = 1.0,
) -> Tensor:
    """Mean cross-entropy over the pictures whose class is known; 0 where none is.

    Labels that may be wrong are dealt with by ``noise``:

    - ``soft_bootstrap``: the target is ``trust`` of the label and the rest of what the model itself says (Reed et al.,
      arXiv:1412.6596, equation 6).
    - ``hard_bootstrap``: the rest is the class that the model finds most likely (equation 7).
    - ``filter``: a picture for which the model gives another class more than ``trust`` counts nothing.

    Args:
        logits: float32 [B, K].
        targets: Of the batch; where pictures are mixed, both classes count by their shares (arXiv:1710.09412).
        smoothing: Share of every target that is spread evenly over the classes (arXiv:1512.00567, section 7).
        class_weights: float [K]; the mean is weighted by them.
        noise: See above.
        trust: See above, 0..1.
    """
    known = targets.labels >= 0
    if targets.others is not None:
        known = known & (targets.others >= 0)
    log_shares = logits.log_softmax(-1)
    wanted = one_hot_targets(targets, classes=logits.shape[1])  # [B, K]
    weights = known.to(logits)
    if class_weights is not None:
        weights = weights * (wanted @ class_weights.to(wanted))
    if noise == "filter":
        weights = weights * _plausible(log_shares, wanted, limit=trust)
    elif noise != "none":
        own = log_shares.exp() if noise == "soft_bootstrap" else _most_likely(log_shares)
        wanted = trust * wanted + (1 - trust) * own
    wanted = (1 - smoothing) * wanted + smoothing / logits.shape[1]
    losses = -(wanted * log_shares).sum(-1)
    return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(logits.dtype).tiny)


def one_hot_targets(targets: Labels, *, classes: int) -> Tensor:
    """What a batch's output should be: float32 [B, K] with rows that sum to 1, or 0 where the class is not known."""

    def one_hot(labels: Tensor) -> Tensor:
        return F.one_hot(labels.clamp(min=0), classes).float() * (labels >= 0).unsqueeze(1)

    wanted = one_hot(targets.labels)
    if targets.others is None or targets.shares is None:
        return wanted
    shares = targets.shares.unsqueeze(1)
    return shares * wanted + (1 - shares) * one_hot(targets.others)


def distillation_loss(logits: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """How far a student's softened output is from its teacher's: T^2 KL(teacher || student), mean over the batch.

    The factor T^2 keeps the gradient's size when T changes (Hinton et al., arXiv:1503.02531, section 2).

    Args:
        logits: float32 [B, K] of the student.
        teacher: float32 [B, K], logits of the teacher.
        temperature: T, above 0.
    """
    student = (logits / temperature).log_softmax(-1)
    wanted = (teacher / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(student, wanted, reduction="batchmean", log_target=True)


def _most_likely(log_shares: Tensor) -> Tensor:
    return F.one_hot(log_shares.argmax(-1), log_shares.shape[1]).to(log_shares)


@torch.no_grad()
def _plausible(log_shares: Tensor, wanted: Tensor, *, limit: float) -> Tensor:
    """1 where the model does not give a class that is not wanted more than ``limit``, else 0: [B]."""
    others = log_shares.exp().masked_fill(wanted > 0, 0.0)
    return (others.amax(-1) <= limit).to(log_shares)
