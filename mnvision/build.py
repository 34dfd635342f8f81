"""From a configuration to data, model, metric, optimiser and trainer: the one place that builds them."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from mnvision.config import OPTIMIZERS, did_you_mean, resolve_target
from mnvision.data.datamodule import DetectionDataModule
from mnvision.errors import UserError
from mnvision.hardware import fast_bfloat16, keep_freed_memory
from mnvision.models.base import TaskModel
from mnvision.models.create import create_model
from mnvision.module import MakeOptimizer, Schedule
from mnvision.ops.resolution import input_size
from mnvision.types import Preprocessing

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]
MONITOR = {"ssd": "val/map"}
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def build_model(cfg: Config, *, classes: Sequence[str] | None, category_ids: Sequence[int] | None) -> TaskModel:
    """The model of the task and backbone sections, with the weights they name.

    Args:
        cfg: A valid configuration.
        classes: Class names; None takes those of ``task.weights``.
        category_ids: The data set's own ids of the classes.
    """
    task, backbone = dict(cfg["task"]), dict(cfg["backbone"])
    return create_model(
        task.pop("name"),
        backbone=backbone.pop("name"),
        alpha=backbone.pop("alpha"),
        rho=backbone.pop("rho"),
        image_size=task.pop("image_size"),
        classes=classes,
        category_ids=category_ids,
        weights=task.pop("weights"),
        backbone_weights=backbone.pop("weights"),
        task_options=task,
        backbone_options=backbone,
    )


def build_preprocessing(cfg: Config) -> Preprocessing:
    """The input size of the task and backbone sections; its normalisation is the model's affair."""
    return Preprocessing(input_size(cfg["task"]["image_size"], cfg["backbone"]["rho"]))


def build_data(
    cfg: Config, *, preprocessing: Preprocessing, class_table: tuple[Sequence[str], Sequence[int]] | None = None
) -> DetectionDataModule:
    """The data module of the data section.

    Args:
        cfg: A valid configuration.
        preprocessing: The input size.
        class_table: Class names and category ids that the data has to adopt, such as a checkpoint holds.
    """
    options = dict(cfg["data"])
    if "seed" in options:  # of the generated scenes; the run's seed decides on order and augmentation
        options["shapes_seed"] = options.pop("seed")
    return DetectionDataModule(**options, preprocessing=preprocessing, class_table=class_table, seed=cfg["seed"])


def build_optimizer(cfg: Config) -> MakeOptimizer:
    """The optimiser section as a function of parameter groups.

    Raises:
        UserError: If the optimiser has no such option.
    """
    options = dict(cfg["optimizer"])
    target = resolve_target(options.pop("_target_"), allowed=OPTIMIZERS)
    known = set(inspect.signature(target).parameters) - {"params", "self"}
    for name in options:
        if name not in known:
            raise UserError(
                f"optimizer.{name}: {target.__name__} has no such option{did_you_mean(name, sorted(known))}"
            )

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        # Loss scaling, which float16 needs, and gradient clipping do not go together with a fused step.
        if cfg["trainer"]["fused"] and "fused" in known and cfg["trainer"]["precision"] != "16":
            try:
                return target(groups, **{**options, "fused": True})
            except (RuntimeError, ValueError) as error:
                logger.info("%s is not fused here: %s", target.__name__, error)
        return target(groups, **options)

    return make


def build_schedule(cfg: Config) -> Schedule:
    """The scheduler section as a factor of the learning rate: a linear warm-up, then the curve."""
    options = cfg["scheduler"]
    name = options["name"]

    def factor(step: int, steps: int, per_epoch: float) -> float:
        warmup = min(options["warmup_epochs"] * per_epoch, steps / 2)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        epoch = step / max(per_epoch, 1e-9)
        if name == "cosine":
            done = min(1.0, (step - warmup) / max(1.0, steps - warmup))
            low = options["final_factor"]
            return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2
        if name == "exponential":
            return options["gamma"] ** (epoch // options["every_epochs"])
        if name == "multistep":
            return options["gamma"] ** sum(epoch >= milestone for milestone in options["milestones"])
        return 1.0

    return factor


def build_trainer(cfg: Config, *, folder: Path, callbacks: Sequence[Callback] = (), record: bool = False) -> L.Trainer:
    """Lightning's trainer.

    Args:
        cfg: A valid configuration.
        folder: The run's folder.
        callbacks: What else runs along.
        record: Whether to keep checkpoints and logs: a training does, an evaluation does not.
    """
    options = cfg["trainer"]
    if options["keep_memory"]:
        keep_freed_memory()
    extra: list[Callback] = list(callbacks)
    loggers: list[Logger] = []
    if record:
        extra.append(_checkpoints(folder / "checkpoints", monitor=MONITOR[cfg["task"]["name"]]))
        loggers.append(CSVLogger(save_dir=folder, name="", version=""))
        if options["tensorboard"]:
            loggers.append(TensorBoardLogger(save_dir=folder, name="tensorboard", version=""))
    return L.Trainer(
        default_root_dir=folder,
        max_epochs=options["max_epochs"],
        precision=PRECISIONS[choose_precision(options["precision"], options["accelerator"])],
        accelerator=options["accelerator"],
        devices=options["devices"],
        gradient_clip_val=options["gradient_clip"],
        limit_train_batches=options["limit_train_batches"],
        limit_val_batches=options["limit_val_batches"],
        check_val_every_n_epoch=options["check_every_epochs"],
        log_every_n_steps=options["log_every_steps"],
        deterministic=options["deterministic"],
        logger=loggers or False,
        callbacks=extra,
        enable_checkpointing=record,
        enable_progress_bar=False,  # our own, among the callbacks
        enable_model_summary=False,  # our own profile says more
        num_sanity_val_steps=0,  # the data is checked before training begins
        use_distributed_sampler=False,  # the data module has its own
    )


def choose_device(accelerator: str) -> torch.device:
    """The device that an accelerator's name stands for on this machine."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator == "mps" or (accelerator in ("auto", "gpu") and torch.backends.mps.is_available()):
        return torch.device("mps")
    return torch.device("cpu")


def choose_precision(precision: str | int, accelerator: str) -> str:
    """Turn ``auto`` into ``bf16`` where the device is fast at it, else ``32``."""
    if precision != "auto":
        return str(precision)
    return "bf16" if fast_bfloat16(choose_device(accelerator)) else "32"


def _checkpoints(folder: Path, *, monitor: str) -> Callback:
    return ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor=monitor,
        mode="max",
        save_last=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
