"""A network for attributes: the classifier's, with a probability of its own for each attribute."""

from __future__ import annotations

from torch import Tensor

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

    def probabilities(self, logits: Tensor) -> Tensor:
        """Those of the attributes, each for itself, float32 [B, A], from logits float32 [B, A]."""
        return logits.sigmoid()
