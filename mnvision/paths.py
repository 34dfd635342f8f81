"""The paths that a user gives to a command: made absolute, and looked up before anything slow starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnvision.errors import ConfigError, problem_list
from mnvision.files import WEIGHT_SUFFIXES
from mnvision.schema_commands import WITHOUT_SECTIONS

# Paths that the user gives: relative to the folder in which the command was started.
NAMES_OR_PATHS = ("task.weights", "backbone.weights", "task.teacher")
PATH_KEYS = (
    *("ckpt", "resume", "source", "output_dir", "csv", "data.root", *NAMES_OR_PATHS),
    *("output", "runs", "results", "record"),  # of tables
    *("index", "first", "second"),  # of search and verify
)


def absolute_paths(cfg: Mapping[str, Any], *, start: Path) -> dict[str, Any]:
    """A copy of a plain configuration with the user's paths made absolute.

    Args:
        cfg: A valid configuration as nested dicts.
        start: Folder that relative paths are relative to. Weights may be a name as well as a file: they are left
            alone where no such file is there.
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in cfg.items()}
    for key in PATH_KEYS:
        section, _, name = key.rpartition(".")
        values = result.get(section, {}) if section else result
        given = values.get(name)
        if not isinstance(given, str) or "://" in given:
            continue
        path = os.path.abspath(start / os.path.expanduser(given))
        if key not in NAMES_OR_PATHS or os.path.exists(path):
            values[name] = path
    return result


def check_files(cfg: Mapping[str, Any], *, command: str = "train") -> None:
    """Check that what a command reads first is there, before anything slow starts.

    Args:
        cfg: A valid configuration with absolute paths.
        command: A key of ``COMMANDS``: ``profile`` reads a checkpoint at most, neither data nor weights.

    Raises:
        ConfigError: One message with a line for each file or folder that is not there.
    """
    paths = {key: cfg.get(key) for key in ("ckpt", "resume", "index", "first", "second")}
    reads_all = command != "profile" and command not in WITHOUT_SECTIONS
    if reads_all and cfg["data"]["name"] in ("coco", "voc"):
        paths["data.root"] = cfg["data"]["root"]
    for section in ("task", "backbone") if reads_all else ():  # weights may be a name or an address as well
        for name in ("weights", "teacher"):
            weights = cfg.get(section, {}).get(name)
            if isinstance(weights, str) and "://" not in weights and _is_path(weights):
                paths[f"{section}.{name}"] = weights
    problems = [(key, f"no such file or folder: {path}") for key, path in paths.items() if path]
    problems = [(key, problem) for key, problem in problems if not Path(str(paths[key])).exists()]
    if problems:
        raise ConfigError(problem_list(problems))


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or Path(text).suffix.lower() in WEIGHT_SUFFIXES
