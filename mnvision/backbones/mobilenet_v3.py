"""MobileNet V3, large and small (Howard et al. 2019, arXiv:1905.02244)."""

from __future__ import annotations

from typing import Literal

from mnvision.backbones.base import register_backbone
from mnvision.backbones.inverted_residual import BlockPlan, InvertedBackbone, Plan, Taps
from mnvision.backbones.layers import LayerOptions, make_divisible

Size = Literal["large", "small"]
Row = tuple[int, int, int, bool, str, int]  # kernel, expanded, channels, squeeze-and-excitation, activation, stride

RE, HS = "relu", "hardswish"
LARGE: tuple[Row, ...] = (  # Table 1
    (3, 16, 16, False, RE, 1),
    (3, 64, 24, False, RE, 2),
    (3, 72, 24, False, RE, 1),
    (5, 72, 40, True, RE, 2),
    (5, 120, 40, True, RE, 1),
    (5, 120, 40, True, RE, 1),
    (3, 240, 80, False, HS, 2),
    (3, 200, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 480, 112, True, HS, 1),
    (3, 672, 112, True, HS, 1),
    (5, 672, 160, True, HS, 2),
    (5, 960, 160, True, HS, 1),
    (5, 960, 160, True, HS, 1),
)
SMALL: tuple[Row, ...] = (  # Table 2
    (3, 16, 16, True, RE, 2),
    (3, 72, 24, False, RE, 2),
    (3, 88, 24, False, RE, 1),
    (5, 96, 40, True, HS, 2),
    (5, 240, 40, True, HS, 1),
    (5, 240, 40, True, HS, 1),
    (5, 120, 48, True, HS, 1),
    (5, 144, 48, True, HS, 1),
    (5, 288, 96, True, HS, 2),
    (5, 576, 96, True, HS, 1),
    (5, 576, 96, True, HS, 1),
)
ROWS: dict[Size, tuple[Row, ...]] = {"large": LARGE, "small": SMALL}
HEAD_WIDTHS: dict[Size, int] = {"large": 1280, "small": 1024}
# The activation is that of the heads: SSDLite has ReLU6 behind V3 too.
OPTIONS = LayerOptions(activation="relu6", norm_eps=1e-3, norm_momentum=0.01)


def plan_v3(size: Size, alpha: float, *, reduced_tail: bool = False) -> Plan:
    """The body of Table 1 or 2 at a width multiplier; a reduced tail halves what follows the last stride (section 6.3).

    The first layer of the last stride has its expansion in full: it belongs to the map before.
    """
    blocks = []
    half = False
    for kernel, expanded, channels, squeeze, activation, stride in ROWS[size]:
        wide = make_divisible((expanded // 2 if half else expanded) * alpha)
        half = half or (reduced_tail and stride == 2 and channels == ROWS[size][-1][2])
        out = make_divisible((channels // 2 if half else channels) * alpha)
        squeezed = make_divisible(wide // 4) if squeeze else 0
        blocks.append(BlockPlan(kernel, wide, squeezed, out, stride, activation))
    return Plan(make_divisible(16 * alpha), tuple(blocks), 6 * blocks[-1].channels, HS)


class MobileNetV3(InvertedBackbone):
    """The body of Table 1 or 2, up to the 1x1 convolution before the pooling.

    Args:
        size: ``large`` or ``small``.
        alpha: Width multiplier.
        taps: ``stages``, ``expansions`` or ``strided``, see ``InvertedBackbone``.
        reduced_tail: Whether the layers of stride 32 have half their channels, as for detection (section 6.3).
        options: Padding and BatchNorm settings of every layer. The body has the paper's mix of ReLU and hard swish
            whatever ``options.activation`` says: that is for the layers which heads add.

    Raises:
        UserError: For an alpha that is not positive, or unknown taps.
    """

    head_dropout = 0.2

    def __init__(
        self,
        size: Size,
        *,
        alpha: float = 1.0,
        taps: Taps = "stages",
        reduced_tail: bool = False,
        options: LayerOptions = OPTIONS,
    ) -> None:
        super().__init__(name=f"mobilenet_v3_{size}", alpha=alpha, taps=taps, options=options)
        self.head_width = self.scale(HEAD_WIDTHS[size] // (2 if reduced_tail else 1))
        self._build(plan_v3(size, alpha, reduced_tail=reduced_tail))


@register_backbone("mobilenet_v3_large", options=OPTIONS)
def mobilenet_v3_large(
    *, alpha: float, options: LayerOptions, taps: Taps = "stages", reduced_tail: bool = False
) -> MobileNetV3:
    """MobileNet V3 large, see ``MobileNetV3``."""
    return MobileNetV3("large", alpha=alpha, taps=taps, reduced_tail=reduced_tail, options=options)


@register_backbone("mobilenet_v3_small", options=OPTIONS)
def mobilenet_v3_small(
    *, alpha: float, options: LayerOptions, taps: Taps = "stages", reduced_tail: bool = False
) -> MobileNetV3:
    """MobileNet V3 small, see ``MobileNetV3``."""
    return MobileNetV3("small", alpha=alpha, taps=taps, reduced_tail=reduced_tail, options=options)
