"""Copying weights into a network: all of them or nothing, class columns by name, and a report of what was done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnvision.backbones.architecture import DETECTORS, architecture_of, task_of
from mnvision.backbones.layouts import Weights, first_names, head_columns
from mnvision.errors import UserError

BACKBONE = "backbone."
CLASS_HEAD = re.compile(
    r"(heads\.\d+\.classes\.pointwise|heads\.classes\.predictor|head|box_head\.classes)\.(weight|bias)"
)
# Faster R-CNN's boxes of each class: four rows a class, none for background.
CLASS_BOXES = re.compile(r"box_head\.boxes\.(weight|bias)")


@dataclass(frozen=True)
class LoadReport:
    """What ``load_weights`` did.

    Attributes:
        used: Arrays of the file that went into the network, wholly or in part.
        total: Arrays of the file.
        file: The file.
        description: What the file is.
        initialised: Names in the network that keep their fresh values, wholly or in part.
        dropped: Names in the file that the network has no place for.
        notes: What else happened, one phrase each.
    """

    used: int
    total: int
    file: str
    description: str
    initialised: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"loaded {self.used} of {self.total} arrays from {self.file} ({self.description})"
        return "; ".join((text, *self.notes))


@dataclass(frozen=True)
class _Columns:
    """Which class columns of the file go where: ``(column in the network, column in the file)`` pairs."""

    pairs: list[tuple[int, int]]
    complete: bool
    note: str


def load_weights(
    module: nn.Module, weights: Weights, *, classes: Sequence[str] | None = None, narrow: bool = False
) -> LoadReport:
    """Copy weights into a network, in place; everything is checked before anything is copied.

    The columns of a class head are matched by class name, whatever their case, so that one data set's classes may be
    a part of the other's; columns without a match keep the network's fresh values. Where a side's names are not
    known, equal numbers of classes match by position, and different ones leave the class head fresh.

    Folded weights become norms that are exact identities plus the bias: right in evaluation; ``unfold_batchnorm``
    makes them fit for training.

    Args:
        module: A classifier, an SSD, or a bare backbone. A bare backbone takes its part of any file.
        weights: What ``read_weights`` gave.
        classes: The names of the network's classes, labels 1..K.
        narrow: Take evenly spaced channels of weights of a wider network, see ``narrowed``.

    Raises:
        UserError: If the weights are of another task, width, variant or form, or their names or shapes do not fit.
    """
    state = {name: t for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    bare = not any(name.startswith(BACKBONE) for name in state)
    target = {f"{BACKBONE}{name}" if bare else name: tensor for name, tensor in state.items()}
    source = dict(weights.tensors)
    notes: list[str] = []
    dropped: tuple[str, ...] = ()
    if all(name.startswith(BACKBONE) for name in target):
        dropped = tuple(name for name in source if not name.startswith(BACKBONE))
        source = {name: tensor for name, tensor in source.items() if name.startswith(BACKBONE)}
        if dropped:
            notes.append(f"into the backbone alone: {len(dropped)} arrays of the {task_of(weights.tensors)} not used")
    if narrow:
        wide, source = source, narrowed(source, target)
        changed = sum(wide[name].shape != tensor.shape for name, tensor in source.items())
        if changed:
            notes.append(f"{changed} arrays narrowed: a start for training, of which little is right as it is")
    _check_architecture(target, source, file=weights.file, bare=bare)
    if weights.folded:
        source |= _identities(module, target, source, bare=bare)
    _check_names(target, source, file=weights.file)

    new: dict[str, Tensor] = {}
    initialised: list[str] = []
    columns = _match_columns(target, source, classes=classes, weights=weights)
    for name, tensor in target.items():
        value = source[name]
        if columns is not None and (CLASS_HEAD.fullmatch(name) or CLASS_BOXES.fullmatch(name)):
            if not columns.complete:
                initialised.append(name)
            value = _take_columns(
                name, tensor, value, columns=columns, counts=(head_columns(target), head_columns(source))
            )
        if value.shape != tensor.shape:
            raise UserError(
                f"{weights.file}: array {name} has shape {list(value.shape)}, the model expects {list(tensor.shape)}"
            )
        new[name] = value
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(new[name])

    if columns is not None and columns.note:
        notes.append(columns.note)
    notes.extend(_differences(module, weights))
    untouched = len(initialised) if columns is not None and not columns.pairs else 0
    return LoadReport(
        used=len(weights.tensors) - len(dropped) - untouched,
        total=len(weights.tensors),
        file=weights.file,
        description=weights.description,
        initialised=tuple(initialised),
        dropped=dropped,
        notes=tuple(notes),
    )


def narrowed(wide: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Evenly spaced channels of each layer of a wider network, by name: the same ones wherever channels meet.

    Weight selection (Z. Xu et al., "Initializing Models with Larger Ones", arXiv:2311.18823, section 3): a better start
    than random numbers where no weights of the small network are at hand.

    Args:
        wide: Arrays of the wider network.
        like: Arrays of the network that they are for, whose shapes count.

    Returns:
        The arrays of ``wide``, each no larger than that of its name in ``like``; those without one as they are.
    """
    chosen = {}
    for name, tensor in wide.items():
        wanted = like[name].shape if name in like and like[name].ndim == tensor.ndim else tensor.shape
        for axis, (have, want) in enumerate(zip(tensor.shape, wanted, strict=True)):
            if want < have:
                tensor = tensor.index_select(axis, torch.arange(want) * have // want)
        chosen[name] = tensor
    return chosen


def _check_architecture(target: Mapping[str, Tensor], source: Mapping[str, Tensor], *, file: str, bare: bool) -> None:
    """Raise with the setting to change where the two networks are not the same one."""
    want, have = task_of(target), task_of(source)
    if want != have:
        raise UserError(
            f"{file}: these weights are of a {have}, the model is a {want}: "
            + ("load them into its backbone alone (backbone.weights=...)" if want != "backbone" else "choose others")
        )
    model, got = architecture_of(target), architecture_of(source)
    if model.get("name") and got.get("name") and model["name"] != got["name"]:
        raise UserError(
            f"{file}: weights are of {got['name']}, the model's backbone is {model['name']}: set "
            f"backbone={got['name']} or choose other weights"
        )
    for key in model:
        if key in got and got[key] != model[key]:
            stems = [len(tensors[f"{BACKBONE}stem.conv.weight"]) for tensors in (source, target)]
            widths = [f" (conv stem {stem} channels)" if key == "alpha" else "" for stem in stems]
            wider = bare and key == "alpha" and got[key] > model[key]
            start = ", or, to start from some of their channels, backbone.narrow_weights=true" if wider else ""
            raise UserError(
                f"{file}: weights are of {key} {got[key]}{widths[0]}, the model has {key} {model[key]}{widths[1]}: "
                f"set {'task' if key == 'form' else 'backbone'}.{key}={got[key]} or choose other weights{start}"
            )


def _check_names(target: Mapping[str, Tensor], source: Mapping[str, Tensor], *, file: str) -> None:
    for verb, names in (
        ("lacks", [name for name in target if name not in source]),
        ("has arrays that the model lacks:", [name for name in source if name not in target]),
    ):
        if names:
            raise UserError(f"{file} {verb} {first_names(names)}; nothing was loaded")


def _identities(
    module: nn.Module, target: Mapping[str, Tensor], source: Mapping[str, Tensor], *, bare: bool
) -> dict[str, Tensor]:
    """The arrays that make each norm an exact identity but for its bias."""
    made = {}
    for name, tensor in target.items():
        if name in source or not name.endswith((".norm.weight", ".norm.running_mean", ".norm.running_var")):
            continue
        norm = module.get_submodule((name.removeprefix(BACKBONE) if bare else name).rpartition(".")[0])
        if not isinstance(norm, nn.BatchNorm2d):
            raise UserError(f"folded weights need BatchNorm; {name} belongs to a {type(norm).__name__}")
        if name.endswith(".running_mean"):
            made[name] = torch.zeros_like(tensor)
        elif name.endswith(".running_var"):  # sqrt(var + eps) is exactly 1 in float32
            made[name] = torch.ones_like(tensor) - norm.eps
        else:
            made[name] = torch.ones_like(tensor)
    return made


def _match_columns(
    target: Mapping[str, Tensor], source: Mapping[str, Tensor], *, classes: Sequence[str] | None, weights: Weights
) -> _Columns | None:
    """Match the columns of the class heads; None where the network has none."""
    task = task_of(target)
    if task == "backbone":
        return None
    background = int(task in DETECTORS)
    want, have = head_columns(target) - background, head_columns(source) - background
    for names, count, owner in ((classes, want, "the model"), (weights.classes, have, weights.file)):
        if names is not None and len(names) != count:
            raise UserError(f"{owner} has {count} classes, but {len(names)} class names were given for it")
    if classes is None or weights.classes is None:
        if want != have:
            return _Columns([], False, f"class head re-initialised: {have} -> {want} classes")
        note = "" if classes is None else "class head taken by position: the file does not name its classes"
        return _Columns([(column, column) for column in range(want + background)], True, note)
    known = {_plain(name): label for label, name in enumerate(weights.classes) if name is not None}
    pairs = [(label, known[_plain(name)]) for label, name in enumerate(classes) if _plain(name) in known]
    missing = [name for name in classes if _plain(name) not in known]
    if not pairs:
        note = f"class head re-initialised: none of the {want} classes is among the file's {len(known)}"
        return _Columns([], False, note)
    note = f"class head: {len(pairs)} of {want} classes taken by name"
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        note += f", {len(missing)} re-initialised ({shown})"
    if unused := have - len(pairs):
        note += f", {unused} of the file's {have} slots not used"
    pairs = [(mine + background, theirs + background) for mine, theirs in pairs]
    return _Columns([(0, 0)] * background + pairs, not missing, note)


def unmatched_classes(weights: Weights, classes: Sequence[str]) -> list[str]:
    """The classes for which ``load_weights`` finds no column in the class head of a file."""
    if weights.classes is None:
        columns = head_columns(weights.tensors) - int(task_of(weights.tensors) in DETECTORS)
        return [] if columns == len(classes) else list(classes)
    known = {_plain(name) for name in weights.classes if name is not None}
    return [name for name in classes if _plain(name) not in known]


def _plain(name: str) -> str:
    """A class name to compare by: ``Traffic_Light`` is ``traffic light``."""
    return " ".join(name.replace("_", " ").casefold().split())


def _take_columns(name: str, tensor: Tensor, value: Tensor, *, columns: _Columns, counts: tuple[int, int]) -> Tensor:
    """The network's class head with the matched columns of the file; columns are anchor-major."""
    want, have = counts
    if CLASS_BOXES.fullmatch(name):
        mixed = tensor.detach().clone().unflatten(0, (want - 1, 4))
        for label, other in columns.pairs:
            if label > 0:
                mixed[label - 1] = value.to(mixed).unflatten(0, (have - 1, 4))[other - 1]
        return mixed.flatten(0, 1)
    if tensor.shape[0] // want != value.shape[0] // have or tensor.shape[1:] != value.shape[1:]:
        return value  # the caller says what is wrong with its shape
    mixed = tensor.detach().clone().unflatten(0, (-1, want))
    if columns.pairs:
        mine, theirs = (list(side) for side in zip(*columns.pairs, strict=True))
        mixed[:, mine] = value.to(mixed).unflatten(0, (-1, have))[:, theirs]
    return mixed.flatten(0, 1)


def _differences(module: nn.Module, weights: Weights) -> list[str]:
    """What the weights were trained with and the network does otherwise: legitimate, but seldom meant."""
    backbone = getattr(module, "backbone", module)
    have = {
        key: getattr(part, key, None)
        for part, keys in (
            (getattr(backbone, "options", None), ("padding", "activation", "norm_eps")),
            (getattr(module, "preprocessing", None), ("mean", "std")),
            (module, ("loss",)),
        )
        for key in keys
    }
    if weights.folded:
        have["norm_eps"] = None  # any epsilon will do
    return [
        f"note: trained with {key} {weights.settings[key]}, the model has {value}"
        for key, value in have.items()
        if value is not None and key in weights.settings and weights.settings[key] != value
    ]
