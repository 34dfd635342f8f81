"""The check of a composed configuration, which reports everything that is wrong with it at once.

Nothing here imports torch or lightning, so that a typo is answered at once.
"""

from __future__ import annotations

import difflib
import importlib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnvision.errors import ConfigError, Problem, UserError, did_you_mean, problem_list
from mnvision.ops.resolution import input_size, stride_of
from mnvision.schema import OPTIMIZER, SECTIONS, fields
from mnvision.schema_commands import COMMANDS, WITHOUT_SECTIONS
from mnvision.schema_data import BOXES, DATA_OF_TASK
from mnvision.value_types import accepts, choices, describe

OPTIMIZERS = ("torch.optim.",)


def validate(cfg: DictConfig | Mapping[str, Any], *, command: str = "train") -> None:
    """Check a composed configuration against the schema.

    Args:
        cfg: What Hydra composed, or the same as plain nested dicts.
        command: A key of ``COMMANDS``: the keys at the top differ.

    Raises:
        ConfigError: One message with a line for each unknown key (and the nearest right one), wrong type, value out
            of range and missing value.
    """
    problems = find_problems(to_plain(cfg), command=command)
    if problems:
        raise ConfigError(problem_list(problems))


def to_plain(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as nested dicts and lists with every ``${...}`` resolved; a missing value stays ``???``.

    Raises:
        ConfigError: An interpolation names what is not there.
    """
    if not OmegaConf.is_config(cfg):
        return dict(cfg)
    try:
        plain = OmegaConf.to_container(typing.cast(DictConfig, cfg), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(problem_list([(str(error.full_key), str(error).splitlines()[0])])) from error
    return typing.cast(dict[str, Any], plain)


def to_yaml(cfg: Mapping[str, Any]) -> str:
    """A plain configuration as YAML text, without the lists of what the command line changed."""
    left_out = ("overrides", "override_words")
    return OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in cfg.items() if key not in left_out}))


def find_problems(cfg: Mapping[str, Any], *, command: str) -> list[Problem]:
    """Every problem of a plain configuration, in the order of its sections."""
    known = known_keys(cfg, command=command)
    problems: list[Problem] = []
    if command not in WITHOUT_SECTIONS:
        for section in SECTIONS:
            problems += _check_section(section, cfg, known)
        problems += _check_optimizer(cfg, known)
    sections = () if command in WITHOUT_SECTIONS else (*SECTIONS, "optimizer")
    top = {key: value for key, value in cfg.items() if key not in sections}
    problems += _check_keys(top, fields(COMMANDS[command]), prefix="", known=known)
    problems += _check_together(cfg, command=command, wrong={key for key, _ in problems})
    if command == "profile" and _mapping(cfg.get("task")).get("teacher") == "???":
        problems = [problem for problem in problems if problem[0] != "task.teacher"]  # no teacher is asked
    order = {section: place for place, section in enumerate(cfg)}
    return sorted(problems, key=lambda problem: order.get(problem[0].split(".")[0], -1))


def known_keys(cfg: Mapping[str, Any], *, command: str) -> list[str]:
    """All right dotted keys of a command, for the sections that are chosen in ``cfg``, and the sections' own names."""
    keys = [*fields(COMMANDS[command])]
    if command in WITHOUT_SECTIONS:
        return keys
    for section in SECTIONS:
        keys += [section, *(f"{section}.{key}" for schema in _schemas(section, cfg) for key in fields(schema))]
    keys += ["optimizer", *(f"optimizer.{key}" for key in ("_target_", "lr", *_mapping(cfg.get("optimizer"))))]
    return list(dict.fromkeys(keys))


def nearest_keys(key: str, known: Iterable[str]) -> list[str]:
    """The right dotted keys that were most likely meant: the last part counts most, then the section.

    None where nothing is near, or too much.

    >>> nearest_keys("alpha", ["backbone.alpha", "task.focal_alpha", "seed"])
    ['backbone.alpha']
    """
    section, _, name = key.rpartition(".")
    scores: dict[str, float] = {}
    for candidate in known:
        other_section, _, other_name = candidate.rpartition(".")
        same_name, same_section = _likeness(name, other_name), _likeness(section, other_section)
        if same_name > 0:
            scores[candidate] = 3 * same_name + same_section
    best = [candidate for candidate, score in scores.items() if score == max(scores.values())]
    return best if len(best) <= 2 else []


def resolve_target(path: str, *, allowed: Sequence[str]) -> type:
    """Import the class that a ``_target_`` names. Only listed packages: a name in a file can run no other code.

    Args:
        path: Dotted path such as ``torch.optim.SGD``.
        allowed: Prefixes of which the path, and the module that defines the class, must have one.

    Raises:
        UserError: The path is outside the list, or does not lead to a class.
    """
    rule = f"expected a class under {' or '.join(allowed)}"
    if not _is_allowed(path, allowed):
        raise UserError(f"_target_ {path!r} is not allowed: {rule}")
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"_target_ {path!r} cannot be imported ({error}): {rule}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(f"_target_ {path!r} is no class: {rule}{did_you_mean(name, classes)}")
    if not _is_allowed(f"{found.__module__}.{found.__name__}", allowed):
        raise UserError(f"_target_ {path!r} is not allowed, it belongs to {found.__module__}: {rule}")
    return found


def _check_section(section: str, cfg: Mapping[str, Any], known: list[str]) -> list[Problem]:
    members = SECTIONS[section]
    if section not in cfg:
        return [(section, f"missing, expected a section of keys; choose one with {section}=...")]
    values = cfg[section]
    if not isinstance(values, Mapping):
        return [(section, f"expected a section of keys, got {_show(values)}")]
    key, name = _member(section, values)
    right = [member for member, schema in members.items() if ("library" in fields(schema)) == (key == "library")]
    if not isinstance(name, str) or name not in right:
        return list(_check_value(f"{section}.{key}", name, Literal[tuple(right)]))
    return _check_keys(values, fields(members[name]), prefix=f"{section}.", known=known)


def _check_optimizer(cfg: Mapping[str, Any], known: list[str]) -> list[Problem]:
    """The class of an optimizer decides its further keys: they are checked when it is built."""
    values = cfg.get("optimizer")
    if not isinstance(values, Mapping):
        return [("optimizer", "missing, expected a section of keys; choose one with optimizer=...")]
    further = {key: Any for key in values if key not in OPTIMIZER}
    needed = {key: kind for key, kind in OPTIMIZER.items() if key in values or key in ("_target_", "lr")}
    problems = _check_keys(values, needed | further, prefix="optimizer.", known=known)
    target = values.get("_target_")
    if isinstance(target, str) and not _is_allowed(target, OPTIMIZERS):
        problems.append(("optimizer._target_", f"expected a class of torch.optim, got {_show(target)}"))
    return problems


def _check_keys(
    values: Mapping[str, Any], expected: Mapping[str, Any], *, prefix: str, known: list[str]
) -> list[Problem]:
    problems: list[Problem] = []
    for key, value in values.items():
        if key in expected:
            problems += _check_value(f"{prefix}{key}", value, expected[key])
            continue
        for path in _leaves(f"{prefix}{key}", value):
            near = " or ".join(nearest_keys(path, known))
            problems.append((path, "unknown key" + (f"; did you mean {near}?" if near else "")))
    missing = [key for key in expected if key not in values]
    return problems + [(f"{prefix}{key}", f"missing, expected {describe(expected[key])}") for key in missing]


def _check_value(path: str, value: Any, kind: Any) -> Iterator[Problem]:
    if value == "???":
        yield path, f"missing, expected {describe(kind)}; give {path}=..."
    elif kind is not Any and not accepts(kind, value):
        yield path, f"expected {describe(kind)}, got {_show(value)}{did_you_mean(value, choices(kind))}"


def _check_together(cfg: Mapping[str, Any], *, command: str, wrong: set[str]) -> Iterator[Problem]:
    """Values that are right alone and wrong together; where one is wrong alone, that was said already."""

    def right(*keys: str) -> list[Any] | None:
        if wrong & set(keys):
            return None
        found = []
        for section, _, name in (key.rpartition(".") for key in keys):
            values = _mapping(cfg.get(section)) if section else cfg
            if name not in values:
                return None
            found.append(values[name])
        return found

    if (photos := right("task.min_photos", "task.max_photos")) and photos[0] >= photos[1]:
        yield "task.min_photos", f"expected less than task.max_photos {photos[1]}, got {photos[0]}"
    if (levels := right("task.min_level", "task.max_level")) and levels[0] > levels[1]:
        yield "task.min_level", f"expected at most task.max_level {levels[1]}, got {levels[0]}"
    if (mixed := right("task.soft_labels_km", "data.mixup", "data.cutmix")) and mixed[0] and (mixed[1] or mixed[2]):
        yield "task.soft_labels_km", "mixed pictures have no place; give data.mixup=0 data.cutmix=0, or leave it null"
    scales = right("task.min_scale", "task.max_scale")
    if scales and None not in scales and scales[0] >= scales[1]:
        yield "task.min_scale", f"expected less than task.max_scale {scales[1]}, got {scales[0]}"
    # Without either size it is the weights' or the task's own, which building the model finds out.
    sizes = right("task.image_size", "data.image_size", "backbone.rho", "backbone.name")
    if sizes and (size := sizes[0] or sizes[1]):
        try:
            input_size(size, sizes[2], stride=stride_of(sizes[3]))
        except UserError as error:
            yield "backbone.rho" if sizes[2] != 1 else "task.image_size" if sizes[0] else "data.image_size", str(error)
    shrinking = right("task.name", "trainer.progressive_rho")
    if shrinking and shrinking[1] and DATA_OF_TASK[shrinking[0]] is BOXES:
        yield "trainer.progressive_rho", f"task={shrinking[0]} has boxes that would not shrink along; leave it null"
    if (pooling := right("task.pooling", "trainer.progressive_rho")) and pooling[0] == "depthwise" and pooling[1]:
        yield "trainer.progressive_rho", "task.pooling=depthwise fits one size of the map alone; leave it null"
    if (root := right("data.root")) and "://" in str(root[0]):
        yield "data.root", f"expected a folder, got {root[0]}; shards behind a URL are given as data.train and data.val"
    # A checkpoint brings its own task and backbone, which nobody knows yet.
    alone = not cfg.get("ckpt") and not cfg.get("resume")
    if right("backbone.narrow_weights", "backbone.weights") == [True, None] and alone:
        yield (
            "backbone.narrow_weights",
            "there are no weights to narrow; give backbone.weights as well, or leave it out",
        )
    if right("data.balanced", "task.class_weights") == [True, "balanced"]:
        yield "task.class_weights", "data.balanced=true makes up for rare classes already; leave one of the two out"
    for key in ("data.mean", "data.std"):
        values = right(key)
        if values and values[0] is not None and len(values[0]) != 3:
            yield key, f"expected three numbers, of red, green and blue; got {_show(values[0])}"
    if alone and (names := right("task.name", "data.name")) and names[1] not in (fitting := DATA_OF_TASK[names[0]]):
        yield "data.name", f"task={names[0]} cannot learn from data={names[1]}; choose one of {', '.join(fitting)}"
    if (steps := right("scheduler.milestones")) and any(a >= b for a, b in zip(steps[0], steps[0][1:], strict=False)):
        yield "scheduler.milestones", f"expected rising epochs, got {_show(steps[0])}"
    bare = command in ("eval", "predict") and right("ckpt", "task.weights") == [None, None]
    if bare and not (command == "eval" and is_pooled_features(cfg)):
        yield (
            "ckpt",
            "missing, expected a checkpoint; or task.weights=... for a model built from the configuration",
        )


def is_pooled_features(cfg: Mapping[str, Any]) -> bool:
    """Whether the configuration's embedder has no layer of its own: weights of its backbone are all that it needs."""
    task, backbone = _mapping(cfg.get("task")), _mapping(cfg.get("backbone"))
    return task.get("name") == "embed" and task.get("embedding_size") == 0 and bool(backbone.get("weights"))


def _member(section: str, values: Mapping[str, Any]) -> tuple[str, Any]:
    """The key that chooses the schema of a section, and its value."""
    if "" in SECTIONS[section]:
        return "name", ""
    key = "library" if "library" in values else "name"
    return key, values.get(key, "???")


def _schemas(section: str, cfg: Mapping[str, Any]) -> Iterable[type]:
    _, name = _member(section, _mapping(cfg.get(section)))
    chosen = [schema for member, schema in SECTIONS[section].items() if member == name]
    return chosen or SECTIONS[section].values()


def _leaves(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    else:
        yield path


def _show(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def _is_allowed(path: str, allowed: Sequence[str]) -> bool:
    return path.startswith(tuple(allowed)) and all(part.isidentifier() for part in path.split("."))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _likeness(one: str, other: str) -> float:
    """1 for the same word, less for a similar one, 0 for another."""
    ratio = difflib.SequenceMatcher(None, one, other).ratio()
    return ratio if ratio >= 0.6 else 0.0
