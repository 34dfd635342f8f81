"""What one command takes over from an earlier one: the configuration in a checkpoint, and words that repeat a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnvision.checkpoint import SECTION
from mnvision.errors import UserError
from mnvision.models.base import TaskModel

logger = logging.getLogger(__name__)

Config = dict[str, Any]
# Keys of the trainer that the numbers of an evaluation depend on.
MEASURING = ("trainer.precision", "trainer.channels_last", "trainer.limit_val_batches")
# Keys of a task that choose among what its network finds.
SELECTION = (
    *("score_threshold", "nms_iou", "pre_nms_top_k", "max_detections"),
    *("proposals", "rpn_pre_nms_top_k", "rpn_nms_iou", "rpn_score_threshold"),  # of Faster R-CNN
    "flip",  # of an embedder
    "parent_level",  # of a geolocator
    "crop_share",  # of all but detectors
)


def recall(cfg: Config, saved: Config, *, keys: Sequence[str] | None = None) -> Config:
    """Take what a checkpoint was trained with, except for what the user asked for on the command line.

    Args:
        cfg: The configuration of this command; ``cfg["overrides"]`` names the keys of the command line.
        saved: The configuration in the checkpoint.
        keys: What to take: sections, or single keys as ``section.key``. By default all sections and the top-level
            values.
    """
    given = set(cfg["overrides"])
    recalled = dict(cfg)
    for section, values in saved.items():
        if section in given | {"overrides", "override_words", "resume", "ckpt", "output_dir"}:
            continue
        if not isinstance(values, dict):
            if keys is None:
                recalled[section] = values
            continue
        mine = cfg.get(section, {})
        if keys is None or section in keys:
            same = all(mine.get(name) == values.get(name) for name in ("name", "_target_"))
            # A key that is newer than the checkpoint takes its default.
            recalled[section] = {
                **(mine if same else {}),
                **values,
                **{key: mine[key] for key in mine if f"{section}.{key}" in given},
            }
        else:
            names = [f"{section}.{key}" for key in values]
            taken = {name.split(".")[1] for name in names if name in keys and name not in given}
            recalled[section] = {**mine, **{key: values[key] for key in values if key in taken}}
    return recalled


def recall_evaluation(cfg: Config, saved: Config) -> Config:
    """The configuration of an evaluation: the model's sections and what the numbers depend on, as it was trained."""
    return recall(cfg, saved, keys=("task", "backbone", "optimizer", "scheduler", "data", *MEASURING))


def settle_model(model: TaskModel, cfg: Config, saved: Config) -> None:
    """Set what the user may change of a trained model; null leaves its own.

    That is how its detections are selected, and which share of a picture it sees: after a training with random crops,
    in which things are larger than in whole pictures, a little less than all is often better (arXiv:1906.06423).

    Args:
        model: A model from a checkpoint.
        cfg: The configuration of this command; ``cfg["overrides"]`` names the keys of the command line.
        saved: The configuration in the checkpoint.

    Raises:
        UserError: If the command line asks for another model than that of the checkpoint.
    """
    names = {"task": model.spec.task, "backbone": model.spec.backbone_options["name"]}
    wrong = []
    for key in cfg["overrides"]:
        section, _, name = key.partition(".")
        if key == "experiment":
            wrong.append(key)
        if section not in names:
            continue
        asked = cfg[section][name or "name"]
        if section == "task" and name in SELECTION and hasattr(model, name):
            if asked is not None:  # null: the model's own
                setattr(model, name, asked)
        elif asked != (saved.get(section, {}).get(name) if name else names[section]):
            wrong.append(key)
    free = [f"task.{name}" for name in SELECTION if hasattr(model, name) and name in cfg["task"]]
    if wrong:
        raise UserError(
            f"{', '.join(wrong)}: the model is that of the checkpoint, and cannot be another one; leave it out"
            + (f" ({', '.join(free)} can change)" if free else "")
        )


def go_on(cfg: Config, saved: Mapping[str, Any]) -> Config:
    """The configuration with which an interrupted run goes on: its own, but for what the user changed."""
    resume = cfg["resume"]
    if "optimizer_states" not in saved:
        raise UserError(f"resume: {resume} holds a model alone; give the checkpoints/last.ckpt of the run")
    fixed = ("task", "backbone", "optimizer", "experiment", "trainer.selective_weight_decay", "trainer.layer_decay")
    before = saved[SECTION]["config"]
    changed = [key for key in cfg["overrides"] if key in fixed or key.split(".")[0] in fixed]
    changed = [key for key in changed if _value(cfg, key) != _value(before, key)]
    if changed:
        raise UserError(
            f"resume: {', '.join(changed)} cannot change while a run goes on: leave it out, or start a new run with "
            f"task.weights={resume}"
        )
    cfg = recall({**cfg, "overrides": [key for key in cfg["overrides"] if key not in fixed]}, before)
    done, wanted = saved["epoch"] + 1, cfg["trainer"]["max_epochs"]
    if done < wanted:
        logger.info("goes on after epoch %d of %d", done, wanted)
    else:
        logger.warning(
            "all %d epochs are done: only measuring and reporting again; give a higher trainer.max_epochs to go on",
            wanted,
        )
    checkpoints = Path(resume).absolute().parent
    if cfg["output_dir"] is None and checkpoints.name == "checkpoints":
        cfg["output_dir"] = str(checkpoints.parent)
    return cfg


def _value(cfg: Mapping[str, Any], key: str) -> Any:
    """What a configuration has under a dotted key; of a group its name."""
    section, _, name = key.partition(".")
    values = cfg.get(section)
    if not isinstance(values, Mapping):
        return values
    return values.get(name) if name else values.get("name", values.get("_target_"))


def repeat_training(cfg: Config, *, best: Path) -> list[list[str]]:
    """The commands that train a model again, measure it and use it, each as its arguments.

    An interrupted run that went on has none that trains it: what was typed last only finished it.

    Args:
        cfg: The configuration of the training; ``cfg["override_words"]`` is what the user typed.
        best: Its checkpoint, which holds all that was typed.
    """
    words = [word for word in cfg["override_words"] if not word.startswith("output_dir=")]
    again = [] if cfg["resume"] else [["mnvision", "train", *words]]
    return [*again, *reproduce({**cfg, "override_words": []}, ckpt=best)]


def reproduce(cfg: Config, *, ckpt: str | Path | None) -> list[list[str]]:
    """The commands that measure a model again and use it, each as its arguments.

    A checkpoint brings its own data section, so that only what the user changed is said again; what is built from the
    configuration needs all of the user's words.

    Args:
        cfg: The configuration; ``cfg["override_words"]`` is what the user typed.
        ckpt: The checkpoint, if the model comes from one.
    """

    def typed(*keys: str) -> list[str]:
        named = [(word, word.lstrip("~").split("=", 1)[0]) for word in cfg["override_words"]]
        return [word for word, key in named if key in keys or key.split(".")[0] in keys]

    source = "source=photos/"
    if ckpt is not None:
        split = [] if cfg.get("split", "val") == "val" else [f"split={cfg['split']}"]
        selection = typed(*(f"task.{name}" for name in SELECTION))
        return [
            ["mnvision", "eval", f"ckpt={ckpt}", *split, *typed("data", *MEASURING), *selection],
            ["mnvision", "predict", f"ckpt={ckpt}", source, *selection],
        ]
    sections = ("task", "backbone", "data", "experiment")
    return [
        ["mnvision", "eval", *typed(*sections, "optimizer", "scheduler", "trainer", "seed", "split")],
        ["mnvision", "predict", *typed(*sections), source],
    ]
