"""What the training of an embedder minimises: identities as classes with a margin, triplets, or a teacher's vectors."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnvision.errors import UserError
from mnvision.models.embedder import Embedder
from mnvision.models.training_objective import TrainingObjective
from mnvision.ops.embedding_losses import Mining, contrastive_loss, margin_logits, relation_loss, triplet_loss
from mnvision.ops.image import fit_batch
from mnvision.types import Labels

EmbeddingLoss = Literal["arcface", "cosface", "triplet", "batch_hard", "contrastive", "none"]
WITHIN_BATCH = ("triplet", "batch_hard", "contrastive")  # compare the pictures of a batch with each other
# Margins where none is given: of an angle, of a cosine, of squared distances, of a distance. Those of the first two are
# for thousands of pictures; with their papers' 0.5 and 0.35, made for millions, small sets learn little.
MARGINS = {"arcface": 0.2, "cosface": 0.1, "triplet": 0.2, "batch_hard": 0.2, "contrastive": 1.0}


class EmbeddingObjective(TrainingObjective[Embedder, Embedder]):
    """A loss of the identities beside a teacher's vectors, or either alone.

    Args:
        model: What is trained.
        loss: Of the identities; ``none`` does without them.
        identities: K. With ``arcface`` and ``cosface`` each has a direction that is trained along.
        scale: Of the logits of these two.
        margin: Of the loss; None takes that of ``MARGINS``.
        teacher: A network that was trained before, on whose vectors the student's are to lie.
        teacher_weight: Of the squared difference of the two vectors, as the MobileNet paper has it for FaceNet
            (section 4.7).
        relation_weight: Of the difference of their relations within a batch, see ``relation_loss``.

    Raises:
        UserError: If there is nothing to learn from, nobody to tell apart, or the vectors cannot be compared.
    """

    def __init__(
        self,
        model: Embedder,
        *,
        loss: EmbeddingLoss,
        identities: int,
        scale: float = 16.0,
        margin: float | None = None,
        teacher: Embedder | None = None,
        teacher_weight: float = 1.0,
        relation_weight: float = 0.0,
    ) -> None:
        super().__init__(model, teacher=teacher)
        if loss == "none" and (teacher is None or teacher_weight == relation_weight == 0):
            raise UserError(
                "task.loss=none leaves the teacher alone to learn from, and there is none: give task.teacher=CKPT with "
                "task.teacher_weight or task.relation_weight above 0, or another task.loss"
            )
        if loss != "none" and identities < 2:
            raise UserError(
                f"task.loss={loss} tells identities apart, and the training pictures have {identities}. Expected two or"
                " more: give pictures of others, or task.loss=none with a teacher"
            )
        if teacher is None and relation_weight:
            raise UserError(
                "task.relation_weight needs a teacher to compare with: give task.teacher=CKPT, or leave it 0"
            )
        if teacher is not None and teacher_weight == relation_weight == 0:
            raise UserError(
                "task.teacher: both task.teacher_weight and task.relation_weight are 0, and nothing of the teacher is "
                "used; give one of them"
            )
        if teacher is not None and teacher_weight and teacher.embedding_size != model.embedding_size:
            raise UserError(
                f"task.teacher: its embeddings have {teacher.embedding_size} numbers and the student's "
                f"{model.embedding_size}: give task.embedding_size={teacher.embedding_size}, or task.teacher_weight=0 "
                "with task.relation_weight=1, which compares the relations within a batch"
            )
        self.loss, self.scale = loss, scale
        self.margin = MARGINS.get(loss, 0.0) if margin is None else margin
        self.teacher_weight, self.relation_weight = teacher_weight, relation_weight
        self.directions: nn.Parameter | None = None
        if loss in ("arcface", "cosface"):
            self.directions = nn.Parameter(F.normalize(torch.randn(identities, model.embedding_size), dim=1))

    def forward(self, images: Tensor, targets: Labels) -> dict[str, Tensor]:
        """The losses of a training batch [B, 3, S, S]."""
        embeddings = self.model(images)
        losses = {}
        if self.loss != "none":
            losses[f"{self.loss}_loss"] = self.identity_loss(embeddings, targets.labels)
        if self.teacher is not None:
            wanted = self.answers(images, targets)
            if self.teacher_weight:
                distances = (embeddings - wanted).square().sum(dim=1)
                losses["teacher_loss"] = self.teacher_weight * distances.mean()
            if self.relation_weight:
                losses["relation_loss"] = self.relation_weight * relation_loss(embeddings, wanted)
        return losses

    def identity_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings [B, D] by their identities int64 [B]; -1 is not known."""
        if self.directions is None:
            if self.loss == "contrastive":
                return contrastive_loss(embeddings, labels, margin=self.margin)
            mining: Mining = "semi_hard" if self.loss == "triplet" else "batch_hard"
            return triplet_loss(embeddings, labels, margin=self.margin, mining=mining)
        with torch.autocast(embeddings.device.type, enabled=False):  # angles need the digits
            cosines = embeddings.float() @ F.normalize(self.directions.float(), dim=1).T
        kind: Any = self.loss
        logits = margin_logits(cosines, labels, kind=kind, scale=self.scale, margin=self.margin)
        known = int((labels >= 0).sum())
        return F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / max(1, known)

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        """The teacher's embeddings [B, D'] of pictures [B, 3, S, S], in its own input size and normalisation."""
        teacher = self.teacher
        assert teacher is not None
        return teacher.predict(fit_batch(images, teacher.preprocessing.size))
