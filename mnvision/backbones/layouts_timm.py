"""timm's layout of MobileNet V1 and V4, classifier or body, and how it becomes our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mnvision.backbones.architecture import architecture_of
from mnvision.backbones.layouts import Weights, finite, first_names
from mnvision.backbones.layouts_torchvision import MEAN, STD
from mnvision.errors import UserError

HALF = (127.5,) * 3
# Their layers of a block -> ours, by the first layer that tells the kind of the block.
_BLOCKS: dict[str, dict[str, str]] = {
    "conv_dw": {
        "conv_dw": "depthwise.conv",
        "bn1": "depthwise.norm",
        "conv_pw": "pointwise.conv",
        "bn2": "pointwise.norm",
    },
    "conv": {"conv": "conv", "bn1": "norm"},
    "conv_exp": {"conv_exp": "expand.conv", "bn1": "expand.norm", "conv_pwl": "project.conv", "bn2": "project.norm"},
    "pw_exp": {
        f"{part}.{kind}": f"{ours}.{our_kind}"
        for part, ours in (("dw_start", "start"), ("pw_exp", "expand"), ("dw_mid", "depthwise"), ("pw_proj", "project"))
        for kind, our_kind in (("conv", "conv"), ("bn", "norm"))
    }
    | {"layer_scale": "scale"},
    "attn": {
        "norm": "norm",
        "attn.query.proj": "query",
        "attn.output.proj": "output",
        "layer_scale": "scale",
    }
    | {
        f"attn.{part}.{theirs}": f"{part}{ours}"
        for part in ("key", "value")
        for theirs, ours in (("proj", ""), ("down_conv", "_shrink.conv"), ("norm", "_shrink.norm"))
    },
}
_ENDS = {
    "conv_stem": "backbone.stem.conv",
    "bn1": "backbone.stem.norm",
    "conv_head": "hidden.conv",
    "norm_head": "hidden.norm",
    "classifier": "head",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")


def is_timm(names: Mapping[str, object]) -> bool:
    """Whether the array names are those of a MobileNet of timm."""
    return "conv_stem.weight" in names


def from_timm(arrays: Mapping[str, Tensor]) -> Weights:
    """Read the state dict of timm's MobileNet V1 (``mobilenetv1_100``) or one of the five of V4, of any width.

    Every array is used but the counters ``num_batches_tracked``, which nothing reads. V1's weights are normalised
    with mean and standard deviation 0.5, V4's with ImageNet's: the file does not tell, and two of the published files
    of V4 differ, see ``sources.SOURCES``.

    Source: the module names of timm's efficientnet.py and mobilenetv3.py, and their published settings.

    Args:
        arrays: By name; with or without the classifier.

    Raises:
        UserError: If the layers are those of another network, or of no width multiplier.
    """
    arrays = {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}
    modules = _ENDS | _blocks(arrays)
    tensors: dict[str, Tensor] = {}
    unknown = []
    for name, array in arrays.items():
        module, _, part = name.rpartition(".")
        if module in modules:
            part = "factor" if part == "gamma" else part
            tensors[f"{modules[module]}.{part}"] = finite(array.float(), name=name)
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"the arrays are not those of timm's MobileNet V1 or V4: unexpected {first_names(unknown)}")
    settings: dict[str, Any] = architecture_of(tensors)
    if "alpha" not in settings:
        raise UserError("the layers are not those of timm's MobileNet V1 or V4 at any width multiplier")
    v1 = settings["name"] == "mobilenet_v1"
    activation = "relu6" if v1 else "gelu" if settings["name"] == "mobilenet_v4_hybrid_large" else "relu"
    settings |= {"padding": "symmetric", "norm_eps": 1e-5, "activation": activation}
    settings |= {"mean": HALF, "std": HALF} if v1 else {"mean": MEAN, "std": STD}
    network = f"{settings['name']}, alpha {settings['alpha']:g}"
    head = f"{len(tensors['head.bias'])} classes" if "head.bias" in tensors else "no classifier"
    return Weights(tensors, settings, description=f"timm layout, {network}, {head}")


def _blocks(arrays: Mapping[str, Tensor]) -> dict[str, str]:
    """Their name of each layer in a block -> ours: they number the blocks of every stage anew, we go on."""
    places = {match.groups()[:2] for match in map(_BLOCK.match, arrays) if match}
    order = sorted((int(stage), int(block)) for stage, block in places)
    modules: dict[str, str] = {}
    for index, (stage, block) in enumerate(order):
        prefix = f"blocks.{stage}.{block}."
        parts = {name.removeprefix(prefix).split(".")[0] for name in arrays if name.startswith(prefix)}
        for kind in _BLOCKS.keys() & parts:
            for theirs, ours in _BLOCKS[kind].items():
                modules[f"{prefix}{theirs}"] = f"backbone.blocks.{index}.{ours}"
    return modules
