"""The runs of a sweep, read back from the folders that they left."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from mnvision.checkpoint import SECTION, load_model, read_checkpoint
from mnvision.errors import UserError
from mnvision.models.preprocessing import IMAGE_SIZES, resolve_preprocessing
from mnvision.profiler import profile, read_costs

MAIN_METRICS = ("map", "top1")  # the number that a task is judged by, where it has it
PLACES = ("output_dir", "resume", "ckpt")  # where a run is, not what it is
Config = Mapping[str, Any]


class Run(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: Of its folder.
        problem: Why it has no numbers; empty for a finished run.
        config: All its keys, dotted.
        image_size: Side of the input in pixels, if it can be told.
        mult_adds: For one picture.
        parameters: Weights, as the paper counts them.
        metrics: As in ``metrics.json``.
    """

    name: str
    problem: str
    config: dict[str, Any]
    image_size: int | None
    mult_adds: int | None
    parameters: int | None
    metrics: dict[str, float]


def read_sweep(folder: Path) -> list[Run]:
    """The runs in a folder: each of its folders is one, whether it finished or not.

    Raises:
        UserError: There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"runs: there is no folder {folder}; give the folder of a sweep, which holds 0, 1, 2 ...")
    if (folder / "config.yaml").is_file():
        raise UserError(f"runs: {folder} is a run itself; give the folder around it, which holds all runs of the sweep")
    folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if not any((path / "config.yaml").is_file() for path in folders):
        raise UserError(f"runs: no folder in {folder} holds a config.yaml; give the folder of a sweep")
    return [_read_run(path) for path in sorted(folders, key=_order)]


def varied_keys(runs: Sequence[Run]) -> list[str]:
    """The keys in which the runs' configurations differ.

    A key that only some of them have does not count: it came with the choice of a group, whose name differs.
    """
    values: dict[str, list[Any]] = {}
    for run in runs:
        for key, value in run.config.items():
            values.setdefault(key, []).append(value)
    return [key for key, found in values.items() if key not in PLACES and any(value != found[0] for value in found)]


def main_metric(runs: Sequence[Run]) -> str:
    """The metric that the runs are compared by, with its split; empty where no run has one."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    ranked = [name for main in MAIN_METRICS for name in names if name.rpartition("/")[2] == main]
    return next(iter(ranked), "")


def _read_run(folder: Path) -> Run:
    config: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    size: int | None = None
    costs: tuple[int | None, int | None] = (None, None)
    problems = []
    try:
        config = _mapping(folder / "config.yaml")
        costs = _costs(folder)
        size = _image_size(folder, config)
        metrics = {name: float(value) for name, value in _mapping(folder / "metrics.json").items()}
    except UserError as error:
        problems.append(str(error))
    return Run(folder.name, " ".join(problems), _flat(config), size, *costs, metrics)


def _mapping(path: Path) -> dict[str, Any]:
    """What a JSON or YAML file holds; its errors are a few words, since they stand in a table."""
    if not path.is_file():
        raise UserError("unfinished: no metrics.json" if path.name == "metrics.json" else f"failed: no {path.name}")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"failed: {path.name} cannot be read")
    if path.suffix == ".json" and not all(isinstance(value, int | float) for value in content.values()):
        raise UserError(f"failed: {path.name} holds no numbers")
    return content


def _costs(folder: Path) -> tuple[int, int]:
    checkpoint = folder / "checkpoints" / "best.ckpt"
    if (folder / "profile.csv").is_file() or not checkpoint.is_file():
        try:
            return read_costs(folder / "profile.csv")
        except UserError as error:
            raise UserError("failed: profile.csv cannot be read") from error
    found = profile(load_model(checkpoint))
    return found.mult_adds, found.parameters


def _image_size(folder: Path, config: Config) -> int | None:
    """The checkpoint's own word, else what the configuration leads to; None where neither tells."""
    for name in ("best.ckpt", "last.ckpt"):
        with contextlib.suppress(UserError, KeyError, TypeError):  # a damaged checkpoint does not hide the numbers
            return int(read_checkpoint(folder / "checkpoints" / name)[SECTION]["model"]["preprocessing"]["size"])
    try:
        task, backbone, data = (config.get(section) or {} for section in ("task", "backbone", "data"))
        if task["name"] not in IMAGE_SIZES or (task.get("weights") and not task.get("image_size")):
            return None  # weights bring a size of their own
        return resolve_preprocessing(
            task["name"],
            image_size=task.get("image_size"),
            rho=float(backbone.get("rho", 1)),
            weights=None,
            preferred_size=data.get("image_size"),
            form=task.get("form"),
            backbone=str(backbone.get("name", "")),
        ).size
    except (AttributeError, KeyError, TypeError, ValueError):  # a configuration that was edited by hand
        return None


def _flat(config: Config, *, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, prefix=f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _order(path: Path) -> tuple[float, str]:
    """By number, then by name: 2 before 10."""
    return (int(path.name) if path.name.isdigit() else math.inf, path.name)
