"""What the user typed, turned into what Hydra accepts without an opinion of its own; and what Hydra said, explained."""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from mnvision.errors import UserError, did_you_mean
from mnvision.paths import PATH_KEYS
from mnvision.schema_data import DATA, DATA_OF_TASK

# Hydra's flags that are followed by a value of their own.
_VALUE_FLAGS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c")
SWEEP_FLAGS = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def rewrite(arguments: Sequence[str], *, groups: Sequence[str]) -> list[str]:
    """Turn what the user typed into what Hydra accepts without an opinion of its own.

    ``key=value`` becomes ``++key=value``, so that an unknown key reaches our own check; a group keeps its form;
    ``group=null`` takes the group out; the value of a path is quoted. Flags, deletions and Hydra's own keys stay as
    they are.

    >>> rewrite(["backbone.alfa=1", "task=ssd", "+seed=1,2", "--multirun"], groups=["task"])
    ['++backbone.alfa=1', 'task=ssd', '++seed=1,2', '--multirun']
    """
    sweep = is_sweep(arguments)
    if {"-sc", "--shell-completion"} & set(arguments):
        return list(arguments)
    rewritten = []
    for argument in arguments:
        match = re.fullmatch(r"\+{0,2}([A-Za-z_][\w.]*)=(.*)", argument, flags=re.DOTALL)
        if not match or match[1].startswith("hydra."):
            rewritten.append(argument)
        elif match[1] in groups:
            rewritten.append(f"~{match[1]}" if match[2] == "null" else f"{match[1]}={match[2]}")
        else:
            value = _quote_paths(match[2], sweep=sweep) if match[1] in PATH_KEYS else match[2]
            rewritten.append(f"++{match[1]}={value}")
    return rewritten


def name_pictures(arguments: Sequence[str]) -> list[str]:
    """Turn the two bare paths of ``mnvision verify a.jpg b.jpg`` into its keys ``first`` and ``second``.

    >>> name_pictures(["a.jpg", "ckpt=best.ckpt", "b.jpg"])
    ['first=a.jpg', 'ckpt=best.ckpt', 'second=b.jpg']

    Raises:
        UserError: There is one bare path, or more than two.
    """
    bare = [
        place
        for place, word in enumerate(arguments)
        if word and "=" not in word and word[0] not in "-~" and (place == 0 or arguments[place - 1] not in _VALUE_FLAGS)
    ]
    if len(bare) not in (0, 2):
        got = " ".join(arguments[place] for place in bare)
        raise UserError(
            f"verify compares two pictures, got {len(bare)}: {got}; give two paths, or first=... second=..., which a "
            "path with = in it needs, in quotes"
        )
    keys = dict(zip(bare, ("first", "second"), strict=False))
    return [f"{keys[place]}={word}" if place in keys else word for place, word in enumerate(arguments)]


def override_keys(overrides: Sequence[str]) -> list[str]:
    """The keys and groups that a list of overrides sets, without signs and values.

    >>> override_keys(["++data.root=/data", "data=coco", "~experiment"])
    ['data.root', 'data', 'experiment']
    """
    return [override.lstrip("+~").split("=", 1)[0] for override in overrides]


def config_groups() -> list[str]:
    """The groups of ``conf/``: the folders of its files."""
    folders = importlib.resources.files("mnvision.conf").iterdir()
    return sorted(folder.name for folder in folders if folder.is_dir() and not folder.name.startswith("_"))


def recalled_groups(overrides: Sequence[str], *, command: str) -> list[str]:
    """Words that choose the groups of the run that a checkpoint is from, so that its keys can be changed.

    They are read from the ``config.yaml`` beside its folder; none where that is missing, or the user chose groups.
    """
    words = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word)
    given = words.get("ckpt") or words.get("resume")
    if given is None or command not in ("train", "eval", "predict") or {"data", "task", "experiment"} & words.keys():
        return []
    file = Path(given.strip("'\"")).expanduser().parent.parent / "config.yaml"
    try:
        saved = OmegaConf.load(file)
        name, root, trained = saved.data.name, saved.data.root, saved.task.name
    except (OSError, OmegaConfBaseException, YAMLError, AttributeError):
        return []
    if name not in DATA or trained not in DATA_OF_TASK:
        return []
    # Of a distilled student: its teacher is no part of the checkpoint.
    task = f"task={'classify' if trained == 'distill' else trained}"
    if command == "predict":
        return [task]
    # Without a root such a section is not complete; all its other keys are recalled later.
    place = [] if root is None or "data.root" in words else [f"++data.root={quote(str(root))}"]
    return [task, f"data={name}", *place]


def is_override(argument: str) -> bool:
    """Whether an argument sets or deletes a key; else it is a flag or the value of one."""
    return argument.startswith("~") or ("=" in argument and not argument.startswith("-"))


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for several runs."""
    return any(flag in arguments for flag in SWEEP_FLAGS)


def names_one_folder(override: str) -> bool:
    """Whether a rewritten override gives all runs of a sweep one ``output_dir``."""
    return override.startswith("++output_dir=") and not re.search(r"[,$]|=null$", override)


def quote(path: str) -> str:
    r"""A path in quotes, so that Hydra takes its signs, and a name of digits, as text.

    >>> print(quote("~/epoch=3.ckpt"), quote("C:\\data\\"))
    "~/epoch=3.ckpt" "C:\data\\"
    """
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', path)  # backslashes count twice where a quote follows
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def _quote_paths(value: str, *, sweep: bool) -> str:
    if sweep and "(" in value:  # such as choice(a, b): Hydra's own words
        return value
    parts = value.split(",") if sweep else [value]
    return ",".join(part if part in ("", "null") or part[0] in "'\"" else quote(part) for part in parts)


def check_hydra_keys(arguments: Sequence[str]) -> None:
    """Refuse unknown keys of Hydra: it takes any ``+hydra.key``, and recommends just that for a misspelt one.

    Raises:
        UserError: Names the key, and the nearest right one.
    """
    for argument in arguments:
        key = argument.lstrip("+~").split("=", 1)[0]
        if not is_override(argument) or not key.startswith("hydra."):
            continue
        schema: Any = HydraConf
        for part in key.split(".")[1:]:
            if not dataclasses.is_dataclass(schema):
                break
            names = typing.get_type_hints(schema)
            if part not in names:
                raise UserError(f"{key}: unknown key of Hydra{did_you_mean(part, names)}")
            schema = names[part]


def explain(error: Exception) -> str:
    """What Hydra could not compose, without the advice that does not hold here."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        meant = did_you_mean(option, error.options)
        return f"{group}={option}: no such option, expected one of {', '.join(error.options)}{meant}"
    if isinstance(error, OverrideParseException):
        word = error.override.lstrip("+")
        return f"cannot read {word!r}: expected KEY=VALUE; quote special signs in a value, as in 'KEY=\"a value\"'"
    lines = [line for line in str(error).splitlines() if not line.startswith(("To append to", "Config search path"))]
    cause = [str(error.__cause__).splitlines()[0]] if isinstance(error.__cause__, OmegaConfBaseException) else []
    return "\n  ".join([*lines, *cause]).replace("++", "")
