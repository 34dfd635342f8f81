"""Distillation (Hinton et al. 2015, arXiv:1503.02531): a student learns what a frozen teacher says of each picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnvision.backbones.timm_adapter import TimmClassifier
from mnvision.errors import UserError
from mnvision.models.class_objective import ClassObjective
from mnvision.models.classifier import Classifier
from mnvision.models.training_objective import TrainingObjective
from mnvision.ops.class_losses import distillation_loss
from mnvision.ops.image import fit_batch
from mnvision.types import Labels

# What is asked of a teacher: features(), classify(), width, preprocessing, and the class names of its spec.
Teacher = Classifier | TimmClassifier


class Distillation(TrainingObjective[Classifier, Teacher]):
    """What the training of a student minimises: a teacher's outputs beside the labels, or in place of them.

    ``weight * T^2 KL(teacher || student) + (1 - weight) * cross-entropy``, and where asked for, how far the student's
    last map is from the teacher's, and its mean over the picture (its embedding) from the teacher's. Where widths
    differ, a linear map that is trained along brings the student's to the teacher's (FitNets, arXiv:1412.6550).

    The teacher normalises the pictures for itself and sees them in its own input size.

    Args:
        student: What is trained.
        teacher: Any classifier that knows the student's classes, by name.
        hard: The loss of the labels; None to do without them.
        temperature: T, above 0.
        weight: Of the teacher's classes against the labels, 0..1.
        feature_weight: Of the distance of the last maps.
        embedding_weight: Of the distance of their means.
        outputs: Logits [B, K'] and embeddings [B, C'] that the teacher gave for pictures int64 [B], where they were
            kept; None asks the teacher at every step.

    Raises:
        UserError: If the teacher does not know a class of the student, or nothing is left to learn from.
    """

    columns: Tensor

    def __init__(
        self,
        student: Classifier,
        teacher: Teacher,
        *,
        hard: ClassObjective | None,
        temperature: float = 4.0,
        weight: float = 0.7,
        feature_weight: float = 0.0,
        embedding_weight: float = 0.0,
        outputs: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__(student, teacher=teacher)
        if weight == feature_weight == embedding_weight == 0:
            raise UserError(
                "task.weight, task.feature_weight and task.embedding_weight are all 0: nothing of the teacher is used; "
                "give one of them, or task=classify"
            )
        self.hard = hard
        self.temperature, self.weight = temperature, weight
        self.feature_weight, self.embedding_weight = feature_weight, embedding_weight
        self.outputs = outputs
        places = {name: place for place, name in enumerate(teacher.spec.classes)}
        missing = [name for name in student.spec.classes if name not in places]
        if weight and missing:
            some = ", ".join(list(places)[:10]) + (", ..." if len(places) > 10 else "")
            raise UserError(
                f"task.teacher: the teacher does not know {len(missing)} of the {len(student.spec.classes)} classes, "
                f"such as {missing[0]!r}; it knows {some}. Train one on them, or give task.weight=0 with "
                "task.embedding_weight=1"
            )
        columns = [] if missing else [places[name] for name in student.spec.classes]
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)
        own, wanted = student.width, teacher.width
        self.feature_map = nn.Conv2d(own, wanted, 1) if feature_weight and own != wanted else nn.Identity()
        self.embedding_map = nn.Linear(own, wanted) if embedding_weight and own != wanted else nn.Identity()

    def forward(self, images: Tensor, targets: Labels) -> dict[str, Tensor]:
        """The losses of a training batch [B, 3, S, S]."""
        student = self.model
        features = student.features(images)
        logits = student.classify(features).float()
        losses = {}
        if self.hard is not None and self.weight < 1:
            losses["class_loss"] = (1 - self.weight) * self.hard.class_loss(logits, targets)
        teacher_logits, teacher_embeddings, teacher_features = self._ask(images, targets)
        if self.weight:
            teacher_logits = teacher_logits.float().index_select(1, self.columns)
            loss = distillation_loss(logits, teacher_logits, temperature=self.temperature)
            losses["teacher_loss"] = self.weight * loss
        if self.feature_weight:
            loss = feature_loss(self.feature_map(features), teacher_features)
            losses["feature_loss"] = self.feature_weight * loss
        if self.embedding_weight:
            embeddings = self.embedding_map(features.mean(dim=(2, 3)))
            loss = embedding_loss(embeddings, teacher_embeddings)
            losses["embedding_loss"] = self.embedding_weight * loss
        return losses

    @torch.no_grad()
    def ask(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's logits [B, K'], embeddings [B, C'] and last map [B, C', H', W'] for pictures [B, 3, S, S]."""
        teacher = self.teacher
        assert teacher is not None
        features = teacher.features(fit_batch(images, teacher.preprocessing.size))
        return teacher.classify(features), features.mean(dim=(2, 3)), features

    def _ask(self, images: Tensor, targets: Labels) -> tuple[Tensor, Tensor, Tensor]:
        if self.memory is not None:
            rows = self.memory(images, targets.image_ids, ask=lambda new: torch.cat(self.ask(new)[:2], dim=1))
            count = len(self.teacher.spec.classes)  # type: ignore[union-attr]
            return rows[:, :count], rows[:, count:], rows.new_zeros(0)
        if self.outputs is None:
            return self.ask(images)
        logits, embeddings = (values.to(images.device) for values in self.outputs(targets.image_ids))
        return logits, embeddings, embeddings.new_zeros(0)


def feature_loss(features: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of two maps [B, C, H, W] and [B, C, H', W'], each standardised over its picture.

    Standardised, since what a map says does not lie in its scale; the student's is averaged or repeated to the
    teacher's cells where there are fewer or more.
    """
    if features.shape[-2:] != wanted.shape[-2:]:
        features = F.adaptive_avg_pool2d(features, (wanted.shape[-2], wanted.shape[-1]))
    own, other = (F.layer_norm(values.float(), values.shape[1:]) for values in (features, wanted))
    return F.mse_loss(own, other)


def embedding_loss(embeddings: Tensor, wanted: Tensor) -> Tensor:
    """1 less the mean cosine of the angles between rows [B, C]; 0 where they point the same way."""
    return 1 - F.cosine_similarity(embeddings.float(), wanted.float(), dim=1).mean()
