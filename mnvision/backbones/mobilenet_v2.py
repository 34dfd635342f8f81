"""MobileNet V2 (Sandler et al. 2018, arXiv:1801.04381)."""

from __future__ import annotations

from mnvision.backbones.base import register_backbone
from mnvision.backbones.inverted_residual import BlockPlan, InvertedBackbone, Plan, Taps
from mnvision.backbones.layers import LayerOptions, make_divisible

# (expansion factor, channels, repeats, stride of the first) of Table 2.
ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
OPTIONS = LayerOptions(activation="relu6", norm_eps=1e-5)


def plan_v2(alpha: float) -> Plan:
    """The body of Table 2 at a width multiplier; the last layer never gets narrower than 1280 (section 6.1)."""
    channels = stem = make_divisible(32 * alpha)
    blocks = []
    for factor, width, repeats, stride in ROWS:
        out = make_divisible(width * alpha)
        for repeat in range(repeats):
            blocks.append(BlockPlan(3, channels * factor, 0, out, 1 if repeat else stride, None))
            channels = out
    return Plan(stem, tuple(blocks), make_divisible(1280 * max(1.0, alpha)), None)


class MobileNetV2(InvertedBackbone):
    """The body of Table 2, up to the 1x1 convolution of 1280 channels.

    Args:
        alpha: Width multiplier.
        taps: ``stages``, ``expansions`` or ``strided``, see ``InvertedBackbone``.
        options: Padding, activation and BatchNorm settings of every layer.

    Raises:
        UserError: For an alpha that is not positive, or unknown taps.
    """

    head_dropout = 0.2

    def __init__(self, *, alpha: float = 1.0, taps: Taps = "stages", options: LayerOptions = OPTIONS) -> None:
        super().__init__(name="mobilenet_v2", alpha=alpha, taps=taps, options=options)
        self._build(plan_v2(alpha))


register_backbone("mobilenet_v2", options=OPTIONS)(MobileNetV2)
