"""The one training module of every task: it sums a model's losses and feeds its predictions to a metric."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from mnvision.backbones.layers import parameters_without_decay
from mnvision.checkpoint import SECTION, describe_model
from mnvision.models.base import TaskModel
from mnvision.models.training_objective import TrainingObjective
from mnvision.ops.image import fit_batch
from mnvision.ops.resolution import input_size
from mnvision.types import Batch, Labels, Targets, UserError

logger = logging.getLogger(__name__)

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
# From (optimiser steps taken, all steps, steps of an epoch) to a factor of the learning rate.
Schedule = Callable[[int, int, float], float]
# From images and targets of a training batch to scalar losses whose sum is minimised.
Objective = Callable[[Tensor, Any], dict[str, Tensor]]


class Metric(Protocol):
    """What judges predictions: see ``metrics``."""

    def update(self, predictions: Any, targets: Any) -> None:
        """Add the predictions of a batch."""

    def compute(self) -> dict[str, float]:
        """The numbers over all batches since the last reset."""

    def reset(self) -> None:
        """Forget everything."""


class VisionModule(L.LightningModule):
    """Trains any model that offers ``losses`` and ``predict``.

    Logged: the epoch's mean of ``train/loss`` and of each loss by its name, ``val/loss`` likewise, and the metric's
    numbers as ``val/...``; and ``train/loss_step``, of this process alone.

    Args:
        model: The task's model.
        metric: Judges the predictions of an evaluation.
        make_optimizer: Makes the optimiser from parameter groups.
        schedule: Factor of the learning rate by step.
        objective: What training minimises; the model's own losses where None. Where it is a module, such as one that
            compares the model with a teacher, its parameters are trained too and kept in checkpoints for a resume.
        selective_weight_decay: Leave depthwise filters, norms and biases out of weight decay (paper, section 3.1).
        layer_decay: Factor of the learning rate from a stage of the backbone to the one before it.
        progressive: Resolution multipliers of equal parts of the training, such as (0.5, 0.75, 1): its pictures are
            shrunk so. For classifiers, whose targets have no place in the picture.
        channels_last: Run in channels-last memory order.
        config: The resolved configuration, for the checkpoint.
    """

    def __init__(
        self,
        model: TaskModel,
        *,
        metric: Metric | None = None,
        make_optimizer: MakeOptimizer | None = None,
        schedule: Schedule | None = None,
        objective: Objective | None = None,
        selective_weight_decay: bool = True,
        layer_decay: float = 1.0,
        progressive: Sequence[float] = (),
        channels_last: bool = True,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        self.metric = metric
        self.make_optimizer = make_optimizer
        self.schedule = schedule
        self.objective = objective
        self.selective_weight_decay = selective_weight_decay
        self.layer_decay = layer_decay
        stride = model.backbone.levels[-1].stride
        self.training_sizes = [input_size(model.preprocessing.size, rho, stride=stride) for rho in progressive]
        self.config = config or {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the model's losses, which is minimised."""
        images = fit_batch(batch.images, self._training_size()) if self.training_sizes else batch.images
        images = images.contiguous(memory_format=self.memory_format)
        try:
            losses = (self.objective or self.model.losses)(images, batch.targets)
        except ValueError as error:
            if len(images) > 1:
                raise
            raise UserError(
                f"a training step of one picture is too small for BatchNorm on maps of one cell ({error}); "
                "set data.batch_size to 2 or more"
            ) from error
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise UserError(self._not_finite(batch, losses))
        self.log("train/loss_step", total.detach(), on_step=True, on_epoch=False, prog_bar=True)
        self._log_means("train", losses, total=total, batch_size=len(images))
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses and predictions from one forward pass."""
        images = batch.images.contiguous(memory_format=self.memory_format)
        output = self.model(images)
        losses = self.model.losses(images, batch.targets, output=output)
        total = torch.stack(list(losses.values())).sum()
        # Pictures without a class have no loss.
        known = int((batch.targets.labels >= 0).sum()) if isinstance(batch.targets, Labels) else len(images)
        self._log_means("val", losses, total=total, batch_size=known)
        if self.metric is not None:
            sizes = {"original_sizes": batch.targets.original_sizes} if isinstance(batch.targets, Targets) else {}
            self.metric.update(self.model.predict(images, output=output, **sizes), batch.targets)

    def on_train_epoch_start(self) -> None:
        """Tell the epoch to an objective that wants to know."""
        if isinstance(self.objective, TrainingObjective):
            self.objective.begin_epoch(self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        """Start counting afresh."""
        if self.metric is not None:
            self.metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the metric's numbers: the same on every process, since the metric gathers by itself."""
        if self.metric is not None and not self.trainer.sanity_checking:
            # The mean over processes is the value itself; asking for it is what Lightning wants to see.
            self.log_dict({f"val/{name}": value for name, value in self.metric.compute().items()}, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser with its parameter groups, and the learning rate of each step."""
        if self.make_optimizer is None:
            raise RuntimeError("VisionModule was made without an optimiser: it can evaluate, not train")
        optimizer = self.make_optimizer(self.parameter_groups())
        if self.schedule is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        per_epoch = steps / max(1, self.trainer.max_epochs or 1)
        schedule = self.schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, per_epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Shorten the gradient to the trainer's limit; Lightning's own clipping refuses fused optimisers in bf16."""
        if gradient_clip_val:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(weights, gradient_clip_val)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The trainable parameters, with and without weight decay, by depth where the learning rate falls with it.

        ``lr_scale`` is the factor of a group's learning rate.
        """
        without = parameters_without_decay(self) if self.selective_weight_decay else set()
        depths = self.model.backbone.depths() if self.layer_decay != 1 else {}
        groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for parameter in (parameter for parameter in self.parameters() if parameter.requires_grad):
            groups.setdefault((depths.get(parameter, 0), parameter in without), []).append(parameter)
        return [
            {
                "params": parameters,
                **({"weight_decay": 0.0} if light else {}),
                **({"lr_scale": self.layer_decay**depth} if self.layer_decay != 1 else {}),
            }
            for (depth, light), parameters in sorted(groups.items(), key=lambda item: item[0])
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint describe itself."""
        checkpoint[SECTION] = describe_model(self.model, config=self.config)

    def _training_size(self) -> int:
        """The side of this epoch's training pictures."""
        sizes = self.training_sizes
        part = self.current_epoch * len(sizes) // max(1, self.trainer.max_epochs or 1)
        return sizes[min(part, len(sizes) - 1)]

    def _log_means(self, stage: str, losses: dict[str, Tensor], *, total: Tensor, batch_size: int) -> None:
        """Log the means over the epoch and all processes: one exchange at its end, none at a step."""
        values = {"loss": total} | losses
        means = {f"{stage}/{name}": value.detach() for name, value in values.items()}
        # Lightning averages the sizes over the processes and would round down the mean of whole numbers.
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=float(batch_size), sync_dist=True)  # type: ignore[arg-type]

    def _not_finite(self, batch: Batch, losses: dict[str, Tensor]) -> str:
        """Say which pictures make the loss infinite or NaN."""
        parts = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
        where = f"epoch {self.current_epoch}, step {self.global_step}"
        images = _culprits(self.model, self.objective or self.model.losses, batch)
        where_to_look = "boxes" if isinstance(batch.targets, Targets) else "pixels"
        return (
            f"the loss is not finite at {where} ({parts}); pictures with image ids {', '.join(map(str, images))}. "
            f"Look at their {where_to_look}, lower optimizer.lr or trainer.gradient_clip, or set trainer.precision=32"
        )


@torch.no_grad()
def _culprits(model: TaskModel, objective: Objective, batch: Batch) -> list[int]:
    """Image ids of the pictures whose own loss is not finite; all of the batch where none is by itself."""
    targets = batch.targets
    culprits = []
    model.eval()  # one picture has no statistics; training ends here anyway
    for row in range(len(batch.images)):
        one = slice(row, row + 1)
        losses = objective(batch.images[one], targets.rows(one))
        if not all(bool(torch.isfinite(value)) for value in losses.values()):
            culprits.append(int(targets.image_ids[row]))
    return culprits or [int(image_id) for image_id in targets.image_ids]
