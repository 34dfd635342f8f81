"""Tiny runs for the tests: configurations as the command line makes them, and models with known weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_module
from torch import Tensor, nn

from mnvision.checkpoint import load_model, save_model
from mnvision.config import to_plain, validate
from mnvision.models.base import TaskModel
from mnvision.models.create import create_model
from mnvision.overrides import config_groups, override_keys, rewrite
from mnvision.types import Batch, Target, pad_targets

DATA = (
    "data.train_count=12",
    "data.val_count=6",
    "data.canvas=80",
    "data.batch_size=4",
    "data.num_workers=0",
    "data.augment=flip",
)
TRAINER = (
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "trainer.max_epochs=2",
    "trainer.tensorboard=false",
    "trainer.pictures=0",
    "trainer.log_every_steps=1",
    "trainer.keep_memory=false",
)
TINY = (*DATA, *TRAINER, "backbone.alpha=0.25", "task.image_size=64", "optimizer=sgd", "optimizer.lr=0.01")


def configure(command: str, *words: str) -> dict[str, Any]:
    """What ``mnvision COMMAND WORDS`` hands to ``run``; of two words for one key the later one counts."""
    words = tuple({word.split("=", 1)[0]: word for word in words}.values())
    overrides = rewrite(words, groups=config_groups())
    with initialize_config_module("mnvision.conf", version_base="1.3"):
        cfg = compose(command, overrides=overrides)
    validate(cfg, command=command)
    return {**to_plain(cfg), "overrides": override_keys(overrides), "override_words": [*words]}


def detector(*, seed: int = 0, size: int = 64, classes: int = 3, **options: Any) -> TaskModel:
    """A small SSD."""
    torch.manual_seed(seed)
    return create_model("ssd", alpha=0.25, image_size=size, num_classes=classes, **options)


def batch(*, counts: tuple[int, ...] = (2, 1, 3), size: int = 64, seed: int = 0) -> Batch:
    """Random pictures with ids 100, 101, ... and so many boxes each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(counts), 3, size, size), dtype=torch.uint8, generator=generator)
    targets = []
    for row, count in enumerate(counts):
        low = torch.rand(count, 2, generator=generator) * size * 0.5
        boxes = torch.cat((low, low + size * 0.3), dim=1)
        labels = torch.arange(count) % 3 + 1
        targets.append(Target(boxes, labels, torch.zeros(count, dtype=torch.bool), 100 + row, (size, 2 * size)))
    return Batch(images, pad_targets(targets))


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of what a module has learnt."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def diverged(ckpt: str | Path, folder: Path) -> tuple[str, ...]:
    """The words of ``mnvision predict`` with a checkpoint whose weights are all NaN, on a picture, into ``out``."""
    model = load_model(ckpt)
    for weight in model.parameters():
        nn.init.constant_(weight, torch.nan)
    save_model(model, folder / "nan.ckpt")
    cv2.imwrite(str(folder / "a.png"), np.zeros((40, 40, 3), np.uint8))
    places = (f"ckpt={folder / 'nan.ckpt'}", f"source={folder / 'a.png'}", f"output_dir={folder / 'out'}")
    return ("trainer.accelerator=cpu", *places)
