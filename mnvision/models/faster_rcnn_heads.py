"""Both heads of Faster R-CNN (arXiv:1506.01497): what proposes regions, what names and refines each; their output."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FasterRCNNOutput(NamedTuple):
    """What ``FasterRCNN.forward`` returns.

    Attributes:
        objectness: [B, A], logits of the anchors.
        anchor_offsets: [B, A, 4].
        proposals: [B, P, 4] xyxy in input pixels, best first; zeros where there are fewer.
        proposal_scores: [B, P]; -1 where there are fewer.
        logits: [B, P, K+1] with background in column 0.
        offsets: [B, P, K, 4] of each class's box from the proposal.
    """

    objectness: Tensor
    anchor_offsets: Tensor
    proposals: Tensor
    proposal_scores: Tensor
    logits: Tensor
    offsets: Tensor


class RPNHead(nn.Module):
    """The region proposal network: a 3x3 convolution, then objectness and offsets of each anchor of each cell.

    Args:
        in_channels: Channels of every map.
        depth: Channels between.
        anchors: Anchors of a cell.
        columns: 1: objectness is one logit; 2: background and object, as TensorFlow has it.
    """

    def __init__(self, in_channels: int, depth: int, *, anchors: int, columns: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, depth, 3, padding=1)
        self.objectness = nn.Conv2d(depth, anchors * columns, 1)
        self.offsets = nn.Conv2d(depth, anchors * 4, 1)
        self.columns = columns
        for part in (self.conv, self.objectness, self.offsets):
            nn.init.normal_(part.weight, std=0.01)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Map [B, C, H_i, W_i] per level to objectness [B, A] and offsets [B, A, 4] over all levels."""
        objectness, offsets = [], []
        for features in maps:
            hidden = F.relu(self.conv(features))
            # [B, n*c, H, W] -> [B, H*W*n, c]
            logits = self.objectness(hidden).permute(0, 2, 3, 1).reshape(len(hidden), -1, self.columns)
            objectness.append(logits[..., -1] - logits[..., 0] if self.columns == 2 else logits[..., 0])
            offsets.append(self.offsets(hidden).permute(0, 2, 3, 1).reshape(len(hidden), -1, 4))
        return torch.cat(objectness, dim=1), torch.cat(offsets, dim=1)


class BoxHead(nn.Module):
    """Class and box of a proposal, from its pooled features.

    Args:
        in_features: Length of the features; behind hidden layers, that of the flattened crop.
        hidden: Width of two fully connected layers in between; 0 for none.
        num_classes: Classes without background.
    """

    def __init__(self, in_features: int, *, hidden: int, num_classes: int) -> None:
        super().__init__()
        widths = [in_features, hidden, hidden] if hidden else [in_features]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.classes = nn.Linear(widths[-1], num_classes + 1)
        self.boxes = nn.Linear(widths[-1], num_classes * 4)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.boxes.weight, std=0.001)
        for part in (self.classes, self.boxes):
            nn.init.zeros_(part.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map [R, F] to logits [R, K+1] and offsets [R, K, 4]."""
        for layer in self.hidden:
            features = F.relu(layer(features))
        return self.classes(features), self.boxes(features).unflatten(1, (-1, 4))
