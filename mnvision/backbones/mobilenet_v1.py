"""MobileNet V1 (Howard et al. 2017, arXiv:1704.04861)."""

from __future__ import annotations

from torch import Tensor, nn

from mnvision.backbones.base import Backbone, register_backbone
from mnvision.backbones.layers import ConvNormAct, FlattenedConv, LayerOptions, SeparableConv, initialise
from mnvision.types import FeatureLevel, UserError

STEM = 32
# (channels, stride) of the thirteen separable blocks of Table 1. The paper prints the last depthwise layer with
# stride 2, yet with 7x7 in and out: it is stride 1.
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)
VARIANTS = ("standard", "shallow", "full_conv", "flattened")


class MobileNetV1(Backbone):
    """The body of Table 1, up to the last pointwise convolution; levels at strides 2, 4, 8, 16 and 32.

    Args:
        alpha: Width multiplier; every layer has ``max(int(channels * alpha), 8)`` channels.
        variant: ``standard``; ``shallow`` (Table 5: without the five 512-channel blocks at 14x14); ``full_conv``
            (Table 4: each separable block is one full 3x3 convolution); or ``flattened`` (each is one flattened
            convolution, see ``FlattenedConv``). The stem is a full convolution in all of them.
        options: Padding, activation and BatchNorm settings of every layer.

    Raises:
        UserError: For an unknown variant.
    """

    def __init__(self, *, alpha: float = 1.0, variant: str = "standard", options: LayerOptions | None = None) -> None:
        if variant not in VARIANTS:
            raise UserError(f"backbone.variant of mobilenet_v1 must be one of {', '.join(VARIANTS)}; got {variant!r}")
        options = options or LayerOptions()
        super().__init__(name="mobilenet_v1", alpha=alpha, options=options)
        self.variant = variant
        blocks = BLOCKS[:6] + BLOCKS[11:] if variant == "shallow" else BLOCKS
        channels, stride = self.scale(STEM), 2
        self.stem = ConvNormAct(3, channels, kernel=3, stride=2, options=options)
        self.blocks = nn.ModuleList()
        self.stages.append([self.stem])
        self._level_ends: list[int] = []
        for index, (width, step) in enumerate(blocks):
            if step == 2:  # the map changes here: what came before is a level
                self.levels.append(FeatureLevel(channels, stride))
                self._level_ends.append(index - 1)
                self.stages.append([])
                stride *= 2
            out = self.scale(width)
            block = _block(variant, channels, out, stride=step, options=options)
            self.blocks.append(block)
            self.stages[-1].append(block)
            channels = out
        self.levels.append(FeatureLevel(channels, stride))
        self._level_ends.append(len(blocks) - 1)
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images [B, 3, H, W] to maps at strides 2, 4, 8, 16 and 32."""
        maps = []
        features = self.stem(images)
        for index, block in enumerate(self.blocks):
            features = block(features)
            if index in self._level_ends:
                maps.append(features)
        return maps


def _block(variant: str, channels: int, out: int, *, stride: int, options: LayerOptions) -> nn.Module:
    if variant == "full_conv":
        return ConvNormAct(channels, out, kernel=3, stride=stride, options=options)
    kind = FlattenedConv if variant == "flattened" else SeparableConv
    return kind(channels, out, stride=stride, options=options)


register_backbone("mobilenet_v1", options=LayerOptions())(MobileNetV1)
