"""The five bodies of MobileNet V4 as tables, and how a network is told by its weights' shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mnvision.backbones.layers import make_divisible


class Conv(NamedTuple):
    """A full convolution."""

    kernel: int
    stride: int
    channels: int


class Fused(NamedTuple):
    """A fused inverted bottleneck: 3x3 expansion, 1x1 projection."""

    stride: int
    expansion: int
    channels: int


class Universal(NamedTuple):
    """A universal inverted bottleneck (section 3): kernels before and after the expansion, 0 for none."""

    start: int
    middle: int
    stride: int
    expansion: int
    channels: int


class Attention(NamedTuple):
    """Mobile multi-query attention (section 4): keys and values come from a map smaller by ``shrink``."""

    heads: int
    depth: int
    shrink: int
    channels: int


Block = Conv | Fused | Universal | Attention
Plan = tuple[Block, ...]

# The paper's appendix on architectures; stages begin where the stride is 2.
_CONV_SMALL: Plan = (
    *(Conv(3, 2, 32), Conv(1, 1, 32)),
    *(Conv(3, 2, 96), Conv(1, 1, 64)),
    *(Universal(5, 5, 2, 3, 96), *[Universal(0, 3, 1, 2, 96)] * 4, Universal(3, 0, 1, 4, 96)),
    *(Universal(3, 3, 2, 6, 128), Universal(5, 5, 1, 4, 128), Universal(0, 5, 1, 4, 128), Universal(0, 5, 1, 3, 128)),
    *[Universal(0, 3, 1, 4, 128)] * 2,
    Conv(1, 1, 960),
)
_CONV_MEDIUM: Plan = (
    Fused(2, 4, 48),
    *(Universal(3, 5, 2, 4, 80), Universal(3, 3, 1, 2, 80)),
    *(Universal(3, 5, 2, 6, 160), *[Universal(3, 3, 1, 4, 160)] * 2, Universal(3, 5, 1, 4, 160)),
    *(Universal(3, 3, 1, 4, 160), Universal(3, 0, 1, 4, 160), Universal(0, 0, 1, 2, 160), Universal(3, 0, 1, 4, 160)),
    *(Universal(5, 5, 2, 6, 256), Universal(5, 5, 1, 4, 256), *[Universal(3, 5, 1, 4, 256)] * 2),
    *(Universal(0, 0, 1, 4, 256), Universal(3, 0, 1, 4, 256), Universal(3, 5, 1, 2, 256), Universal(5, 5, 1, 4, 256)),
    *(*[Universal(0, 0, 1, 4, 256)] * 2, Universal(5, 0, 1, 2, 256)),
    Conv(1, 1, 960),
)
_CONV_LARGE: Plan = (
    Fused(2, 4, 48),
    *(Universal(3, 5, 2, 4, 96), Universal(3, 3, 1, 4, 96)),
    *(Universal(3, 5, 2, 4, 192), *[Universal(3, 3, 1, 4, 192)] * 3, Universal(3, 5, 1, 4, 192)),
    *(*[Universal(5, 3, 1, 4, 192)] * 5, Universal(3, 0, 1, 4, 192)),
    *(Universal(5, 5, 2, 4, 512), *[Universal(5, 5, 1, 4, 512)] * 3, Universal(5, 0, 1, 4, 512)),
    *(Universal(5, 3, 1, 4, 512), *[Universal(5, 0, 1, 4, 512)] * 2, Universal(5, 3, 1, 4, 512)),
    *(Universal(5, 5, 1, 4, 512), *[Universal(5, 0, 1, 4, 512)] * 3),
    Conv(1, 1, 960),
)
_HYBRID_MEDIUM: Plan = (
    Fused(2, 4, 48),
    *(Universal(3, 5, 2, 4, 80), Universal(3, 3, 1, 2, 80)),
    *(Universal(3, 5, 2, 6, 160), Universal(0, 0, 1, 2, 160), Universal(3, 3, 1, 4, 160), Universal(3, 5, 1, 4, 160)),
    *(Attention(4, 64, 2, 160), Universal(3, 3, 1, 4, 160), Attention(4, 64, 2, 160), Universal(3, 0, 1, 4, 160)),
    *(Attention(4, 64, 2, 160), Universal(3, 3, 1, 4, 160), Attention(4, 64, 2, 160), Universal(3, 0, 1, 4, 160)),
    *(Universal(5, 5, 2, 6, 256), Universal(5, 5, 1, 4, 256), *[Universal(3, 5, 1, 4, 256)] * 2),
    *(Universal(0, 0, 1, 2, 256), Universal(3, 5, 1, 2, 256), Universal(0, 0, 1, 2, 256), Universal(0, 0, 1, 4, 256)),
    *(Attention(4, 64, 1, 256), Universal(3, 0, 1, 4, 256), Attention(4, 64, 1, 256), Universal(5, 5, 1, 4, 256)),
    *(Attention(4, 64, 1, 256), Universal(5, 0, 1, 4, 256), Attention(4, 64, 1, 256), Universal(5, 0, 1, 4, 256)),
    Conv(1, 1, 960),
)
_HYBRID_LARGE_PAIRS: tuple[Plan, Plan] = (
    (Attention(8, 48, 2, 192), Universal(5, 3, 1, 4, 192)),
    (Attention(8, 64, 1, 512), Universal(5, 0, 1, 4, 512)),
)
_HYBRID_LARGE: Plan = (
    Fused(2, 4, 48),
    *(Universal(3, 5, 2, 4, 96), Universal(3, 3, 1, 4, 96)),
    *(Universal(3, 5, 2, 4, 192), *[Universal(3, 3, 1, 4, 192)] * 3, Universal(3, 5, 1, 4, 192)),
    *[Universal(5, 3, 1, 4, 192)] * 2,
    *_HYBRID_LARGE_PAIRS[0] * 3,
    *(Attention(8, 48, 2, 192), Universal(3, 0, 1, 4, 192)),
    *(Universal(5, 5, 2, 4, 512), *[Universal(5, 5, 1, 4, 512)] * 3, Universal(5, 0, 1, 4, 512)),
    *(Universal(5, 3, 1, 4, 512), *[Universal(5, 0, 1, 4, 512)] * 2, Universal(5, 3, 1, 4, 512)),
    Universal(5, 5, 1, 4, 512),
    *_HYBRID_LARGE_PAIRS[1] * 4,
    Conv(1, 1, 960),
)
# Channels of the stem, and the blocks.
PLANS: dict[str, tuple[int, Plan]] = {
    "mobilenet_v4_conv_small": (32, _CONV_SMALL),
    "mobilenet_v4_conv_medium": (32, _CONV_MEDIUM),
    "mobilenet_v4_conv_large": (24, _CONV_LARGE),
    "mobilenet_v4_hybrid_medium": (32, _HYBRID_MEDIUM),
    "mobilenet_v4_hybrid_large": (24, _HYBRID_LARGE),
}


def stem_channels(name: str, alpha: float) -> int:
    """The stem grows with a width multiplier above 1 and keeps its channels below."""
    return make_divisible(PLANS[name][0] * max(alpha, 1.0))


def weight_shapes(name: str, alpha: float) -> dict[str, tuple[int, ...]]:
    """The convolutions of a body by their names in ours, with the shapes of their weights."""
    channels, plans = stem_channels(name, alpha), PLANS[name][1]
    shapes: dict[str, tuple[int, ...]] = {"stem.conv.weight": (channels, 3, 3, 3)}
    for index, plan in enumerate(plans):
        out = make_divisible(plan.channels * alpha)
        for layer, shape in _block_shapes(plan, channels, out):
            shapes[f"blocks.{index}.{layer}.weight"] = shape
        channels = out
    return shapes


def _block_shapes(plan: Block, channels: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if isinstance(plan, Conv):
        yield "conv", (out, channels, plan.kernel, plan.kernel)
        return
    if isinstance(plan, Attention):
        yield "query", (plan.heads * plan.depth, channels, 1, 1)
        for part in ("key", "value"):
            yield part, (plan.depth, channels, 1, 1)
            if plan.shrink > 1:
                yield f"{part}_shrink.conv", (channels, 1, 3, 3)
        yield "output", (out, plan.heads * plan.depth, 1, 1)
        return
    wide = make_divisible(channels * plan.expansion)
    if isinstance(plan, Fused):
        yield "expand.conv", (wide, channels, 3, 3)
    else:
        yield "expand.conv", (wide, channels, 1, 1)
        for layer, width, kernel in (("start", channels, plan.start), ("depthwise", wide, plan.middle)):
            if kernel:
                yield f"{layer}.conv", (width, 1, kernel, kernel)
    yield "project.conv", (out, wide, 1, 1)
