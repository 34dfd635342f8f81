"""Pictures of a batch mixed with each other, on uint8 pixels: mixup, arXiv 1710.09412, and CutMix, arXiv 1905.04899.

Each picture is mixed with the one before it in the batch, the first with the last; training shuffles, so these are
random pairs. One share and one rectangle serve a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from mnvision.errors import UserError
from mnvision.types import Labels


@dataclass(frozen=True)
class Mixing:
    """How often batches are mixed, and how.

    Attributes:
        mixup: Alpha of mixup: the share is drawn from Beta(alpha, alpha); 0 is no mixup.
        cutmix: Alpha of CutMix, likewise.
        probability: Of mixing a batch at all.
        switch: Of CutMix, where both are on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}. Expected an alpha of 0 (none of it) or more")
        for name in ("probability", "switch"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} of mixing is {getattr(self, name)}. Expected a probability, 0..1")


def mix(images: Tensor, labels: Labels, *, mixing: Mixing, rng: np.random.Generator) -> tuple[Tensor, Labels]:
    """Mix a batch, or leave it as it is.

    Args:
        images: uint8 [B, S, S, 3], contiguous; not changed.
        labels: Of the same pictures; pictures without a known class (-1) are mixed as well.
        mixing: How often, and how.
        rng: The source of every random choice.

    Returns:
        The pictures, and labels with ``others`` and ``shares`` where they were mixed.
    """
    off = mixing.mixup == mixing.cutmix == 0
    if off or len(images) < 2 or rng.random() >= mixing.probability:
        return images, labels
    paste = mixing.mixup == 0 or (mixing.cutmix > 0 and rng.random() < mixing.switch)
    alpha = mixing.cutmix if paste else mixing.mixup
    share = float(rng.beta(alpha, alpha))
    if paste:
        height, width = images.shape[1:3]
        rectangle = cutmix_rectangle((height, width), share=share, rng=rng)
        images, share = cutmix(images, rectangle)
    else:
        images = mixup(images, share=share)
    shares = torch.full((len(images),), share, dtype=torch.float32)
    return images, replace(labels, others=labels.labels.roll(1), shares=shares)


def mixup(images: Tensor, *, share: float) -> Tensor:
    """``share`` of each picture and the rest of the one before it, uint8 [B, S, S, 3], rounded to the nearest value."""
    pixels = images.numpy().reshape(len(images), -1)
    before = images.roll(1, dims=0).numpy().reshape(len(images), -1)
    return torch.from_numpy(cv2.addWeighted(pixels, share, before, 1 - share, 0)).view(images.shape)


def cutmix(images: Tensor, rectangle: tuple[int, int, int, int]) -> tuple[Tensor, float]:
    """A rectangle (left, top, right, bottom) of the picture before it pasted into each picture at the same place.

    Returns:
        uint8 [B, S, S, 3], and the share of its own pixels that each picture keeps.
    """
    left, top, right, bottom = rectangle
    mixed = images.clone()
    mixed[:, top:bottom, left:right] = images.roll(1, dims=0)[:, top:bottom, left:right]
    return mixed, 1 - (right - left) * (bottom - top) / (images.shape[1] * images.shape[2])


def cutmix_rectangle(size: tuple[int, int], *, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A rectangle of ``1 - share`` of the area around a random pixel; what lies outside the picture is cut off."""
    height, width = size
    across, down = (round(side * np.sqrt(1 - share)) for side in (width, height))
    left, top = int(rng.integers(width)) - across // 2, int(rng.integers(height)) - down // 2
    return max(left, 0), max(top, 0), min(left + across, width), min(top + down, height)
