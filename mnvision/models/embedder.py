"""An embedder: a backbone, a pooling, one linear layer with BatchNorm, and vectors of unit length."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnvision.backbones.base import Backbone, map_sizes
from mnvision.backbones.layers import ConvNormAct, initialise
from mnvision.models.base import Pictures, TaskModel
from mnvision.ops.embedding_losses import triplet_loss
from mnvision.types import Labels, Preprocessing, UserError

Pooling = Literal["mean", "depthwise"]
MARGIN = 0.2  # of FaceNet's triplets, in squared distance


class Embedder(TaskModel):
    """A network whose outputs are near each other for pictures of one identity (FaceNet, arXiv:1503.03832).

    Args:
        backbone: Any backbone; its last level is used.
        num_classes: Identities of the training; they have no part in the network, whose vectors also tell others apart.
        preprocessing: Input size, mean and standard deviation.
        embedding_size: D; 0: the pooled features are the embedding, without a layer of their own.
        pooling: ``mean`` over the last map; or ``depthwise``: a filter of the map's size for each channel, which gives
            the cells of a face weights of their own (MobileFaceNets, arXiv:1804.07573, section 3.1).
        dropout: Share of the pooled features that training zeroes.
        flip: Let ``predict`` average a picture and its mirror image, which costs twice the time.

    Raises:
        UserError: If ``embedding_size`` is 1 or negative, or the backbone's map has no size that can be told.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        preprocessing: Preprocessing,
        embedding_size: int = 128,
        pooling: Pooling = "mean",
        dropout: float = 0.0,
        flip: bool = False,
    ) -> None:
        super().__init__(backbone, preprocessing=preprocessing)
        if embedding_size != 0 and embedding_size < 2:
            raise UserError(
                f"task.embedding_size must be 2 or more, or 0 for the pooled features; got {embedding_size}"
            )
        width = backbone.levels[-1].channels
        self.embedding_size = embedding_size or width
        self.flip = flip
        self.pooling: nn.Module = nn.AdaptiveAvgPool2d(1)
        if pooling == "depthwise":
            if not backbone.rounds_up:
                raise UserError(
                    "task.pooling=depthwise needs a last map of ceil(input / stride) cells a side, which this backbone "
                    "has not; give task.pooling=mean, or another backbone"
                )
            side = map_sizes(preprocessing.size, backbone.levels)[-1]
            self.pooling = GlobalDepthwiseConv(width, side=side, backbone=backbone)
        self.dropout = nn.Dropout(dropout)
        self.embedding: nn.Module = nn.Identity()
        if embedding_size:
            self.embedding = ConvNormAct(width, embedding_size, kernel=1, options=backbone.options, activation="none")
            initialise(self.embedding)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, S, S], uint8 or float in 0..255, to embeddings [B, D] of unit length."""
        features = self.pooling(self.backbone(self.normalise(images))[-1])  # [B, C, 1, 1]
        return F.normalize(self.embedding(self.dropout(features)).flatten(1).float(), dim=1)

    def losses(self, images: Tensor, targets: Labels, *, output: Tensor | None = None) -> dict[str, Tensor]:
        """FaceNet's triplet loss over the semi-hard triplets of the batch; labels are identities."""
        embeddings = self(images) if output is None else output
        return {"triplet_loss": triplet_loss(embeddings, targets.labels, margin=MARGIN)}

    @torch.no_grad()
    def predict(
        self, images: Pictures, *, original_sizes: Tensor | None = None, output: Tensor | None = None
    ) -> Tensor:
        """Embeddings float32 [B, D] of unit length.

        Args:
            images: A batch [B, 3, S, S], uint8 or float in 0..255, or pictures uint8 [H, W, 3] RGB of any sizes.
            original_sizes: Not used: an embedding has no place in the picture.
            output: What ``forward`` gave for these images, if that is known already.
        """
        images = self.stack(images)
        embeddings = self(images) if output is None else output
        return F.normalize(embeddings + self(images.flip(-1)), dim=1) if self.flip else embeddings


class GlobalDepthwiseConv(nn.Module):
    """A depthwise convolution as large as the map, with BatchNorm: a weighted mean for each channel.

    Args:
        channels: Of the map.
        side: Of the map in cells; it works on no other.
        backbone: Whose BatchNorm settings it takes.
    """

    def __init__(self, channels: int, *, side: int, backbone: Backbone) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, side, groups=channels, bias=False)
        nn.init.constant_(self.conv.weight, 1 / side**2)  # starts as the mean
        options = backbone.options
        self.norm = nn.BatchNorm2d(channels, eps=options.norm_eps, momentum=options.norm_momentum)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, C, side, side] to [B, C, 1, 1]."""
        return self.norm(self.conv(features))
