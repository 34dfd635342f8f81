"""The layouts that weight files come in, and how each becomes our names and axes. Pure functions on arrays.

A layout is recognised from the names and shapes of the arrays, never from the name of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnvision.backbones.architecture import DETECTORS, SSD_CLASSES, architecture_of, task_of
from mnvision.backbones.mobilenet_v1 import BLOCKS
from mnvision.errors import UserError

Arrays = Mapping[str, np.ndarray]

# TensorFlow predicts (y, x, height, width) codes, we (x, y, width, height).
BOX_ORDER = (1, 0, 3, 2)
# What weights of a whole model say of the head that they were trained in.
HEAD_OPTIONS = ("form", "loss", "focal_alpha", "focal_gamma", "min_scale", "max_scale", "anchor_sizes")
# Options of a backbone that say how it was trained, not what it is.
TRAINING_OPTIONS = ("norm_momentum", "freeze", "norm")


@dataclass(frozen=True, eq=False)
class Weights:
    """The arrays of one weight file under our names, and what the network around them must be like.

    Attributes:
        tensors: float32 arrays by our names, the backbone's under ``backbone.``; convolutions [O, I, kH, kW]. Where
            ``folded``, a norm has its bias alone: the rest is an identity that ``load_weights`` makes exact.
        settings: What a builder takes where the user left a key null: ``padding norm_eps activation`` of the backbone
            and the options of its family; ``mean std`` (per RGB channel, in units of 0..255); of a whole network its
            input's side ``image_size`` in pixels, and for a detector ``form loss focal_alpha focal_gamma min_scale
            max_scale anchor_sizes``. ``name alpha`` of the backbone are there to check by. A key is absent where the
            file does not tell.
        classes: The name of each label 1..K, None where the network has a slot without a class; None if unknown.
        category_ids: The id of each label in the data set trained on, like ``classes``; None if unknown.
        folded: Whether BatchNorm was folded into the convolutions.
        file: The file, for messages.
        description: Layout, width and classes in a few words, for messages.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str | None, ...] | None = None
    category_ids: tuple[int | None, ...] | None = None
    folded: bool = False
    file: str = ""
    description: str = ""


# --- Keras ------------------------------------------------------------------------------------------------------------

_HWIO = (3, 2, 0, 1)  # [kH, kW, I, O] -> [O, I, kH, kW]
_HWIM = (2, 3, 0, 1)  # depthwise: [kH, kW, C, 1] -> [C, 1, kH, kW]
_KERAS_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def _keras_table() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Keras' name of each array of MobileNet V1 -> our name, and our axes in terms of Keras' ones."""
    layers = [("conv1", "kernel", _HWIO, "backbone.stem")]
    for block in range(1, len(BLOCKS) + 1):
        ours = f"backbone.blocks.{block - 1}"
        layers.append((f"conv_dw_{block}", "depthwise_kernel", _HWIM, f"{ours}.depthwise"))
        layers.append((f"conv_pw_{block}", "kernel", _HWIO, f"{ours}.pointwise"))
    table: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer, kernel, axes, ours in layers:
        table[f"{layer}/{kernel}"] = (f"{ours}.conv.weight", axes)
        for theirs, name in _KERAS_NORM.items():
            table[f"{layer}_bn/{theirs}"] = (f"{ours}.norm.{name}", (0,))
    table["conv_preds/kernel"] = ("head.weight", _HWIO)
    table["conv_preds/bias"] = ("head.bias", (0,))
    return table


def from_keras(arrays: Arrays) -> Weights:
    """Read MobileNet V1 of Keras' applications, with or without its classifier.

    Source: the layer names of keras.applications.MobileNet; SAME padding, BatchNorm epsilon 1e-3, ReLU6 and input
    ``x / 127.5 - 1``. (At stride 2 Keras pads depthwise layers below and right alone, which is SAME on even sizes:
    every multiple of 32.)
    """
    table = _keras_table()
    _complete(arrays, table, optional=("conv_preds/kernel", "conv_preds/bias"))
    tensors = {}
    for theirs, array in arrays.items():
        ours, axes = table[theirs]
        if array.ndim != len(axes):
            raise UserError(f"array {theirs} has shape {list(array.shape)}, expected {len(axes)} axes")
        tensors[ours] = _tensor(array.transpose(axes), name=theirs)
    if "head.weight" in tensors:
        tensors["head.weight"] = tensors["head.weight"].flatten(1)  # a 1x1 convolution there
    settings = architecture_of(tensors)
    if "alpha" not in settings:
        raise UserError("the layers' widths are those of MobileNet V1 for no width multiplier")
    settings |= {"padding": "same", "norm_eps": 1e-3, "activation": "relu6", "mean": (127.5,) * 3, "std": (127.5,) * 3}
    head = f"{len(tensors['head.bias'])} classes" if "head.bias" in tensors else "no classifier"
    return Weights(tensors, settings, description=f"Keras layout, alpha {settings['alpha']:g}, {head}")


def to_keras_arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Turn the state dict of a MobileNet V1 classifier, or of its bare backbone, into Keras' names and axes.

    Raises:
        UserError: If an array is missing or has no counterpart in Keras.
    """
    if not any(name.startswith("backbone.") for name in state):
        state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    table = {ours: (theirs, axes) for theirs, (ours, axes) in _keras_table().items()}
    _complete(state, table, optional=("head.weight", "head.bias"))
    arrays = {}
    for ours, tensor in state.items():
        theirs, axes = table[ours]
        array = tensor.detach().cpu().float().numpy()
        if ours == "head.weight":
            array = array[:, :, None, None]
        arrays[theirs] = np.ascontiguousarray(array.transpose(np.argsort(axes)))
    return arrays


# --- TensorFlow's SSD with folded BatchNorm ---------------------------------------------------------------------------


def _ssd_layers() -> dict[str, str]:
    """Their name of each layer -> our module."""
    layers = {"conv0": "backbone.stem"}
    for block in range(1, len(BLOCKS) + 1):
        for part in ("depthwise", "pointwise"):
            layers[f"block{block}/{part}"] = f"backbone.blocks.{block - 1}.{part}"
    for extra in range(1, 5):
        for part in ("reduce", "expand"):
            layers[f"extra{extra}/{part}"] = f"extras.{extra - 1}.{part}"
    for head in range(6):
        layers[f"head{head}/box"] = f"heads.{head}.boxes.pointwise"
        layers[f"head{head}/class"] = f"heads.{head}.classes.pointwise"
    return layers


def from_tensorflow_ssd(arrays: Arrays) -> Weights:
    """Read an SSD MobileNet V1 of TensorFlow's detection API, BatchNorm folded into weight and bias of each layer.

    ``meta``, a JSON text, holds ``class_names`` and ``class_index_to_coco_id`` for background and every label slot.
    """
    table = {}
    for theirs, ours in _ssd_layers().items():
        head = ours.startswith("heads.")
        table[f"{theirs}/weight"] = f"{ours}.weight" if head else f"{ours}.conv.weight"
        table[f"{theirs}/bias"] = f"{ours}.bias" if head else f"{ours}.norm.bias"
    layers = {name: array for name, array in arrays.items() if "/" in name}  # not the anchors, which are ours too
    _complete(layers, table)
    tensors = {}
    for theirs, array in layers.items():
        tensor = _tensor(array, name=theirs)
        if "/box/" in theirs:
            tensor = tensor.unflatten(0, (-1, 4))[:, BOX_ORDER].flatten(0, 1)
        tensors[table[theirs]] = tensor
    settings = architecture_of(tensors)
    if "alpha" not in settings:
        raise UserError("the layers' widths are those of MobileNet V1 for no width multiplier")
    settings |= {"padding": "same", "norm_eps": 1e-3, "activation": "relu6", "mean": (128.0,) * 3, "std": (128.0,) * 3}
    # Scores by sigmoid. The file does not say its training loss: focal with alpha 0.75 is inferred, not proven.
    # TensorFlow's sibling configuration (300x300 coco14_sync) has it, and the many background scores above 0.3 fit it.
    settings |= {"loss": "focal", "focal_alpha": 0.75, "image_size": 300, "min_scale": 0.2, "max_scale": 0.95}
    slots = head_columns(tensors) - 1
    classes, ids = _ssd_classes(arrays.get("meta"), slots=slots)
    count = slots if classes is None else sum(name is not None for name in classes)
    return Weights(
        tensors,
        settings,
        classes=classes,
        category_ids=ids,
        folded=True,
        description=f"TensorFlow SSD, alpha {settings['alpha']:g}, {count} classes, BatchNorm folded",
    )


def head_columns(tensors: Mapping[str, Tensor]) -> int:
    """Columns a class head predicts for each anchor or proposal: the classes, and background for a detector."""
    if task_of(tensors) == "classifier":
        return len(tensors["head.bias"])
    if task_of(tensors) == "faster_rcnn":
        return len(tensors["box_head.classes.bias"])
    classes = next(name for name in SSD_CLASSES if f"{name}.bias" in tensors)
    anchors = len(tensors[f"{classes.replace('classes', 'boxes')}.bias"]) // 4
    return len(tensors[f"{classes}.bias"]) // anchors


def _ssd_classes(
    meta: np.ndarray | None, *, slots: int
) -> tuple[tuple[str | None, ...] | None, tuple[int | None, ...] | None]:
    if meta is None:
        return None, None
    try:
        content = json.loads(str(meta))
        names = content["class_names"]
        ids = content["class_index_to_coco_id"]
        labels = range(1, slots + 1)
        if len(names) != slots + 1:
            raise ValueError(f"{len(names)} class names for {slots + 1} columns")
        return tuple(names[label] for label in labels), tuple(ids[str(label)] for label in labels)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"array meta is not the JSON expected: {error}") from error


# --- ours -------------------------------------------------------------------------------------------------------------


def from_ours(tensors: Mapping[str, Tensor], *, spec: Mapping[str, Any] | None = None) -> Weights:
    """Take the arrays of a state dict of ours, of a whole network or of a bare backbone.

    Args:
        tensors: By name, with or without ``backbone.`` before those of a bare backbone.
        spec: What a checkpoint says of its model: ``backbone_options``, ``task_options``, ``preprocessing``,
            ``classes`` and ``category_ids``.
    """
    if not any(name.startswith("backbone.") for name in tensors):
        tensors = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    kept = {
        name: finite(tensor.float(), name=name)
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    settings, spec = architecture_of(kept), spec or {}
    settings |= {key: value for key, value in spec.get("backbone_options", {}).items() if key not in TRAINING_OPTIONS}
    for part, keys in (
        ("task_options", HEAD_OPTIONS),
        ("preprocessing", ("mean", "std", "fit", "crop_share", "aligned")),
    ):
        settings |= {key: spec[part][key] for key in keys if key in spec.get(part, {})}
    if "preprocessing" in spec:
        settings["image_size"] = spec["preprocessing"]["size"]
    task = task_of(kept)
    family = settings.get("name", "mobilenet_v1")
    width = f", {family}" * (family != "mobilenet_v1")
    width += f", alpha {settings['alpha']:g}" if "alpha" in settings else ""
    head = "" if task == "backbone" else f", {head_columns(kept) - (task in DETECTORS)} classes"
    return Weights(
        kept,
        settings,
        classes=tuple(spec["classes"]) if "classes" in spec else None,
        category_ids=tuple(spec["category_ids"]) if "category_ids" in spec else None,
        description=f"mnvision {task}{width}{head}",
    )


# --- shared -----------------------------------------------------------------------------------------------------------


def _complete(got: Mapping[str, Any], wanted: Mapping[str, Any], *, optional: tuple[str, ...] = ()) -> None:
    """Raise unless the names are the wanted ones; of the optional ones, all or none."""
    missing = [name for name in wanted if name not in got]
    if len(missing) == len(optional) and set(missing) == set(optional):
        missing = []
    unexpected = [name for name in got if name not in wanted]
    if missing or unexpected:
        problems = [f"missing {first_names(missing)}"] * bool(missing) + [
            f"unexpected {first_names(unexpected)}"
        ] * bool(unexpected)
        raise UserError(f"the arrays are not those of the layout: {'; '.join(problems)}")


def first_names(names: list[str]) -> str:
    """The first three names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _tensor(array: np.ndarray, *, name: str) -> Tensor:
    return finite(torch.from_numpy(np.array(array, dtype=np.float32, order="C")), name=name)


def finite(tensor: Tensor, *, name: str) -> Tensor:
    """The tensor, or a UserError where a value is infinite or NaN."""
    if not torch.isfinite(tensor).all():
        raise UserError(f"array {name} holds values that are not finite: the file is damaged, or training had diverged")
    return tensor
