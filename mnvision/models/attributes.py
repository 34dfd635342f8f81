"""A network for attributes: the classifier's, with a probability of its own for each attribute."""

from __future__ import annotations

import torch
from torch import Tensor

from mnvision.models.base import Pictures
from mnvision.models.classifier import Classifier
from mnvision.ops.attribute_losses import attribute_loss
from mnvision.types import Labels


class AttributeNetwork(Classifier):
    """Tells which attributes a picture has; see `Classifier` for the network and its arguments.

    ``num_classes`` is the number A of attributes, each of which is present or absent whatever the others are.
    """

    def losses(self, images: Tensor, targets: Labels, *, output: Tensor | None = None) -> dict[str, Tensor]:
        """Binary cross-entropy, mean over the values that are known."""
        logits = self(images) if output is None else output
        return {"attribute_loss": attribute_loss(logits.float(), targets.labels)}

    @torch.no_grad()
    def predict(
        self, images: Pictures, *, original_sizes: Tensor | None = None, output: Tensor | None = None
    ) -> Tensor:
        """Probabilities of the attributes [B, A].

        Args:
            images: A batch [B, 3, S, S], uint8 or float in 0..255, or pictures uint8 [H, W, 3] RGB of any sizes.
            original_sizes: Not used: an attribute has no place in the picture.
            output: What ``forward`` gave for these images, if that is known already.
        """
        images = images if output is not None else self.stack(images)
        logits = self(images) if output is None else output
        return logits.float().sigmoid()
