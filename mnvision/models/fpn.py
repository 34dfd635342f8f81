"""Feature pyramid networks (Lin et al. 2017, arXiv:1612.03144): maps of equal depth for detection heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from mnvision.types import FeatureLevel

Coarser = Literal["pool", "conv"]


class FPN(nn.Module):
    """Merges the maps of a backbone from coarse to fine, and adds coarser ones.

    Args:
        inputs: The levels that are merged, finest first.
        depth: Channels of every map that comes out.
        coarser: How the added maps come from the coarsest one: ``pool`` takes every second cell (Faster R-CNN),
            ``conv`` is a 3x3 convolution at stride 2 (RetinaNet, arXiv:1708.02002).
        added: How many are added.

    Attributes:
        levels: What comes out, finest first.
    """

    def __init__(
        self, inputs: Sequence[FeatureLevel], *, depth: int, coarser: Coarser = "pool", added: int = 1
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(level.channels, depth, 1) for level in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(depth, depth, 3, padding=1) for _ in inputs)
        convs = [nn.Conv2d(depth, depth, 3, stride=2, padding=1) for _ in range(added if coarser == "conv" else 0)]
        self.downs = nn.ModuleList(convs)
        self.coarser, self.added = coarser, added
        strides = [level.stride for level in inputs]
        strides += [strides[-1] * 2**step for step in range(1, added + 1)]
        self.levels = [FeatureLevel(depth, stride) for stride in strides]
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_uniform_(part.weight, a=1)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map one [B, C_i, H_i, W_i] per input level to one [B, depth, H_i, W_i] per level of ``levels``."""
        sides = [lateral(features) for lateral, features in zip(self.lateral, maps, strict=True)]
        merged = [sides[-1]]
        for side in reversed(sides[:-1]):
            merged.append(side + F.interpolate(merged[-1], size=side.shape[-2:], mode="nearest"))
        outputs = [smooth(features) for smooth, features in zip(self.smooth, reversed(merged), strict=True)]
        for step in range(self.added):
            last = outputs[-1]
            if self.coarser == "pool":
                outputs.append(last[..., ::2, ::2])
            else:
                outputs.append(self.downs[step](F.relu(last) if step else last))
        return outputs
