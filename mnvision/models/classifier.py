"""An image classifier: a backbone, the mean over its last map, dropout, one fully connected layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnvision.backbones.base import Backbone
from mnvision.models.base import TaskModel
from mnvision.types import Preprocessing, UserError


class Classifier(TaskModel):
    """The paper's classification network (Table 1 from the average pooling on).

    Args:
        backbone: Any backbone; its last level is used.
        num_classes: Classes.
        preprocessing: Input size, mean and standard deviation.
        dropout: Share of the pooled features that training zeroes.

    Raises:
        UserError: If ``num_classes`` is below 1.
    """

    def __init__(
        self, backbone: Backbone, *, num_classes: int, preprocessing: Preprocessing, dropout: float = 0.001
    ) -> None:
        super().__init__(backbone, preprocessing=preprocessing)
        if num_classes < 1:
            raise UserError(f"a classifier needs at least one class, got num_classes={num_classes}")
        self.num_classes = num_classes
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.levels[-1].channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W], uint8 or float in 0..255, to logits [B, K]."""
        features = self.backbone(self.normalise(images))[-1]
        return self.head(self.dropout(features.mean(dim=(2, 3))))

    def losses(self, images: Tensor, targets: Tensor, *, output: Tensor | None = None) -> dict[str, Tensor]:
        """Softmax cross-entropy of the batch with labels int64 [B], 0..K-1."""
        logits = self(images) if output is None else output
        return {"class_loss": F.cross_entropy(logits.float(), targets)}

    @torch.no_grad()
    def predict(self, images: Tensor, *, original_sizes: Tensor | None = None, output: Tensor | None = None) -> Tensor:
        """Class probabilities [B, K]."""
        logits = self(images) if output is None else output
        return logits.float().softmax(-1)
