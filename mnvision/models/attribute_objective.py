"""What the training on attributes minimises, beyond the plain loss that every evaluation reports."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mnvision.errors import UserError
from mnvision.models.attributes import AttributeNetwork
from mnvision.models.training_objective import TrainingObjective
from mnvision.ops.attribute_losses import attribute_distillation_loss, attribute_loss
from mnvision.ops.image import fit_batch
from mnvision.types import Labels


class AttributeObjective(TrainingObjective[AttributeNetwork, AttributeNetwork]):
    """Binary cross-entropy with the labels, with a frozen teacher's probabilities, or with both.

    ``weight * teacher_loss + (1 - weight) * attribute_loss``; without a teacher the latter alone. The teacher
    normalises the pictures for itself and sees them in its own input size.

    Args:
        model: What is trained.
        positive_weights: See ``attribute_loss``.
        teacher: A network that knows the model's attributes, by name.
        weight: Of the teacher against the labels, above 0, up to 1.
        use_labels: False: do without the labels.

    Raises:
        UserError: If the teacher does not know an attribute of the model, nothing is left to learn from, or no label is
            left to weight.
    """

    positive_weights: Tensor | None
    columns: Tensor

    def __init__(
        self,
        model: AttributeNetwork,
        *,
        positive_weights: Tensor | None = None,
        teacher: AttributeNetwork | None = None,
        weight: float = 1.0,
        use_labels: bool = True,
    ) -> None:
        super().__init__(model, teacher=teacher)
        if teacher is None and not use_labels:
            raise UserError("task.use_labels=false: there is nothing to learn from; give task.teacher=CHECKPOINT")
        if positive_weights is not None and teacher is not None and (weight == 1 or not use_labels):
            raise UserError(
                "task.positive_weights=balanced weights the labels, and only the teacher's answers are learnt: give "
                "task.weight below 1 with task.use_labels=true, or task.positive_weights=none"
            )
        self.weight = weight if teacher is not None else 0.0
        self.label_weight = 1 - self.weight if use_labels else 0.0
        self.register_buffer("positive_weights", positive_weights, persistent=False)  # it follows from the data
        columns = [] if teacher is None else _columns(model, teacher)
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)

    def forward(self, images: Tensor, targets: Labels) -> dict[str, Tensor]:
        """The losses of a training batch [B, 3, S, S]."""
        logits = self.model(images).float()
        losses = {}
        if self.label_weight:
            loss = attribute_loss(logits, targets.labels, positive_weights=self.positive_weights)
            losses["attribute_loss"] = self.label_weight * loss
        if self.teacher is not None:
            losses["teacher_loss"] = self.weight * attribute_distillation_loss(logits, self.answers(images, targets))
        return losses

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        """The teacher's logits [B, A] of the model's attributes for pictures [B, 3, S, S]."""
        teacher = self.teacher
        assert teacher is not None
        return teacher(fit_batch(images, teacher.preprocessing.size)).float().index_select(1, self.columns)


def _columns(model: AttributeNetwork, teacher: AttributeNetwork) -> list[int]:
    """Where the model's attributes are among the teacher's."""
    places = {name: place for place, name in enumerate(teacher.spec.classes)}
    missing = [name for name in model.spec.classes if name not in places]
    if missing:
        some = ", ".join(list(places)[:10]) + (", ..." if len(places) > 10 else "")
        raise UserError(
            f"task.teacher: the teacher does not know {len(missing)} of the {len(model.spec.classes)} attributes, such "
            f"as {missing[0]!r}; it knows {some}. Train one on them, or pick those that it knows with data.classes"
        )
    return [places[name] for name in model.spec.classes]


def positive_weights(counts: np.ndarray) -> Tensor:
    """Weights float32 [A] of who has an attribute, under which all of them count as much as all who lack it.

    1 for an attribute that all have or all lack.

    Args:
        counts: int [2, A], training pictures with the attribute and without it.

    >>> positive_weights(np.array([[10, 30, 0], [30, 10, 40]]))
    tensor([3.0000, 0.3333, 1.0000])
    """
    present, absent = counts
    return torch.from_numpy(np.where(counts.all(axis=0), absent / np.maximum(present, 1), 1.0).astype(np.float32))
