"""Inverted residual blocks with linear bottlenecks (arXiv:1801.04381), and the body that V2 and V3 make of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from mnvision.backbones.base import Backbone
from mnvision.backbones.layers import ConvNormAct, LayerOptions, initialise, make_divisible
from mnvision.types import FeatureLevel, UserError

Taps = Literal["stages", "expansions", "strided"]
TAPS = ("stages", "expansions", "strided")


class BlockPlan(NamedTuple):
    """What one block is like.

    Attributes:
        kernel: Side of its depthwise filters.
        expanded: Channels of its depthwise layer; where the block's input has as many, it has no expansion layer.
        squeezed: Channels inside its squeeze-and-excitation, 0 for none.
        channels: Channels of its output.
        stride: 1 or 2.
        activation: A key of ``ACTIVATIONS``; None for that of the layer options.
    """

    kernel: int
    expanded: int
    squeezed: int
    channels: int
    stride: int
    activation: str | None


class Plan(NamedTuple):
    """A whole body, its width multiplier applied: a stem, blocks and a last 1x1 convolution.

    Attributes:
        stem: Channels of the stem, a 3x3 convolution of stride 2.
        blocks: The blocks in order.
        last: Channels of the last convolution.
        activation: Of the stem and the last convolution; None for that of the layer options.
    """

    stem: int
    blocks: tuple[BlockPlan, ...]
    last: int
    activation: str | None


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that sees the mean of all (arXiv:1709.01507), here a hard sigmoid (1905.02244).

    Args:
        channels: Channels of the map.
        squeezed: Channels between the two fully connected layers.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        gate = self.expand(F.relu(self.reduce(input.mean(dim=(2, 3), keepdim=True))))
        return input * F.hardsigmoid(gate)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise filters, squeeze-and-excitation in V3, then a linear 1x1 projection (section 3.3).

    The input is added where the output has its shape.

    Args:
        in_channels: Channels of the input.
        plan: What the block is like.
        options: Padding, activation and BatchNorm settings.
    """

    def __init__(self, in_channels: int, plan: BlockPlan, *, options: LayerOptions) -> None:
        super().__init__()
        wide, activation = plan.expanded, plan.activation
        self.residual = plan.stride == 1 and in_channels == plan.channels
        self.expand: nn.Module = (
            nn.Identity()
            if wide == in_channels
            else ConvNormAct(in_channels, wide, kernel=1, options=options, activation=activation)
        )
        self.depthwise = ConvNormAct(
            wide, wide, kernel=plan.kernel, stride=plan.stride, groups=wide, options=options, activation=activation
        )
        self.squeeze: nn.Module = SqueezeExcite(wide, plan.squeezed) if plan.squeezed else nn.Identity()
        self.project = ConvNormAct(wide, plan.channels, kernel=1, options=options, activation="none")

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H/stride, W/stride]."""
        return self.contract(self.expand(input), input)

    def contract(self, expanded: Tensor, input: Tensor) -> Tensor:
        """The block from the output [B, E, H, W] of its expansion on, given its input [B, C, H, W] too."""
        output = self.project(self.squeeze(self.depthwise(expanded)))
        return output.add_(input) if self.residual else output


class InvertedBackbone(Backbone):
    """A stem, inverted residual blocks and a last 1x1 convolution, with levels at strides 2, 4, 8, 16 and 32.

    A family hands its ``Plan`` to ``_build``.

    Args:
        name: The name in the registry.
        alpha: Width multiplier; channels are rounded by ``make_divisible``.
        taps: Which maps are the levels. ``stages``: the last output at each stride. ``expansions``: the expansion
            layer's output in each block that steps to the next stride (as SSDLite takes it, arXiv:1801.04381 section
            6.2), or that block's input where it has no such layer. ``strided``: the first output at each stride. The
            last level always is the last convolution's output; under ``strided`` it is the second one of stride 32.
        options: Padding, activation and BatchNorm settings; those of V3's body have activations of their own.

    Raises:
        UserError: For an alpha that is not positive, or unknown taps.
    """

    def __init__(self, *, name: str, alpha: float, taps: Taps, options: LayerOptions) -> None:
        super().__init__(name=name, alpha=alpha, options=options)
        if taps not in TAPS:
            raise UserError(f"backbone.taps of {name} must be one of {', '.join(TAPS)}; got {taps!r}")
        self.taps = taps
        self.sequential = taps == "stages"

    def scale(self, channels: int, *, minimum: int = 8) -> int:
        """The width multiplier applied to a channel count: a multiple of 8, see ``make_divisible``."""
        return max(make_divisible(channels * self.alpha), minimum)

    def _build(self, plan: Plan) -> None:
        options, activation = self.options, plan.activation
        self.stem = ConvNormAct(3, plan.stem, kernel=3, stride=2, options=options, activation=activation)
        self.stages.append([self.stem])
        self.blocks = nn.ModuleList()
        channels = plan.stem
        for block_plan in plan.blocks:
            block = InvertedResidual(channels, block_plan, options=options)
            if block_plan.stride == 2:
                self.stages.append([])
            self.blocks.append(block)
            self.stages[-1].append(block)
            channels = block_plan.channels
        self.last = ConvNormAct(channels, plan.last, kernel=1, options=options, activation=activation)
        self.stages[-1].append(self.last)
        self._tap(plan)
        initialise(self)

    def _tap(self, plan: Plan) -> None:
        """Note which blocks give a level, counting the stem as block -1."""
        steps = [index for index, block in enumerate(plan.blocks) if block.stride == 2]
        outputs = [plan.stem, *(block.channels for block in plan.blocks)]  # of block -1, 0, 1...
        if self.taps == "expansions":
            self._tapped, widths = steps, [plan.blocks[step].expanded for step in steps]
        else:
            self._tapped = [step - 1 for step in steps] if self.taps == "stages" else [-1, *steps]
            widths = [outputs[index + 1] for index in self._tapped]
        strides = [2 << place for place in range(len(widths))]
        self.levels = [FeatureLevel(*level) for level in zip(widths, strides, strict=True)]
        self.levels.append(FeatureLevel(plan.last, 2 << len(steps)))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images [B, 3, H, W] to one map per level, finest first."""
        features = self.stem(images)
        inside = self.taps == "expansions"
        maps = [features] if -1 in self._tapped and not inside else []
        for index, block in enumerate(cast(Iterable[InvertedResidual], self.blocks)):
            if index not in self._tapped:
                features = block(features)
            elif inside:
                maps.append(block.expand(features))
                features = block.contract(maps[-1], features)
            else:
                features = block(features)
                maps.append(features)
        return [*maps, self.last(features)]
