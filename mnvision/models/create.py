"""Build any task's model by name: from Python, from a configuration, from a checkpoint."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mnvision.backbones import create_backbone
from mnvision.backbones.architecture import DETECTORS, task_of
from mnvision.backbones.base import family_options
from mnvision.backbones.layouts import HEAD_OPTIONS
from mnvision.backbones.weights import Weights, load_weights, read_weights
from mnvision.errors import UserError, did_you_mean
from mnvision.models.attributes import AttributeNetwork
from mnvision.models.base import ModelSpec, TaskModel
from mnvision.models.classifier import Classifier
from mnvision.models.embedder import Embedder
from mnvision.models.faster_rcnn import FasterRCNN
from mnvision.models.geolocator import Geolocator
from mnvision.models.preprocessing import resolve_preprocessing
from mnvision.models.ssd import LOSSES, SSD
from mnvision.types import Fit, Preprocessing

logger = logging.getLogger(__name__)

# Task names are the names of the configuration's `task` group. A plain table, so that a checkpoint can never name
# a class of its own.
TASKS: dict[str, Callable[..., TaskModel]] = {
    "ssd": SSD,
    "faster_rcnn": FasterRCNN,
    "classify": Classifier,
    "embed": Embedder,
    "attributes": AttributeNetwork,
    "geolocate": Geolocator,
}


def build_model(spec: ModelSpec) -> TaskModel:
    """Build the network of a spec, with fresh weights; the model carries the spec as ``model.spec``.

    Raises:
        UserError: For an unknown task or option, with the nearest right name.
    """
    if spec.task not in TASKS:
        raise UserError(f"unknown task {spec.task!r}{did_you_mean(spec.task, TASKS, most=3, known=True)}")
    network = TASKS[spec.task]
    taken = set(inspect.signature(network).parameters)
    known = taken - {"backbone", "num_classes", "preprocessing", "classes"}
    _check_options(spec.task_options, known=known, where=f"task {spec.task}")
    backbone = create_backbone(**spec.backbone_options)
    names = {"classes": spec.classes} if "classes" in taken else {}  # a network to which they say something
    model = network(
        backbone, num_classes=len(spec.classes), preprocessing=spec.preprocessing, **names, **spec.task_options
    )
    model.spec = spec
    return model


def create_model(
    task: str,
    *,
    backbone: str = "mobilenet_v1",
    alpha: float = 1.0,
    rho: float = 1.0,
    image_size: int | None = None,
    preferred_size: int | None = None,
    preferred_share: float | None = None,
    fit: Fit | None = None,
    crop_share: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    aligned: bool = False,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    category_ids: Sequence[int] | None = None,
    weights: str | None = None,
    backbone_weights: str | None = None,
    narrow_weights: bool = False,
    task_options: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> TaskModel:
    """Build a task's model, with fresh or pretrained weights.

    Weights bring the settings they were trained with (input size, padding, activation, BatchNorm epsilon,
    normalisation; form, loss and anchors of the head) wherever an option is left out or None; an option that is given
    stands, with a warning where it is another one.

    Args:
        task: A key of ``TASKS``, such as ``ssd``.
        backbone: A name of ``list_backbones()``, or of the ``library`` among ``backbone_options``.
        alpha: Width multiplier.
        rho: Resolution multiplier of the input's side, see ``resolve_preprocessing``.
        image_size: Side of the input in pixels at rho 1; by default that of ``weights``, else ``preferred_size``, else
            the task's own (300 for ssd, 640 for its form fpn).
        preferred_size: The side that suits the data.
        preferred_share: The ``crop_share`` that suits the data.
        fit: How a picture is fitted to the input, see ``Preprocessing``; by default as ``weights``, else the task's own
            (``preprocessing.FITS``; a detector's pictures are stretched).
        crop_share: How much of it is shown; likewise.
        mean: Of the pixels 0..255 by channel, where no weights say which they were trained with; 127.5 by default.
        std: Likewise.
        aligned: Whether faces are aligned before they are fitted, see ``Preprocessing``.
        num_classes: Classes without background, where they have no names.
        classes: Names of the classes; by default those of ``weights``.
        category_ids: The data set's own ids of the classes; by default those of ``weights`` where its classes are
            used too, else 1, 2, 3...
        weights: Weights of the whole model: a path, a URL or a known name.
        backbone_weights: Weights of the backbone alone: likewise.
        narrow_weights: Whether these may be of a wider backbone, see ``narrowed``.
        task_options: Other arguments of the task's network.
        backbone_options: Other arguments of ``create_backbone``.

    Returns:
        The model in training mode; ``model.spec`` tells how it was built.

    Raises:
        UserError: For unknown names, options out of range, or weights that do not fit.
    """
    if weights and backbone_weights:
        raise UserError(
            f"weights of the whole model ({weights}) and of its backbone ({backbone_weights}) were given together, and "
            "the former hold a backbone too: leave out task.weights or backbone.weights"
        )
    whole = read_weights(weights) if weights else None
    if whole is not None and (found := task_of(whole.tensors)) in DETECTORS and found != task:
        raise UserError(
            f"{weights} are weights of task {found}, not of {task}: give task={found}, or backbone.weights={weights} "
            "for the backbone alone"
        )
    timm_model = backbone if (backbone_options or {}).get("library") == "timm" else None
    part = read_weights(backbone_weights, timm_model=timm_model) if backbone_weights else None
    settings = whole.settings if whole else part.settings if part else {}
    head_settings = whole.settings if whole else {}  # weights of a backbone say nothing of this head

    if classes is None and num_classes is None:
        if whole is None or whole.classes is None:
            raise UserError("create_model() needs classes or num_classes, or weights that name their classes")
        known_ids = whole.category_ids or (None,) * len(whole.classes)
        named = [
            (name, label if known is None else known)
            for label, (name, known) in enumerate(zip(whole.classes, known_ids, strict=True), start=1)
            if name is not None
        ]
        classes = [name for name, _ in named]
        category_ids = [number for _, number in named] if category_ids is None else category_ids
    named_classes = classes is not None
    if classes is None:
        classes = [f"class {label}" for label in range(1, (num_classes or 0) + 1)]
    if category_ids is None:
        category_ids = range(1, len(classes) + 1)
    if len(category_ids) != len(classes) or num_classes not in (None, len(classes)):
        raise UserError(
            f"create_model() got {len(classes)} classes, {len(category_ids)} category_ids and "
            f"num_classes={num_classes}; expected as many of each"
        )
    brought = {"padding", "activation", "norm_eps"}
    if settings.get("name", backbone) == backbone:
        brought |= family_options(backbone)
    if part is not None:
        brought -= {"taps"}  # what a head takes from the backbone says nothing of another head
    preprocessing = resolve_preprocessing(
        task,
        image_size=image_size,
        rho=rho,
        weights=whole,
        preferred_size=preferred_size,
        preferred_share=preferred_share,
        form=(task_options or {}).get("form"),
        fit=fit,
        crop_share=crop_share,
        backbone="" if timm_model else backbone,
    )
    preprocessing = replace(
        preprocessing,
        mean=settings.get("mean", _three(mean) or Preprocessing.mean),
        std=settings.get("std", _three(std) or Preprocessing.std),
        aligned=aligned or bool(head_settings.get("aligned")),
    )
    spec = ModelSpec(
        task=task,
        task_options=_settle_head(task, task_options or {}, head_settings),
        backbone_options={
            "name": backbone,
            "alpha": alpha,
            **_settle(backbone_options or {}, settings, names=sorted(brought)),
        },
        preprocessing=preprocessing,
        # Plain values, whatever array they come from: a checkpoint holds nothing else.
        classes=tuple(str(name) for name in classes),
        category_ids=tuple(int(number) for number in category_ids),
    )
    model = build_model(spec)
    _load(model, whole=whole, part=part, named=named_classes, narrow=narrow_weights)
    return model


def _three(values: Sequence[float] | None) -> tuple[float, float, float] | None:
    if values is None:
        return None
    red, green, blue = values
    return float(red), float(green), float(blue)


def _load(model: TaskModel, *, whole: Weights | None, part: Weights | None, named: bool, narrow: bool) -> None:
    if whole is not None:
        report = load_weights(model, whole, classes=model.spec.classes if named else None)
    elif part is not None:
        report = load_weights(model.backbone, part, narrow=narrow)
    else:
        return
    logger.info("%s", report)


def _settle(options: Mapping[str, Any], settings: Mapping[str, Any], *, names: Sequence[str]) -> dict[str, Any]:
    """Fill options that are None from the weights' settings; those that stay None take the network's default."""
    chosen = {name: value for name, value in options.items() if value is not None}
    for name in names:
        if name not in settings:
            continue
        if name in chosen and chosen[name] != settings[name]:
            logger.warning(
                "%s=%s was asked for; the weights were trained with %s=%s", name, chosen[name], name, settings[name]
            )
        chosen.setdefault(name, settings[name])
    return chosen


def _settle_head(task: str, options: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The head's options: given, else as the weights have them, else the network's own.

    The network's own ones of what weights may settle are stated, so that later users of the weights know them.
    """
    parameters = inspect.signature(TASKS[task]).parameters if task in TASKS else {}
    defaults = {name: parameters[name].default for name in HEAD_OPTIONS if name in parameters}
    chosen = defaults | _settle(options, settings, names=HEAD_OPTIONS)
    if task == "ssd" and chosen["loss"] is None:
        chosen["loss"] = LOSSES.get(chosen["form"])
    return chosen


def _check_options(options: Mapping[str, Any], *, known: set[str], where: str) -> None:
    for name in options:
        if name not in known:
            raise UserError(f"{where} has no option {name!r}{did_you_mean(name, known, most=3, known=True)}")
