"""The building blocks that every MobileNet here is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnvision.types import UserError

Padding = Literal["symmetric", "same"]
Activation = Literal["relu", "relu6", "hardswish", "gelu"]
PADDINGS = ("symmetric", "same")

# How each is made: in place where PyTorch can.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "hardswish": partial(nn.Hardswish, inplace=True),
    "gelu": nn.GELU,
}


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to a channel count, at least ``divisor`` and no more than 10 % below it.

    The rule of MobileNet V2 and later (arXiv:1801.04381); V1 simply cuts off.

    >>> make_divisible(32 * 0.75), make_divisible(24 * 0.35), make_divisible(1.0), make_divisible(11.2)
    (24, 8, 8, 16)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def same_padding(size: int, *, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis under TensorFlow's SAME rule.

    The output has ``ceil(size / stride)`` cells; an odd total puts the extra zero after. At stride 2 a 3x3 kernel gets
    (0, 1) on even sizes, where symmetric padding shifts every window by one pixel: same shapes, other function.

    >>> same_padding(224, kernel=3, stride=2), same_padding(75, kernel=3, stride=2)
    ((0, 1), (1, 1))
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding; holds the same parameters as ``nn.Conv2d``."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, ceil(H/stride), ceil(W/stride)]."""
        top, bottom, left, right = self._zeros(input)
        if top == bottom and left == right:  # pads inside the convolution, without a copy of the map
            padding = (top, left)
        else:
            input, padding = self.pad(input), (0, 0)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def pad(self, input: Tensor) -> Tensor:
        """Add the zeros around a map [B, C, H, W] that this convolution wants."""
        top, bottom, left, right = self._zeros(input)
        return F.pad(input, (left, right, top, bottom))

    def _zeros(self, input: Tensor) -> tuple[int, int, int, int]:
        (height, width), (high, wide) = input.shape[-2:], self.kernel_size
        return (
            *same_padding(height, kernel=high, stride=self.stride[0]),
            *same_padding(width, kernel=wide, stride=self.stride[1]),
        )


@dataclass(frozen=True)
class LayerOptions:
    """What the layers of a network have in common; a head takes it from its backbone.

    Attributes:
        padding: ``symmetric`` (PyTorch's habit) or ``same`` (TensorFlow's).
        activation: ``relu`` (V1's paper), ``relu6`` (the published weights of V1, and V2), ``hardswish`` or
            ``gelu``.
        norm_eps: BatchNorm's epsilon.
        norm_momentum: Weight of a new batch in BatchNorm's running statistics.
    """

    padding: Padding = "symmetric"
    activation: Activation = "relu"
    norm_eps: float = 1e-3
    norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise UserError(f"backbone.padding must be one of {', '.join(PADDINGS)}; got {self.padding!r}")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"backbone.activation must be one of {', '.join(ACTIVATIONS)}; got {self.activation!r}")


class ConvNormAct(nn.Module):
    """Convolution without bias, BatchNorm unless ``norm=False``, and an activation unless ``activation="none"``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the square kernel, or its height and width.
        stride: Stride of the convolution, or that of rows and that of columns.
        groups: ``in_channels`` for a depthwise convolution, 1 for a full one.
        options: Padding, activation and BatchNorm settings.
        activation: Another one than that of ``options``: a key of ``ACTIVATIONS``, or ``none``.
        norm: Whether BatchNorm follows the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        groups: int = 1,
        options: LayerOptions,
        activation: str | None = None,
        norm: bool = True,
    ) -> None:
        super().__init__()
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        # At stride 1 and an odd kernel both paddings are the same operation.
        conv = SameConv2d if options.padding == "same" and stride not in (1, (1, 1)) else nn.Conv2d
        zeros = (high // 2, wide // 2)
        self.conv = conv(in_channels, out_channels, (high, wide), stride, zeros, groups=groups, bias=False)
        self.norm: nn.Module = nn.Identity()
        if norm:
            self.norm = nn.BatchNorm2d(out_channels, eps=options.norm_eps, momentum=options.norm_momentum)
        kind = activation or options.activation
        self.activation = nn.Identity() if kind == "none" else ACTIVATIONS[kind]()
        self.strided = self.conv.stride != (1, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H/stride, W/stride]."""
        if self.strided and input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # Not in bfloat16 (torch 2.14 with oneDNN): of depthwise filters the gradient by the input takes ten times
            # as long as in float32, and that of a 3x3 kernel on a single cell, as the last extra layer of an SSD has,
            # is not finite.
            with torch.autocast("cpu", enabled=False):
                output = self.conv(input.float()).to(input.dtype)
        else:
            output = self.conv(input)
        return self.activation(self.norm(output))


class SeparableConv(nn.Module):
    """The paper's block (section 3.1): 3x3 depthwise, then 1x1 pointwise, each with BatchNorm and activation."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, options: LayerOptions) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels, in_channels, kernel=3, stride=stride, groups=in_channels, options=options
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, kernel=1, options=options)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H/stride, W/stride]."""
        return self.pointwise(self.depthwise(input))


class FlattenedConv(nn.Module):
    """A full 3x3 convolution whose filters are products of three lines (Jin et al. 2014, arXiv:1412.5474).

    A filter over C channels is a line across the channels, one down the rows and one along the columns, applied in this
    order (lateral, vertical, horizontal): C + 3 + 3 weights in place of 9 C. At stride 2 the vertical line steps over
    rows and the horizontal one over columns, so that the three together are exactly a strided convolution with filters
    of rank one; the lateral line then runs on the map before the stride, four times as large.

    As in the paper there is no activation between the lines. It adds a bias after each; we leave them out: without an
    activation between them they only shift each channel (but for the borders), and the BatchNorm behind takes that out
    again. BatchNorm and activation come once, where the full convolution has them. The paper's experiments put two such
    triples in the place of a layer; here one stands for one.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, options: LayerOptions) -> None:
        super().__init__()
        self.lateral = ConvNormAct(in_channels, out_channels, kernel=1, options=options, activation="none", norm=False)
        self.vertical = ConvNormAct(
            out_channels,
            out_channels,
            kernel=(3, 1),
            stride=(stride, 1),
            groups=out_channels,
            options=options,
            activation="none",
            norm=False,
        )
        self.horizontal = ConvNormAct(
            out_channels, out_channels, kernel=(1, 3), stride=(1, stride), groups=out_channels, options=options
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H/stride, W/stride]."""
        return self.horizontal(self.vertical(self.lateral(input)))


def initialise(module: nn.Module) -> None:
    """Draw convolutions from He's normal distribution over their fan-in; norms start as the identity.

    The fan-in of a depthwise filter is 9, not 9 C: the fan-out rule would start it near zero.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def is_depthwise(module: nn.Module) -> bool:
    """Whether the module is a convolution with one filter a channel."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def parameters_without_decay(module: nn.Module) -> set[torch.nn.Parameter]:
    """The parameters that the paper's recipe leaves out of weight decay: depthwise filters, norms and biases.

    With them goes every other parameter of one axis, such as the factors of a layer scale.
    """
    kept: set[torch.nn.Parameter] = set()
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        kept.update(value for value in own.values() if is_depthwise(part) or value.ndim < 2)
    return kept
