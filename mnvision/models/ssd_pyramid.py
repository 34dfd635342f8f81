"""Heads that all levels of a feature pyramid share: RetinaNet's (Lin et al. 2017, arXiv:1708.02002, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mnvision.backbones.layers import ACTIVATIONS, LayerOptions

TOWER = 4  # convolutions before the predictor


class SharedConv(nn.Module):
    """A 3x3 convolution with the same weights on every level, a BatchNorm for each level, and an activation.

    TensorFlow's weight-shared predictor keeps the norms apart likewise: what the convolution gives has another mean
    and variance on each level. So they cannot be folded into it.

    Args:
        depth: Channels in and out.
        levels: How many there are.
        options: Activation and BatchNorm settings.
    """

    def __init__(self, depth: int, *, levels: int, options: LayerOptions) -> None:
        super().__init__()
        self.conv = nn.Conv2d(depth, depth, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(depth, eps=options.norm_eps, momentum=options.norm_momentum) for _ in range(levels)
        )
        self.activation = ACTIVATIONS[options.activation]()

    def forward(self, features: Tensor, *, level: int) -> Tensor:
        """Map [B, C, H, W] of a level, counted from the finest, to [B, C, H, W]."""
        return self.activation(self.norms[level](self.conv(features)))


class SharedTower(nn.Module):
    """Four shared convolutions, then a shared 3x3 predictor with bias.

    Args:
        depth: Channels of every map, and between the convolutions.
        out_channels: What is predicted for a cell.
        levels: How many there are.
        bias: What the predictor's bias starts from.
        options: Activation and BatchNorm settings.
    """

    def __init__(self, depth: int, out_channels: int, *, levels: int, bias: float = 0.0, options: LayerOptions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SharedConv(depth, levels=levels, options=options) for _ in range(TOWER))
        self.predictor = nn.Conv2d(depth, out_channels, 3, padding=1)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.01)  # RetinaNet's and TensorFlow's
                if part.bias is not None:
                    nn.init.constant_(part.bias, bias)

    def forward(self, features: Tensor, *, level: int) -> Tensor:
        """Map [B, C, H, W] of a level, counted from the finest, to [B, O, H, W]."""
        for layer in self.layers:
            features = layer(features, level=level)
        return self.predictor(features)


class SharedHeads(nn.Module):
    """One tower for the classes and one for the boxes, for each anchor of each cell of every level.

    Args:
        depth: Channels of every map.
        levels: How many there are.
        anchors: Anchors of a cell.
        columns: Class logits of an anchor.
        prior: What the class logits are near at first.
        options: Activation and BatchNorm settings.
    """

    def __init__(
        self, depth: int, *, levels: int, anchors: int, columns: int, prior: float, options: LayerOptions
    ) -> None:
        super().__init__()
        self.classes = SharedTower(depth, anchors * columns, levels=levels, bias=prior, options=options)
        self.boxes = SharedTower(depth, anchors * 4, levels=levels, options=options)
        self.columns = columns

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Map one [B, C, H_i, W_i] per level to logits [B, A, columns] and offsets [B, A, 4] over all levels."""
        logits, offsets = [], []
        for level, features in enumerate(maps):
            batch = len(features)
            # [B, n*c, H, W] -> [B, H*W*n, c]: free where the map is channels_last already
            classes = self.classes(features, level=level).permute(0, 2, 3, 1)
            boxes = self.boxes(features, level=level).permute(0, 2, 3, 1)
            logits.append(classes.reshape(batch, -1, self.columns))
            offsets.append(boxes.reshape(batch, -1, 4))
        return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)
