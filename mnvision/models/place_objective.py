"""What the training of a geolocator minimises where a near cell is to be less wrong than a far one."""

from __future__ import annotations

import torch
from torch import Tensor

from mnvision.models.geolocator import Geolocator
from mnvision.models.training_objective import TrainingObjective
from mnvision.ops.geo import haversine_tensor
from mnvision.types import Labels


class PlaceObjective(TrainingObjective[Geolocator, Geolocator]):
    """Cross-entropy with targets that fall off with the distance from the true place.

    A cell whose answer lies ``d`` km from the picture's place gets a share in proportion to ``exp(-d / scale)``: the
    nearest cell most, those within a few scales some, all others none (as in L. Haas et al., "PIGEON: Predicting Image
    Geolocations", arXiv:2307.05845, equation 2). A picture that lies in no cell has no loss.

    Args:
        model: A geolocator.
        scale: In km.
    """

    def __init__(self, model: Geolocator, *, scale: float) -> None:
        super().__init__(model)
        self.scale = scale

    def forward(self, images: Tensor, targets: Labels) -> dict[str, Tensor]:
        """The losses of a training batch [B, 3, S, S]."""
        return {"class_loss": self.class_loss(self.model(images), targets)}

    def class_loss(self, logits: Tensor, targets: Labels) -> Tensor:
        """The loss of logits [B, K]: the mean over the pictures that lie in a cell."""
        known = (targets.labels >= 0).float()  # not in the logits' type: bfloat16 counts up to 256
        losses = -(self.soft_targets(targets) * logits.float().log_softmax(-1)).sum(-1)
        return (losses * known).sum() / known.sum().clamp(min=1)

    @torch.no_grad()
    def soft_targets(self, targets: Labels) -> Tensor:
        """The shares of the cells for each picture: float32 [B, K], rows summing to 1."""
        assert targets.places is not None  # the data of geolocation bring them
        distances = haversine_tensor(targets.places[:, None], self.model.places[None])  # [B, K]
        return (-distances / self.scale).softmax(-1)
