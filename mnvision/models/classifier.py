"""An image classifier: a backbone, the mean over its last map, dropout, one fully connected layer or two."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnvision.backbones.base import Backbone
from mnvision.backbones.layers import ConvNormAct, initialise
from mnvision.models.base import Pictures, TaskModel
from mnvision.ops.class_losses import class_loss
from mnvision.types import Labels, Preprocessing, UserError


class Classifier(TaskModel):
    """The papers' classification networks from the average pooling on.

    V1 and V2 have one fully connected layer; V3 has a hidden one with hard swish before it (arXiv:1905.02244, section
    5.1), V4 a 1x1 convolution with BatchNorm: ``backbone.head_width`` and ``backbone.head_norm`` tell. With
    ``backbone.scores_cells``, SqueezeNet's, the layer scores every cell of the map, negative scores become 0, and the
    mean comes last (arXiv:1602.07360).

    Args:
        backbone: Any backbone; its last level is used.
        num_classes: Classes.
        preprocessing: Input size, mean and standard deviation.
        dropout: Share of the features before the last layer that training zeroes; None for the backbone's own.

    Raises:
        UserError: If ``num_classes`` is below 1.
    """

    def __init__(
        self, backbone: Backbone, *, num_classes: int, preprocessing: Preprocessing, dropout: float | None = None
    ) -> None:
        super().__init__(backbone, preprocessing=preprocessing)
        if num_classes < 1:
            raise UserError(f"a classifier needs at least one class, got num_classes={num_classes}")
        self.num_classes = num_classes
        self.dropout = nn.Dropout(backbone.head_dropout if dropout is None else dropout)
        pooled, width = backbone.levels[-1].channels, backbone.head_width
        self.hidden: nn.Module | None = None
        if width is not None and backbone.head_norm:
            self.hidden = ConvNormAct(pooled, width, kernel=1, options=backbone.options)
            initialise(self.hidden)
        elif width is not None:
            self.hidden = nn.Linear(pooled, width)
        self.head = nn.Linear(width or pooled, num_classes)
        if backbone.scores_cells:  # as its authors and torchvision start it
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W], uint8 or float in 0..255, to logits [B, K]."""
        return self.classify(self.features(images))

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.backbone.levels[-1].channels

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W], uint8 or float in 0..255, to the backbone's last map [B, C, h, w]."""
        return self.backbone(self.normalise(images))[-1]

    def classify(self, features: Tensor) -> Tensor:
        """Map the backbone's last map [B, C, H, W] to logits [B, K]."""
        if self.backbone.scores_cells:
            cells = features.permute(0, 2, 3, 1)  # [B, H, W, C]: the layer is a 1x1 convolution
            return F.relu(self.head(self.dropout(cells))).mean(dim=(1, 2))
        features = features.mean(dim=(2, 3), keepdim=True)
        if self.backbone.head_norm and self.hidden is not None:
            features = self.hidden(features)
        features = features.flatten(1)
        if self.hidden is not None and not self.backbone.head_norm:  # fully connected, or packed for prediction
            features = F.hardswish(self.hidden(features))
        return self.head(self.dropout(features))

    def losses(self, images: Tensor, targets: Labels, *, output: Tensor | None = None) -> dict[str, Tensor]:
        """Softmax cross-entropy of the pictures whose class is known."""
        logits = self(images) if output is None else output
        return {"class_loss": class_loss(logits.float(), targets)}

    @torch.no_grad()
    def predict(
        self, images: Pictures, *, original_sizes: Tensor | None = None, output: Tensor | None = None
    ) -> Tensor:
        """Class probabilities [B, K].

        Args:
            images: A batch [B, 3, S, S], uint8 or float in 0..255, or pictures uint8 [H, W, 3] RGB of any sizes.
            original_sizes: Not used: a class has no place in the picture.
            output: What ``forward`` gave for these images, if that is known already.
        """
        images = images if output is not None else self.stack(images)
        logits = self(images) if output is None else output
        return self.probabilities(logits.float())

    def probabilities(self, logits: Tensor) -> Tensor:
        """Those of the classes, float32 [B, K], from logits float32 [B, K]."""
        return logits.softmax(-1)
