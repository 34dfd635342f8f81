"""SqueezeNet (Iandola et al. 2016, arXiv:1602.07360), versions 1.0 and 1.1: a baseline for classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnvision.backbones.base import Backbone, register_backbone
from mnvision.backbones.layers import ACTIVATIONS, LayerOptions, initialise
from mnvision.errors import UserError
from mnvision.types import FeatureLevel

LEAST_SIDE = 24  # pixels; less, and a pooling has nothing left


class Plan(NamedTuple):
    """What the versions differ in.

    Attributes:
        stem: Channels of the first convolution.
        kernel: Side of its kernel.
        squeezed: Channels that each fire module squeezes to, of those behind each of the three poolings.
    """

    stem: int
    kernel: int
    squeezed: tuple[tuple[int, ...], ...]


PLANS = {
    "1.0": Plan(96, 7, ((16, 16, 32), (32, 48, 48, 64), (64,))),
    "1.1": Plan(64, 3, ((16, 16), (32, 32), (48, 48, 64, 64))),
}


def fire_widths(squeezed: int) -> tuple[int, int, int]:
    """Channels of a fire module's three layers: each of the two that expand has four times the squeezed ones."""
    return squeezed, 4 * squeezed, 4 * squeezed


class ConvAct(nn.Module):
    """A convolution with bias and an activation: SqueezeNet is older than the habit of norms."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, padding: int = 0, activation: str
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H', W']."""
        return self.activation(self.conv(input))


class Fire(nn.Module):
    """1x1 to few channels, then 1x1 and 3x3 side by side to many (section 3.2).

    Args:
        in_channels: Channels of the input.
        widths: Channels of the three layers; the last two together come out.
        activation: A key of ``ACTIVATIONS``.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], *, activation: str) -> None:
        super().__init__()
        squeezed, narrow, wide = widths
        self.channels = narrow + wide
        self.squeeze = ConvAct(in_channels, squeezed, kernel=1, activation=activation)
        self.expand1x1 = ConvAct(squeezed, narrow, kernel=1, activation=activation)
        self.expand3x3 = ConvAct(squeezed, wide, kernel=3, padding=1, activation=activation)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H, W]."""
        features = self.squeeze(input)
        return torch.cat((self.expand1x1(features), self.expand3x3(features)), dim=1)


class SqueezeNet(Backbone):
    """SqueezeNet up to the last fire module; levels at strides 2, 4, 8 and 16.

    The layers are torchvision's, whose stem and poolings lose cells at the borders: a map's cells are a level's stride
    apart, but there are fewer than ``ceil(S / stride)`` of them. The classifier scores every cell of the last map.

    Args:
        alpha: Width multiplier; every layer has ``max(int(channels * alpha), 8)`` channels.
        version: 1.0 or 1.1, as a number or as text. 1.1 pools earlier, at the same accuracy (its authors say) and with
            less than half the work.
        options: The activation; there is no BatchNorm, and the padding is the network's own.

    Raises:
        UserError: For another version.
    """

    head_dropout = 0.5
    scores_cells = True
    rounds_up = False

    def __init__(self, *, alpha: float = 1.0, version: float | str = 1.0, options: LayerOptions | None = None) -> None:
        plan = PLANS.get(str(version))
        if plan is None:
            raise UserError(f"backbone.version of squeezenet must be one of {', '.join(PLANS)}; got {version!r}")
        options = options or LayerOptions()
        super().__init__(name="squeezenet", alpha=alpha, options=options)
        self.version = float(version)
        channels, activation = self.scale(plan.stem), options.activation
        self.stem = ConvAct(3, channels, kernel=plan.kernel, stride=2, activation=activation)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.blocks = nn.ModuleList()
        self.levels.append(FeatureLevel(channels, 2))
        self.stages.append([self.stem])
        self._pooled: list[int] = []
        for stage in plan.squeezed:
            self._pooled.append(len(self.blocks))
            self.stages.append([self.pool])
            for squeezed in stage:
                block = Fire(channels, [self.scale(width) for width in fire_widths(squeezed)], activation=activation)
                self.blocks.append(block)
                self.stages[-1].append(block)
                channels = block.channels
            self.levels.append(FeatureLevel(channels, 2 * self.levels[-1].stride))
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images [B, 3, H, W] to maps at strides 2, 4, 8 and 16, of at most ceil(H/s), ceil(W/s)."""
        if min(images.shape[-2:]) < LEAST_SIDE:
            raise UserError(f"squeezenet needs pictures of {LEAST_SIDE} pixels a side, got {tuple(images.shape[-2:])}")
        maps = []
        features = self.stem(images)
        for index, block in enumerate(self.blocks):
            if index in self._pooled:
                maps.append(features)
                features = self.pool(features)
            features = block(features)
        return [*maps, features]


register_backbone("squeezenet", options=LayerOptions(), without=("padding", "norm_eps", "norm_momentum", "norm"))(
    SqueezeNet
)
