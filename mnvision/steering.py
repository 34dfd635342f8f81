"""What happens between the epochs of a training: seeds, stages that are set free, what is kept on disk."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from mnvision.backbones.base import Backbone


class EpochSeed(Callback):
    """Tells the epoch to PyTorch's random numbers and to streamed data: a resumed run is like one in one go.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Another seed for each epoch and process."""
        seeds = np.random.SeedSequence((self.seed, trainer.current_epoch, trainer.global_rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        # A stream has no sampler that Lightning would tell.
        set_epoch = getattr(getattr(trainer.train_dataloader, "dataset", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(trainer.current_epoch)


class Unfreezing(Callback):
    """Trains the head alone at first, then the backbone's last stage as well, and so on to the first.

    What ``backbone.freeze`` froze stays frozen. (ULMFiT, arXiv:1801.06146, section 3.3.)

    Args:
        backbone: Of the model that is trained.
        every_epochs: Epochs from one stage to the next.
    """

    def __init__(self, backbone: Backbone, *, every_epochs: int) -> None:
        self.backbone, self.every_epochs = backbone, every_epochs
        self.least = backbone.frozen_stages

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze what is still to wait; the optimiser, made before, knows it all the same."""
        waiting = len(self.backbone.stages) - trainer.current_epoch // self.every_epochs
        self.backbone.freeze(max(self.least, waiting), norm=self.backbone.norm_policy)


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``: of the measured epochs the one with the highest number, the first one among equals.

    Args:
        folder: Where it is kept.
        monitor: Name of the number.
        every: The number is new after every so many epochs.
    """

    def __init__(self, folder: Path, *, monitor: str, every: int) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode="max",
            every_n_epochs=every,
            save_on_train_epoch_end=True,  # the epoch is complete then, and the run can go on from it
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best epoch so far, where its checkpoint is still there: the folder may have been moved."""
        best = Path(self.dirpath or "") / "best.ckpt"
        score = state_dict["best_model_score"]
        if score is None or not best.is_file():
            return
        self.best_model_score = score
        self.best_model_path = self.kth_best_model_path = str(best)
        self.best_k_models = {str(best): score}


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, of the last complete epoch, whether it was a good one or not.

    Args:
        folder: Where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save."""
        trainer.save_checkpoint(self.path, weights_only=False)  # with the state of the optimizer and of the loops


def csv_logger(folder: Path, *, start: int) -> CSVLogger:
    """Lightning's logger, which empties ``metrics.csv``: the lines from before ``start`` are put back."""
    logger = CSVLogger(save_dir=folder, name="", version="")
    file = folder / "metrics.csv"
    if start and file.is_file() and getattr(rank_zero_only, "rank", 0) == 0:
        with file.open(newline="", encoding="utf-8") as lines:
            earlier = [row for row in csv.DictReader(lines) if int(row["step"]) < start]
        logger.experiment.metrics.extend(earlier)
        logger.save()
    return logger
