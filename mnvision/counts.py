"""Ours beside the paper's: the profiler's counts of the models that the tables name."""

from __future__ import annotations

import functools
from decimal import ROUND_HALF_UP, Decimal

import torch
from torch import nn

from mnvision.backbones.layers import is_depthwise
from mnvision.models.create import create_model
from mnvision.printed import VARIANTS, Model
from mnvision.profiler import Layer, Profile, profile

Value = int | float | str
# Rows of Table 1 that are no layers with weights: they follow from the layers around them.
POOLING, SOFTMAX = "pooling", "softmax"


@functools.cache
def count(model: Model) -> dict[str, Value]:
    """What one of our models costs, or a part of it, by the keys of the tables' quantities.

    Returns:
        ``mult_adds`` and ``parameters``; ``share_mult_adds`` and ``share_parameters`` of the whole model, 0..1; the
        whole model's ``whole_mult_adds`` and ``trainable`` parameters; for a single layer also ``type``, ``filter`` and
        ``input`` in the words of Table 1.

    Raises:
        ValueError: If the model has no such part.
    """
    network, whole = _build(model.whole)
    if model.part in (POOLING, SOFTMAX):
        return _around_the_head(whole, model.part)
    chosen = whole.part(model.part) if model.part else whole
    layers = tuple(layer for layer in chosen.layers if model.kind in ("", layer.kind))
    if not layers:
        raise ValueError(f"{model} has no layers")
    part = Profile(layers, whole.trainable, whole.total, whole.image_size)
    values: dict[str, Value] = {
        "mult_adds": part.mult_adds,
        "parameters": part.parameters,
        "share_mult_adds": part.mult_adds / whole.mult_adds,
        "share_parameters": part.parameters / whole.parameters,
        "whole_mult_adds": whole.mult_adds,
        "trainable": whole.trainable,
    }
    return values | (_layer_words(network, whole, layers[0]) if len(layers) == 1 else {})


def layer_names(model: Model) -> set[str]:
    """The layers of the whole model, by their paths."""
    return {layer.name for layer in _build(model.whole)[1].layers}


def rounds_to(value: Value, printed: str, *, unit: float | None) -> bool:
    """Whether a value, rounded half up, has the digits that are printed; a text has to be the same.

    The zeros at the end of a whole number of four digits or more hold no digits.

    >>> rounds_to(325_400_448, "325", unit=10**6), rounds_to(290_675_200, "290", unit=10**6)
    (True, False)
    >>> rounds_to(15_346_630_656, "15300", unit=10**6), rounds_to(0.94857, "94.86", unit=0.01)
    (True, True)
    """
    if unit is None or isinstance(value, str):
        return str(value) == printed
    figure = Decimal(printed)
    held = len(printed) - len(printed.rstrip("0")) if printed.isdigit() and len(printed) > 3 else 0
    last = Decimal(1).scaleb(held) if held else Decimal(1).scaleb(int(figure.as_tuple().exponent))
    exact = Decimal(str(value)) / Decimal(str(unit))
    return (exact / last).quantize(Decimal(1), rounding=ROUND_HALF_UP) * last == figure


@functools.cache
def _build(model: Model) -> tuple[nn.Module, Profile]:
    """A model on the ``meta`` device, which knows shapes only, and its costs."""
    with torch.device("meta"):
        if model.task == "torchvision":
            import torchvision

            options = {"aux_logits": False, "init_weights": False} if model.variant == "googlenet" else {}
            network = torchvision.models.get_model(model.variant, **options)
        else:
            network = create_model(
                model.task,
                backbone=model.backbone,
                alpha=model.alpha,
                image_size=model.size,
                num_classes=model.classes,
                task_options={"form": model.form} if model.form else {},
                backbone_options={VARIANTS[model.backbone]: model.variant or None},
            )
    return network, profile(network, image_size=model.size)


def _layer_words(network: nn.Module, whole: Profile, layer: Layer) -> dict[str, Value]:
    """A layer as Table 1 words it; its input is what the layer before it gives."""
    index = whole.layers.index(layer)
    side = whole.layers[index - 1].output[-1] if index else whole.image_size
    module = network.get_submodule(layer.name)
    if not isinstance(module, nn.Conv2d):
        outputs, inputs = network.get_parameter(f"{layer.name}.weight").shape
        return {"type": "FC / s1", "filter": f"{inputs}x{outputs}", "input": f"1x1x{inputs}"}
    depthwise = is_depthwise(module)
    size = "x".join(map(str, module.kernel_size))
    outputs, inputs = module.out_channels, module.in_channels
    return {
        "type": f"Conv{' dw' if depthwise else ''} / s{module.stride[0]}",
        "filter": f"{size}x{inputs} dw" if depthwise else f"{size}x{inputs}x{outputs}",
        "input": f"{side}x{side}x{inputs}",
    }


def _around_the_head(whole: Profile, part: str) -> dict[str, Value]:
    """The average over the last map, and the softmax of the logits."""
    channels, height, width = whole.layers[-2].output
    if part == POOLING:
        kernel = f"{height}x{width}"
        return {"type": "Avg Pool / s1", "filter": f"Pool {kernel}", "input": f"{kernel}x{channels}"}
    return {"type": "Softmax / s1", "filter": "Classifier", "input": f"1x1x{whole.layers[-1].output[0]}"}
