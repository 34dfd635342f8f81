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
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from mnvision.config import OPTIMIZERS, resolve_target
from mnvision.data.attribute_datamodule import AttributeDataModule
from mnvision.data.class_datamodule import ClassDataModule
from mnvision.data.datamodule import DetectionDataModule
from mnvision.data.identity_datamodule import IdentityDataModule
from mnvision.data.place_datamodule import PlaceDataModule
from mnvision.data.place_shard_datamodule import PlaceShardDataModule
from mnvision.data.shard_datamodule import ShardDataModule
from mnvision.errors import UserError, did_you_mean
from mnvision.hardware import choose_precision, count_processes, keep_freed_memory
from mnvision.models.base import TaskModel
from mnvision.models.create import create_model
from mnvision.models.embedding_objective import WITHIN_BATCH
from mnvision.models.preprocessing import resolve_preprocessing
from mnvision.module import MakeOptimizer, Schedule
from mnvision.objectives import NETWORKS, OBJECTIVE_KEYS, PARTITION
from mnvision.schema_data import ATTRIBUTES, BOXES, IDENTITIES, PLACED
from mnvision.schema_tasks import MONITOR
from mnvision.steering import BestCheckpoint, EpochSeed, LastCheckpoint, csv_logger
from mnvision.types import Preprocessing

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]
# The data modules of pictures without boxes, where it is not the one of classes.
CLASS_DATA: dict[str, type[ClassDataModule]] = {
    "shards": ShardDataModule,
    **dict.fromkeys(ATTRIBUTES, AttributeDataModule),
    **dict.fromkeys(IDENTITIES, IdentityDataModule),
    **dict.fromkeys(PLACED, PlaceDataModule),
    "place_shards": PlaceShardDataModule,
}
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def build_model(
    cfg: Config,
    *,
    classes: Sequence[str] | None,
    category_ids: Sequence[int] | None,
    task_options: Mapping[str, Any] | None = None,
) -> TaskModel:
    """The model of the task and backbone sections, with the weights they name.

    Args:
        cfg: A valid configuration.
        classes: Class names; None takes those of ``task.weights``.
        category_ids: The data set's own ids of the classes.
        task_options: Further arguments of the task's network, which follow from the data.
    """
    task, backbone = network_section(cfg["task"]), dict(cfg["backbone"])
    return create_model(
        task.pop("name"),
        backbone=backbone.pop("name"),
        alpha=backbone.pop("alpha"),
        rho=backbone.pop("rho"),
        image_size=task.pop("image_size"),
        preferred_size=cfg["data"].get("image_size"),
        preferred_share=cfg["data"].get("crop_share"),
        fit=task.pop("fit", None),
        crop_share=task.pop("crop_share", None),
        mean=cfg["data"].get("mean"),
        std=cfg["data"].get("std"),
        aligned=cfg["data"].get("landmarks") is not None,
        classes=classes,
        category_ids=category_ids,
        weights=task.pop("weights"),
        backbone_weights=backbone.pop("weights"),
        narrow_weights=backbone.pop("narrow_weights", False),
        task_options={**task, **(task_options or {})},
        backbone_options=backbone,
    )


def network_section(task: Mapping[str, Any]) -> dict[str, Any]:
    """The task section without what only its training asks for."""
    left_out, name = OBJECTIVE_KEYS.get(task["name"], ()), NETWORKS.get(task["name"], task["name"])
    return {key: value for key, value in task.items() if key not in left_out} | {"name": name}


def build_preprocessing(cfg: Config) -> Preprocessing:
    """How ``build_model`` will fit pictures to the input; its normalisation is the model's affair."""
    task = network_section(cfg["task"])
    return resolve_preprocessing(
        task["name"],
        image_size=task["image_size"],
        rho=cfg["backbone"]["rho"],
        weights=task["weights"],
        preferred_size=cfg["data"].get("image_size"),
        preferred_share=cfg["data"].get("crop_share"),
        form=task.get("form"),
        fit=task.get("fit"),
        crop_share=task.get("crop_share"),
        backbone=cfg["backbone"]["name"],
    )


def build_data(
    cfg: Config,
    *,
    preprocessing: Preprocessing,
    class_table: tuple[Sequence[str], Sequence[int]] | None = None,
    labels_needed: bool = True,
    known: Sequence[str] = (),
) -> DetectionDataModule | ClassDataModule:
    """The data module of the data section.

    Args:
        cfg: A valid configuration.
        preprocessing: The input size.
        class_table: Class names and category ids that the data has to adopt, such as a checkpoint holds.
        labels_needed: Whether training pictures need a class, where they have one.
        known: Identities that an embedder knows before its training, see ``known_identities``.
    """
    options = dict(cfg["data"])
    for key in ("image_size", "crop_share", "mean", "std"):  # its wishes; ``preprocessing`` holds what was chosen
        options.pop(key, None)
    if options["name"] not in BOXES:
        taken = set(inspect.signature(ClassDataModule).parameters)
        own = {key: options.pop(key) for key in list(options) if key not in taken or key == "seed"}
        if "per_identity" in own and own["per_identity"] is None and cfg["task"].get("loss") in WITHIN_BATCH:
            own["per_identity"] = 4  # such losses need pictures of the same identity in a batch
        if options["name"] in IDENTITIES:
            own["known"] = known
        if options["name"] in PLACED:
            own |= {key: cfg["task"].get(key) for key in PARTITION}
        module = CLASS_DATA.get(options["name"], ClassDataModule)
        return module(
            **options,
            preprocessing=preprocessing,
            class_table=class_table,
            seed=cfg["seed"],
            views=cfg["task"].get("teacher_views"),
            labels_needed=labels_needed,
            options=own,
        )
    if "seed" in options:  # of the generated scenes; the run's seed decides on order and augmentation
        options["shapes_seed"] = options.pop("seed")
    return DetectionDataModule(**options, preprocessing=preprocessing, class_table=class_table, seed=cfg["seed"])


def settle_learning_rate(cfg: Config) -> dict[str, Any]:
    """The configuration with the learning rate that counts: lowered for trained weights, unless the user gave it.

    The factor is 1 afterwards, so that a configuration that was written down is not lowered again.
    """
    if not cfg["task"]["weights"]:
        return dict(cfg)
    rate, factor = cfg["optimizer"]["lr"], cfg["trainer"]["pretrained_lr_factor"]
    if factor != 1 and "optimizer.lr" not in cfg["overrides"]:
        rate *= factor  # steps made for fresh weights would undo what a model has learnt
        logger.info("learning rate %g, lowered by trainer.pretrained_lr_factor for trained weights", rate)
    optimizer, trainer = {**cfg["optimizer"], "lr": rate}, {**cfg["trainer"], "pretrained_lr_factor": 1.0}
    return {**cfg, "optimizer": optimizer, "trainer": trainer}


def whole_batches(cfg: Config, **pictures: int) -> dict[str, Any]:
    """The configuration with limits such as 0.01 of an epoch raised to one batch, where they are less than that.

    Args:
        cfg: A valid configuration.
        pictures: How many there are, by ``train`` and ``val``.
    """
    trainer = dict(cfg["trainer"])
    at_once = cfg["data"]["batch_size"] * count_processes(trainer["accelerator"], trainer["devices"])
    for name, count in pictures.items():
        # As the data module deals them out: training drops a last, smaller batch unless it is the only one.
        batches = max(1, count // at_once) if name == "train" else math.ceil(count / at_once)
        limit = trainer[f"limit_{name}_batches"]
        if isinstance(limit, float) and limit * batches < 1:
            trainer[f"limit_{name}_batches"] = 1
    return {**cfg, "trainer": trainer}


def build_optimizer(cfg: Config) -> MakeOptimizer:
    """The optimiser section as a function of parameter groups.

    Raises:
        UserError: If the optimiser has no such option, or does not take its value.
    """
    options = dict(cfg["optimizer"])
    target = resolve_target(options.pop("_target_"), allowed=OPTIMIZERS)
    known = set(inspect.signature(target).parameters) - {"params", "self"}
    for name in options:
        if name not in known:
            raise UserError(f"optimizer.{name}: {target.__name__} has no such option{did_you_mean(name, known)}")

    try:  # on weights as networks have them, in two groups, so that wrong values show before anything starts
        weights = (torch.zeros(1, 1, 1, 1, requires_grad=True), torch.zeros(1, requires_grad=True))
        target([{"params": [weight]} for weight in weights], **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"optimizer: {target.__name__} does not take these options: {error}") from error

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        scales = [group.pop("lr_scale", 1.0) for group in groups]
        groups = [{**group, "lr": options["lr"] * scale} for group, scale in zip(groups, scales, strict=True)]
        # Loss scaling, which float16 needs, and gradient clipping do not go together with a fused step.
        if cfg["trainer"]["fused"] and "fused" in known and str(cfg["trainer"]["precision"]) != "16":
            try:  # on copies: an optimiser writes its options into the groups
                return target([dict(group) for group in groups], **{"fused": True, **options})
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
            return options["gamma"] ** math.floor(epoch / options["every_epochs"] + 1e-9)  # 0.3 // 0.1 is 2
        if name == "multistep":
            return options["gamma"] ** sum(epoch >= milestone for milestone in options["milestones"])
        return 1.0

    return factor


def build_trainer(
    cfg: Config, *, folder: Path, callbacks: Sequence[Callback] = (), record: bool = False, start: int = 0
) -> L.Trainer:
    """Lightning's trainer.

    Args:
        cfg: A valid configuration.
        folder: The run's folder.
        callbacks: What else runs along.
        record: Whether to keep checkpoints and logs: a training does, an evaluation does not.
        start: The step at which a training goes on.
    """
    options = cfg["trainer"]
    check_every = min(options["check_every_epochs"], options["max_epochs"])  # or there would be no best checkpoint
    if options["keep_memory"]:
        keep_freed_memory()
    extra: list[Callback] = list(callbacks)
    loggers: list[Logger] = []
    if record:
        extra.append(EpochSeed(cfg["seed"]))
        if options["ema_decay"]:
            extra.append(EMAWeightAveraging(decay=options["ema_decay"]))
        # In this order: the last checkpoint knows of the best one of its own epoch.
        extra.append(BestCheckpoint(folder / "checkpoints", monitor=MONITOR[cfg["task"]["name"]], every=check_every))
        extra.append(LastCheckpoint(folder / "checkpoints"))
        loggers.append(csv_logger(folder, start=start))
        if options["tensorboard"]:
            loggers.append(TensorBoardLogger(save_dir=folder, name="tensorboard", version=""))
    # What is frozen for a while, or left out by an objective, gets no gradient.
    partial = options["unfreeze_every_epochs"] or cfg["task"]["name"] == "distill"
    several = count_processes(options["accelerator"], options["devices"]) > 1
    return L.Trainer(
        strategy="ddp_find_unused_parameters_true" if partial and several and record else "auto",
        default_root_dir=folder,
        max_epochs=options["max_epochs"],
        precision=PRECISIONS[choose_precision(options["precision"], options["accelerator"])],
        accelerator=options["accelerator"],
        devices=options["devices"],
        gradient_clip_val=options["gradient_clip"],
        limit_train_batches=options["limit_train_batches"],
        limit_val_batches=options["limit_val_batches"],
        check_val_every_n_epoch=check_every,
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
