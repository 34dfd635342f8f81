"""torchvision's layout of MobileNet V2 and V3 and of SqueezeNet, classifier or body, and how it becomes our names."""

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
_HEADS = {
    "mobilenet_v2": {"classifier.1": "head"},
    "mobilenet_v3": {"classifier.0": "hidden", "classifier.3": "head"},
    "squeezenet": {"classifier.1": "head"},
}
_FIRE = ("squeeze", "expand1x1", "expand3x3")
# What messages call them.
_CALLED = {"mobilenet_v2": "MobileNet V2 or V3", "mobilenet_v3": "MobileNet V2 or V3", "squeezenet": "SqueezeNet"}


def is_torchvision(names: Mapping[str, object]) -> bool:
    """Whether the array names are those of a MobileNet V2 or V3 or of a SqueezeNet of torchvision."""
    return "features.0.0.weight" in names or _is_squeezenet(names)


def _is_squeezenet(names: Mapping[str, object]) -> bool:
    return any(re.fullmatch(r"features\.\d+\.squeeze\.weight", name) for name in names)


def from_torchvision(arrays: Mapping[str, Tensor]) -> Weights:
    """Read the state dict of torchvision's ``mobilenet_v2``, ``mobilenet_v3_*`` or ``squeezenet1_*``.

    Every array is used but the counters ``num_batches_tracked``, which nothing reads.

    Source: the module names of torchvision.models.mobilenetv2, mobilenetv3 and squeezenet, and their published
    transforms.

    Args:
        arrays: By name; with or without the classifier.

    Raises:
        UserError: If the layers are those of another network, or of no width multiplier.
    """
    arrays = {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}
    if _is_squeezenet(arrays):
        family, modules = "squeezenet", dict(_fires(arrays))
    else:
        family = "mobilenet_v2" if "features.1.conv.0.0.weight" in arrays else "mobilenet_v3"
        modules = dict(_body(arrays, branch="conv" if family == "mobilenet_v2" else "block"))
    modules |= _HEADS[family]
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
            f"the arrays are not those of torchvision's {_CALLED[family]}: unexpected {first_names(unknown)}"
        )
    if family == "squeezenet" and "head.weight" in tensors:
        tensors["head.weight"] = tensors["head.weight"].flatten(1)  # a 1x1 convolution there
    settings = architecture_of(tensors)
    if "alpha" not in settings:
        raise UserError(f"the layers' widths are those of torchvision's {_CALLED[family]} for no width multiplier")
    settings |= _options(family) | {"mean": MEAN, "std": STD, "image_size": IMAGE_SIZE}
    head = f"{len(tensors['head.bias'])} classes" if "head.bias" in tensors else "no classifier"
    return Weights(
        tensors, settings, description=f"torchvision layout, {settings['name']}, alpha {settings['alpha']:g}, {head}"
    )


def _options(family: str) -> dict[str, object]:
    """What a family's weights were trained with."""
    if family == "squeezenet":
        return {"activation": "relu"}
    options = V2 if family == "mobilenet_v2" else V3
    settings: dict[str, object] = {"padding": options.padding, "norm_eps": options.norm_eps}
    # The body of V3 has no choice of its activation.
    return settings | ({"activation": options.activation} if family == "mobilenet_v2" else {})


def _fires(arrays: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Their name of each layer of a SqueezeNet's body -> ours; activations and poolings have numbers among theirs."""
    yield "features.0", "backbone.stem.conv"
    numbers = sorted({int(name.split(".")[1]) for name in arrays if re.match(r"features\.[1-9]\d*\.", name)})
    for block, number in enumerate(numbers):
        for part in _FIRE:
            yield f"features.{number}.{part}", f"backbone.blocks.{block}.{part}.conv"


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
