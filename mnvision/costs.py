"""The command ``profile``: what a model costs, from its configuration or its checkpoint alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mnvision import build
from mnvision.checkpoint import load_model
from mnvision.console import print_result
from mnvision.errors import UserError
from mnvision.models.base import TaskModel
from mnvision.profiler import Profile, profile

logger = logging.getLogger(__name__)
Config = Mapping[str, Any]


def print_costs(cfg: Config) -> Profile:
    """Print the mult-adds and parameters of a model to stdout; write its layers to ``csv`` if that is given.

    Args:
        cfg: A valid configuration of the command ``profile``.

    Returns:
        What was printed.

    Raises:
        UserError: If the model cannot be built, or the file cannot be written.
    """
    model = _from_checkpoint(cfg) if cfg["ckpt"] else _from_configuration(cfg)
    found = profile(model)
    if cfg["csv"]:
        _write(found.csv(), Path(cfg["csv"]))
    print_result(f"{_title(model)}\n\n{found.table()}")
    return found


def _from_checkpoint(cfg: Config) -> TaskModel:
    sections = ("task", "backbone", "experiment", "num_classes", "data")
    unused = dict.fromkeys(key for key in cfg["overrides"] if key.split(".")[0] in sections)
    if unused:
        logger.warning("the model is the checkpoint's own: %s has no effect beside ckpt", ", ".join(unused))
    return load_model(cfg["ckpt"])


def _from_configuration(cfg: Config) -> TaskModel:
    """The model without the weights that the configuration names, on the ``meta`` device: shapes are all it takes."""
    task, backbone = cfg["task"], cfg["backbone"]
    if task["weights"]:
        logger.warning(
            "task.weights=%s is not read: give task.image_size, task.form and num_classes where they differ from the "
            "defaults",
            task["weights"],
        )
    if backbone["weights"]:
        logger.warning("backbone.weights=%s is not read; the costs are the same with it", backbone["weights"])
    plain = {**cfg, "task": {**task, "weights": None}, "backbone": {**backbone, "weights": None}}
    names = [f"class {label}" for label in range(1, cfg["num_classes"] + 1)]
    with torch.device("meta"):
        return build.build_model(plain, classes=names, category_ids=None)


def _title(model: TaskModel) -> str:
    spec, size = model.spec, model.preprocessing.size
    backbone, form = spec.backbone_options, spec.task_options.get("form")
    variant = backbone.get("variant", "standard")
    words = [
        f"{spec.task}{f' ({form})' if form else ''} on {backbone['name']}",
        *([variant] if variant != "standard" else []),
        *(f"{key} {backbone[key]}" for key in ("blocks", "version") if backbone.get(key)),
        f"alpha {backbone['alpha']:g}",
        f"input {size}x{size}",
        spec.counted,
    ]
    return ", ".join(words)


def _write(text: str, path: Path) -> None:
    """Write in place, not by renaming: the path may be a pipe, or a link."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"csv: {path} cannot be written ({error.strerror}); give the path of a file") from error
    logger.info("written: %s", path)
