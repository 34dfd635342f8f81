"""Checkpoints that describe themselves: what they hold is rebuilt without Hydra and without a trainer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mnvision import __version__
from mnvision.models.base import ModelSpec, TaskModel
from mnvision.models.create import TASKS, build_model
from mnvision.types import Preprocessing, UserError

# Under this key a checkpoint says what it is.
SECTION = "mnvision"
PREFIX = "model."  # of the parameter names: the training module holds the network as `model`


def describe_model(model: TaskModel, *, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The self-description that goes into a checkpoint: plain values only, so that it loads with ``weights_only``."""
    return {"version": __version__, "model": asdict(model.spec), "config": config or {}}


def save_model(model: TaskModel, path: str | Path, *, config: dict[str, Any] | None = None) -> None:
    """Write a model's weights and description to a file that ``load_model`` reads."""
    state = {PREFIX + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({SECTION: describe_model(model, config=config), "state_dict": state}, path)


def read_checkpoint(path: str | Path, *, key: str = "ckpt") -> dict[str, Any]:
    """Read a checkpoint of a run, or one that ``save_model`` wrote, without running code from it.

    Args:
        path: The file.
        key: What the user gave it as, for the messages.

    Raises:
        UserError: If the file is missing, not a checkpoint, or not one of mnvision.
    """
    path = Path(path)
    if path.is_dir():
        name = "last.ckpt" if key == "resume" else "best.ckpt"
        # In a run's folder, that of its task or that of all runs: not a search of a whole disk.
        found = [file for above in ("", "*/", "*/*/", "*/*/*/") for file in path.glob(above + name)]
        newest = max(found, key=lambda file: file.stat().st_mtime, default=None)
        there = f"the newest {name} in it is {newest}" if newest else f"there is no {name} in it"
        raise UserError(f"{key}: {path} is a folder; give the path of a checkpoint ({there})")
    if not path.is_file():
        raise UserError(f"{key}: there is no file {path}; give the path of a checkpoint, such as runs/.../best.ckpt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever reading bytes that are no checkpoint may run into
        raise UserError(
            f"{key}: {path} is not a checkpoint that can be read: it is damaged, or another kind of file; "
            f"give one that mnvision train wrote, such as runs/.../checkpoints/best.ckpt"
        ) from error
    if not isinstance(content, dict) or SECTION not in content:
        raise UserError(
            f"{key}: {path} was not written by mnvision: it does not say what model it holds; "
            "weights of other programs go into task.weights or backbone.weights"
        )
    return content


def load_model(path: str | Path, *, task: str | None = None) -> TaskModel:
    """Rebuild a model with its weights from a checkpoint; on the CPU and in evaluation mode.

    Args:
        path: A checkpoint of a run, or one that ``save_model`` wrote.
        task: The task that the model must be of, if that matters.

    Raises:
        UserError: If the file is not such a checkpoint, or holds a model of another task.
    """
    return model_from_checkpoint(read_checkpoint(path), path=path, task=task)


def model_from_checkpoint(
    content: dict[str, Any], *, path: str | Path, task: str | None = None, key: str = "ckpt"
) -> TaskModel:
    """``load_model`` for a checkpoint that is read already; ``key`` is what the user gave it as."""
    try:
        stated = dict(content[SECTION]["model"])
        spec = ModelSpec(**{**stated, "preprocessing": Preprocessing(**stated["preprocessing"])})
        state = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in content["state_dict"].items()
            if name.startswith(PREFIX)
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{key}: {path} describes its model in a way that mnvision {__version__} does not know "
            f"({type(error).__name__}: {_first_line(error)}); it may be of a newer version"
        ) from error
    if spec.task not in TASKS:
        raise UserError(f"{key}: {path} holds a model of task {spec.task}, which this version does not know")
    if task is not None and spec.task != task:
        raise UserError(f"{key}: {path} holds a model of task {spec.task}, expected one of task {task}")
    model = build_model(spec)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{key}: {path} does not fit the model it describes: {_first_line(error)}") from error
    return model.eval()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
