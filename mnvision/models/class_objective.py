"""What the training of a classifier minimises, beyond the plain cross-entropy that every evaluation reports."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mnvision.models.base import TaskModel
from mnvision.models.training_objective import TrainingObjective
from mnvision.ops.class_losses import Noise, class_loss
from mnvision.types import Labels


class ClassObjective(TrainingObjective[TaskModel, TaskModel]):
    """Cross-entropy with smoothed, weighted or doubted labels.

    Args:
        model: A classifier.
        smoothing: See ``class_loss``.
        class_weights: float [K], see ``class_loss``.
        noise: See ``class_loss``.
        trust: See ``class_loss``.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: TaskModel,
        *,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        noise: Noise = "none",
        trust: float = 1.0,
    ) -> None:
        super().__init__(model)
        self.smoothing, self.noise, self.trust = smoothing, noise, trust
        self.register_buffer("class_weights", class_weights, persistent=False)  # it follows from the data

    def forward(self, images: Tensor, targets: Labels) -> dict[str, Tensor]:
        """The losses of a training batch [B, 3, S, S]."""
        return {"class_loss": self.class_loss(self.model(images), targets)}

    def class_loss(self, logits: Tensor, targets: Labels) -> Tensor:
        """The loss of logits [B, K]."""
        return class_loss(
            logits.float(),
            targets,
            smoothing=self.smoothing,
            class_weights=self.class_weights,
            noise=self.noise,
            trust=self.trust,
        )


def balanced_weights(counts: np.ndarray) -> Tensor:
    """Weights float32 [K] under which every class counts the same; those of classes without pictures are 0.

    Args:
        counts: int [K], training pictures of each class.

    >>> balanced_weights(np.array([30, 10, 0]))
    tensor([0.6667, 2.0000, 0.0000])
    """
    present = counts > 0
    shares = counts.sum() / (max(1, present.sum()) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(present, shares, 0.0).astype(np.float32))
