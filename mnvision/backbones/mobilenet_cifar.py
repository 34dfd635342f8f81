"""A MobileNet for the pictures of 28x28 that are cut out of CIFAR-10's: most of its blocks work at half the side."""

from __future__ import annotations

from torch import Tensor, nn

from mnvision.backbones.base import Backbone, register_backbone
from mnvision.backbones.layers import ConvNormAct, LayerOptions, SeparableConv, initialise
from mnvision.backbones.mobilenet_v1 import STEM
from mnvision.errors import UserError
from mnvision.types import FeatureLevel

DEPTHS = (11, 10)


def cifar_blocks(count: int) -> tuple[tuple[int, int], ...]:
    """Channels and stride of each separable block: of eleven six have 512 channels, of ten five.

    >>> cifar_blocks(11)[:4], cifar_blocks(11)[-2:], len(cifar_blocks(10))
    (((64, 1), (128, 1), (256, 1), (512, 1)), ((1024, 1), (1024, 2)), 10)
    """
    return ((64, 1), (128, 1), (256, 1), *[(512, 1)] * (count - 5), (1024, 1), (1024, 2))


class MobileNetCifar(Backbone):
    """MobileNet V1's stem and blocks with two strides alone: maps of 14x14 and of 7x7 for an input of 28x28.

    The stem is a bare convolution: neither BatchNorm nor activation follows it, as the network's Keras summary shows.
    Two documents of the network differ in its depth: the table lists eleven blocks, the summary's totals are those of
    ten.

    Args:
        alpha: Width multiplier; every layer has ``max(int(channels * alpha), 8)`` channels.
        blocks: 11 or 10 separable blocks.
        options: Padding, activation and BatchNorm settings of every layer.

    Raises:
        UserError: For another number of blocks.
    """

    head_dropout = 0.0

    def __init__(self, *, alpha: float = 1.0, blocks: int = DEPTHS[0], options: LayerOptions | None = None) -> None:
        if blocks not in DEPTHS:
            depths = ", ".join(map(str, DEPTHS))
            raise UserError(f"backbone.blocks of mobilenet_cifar must be one of {depths}; got {blocks!r}")
        options = options or LayerOptions()
        super().__init__(name="mobilenet_cifar", alpha=alpha, options=options)
        channels = self.scale(STEM)
        self.stem = ConvNormAct(3, channels, kernel=3, stride=2, options=options, activation="none", norm=False)
        self.blocks = nn.ModuleList()
        for width, stride in cifar_blocks(blocks):
            out = self.scale(width)
            self.blocks.append(SeparableConv(channels, out, stride=stride, options=options))
            channels = out
        # Only the last block changes the map.
        self.stages = [[self.stem, *self.blocks[:-1]], [self.blocks[-1]]]
        self.levels = [FeatureLevel(channels, 2), FeatureLevel(channels, 4)]
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images [B, 3, H, W] to maps at strides 2 and 4."""
        features = self.stem(images)
        for block in self.blocks[:-1]:
            features = block(features)
        return [features, self.blocks[-1](features)]


register_backbone("mobilenet_cifar", options=LayerOptions())(MobileNetCifar)
