"""What the names and shapes of a network's arrays tell of it: task, family, width and form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from mnvision.backbones.inverted_residual import Plan
from mnvision.backbones.mobilenet_cifar import DEPTHS as CIFAR_DEPTHS
from mnvision.backbones.mobilenet_cifar import cifar_blocks
from mnvision.backbones.mobilenet_v1 import BLOCKS, STEM
from mnvision.backbones.mobilenet_v2 import plan_v2
from mnvision.backbones.mobilenet_v3 import plan_v3
from mnvision.backbones.mobilenet_v4_plans import PLANS as V4_PLANS
from mnvision.backbones.mobilenet_v4_plans import weight_shapes
from mnvision.backbones.squeezenet import PLANS as SQUEEZENETS
from mnvision.backbones.squeezenet import fire_widths

SHALLOW_BLOCKS = BLOCKS[:6] + BLOCKS[11:]
# Settings of V2 and V3 but for alpha -> the body at an alpha.
PLANS: list[tuple[dict[str, Any], Callable[[float], Plan]]] = [({"name": "mobilenet_v2"}, plan_v2)]
PLANS += [
    ({"name": f"mobilenet_v3_{size}", "reduced_tail": reduced}, partial(plan_v3, size, reduced_tail=reduced))
    for size in ("large", "small")
    for reduced in (False, True)
]
# Kernel, expanded, squeezed and channels of each block, between the widths of the stem and of the last layer.
Widths = tuple[int, tuple[tuple[int, int, int, int], ...], int]


# Networks whose class heads have a column for background.
DETECTORS = ("ssd", "faster_rcnn")
# The class predictors of an SSD: of its first level, or shared by all.
SSD_CLASSES = ("heads.0.classes.pointwise", "heads.classes.predictor")


def task_of(names: Mapping[str, Any]) -> str:
    """The network that these array names belong to: ``classifier``, ``ssd``, ``faster_rcnn`` or ``backbone``."""
    if any(f"{name}.weight" in names for name in SSD_CLASSES):
        return "ssd"
    if "rpn.conv.weight" in names:
        return "faster_rcnn"
    return "classifier" if "head.weight" in names else "backbone"


def architecture_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Name, alpha and further options of the backbone of ours among these arrays, and the form of an SSD.

    Where several alphas give the same widths, as rounding to multiples of 8 has it, the roundest one is told.

    Returns:
        The settings that the shapes tell; without a name for another family of backbones.
    """
    if "backbone.blocks.0.project.conv.weight" in tensors:
        settings = _inverted(tensors)
    elif "backbone.blocks.0.expand1x1.conv.weight" in tensors:
        settings = _squeezenet(tensors)
    else:
        settings = _v1(tensors)
    settings = settings or _v4(tensors)
    if task_of(tensors) == "ssd":
        shared = "heads.classes.predictor.weight" in tensors
        separable = "extras.0.expand.depthwise.conv.weight" in tensors
        settings["form"] = "fpn" if shared else "lite" if separable else "paper"
    return settings


def _v1(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    stem = tensors.get("backbone.stem.conv.weight")
    kinds = {"conv": "full_conv", "lateral.conv": "flattened", "pointwise.conv": "standard"}
    part = next((part for part in kinds if f"backbone.blocks.0.{part}.weight" in tensors), "")
    widths = _block_widths(tensors, part)
    settings: dict[str, Any] = {"name": "mobilenet_v1", "variant": kinds.get(part)}
    blocks: Sequence[tuple[int, int]] = BLOCKS
    if part == "pointwise.conv" and len(widths) in CIFAR_DEPTHS:
        settings, blocks = {"name": "mobilenet_cifar", "blocks": len(widths)}, cifar_blocks(len(widths))
    elif part == "pointwise.conv" and len(widths) == len(SHALLOW_BLOCKS):
        settings["variant"], blocks = "shallow", SHALLOW_BLOCKS
    if stem is None or len(widths) != len(blocks):
        return {}
    alpha = _alpha_of([len(stem), *widths], (STEM, *(channels for channels, _ in blocks)))
    return {} if alpha is None else {"name": settings.pop("name"), "alpha": alpha} | settings


def _block_widths(tensors: Mapping[str, Tensor], part: str) -> list[int]:
    """Output channels of a layer that every block has, in order."""
    widths: list[int] = []
    while (weight := tensors.get(f"backbone.blocks.{len(widths)}.{part}.weight")) is not None:
        widths.append(len(weight))
    return widths


def _squeezenet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    stem = tensors["backbone.stem.conv.weight"]
    parts = ("squeeze.conv", "expand1x1.conv", "expand3x3.conv")
    widths = [
        width for block in zip(*(_block_widths(tensors, part) for part in parts), strict=False) for width in block
    ]
    for version, plan in SQUEEZENETS.items():
        full = tuple(width for stage in plan.squeezed for squeezed in stage for width in fire_widths(squeezed))
        if plan.kernel == stem.shape[-1] and len(full) == len(widths):
            alpha = _alpha_of([len(stem), *widths], (plan.stem, *full))
            return {} if alpha is None else {"name": "squeezenet", "alpha": alpha, "version": float(version)}
    return {}


def _alpha_of(widths: list[int], full: tuple[int, ...]) -> float | None:
    """The roundest alpha with ``max(int(c * alpha), 8)`` channels everywhere, if there is one.

    >>> _alpha_of([24, 768], (32, 1024)), _alpha_of([11, 358], (32, 1024)), _alpha_of([24, 512], (32, 1024))
    (0.75, 0.35, None)
    """
    for digits in range(1, 6):
        scale = 10**digits
        alpha = math.ceil(widths[-1] / full[-1] * scale - 1e-6) / scale
        if widths == [max(int(channels * alpha), 8) for channels in full]:
            return alpha
    return None


def _inverted(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        widths = _read_widths(tensors)
    except KeyError:
        return {}
    for settings, plan in PLANS:
        full = plan(1.0).blocks
        if len(full) != len(widths[1]):
            continue
        for alpha in _alphas(widths[1][-1][-1], full=full[-1].channels):
            if widths == _plan_widths(plan(alpha)):
                return {"name": settings["name"], "alpha": alpha} | settings
    return {}


def _alphas(width: int, *, full: int) -> Iterator[float]:
    """The alphas that may bring ``full`` channels to ``width``, the roundest ones first.

    >>> list(_alphas(320, full=320))[:3]
    [1.0, 0.98, 0.99]
    """
    low, high = max(width - 8, 0) / full, (width + 8) / full
    for scale in (10, 100, 1000):
        yield from (step / scale for step in range(max(math.ceil(low * scale), 1), math.floor(high * scale) + 1))


def _v4(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    body = {name.removeprefix("backbone."): tuple(tensor.shape) for name, tensor in tensors.items()}
    shapes = {name: shape for name, shape in body.items() if name.startswith(("stem.", "blocks.")) and len(shape) == 4}
    for name, (_, blocks) in V4_PLANS.items():
        if shapes.keys() != weight_shapes(name, 1.0).keys():
            continue
        last, full = f"blocks.{len(blocks) - 1}.conv.weight", blocks[-1].channels
        for alpha in _alphas(shapes[last][0], full=full):
            if shapes == weight_shapes(name, alpha):
                return {"name": name, "alpha": alpha}
    return {}


def _read_widths(tensors: Mapping[str, Tensor]) -> Widths:
    blocks: list[tuple[int, int, int, int]] = []
    while (project := tensors.get(f"backbone.blocks.{len(blocks)}.project.conv.weight")) is not None:
        block = f"backbone.blocks.{len(blocks)}"
        kernel = tensors[f"{block}.depthwise.conv.weight"].shape[-1]
        squeeze = tensors.get(f"{block}.squeeze.reduce.weight")
        blocks.append((kernel, project.shape[1], 0 if squeeze is None else len(squeeze), len(project)))
    return len(tensors["backbone.stem.conv.weight"]), tuple(blocks), len(tensors["backbone.last.conv.weight"])


def _plan_widths(plan: Plan) -> Widths:
    return plan.stem, tuple(block[:4] for block in plan.blocks), plan.last
