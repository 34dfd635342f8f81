"""MobileNet V4 (Qin et al. 2024, arXiv:2404.10518): three convolutional networks, two hybrids with attention."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnvision.backbones.base import Backbone, register_backbone
from mnvision.backbones.layers import ConvNormAct, LayerOptions, initialise, make_divisible
from mnvision.backbones.mobilenet_v4_plans import (
    PLANS,
    Attention,
    Block,
    Conv,
    Fused,
    Universal,
    stem_channels,
)
from mnvision.types import FeatureLevel

LAYER_SCALE = 1e-5
HEAD_WIDTH = 1280


class LayerScale(nn.Module):
    """A learnt factor for each channel (arXiv:2103.17239, section 2)."""

    def __init__(self, channels: int, *, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels,), start))

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return features * self.factor[:, None, None]


def _layer_scale(wanted: bool, *, channels: int, residual: bool) -> nn.Module:
    # Without a residual nothing else carries the signal, so only a residual's branch starts near zero.
    return LayerScale(channels, start=LAYER_SCALE if residual else 1.0) if wanted else nn.Identity()


class FusedBottleneck(nn.Module):
    """3x3 convolution that widens, 1x1 that narrows; a residual where the shapes agree."""

    def __init__(self, in_channels: int, plan: Fused, *, channels: int, options: LayerOptions) -> None:
        super().__init__()
        wide = make_divisible(in_channels * plan.expansion)
        self.residual = plan.stride == 1 and in_channels == channels
        self.expand = ConvNormAct(in_channels, wide, kernel=3, stride=plan.stride, options=options)
        self.project = ConvNormAct(wide, channels, kernel=1, options=options, activation="none")

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H/stride, W/stride]."""
        output = self.project(self.expand(input))
        return output + input if self.residual else output


class UniversalBottleneck(nn.Module):
    """An inverted bottleneck with a depthwise convolution before its expansion, after it, both, or none.

    These are the extra depthwise block, MobileNet V2's, ConvNeXt's and the feed-forward one in a single form
    (section 3, figure 4).
    """

    def __init__(
        self, in_channels: int, plan: Universal, *, channels: int, options: LayerOptions, scaled: bool
    ) -> None:
        super().__init__()
        wide = make_divisible(in_channels * plan.expansion)
        self.residual = plan.stride == 1 and in_channels == channels
        self.start: nn.Module = nn.Identity()
        self.depthwise: nn.Module = nn.Identity()
        if plan.start:
            self.start = ConvNormAct(
                in_channels,
                in_channels,
                kernel=plan.start,
                stride=1 if plan.middle else plan.stride,
                groups=in_channels,
                options=options,
                activation="none",
            )
        self.expand = ConvNormAct(in_channels, wide, kernel=1, options=options)
        if plan.middle:
            self.depthwise = ConvNormAct(
                wide, wide, kernel=plan.middle, stride=plan.stride, groups=wide, options=options
            )
        self.project = ConvNormAct(wide, channels, kernel=1, options=options, activation="none")
        self.scale = _layer_scale(scaled, channels=channels, residual=self.residual)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H/stride, W/stride]."""
        output = self.scale(self.project(self.depthwise(self.expand(self.start(input)))))
        return output + input if self.residual else output


class SharedKeyAttention(nn.Module):
    """Scaled dot-product attention in which all heads share one set of keys and values (arXiv:1911.02150)."""

    kind = "attention"  # its row in a profile

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Map queries [B, heads, N, D], keys and values [B, 1, M, D] to [B, heads, N, D]."""
        # Heads that share their keys are one head with more queries: one large product instead of many small ones.
        output = F.scaled_dot_product_attention(query.flatten(1, 2).unsqueeze(1), key, value)
        return output.view(query.shape)

    def mult_adds(self, query: Tensor, key: Tensor, value: Tensor) -> int:
        """Multiplications of the two matrix products, for the profiler."""
        return query.numel() * key.shape[2] + query.numel() * value.shape[2]


class AttentionBlock(nn.Module):
    """Mobile multi-query attention (section 4) with BatchNorm before it, layer scale and a residual."""

    def __init__(self, in_channels: int, plan: Attention, *, channels: int, options: LayerOptions) -> None:
        super().__init__()
        self.heads = plan.heads
        self.norm = nn.BatchNorm2d(in_channels, eps=options.norm_eps, momentum=options.norm_momentum)
        self.query = nn.Conv2d(in_channels, plan.heads * plan.depth, 1, bias=False)
        self.key_shrink, self.value_shrink = (_shrink(in_channels, plan.shrink, options=options) for _ in range(2))
        self.key = nn.Conv2d(in_channels, plan.depth, 1, bias=False)
        self.value = nn.Conv2d(in_channels, plan.depth, 1, bias=False)
        self.attention = SharedKeyAttention()
        self.output = nn.Conv2d(plan.heads * plan.depth, channels, 1, bias=False)
        self.residual = in_channels == channels
        self.scale = _layer_scale(True, channels=channels, residual=self.residual)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H, W]."""
        features = self.norm(input)
        query = self.query(features).unflatten(1, (self.heads, -1)).flatten(3).mT  # [B, heads, H*W, D]
        key = self.key(self.key_shrink(features)).flatten(2).mT.unsqueeze(1)  # [B, 1, M, D]
        value = self.value(self.value_shrink(features)).flatten(2).mT.unsqueeze(1)
        mixed = self.attention(query, key, value).mT.flatten(1, 2).unflatten(2, input.shape[2:])
        output = self.scale(self.output(mixed))
        return output + input if self.residual else output


def _shrink(channels: int, factor: int, *, options: LayerOptions) -> nn.Module:
    if factor == 1:
        return nn.Identity()
    return ConvNormAct(channels, channels, kernel=3, stride=factor, groups=channels, options=options, activation="none")


class MobileNetV4(Backbone):
    """The body up to the convolution of 960 channels; levels at strides 2, 4, 8, 16 and 32, finest first.

    A classifier pools first, and then widens to ``head_width`` channels with one more convolution.

    Args:
        name: A key of ``PLANS``.
        alpha: Width multiplier of every layer, channels rounded to multiples of 8; heads and depths of the attention
            and, below 1, the stem keep theirs.
        options: Padding, activation and BatchNorm settings of every layer.
    """

    head_width = HEAD_WIDTH
    head_norm = True
    head_dropout = 0.2

    def __init__(self, name: str, *, alpha: float = 1.0, options: LayerOptions | None = None) -> None:
        options = options or LayerOptions(norm_eps=1e-5)
        super().__init__(name=name, alpha=alpha, options=options)
        plans = PLANS[name][1]
        scaled = any(isinstance(plan, Attention) for plan in plans)  # the hybrids scale the other blocks too
        channels, stride = stem_channels(name, alpha), 2
        self.stem = ConvNormAct(3, channels, kernel=3, stride=2, options=options)
        self.blocks = nn.ModuleList()
        self.stages.append([self.stem])
        self._stage_starts: list[int] = []
        for index, plan in enumerate(plans):
            if not isinstance(plan, Attention) and plan.stride == 2:  # what came before is a level
                self.levels.append(FeatureLevel(channels, stride))
                self._stage_starts.append(index)
                self.stages.append([])
                stride *= 2
            out = self.scale(plan.channels)
            self.blocks.append(_block(channels, plan, channels=out, options=options, scaled=scaled))
            self.stages[-1].append(self.blocks[-1])
            channels = out
        self.levels.append(FeatureLevel(channels, stride))
        initialise(self)

    def scale(self, channels: int, *, minimum: int = 8) -> int:
        """The width multiplier applied to a channel count, rounded to a multiple of 8."""
        return max(make_divisible(channels * self.alpha), minimum)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images [B, 3, H, W] to maps at strides 2, 4, 8, 16 and 32."""
        maps = []
        features = self.stem(images)
        for index, block in enumerate(self.blocks):
            if index in self._stage_starts:
                maps.append(features)
            features = block(features)
        return [*maps, features]


def _block(in_channels: int, plan: Block, *, channels: int, options: LayerOptions, scaled: bool) -> nn.Module:
    match plan:
        case Conv(kernel, stride):
            return ConvNormAct(in_channels, channels, kernel=kernel, stride=stride, options=options)
        case Fused():
            return FusedBottleneck(in_channels, plan, channels=channels, options=options)
        case Universal():
            return UniversalBottleneck(in_channels, plan, channels=channels, options=options, scaled=scaled)
        case Attention():
            return AttentionBlock(in_channels, plan, channels=channels, options=options)


for _name in PLANS:
    _own = LayerOptions(norm_eps=1e-5, activation="gelu" if _name == "mobilenet_v4_hybrid_large" else "relu")
    register_backbone(_name, options=_own)(partial(MobileNetV4, _name))
