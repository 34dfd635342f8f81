"""What the commands train and eval do: short functions over ``build``, of a valid configuration as nested dicts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mnvision import build
from mnvision.backbones.folding import is_folded, unfold_batchnorm
from mnvision.backbones.loading import unmatched_classes
from mnvision.backbones.weights import read_weights
from mnvision.callbacks import progress_callbacks
from mnvision.checkpoint import SECTION, model_from_checkpoint, read_checkpoint
from mnvision.config import is_pooled_features
from mnvision.console import TERMINATED
from mnvision.data.base_datamodule import PictureDataModule
from mnvision.errors import UserError
from mnvision.hardware import check_devices, choose_precision
from mnvision.kinds import kind_of
from mnvision.measuring import measure
from mnvision.models.base import TaskModel
from mnvision.module import VisionModule
from mnvision.objectives import build_objective, build_teacher, known_identities
from mnvision.outputs import (
    check_run_folder,
    describe_run,
    model_line,
    run_folder,
    teacher_line,
)
from mnvision.recall import go_on, recall_evaluation, repeat_training, reproduce, settle_model
from mnvision.schema_data import DATA_OF_TASK
from mnvision.steering import Unfreezing
from mnvision.wording import counted

logger = logging.getLogger(__name__)
Config = dict[str, Any]


def train(cfg: Config) -> dict[str, float]:
    """Train a model, keep its best and last checkpoint, evaluate the best, and write the run's folder.

    With ``resume``, an interrupted run goes on as if nothing had happened: in its own folder if no other is given.

    Returns:
        The final numbers, as in ``metrics.json``.

    Raises:
        UserError: If the data, the weights or the checkpoint do not suit; no folder is made then. Or if training fails.
    """
    saved = read_checkpoint(cfg["resume"], key="resume") if cfg["resume"] else None
    cfg = build.settle_learning_rate(cfg) if saved is None else go_on(cfg, saved)
    check_devices(cfg)
    check_run_folder(cfg, overwrite=cfg["resume"])  # before the data, which may take minutes to read
    L.seed_everything(cfg["seed"], verbose=False)
    teacher = build_teacher(cfg)
    if saved is not None:
        model = model_from_checkpoint(saved, path=cfg["resume"], key="resume").train()
        data = _data_for(model, cfg)
        data.setup("fit")
    else:
        table = None
        if teacher is not None and not cfg["task"].get("use_labels", True):
            table = (teacher.spec.classes, teacher.spec.category_ids)
        data = build.build_data(
            cfg,
            preprocessing=build.build_preprocessing(cfg),
            class_table=table,
            labels_needed=table is None,
            known=known_identities(cfg, teacher),
        )
        data.setup("fit")
        model = build.build_model(
            cfg, classes=data.classes, category_ids=data.category_ids, task_options=data.task_options
        )
        data.preprocessing = model.preprocessing  # with the mean colour, which came with the weights
    check_run_folder(cfg, overwrite=cfg["resume"], sources=data.picture_folders("val"))
    cfg = build.whole_batches(cfg, train=data.train_size, val=len(data.load_split("val")))
    logger.info("%s", model_line(model, precision=_precision(cfg)))
    if saved is None and cfg["task"]["name"] == "embed":
        own = len(data.load_split("train").classes)
        if own < len(model.spec.classes):
            logger.info("%s to learn; its teacher and its weights know the others", counted(own, "identity"))
    if taught := teacher_line(cfg["task"]):
        logger.info("learns from %s; val loss is that of the labels alone", taught)
    if is_folded(model) and saved is None:
        _unfold(model, data, batches=cfg["trainer"]["unfold_batches"])
    kind = kind_of(model, command="train")
    module = VisionModule(
        model,
        metric=kind.make_metric(data.load_split("val")),
        make_optimizer=build.build_optimizer(cfg),
        schedule=build.build_schedule(cfg),
        objective=build_objective(cfg, model, data=data, teacher=teacher),
        layer_decay=cfg["trainer"]["layer_decay"],
        progressive=cfg["trainer"]["progressive_rho"] or (),
        selective_weight_decay=cfg["trainer"]["selective_weight_decay"],
        channels_last=cfg["trainer"]["channels_last"],
        config=cfg,
    )
    if cfg["trainer"]["compile"]:
        model.compile()
        if isinstance(module.objective, torch.nn.Module):
            module.objective.compile()
    folder = run_folder(cfg)
    callbacks = progress_callbacks(bar=cfg["trainer"]["progress_bar"], columns=kind.COLUMNS)
    if cfg["trainer"]["unfreeze_every_epochs"]:
        callbacks.append(Unfreezing(model.backbone, every_epochs=cfg["trainer"]["unfreeze_every_epochs"]))
    trainer = build.build_trainer(
        cfg,
        folder=folder,
        callbacks=callbacks,
        record=True,
        start=saved["global_step"] if saved is not None else 0,
    )
    if trainer.is_global_zero:
        describe_run(model, cfg=cfg, folder=folder, command="train")
    logger.info("run folder: %s", folder)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=cfg["resume"], weights_only=True)
    except SystemExit as error:  # Lightning's way after Ctrl-C and SIGTERM
        last = folder / "checkpoints" / "last.ckpt"
        hint = f"resume={last} goes on after the last whole epoch" if last.is_file() else "no epoch is done yet"
        logger.warning("told to end; %s", hint)
        if isinstance(error, SIGTERMException):
            raise SystemExit(TERMINATED) from None  # Lightning would report success
        raise
    best = folder / "checkpoints" / "best.ckpt"
    if not best.is_file():
        raise UserError(
            f"resume: {cfg['resume']} has done all its {cfg['trainer']['max_epochs']} epochs; "
            "give a higher trainer.max_epochs to go on"
        )
    model.load_state_dict(model_from_checkpoint(read_checkpoint(best), path=best).state_dict())
    trainer.loggers = []  # this is no further epoch: the final numbers go into metrics.json
    # The checkpoint holds the averaged weights of its epoch; the averages in memory are those of the last one.
    others = [one for one in trainer.callbacks if not isinstance(one, EMAWeightAveraging)]  # type: ignore[attr-defined]
    trainer.callbacks = others  # type: ignore[attr-defined]
    commands = repeat_training(cfg, best=best)
    numbers = measure(trainer, module, data, "val", cfg=cfg, folder=folder, commands=commands)
    if trainer.is_global_zero:
        logger.info("model: %s", best)
    return numbers


def evaluate(cfg: Config) -> dict[str, float]:
    """Measure a checkpoint, or a model with pretrained weights, on a split; the numbers of the end of training.

    Returns:
        The numbers, as in ``metrics.json``.
    """
    saved = read_checkpoint(cfg["ckpt"]) if cfg["ckpt"] else None
    if saved is not None:
        typed, cfg = cfg, recall_evaluation(cfg, saved[SECTION]["config"])
    elif not (cfg["task"]["weights"] or is_pooled_features(cfg)):
        raise UserError(
            "there is nothing to evaluate: give ckpt=PATH, or task.weights=PATH to evaluate pretrained weights"
        )
    check_devices(cfg)
    check_run_folder(cfg)
    L.seed_everything(cfg["seed"], verbose=False)
    if saved is not None:
        model: TaskModel = model_from_checkpoint(saved, path=cfg["ckpt"])
        settle_model(model, typed, saved[SECTION]["config"])
        data = _data_for(model, cfg)
        annotations = data.load_split(cfg["split"])
    else:
        data = build.build_data(
            cfg, preprocessing=build.build_preprocessing(cfg), known=known_identities(cfg, teacher=None)
        )
        annotations = data.load_split(cfg["split"])
        if cfg["task"]["name"] != "embed":  # whose vectors tell apart what no network has a class for
            _check_classes(cfg["task"]["weights"], annotations.classes)
        model = build.build_model(
            cfg, classes=data.classes, category_ids=data.category_ids, task_options=data.task_options
        )
        data.preprocessing = model.preprocessing
    check_run_folder(cfg, sources=data.picture_folders(cfg["split"]))
    cfg = build.whole_batches(cfg, val=len(annotations))
    logger.info("%s", model_line(model, precision=_precision(cfg)))
    kind = kind_of(model, command="eval")
    metric = kind.make_metric(annotations)
    module = VisionModule(model, metric=metric, channels_last=cfg["trainer"]["channels_last"])
    folder = run_folder(cfg)
    trainer = build.build_trainer(
        cfg, folder=folder, callbacks=progress_callbacks(bar=cfg["trainer"]["progress_bar"], columns=kind.COLUMNS)
    )
    if trainer.is_global_zero:
        describe_run(model, cfg=cfg, folder=folder, command="eval")
    commands = reproduce(cfg, ckpt=cfg["ckpt"])
    return measure(trainer, module, data, cfg["split"], cfg=cfg, folder=folder, commands=commands)


def _data_for(model: TaskModel, cfg: Config) -> PictureDataModule:
    """The data section in a trained model's own input size and classes.

    Raises:
        UserError: If data of that kind are not for its task.
    """
    fitting, name = DATA_OF_TASK[model.spec.task], cfg["data"]["name"]
    if name not in fitting:
        raise UserError(f"data={name} is not for a model of task {model.spec.task}; choose one of {', '.join(fitting)}")
    table = (model.spec.classes, model.spec.category_ids)
    return build.build_data(
        cfg,
        preprocessing=model.preprocessing,
        class_table=table,
        labels_needed=cfg["task"].get("use_labels", True),
    )


def _check_classes(name: str, classes: Sequence[str]) -> None:
    """Refuse to measure a class head that has learnt none of the data's classes; warn where it lacks some."""
    weights = read_weights(name)
    missing = unmatched_classes(weights, classes)
    if len(missing) == len(classes):
        known = "names none" if weights.classes is None else f"knows {_listed(filter(None, weights.classes))}"
        raise UserError(
            f"task.weights: {name} was trained on none of the data's classes {_listed(classes)}: it {known}; evaluate "
            "it on data with its classes, or train it on these first"
        )
    if missing:
        logger.warning("%s was not trained on %s of the data: what it finds of these is chance", name, _listed(missing))


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def _precision(cfg: Config) -> str:
    return choose_precision(cfg["trainer"]["precision"], cfg["trainer"]["accelerator"])


def _unfold(model: TaskModel, data: Any, *, batches: int) -> None:
    """Give folded BatchNorm live statistics of the training pictures, so that it can train."""
    unfold_batchnorm(model, (batch.images for batch in data.train_dataloader()), max_batches=batches)
    logger.info("the weights came with folded BatchNorm: measured its statistics on %d training batches", batches)
