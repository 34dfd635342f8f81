"""torchvision's layout of MobileNet V2 and V3, classifier or body, and how it becomes our names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from mnvision.backbones.architecture import architecture_of
from mnvision.backbones.layouts import Weights, finite, first_names
from mnvision.backbones.mobilenet_v2 import OPTIONS as V2
from mnvision.backbones.mobilenet_v3 import OPTIONS as V3
from mnvision.errors import UserError

# ImageNet's statistics, in units of 0..255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
IMAGE_SIZE = 224

# Their last linear layer is ours; V3 has one before it.
_HEADS = {"mobilenet_v2": {"classifier.1": "head"}, "mobilenet_v3": {"classifier.0": "hidden", "classifier.3": "head"}}


def is_torchvision(names: Mapping[str, object]) -> bool:
    """Whether the array names are those of a MobileNet V2 or V3 of torchvision."""
    return "features.0.0.weight" in names


def from_torchvision(arrays: Mapping[str, Tensor]) -> Weights:
    """Read the state dict of torchvision's ``mobilenet_v2``, ``mobilenet_v3_large`` or ``mobilenet_v3_small``.

    Every array is used but the counters ``num_batches_tracked``, which nothing reads.

    Source: the module names of torchvision.models.mobilenetv2 and mobilenetv3, and their published transforms.

    Args:
        arrays: By name; with or without the classifier.

    Raises:
        UserError: If the layers are those of another network, or of no width multiplier.
    """
    arrays = {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}
    family = "mobilenet_v2" if "features.1.conv.0.0.weight" in arrays else "mobilenet_v3"
    modules = dict(_body(arrays, branch="conv" if family == "mobilenet_v2" else "block")) | _HEADS[family]
    tensors: dict[str, Tensor] = {}
    unknown = []
    for name, array in arrays.items():
        module, _, part = name.rpartition(".")
        if module in modules:
            tensors[f"{modules[module]}.{part}"] = finite(array.float(), name=name)
        else:
            unknown.append(name)
    if unknown:
        raise UserError(
            f"the arrays are not those of torchvision's MobileNet V2 or V3: unexpected {first_names(unknown)}"
        )
    settings = architecture_of(tensors)
    if "alpha" not in settings:
        raise UserError("the layers' widths are those of torchvision's MobileNet V2 or V3 for no width multiplier")
    options = V2 if family == "mobilenet_v2" else V3
    settings |= {"padding": options.padding, "norm_eps": options.norm_eps, "mean": MEAN, "std": STD}
    settings["image_size"] = IMAGE_SIZE
    if family == "mobilenet_v2":  # the body of V3 has no choice
        settings["activation"] = options.activation
    head = f"{len(tensors['head.bias'])} classes" if "head.bias" in tensors else "no classifier"
    return Weights(
        tensors, settings, description=f"torchvision layout, {settings['name']}, alpha {settings['alpha']:g}, {head}"
    )


def _body(arrays: Mapping[str, Tensor], *, branch: str) -> Iterator[tuple[str, str]]:
    """Their name of each layer of the body -> ours; ``branch`` is what their blocks call their layers."""
    last = max(int(name.split(".")[1]) for name in arrays if re.match(r"features\.\d+\.", name))
    for theirs, ours in ((0, "stem"), (last, "last")):
        yield f"features.{theirs}.0", f"backbone.{ours}.conv"
        yield f"features.{theirs}.1", f"backbone.{ours}.norm"
    for index in range(1, last):
        yield from _block(arrays, f"features.{index}.{branch}", f"backbone.blocks.{index - 1}")


def _block(arrays: Mapping[str, Tensor], theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """The layers of one block, which are numbered: expansion and squeeze-and-excitation may be missing."""
    convs, norms = [], []
    for layer in range(5):
        name = f"{theirs}.{layer}"
        if f"{name}.fc1.weight" in arrays:
            yield f"{name}.fc1", f"{ours}.squeeze.reduce"
            yield f"{name}.fc2", f"{ours}.squeeze.expand"
        elif f"{name}.0.weight" in arrays:
            convs.append(f"{name}.0")
            norms.append(f"{name}.1")
        elif f"{name}.running_mean" in arrays:  # V2's projection is a convolution and then a norm beside the others
            norms.append(name)
        elif f"{name}.weight" in arrays:
            convs.append(name)
    parts = ("expand", "depthwise", "project")
    for part, conv, norm in zip(reversed(parts), reversed(convs), reversed(norms), strict=False):
        yield conv, f"{ours}.{part}.conv"
        yield norm, f"{ours}.{part}.norm"
